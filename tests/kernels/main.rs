//! Kernels of every plan, compiled for Hopper and Blackwell, and what ptxas made of them: none spills, and none has what costs a main
//! loop dear (fences beyond the program, thrown-away caches, registers in memory) or is undefined (lanes of a warp that come to
//! tensor memory one by one). Each of these is put into a kernel on purpose, and must be found. Of all families together a sample has
//! every kind of instructions; all kernels take hours (`sweep compile --gpu b200 --family all`). Needs no GPU; NVRTC and the
//! disassembler are found or fetched.

#![allow(clippy::unwrap_used)] // a test that cannot go on may stop

#[path = "../common/mod.rs"]
mod common;

mod checks;
mod listing;
mod tool;

use checks::faults;
use common::{WIDE_SOURCES, amount};
use kernel_sweep::compile::Recorded;
use kernel_sweep::model::{Family, GpuProfile};
use kernel_sweep::plan::Plan;
use listing::{Kernel, kernels};
use rayon::prelude::*;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Kernels of each family, half a second each on one core.
const KERNELS: usize = 2;

/// A kernel that was compiled: what of, and its instructions.
struct Compiled {
    spec: String,
    kernel: Kernel,
}

/// So many kernels of each of these families, compiled in a folder: what is said of them, and their instructions, or nothing where
/// there is no disassembler.
fn compiled(folder: &Path, gpu: &str, families: &str, count: usize, seed: u64) -> (Value, Option<Vec<Compiled>>) {
    let list = folder.join("kernels.jsonl");
    let mut command = common::sweep(folder);
    command.args(["compile", "--gpu", gpu, "--family", families, "--json"]);
    command.args(["--compile-deadline", "10m"]); // on a busy machine the usual one is too short
    command.args(["--kernels", &count.to_string(), "--seed", &seed.to_string(), "--list"]).arg(&list);
    let output = command.assert().success();
    let mut report: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let listed = fs::read_to_string(list).unwrap();
    let lines: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let spilling = lines.iter().filter(|line| line["resources"]["spill_bytes"] != 0);
    report["spilling"] = spilling.map(|line| line["kernel"].clone()).collect();
    let Some(nvdisasm) = tool::nvdisasm() else { return (report, None) };
    let compiled = |line: &Value| {
        let listing = tool::disassemble(nvdisasm, Path::new(line["cubin"].as_str().unwrap()));
        let [kernel] = <[Kernel; 1]>::try_from(kernels(&listing)).unwrap();
        Compiled { spec: line["kernel"].as_str().unwrap().to_owned(), kernel }
    };
    (report, Some(lines.par_iter().map(compiled).collect()))
}

/// That many of each family's kernels compiled as was to be, and none spills that is not known to.
fn check_report(report: &Value, (gpu, arch): (&str, &str), kernels: usize) {
    assert_eq!((&report["gpu"], &report["arch"]), (&gpu.into(), &arch.into()));
    let profile = GpuProfile::by_name(gpu).unwrap();
    for family in Family::ALL {
        let counts = &report["families"][family.name()];
        if Plan::load(family, None).unwrap().spaces(&profile).is_empty() {
            assert!(counts.is_null(), "{family} has no configs for this GPU: {counts}");
            continue;
        }
        let count = |name: &str| counts[name].as_u64().unwrap();
        assert!((KERNELS..=kernels).contains(&(count("kernels") as usize)), "{family}: {counts}");
        assert!(count("compiled") > 0, "{family}: {counts}");
        assert_eq!(count("failed"), 0, "{family}: {counts}");
        assert_eq!(count("configs"), count("compiled") + count("pruned"), "{family}: {counts}");
    }
    for spec in report["spilling"].as_array().unwrap() {
        assert!(spills(gpu, spec.as_str().unwrap()), "{gpu}: {spec} spills");
    }
}

/// Kernels of which ptxas keeps some bytes in memory though it has registers left, of all that elementwise has on these GPUs: a sweep
/// finds them when they are compiled, and tries none. On other threads or tiles the same code does not.
const SPILLING: [(&[&str], &str); 5] = [
    (&["h200"], "elementwise.cu -DDTYPE=f16 -DBLOCK=2048 -DNUM_WARPS=2 -DONE_TILE=0"),
    (&["h200"], "elementwise.cu -DDTYPE=f16 -DBLOCK=4096 -DNUM_WARPS=4 -DONE_TILE=0"),
    (&["h200", "b200", "b300"], "elementwise.cu -DDTYPE=f16 -DBLOCK=32768 -DNUM_WARPS=32 -DONE_TILE=1"),
    (&["rtx5090"], "elementwise.cu -DDTYPE=bf16 -DBLOCK=16384 -DNUM_WARPS=16 -DONE_TILE=0"),
    (&["rtx5090"], "elementwise.cu -DDTYPE=f16 -DBLOCK=16384 -DNUM_WARPS=16 -DONE_TILE=0"),
];

/// Whether a product's rows are copied by warps and not by Hopper's copy engine, in a program whose two groups of warps may be handed
/// registers: what the four that copy carry, or the sums beside what those keep, is more than there are registers, and ptxas puts some
/// bytes in memory. A sweep finds those, too.
fn copies_with_few_registers(gpu: &str, spec: &str) -> bool {
    let by_warps = ["A_VECTOR_BYTES", "B_VECTOR_BYTES", "K_VECTOR_BYTES"].iter().any(|name| {
        let value = spec.split_once(&format!("-D{name}=")).map(|(_, rest)| rest.split(' ').next().unwrap());
        value.is_some_and(|bytes| bytes != "16")
    });
    let is_hoppers = spec.starts_with("gemm_wgmma.cu ") || spec.starts_with("gemm_fp8.cu ");
    gpu == "h200" && is_hoppers && by_warps && spec.contains(" -DNUM_WARPS=8 ")
}

/// Whether a kernel is known to spill. For sm_103a and sm_120a ptxas takes more registers for some tiles of attention than there are;
/// the clock tells what that costs.
fn spills(gpu: &str, spec: &str) -> bool {
    let is_attention = ["b300", "rtx5090"].contains(&gpu) && spec.starts_with("attention");
    is_attention
        || copies_with_few_registers(gpu, spec)
        || SPILLING.iter().any(|(gpus, known)| gpus.contains(&gpu) && spec == *known)
}

/// Rows of several programs meet at the cluster's barrier once a row, which is a fence. All that was measured of Hopper's softmax is of
/// this text, where asynchronous stores in its place gained nothing (`row_softmax.cu`); the wide one does without.
///
/// For sm_90a ptxas brings no lanes together before registers are handed over: the kernels' branches there are by whole warps.
fn is_known(gpu: &str, spec: &str, fault: &str) -> bool {
    if fault.starts_with("spills ") {
        return spills(gpu, spec);
    }
    if gpu == "h200" && fault.starts_with("lanes may come apart to USETMAXREG") {
        return true;
    }
    let meets =
        ["row_softmax.cu ", "row_norm.cu ", "row_cross_entropy.cu "].iter().any(|source| spec.starts_with(source));
    meets && !spec.ends_with("-DSPLIT=1") && fault.starts_with("a fence ")
}

/// Compiles a sample of each family: what is wrong with any of it, and the opcodes that it has.
fn check_sample((gpu, arch): (&str, &str), opcodes: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let (count, seed) = (amount::times(KERNELS), amount::seed());
    println!("{count} kernels of each family by seed {seed}");
    let (report, all) = compiled(folder.path(), gpu, "all", count, seed);
    check_report(&report, (gpu, arch), count);
    let Some(all) = all else { return };
    let mut found = Vec::new();
    for Compiled { spec, kernel } in &all {
        let faults = faults(kernel).into_iter().filter(|fault| !is_known(gpu, spec, fault));
        found.extend(faults.map(|fault| format!("{spec}: {fault}")));
    }
    assert!(found.is_empty(), "{gpu}, seed {seed}: {} faults:\n{}", found.len(), found.join("\n"));
    let is_wide = |one: &&Compiled| one.kernel.instructions().any(listing::Instruction::is_of_32_bytes);
    for Compiled { spec, .. } in all.iter().filter(is_wide) {
        assert!(WIDE_SOURCES.iter().any(|source| spec.starts_with(source)), "{spec} loads or stores 32 bytes at once");
    }
    for opcode in opcodes {
        let has_it = |one: &Compiled| one.kernel.instructions().any(|instruction| instruction.is(opcode));
        assert!(all.iter().any(has_it), "{gpu}, seed {seed}: no {opcode} in {} kernels", all.len());
    }
}

#[test]
fn blackwells_kernels_have_no_fence_in_a_loop_no_spill_and_no_lane_left_behind() {
    let opcodes = ["UTCHMMA", "UTCQMMA", "LDTM", "HMMA", "UTMALDG", "LDG.E.ENL2.256"];
    check_sample(("b200", "sm_100a"), &opcodes);
}

#[test]
fn hoppers_kernels_have_no_fence_in_a_loop_and_no_spill() {
    check_sample(("h200", "sm_90a"), &["HGMMA", "HMMA", "UTMALDG", "LDGSTS", "LDG"]);
}

#[test]
fn kernels_of_other_blackwell_gpus_have_neither() {
    check_sample(("b300", "sm_103a"), &["UTCHMMA", "LDTM"]);
    check_sample(("rtx5090", "sm_120a"), &["HMMA"]);
}

/// What `sweep compile --record` wrote of a GPU's whole spaces, where that is committed.
fn record_of(gpu: &str) -> Option<Recorded> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("output").join(gpu).join("compiled.json");
    path.is_file().then(|| Recorded::read(&path).unwrap())
}

#[test]
fn what_is_recorded_as_compiled_is_every_kernel_of_the_space_and_none_spills_that_is_not_known() {
    let output = Path::new(env!("CARGO_MANIFEST_DIR")).join("output");
    let gpus = output.read_dir().unwrap().map(|folder| folder.unwrap().file_name().into_string().unwrap());
    let records: Vec<Recorded> = gpus.filter_map(|gpu| record_of(&gpu).filter(|record| record.gpu == gpu)).collect();
    assert!(records.iter().any(|record| record.gpu == "b200"));
    for Recorded { gpu, arch, families, .. } in records {
        assert_eq!(arch, GpuProfile::by_name(&gpu).unwrap().arch);
        for (family, coverage) in &families {
            let is_of_family =
                |(gpus, spec): &&(&[&str], &str)| gpus.contains(&&*gpu) && spec.starts_with(family.as_str());
            assert_eq!(coverage.spilling, SPILLING.iter().filter(is_of_family).count(), "{family}: {coverage}");
            assert!(coverage.is_whole() && coverage.failed == 0, "{family}: {coverage}");
        }
    }
}

/// A folder with the kernels, of which this one is changed.
fn mutated(file: &str, change: impl Fn(&str) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut places = vec![PathBuf::new()];
    while let Some(place) = places.pop() {
        fs::create_dir_all(folder.path().join("kernels").join(&place)).unwrap();
        for entry in fs::read_dir(original.join(&place)).unwrap() {
            let entry = entry.unwrap();
            let place = place.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                places.push(place);
            } else {
                fs::copy(entry.path(), folder.path().join("kernels").join(&place)).unwrap();
            }
        }
    }
    let path = folder.path().join("kernels").join(file);
    let text = fs::read_to_string(&path).unwrap();
    let changed = change(&text);
    assert_ne!(text, changed, "{file} has no such place to change");
    fs::write(path, changed).unwrap();
    folder
}

/// Which sources have a fault of this kind.
fn sources_with(all: &[Compiled], kind: &str) -> Vec<String> {
    let has_it = |one: &&Compiled| faults(&one.kernel).iter().any(|fault| fault.contains(kind));
    let mut sources: Vec<String> =
        all.iter().filter(has_it).map(|one| one.spec.split(' ').next().unwrap().to_owned()).collect();
    sources.dedup();
    sources
}

#[test]
fn a_fence_in_a_main_loop_is_found() {
    const FENCE: &str = "asm volatile(\"fence.acq_rel.SCOPE;\" ::: \"memory\");";
    // Beside each product of `mma.sync`.
    let folder = mutated("include/ptx.cuh", |text| {
        let product = "    asm(\"mma.sync.aligned.m16n8k16";
        text.replace(product, &format!("    {}\n{product}", FENCE.replace("SCOPE", "gpu")))
    });
    let Some(all) = compiled(folder.path(), "rtx5090", "matmul,attention", 2, 1).1 else { return };
    assert_eq!(sources_with(&all, "a fence in"), ["gemm.cu", "attention.cu"]);
    // After each wait for a barrier, which every loop that the copy engine feeds has: a fence of the cluster is one of the GPU.
    let folder = mutated("include/tma.cuh", |text| {
        let wait = "    while (!mbarrier_try_wait(barrier, parity)) {}\n";
        text.replace(wait, &format!("{wait}    {}\n", FENCE.replace("SCOPE", "cluster")))
    });
    for (gpu, source) in [("h200", "gemm_wgmma.cu"), ("b200", "gemm_tcgen05.cu")] {
        let all = compiled(folder.path(), gpu, "matmul", 2, 1).1.unwrap();
        assert!(sources_with(&all, "a fence in").contains(&source.to_owned()), "{gpu}");
    }
}

#[test]
fn registers_in_memory_are_found() {
    let folder = mutated("row_softmax_wide.cu", |text| {
        text.replace("__launch_bounds__(NUM_WARPS * 32, RESIDENT)", "__launch_bounds__(1024, 2)")
    });
    let Some(all) = compiled(folder.path(), "b200", "row_softmax", 24, 1).1 else { return };
    assert_eq!(sources_with(&all, "spills to local memory"), ["row_softmax_wide.cu"]);
}

/// ptxas sees to it itself that lanes come together before such an instruction, so this is taken out of what it made.
#[test]
fn lanes_that_come_to_tensor_memory_one_by_one_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let Some(all) = compiled(folder.path(), "b200", "matmul", 4, 2).1 else { return };
    let mut kernels: Vec<Kernel> = all.into_iter().map(|one| one.kernel).collect();
    kernels.retain(|kernel| kernel.instructions().any(|instruction| instruction.is("LDTM")));
    assert!(!kernels.is_empty());
    for mut kernel in kernels {
        let found = |kernel: &Kernel| faults(kernel).iter().any(|fault| fault.contains("lanes may come apart"));
        assert!(!found(&kernel), "{}", kernel.name);
        for block in &mut kernel.blocks {
            let is_sync =
                |opcode: &str| ["WARPSYNC", "BAR", "BSYNC", "UCGABAR_WAIT"].iter().any(|sync| opcode.starts_with(sync));
            block.instructions.retain(|instruction| !is_sync(&instruction.opcode));
        }
        assert!(found(&kernel), "{}", kernel.name);
    }
}

const LISTING: &str = "\t.section\t.text.kernel,\"ax\"
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDG.E R2, desc[UR4][R2.64] ;
.L_x_1:
        /*0020*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R0], R3 ;
        /*0030*/              @!P0 BRA `(.L_x_1) ;
        /*0040*/               @P1 BRA `(.L_x_2) ;
        /*0050*/                   SLOT ;
.L_x_2:
        /*0060*/                   LDTM.x16 R4, tmem[UR5] ;
        /*0070*/               @P2 BRA `(.L_x_0) ;
        /*0080*/                   EXIT ;
.L_x_3:
        /*0090*/                   BRA `(.L_x_3);
";

/// What is found of one instruction in a loop that waits, works and comes round.
fn found(slot: &str) -> Vec<String> {
    let [kernel] = <[Kernel; 1]>::try_from(kernels(&LISTING.replace("SLOT", slot))).unwrap();
    faults(&kernel)
}

#[test]
fn a_listing_is_read_as_it_is_written() {
    let apart = "lanes may come apart to LDTM.x16 R4, tmem[UR5]".to_owned();
    assert_eq!(found("NOP"), std::slice::from_ref(&apart));
    for other in ["STTM.x16 tmem[UR5], R4", "UVIRTCOUNT.DEALLOC.SMPOOL 0x80", "USETMAXREG.TRY_ALLOC.CTAPOOL UP0, 0xf0"]
    {
        let [kernel] = <[Kernel; 1]>::try_from(kernels(&LISTING.replace("LDTM.x16 R4, tmem[UR5]", other))).unwrap();
        assert!(faults(&kernel).contains(&format!("lanes may come apart to {other}")), "{other}");
    }
    for (fence, is_one) in [
        ("MEMBAR.ALL.GPU", true),
        ("@!P3 MEMBAR.SC.SYS", true),
        ("ERRBAR", true),
        ("CCTL.IVALL", true),
        ("MEMBAR.ALL.CTA", false),
        ("FENCE.VIEW.ASYNC.S", false),
        ("CCTL.PF1", false),
    ] {
        // A way that not every round takes, in the innermost loop.
        let text = format!("a fence in a main loop: {fence}");
        assert_eq!(found(fence), if is_one { vec![text, apart.clone()] } else { vec![apart.clone()] });
    }
    // What all lanes voted on takes all of them the same way, and what was set since does not.
    let voted = |vote: &str| {
        let slot = format!(
            "SLOT ;\n        /*0058*/ WARPSYNC.ALL ;\n        /*005a*/ {vote} ;\n        /*005c*/ @P4 BRA `(.L_x_2)"
        );
        let listing = LISTING.replace("SLOT", &slot).replace("SLOT", "NOP");
        // The other ways to the instruction are taken away.
        let [kernel] = <[Kernel; 1]>::try_from(kernels(&listing.replace("@P1 BRA `(.L_x_2)", "NOP"))).unwrap();
        faults(&kernel)
    };
    assert_eq!(voted("VOTE.ANY P4, P4"), [""; 0]);
    for vote in ["VOTE.ANY R9, PT, P4", "VOTE.ANY P4, P4 ;\n        /*005b*/ ISETP.NE.AND P4, PT, R4, RZ, PT", "NOP"] {
        assert_eq!(voted(vote), std::slice::from_ref(&apart), "{vote}");
    }
    assert_eq!(found("STL [R1], R2"), ["spills to local memory: STL [R1], R2".to_owned(), apart.clone()]);
    let [kernel] = <[Kernel; 1]>::try_from(kernels(&LISTING.replace("(.L_x_0)", "(.L_x_9)"))).unwrap();
    assert!(faults(&kernel).contains(&".L_x_9 is a label of no line".to_owned()));
    let together = LISTING.replace("        /*0060*/", "        /*0058*/ WARPSYNC.ALL ;\n        /*0060*/");
    let [kernel] = <[Kernel; 1]>::try_from(kernels(&together)).unwrap();
    assert_eq!(faults(&kernel), [""; 0]);
    assert_eq!(kernel.loops(&kernel.dominators()).len(), 2);
}
