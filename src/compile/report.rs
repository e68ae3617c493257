//! What ptxas says of a kernel.

use serde::{Deserialize, Serialize};

/// The resources of a compiled kernel, the largest of its entry functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes a thread stores to local memory because registers ran out.
    pub spill_bytes: u32,
    /// Shared memory known at compile time, in bytes.
    pub static_smem_bytes: u32,
}

impl Resources {
    /// Reads ptxas's verbose report out of a compiler log.
    pub(super) fn of_log(log: &str) -> Self {
        let largest = |after: &str| {
            let counts = log.lines().flat_map(|line| line.split(',')).filter_map(|part| {
                let (count, _) = part.trim().trim_start_matches("ptxas info    : Used ").split_once(after)?;
                count.rsplit(' ').next()?.parse::<u32>().ok()
            });
            counts.max().unwrap_or(0)
        };
        Self {
            registers: largest(" registers"),
            spill_bytes: largest(" bytes spill stores").max(largest(" bytes spill loads")),
            static_smem_bytes: largest(" bytes smem"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_entry_counts() {
        let log = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a' for 'sm_90a'
ptxas info    : Function properties for a
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
ptxas info    : Compiling entry function 'b' for 'sm_90a'
ptxas         .     16 bytes stack frame, 12 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 16 bytes cumulative stack size, 1024 bytes smem";
        assert_eq!(Resources::of_log(log), Resources { registers: 168, spill_bytes: 24, static_smem_bytes: 1024 });
    }
}
