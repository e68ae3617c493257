// CUDA's C++ for a compiler of the host: qualifiers, vector types, and the functions that kernels call without `asm`.
#pragma once

#include "instructions.h"

#define __device__
#define __global__
#define __shared__
#define __align__(bytes) alignas(bytes)
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

// What the dynamic shared memory's name stands for: a place that no thread accesses but by 32-bit addresses.
inline unsigned char* model::run::shared_symbol() {
    alignas(1024) static unsigned char symbol[1024];
    return symbol;
}

// Vectors, whose stores to global memory are followed.
#define MODEL_VECTOR(Name, Element, BYTES, ...)                     \
    struct alignas(BYTES) Name {                                    \
        Element __VA_ARGS__;                                        \
        Name& operator=(const Name& other) {                        \
            model::thread_writes_global(this, BYTES);               \
            memcpy(static_cast<void*>(this), &other, BYTES);        \
            return *this;                                           \
        }                                                           \
    }
MODEL_VECTOR(uint2, unsigned, 8, x, y);
MODEL_VECTOR(uint4, unsigned, 16, x, y, z, w);
MODEL_VECTOR(float2, float, 8, x, y);
MODEL_VECTOR(float4, float, 16, x, y, z, w);

inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline float __uint_as_float(unsigned bits) { return model::run::as_float(bits); }
inline unsigned __float_as_uint(float value) { return model::run::as_bits(value); }
inline float __int_as_float(int bits) { return model::run::as_float(static_cast<unsigned>(bits)); }
inline int __float_as_int(float value) { return static_cast<int>(model::run::as_bits(value)); }
inline float fmaxf(float a, float b) { return std::fmax(a, b); }
inline float fminf(float a, float b) { return std::fmin(a, b); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

template <typename Value>
Value __ldcg(const Value* pointer) {
    model::thread_reads_global(pointer, sizeof(Value));
    return *pointer;
}

struct ModelDimension {
    unsigned x;
};
namespace model {
inline u32 programs_of_grid;
}
#define threadIdx (ModelDimension{static_cast<unsigned>(model::current->index)})
#define blockIdx (ModelDimension{model::self().index})
#define gridDim (ModelDimension{model::programs_of_grid})

inline void __syncthreads() { model::sync_program(0, static_cast<int>(model::self().threads.size()), true); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFF) { model::sync_warp(mask); }
inline void __threadfence() { model::fence_gpu(); }
inline unsigned atomicAdd(unsigned* pointer, unsigned value) { return model::atomic_add(pointer, value); }

namespace model {
// What lane `from` gave.
template <typename Value>
Value exchange(u32 mask, Value value, int from) {
    if (mask != 0xFFFFFFFF) fail("an exchange in part of a warp is not modelled");
    Warp& warp = own_warp();
    memcpy(&warp.exchanged[current->lane], &value, sizeof value);
    meet(warp.collective, 32, true, false, "the warp's exchange");
    memcpy(&value, &warp.exchanged[from], sizeof value);
    meet(warp.collective, 32, true, false, "the warp's exchange");
    return value;
}
}  // namespace model

template <typename Value>
Value __shfl_xor_sync(unsigned mask, Value value, int distance) {
    return model::exchange(mask, value, model::current->lane ^ distance);
}
template <typename Value>
Value __shfl_sync(unsigned mask, Value value, int lane) {
    return model::exchange(mask, value, lane % 32);
}
inline unsigned __ballot_sync(unsigned mask, bool predicate) {
    unsigned all = 0;
    for (int lane = 0; lane < 32; ++lane) all |= static_cast<unsigned>(model::exchange(mask, predicate, lane)) << lane;
    return all;
}
inline bool __any_sync(unsigned mask, bool predicate) { return __ballot_sync(mask, predicate) != 0; }
inline bool __all_sync(unsigned mask, bool predicate) { return __ballot_sync(mask, predicate) == 0xFFFFFFFF; }
