// Elements in memory as floats: one at a time, and as the 32-bit words of a vector load.
#pragma once

#include "ptx.cuh"

using ptx::bf16;
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

// So many bytes of `Element` that one instruction loads or stores: 4, 8 or 16, and aligned to as many.
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
                values[2 * word] = ptx::low_to_float(words[word]);
                values[2 * word + 1] = ptx::high_to_float(words[word]);
            }
        }
    }

    __device__ __forceinline__ void pack(const float (&values)[WIDTH]) {
#pragma unroll
        for (int word = 0; word < WORDS; ++word) {
            if constexpr (WIDTH == WORDS) {
                words[word] = __float_as_uint(values[word]);
            } else {
                words[word] = ptx::pack_bf16(values[2 * word], values[2 * word + 1]);
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
