// y[row, col] = x[row, col] * weight[col], in row-major order. A block has NUM_WARPS warps; it takes UNROLL columns a thread,
// and every gridDim.y-th row.
//
// NUM_WARPS: warps of a block. UNROLL: columns of a thread. ELEMENT: float, or unsigned short for the bits of a bfloat16.

#ifndef NUM_WARPS
#error "NUM_WARPS is missing"
#endif

__device__ float load(float value) { return value; }
__device__ float load(unsigned short bits) { return __uint_as_float(static_cast<unsigned>(bits) << 16); }
__device__ void store(float* to, float value) { *to = value; }
// To the nearest bfloat16, ties to even. Not for NaNs.
__device__ void store(unsigned short* to, float value) {
    const unsigned bits = __float_as_uint(value);
    *to = static_cast<unsigned short>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <int UNROLL, typename ELEMENT>
__global__ void __launch_bounds__(32 * NUM_WARPS)
    scale(const ELEMENT* x, const ELEMENT* weight, ELEMENT* y, long long rows, int cols) {
    const int first = static_cast<int>(blockIdx.x) * UNROLL * 32 * NUM_WARPS + static_cast<int>(threadIdx.x);
    for (long long row = blockIdx.y; row < rows; row += gridDim.y) {
#pragma unroll
        for (int step = 0; step < UNROLL; ++step) {
            const int col = first + step * 32 * NUM_WARPS;
            if (col < cols) store(y + row * cols + col, load(x[row * cols + col]) * load(weight[col]));
        }
    }
}
