//! The weight formats of `kernels/include/decode.cuh` on the host, code by code: what a lane makes of packed weights, scales and zero
//! points is what the formats say, rounded once to the activations' type where that has too few bits. They are plain C++ but for a
//! few intrinsics, so that a compiler for the host is all this needs.
#![cfg(all(unix, feature = "harness"))]
#![allow(clippy::unwrap_used, clippy::float_cmp)] // a test that cannot go on may stop; what is exact is equal

use half::{bf16, f16};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// A word of four bytes of codes with what each byte's column has beside.
#[derive(Clone, Copy, Debug)]
struct Word {
    scales: [u32; 4],
    zeros: [u8; 4],
    codes: u32,
}

/// What a lane makes of words: eight weights of fragments, then sixteen of a row that has the word twice; nothing where there is no
/// compiler.
fn decoded(weights: &str, dtype: &str, zero_points: bool, words: &[Word]) -> Option<Vec<[f64; 24]>> {
    if Command::new("c++").arg("--version").output().is_err() {
        eprintln!("skipped: there is no C++ compiler `c++` here");
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    for name in ["decode.cuh", "layout.cuh"] {
        fs::copy(root.join("kernels/include").join(name), folder.path().join(name)).unwrap();
    }
    // The model has these.
    for name in ["ptx.cuh", "halves.cuh"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    fs::copy(root.join("tests/decode_model/main.cpp"), folder.path().join("main.cpp")).unwrap();
    let program = folder.path().join("main");
    let macros = [("WEIGHTS", weights), ("DTYPE", dtype), ("ZERO_POINTS", if zero_points { "1" } else { "0" })];
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++17", "-O1", "-w", "-o"]).arg(&program);
    compiler.args(macros.map(|(name, value)| format!("-D{name}={value}")));
    let built = compiler.arg(folder.path().join("main.cpp")).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut questions = String::new();
    for Word { scales, zeros, codes } in words {
        for number in scales.iter().copied().chain(zeros.iter().map(|zero| u32::from(*zero))).chain([*codes]) {
            write!(questions, "{number} ").unwrap();
        }
        questions.push('\n');
    }
    let mut child = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let writing = std::thread::spawn(move || input.write_all(questions.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| -> [f64; 24] {
        let numbers: Vec<f64> = line.split_whitespace().map(|bits| f64::from_bits(bits.parse().unwrap())).collect();
        numbers.try_into().unwrap()
    };
    Some(text.lines().map(line).collect())
}

/// The codes of a word, byte by byte, the low nibble first.
fn nibbles(codes: u32) -> [u32; 8] {
    std::array::from_fn(|place| codes >> (4 * place) & 15)
}

fn e2m1(code: u32) -> f64 {
    let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][code as usize % 8];
    if code < 8 { magnitude } else { -magnitude }
}

/// The number of a format with so many bits of exponent and of fraction: its definition.
fn number(bits: u32, exponent_bits: u32, fraction_bits: u32) -> f64 {
    let fraction = f64::from(bits & ((1 << fraction_bits) - 1));
    let exponent = (bits >> fraction_bits & ((1 << exponent_bits) - 1)).cast_signed();
    let bias = (1 << (exponent_bits - 1)) - 1;
    let sign = if bits >> (exponent_bits + fraction_bits) & 1 == 1 { -1.0 } else { 1.0 };
    let scale = f64::from(exponent.max(1) - bias - fraction_bits.cast_signed()).exp2();
    let implied = if exponent == 0 { 0.0 } else { f64::from(1 << fraction_bits) };
    sign * (implied + fraction) * scale
}

/// The value in the activations' type.
fn rounded(dtype: &str, value: f64) -> f64 {
    if dtype == "f16" { f16::from_f64(value).to_f64() } else { bf16::from_f64(value).to_f64() }
}

fn words(scale: impl Strategy<Value = u32> + Clone, count: usize) -> Vec<Word> {
    let word = (prop::array::uniform4(scale), prop::array::uniform4(0u8..16), any::<u32>());
    let all = prop::collection::vec(word.prop_map(|(scales, zeros, codes)| Word { scales, zeros, codes }), count);
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    all.new_tree(&mut runner).unwrap().current()
}

/// Every code of every column of all words with what `weight` says of the code, the scale's bits and the zero point.
fn check(weights: &str, dtype: &str, zero_points: bool, words: &[Word], weight: impl Fn(u32, u32, u8) -> f64) {
    let Some(found) = decoded(weights, dtype, zero_points, words) else { return };
    assert_eq!(found.len(), words.len());
    for (found, word) in found.iter().zip(words) {
        for (place, found) in found.iter().enumerate() {
            let (code, column) = (nibbles(word.codes)[place % 8], place % 8 / 2);
            let wanted = weight(code, word.scales[column], word.zeros[column]);
            assert_eq!(*found, wanted, "{weights} {dtype}, place {place} of {word:?}");
        }
    }
}

#[test]
fn scaled_int4_is_rounded_once() {
    for (dtype, exponent_bits, fraction_bits) in [("bf16", 8, 7), ("f16", 5, 10)] {
        // Of either sign, zero among them; bf16 from 2^-60 to 2^60, f16 as far as the largest weight is finite.
        let exponents = if dtype == "bf16" { 67u32..188 } else { 0..26 };
        let normal = (exponents, 0..1u32 << fraction_bits, 0..2u32)
            .prop_map(move |(exponent, fraction, sign)| sign << 15 | exponent << fraction_bits | fraction);
        let scale = prop_oneof![8 => normal, 1 => Just(0u32), 1 => Just(0x8000u32)];
        let words = words(scale, 4000);
        let scale = |bits| number(bits, exponent_bits, fraction_bits);
        check("Int4Group", dtype, false, &words, |code, bits, _| {
            let value = if code < 8 { f64::from(code) } else { f64::from(code) - 16.0 };
            rounded(dtype, value * scale(bits))
        });
        check("Int4Group", dtype, true, &words, |code, bits, zero| {
            rounded(dtype, (f64::from(code) - f64::from(zero)) * scale(bits))
        });
    }
}

#[test]
fn nvfp4_is_exact_with_every_scale_there_is() {
    for dtype in ["bf16", "f16"] {
        // All but NaN: zero, subnormal ones, the largest, and their negatives.
        let every = (0..256u32).filter(|code| code % 128 != 127);
        let of_every = every.flat_map(|scale| {
            [0x7654_3210u32, 0xFEDC_BA98].map(|codes| Word { scales: [scale; 4], zeros: [0; 4], codes })
        });
        let mut all: Vec<Word> = of_every.collect();
        all.extend(words(0..127u32, 2000));
        check("Nvfp4", dtype, false, &all, |code, bits, _| e2m1(code) * number(bits, 4, 3));
    }
}

#[test]
fn mxfp4_is_exact_with_every_scale_that_weights_have() {
    for (dtype, scales) in [("bf16", 67..188u32), ("f16", 104..140)] {
        let mut all: Vec<Word> = scales
            .clone()
            .flat_map(|scale| {
                [0x7654_3210u32, 0xFEDC_BA98].map(|codes| Word { scales: [scale; 4], zeros: [0; 4], codes })
            })
            .collect();
        all.extend(words(scales, 2000));
        check("Mxfp4", dtype, false, &all, |code, bits, _| e2m1(code) * (f64::from(bits) - 127.0).exp2());
    }
}

#[test]
fn formats_without_scales_are_exact() {
    let words = words(Just(0u32), 2000);
    for dtype in ["bf16", "f16"] {
        check("Fp4", dtype, false, &words, |code, _, _| e2m1(code));
        check(
            "Int4",
            dtype,
            false,
            &words,
            |code, _, _| if code < 8 { f64::from(code) } else { f64::from(code) - 16.0 },
        );
    }
}
