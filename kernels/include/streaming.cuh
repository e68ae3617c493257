// Loads and stores of data that is not read again: first to be evicted from L2.
#pragma once

#include "ptx.cuh"

namespace ptx {

using u64 = unsigned long long;

__device__ __forceinline__ u64 evict_first_policy() {
    u64 policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

// Copies `source_bytes` (1 to 16) of an aligned 16 bytes from global to shared under an L2 policy; zeros fill the rest.
__device__ __forceinline__ void cp_async_16(u32 shared, const void* global, int source_bytes, u64 policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;"
                 :: "r"(shared), "l"(global), "r"(source_bytes), "l"(policy) : "memory");
}

// Loads 16 bytes under an L2 policy, without keeping a copy in L1.
__device__ __forceinline__ void load_streaming(u32 (&words)[4], const void* global, u64 policy) {
    asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "l"(global), "l"(policy));
}

__device__ __forceinline__ void load_shared(u32 (&words)[4], u32 address) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(address) : "memory");
}

__device__ __forceinline__ void store_streaming(void* global, const u32 (&words)[4]) {
    asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};"
                 :: "l"(global), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]) : "memory");
}

// Holds THREADS threads, in whole warps, until all of them are here. `barrier`: 0 to 15.
template <int THREADS>
__device__ __forceinline__ void barrier_sync(int barrier) {
    asm volatile("bar.sync %0, %1;" :: "r"(barrier), "n"(THREADS) : "memory");
}

// Counts the calling warps in at a barrier without holding them.
template <int THREADS>
__device__ __forceinline__ void barrier_arrive(int barrier) {
    asm volatile("bar.arrive %0, %1;" :: "r"(barrier), "n"(THREADS) : "memory");
}

// Writes two floats, or four, to an address in the shared memory of a program of the cluster. Needs sm_90.
template <typename Floats>
__device__ __forceinline__ void store_cluster(u32 address, const Floats& floats) {
    static_assert(sizeof(Floats) == 8 || sizeof(Floats) == 16, "two floats or four");
    if constexpr (sizeof(Floats) == 8) {
        const auto [first, second] = floats;
        asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" :: "r"(address), "f"(first), "f"(second) : "memory");
    } else {
        const auto [first, second, third, fourth] = floats;
        asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};"
                     :: "r"(address), "f"(first), "f"(second), "f"(third), "f"(fourth) : "memory");
    }
}

// 2^x to 2 ulp; results below 2^-126 are zero.
__device__ __forceinline__ float exp2_approx(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

}  // namespace ptx
