// CUDA's C++ for a compiler of the host: qualifiers, vector types, and the functions that kernels call without `asm`.
#pragma once

#include <cmath>

#include "machine.h"

#define __device__
#define __global__
#define __shared__
#define __align__(bytes) alignas(bytes)
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

// Vectors, whose stores to global memory are followed.
#define MODEL_VECTOR(Name, Element, BYTES, ...)                                                                                \
    struct alignas(BYTES) Name {                                                                                               \
        Element __VA_ARGS__;                                                                                                   \
        Name& operator=(const Name& other) {                                                                                   \
            model::thread_writes_global(this, BYTES);                                                                          \
            memcpy(static_cast<void*>(this), &other, BYTES);                                                                   \
            return *this;                                                                                                      \
        }                                                                                                                      \
    }
MODEL_VECTOR(uint2, unsigned, 8, x, y);
MODEL_VECTOR(uint4, unsigned, 16, x, y, z, w);
MODEL_VECTOR(float2, float, 8, x, y);
MODEL_VECTOR(float4, float, 16, x, y, z, w);

inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline float __uint_as_float(unsigned bits) { return model::float_of(bits); }
inline unsigned __float_as_uint(float value) { return model::bits_of(value); }
inline float __int_as_float(int bits) { return model::float_of(static_cast<unsigned>(bits)); }
inline int __float_as_int(float value) { return static_cast<int>(model::bits_of(value)); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(model::u64{a} * b >> 32); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((model::u64{high} << 32 | low) >> shift % 32);
}

template <typename Value>
Value __ldcg(const Value* pointer) {
    model::thread_reads_global(pointer, sizeof(Value));
    return *pointer;
}

struct ModelDimension {
    unsigned x;
};
#define threadIdx (ModelDimension{model::thread_index()})
#define blockIdx (ModelDimension{model::program_index()})
#define gridDim (ModelDimension{model::programs_of_grid()})

inline void __syncthreads() { model::sync_program(); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFF) { model::sync_warp(mask); }
inline void __threadfence() { model::fence_gpu(); }
inline unsigned atomicAdd(unsigned* pointer, unsigned value) { return model::atomic_add(pointer, value); }

template <typename Value>
Value model_exchange(unsigned mask, Value value, int from) {
    model::u64 bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = model::exchange(mask, bits, from);
    memcpy(&value, &bits, sizeof value);
    return value;
}
template <typename Value>
Value __shfl_xor_sync(unsigned mask, Value value, int distance) {
    return model_exchange(mask, value, static_cast<int>(model::thread_index() % 32) ^ distance);
}
template <typename Value>
Value __shfl_sync(unsigned mask, Value value, int lane) {
    return model_exchange(mask, value, lane % 32);
}
inline unsigned __ballot_sync(unsigned mask, bool predicate) {
    unsigned all = 0;
    for (int lane = 0; lane < 32; ++lane) all |= static_cast<unsigned>(model_exchange(mask, predicate, lane)) << lane;
    return all;
}
inline bool __any_sync(unsigned mask, bool predicate) { return __ballot_sync(mask, predicate) != 0; }
inline bool __all_sync(unsigned mask, bool predicate) { return __ballot_sync(mask, predicate) == 0xFFFFFFFF; }
