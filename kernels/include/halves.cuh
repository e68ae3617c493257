// The two floats of 16 bits that tensor cores multiply, by the kernels' DTYPE: their conversions, their arithmetic in pairs and
// their product on a warp. Each type has
//   to_float(bits)    one of memory, exactly;
//   round(value)      a float rounded to nearest even;
//   pack(low, high)   two floats rounded to nearest even, the first in the low half;
//   fma(a, b, c)      a * b + c in both halves, rounded once; multiply(a, b), likewise a * b;
//   mma_m16n8k16      as ptx::mma_m16n8k16.
// Needs sm_80.
#pragma once

#include "ptx.cuh"

namespace halves {

using ptx::u32;

struct bf16 {
    static constexpr bool IS_BF16 = true;

    __device__ __forceinline__ static float to_float(ptx::u16 bits) { return ptx::to_float(bits); }

    __device__ __forceinline__ static ptx::u16 round(float value) { return ptx::to_bf16(value); }

    __device__ __forceinline__ static u32 pack(float low, float high) { return ptx::pack_bf16(low, high); }

    __device__ __forceinline__ static u32 fma(u32 a, u32 b, u32 c) { return ptx::fma_bf16x2(a, b, c); }

    // Minus zero keeps the sign of a product that is zero.
    __device__ __forceinline__ static u32 multiply(u32 a, u32 b) { return fma(a, b, 0x80008000u); }

    __device__ __forceinline__ static void mma_m16n8k16(float (&acc)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        ptx::mma_m16n8k16(acc, a, b);
    }
};

struct f16 {
    static constexpr bool IS_BF16 = false;

    __device__ __forceinline__ static float to_float(ptx::u16 bits) {
        float value;
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
        return value;
    }

    __device__ __forceinline__ static ptx::u16 round(float value) {
        ptx::u16 rounded;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded) : "f"(value));
        return rounded;
    }

    __device__ __forceinline__ static u32 pack(float low, float high) {
        u32 packed;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
        return packed;
    }

    __device__ __forceinline__ static u32 fma(u32 a, u32 b, u32 c) {
        u32 result;
        asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
        return result;
    }

    __device__ __forceinline__ static u32 multiply(u32 a, u32 b) {
        u32 result;
        asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
        return result;
    }

    __device__ __forceinline__ static void mma_m16n8k16(float (&acc)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
};

}  // namespace halves
