// Loads and stores of 32 bytes by a thread, of data that is not read again: first to be evicted from L2. Need sm_100.
#pragma once

#include "ptx.cuh"

namespace ptx {

// Loads 32 bytes without keeping a copy in L1.
__device__ __forceinline__ void load_streaming(u32 (&words)[8], const void* global) {
    asm volatile("ld.global.L1::no_allocate.L2::evict_first.v8.b32 {%0, %1, %2, %3, %4, %5, %6, %7}, [%8];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]), "=r"(words[4]), "=r"(words[5]),
                   "=r"(words[6]), "=r"(words[7])
                 : "l"(global));
}

__device__ __forceinline__ void store_streaming(void* global, const u32 (&words)[8]) {
    asm volatile("st.global.L2::evict_first.v8.b32 [%0], {%1, %2, %3, %4, %5, %6, %7, %8};"
                 :: "l"(global), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]), "r"(words[4]), "r"(words[5]),
                    "r"(words[6]), "r"(words[7])
                 : "memory");
}

}  // namespace ptx
