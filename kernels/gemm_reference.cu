// C[m, n] = A[m, k] · decode(B) the plain way: what gemm.cu is compared with. Each thread computes 4 x 4 elements, in f32.
//
// A   bf16 [m, k]
// B   [k, n] of bf16 or int16 weights, or [k / 2, n] bytes of two 4-bit weights along k, low nibble first (k even)
// C   f32 [m, n]
// All are contiguous and row-major. int16 weights are rounded to bf16 first.
//
// Macro: WEIGHTS, the format of B: Bf16, Int16, Int4 or Fp4.
// Launch: 256 threads and one program for each 64 x 64 tile of C, along x, row after row.

#include "ptx.cuh"

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

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS)
gemm_reference(const ptx::bf16* a, const void* b, float* c, int m, int n, int k) {
    __shared__ float a_tile[DEPTH][TILE + 1];
    __shared__ float b_tile[DEPTH][TILE];
    const int tiles_n = n / TILE + (n % TILE != 0);
    const int first_row = blockIdx.x / tiles_n * TILE, first_column = blockIdx.x % tiles_n * TILE;
    const int y = threadIdx.x / SIDE, x = threadIdx.x % SIDE;

    float sums[EACH][EACH] = {};
    for (int start = 0; start < k; start += DEPTH) {
        for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
            const int row = first_row + i / DEPTH, depth = i % DEPTH;
            const bool inside = row < m && start + depth < k;
            a_tile[depth][i / DEPTH] = inside ? ptx::to_float(a[static_cast<i64>(row) * k + start + depth]) : 0.0f;
        }
        for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
            const int depth = i / TILE, column = first_column + i % TILE;
            b_tile[depth][i % TILE] = start + depth < k && column < n ? WEIGHTS::at(b, start + depth, column, n) : 0.0f;
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
    for (int i = 0; i < EACH; ++i) {
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const int row = first_row + y + i * SIDE, column = first_column + x + j * SIDE;
            if (row < m && column < n) c[static_cast<i64>(row) * n + column] = sums[i][j];
        }
    }
}
