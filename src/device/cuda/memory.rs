//! Device memory and the flag that gates the stream.

use crate::device::Fault;
use cudarc::driver::{result, sys};

/// Types of which any bits are a value.
pub(super) trait Number {}
impl Number for u16 {}
impl Number for f32 {}
impl Number for u64 {}

/// Bytes of device memory, freed when dropped.
pub(super) struct Buffer {
    address: sys::CUdeviceptr,
    bytes: u64,
}

impl Buffer {
    /// Allocates up to the next 16 bytes, which a vector copy's last access may touch; no bytes are no allocation.
    pub(super) fn new(bytes: u64) -> Result<Self, Fault> {
        let bytes = bytes.next_multiple_of(16);
        // SAFETY: a context is current on this thread.
        let address = if bytes == 0 { 0 } else { unsafe { result::malloc_sync(bytes as usize) }? };
        Ok(Self { address, bytes })
    }

    /// Another of the same contents, in stream order.
    pub(super) fn copy(&self, stream: sys::CUstream) -> Result<Self, Fault> {
        let copy = Self::new(self.bytes)?;
        if self.bytes > 0 {
            // SAFETY: both ranges are allocations of that length.
            unsafe { result::memcpy_dtod_async(copy.address, self.address, self.bytes as usize, stream) }?;
        }
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
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// A word of host memory that a kernel polls.
pub(super) struct Flag {
    host: *mut u32,
    address: sys::CUdeviceptr,
}

impl Flag {
    pub(super) fn new() -> Result<Self, Fault> {
        let mut address = 0;
        // SAFETY: a context is current; the mapping lives until the process ends, so the pointers stay good.
        let host = unsafe {
            let host = result::malloc_host(size_of::<u32>(), sys::CU_MEMHOSTALLOC_DEVICEMAP)?.cast::<u32>();
            sys::cuMemHostGetDevicePointer_v2(&raw mut address, host.cast(), 0).result()?;
            host
        };
        Ok(Self { host, address })
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Makes a kernel that waits for the flag wait.
    pub(super) fn close(&self) {
        // SAFETY: the word is mapped, and the device reads it by volatile loads.
        unsafe { self.host.write_volatile(0) };
    }

    /// Lets it go on, and tells whether it still waited: one that nobody opens in time writes to the word itself.
    pub(super) fn open(&self) -> bool {
        // SAFETY: as above.
        unsafe {
            let waited = self.host.read_volatile() == 0;
            self.host.write_volatile(1);
            waited
        }
    }
}
