//! Every kernel against the same operation as plain f64 loops, on random awkward shapes and blocks.

#![allow(clippy::unwrap_used, clippy::float_cmp, clippy::many_single_char_names)]

use super::row_softmax::exp;
use super::{run, threads};
use crate::families::{Element, Fill, HostTensor, TensorSpec, fill};
use crate::model::{Config, Dtype, Family, Problem};
use half::{bf16, f16};
use proptest::prelude::*;

const MATRIX_PRODUCTS: [Family; 4] = [Family::Matmul, Family::MatmulInt4, Family::MatmulInt16, Family::MatmulFp4];

fn problem(family: Family, dimensions: &[usize], dtype: Dtype) -> Problem {
    let pairs: Vec<_> = family.all_dimensions().zip(dimensions).map(|(name, value)| (name, *value as i64)).collect();
    Problem::new(family, &pairs, dtype).unwrap()
}

fn config(block_sizes: &[u32], num_warps: u32) -> Config {
    Config { block_sizes: block_sizes.to_vec(), num_warps: Some(num_warps), ..Config::default() }
}

fn floats(numel: usize, magnitude: f32, dtype: Dtype, seed: u64) -> HostTensor {
    tensor(numel, dtype, Fill::Uniform { magnitude }, seed)
}

fn tensor(numel: usize, element: Element, fill_with: Fill, seed: u64) -> HostTensor {
    fill(&TensorSpec::new("", element, &[numel as u64], fill_with), seed)
}

/// Runs the kernel on an output full of NaN.
fn output_of(problem: &Problem, config: &Config, inputs: &[HostTensor], numel: usize) -> Vec<f64> {
    let mut output = match problem.dtype {
        Dtype::Bf16 => HostTensor::Bf16(vec![bf16::NAN; numel]),
        Dtype::F16 => HostTensor::F16(vec![f16::NAN; numel]),
        _ => HostTensor::F32(vec![f32::NAN; numel]),
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads(config)).build().unwrap();
    run(problem, config, inputs, &mut output, &pool).unwrap();
    values(&output)
}

fn values(tensor: &HostTensor) -> Vec<f64> {
    match tensor {
        HostTensor::Bf16(values) => values.iter().map(|value| value.to_f64()).collect(),
        HostTensor::F16(values) => values.iter().map(|value| value.to_f64()).collect(),
        HostTensor::F32(values) => values.iter().copied().map(f64::from).collect(),
        HostTensor::U8(values) => values.iter().copied().map(f64::from).collect(),
        HostTensor::I8(values) => values.iter().copied().map(f64::from).collect(),
        HostTensor::I16(values) => values.iter().copied().map(f64::from).collect(),
        HostTensor::Fp8(codes) => codes.iter().map(|code| e4m3(*code)).collect(),
    }
}

/// What an E4M3 code stands for, told in another way than the kernels'.
fn e4m3(code: u8) -> f64 {
    let (sign, exponent, mantissa) = (code >> 7, i32::from(code >> 3 & 15), f64::from(code & 7) / 8.0);
    let magnitude = if exponent == 0 { mantissa * 2f64.powi(-6) } else { (1.0 + mantissa) * 2f64.powi(exponent - 7) };
    if sign == 1 { -magnitude } else { magnitude }
}

/// Each element within the rounding of the output and of f32 sums of terms as large as `scale`. NaN meets only NaN.
fn assert_close(output: &[f64], expected: &[f64], dtype: Dtype, scale: f64) {
    // Of f16 small numbers are far apart, and of bf16 the smallest.
    let (epsilon, least) = match dtype {
        Dtype::Bf16 => (1.0 / 256.0, 2f64.powi(-134)),
        Dtype::F16 => (1.0 / 2048.0, 2f64.powi(-25)),
        _ => (1e-6, 0.0),
    };
    assert_eq!(output.len(), expected.len());
    for (index, (output, expected)) in output.iter().zip(expected).enumerate() {
        let close = (output - expected).abs() <= epsilon * expected.abs() + least + 2e-6 * scale;
        assert!(
            close || output == expected || (output.is_nan() && expected.is_nan()),
            "at {index}: {output} for {expected}"
        );
    }
}

/// B [k, n] unpacked as the design has it: of a byte the low nibble first, in E2M1 bit 3 the sign.
fn weights(family: Family, b: &HostTensor, n: usize) -> Vec<f64> {
    let nibble_value = |nibble: u8| {
        let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(nibble % 8)];
        match family {
            Family::MatmulInt4 => f64::from((i32::from(nibble) + 8) % 16 - 8),
            _ if nibble >= 8 => -magnitude,
            _ => magnitude,
        }
    };
    match b {
        HostTensor::I8(bytes) => {
            let rows = bytes.chunks(n).flat_map(|row| [(row, 0), (row, 4)]);
            rows.flat_map(|(row, shift)| row.iter().map(move |byte| nibble_value((*byte as u8 >> shift) & 0xf)))
                .collect()
        }
        HostTensor::I16(values) => values.iter().map(|value| bf16::from_f64(f64::from(*value)).to_f64()).collect(),
        _ => values(b),
    }
}

fn check_matrix_product(family: Family, [m, n, k]: [usize; 3], blocks: [u32; 3], num_warps: u32, seed: u64) {
    let b = match family {
        Family::Matmul => floats(k * n, 3.0, Dtype::Bf16, seed + 1),
        Family::MatmulInt16 => tensor(k * n, Element::I16, Fill::Bits, seed + 1),
        _ => tensor(k / 2 * n, Element::I8, Fill::Bits, seed + 1),
    };
    let inputs = [floats(m * k, 2.0, Dtype::Bf16, seed), b];
    let problem = problem(family, &[m, n, k], Dtype::Bf16);
    let output = output_of(&problem, &config(&blocks, num_warps), &inputs, m * n);

    let (a, b) = (values(&inputs[0]), weights(family, &inputs[1], n));
    let mut largest: f64 = 0.0;
    let mut expected = Vec::new();
    for (a, column) in a.chunks(k).flat_map(|a| (0..n).map(move |column| (a, column))) {
        let terms: Vec<_> = a.iter().zip(b.chunks(n)).map(|(a, b)| a * b[column]).collect();
        largest = terms.iter().fold(largest, |largest, term| largest.max(term.abs()));
        expected.push(terms.iter().sum());
    }
    assert_close(&output, &expected, Dtype::Bf16, largest * k as f64);
}

/// Any codes but the NaNs, and scales of which some are zero and some large.
fn check_scaled_product([m, n, k]: [usize; 3], scale_block: usize, blocks: [u32; 3], num_warps: u32, seed: u64) {
    let codes = |numel: usize, seed: u64| {
        let HostTensor::I8(bytes) = tensor(numel, Element::I8, Fill::Bits, seed) else { unreachable!() };
        HostTensor::Fp8(
            bytes.into_iter().map(|byte| byte as u8).map(|code| code ^ u8::from(code & 0x7f == 0x7f)).collect(),
        )
    };
    let k_blocks = k.div_ceil(128);
    let [of_a, of_b] = match scale_block {
        0 => [1, 1],
        1 => [m, n],
        _ => [k_blocks * m, n.div_ceil(128) * k_blocks],
    };
    let scales = |numel, seed| tensor(numel, Element::F32, Fill::Scales { least: -20, most: 20 }, seed);
    let inputs = [codes(m * k, seed), codes(n * k, seed + 1), scales(of_a, seed + 2), scales(of_b, seed + 3)];
    let mut dimensions = vec![("m", m as i64), ("n", n as i64), ("k", k as i64)];
    dimensions.extend((scale_block > 0).then_some(("scale_block", scale_block as i64)));
    let problem = Problem::new(Family::MatmulFp8, &dimensions, Dtype::Fp8).unwrap();
    let mut output = HostTensor::Bf16(vec![bf16::NAN; m * n]);
    let config = config(&blocks, num_warps);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads(&config)).build().unwrap();
    run(&problem, &config, &inputs, &mut output, &pool).unwrap();

    let [a, b, a_scales, b_scales] = inputs.each_ref().map(values);
    for (index, output) in values(&output).into_iter().enumerate() {
        let (row, column) = (index / n, index % n);
        let scale = |k: usize| match scale_block {
            0 => a_scales[0] * b_scales[0],
            1 => a_scales[row] * b_scales[column],
            _ => a_scales[k / 128 * m + row] * b_scales[column / 128 * k_blocks + k / 128],
        };
        let terms: Vec<f64> = (0..k).map(|at| a[row * k + at] * b[column * k + at] * scale(at)).collect();
        let (expected, size) = (terms.iter().sum::<f64>(), terms.iter().map(|term| term.abs()).sum::<f64>());
        let allowed = expected.abs() / 256.0 + size * k as f64 * 2f64.powi(-23);
        assert!((output - expected).abs() <= allowed, "{problem} at {row}, {column}: {output} for {expected}");
    }
}

/// The number of a format with so many bits of exponent and of fraction: its definition, without infinities.
fn number(bits: u32, exponent_bits: u32, fraction_bits: u32) -> f64 {
    let (fraction, exponent) = (bits % (1 << fraction_bits), bits >> fraction_bits & ((1 << exponent_bits) - 1));
    let bias = (1 << (exponent_bits - 1)) - 1;
    let power = f64::from(exponent.max(1)) - f64::from(bias) - f64::from(fraction_bits);
    let significand = fraction + if exponent == 0 { 0 } else { 1 << fraction_bits };
    let sign = if bits >> (exponent_bits + fraction_bits) & 1 == 1 { -1.0 } else { 1.0 };
    sign * f64::from(significand) * power.exp2()
}

/// Bytes from words of random bits, among them those that are said to be awkward.
fn awkward_bytes(words: &[u32], least: u8, most: u8, awkward: &[u8]) -> Vec<u8> {
    let byte = |word: &u32| match word % 3 {
        0 => awkward[(word >> 8) as usize % awkward.len()],
        _ => least + ((word >> 8) % (u32::from(most - least) + 1)) as u8,
    };
    words.iter().map(byte).collect()
}

/// A product of scaled weights: the host's kernel and the reference beside plain loops in f64 over what the formats say.
fn check_weights_with_scales(
    (family, dtype): (Family, Dtype),
    [m, n, k]: [usize; 3],
    (group, zero_points): (usize, bool),
    blocks: [u32; 3],
    words: &[u32],
    seed: u64,
) {
    let group = match family {
        Family::MatmulNvfp4 => 16,
        Family::MatmulMxfp4 => 32,
        _ => group,
    };
    let zero_points = zero_points && family == Family::MatmulInt4Group;
    let weights_of_a_scale = if group == 0 { k } else { group };
    let groups = k.div_ceil(weights_of_a_scale);
    let words: Vec<u32> = words.iter().copied().cycle().take(groups * n).collect();
    let codes = tensor(k / 2 * n, Element::I8, Fill::Bits, seed + 1);
    let mut inputs = vec![floats(m * k, 0.25, dtype, seed), codes.clone()];
    let mut extents = vec![("m", m as i64), ("n", n as i64), ("k", k as i64)];
    // What a weight is multiplied by, and what is taken off its code.
    let (mut factors, mut zeros) = (Vec::new(), vec![0.0; groups * n]);
    match family {
        Family::MatmulNvfp4 => {
            // Zero, the least and the largest subnormal, the largest, and the same below zero.
            let scales = awkward_bytes(&words, 0, 126, &[0, 1, 7, 126, 0x80, 0x81, 0xFE]);
            let tensor_scale = 0.001_f32;
            factors.extend(scales.iter().map(|code| number((*code).into(), 4, 3) * f64::from(tensor_scale)));
            inputs.extend([HostTensor::U8(scales), HostTensor::F32(vec![tensor_scale])]);
        }
        Family::MatmulMxfp4 => {
            let scales = awkward_bytes(&words, 110, 130, &[100, 127, 131]);
            factors.extend(scales.iter().map(|code| (f64::from(*code) - 127.0).exp2()));
            inputs.push(HostTensor::U8(scales));
        }
        _ => {
            // Of either sign, zero and tiny ones among them.
            let bits: Vec<u16> = words
                .iter()
                .map(|word| match word % 4 {
                    0 => [0, 1, 0x8000, 0x8001][(word >> 8) as usize % 4],
                    _ if dtype == Dtype::F16 => 0x2000 + (word >> 8) as u16 % 0x1c00 + (word >> 31 << 15) as u16,
                    _ => 0x3b00 + (word >> 8) as u16 % 0x0500 + (word >> 31 << 15) as u16,
                })
                .collect();
            let (exponent_bits, fraction_bits) = if dtype == Dtype::F16 { (5, 10) } else { (8, 7) };
            factors.extend(bits.iter().map(|bits| number((*bits).into(), exponent_bits, fraction_bits)));
            inputs.push(match dtype {
                Dtype::F16 => HostTensor::F16(bits.into_iter().map(f16::from_bits).collect()),
                _ => HostTensor::Bf16(bits.into_iter().map(bf16::from_bits).collect()),
            });
            extents.push(("group", group as i64));
            if zero_points {
                let bytes = awkward_bytes(&words, 0, 15, &[0, 15]);
                zeros = bytes.iter().copied().map(f64::from).collect();
                inputs.push(HostTensor::U8(bytes));
                extents.push(("zero_points", 1));
            }
        }
    }
    let problem = Problem::new(family, &extents, dtype).unwrap();
    let HostTensor::I8(bytes) = &codes else { unreachable!() };
    let weight = |row: usize, column: usize| {
        let code = i32::from(bytes[row / 2 * n + column] as u8 >> (4 * (row % 2)) & 15);
        let value = match family {
            Family::MatmulInt4Group if zero_points => f64::from(code),
            Family::MatmulInt4Group => f64::from((code + 8) % 16 - 8),
            _ => number(code as u32, 2, 1),
        };
        let place = row / weights_of_a_scale * n + column;
        (value - zeros[place]) * factors[place]
    };
    let a = values(&inputs[0]);
    let mut largest: f64 = 0.0;
    let mut expected = Vec::new();
    for (a, column) in a.chunks(k).flat_map(|a| (0..n).map(move |column| (a, column))) {
        let terms: Vec<f64> = a.iter().enumerate().map(|(row, a)| a * weight(row, column)).collect();
        largest = terms.iter().fold(largest, |largest, term| largest.max(term.abs()));
        expected.push(terms.iter().sum::<f64>());
    }
    let reference = crate::families::spec(family).host_reference(&problem, &inputs);
    for (value, expected) in reference.values.iter().zip(&expected) {
        assert!((value - expected).abs() <= 1e-12 * largest * k as f64, "{problem}: {value} for {expected}");
    }
    let output = output_of(&problem, &config(&blocks, 2), &inputs, m * n);
    assert_close(&output, &expected, dtype, largest * k as f64);
}

/// A product whose operands both have scales: the host's kernel and the reference beside plain loops over what the formats say.
fn check_both_with_scales(
    (family, dtype): (Family, Dtype),
    [m, n, k]: [usize; 3],
    blocks: [u32; 3],
    words: &[u32],
    seed: u64,
) {
    let is_packed = family == Family::MatmulNvfp4Nvfp4;
    let (group, per_byte) = if is_packed { (16, 2) } else { (32, 1) };
    let k_blocks = k.div_ceil(4 * group);
    let bytes = |count, seed| {
        let HostTensor::I8(bytes) = tensor(count, Element::I8, Fill::Bits, seed) else { unreachable!() };
        bytes
    };
    let numbers = |rows, seed| {
        let bytes = bytes(rows * k / per_byte, seed);
        let no_nan = |byte: i8| byte.cast_unsigned() ^ u8::from(byte & 0x7f == 0x7f);
        if is_packed { HostTensor::I8(bytes) } else { HostTensor::Fp8(bytes.into_iter().map(no_nan).collect()) }
    };
    let scales = |rows: usize, skip: usize| {
        let words: Vec<u32> =
            words.iter().copied().cycle().skip(skip).take(rows.div_ceil(128) * k_blocks * 512).collect();
        // Zero, subnormal ones and the largest; or powers of two far apart.
        let bytes = if is_packed {
            awkward_bytes(&words, 0, 126, &[0, 1, 7, 126])
        } else {
            awkward_bytes(&words, 115, 122, &[80, 127, 130])
        };
        HostTensor::U8(bytes)
    };
    let mut inputs = vec![numbers(m, seed), numbers(n, seed + 1), scales(m, 0), scales(n, 7)];
    if is_packed {
        inputs.extend([0.01_f32, 0.003].map(|factor| HostTensor::F32(vec![factor])));
    }
    let problem = problem(family, &[m, n, k], dtype);
    let number_at = |side: usize, line: usize, at: usize| {
        let value = match &inputs[side] {
            HostTensor::I8(bytes) => {
                number((bytes[line * (k / 2) + at / 2].cast_unsigned() >> (4 * (at % 2)) & 15).into(), 2, 1)
            }
            HostTensor::Fp8(codes) => number(codes[line * k + at].into(), 4, 3),
            _ => unreachable!(),
        };
        // The block of 128 rows and four groups, then the row in quarters of 32, then the group.
        let HostTensor::U8(codes) = &inputs[2 + side] else { unreachable!() };
        let (tile, row) = (line / 128 * k_blocks + at / (4 * group), line % 128);
        let code = codes[tile * 512 + row % 32 * 16 + row / 32 * 4 + at / group % 4];
        let factor = if let Some(HostTensor::F32(factor)) = inputs.get(4 + side) { factor[0].into() } else { 1.0 };
        value * factor * if is_packed { number(code.into(), 4, 3) } else { (f64::from(code) - 127.0).exp2() }
    };
    let mut largest: f64 = 0.0;
    let mut expected = Vec::new();
    for (row, column) in (0..m).flat_map(|row| (0..n).map(move |column| (row, column))) {
        let terms: Vec<f64> = (0..k).map(|at| number_at(0, row, at) * number_at(1, column, at)).collect();
        largest = terms.iter().fold(largest, |largest, term| largest.max(term.abs()));
        expected.push(terms.iter().sum::<f64>());
    }
    let reference = crate::families::spec(family).host_reference(&problem, &inputs);
    for (value, expected) in reference.values.iter().zip(&expected) {
        assert!((value - expected).abs() <= 1e-12 * largest * k as f64, "{problem}: {value} for {expected}");
    }
    // What f16 does not hold is no matter of the sums.
    if dtype == Dtype::F16 && expected.iter().any(|value| value.abs() > 60_000.0) {
        return;
    }
    let output = output_of(&problem, &config(&blocks, 2), &inputs, m * n);
    assert_close(&output, &expected, dtype, largest * k as f64);
}

fn softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|value| (value - max).exp()).sum();
    row.iter().map(|value| (value - max).exp() / sum).collect()
}

fn check_softmax(cols: usize, x: HostTensor, dtype: Dtype, step: Option<u32>, block_rows: u32, num_warps: u32) {
    let x_values = values(&x);
    let config = Config { reduction_loops: vec![step], ..config(&[block_rows], num_warps) };
    let problem = problem(Family::RowSoftmax, &[x_values.len() / cols, cols], dtype);
    let output = output_of(&problem, &config, &[x], x_values.len());
    let expected: Vec<_> = x_values.chunks(cols).flat_map(softmax).collect();
    assert_close(&output, &expected, dtype, 1.0);
}

/// softmax(QKᵀ/√d)V in plain f64 loops, where query i sees the keys j with i + kv_seq - q_seq - window < j <= i + kv_seq - q_seq.
fn attention(problem: &Problem, [q, k, v]: [&[f64]; 3]) -> Vec<f64> {
    let [_, heads, q_seq, kv_seq, head_dim, kv_heads, causal, window] =
        problem.shape.first::<8>().map(|extent| extent as usize);
    let mut expected = Vec::new();
    for (row, q) in q.chunks(head_dim).enumerate() {
        let (head, own) = (row / q_seq, (row % q_seq + kv_seq) as i64 - q_seq as i64);
        let first = (head / heads * kv_heads + head % heads / (heads / kv_heads)) * kv_seq;
        let is_seen = |key: &usize| {
            let ahead = own - *key as i64;
            causal == 0 || ahead >= 0 && (window == 0 || ahead < window as i64)
        };
        let seen: Vec<usize> = (0..kv_seq).filter(is_seen).map(|key| (first + key) * head_dim).collect();
        let score =
            |at: &usize| k[*at..][..head_dim].iter().zip(q).map(|(k, q)| k * q).sum::<f64>() / (head_dim as f64).sqrt();
        let weights = softmax(&seen.iter().map(score).collect::<Vec<_>>());
        expected.extend(
            (0..head_dim)
                .map(|column| -> f64 { weights.iter().zip(&seen).map(|(weight, at)| weight * v[at + column]).sum() }),
        );
    }
    expected
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn attention_of_every_variant_matches_plain_loops(
        [batch, kv_heads, sharing] in [1..3usize, 1..3usize, 1..5usize],
        (q_seq, kv_seq) in (1..20usize, 1..40usize),
        head_dim in 1..33usize,
        (causal, window) in (0..2usize, 0..24usize),
        blocks in [1..9u32, 1..24u32],
        magnitude in prop::sample::select(vec![0.01f32, 1.0, 8.0]),
        dtype in prop::sample::select(vec![Dtype::Bf16, Dtype::F16]),
        num_warps in 1..4u32,
        seed in 0..1000u64,
    ) {
        let heads = kv_heads * sharing;
        let tensors = [(heads * q_seq, 0), (kv_heads * kv_seq, 1), (kv_heads * kv_seq, 2)];
        let [q, k, v] = tensors.map(|(rows, stream)| floats(batch * rows * head_dim, magnitude, dtype, seed + stream));
        let extents = [batch, heads, q_seq, kv_seq, head_dim, kv_heads, causal, causal * window];
        let problem = problem(Family::Attention, &extents, dtype);
        let (q_values, k_values, v_values) = (values(&q), values(&k), values(&v));
        let expected = attention(&problem, [&q_values, &k_values, &v_values]);
        let config = config(&[1, blocks[0], blocks[1]], num_warps);
        let inputs = [q, k, v];
        let output = output_of(&problem, &config, &inputs, q_values.len());
        // Scores are sums of products of two magnitudes: their rounding moves the weights, and so the output.
        let scale = f64::from(magnitude) * (1.0 + f64::from(magnitude).powi(2) * head_dim as f64);
        assert_close(&output, &expected, dtype, scale);

        // What kernels are compared with says the same.
        let reference = crate::families::spec(problem.family).host_reference(&problem, &inputs);
        for (value, expected) in reference.values.iter().zip(&expected) {
            prop_assert!((value - expected).abs() <= 1e-9 * scale, "{} is {} in the reference", expected, value);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn products_of_scaled_weights_match_plain_loops(
        dtype in prop::sample::select(vec![Dtype::Bf16, Dtype::F16]),
        (m, n, half_k) in (1..12usize, 1..40usize, 1..150usize),
        group in prop::sample::select(vec![0usize, 32, 64, 128]),
        zero_points: bool,
        blocks in [1..24u32, 1..40u32, 1..40u32],
        words in prop::collection::vec(any::<u32>(), 64),
        seed: u64,
    ) {
        for family in [Family::MatmulInt4Group, Family::MatmulNvfp4, Family::MatmulMxfp4] {
            check_weights_with_scales((family, dtype), [m, n, 2 * half_k], (group, zero_points), blocks, &words, seed >> 1);
        }
    }

    #[test]
    fn products_of_operands_with_scales_match_plain_loops(
        dtype in prop::sample::select(vec![Dtype::Bf16, Dtype::F16]),
        (m, n, half_k) in (1..140usize, 1..140usize, 1..90usize),
        blocks in [1..24u32, 1..40u32, 1..40u32],
        words in prop::collection::vec(any::<u32>(), 61),
        seed: u32,
    ) {
        // Rows of one side go beyond a block of scales.
        let shape = if seed % 2 == 0 { [m, n.min(9)] } else { [m.min(9), n] };
        for (family, k) in [(Family::MatmulNvfp4Nvfp4, 2 * half_k), (Family::MatmulMxfp8, 2 * half_k - 1)] {
            check_both_with_scales((family, dtype), [shape[0], shape[1], k], blocks, &words, seed.into());
        }
    }

    #[test]
    fn matrix_products_match_plain_loops(
        family in prop::sample::select(MATRIX_PRODUCTS.to_vec()),
        shape in [1..40usize, 1..50usize, 1..70usize],
        blocks in [1..24u32, 1..40u32, 1..40u32],
        num_warps in 1..4u32,
        seed in 0..1000u64,
    ) {
        let [m, n, mut k] = shape;
        k += k % 2 * usize::from(family.packs_two_weights_a_byte());
        check_matrix_product(family, [m, n, k], blocks, num_warps, seed);
    }

    #[test]
    fn scaled_products_match_plain_loops(
        shape in [1..40usize, 1..200usize, 1..400usize],
        scale_block in prop::sample::select(vec![0usize, 1, 128]),
        blocks in [1..24u32, 1..80u32, 1..200u32],
        num_warps in 1..4u32,
        seed in 0..1000u64,
    ) {
        check_scaled_product(shape, scale_block, blocks, num_warps, seed);
    }

    #[test]
    fn softmax_matches_plain_loops(
        (rows, cols) in (1..20usize, 1..300usize),
        dtype in prop::sample::select(vec![Dtype::Bf16, Dtype::F32]),
        step in prop::option::of(1..400u32),
        block_rows in 1..8u32,
        magnitude in prop::sample::select(vec![1e-3f32, 1.0, 30.0, 1e30]),
        num_warps in 1..4u32,
        seed in 0..1000u64,
    ) {
        check_softmax(cols, floats(rows * cols, magnitude, dtype, seed), dtype, step, block_rows, num_warps);
    }

    #[test]
    fn sums_match_plain_loops(
        numel in 1..5000usize,
        dtype in prop::sample::select(vec![Dtype::Bf16, Dtype::F32]),
        block in 1..6000u32,
        num_warps in 1..4u32,
        seed in 0..1000u64,
    ) {
        let inputs = [0, 1].map(|stream| floats(numel, 100.0, dtype, seed + stream));
        let [x, y] = [values(&inputs[0]), values(&inputs[1])];
        let output = output_of(&problem(Family::Elementwise, &[numel], dtype), &config(&[block], num_warps), &inputs, numel);
        let expected: Vec<_> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
        assert_close(&output, &expected, dtype, 0.0);
    }
}

#[test]
fn every_code_of_the_packed_formats_is_decoded() {
    // One row of ones and zeros picks either nibble of all 256 bytes.
    for family in [Family::MatmulInt4, Family::MatmulFp4] {
        let b = HostTensor::I8((i8::MIN..=i8::MAX).collect());
        for row in 0..2 {
            let a = HostTensor::Bf16((0..2).map(|k| bf16::from_f32(f32::from(u8::from(k == row)))).collect());
            let inputs = [a, b.clone()];
            let output = output_of(&problem(family, &[1, 256, 2], Dtype::Bf16), &config(&[1, 64, 1], 1), &inputs, 256);
            assert_eq!(output, weights(family, &inputs[1], 256)[row * 256..][..256], "{family}, row {row}");
        }
    }
}

#[test]
fn every_int16_is_rounded_to_the_nearest_bf16() {
    let n = 1 << 16;
    let inputs = [HostTensor::Bf16(vec![bf16::ONE]), HostTensor::I16((i16::MIN..=i16::MAX).collect())];
    let problem = problem(Family::MatmulInt16, &[1, n, 1], Dtype::Bf16);
    let output = output_of(&problem, &config(&[1, 4096, 1], 2), &inputs, n);
    assert_eq!(output, weights(Family::MatmulInt16, &inputs[1], n));
}

#[test]
fn exponentials_are_right_to_two_units_in_the_last_place() {
    for x in (0..=87_300).map(|step| step as f32 * -1e-3).chain([-1e-30, -1e-5]) {
        let (value, exact) = (f64::from(exp(x)), f64::from(x).exp());
        assert!((value / exact - 1.0).abs() < 2.0 * f64::from(f32::EPSILON), "e^{x} = {exact}, not {value}");
    }
    assert_eq!((exp(-88.0), exp(-1e30), exp(f32::NEG_INFINITY)), (0.0, 0.0, 0.0));
    assert!(exp(f32::NAN).is_nan());
}

#[test]
fn softmax_takes_infinities() {
    let minus = f32::NEG_INFINITY;
    // A finite value after whole steps of -inf, before them, and nowhere: that row has no softmax.
    let x = [[minus, minus, minus, minus, 1.0, 2.0], [3.0, minus, minus, minus, minus, minus], [minus; 6]];
    for step in [None, Some(2), Some(4), Some(6)] {
        check_softmax(6, HostTensor::F32(x.concat()), Dtype::F32, step, 2, 1);
    }
}

#[test]
fn a_config_or_tensors_of_another_family_are_refused() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let problem = problem(Family::Elementwise, &[4], Dtype::F32);
    let x = HostTensor::F32(vec![1.0; 4]);
    for (config, inputs) in [
        (config(&[1, 2], 1), vec![x.clone(), x.clone()]),
        (config(&[0], 1), vec![x.clone(), x.clone()]),
        (config(&[4], 1), vec![x.clone()]),
    ] {
        let error = run(&problem, &config, &inputs, &mut x.clone(), &pool).unwrap_err();
        assert!(error.to_string().contains(&config.to_string()), "{error}");
    }
}
