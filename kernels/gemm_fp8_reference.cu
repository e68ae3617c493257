// C[m, n] = (A · scales)[m, k] · (B · scales)[k, n] of E4M3 numbers the plain way: what gemm_fp8.cu is compared with; and by how
// much each element may differ before it is rounded: `share` of the norm of its terms. That norm is the root of the sum of the
// squares, over every 128 of k, of the Euclidean norm of its row in A times the largest of its column in B, both with their
// scales: no less than the root of the sum of the squares of the terms. Each thread computes 4 x 4 elements, in f32.
//
// A   e4m3 [m, k], row-major
// B   e4m3 [k, n], column-major, so [n, k] in memory
// a_scales, b_scales   f32, as gemm_fp8.cu has them
// C   f32 [m, n]
// allowed   bf16 [m, n]
//
// Macro: SCALING, what shares a scale: Tensor, RowColumn or Block.
// Launch: 256 threads and one program for each 64 x 64 tile of C, along x, row after row.

#include "numeric.cuh"
#include "reference_tiles.cuh"

#if !defined(SCALING)
#error "SCALING must be defined: Tensor, RowColumn or Block"
#endif

namespace {

enum class Scaling { Tensor, RowColumn, Block };
constexpr Scaling KIND = Scaling::SCALING;

constexpr int BLOCK = 128;  // of k that have a scale together

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS)
gemm_fp8_reference(const unsigned char* a, const unsigned char* b, const float* a_scales, const float* b_scales, float* c,
                   ptx::bf16* allowed, int m, int n, int k, float share) {
    __shared__ float a_tile[DEPTH][TILE + 1];
    __shared__ float b_tile[DEPTH][TILE + 1];
    __shared__ float a_square[TILE], b_largest[TILE];
    const Place place(n);
    const int y = place.y, x = place.x;
    const int blocks = k / BLOCK + (k % BLOCK != 0);

    float sums[EACH][EACH] = {}, norms[EACH][EACH] = {};
    for (int block = 0; block < blocks; ++block) {
        float block_sums[EACH][EACH] = {};  // apart, so that a long k adds few roundings to the running sums
        if (threadIdx.x < TILE) a_square[threadIdx.x] = b_largest[threadIdx.x] = 0;
        __syncthreads();
        for (int start = block * BLOCK; start < k && start < (block + 1) * BLOCK; start += DEPTH) {
            for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
                const int line = i / DEPTH, depth = i % DEPTH;
                const int row = place.first_row + line, column = place.first_column + line;
                const bool inside = start + depth < k;
                a_tile[depth][line] = inside && row < m ? e4m3(a[static_cast<i64>(row) * k + start + depth]) : 0.0f;
                b_tile[depth][line] = inside && column < n ? e4m3(b[static_cast<i64>(column) * k + start + depth]) : 0.0f;
            }
            __syncthreads();
            for (int depth = 0; depth < DEPTH; ++depth) {
#pragma unroll
                for (int i = 0; i < EACH; ++i) {
#pragma unroll
                    for (int j = 0; j < EACH; ++j) {
                        block_sums[i][j] += a_tile[depth][y + i * SIDE] * b_tile[depth][x + j * SIDE];
                    }
                }
                if (threadIdx.x < TILE) {
                    const float value = a_tile[depth][threadIdx.x];
                    a_square[threadIdx.x] += value * value;
                    b_largest[threadIdx.x] = fmaxf(b_largest[threadIdx.x], fabsf(b_tile[depth][threadIdx.x]));
                }
            }
            __syncthreads();
        }
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
#pragma unroll
            for (int j = 0; j < EACH; ++j) {
                const int row = place.row(i), column = place.column(j);
                if (row >= m || column >= n) continue;
                const i64 of_row = KIND == Scaling::Tensor ? 0 : KIND == Scaling::RowColumn ? row : static_cast<i64>(block) * m + row;
                const i64 of_column = KIND == Scaling::Tensor      ? 0
                                      : KIND == Scaling::RowColumn ? column
                                                                   : static_cast<i64>(column / BLOCK) * blocks + block;
                const float scale = a_scales[of_row] * b_scales[of_column];
                const float largest = b_largest[x + j * SIDE];
                const float norm = scale * sqrtf(a_square[y + i * SIDE]) * largest;
                sums[i][j] += scale * block_sums[i][j];
                // Squares of what is far from one would leave f32's range: the root of the sum of two squares, by the larger.
                const float other = fabsf(norm), most = fmaxf(norms[i][j], other), least = fminf(norms[i][j], other);
                const float ratio = most > 0 ? least / most : 0.0f;
                norms[i][j] = most * sqrtf(1 + ratio * ratio);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const int row = place.row(i), column = place.column(j);
            if (row >= m || column >= n) continue;
            c[static_cast<i64>(row) * n + column] = sums[i][j];
            allowed[static_cast<i64>(row) * n + column] = ptx::to_bf16(share * norms[i][j]);
        }
    }
}
