// C[m, n] = A[m, k] · decode(B) the plain way: what gemm.cu is compared with; and by how much each element may differ before it
// is rounded: `share` of the product of its row's Euclidean norm in A and its column's largest weight, which is no less than
// the root of the sum of the squares of the terms that the element is summed from. Each thread computes 4 x 4 elements, in f32.
//
// A   bf16 [m, k]
// B   [k, n] of bf16 or int16 weights, or [k / 2, n] bytes of two 4-bit weights along k, low nibble first (k even)
// C   f32 [m, n]
// allowed   bf16 [m, n]
// All are contiguous and row-major. int16 weights are rounded to bf16 first.
//
// Macro: WEIGHTS, the format of B: Bf16, Int16, Int4 or Fp4.
// Launch: 256 threads and one program for each 64 x 64 tile of C, along x, row after row.

#include "numeric.cuh"

#if !defined(WEIGHTS)
#error "WEIGHTS must be defined: Bf16, Int16, Int4 or Fp4"
#endif

namespace {

using i64 = long long;

// Each format's weight at (row, column) of a B of n columns.

struct Bf16 {
    static __device__ float at(const void* b, int row, int column, int n) {
        return ptx::to_float(static_cast<const ptx::bf16*>(b)[static_cast<i64>(row) * n + column]);
    }
};

struct Int16 {
    static __device__ float at(const void* b, int row, int column, int n) {
        const short weight = static_cast<const short*>(b)[static_cast<i64>(row) * n + column];
        return ptx::to_float(ptx::to_bf16(weight));
    }
};

__device__ int nibble(const void* b, int row, int column, int n) {
    const int packed = static_cast<const unsigned char*>(b)[static_cast<i64>(row / 2) * n + column];
    return row % 2 == 0 ? packed & 15 : packed >> 4;
}

struct Int4 {
    static __device__ float at(const void* b, int row, int column, int n) {
        const int code = nibble(b, row, column, n);
        return code < 8 ? code : code - 16;
    }
};

struct Fp4 {
    static __device__ float at(const void* b, int row, int column, int n) {
        const float magnitudes[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
        const int code = nibble(b, row, column, n);
        return code < 8 ? magnitudes[code] : -magnitudes[code - 8];
    }
};

constexpr int TILE = 64;
constexpr int DEPTH = 32;
constexpr int SIDE = 16;           // threads along each side of the tile
constexpr int EACH = TILE / SIDE;  // elements of a thread along each side
constexpr int THREADS = SIDE * SIDE;
constexpr int WARPS = THREADS / 32;

static_assert(DEPTH == 32 && THREADS % TILE == 0, "a warp loads one row of A at a time, a thread one column of B");

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS)
gemm_reference(const ptx::bf16* a, const void* b, float* c, ptx::bf16* allowed, int m, int n, int k, float share) {
    __shared__ float a_tile[DEPTH][TILE + 1];
    __shared__ float b_tile[DEPTH][TILE];
    __shared__ float row_norms[TILE];
    __shared__ int largest_weights[TILE];  // the bits of a float that is not negative, which order as it does
    const int tiles_n = n / TILE + (n % TILE != 0);
    const int first_row = blockIdx.x / tiles_n * TILE, first_column = blockIdx.x % tiles_n * TILE;
    const int y = threadIdx.x / SIDE, x = threadIdx.x % SIDE;

    // What a thread loads: an element of every eighth row of A, each of a warp's lanes another; and of one column of B.
    float squares[TILE / WARPS] = {};
    float largest_weight = 0.0f;
    if (threadIdx.x < TILE) largest_weights[threadIdx.x] = 0;

    float sums[EACH][EACH] = {};
    for (int start = 0; start < k; start += DEPTH) {
#pragma unroll
        for (int j = 0; j < TILE / WARPS; ++j) {
            const int row = threadIdx.x / DEPTH + j * WARPS, depth = threadIdx.x % DEPTH;
            const bool inside = first_row + row < m && start + depth < k;
            const float value = inside ? ptx::to_float(a[static_cast<i64>(first_row + row) * k + start + depth]) : 0.0f;
            a_tile[depth][row] = value;
            squares[j] += value * value;
        }
        for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
            const int depth = i / TILE, column = first_column + i % TILE;
            const float weight = start + depth < k && column < n ? WEIGHTS::at(b, start + depth, column, n) : 0.0f;
            b_tile[depth][i % TILE] = weight;
            largest_weight = fmaxf(largest_weight, fabsf(weight));
        }
        __syncthreads();
        float tile_sums[EACH][EACH] = {};  // apart, so that a long k adds few roundings to the running sums
        for (int depth = 0; depth < DEPTH; ++depth) {
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
#pragma unroll
                for (int j = 0; j < EACH; ++j) tile_sums[i][j] += a_tile[depth][y + i * SIDE] * b_tile[depth][x + j * SIDE];
            }
        }
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
#pragma unroll
            for (int j = 0; j < EACH; ++j) sums[i][j] += tile_sums[i][j];
        }
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < TILE / WARPS; ++j) {
        const float norm = sqrtf(warp_sum(squares[j]));
        if (threadIdx.x % 32 == 0) row_norms[threadIdx.x / 32 + j * WARPS] = norm;
    }
    atomicMax(&largest_weights[threadIdx.x % TILE], __float_as_int(largest_weight));
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const int row = first_row + y + i * SIDE, column = first_column + x + j * SIDE;
            if (row >= m || column >= n) continue;
            const float largest = __int_as_float(largest_weights[x + j * SIDE]);
            c[static_cast<i64>(row) * n + column] = sums[i][j];
            allowed[static_cast<i64>(row) * n + column] = ptx::to_bf16(share * row_norms[y + i * SIDE] * largest);
        }
    }
}
