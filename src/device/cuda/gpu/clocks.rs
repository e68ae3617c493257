//! SM clock and throttling, polled through NVML on a thread of its own: a query takes longer than many a kernel.

use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// How often the clocks are read.
const PERIOD: Duration = Duration::from_millis(20);

/// The driver's version, such as `580.159.04`; empty where neither NVML nor the kernel's module tells.
pub(super) fn driver_version() -> String {
    let of_module = || std::fs::read_to_string("/sys/module/nvidia/version").unwrap_or_default().trim().to_owned();
    Nvml::init().and_then(|nvml| nvml.sys_driver_version()).unwrap_or_else(|_| of_module())
}

/// How many processes compute on the GPU at that place on the PCI bus, and for how many per cent of the last moments it was busy.
/// Nothing where NVML does not tell.
pub(super) fn work_under_way(pci_bus_id: &str) -> Option<(usize, u32)> {
    let nvml = Nvml::init().ok()?;
    let device = nvml.device_by_pci_bus_id(pci_bus_id).ok()?;
    Some((device.running_compute_processes().ok()?.len(), device.utilization_rates().ok()?.gpu))
}

/// The latest clock reading. All zero where there is no NVML.
#[derive(Default)]
struct Reading {
    sm_mhz: AtomicU32,
    throttled: AtomicBool,
}

/// Watches one GPU's clocks for the life of the process.
pub(super) struct Clocks {
    reading: Arc<Reading>,
}

impl Clocks {
    /// Watches the GPU at that place on the PCI bus: CUDA may show a process fewer GPUs, in another order, than NVML.
    pub(super) fn watch(pci_bus_id: String) -> Self {
        let reading = Arc::new(Reading::default());
        let shared = Arc::clone(&reading);
        std::thread::spawn(move || poll(&pci_bus_id, &shared));
        Self { reading }
    }

    /// SM clock in MHz, if known, and whether heat or power holds the GPU back.
    pub(super) fn now(&self) -> (Option<u32>, bool) {
        let sm_mhz = self.reading.sm_mhz.load(Ordering::Relaxed);
        ((sm_mhz > 0).then_some(sm_mhz), self.reading.throttled.load(Ordering::Relaxed))
    }
}

fn poll(pci_bus_id: &str, reading: &Reading) {
    let Ok(nvml) = Nvml::init() else { return };
    let Ok(device) = nvml.device_by_pci_bus_id(pci_bus_id) else { return };
    let slow = ThrottleReasons::HW_SLOWDOWN
        | ThrottleReasons::HW_THERMAL_SLOWDOWN
        | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN
        | ThrottleReasons::SW_THERMAL_SLOWDOWN
        | ThrottleReasons::SW_POWER_CAP;
    loop {
        if let Ok(clock) = device.clock_info(Clock::SM) {
            reading.sm_mhz.store(clock, Ordering::Relaxed);
        }
        if let Ok(reasons) = device.current_throttle_reasons() {
            reading.throttled.store(reasons.intersects(slow), Ordering::Relaxed);
        }
        std::thread::sleep(PERIOD);
    }
}
