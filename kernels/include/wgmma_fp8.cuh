// Hopper's warpgroup matrix product of E4M3 numbers. Needs sm_90a.
//
// wgmma computes acc[64 x N] += a[64 x 32] * b[32 x N], both operands from shared memory and K-major (there is no other order for
// 8-bit numbers): rows of 128 of k, the next 32 of k are 32 bytes on. The sums lie as in wgmma.cuh.
//
// The sums are f32 in name only: numbers that are added are first aligned to the largest and cut off some 13 bits below its
// leading one, always towards zero. So a sum is taken out of the accumulator every 128 of k and added up in f32.
#pragma once

#include "wgmma.cuh"

namespace ptx {

__device__ __forceinline__ float load_shared_f32(u32 address) { return __uint_as_float(load_shared(address)); }

__device__ __forceinline__ float2 load_shared_f32x2(u32 address) {
    const uint2 words = load_shared_u64(address);
    return make_float2(__uint_as_float(words.x), __uint_as_float(words.y));
}

// Arrives at the barrier once the copies that this thread has issued are done; of those the barrier counts each arrival.
__device__ __forceinline__ void cp_async_arrive(u32 barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" :: "r"(barrier) : "memory");
}

// acc += a * b, or a * b where `add` is 0; operands by their descriptors.
template <int N>
struct WgmmaE4m3;

// COUNT is N / 2, the sums of a thread; I0 ... I2 are COUNT, COUNT + 1 ...: the operands after them.
#define DEFINE_WGMMA_E4M3(N, COUNT, I0, I1, I2)                                                                       \
    template <>                                                                                                      \
    struct WgmmaE4m3<N> {                                                                                            \
        static __device__ __forceinline__ void multiply(float (&acc)[COUNT], u64 a, u64 b, int add) {                \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I2 ", 0;\n"                                          \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" REGISTERS_##COUNT "}, "        \
                         "%" #I0 ", %" #I1 ", p, 1, 1;\n}"                                                           \
                         : SUMS_##COUNT                                                                              \
                         : "l"(a), "l"(b), "r"(add));                                                                \
        }                                                                                                            \
    };
DEFINE_WGMMA_E4M3(8, 4, 4, 5, 6)
DEFINE_WGMMA_E4M3(16, 8, 8, 9, 10)
DEFINE_WGMMA_E4M3(24, 12, 12, 13, 14)
DEFINE_WGMMA_E4M3(32, 16, 16, 17, 18)
DEFINE_WGMMA_E4M3(40, 20, 20, 21, 22)
DEFINE_WGMMA_E4M3(48, 24, 24, 25, 26)
DEFINE_WGMMA_E4M3(56, 28, 28, 29, 30)
DEFINE_WGMMA_E4M3(64, 32, 32, 33, 34)
DEFINE_WGMMA_E4M3(80, 40, 40, 41, 42)
DEFINE_WGMMA_E4M3(96, 48, 48, 49, 50)
DEFINE_WGMMA_E4M3(112, 56, 56, 57, 58)
DEFINE_WGMMA_E4M3(128, 64, 64, 65, 66)
DEFINE_WGMMA_E4M3(144, 72, 72, 73, 74)
DEFINE_WGMMA_E4M3(160, 80, 80, 81, 82)
DEFINE_WGMMA_E4M3(176, 88, 88, 89, 90)
DEFINE_WGMMA_E4M3(192, 96, 96, 97, 98)
#undef DEFINE_WGMMA_E4M3

}  // namespace ptx
