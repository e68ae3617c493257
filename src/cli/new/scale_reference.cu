// What scale.cu computes, as plainly as can be, in f32. DTYPE: the type of x and weight; IS_BF16: whether they are bits of bfloat16.

__device__ float load(DTYPE value) {
#if IS_BF16
    return __uint_as_float(static_cast<unsigned>(value) << 16);
#else
    return value;
#endif
}

extern "C" __global__ void scale_reference(const DTYPE* x, const DTYPE* weight, float* y, long long rows, int cols) {
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        for (int col = threadIdx.x; col < cols; col += blockDim.x) {
            y[row * cols + col] = load(x[row * cols + col]) * load(weight[col]);
        }
    }
}
