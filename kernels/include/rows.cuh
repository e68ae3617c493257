// What the kernels over rows share: how a row is dealt out to lanes, warps and programs, and which vectors of memory hold it. Before
// it is included DTYPE, ALIGNED, ROWS, NUM_WARPS, SPLIT (row_softmax.cu says what they are) and VECTOR_BYTES are defined.
#pragma once

#include "numeric.cuh"
#include "streaming.cuh"
#include "tma.cuh"

using Pack = Vector<DTYPE, VECTOR_BYTES>;

constexpr int WIDTH = Pack::WIDTH;
constexpr int LANES = NUM_WARPS * 32 / ROWS;         // threads of a row in a program
constexpr int WARP_LANES = LANES < 32 ? LANES : 32;  // those of them in one warp
constexpr int WARPS_PER_ROW = LANES / WARP_LANES;    // in one program
constexpr int PARTS = WARPS_PER_ROW * SPLIT;         // warps of a row in all
constexpr float INFINITE = __builtin_bit_cast(float, 0x7f800000);

static_assert((ROWS & (ROWS - 1)) == 0 && (NUM_WARPS & (NUM_WARPS - 1)) == 0, "ROWS and NUM_WARPS: powers of two");
static_assert(NUM_WARPS <= 32 && LANES >= 1, "at most 32 warps, at least one thread a row");
static_assert((SPLIT & (SPLIT - 1)) == 0 && SPLIT <= 8, "SPLIT: a power of two up to 8");
static_assert(SPLIT == 1 || ROWS == 1, "programs share a tile of one row");

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
__device__ __forceinline__ float sum_of_lanes(float value) {
    return combine_lanes<COUNT>(value, [](float a, float b) { return a + b; });
}

// What every warp of a row has seen of it, in `PARTS` places of shared memory. Rows alternate between two buffers, so that one
// barrier a row is enough. `Part`: two floats, or four.
template <typename Part>
__device__ __forceinline__ const Part* parts_of_row(const Part& of_warp, int group, int lane, int parity) {
    __shared__ Part parts[2][ROWS][PARTS];
    Part(&row)[PARTS] = parts[parity][group];
    if constexpr (SPLIT == 1) {
        if (lane % 32 == 0) row[lane / 32] = of_warp;
        ptx::barrier_sync<LANES>(group);
    } else {
        const int part = static_cast<int>(blockIdx.x % SPLIT) * WARPS_PER_ROW + lane / 32;
        if (lane % 32 < SPLIT) {
            ptx::store_cluster(ptx::cluster_address(ptx::shared_address(&row[part]), lane % 32), of_warp);
        }
        ptx::cluster_sync();
    }
    return row;
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
