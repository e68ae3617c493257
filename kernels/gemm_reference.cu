// C[m, n] = A[m, k] · decode(B) the plain way: what gemm.cu is compared with; and by how much each element may differ before it
// is rounded: `share` of the product of its row's Euclidean norm in A and its column's largest weight, which is no less than
// the root of the sum of the squares of the terms that the element is summed from; and `rounding` of that root itself, where kernels
// round scaled weights. Each thread computes 4 x 4 elements, in f32.
//
// A   bf16 or f16 [m, k]
// B   [k, n] of weights in A's type or int16, or [k / 2, n] bytes of two 4-bit weights along k, low nibble first (k even)
// C   f32 [m, n]
// allowed   bf16 [m, n]
// scales, zeros, tensor_scale   of weights with scales, as in gemm.cu; `group` weights along k share a scale
// All are contiguous and row-major. int16 weights are rounded to A's type first; scaled weights are not.
//
// Macros: DTYPE, the type of A, bf16 or f16; WEIGHTS, the format of B: Bf16 or F16 (as DTYPE), Int16, Int4, Fp4, Int4Group, Nvfp4
// or Mxfp4; GROUPED, defined where weights have scales; ZERO_POINTS (Int4Group), 1 where they have zero points, else 0.
// Launch: 256 threads and one program for each 64 x 64 tile of C, along x, row after row. Arguments past `share` are those of
// weights with scales, which only their kernels have; tensor_scale is null for none, and rounding 0 where nothing is rounded.

#include "halves.cuh"
#include "numeric.cuh"
#include "reference_tiles.cuh"

#if !defined(DTYPE)
#error "DTYPE must be defined: the type of A, bf16 or f16"
#endif
#if !defined(WEIGHTS)
#error "WEIGHTS must be defined: Bf16 or F16 (as DTYPE), Int16, Int4, Fp4, Int4Group, Nvfp4 or Mxfp4"
#endif

namespace {

using Element = halves::DTYPE;

// Each format's weight at (row, column) of a B of n columns.

struct Same {
    static __device__ float at(const void* b, int row, int column, int n) {
        return Element::to_float(static_cast<const ptx::u16*>(b)[static_cast<i64>(row) * n + column]);
    }
};
using Bf16 = Same;
using F16 = Same;

struct Int16 {
    static __device__ float at(const void* b, int row, int column, int n) {
        const short weight = static_cast<const short*>(b)[static_cast<i64>(row) * n + column];
        return Element::to_float(static_cast<ptx::u16>(Element::pack(weight, 0)));
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

// Scales and zero points, a row for each group of weights along k.
struct Groups {
    const void* scales;
    const unsigned char* zeros;
    int group;

    __device__ i64 place(int row, int column, int n) const { return static_cast<i64>(row / group) * n + column; }
};

// A format's weight times its scale.

struct Int4Group {
    static __device__ float at(const void* b, const Groups& groups, int row, int column, int n) {
        const i64 place = groups.place(row, column, n);
        const float scale = Element::to_float(static_cast<const ptx::u16*>(groups.scales)[place]);
#if defined(ZERO_POINTS) && ZERO_POINTS
        return (nibble(b, row, column, n) - (groups.zeros[place] & 15)) * scale;
#else
        return Int4::at(b, row, column, n) * scale;
#endif
    }
};

struct Nvfp4 {
    static __device__ float at(const void* b, const Groups& groups, int row, int column, int n) {
        const unsigned char code = static_cast<const unsigned char*>(groups.scales)[groups.place(row, column, n)];
        return Fp4::at(b, row, column, n) * e4m3(code);
    }
};

struct Mxfp4 {
    static __device__ float at(const void* b, const Groups& groups, int row, int column, int n) {
        const int code = static_cast<const unsigned char*>(groups.scales)[groups.place(row, column, n)];
        return Fp4::at(b, row, column, n) * ldexpf(1, code - 127);
    }
};

#if defined(GROUPED)
#define SCALE_PARAMETERS , const void *scales, const unsigned char *zeros, const float *tensor_scale, int group, float rounding
#else
#define SCALE_PARAMETERS
#endif

constexpr int WARPS = THREADS / 32;

static_assert(DEPTH == 32 && THREADS % TILE == 0, "a warp loads one row of A at a time, a thread one column of B");

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS)
gemm_reference(const ptx::u16* a, const void* b, float* c, ptx::bf16* allowed, int m, int n, int k,
               float share SCALE_PARAMETERS) {
#if defined(GROUPED)
    const Groups groups{scales, zeros, group};
    const auto weight_at = [&](int row, int column) { return WEIGHTS::at(b, groups, row, column, n); };
    const float factor = tensor_scale == nullptr ? 1.0f : *tensor_scale;
#else
    const auto weight_at = [&](int row, int column) { return WEIGHTS::at(b, row, column, n); };
    constexpr float factor = 1.0f, rounding = 0.0f;
#endif
    __shared__ float a_tile[DEPTH][TILE + 1];
    __shared__ float b_tile[DEPTH][TILE];
    __shared__ float row_norms[TILE];
    __shared__ int largest_weights[TILE];  // the bits of a float that is not negative, which order as it does
    const Place own(n);
    const int first_row = own.first_row, first_column = own.first_column, y = own.y, x = own.x;

    // What a thread loads: an element of every eighth row of A, each of a warp's lanes another; and of one column of B.
    float squares[TILE / WARPS] = {};
    float largest_weight = 0.0f;
    if (threadIdx.x < TILE) largest_weights[threadIdx.x] = 0;

    float sums[EACH][EACH] = {}, term_squares[EACH][EACH] = {};
    for (int start = 0; start < k; start += DEPTH) {
#pragma unroll
        for (int j = 0; j < TILE / WARPS; ++j) {
            const int row = threadIdx.x / DEPTH + j * WARPS, depth = threadIdx.x % DEPTH;
            const bool inside = first_row + row < m && start + depth < k;
            const float value = inside ? Element::to_float(a[static_cast<i64>(first_row + row) * k + start + depth]) : 0.0f;
            a_tile[depth][row] = value;
            squares[j] += value * value;
        }
        for (int i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
            const int depth = i / TILE, column = first_column + i % TILE;
            const float weight = start + depth < k && column < n ? weight_at(start + depth, column) : 0.0f;
            b_tile[depth][i % TILE] = weight;
            largest_weight = fmaxf(largest_weight, fabsf(weight));
        }
        __syncthreads();
        float tile_sums[EACH][EACH] = {};  // apart, so that a long k adds few roundings to the running sums
        for (int depth = 0; depth < DEPTH; ++depth) {
#pragma unroll
            for (int i = 0; i < EACH; ++i) {
#pragma unroll
                for (int j = 0; j < EACH; ++j) {
                    const float term = a_tile[depth][y + i * SIDE] * b_tile[depth][x + j * SIDE];
                    tile_sums[i][j] += term;
                    if (rounding > 0) term_squares[i][j] += term * term;
                }
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
            const int row = own.row(i), column = own.column(j);
            if (row >= m || column >= n) continue;
            const float largest = __int_as_float(largest_weights[x + j * SIDE]);
            c[static_cast<i64>(row) * n + column] = sums[i][j] * factor;
            const float of_sums = share * row_norms[y + i * SIDE] * largest;
            const float of_weights = rounding > 0 ? rounding * sqrtf(term_squares[i][j]) : 0.0f;
            allowed[static_cast<i64>(row) * n + column] = ptx::to_bf16((of_sums + of_weights) * fabsf(factor));
        }
    }
}
