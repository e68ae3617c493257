// y = softmax(x) over the last axis in f64, one warp a row: what `row_softmax.cu` is checked against.
//
// x: [rows, cols] of DTYPE (bf16 or float); y: [rows, cols] f32. Launch: 32 threads, any number of blocks.

#include "numeric.cuh"

#ifndef DTYPE
#error "row_softmax_reference.cu needs DTYPE"
#endif

__device__ double warp_maximum(double value) {
    for (int distance = 16; distance > 0; distance /= 2) value = fmax(value, __shfl_xor_sync(0xffffffffu, value, distance));
    return value;
}

extern "C" __global__ void row_softmax_reference(const DTYPE* x, float* y, long long rows, int cols) {
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const DTYPE* from = x + row * cols;
        float* to = y + row * cols;

        double maximum = to_float(from[0]);
        for (int i = threadIdx.x; i < cols; i += 32) maximum = fmax(maximum, static_cast<double>(to_float(from[i])));
        maximum = warp_maximum(maximum);

        double sum = 0;
        for (int i = threadIdx.x; i < cols; i += 32) sum += exp(to_float(from[i]) - maximum);
        sum = warp_sum(sum);

        for (int i = threadIdx.x; i < cols; i += 32) to[i] = static_cast<float>(exp(to_float(from[i]) - maximum) / sum);
    }
}
