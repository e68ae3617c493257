//! Device memory.

use crate::device::Fault;
use cudarc::driver::{result, sys};

/// Bytes of device memory, freed when dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    address: sys::CUdeviceptr,
    bytes: u64,
    /// What it lies behind in its allocation, which is `offset` longer.
    offset: u64,
}

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

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// What it lies behind in its allocation.
    #[cfg(feature = "harness")]
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    #[cfg(feature = "harness")]
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
}

impl Buffer {
    /// Gives the memory back; nothing is left of the buffer. Its context must be current.
    pub(super) fn free(&mut self) {
        if self.address != 0 {
            // SAFETY: allocated here and freed once. On a dead context freeing fails, and nothing is left to free.
            let _ = unsafe { result::free_sync(self.address - self.offset) };
        }
        (self.address, self.bytes, self.offset) = (0, 0, 0);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.free();
    }
}
