//! Device memory, and the mailbox through which host and kernels gate and date a sample.

use crate::device::Fault;
use cudarc::driver::{result, sys};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Types of which any bits are a value.
pub(super) trait Number {}
impl Number for u16 {}
impl Number for f32 {}
impl Number for u64 {}

/// Bytes of device memory, freed when dropped.
pub(super) struct Buffer {
    address: sys::CUdeviceptr,
    bytes: u64,
    /// What it lies behind in its allocation, which is `offset` longer.
    offset: u64,
}

/// A file is copied to the device in pieces of so many bytes.
const PIECE_BYTES: usize = 1 << 20;

impl Buffer {
    /// Allocates up to the next 32 bytes, which a vector copy's last access may touch; no bytes are no allocation.
    pub(super) fn new(bytes: u64) -> Result<Self, Fault> {
        Self::at_offset(0, bytes)
    }

    /// The same, so many bytes past where an allocation begins.
    pub(super) fn at_offset(offset: u64, bytes: u64) -> Result<Self, Fault> {
        let bytes = bytes.next_multiple_of(32);
        // SAFETY: a context is current on this thread.
        let address = if bytes == 0 { 0 } else { unsafe { result::malloc_sync((bytes + offset) as usize) }? + offset };
        Ok(Self { address, bytes, offset })
    }

    /// With the contents of a file of so many bytes, no more and no fewer.
    pub(super) fn read_file(self, path: &Path, bytes: u64) -> Result<Self, Fault> {
        let refused = |why: &dyn std::fmt::Display| Fault::Refused(format!("{}: {why}", path.display()));
        let mut file = File::open(path).map_err(|error| refused(&error))?;
        let length = file.metadata().map_err(|error| refused(&error))?.len();
        if length != bytes {
            return Err(refused(&format!("it has {length} bytes, and the tensor {bytes}")));
        }
        let mut piece = vec![0u8; PIECE_BYTES];
        let mut at = 0;
        while at < bytes {
            let count = file.read(&mut piece).map_err(|error| refused(&error))?.min((bytes - at) as usize);
            if count == 0 {
                return Err(refused(&"it became shorter while it was read"));
            }
            // SAFETY: the allocation has room for `bytes`, and `at + count` is no more.
            unsafe { result::memcpy_htod_sync(self.address + at, &piece[..count]) }?;
            at += count as u64;
        }
        Ok(self)
    }

    /// Copies its contents to another of the same size, in stream order.
    pub(super) fn copy_to(&self, other: &Self, stream: sys::CUstream) -> Result<(), Fault> {
        let bytes = self.bytes.min(other.bytes);
        if bytes > 0 {
            // SAFETY: both ranges are allocations of at least that length.
            unsafe { result::memcpy_dtod_async(other.address, self.address, bytes as usize, stream) }?;
        }
        Ok(())
    }

    /// Another of the same contents, in stream order.
    pub(super) fn copy(&self, stream: sys::CUstream) -> Result<Self, Fault> {
        let copy = Self::at_offset(self.offset, self.bytes)?;
        self.copy_to(&copy, stream)?;
        Ok(copy)
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sets every byte, in stream order.
    pub(super) fn fill(&self, byte: u8, stream: sys::CUstream) -> Result<(), Fault> {
        if self.bytes > 0 {
            // SAFETY: the range is this allocation.
            unsafe { result::memset_d8_async(self.address, byte, self.bytes as usize, stream) }?;
        }
        Ok(())
    }

    /// Copies the first values to the host; the device must be done with them.
    pub(super) fn read<T: Number>(&self, values: &mut [T]) -> Result<(), Fault> {
        if self.bytes < size_of_val(values) as u64 {
            return Err(Fault::Refused(format!("a buffer of {} bytes holds no {} values", self.bytes, values.len())));
        }
        // SAFETY: the allocation is long enough, as just checked, and any bits are a number.
        Ok(unsafe { result::memcpy_dtoh_sync(values, self.address) }?)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.address != 0 {
            // SAFETY: allocated here and freed once. On a dead context freeing fails, and nothing is left to free.
            let _ = unsafe { result::free_sync(self.address - self.offset) };
        }
    }
}

/// One moment by a multiprocessor's counter of cycles and by the GPU's clock; `Moment` of `kernels/support.cu`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Moment {
    cycles: u64,
    nanoseconds: u64,
    multiprocessor: u64,
}

/// Shorter than this, the steps of the GPU's clock (32 ns on an H200) say too little of a frequency.
const SHORTEST_NS: u64 = 3_000;

impl Moment {
    /// The clock between two moments in MHz, where one multiprocessor saw both and they are far enough apart.
    pub(super) fn mhz_until(&self, after: &Self) -> Option<u32> {
        let nanoseconds = after.nanoseconds.checked_sub(self.nanoseconds)?;
        let cycles = after.cycles.checked_sub(self.cycles)?;
        let tells = self.multiprocessor == after.multiprocessor && nanoseconds >= SHORTEST_NS;
        tells.then(|| (cycles as f64 / nanoseconds as f64 * 1e3).round() as u32)
    }
}

/// What the kernels around a sample and the host share.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Letter {
    gate: u32,
    before: Moment,
    after: Moment,
}

/// Host memory that kernels write to and poll; `Mailbox` of `kernels/support.cu`.
pub(super) struct Mailbox {
    host: *mut Letter,
    address: sys::CUdeviceptr,
}

impl Mailbox {
    pub(super) fn new() -> Result<Self, Fault> {
        let mut address = 0;
        // SAFETY: a context is current; the mapping lives until the process ends, so the pointers stay good.
        let host = unsafe {
            let host = result::malloc_host(size_of::<Letter>(), sys::CU_MEMHOSTALLOC_DEVICEMAP)?.cast::<Letter>();
            sys::cuMemHostGetDevicePointer_v2(&raw mut address, host.cast(), 0).result()?;
            host.write(Letter::default());
            host
        };
        Ok(Self { host, address })
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Makes a kernel that waits at the gate wait.
    pub(super) fn close(&self) {
        // SAFETY: the memory is mapped, and the device reads it by volatile loads.
        unsafe { (&raw mut (*self.host).gate).write_volatile(0) };
    }

    /// Lets it go on, and tells whether it still waited: one that nobody lets on in time opens the gate itself.
    pub(super) fn open(&self) -> bool {
        // SAFETY: as above.
        unsafe {
            let gate = &raw mut (*self.host).gate;
            let waited = gate.read_volatile() == 0;
            gate.write_volatile(1);
            waited
        }
    }

    /// The clock in MHz from the gate to the end of the last sample; the device must be done with it.
    pub(super) fn mhz(&self) -> Option<u32> {
        // SAFETY: as above; no kernel writes any more.
        let letter = unsafe { self.host.read_volatile() };
        letter.before.mhz_until(&letter.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_moments_of_one_multiprocessor_tell_its_clock() {
        let moment = |cycles, nanoseconds, multiprocessor| Moment { cycles, nanoseconds, multiprocessor };
        let start = moment(1_000, 5_000, 3);
        assert_eq!(start.mhz_until(&moment(20_800, 15_000, 3)), Some(1980));
        assert_eq!(start.mhz_until(&moment(20_800, 15_000, 4)), None, "another's counter says nothing");
        assert_eq!(start.mhz_until(&moment(2_980, 6_000, 3)), None, "too short");
        assert_eq!(start.mhz_until(&moment(900, 15_000, 3)), None, "a counter that was set back");
    }
}
