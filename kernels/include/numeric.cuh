// Element types in memory and their conversion to and from float, one instruction each.
#pragma once

// bfloat16 as it lies in memory: the upper half of a float.
struct Bf16 {
    unsigned short bits;
};

__device__ __forceinline__ float to_float(float value) { return value; }

__device__ __forceinline__ float to_float(Bf16 value) { return __uint_as_float(static_cast<unsigned>(value.bits) << 16); }

template <typename Element>
__device__ __forceinline__ Element from_float(float value);

template <>
__device__ __forceinline__ float from_float<float>(float value) {
    return value;
}

// Rounds to nearest even.
template <>
__device__ __forceinline__ Bf16 from_float<Bf16>(float value) {
    Bf16 rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(value));
    return rounded;
}

// Two floats rounded to a pair of bf16, `low` in the lower half.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// The two halves of a pair of bf16.
__device__ __forceinline__ float low_of_bf16_pair(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_of_bf16_pair(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }
