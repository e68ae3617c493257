//! The support kernels beside what the host does in their place: the same fills, the same verdicts and the same alterations.
//! They are plain C++ but for a few intrinsics, so that a compiler for the host is all this needs.
#![cfg(all(unix, feature = "harness"))]
#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

use half::bf16;
use kernel_sweep::device::cpu::deviation;
use kernel_sweep::device::mutants::{Change, Region};
use kernel_sweep::families::{Element, Fill, FillParameters, HostTensor, Reference, TensorSpec, fill};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// What the kernels answer to the questions of `support_model/main.cpp`, a line of numbers each; nothing where there is no
/// compiler.
fn answers(questions: &str) -> Option<Vec<Vec<u64>>> {
    if Command::new("c++").arg("--version").output().is_err() {
        eprintln!("skipped: there is no C++ compiler `c++` here");
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    let source = fs::read_to_string(root.join("kernels/support.cu")).unwrap();
    let (plain, _) = source.split_once("extern \"C\" __global__ void read_lines(").unwrap();
    fs::write(folder.path().join("support.cu"), plain).unwrap();
    fs::copy(root.join("kernels/include/numeric.cuh"), folder.path().join("numeric.cuh")).unwrap();
    let source = fs::read_to_string(root.join("kernels/include/realign.cuh")).unwrap();
    let (copying, _) = source.split_once("// Holds all threads").unwrap();
    fs::write(folder.path().join("realign.cuh"), format!("{copying}}}\n")).unwrap();
    for header in ["words.cuh", "unaligned.cuh"] {
        fs::copy(root.join("kernels/include").join(header), folder.path().join(header)).unwrap();
    }
    let source = fs::read_to_string(root.join("kernels/include/layout.cuh")).unwrap();
    let (swizzling, _) = source.split_once("// Which columns of a 32-column group").unwrap();
    fs::write(folder.path().join("layout.cuh"), format!("{swizzling}}}\n")).unwrap();
    fs::write(folder.path().join("ptx.cuh"), "").unwrap();
    fs::copy(root.join("tests/support_model/main.cpp"), folder.path().join("main.cpp")).unwrap();
    let program = folder.path().join("main");
    let mut compiler = Command::new("c++");
    compiler.args(["-std=c++17", "-O1", "-w", "-pthread", "-ffp-contract=off", "-o"]).arg(&program);
    let built = compiler.arg(folder.path().join("main.cpp")).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut child = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(questions.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect()).collect())
}

fn bits(tensor: &HostTensor) -> Vec<u64> {
    match tensor {
        HostTensor::Bf16(values) => values.iter().map(|value| value.to_bits().into()).collect(),
        HostTensor::F16(values) => values.iter().map(|value| value.to_bits().into()).collect(),
        HostTensor::F32(values) => values.iter().map(|value| value.to_bits().into()).collect(),
        HostTensor::I8(values) => values.iter().map(|value| value.cast_unsigned().into()).collect(),
        HostTensor::U8(values) => values.iter().map(|value| (*value).into()).collect(),
        HostTensor::I16(values) => values.iter().map(|value| value.cast_unsigned().into()).collect(),
        HostTensor::Fp8(codes) => codes.iter().map(|code| (*code).into()).collect(),
    }
}

#[test]
fn a_tensor_is_filled_alike_on_the_host_and_by_a_kernel() {
    let floats = [
        Fill::Uniform { magnitude: 2.0 },
        Fill::Wide { least: -100, most: 100 },
        Fill::Landmarks { least: -12, most: 8 },
        Fill::Queries { magnitude: 2.0, q_seq: 7, kv_seq: 9, sharing: 1, window: 0 },
        Fill::Queries { magnitude: 2.0, q_seq: 7, kv_seq: 5, sharing: 5, window: 5 },
        Fill::Queries { magnitude: 2.0, q_seq: 35, kv_seq: 50, sharing: 1, window: 9 },
        Fill::Logits { magnitude: 4.0 },
        Fill::Scales { least: -40, most: 40 },
    ];
    let in_eight_bits = [
        Fill::Uniform { magnitude: 448.0 },
        Fill::Wide { least: -11, most: 9 },
        Fill::Landmarks { least: -11, most: 4 },
    ];
    let in_eight_bits = in_eight_bits.map(|fill| ("fp8", Element::Fp8, fill));
    let floats = floats
        .into_iter()
        .flat_map(|fill| [("bf16", Element::Bf16, fill), ("f16", Element::F16, fill), ("f32", Element::F32, fill)]);
    let integers =
        [("i8", Element::I8, Fill::Bits), ("i16", Element::I16, Fill::Bits), ("i16", Element::I16, Fill::Extremes)];
    let mut tensors = Vec::new();
    let mut questions = String::new();
    for (seed, (name, element, fill)) in (77..).zip(floats.chain(in_eight_bits).chain(integers)) {
        let tensor = TensorSpec::new("X", element, &[35, 300], fill);
        let FillParameters { fill, floats: [first, second], rows: [q_seq, kv_seq] } = fill.parameters();
        let numel = tensor.numel();
        writeln!(questions, "fill {name} {numel} {seed} {fill} {first} {second} 300 {q_seq} {kv_seq}").unwrap();
        tensors.push((tensor, seed));
    }
    let Some(answers) = answers(&questions) else { return };
    assert_eq!(answers.len(), tensors.len());
    for (found, (tensor, seed)) in answers.iter().zip(&tensors) {
        assert!(*found == bits(&fill(tensor, *seed)), "{tensor:?}");
    }
}

/// The E4M3 number of some bits.
fn e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = if exponent == 0 { mantissa * 2f32.powi(-9) } else { (8.0 + mantissa) * 2f32.powi(exponent - 10) };
    if bits < 128 { magnitude } else { -magnitude }
}

#[test]
fn tensors_of_other_types_hold_what_f32_rounds_to_and_whole_numbers_of_their_range() {
    let float = |fill| TensorSpec::new("X", Element::F32, &[3, 500], fill);
    let fills =
        [Fill::Uniform { magnitude: 3.0 }, Fill::Wide { least: -20, most: 14 }, Fill::Whole { least: -90, most: 90 }];
    let mut questions = String::new();
    for (fill, name) in
        fills.iter().flat_map(|fill| ["f16", "f64", "fp8", "i32", "i64", "u8"].map(|name| (*fill, name)))
    {
        let FillParameters { fill, floats: [first, second], rows: [q_seq, kv_seq] } = fill.parameters();
        let q_seq = q_seq.cast_signed(); // the least whole number may be less than 0
        writeln!(questions, "fill {name} 1500 5 {fill} {first} {second} 500 {q_seq} {kv_seq}").unwrap();
    }
    let Some(answers) = answers(&questions) else { return };
    for (fill_with, found) in fills.into_iter().zip(answers.chunks(6)) {
        let HostTensor::F32(values) = fill(&float(fill_with), 5) else { panic!("f32") };
        for (place, value) in values.into_iter().enumerate() {
            let at = |kind: usize| found[kind][place];
            assert_eq!(at(0), u64::from(half::f16::from_f32(value).to_bits()), "f16 of {value}");
            assert_eq!(at(1), f64::from(value).to_bits());
            let distance = |bits: u8| (e4m3(bits) - value).abs();
            let bits = at(2) as u8;
            let nearest = (0..=255).filter(|bits| bits & 127 != 127).map(distance).fold(f32::INFINITY, f32::min);
            assert!(bits & 127 != 127 && distance(bits) <= nearest, "{bits:#x} is not the nearest of {value}");
            if fill_with == (Fill::Whole { least: -90, most: 90 }) {
                assert_eq!((at(3) as i32, at(4) as i64, at(5) as i8), (value as i32, value as i64, value as i8));
                assert!((-90.0..=90.0).contains(&value) && value.fract() == 0.0);
            }
        }
    }
}

#[test]
fn elements_of_other_types_are_judged_by_their_own_rounding() {
    let f16 = |value: f32| u64::from(half::f16::from_f32(value).to_bits());
    let f32 = |value: f32| u64::from(value.to_bits());
    let nothing = bf16::from_f32(0.0).to_bits();
    let some = bf16::from_f32(2.0).to_bits();
    let big = (1u64 << 60) + 1;
    let cases = [
        ("f16", f16(1.0), f32(1.0), nothing, [0, 0]),
        ("f16", f16(1.0), f32(1.0004), nothing, [0, 0]), // what 1.0004 rounds to
        ("f16", f16(1.0), f32(1.002), nothing, [0, 1]),
        ("f16", f16(1.0), f32(2.5), some, [0, 0]),
        ("f16", 0xffff, f32(f32::NAN), some, [1, 0]),
        ("f16", f16(f32::NAN), f32(f32::NAN), nothing, [0, 0]),
        ("f16", f16(f32::INFINITY), f32(1.0), some, [1, 0]),
        ("fp8", 0x38, f32(1.0), nothing, [0, 0]),
        ("fp8", 0x38, f32(1.06), nothing, [0, 0]),
        ("fp8", 0x38, f32(1.2), nothing, [0, 1]),
        ("fp8", 0xff, f32(1.0), some, [1, 0]),
        ("f64", 1f64.to_bits(), 1f64.to_bits(), nothing, [0, 0]),
        ("f64", 1f64.to_bits(), (1.0 + 1e-12f64).to_bits(), nothing, [0, 1]),
        ("f64", u64::MAX, 1f64.to_bits(), some, [1, 0]),
        ("i64", big, big, nothing, [0, 0]),
        ("i64", big, big - 1, nothing, [0, 1]), // a double sees no difference
        ("i64", 7, 9, some, [0, 0]),
        ("i64", u64::MAX, u64::MAX, nothing, [0, 0]), // -1 is a number like any other
    ];
    let question =
        |(name, out, reference, allowed, _): &_| format!("compare_other {name} {out} {reference} {allowed}\n");
    let questions = cases.iter().map(question).collect::<Vec<_>>().concat();
    let Some(answers) = answers(&questions) else { return };
    for (found, (name, out, reference, allowed, wanted)) in answers.iter().zip(cases) {
        assert_eq!(*found, wanted, "{name} {out:#x} beside {reference:#x}, {allowed:#x} allowed");
    }
}

#[test]
fn an_element_is_judged_alike_on_the_host_and_by_a_kernel() {
    let nan = f32::NAN.to_bits();
    let special = [0, 1 << 31, 1, 0x3f80_0000, 0xbf80_0000, 0x7f80_0000, 0xff80_0000, nan, u32::MAX, 0x0080_0000];
    // Beside the special ones, values some steps of bf16 or f32 from each other.
    let near = (0..400u32).map(|case| (0x4000_0000 + (case << 9), 0x4000_0000 + (case * 37 % 401) * 523));
    let close = (0..100u32).map(|case| (0x3f80_0000 + case % 7, 0x3f80_0000 - 3 + case % 11));
    let all = special.iter().flat_map(|out| special.iter().map(|reference| (*out, *reference)));
    let pairs: Vec<(u32, u32)> = all.chain(near).chain(close).collect();
    let allowed = bf16::from_f32(0.003);
    let mut questions = String::new();
    let mut wanted = Vec::new();
    for (out, reference) in pairs {
        let reference_of =
            |allowed| -> Reference { [(f64::from(f32::from_bits(reference)), allowed)].into_iter().collect() };
        let outputs = [
            ("bf16", u64::from(out >> 16), HostTensor::Bf16(vec![bf16::from_bits((out >> 16) as u16)])),
            ("f32", u64::from(out), HostTensor::F32(vec![f32::from_bits(out)])),
        ];
        for (name, bits, output) in outputs {
            writeln!(questions, "compare {name} {bits} {reference} {}", allowed.to_bits()).unwrap();
            let deviation = deviation(&output, &reference_of(allowed.to_f64()));
            wanted.push([
                deviation.poisoned,
                deviation.beyond,
                deviation.worst.to_bits(),
                deviation.first.map_or(0, |_| 1),
            ]);
        }
    }
    let Some(answers) = answers(&questions) else { return };
    assert_eq!(answers.len(), wanted.len());
    for ((found, wanted), question) in answers.iter().zip(&wanted).zip(questions.lines()) {
        assert_eq!(found, wanted, "{question}");
    }
    let right = wanted.iter().filter(|outcome| outcome[0] + outcome[1] == 0).count();
    assert!((100..wanted.len() - 100).contains(&right), "{right} of {} are right", wanted.len());
}

#[test]
fn a_tensor_is_altered_alike_on_the_host_and_by_a_kernel() {
    let region = |row, column| Region { pitch: 10, row, column, rows: 2, columns: 3 };
    let changes = [
        (0, Change::Zero(region(1, 7)), region(1, 7), region(1, 7)),
        (1, Change::Copy(region(0, 0), region(2, 4)), region(0, 0), region(2, 4)),
        (2, Change::Swap(region(0, 5), region(3, 5)), region(0, 5), region(3, 5)),
    ];
    let questions = changes
        .iter()
        .map(|(code, _, one, other)| format!("alter 50 {} {} 10 3 2 {code}\n", one.first(), other.first()));
    let Some(answers) = answers(&questions.collect::<String>()) else { return };
    for (found, (_, change, ..)) in answers.iter().zip(changes) {
        let mut wanted = HostTensor::I8((1..=50).collect());
        change.apply(&mut wanted);
        assert_eq!(*found, bits(&wanted), "{change:?}");
    }
}

#[test]
fn rows_are_copied_to_aligned_ones_whatever_their_length() {
    let shapes: Vec<_> = (1..80).map(|row_bytes| (7, row_bytes)).chain([(1, 4999), (3, 2 * 5003), (2, 1024)]).collect();
    let questions = shapes.iter().map(|(rows, row_bytes)| format!("realign {rows} {row_bytes}\n"));
    let Some(answers) = answers(&questions.collect::<String>()) else { return };
    assert_eq!(answers.len(), shapes.len());
    for (found, (rows, row_bytes)) in answers.iter().zip(&shapes) {
        let wanted: Vec<u64> = (0..rows * row_bytes).map(|place| place % 251 + 1).collect();
        assert!(*found == wanted, "{rows} rows of {row_bytes} bytes");
    }
}

#[test]
fn tiles_of_rows_that_begin_anywhere_go_where_the_copy_engine_would_put_them() {
    // Rows of a matrix, bytes of each, and where the tile begins: within, and over the last row and the end of rows.
    let matrices = [(200, 1000), (200, 1001), (90, 1002), (90, 1004), (90, 1016), (7, 33), (30, 200), (3, 5)];
    let tiles = [(8, 128), (24, 128), (64, 128), (64, 64)];
    let mut wanted = Vec::new();
    let mut questions = String::new();
    for ((rows, row_bytes), (tile_rows, width)) in matrices.iter().flat_map(|of| tiles.map(|tile| (*of, tile))) {
        let vector_bytes = 1u64 << u64::trailing_zeros(row_bytes).min(3);
        for (row, column) in [(0, 0), (64, 128), (64, 896), (72, 960)] {
            if row >= rows || column >= row_bytes {
                continue;
            }
            writeln!(questions, "tile {vector_bytes} {tile_rows} {width} {rows} {row_bytes} {row} {column}").unwrap();
            let byte = |y: u64, x: u64| {
                let inside = row + y < rows && column + x < row_bytes;
                if inside { ((row + y) * row_bytes + column + x) % 251 + 1 } else { 0 }
            };
            wanted.push((0..tile_rows).flat_map(|y| (0..2 * width).map(move |x| byte(y, x))).collect::<Vec<_>>());
        }
    }
    let Some(answers) = answers(&questions) else { return };
    for ((found, wanted), question) in answers.iter().zip(&wanted).zip(questions.lines()) {
        assert!(found == wanted, "{question}");
    }
    assert_eq!(answers.len(), wanted.len());
}
