// loss = log(sum(exp(x))) - x[target] in f64, one warp a row: what `row_cross_entropy.cu` is checked against; and by how much each
// loss may differ before it is rounded: the sum errs by `share` of itself, which is as much of its logarithm as a number, and what is
// added up by a few roundings.
//
// x: [rows, cols] of DTYPE (bf16, f16 or float); targets: [rows] of TARGET_BYTES; loss: [rows] f32; allowed: [rows] bf16. Launch: 32
// threads, any number of blocks.

#include "numeric.cuh"

#if !defined(DTYPE) || !defined(TARGET_BYTES)
#error "row_cross_entropy_reference.cu needs DTYPE and TARGET_BYTES"
#endif

#if TARGET_BYTES == 4
using Target = int;
#else
using Target = long long;
#endif

// So many roundings of f32, relative to each number that is added up.
constexpr double ROUNDINGS = 4 * 1.1920928955078125e-7;

extern "C" __global__ void row_cross_entropy_reference(const DTYPE* x, const Target* targets, float* loss, bf16* allowed,
                                                       long long rows, int cols, float share) {
    for (long long row = blockIdx.x; row < rows; row += gridDim.x) {
        const DTYPE* from = x + row * cols;

        double maximum = to_float(from[0]);
        for (int i = threadIdx.x; i < cols; i += 32) maximum = fmax(maximum, static_cast<double>(to_float(from[i])));
        maximum = warp_maximum(maximum);

        double sum = 0;
        for (int i = threadIdx.x; i < cols; i += 32) sum += exp(to_float(from[i]) - maximum);
        sum = warp_sum(sum);

        if (threadIdx.x != 0) continue;
        const Target target = targets[row];
        const bool counts = target >= 0 && target < cols;
        const double wanted = counts ? to_float(from[target]) : 0.0, all = maximum + log(sum);
        loss[row] = counts ? static_cast<float>(all - wanted) : 0.0f;
        allowed[row] = ptx::to_bf16(static_cast<float>(share + ROUNDINGS * (fabs(all) + fabs(wanted) + fabs(maximum))));
    }
}
