//! What is served, launched on the GPU that is here: what a launch costs the host beside the driver's own call, and what many leave
//! behind. Needs NVRTC.

#![cfg(all(feature = "harness", target_os = "linux"))]
#![allow(clippy::unwrap_used, unsafe_code)] // a test that cannot go on may stop; memory is the driver's

use kernel_sweep::device::{discover, driver_trouble};
use kernel_sweep::families;
use kernel_sweep::model::{Bytes, Dtype, Family, Problem};
use kernel_sweep::run::{Element, Kernel, Runtime, Stream, Tensor};
use std::ffi::c_void;
use std::fs;
use std::time::{Duration, Instant};

/// Launches between two waits, fewer than the driver keeps waiting: it holds no launch up.
const BATCH: u32 = 200;

/// What is called of the driver beside what is tested.
struct Driver(libloading::Library);

impl Driver {
    /// The driver with GPU 0's primary context, which every later call on this thread is in.
    fn open() -> Self {
        // SAFETY: the driver's own library, and its functions by their declarations.
        let load = |name| unsafe { libloading::Library::new(name) };
        let driver = Self(load("libcuda.so.1").or_else(|_| load("libcuda.so")).unwrap());
        let mut context = std::ptr::null_mut();
        unsafe {
            driver.call::<unsafe extern "C" fn(*mut *mut c_void, i32) -> i32>("cuDevicePrimaryCtxRetain", |retain| {
                retain(&raw mut context, 0)
            });
            driver.call::<unsafe extern "C" fn(*mut c_void) -> i32>("cuCtxSetCurrent", |set| set(context));
        }
        driver
    }

    /// # Safety
    /// The function is of that type, and is called as it is declared.
    unsafe fn call<F>(&self, name: &str, call: impl FnOnce(&F) -> i32) {
        // SAFETY: as the caller says.
        let function = unsafe { self.0.get::<F>(name) }.unwrap();
        assert_eq!(call(&function), 0, "{name}");
    }

    /// Memory that stays to the process's end.
    fn memory(&self, bytes: u64) -> u64 {
        let mut address = 0;
        unsafe {
            self.call::<unsafe extern "C" fn(*mut u64, usize) -> i32>("cuMemAlloc_v2", |allocate| {
                allocate(&raw mut address, bytes as usize)
            });
            self.call::<unsafe extern "C" fn(u64, u8, usize, *mut c_void) -> i32>("cuMemsetD8Async", |set| {
                set(address, 0, bytes as usize, std::ptr::null_mut())
            });
        }
        address
    }

    fn wait(&self) {
        unsafe { self.call::<unsafe extern "C" fn() -> i32>("cuCtxSynchronize", |wait| wait()) };
    }

    fn free_bytes(&self) -> u64 {
        let (mut free, mut total) = (0usize, 0usize);
        unsafe {
            self.call::<unsafe extern "C" fn(*mut usize, *mut usize) -> i32>("cuMemGetInfo_v2", |ask| {
                ask(&raw mut free, &raw mut total)
            });
        }
        free as u64
    }
}

/// The tensors of a problem, all of zeros: the inputs, then the output.
struct Given(Vec<(u64, Element, Vec<u64>)>);

impl Given {
    fn of(driver: &Driver, problem: &Problem) -> Self {
        let tensors = families::spec(problem.family).tensors(problem);
        let all = tensors.inputs.into_iter().chain(tensors.outputs);
        Self(all.map(|spec| (driver.memory(spec.bytes().0.max(16)), spec.element, spec.shape)).collect())
    }

    fn tensors(&self) -> (Vec<Tensor<'_>>, Tensor<'_>) {
        let mut all: Vec<Tensor<'_>> = self
            .0
            .iter()
            // SAFETY: the memory stays, and this thread alone launches on it.
            .map(|(address, element, shape)| unsafe { Tensor::from_raw(*address, *element, shape, 0) })
            .collect();
        let output = all.pop().unwrap();
        (all, output)
    }
}

/// Of the kinds of kernels, each so small that the GPU is done before the host has launched the next.
fn problems() -> Vec<Problem> {
    let problem = |family: Family, extents: &[i64], dtype| {
        let named: Vec<_> = family.all_dimensions().zip(extents.iter().copied()).collect();
        Problem::new(family, &named, dtype).unwrap()
    };
    vec![
        problem(Family::Elementwise, &[1024], Dtype::Bf16),
        problem(Family::RowNormRms, &[4, 1024], Dtype::Bf16),
        problem(Family::Matmul, &[64, 64, 64], Dtype::Bf16),
        problem(Family::MatmulInt4Group, &[16, 64, 128], Dtype::Bf16),
        problem(Family::MatmulFp8, &[64, 64, 128, 128], Dtype::Fp8),
        problem(Family::Attention, &[1, 4, 64, 64, 64, 2, 1, 0], Dtype::Bf16),
        problem(Family::Attention, &[1, 8, 1, 16384, 128], Dtype::Bf16),
    ]
}

/// The driver and a runtime on GPU 0; none where there is no GPU.
fn gpu() -> Option<(Driver, Runtime)> {
    if discover().iter().all(|found| found.profile.is_cpu()) {
        assert_eq!(driver_trouble(), None, "a GPU that is here must be used");
        eprintln!("skipped: there is no GPU here");
        return None;
    }
    Some((Driver::open(), Runtime::open(0).unwrap()))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
#[ignore = "times the host: for a quiet machine with a GPU"]
fn a_launch_costs_the_host_a_microsecond_more_than_the_drivers_call_at_most() {
    const MOST: Duration = Duration::from_micros(1);
    let Some((driver, runtime)) = gpu() else { return };
    let mut too_slow = Vec::new();
    for problem in problems() {
        let kernel = runtime.prepare(&problem).unwrap();
        let given = Given::of(&driver, &problem);
        let (inputs, output) = given.tensors();
        let timed = |launch: &dyn Fn()| {
            driver.wait();
            let start = Instant::now();
            launch();
            start.elapsed() / BATCH
        };
        let ours = || (0..BATCH).for_each(|_| kernel.launch(Stream::DEFAULT, &inputs, &output).unwrap());
        let bare = || kernel.launch_times(Stream::DEFAULT, &inputs, &output, BATCH).unwrap();
        let rounds: Vec<_> = (0..105).map(|_| (timed(&ours), timed(&bare))).skip(5).collect();
        driver.wait();
        let (ours, bare) = (
            median(rounds.iter().map(|round| round.0).collect()),
            median(rounds.iter().map(|round| round.1).collect()),
        );
        let more = ours.saturating_sub(bare);
        // Launches that share scratch also wait for an event and record one.
        let has_scratch = kernel.scratch_bytes() > Bytes(0);
        let note = if has_scratch { ", with scratch of its own" } else { "" };
        println!("{problem}: {ours:?} a launch, {bare:?} the driver's call: {more:?} more{note}");
        if more > MOST && !has_scratch {
            too_slow.push(problem);
        }
    }
    assert!(too_slow.is_empty(), "more than {MOST:?}: {too_slow:?}");
}

/// Bytes of memory that the process has now.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

fn launch_often(driver: &Driver, kernel: &Kernel, inputs: &[Tensor<'_>], output: &Tensor<'_>, times: u32) {
    for launched in 1..=times {
        kernel.launch(Stream::DEFAULT, inputs, output).unwrap();
        if launched % BATCH == 0 {
            driver.wait();
        }
    }
    driver.wait();
}

#[test]
#[ignore = "asks how much of the GPU's memory is free: for a GPU that nobody else uses"]
fn a_hundred_thousand_launches_leave_no_memory_behind() {
    const LAUNCHES: u32 = 100_000;
    const MOST_BYTES: u64 = 1 << 20;
    let Some((driver, runtime)) = gpu() else { return };
    for problem in problems() {
        let kernel = runtime.prepare(&problem).unwrap();
        let given = Given::of(&driver, &problem);
        let (inputs, output) = given.tensors();
        launch_often(&driver, &kernel, &inputs, &output, 5 * BATCH);
        drop(runtime.prepare(&problem).unwrap());
        let (resident, free) = (resident_bytes(), driver.free_bytes());
        launch_often(&driver, &kernel, &inputs, &output, LAUNCHES);
        let (resident_after, free_after) = (resident_bytes(), driver.free_bytes());
        println!(
            "{problem}: {LAUNCHES} launches; host {resident} bytes before, {resident_after} after; GPU {free} bytes free before, \
             {free_after} after"
        );
        assert!(resident_after <= resident + MOST_BYTES, "{problem}: the host's memory grew");
        assert_eq!(free_after, free, "{problem}: the GPU's memory");
        // Kernels that are prepared again and given back leave nothing either.
        for _ in 0..100 {
            drop(runtime.prepare(&problem).unwrap());
        }
        assert_eq!(driver.free_bytes(), free, "{problem}: what was prepared and given back");
    }
}
