// What the kernels that need exp(x - max) of rows share: maximum and sum of a row, merged over lanes, warps and programs. Before it
// is included rows.cuh is, with the macros that this needs.
#pragma once

#include "rows.cuh"

constexpr float LOG2_E = 1.44269504f;

// What has been seen of a row: its maximum, and the sum of exp(x - maximum).
struct Statistics {
    float maximum, sum;
};

__device__ __forceinline__ float exp_of(float x) { return ptx::exp2_approx(x * LOG2_E); }

// A number to subtract that leaves -inf at -inf where nothing larger has been seen.
__device__ __forceinline__ float finite_or_zero(float maximum) { return maximum == -INFINITE ? 0.0f : maximum; }

__device__ __forceinline__ Statistics merge(const Statistics& a, const Statistics& b) {
    const float maximum = fmaxf(a.maximum, b.maximum);
    const float origin = finite_or_zero(maximum);
    return {maximum, a.sum * exp_of(a.maximum - origin) + b.sum * exp_of(b.maximum - origin)};
}

template <int COUNT>
__device__ __forceinline__ float maximum_of_lanes(float value) {
    return combine_lanes<COUNT>(value, [](float a, float b) { return fmaxf(a, b); });
}

template <int COUNT>
__device__ __forceinline__ Statistics merge_lanes(const Statistics& seen) {
    const float maximum = maximum_of_lanes<COUNT>(seen.maximum);
    return {maximum, sum_of_lanes<COUNT>(seen.sum * exp_of(seen.maximum - finite_or_zero(maximum)))};
}

// Merges what the warps of a row have seen.
__device__ __forceinline__ Statistics merge_warps(const Statistics& of_warp, int group, int lane, int parity) {
    if constexpr (PARTS == 1) return of_warp;
    const Statistics* row = parts_of_row(of_warp, group, lane, parity);
    Statistics seen = row[lane % (PARTS < 32 ? PARTS : 32)];
#pragma unroll
    for (int part = 32; part < PARTS; part += 32) seen = merge(seen, row[part + lane % 32]);
    return merge_lanes<PARTS < 32 ? PARTS : 32>(seen);
}

// Puts -inf in place of what such a vector holds of other rows.
__device__ __forceinline__ void mask(float (&values)[WIDTH], int column, int cols) {
    if (is_whole(column, cols)) return;
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        if (column + j < 0 || column + j >= cols) values[j] = -INFINITE;
    }
}
