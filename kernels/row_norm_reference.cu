// Normalized rows in f64, one warp a row: what `row_norm.cu` is checked against; and by how much each element may differ before it is
// rounded. The row's scale errs by `share` of itself, and so does each product; a mean errs by a part of the mean of |x|.
//
// x: [rows, cols], weight, bias: [cols], of DTYPE (bf16, f16 or float); y: [rows, cols] f32; allowed: [rows, cols] bf16. CENTERED, and a `bias`
// that is not read without it, as in row_norm.cu. Launch: 32 threads, any number of blocks.

#include "numeric.cuh"

#if !defined(DTYPE) || !defined(CENTERED)
#error "row_norm_reference.cu needs DTYPE and CENTERED"
#endif

extern "C" __global__ void row_norm_reference(const DTYPE* x, const DTYPE* weight, const DTYPE* bias, float* y,
                                              bf16* allowed, long long rows, int cols, float epsilon, float share) {
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const DTYPE* from = x + row * cols;

        double mean = 0, size = 0;
#if CENTERED
        for (int i = threadIdx.x; i < cols; i += 32) {
            mean += to_float(from[i]);
            size += fabs(static_cast<double>(to_float(from[i])));
        }
        mean = warp_sum(mean) / cols;
        size = warp_sum(size) / cols;
#endif
        double squares = 0;
        for (int i = threadIdx.x; i < cols; i += 32) {
            const double distance = to_float(from[i]) - mean;
            squares += distance * distance;
        }
        const double scale = 1 / sqrt(warp_sum(squares) / cols + epsilon);

        for (int i = threadIdx.x; i < cols; i += 32) {
            const double distance = to_float(from[i]) - mean, factor = scale * to_float(weight[i]);
            double value = distance * factor, err = share * fabs(factor) * (fabs(distance) + size / 4);
#if CENTERED
            value += to_float(bias[i]);
            err += share * fabs(static_cast<double>(to_float(bias[i]))) / 4;
#endif
            y[row * cols + i] = static_cast<float>(value);
            allowed[row * cols + i] = ptx::to_bf16(static_cast<float>(err));
        }
    }
}
