// C[m, n] = (A · scales)[m, k] · (B · scales)[k, n] of numbers with a scale for each group along k, the plain way: what
// gemm_block_scaled.cu and gemm_block_scaled_tcgen05.cu are compared with; and by how much each element may differ before it is rounded:
// `share` of the norm of its terms. That norm is the root of the sum of the squares, over every group of k, of the Euclidean norm of
// its row in A times the largest of its column in B, both with their scales: no less than the root of the sum of the squares of the
// terms. Each thread computes 4 x 4 elements: a group in f32, the groups in f64, since their scales may be any powers of two.
//
// A, B, a_scales, b_scales, a_factor, b_factor   as gemm_block_scaled.cu has them
// C   f32 [m, n]
// allowed   bf16 [m, n]
//
// Macro: FORMAT, of A and B: Nvfp4 or Mxfp8.
// Launch: 256 threads and one program for each 64 x 64 tile of C, along x, row after row.

#include "numeric.cuh"

#if !defined(FORMAT)
#error "FORMAT must be defined: Nvfp4 or Mxfp8"
#endif

namespace {

using i64 = long long;
using byte = unsigned char;

// The number that a code stands for: a sign, so many bits of exponent and so many of fraction. No NaN is among the inputs.
template <int EXPONENT, int FRACTION>
__device__ float number(int code) {
    constexpr int BIAS = (1 << (EXPONENT - 1)) - 1;
    const int exponent = code >> FRACTION & ((1 << EXPONENT) - 1), fraction = code & ((1 << FRACTION) - 1);
    const int significand = fraction + (exponent == 0 ? 0 : 1 << FRACTION);
    const float magnitude = ldexpf(significand, (exponent == 0 ? 1 : exponent) - BIAS - FRACTION);
    return code >> (EXPONENT + FRACTION) & 1 ? -magnitude : magnitude;
}

struct Nvfp4 {
    static constexpr int GROUP = 16;
    static __device__ float at(const byte* rows, int row, int place, int k) {
        const int pair = rows[static_cast<i64>(row) * (k / 2) + place / 2];
        return number<2, 1>(place % 2 == 0 ? pair & 15 : pair >> 4);
    }
    static __device__ double scale(byte code) { return number<4, 3>(code & 127); }
};

struct Mxfp8 {
    static constexpr int GROUP = 32;
    static __device__ float at(const byte* rows, int row, int place, int k) {
        return number<4, 3>(rows[static_cast<i64>(row) * k + place]);
    }
    static __device__ double scale(byte code) { return ldexp(1.0, code - 127); }
};

using Format = FORMAT;

constexpr int TILE = 64;
constexpr int DEPTH = Format::GROUP;
constexpr int SIDE = 16;           // threads along each side of the tile
constexpr int EACH = TILE / SIDE;  // elements of a thread along each side
constexpr int THREADS = SIDE * SIDE;

// A row's scale of a group, where they lie in blocks of 128 rows by four groups, `blocks` of them side by side.
__device__ double scale_at(const byte* scales, int row, int group, int blocks) {
    const i64 block = static_cast<i64>(row / 128) * blocks + group / 4;
    return Format::scale(scales[block * 512 + row % 32 * 16 + row % 128 / 32 * 4 + group % 4]);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS)
gemm_block_scaled_reference(const byte* a, const byte* b, const byte* a_scales, const byte* b_scales, const float* a_factor,
                            const float* b_factor, float* c, ptx::bf16* allowed, int m, int n, int k, float share) {
    __shared__ float a_tile[DEPTH][TILE + 1];
    __shared__ float b_tile[DEPTH][TILE + 1];
    __shared__ double a_scale[TILE], b_scale[TILE];
    __shared__ float a_norm[TILE], b_largest[TILE];
    const int tiles_n = n / TILE + (n % TILE != 0);
    const int first_row = blockIdx.x / tiles_n * TILE, first_column = blockIdx.x % tiles_n * TILE;
    const int y = threadIdx.x / SIDE, x = threadIdx.x % SIDE;
    const int groups = k / DEPTH + (k % DEPTH != 0), blocks = groups / 4 + (groups % 4 != 0);

    double sums[EACH][EACH] = {}, squares[EACH][EACH] = {};
    for (int group = 0; group < groups; ++group) {
        for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
            const int line = i / DEPTH, depth = i % DEPTH, place = group * DEPTH + depth;
            const int row = first_row + line, column = first_column + line;
            a_tile[depth][line] = place < k && row < m ? Format::at(a, row, place, k) : 0.0f;
            b_tile[depth][line] = place < k && column < n ? Format::at(b, column, place, k) : 0.0f;
        }
        __syncthreads();
        if (threadIdx.x < TILE) {
            const int row = first_row + threadIdx.x, column = first_column + threadIdx.x;
            a_scale[threadIdx.x] = row < m ? scale_at(a_scales, row, group, blocks) : 0.0;
            b_scale[threadIdx.x] = column < n ? scale_at(b_scales, column, group, blocks) : 0.0;
            float square = 0, largest = 0;
            for (int depth = 0; depth < DEPTH; ++depth) {
                square += a_tile[depth][threadIdx.x] * a_tile[depth][threadIdx.x];
                largest = fmaxf(largest, fabsf(b_tile[depth][threadIdx.x]));
            }
            a_norm[threadIdx.x] = sqrtf(square);
            b_largest[threadIdx.x] = largest;
        }
        float group_sums[EACH][EACH] = {};
        for (int depth = 0; depth < DEPTH; ++depth) {
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
#pragma unroll
                for (int j = 0; j < EACH; ++j) group_sums[i][j] += a_tile[depth][y + i * SIDE] * b_tile[depth][x + j * SIDE];
            }
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
#pragma unroll
            for (int j = 0; j < EACH; ++j) {
                const int line_y = y + i * SIDE, line_x = x + j * SIDE;
                const double scale = a_scale[line_y] * b_scale[line_x];
                const double norm = scale * a_norm[line_y] * b_largest[line_x];
                sums[i][j] += scale * group_sums[i][j];
                squares[i][j] += norm * norm;
            }
        }
        __syncthreads();
    }
    const double factor = (a_factor == nullptr ? 1.0 : *a_factor) * (b_factor == nullptr ? 1.0 : *b_factor);
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const int row = first_row + y + i * SIDE, column = first_column + x + j * SIDE;
            if (row >= m || column >= n) continue;
            c[static_cast<i64>(row) * n + column] = static_cast<float>(sums[i][j] * factor);
            const double differs = share * sqrt(squares[i][j]) * fabs(factor);
            allowed[static_cast<i64>(row) * n + column] = ptx::to_bf16(static_cast<float>(differs));
        }
    }
}
