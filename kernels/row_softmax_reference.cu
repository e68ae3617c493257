// y = softmax(x) over the last axis in f64, one warp a row: what `row_softmax.cu` is checked against; and by how much each
// element may differ before it is rounded: y * (share + slope * (max - x)).
//
// x: [rows, cols] of DTYPE (bf16, f16 or float); y: [rows, cols] f32; allowed: [rows, cols] bf16. Launch: 32 threads, any number
// of blocks.

#include "numeric.cuh"

#ifndef DTYPE
#error "row_softmax_reference.cu needs DTYPE"
#endif

// Further from the maximum than this, the result is 0 in f32.
constexpr double FURTHEST = 128;

extern "C" __global__ void row_softmax_reference(const DTYPE* x, float* y, bf16* allowed, long long rows, int cols,
                                                 float share, float slope) {
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const DTYPE* from = x + row * cols;

        double maximum = to_float(from[0]);
        for (int i = threadIdx.x; i < cols; i += 32) maximum = fmax(maximum, static_cast<double>(to_float(from[i])));
        maximum = warp_maximum(maximum);

        double sum = 0;
        for (int i = threadIdx.x; i < cols; i += 32) sum += exp(to_float(from[i]) - maximum);
        sum = warp_sum(sum);

        for (int i = threadIdx.x; i < cols; i += 32) {
            const double distance = maximum - to_float(from[i]);
            const double value = exp(-distance) / sum;
            y[row * cols + i] = static_cast<float>(value);
            allowed[row * cols + i] = ptx::to_bf16(static_cast<float>(value * (share + slope * fmin(distance, FURTHEST))));
        }
    }
}
