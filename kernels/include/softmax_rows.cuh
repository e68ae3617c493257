// What the row softmax kernels share: statistics of a row, merged over lanes, warps and programs, and a program's share of a row.
// Before it is included these are defined: DTYPE, ALIGNED, ROWS, SPLIT (row_softmax.cu says what they are), Pack, WIDTH (of a
// vector, in elements), LANES, WARPS_PER_ROW, PARTS, LOG2_E and INFINITE.
#pragma once

#include "numeric.cuh"
#include "streaming.cuh"
#include "tma.cuh"

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

// Over aligned runs of COUNT lanes of a warp; every lane gets the result.
template <int COUNT, typename Value, typename Operation>
__device__ __forceinline__ Value combine_lanes(Value value, Operation operation) {
#pragma unroll
    for (int distance = COUNT / 2; distance > 0; distance /= 2) {
        value = operation(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
    return value;
}

template <int COUNT>
__device__ __forceinline__ float maximum_of_lanes(float value) {
    return combine_lanes<COUNT>(value, [](float a, float b) { return fmaxf(a, b); });
}

// The sum of lanes that have seen no more than `maximum`.
template <int COUNT>
__device__ __forceinline__ float sum_of_lanes(float value) {
    return combine_lanes<COUNT>(value, [](float a, float b) { return a + b; });
}

template <int COUNT>
__device__ __forceinline__ Statistics merge_lanes(const Statistics& seen) {
    const float maximum = maximum_of_lanes<COUNT>(seen.maximum);
    return {maximum, sum_of_lanes<COUNT>(seen.sum * exp_of(seen.maximum - finite_or_zero(maximum)))};
}

// Merges what the warps of a row have seen. Rows alternate between two buffers, so that one barrier a row is enough.
__device__ __forceinline__ Statistics merge_warps(const Statistics& of_warp, int group, int lane, int parity) {
    if constexpr (PARTS == 1) return of_warp;
    __shared__ Statistics parts[2][ROWS][PARTS];
    Statistics(&row)[PARTS] = parts[parity][group];
    if constexpr (SPLIT == 1) {
        if (lane % 32 == 0) row[lane / 32] = of_warp;
        ptx::barrier_sync<LANES>(group);
    } else {
        const int part = static_cast<int>(blockIdx.x % SPLIT) * WARPS_PER_ROW + lane / 32;
        if (lane % 32 < SPLIT) {
            const unsigned there = ptx::cluster_address(ptx::shared_address(&row[part]), lane % 32);
            ptx::store_cluster(there, of_warp.maximum, of_warp.sum);
        }
        ptx::cluster_sync();
    }
    Statistics seen = row[lane % (PARTS < 32 ? PARTS : 32)];
#pragma unroll
    for (int part = 32; part < PARTS; part += 32) seen = merge(seen, row[part + lane % 32]);
    return merge_lanes<PARTS < 32 ? PARTS : 32>(seen);
}

// A program's share of a row's window; none of a row past the last.
struct Window {
    long long first;  // element of the tensor at which the share starts
    int column;       // the same as a column of the row: negative where the first vector starts before the row
    int vectors;

    __device__ __forceinline__ Window(long long row, long long rows, int cols, int share) {
        const int before = SPLIT > 1 ? static_cast<int>(blockIdx.x % SPLIT) * share : 0;
        const int skew = ALIGNED ? 0 : static_cast<int>(row * cols) & (WIDTH - 1);
        column = before * WIDTH - skew;
        first = row * cols + column;
        vectors = row < rows ? (cols - column + WIDTH - 1) / WIDTH : 0;
        if (SPLIT > 1) vectors = max(0, min(vectors, share));
    }
};

// Whether a vector that starts at `column` and holds something of the row holds nothing else.
__device__ __forceinline__ bool is_whole(int column, int cols) {
    return ALIGNED || (column >= 0 && column + WIDTH <= cols);
}

// Puts -inf in place of what such a vector holds of other rows.
__device__ __forceinline__ void mask(float (&values)[WIDTH], int column, int cols) {
    if (is_whole(column, cols)) return;
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        if (column + j < 0 || column + j >= cols) values[j] = -INFINITE;
    }
}

// Writes such a vector, less what is of other rows.
__device__ __forceinline__ void store(DTYPE* out, const float (&values)[WIDTH], int column, int cols) {
    if (is_whole(column, cols)) {
        Pack pack;
        pack.pack(values);
        ptx::store_streaming(out, pack.words);
        return;
    }
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
        if (column + j >= 0 && column + j < cols) out[j] = from_float<DTYPE>(values[j]);
    }
}
