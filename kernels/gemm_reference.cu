// C[m, n] = A[m, k] · decode(B) the plain way: what gemm.cu is compared with. One thread computes one element, in f32.
//
// A   bf16 [m, k]
// B   [k, n] of bf16 or int16 weights, or [k / 2, n] bytes of two 4-bit weights along k, low nibble first (k even)
// C   f32 [m, n]
// All are contiguous and row-major. int16 weights are rounded to bf16 first.
//
// Macro: WEIGHTS, the format of B: Bf16, Int16, Int4 or Fp4.
// Launch: 1024 threads and one program for each 32 x 32 tile of C, along x, row after row.

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

constexpr int TILE = 32;

}  // namespace

extern "C" __global__ void __launch_bounds__(TILE * TILE)
gemm_reference(const ptx::bf16* a, const void* b, float* c, int m, int n, int k) {
    __shared__ float a_tile[TILE][TILE];
    __shared__ float b_tile[TILE][TILE];
    const int tiles_n = n / TILE + (n % TILE != 0);
    const int y = threadIdx.x / TILE, x = threadIdx.x % TILE;
    const int row = blockIdx.x / tiles_n * TILE + y;
    const int column = blockIdx.x % tiles_n * TILE + x;

    float sum = 0.0f;
    for (int start = 0; start < k; start += TILE) {
        a_tile[y][x] = row < m && start + x < k ? ptx::to_float(a[static_cast<i64>(row) * k + start + x]) : 0.0f;
        b_tile[y][x] = start + y < k && column < n ? WEIGHTS::at(b, start + y, column, n) : 0.0f;
        __syncthreads();
        float tile_sum = 0.0f;  // apart, so that a long k adds few roundings to the running sum
        for (int i = 0; i < TILE; ++i) tile_sum += a_tile[y][i] * b_tile[i][x];
        sum += tile_sum;
        __syncthreads();
    }
    if (row < m && column < n) c[static_cast<i64>(row) * n + column] = sum;
}
