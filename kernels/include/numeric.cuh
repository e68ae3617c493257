// Elements in memory as floats: one at a time, and as the 32-bit words of a vector load.
#pragma once

#include "ptx.cuh"

using ptx::bf16;
using ptx::f16;
using ptx::to_float;

__device__ __forceinline__ float to_float(float value) { return value; }

template <typename Element>
__device__ __forceinline__ Element from_float(float value) {
    if constexpr (sizeof(Element) == sizeof(bf16)) {
        return ptx::to_bf16(value);
    } else {
        return value;
    }
}

template <>
__device__ __forceinline__ f16 from_float<f16>(float value) {
    return ptx::to_f16(value);
}

// A word of memory as two floats, and back: bf16, unless said otherwise.
template <typename Element>
struct Pair {
    static __device__ __forceinline__ float low(unsigned word) { return ptx::low_to_float(word); }
    static __device__ __forceinline__ float high(unsigned word) { return ptx::high_to_float(word); }
    static __device__ __forceinline__ unsigned of(float low, float high) { return ptx::pack_bf16(low, high); }
    static constexpr unsigned MINUS_INFINITY = 0xff80ff80u;
};
template <>
struct Pair<f16> {
    static __device__ __forceinline__ float low(unsigned word) { return to_float(f16{static_cast<unsigned short>(word)}); }
    static __device__ __forceinline__ float high(unsigned word) {
        return to_float(f16{static_cast<unsigned short>(word >> 16)});
    }
    static __device__ __forceinline__ unsigned of(float low, float high) { return ptx::pack_f16(low, high); }
    static constexpr unsigned MINUS_INFINITY = 0xfc00fc00u;
};

// A word of memory whose elements are all -inf.
template <typename Element>
constexpr unsigned MINUS_INFINITY = sizeof(Element) == 4 ? 0xff800000u : Pair<Element>::MINUS_INFINITY;

// So many bytes of `Element` (bf16, f16 or float) that one instruction loads or stores: 4, 8 or 16, or on
// Blackwell 32 (wide.cuh), and aligned to as many.
template <typename Element, int BYTES>
struct alignas(BYTES) Vector {
    static constexpr int WORDS = BYTES / 4;
    static constexpr int WIDTH = BYTES / sizeof(Element);

    unsigned words[WORDS];

    __device__ __forceinline__ void unpack(float (&values)[WIDTH]) const {
#pragma unroll
        for (int word = 0; word < WORDS; ++word) {
            if constexpr (WIDTH == WORDS) {
                values[word] = __uint_as_float(words[word]);
            } else {
                values[2 * word] = Pair<Element>::low(words[word]);
                values[2 * word + 1] = Pair<Element>::high(words[word]);
            }
        }
    }

    __device__ __forceinline__ void pack(const float (&values)[WIDTH]) {
#pragma unroll
        for (int word = 0; word < WORDS; ++word) {
            if constexpr (WIDTH == WORDS) {
                words[word] = __float_as_uint(values[word]);
            } else {
                words[word] = Pair<Element>::of(values[2 * word], values[2 * word + 1]);
            }
        }
    }
};

// All of a warp's values taken together by an operation whose order does not matter, in every lane.
template <typename Value, typename Operation>
__device__ __forceinline__ Value combine_warp(Value value, Operation operation) {
    for (int distance = 16; distance > 0; distance /= 2) {
        value = operation(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
    return value;
}

// The sum of a warp's values, in every lane.
template <typename Value>
__device__ __forceinline__ Value warp_sum(Value value) {
    return combine_warp(value, [](Value a, Value b) { return a + b; });
}

// The largest of a warp's values, in every lane.
template <typename Value>
__device__ __forceinline__ Value warp_maximum(Value value) {
    return combine_warp(value, [](Value a, Value b) { return a > b ? a : b; });
}
