// out = x + y in f32, one element a thread: what `elementwise.cu` is checked against; and by how much each element may differ
// before it is rounded: so large a share of it.
//
// x, y: [numel] of DTYPE (bf16, f16 or float); out: [numel] f32; allowed: [numel] bf16. Any grid of any size.

#include "numeric.cuh"

#ifndef DTYPE
#error "elementwise_reference.cu needs DTYPE"
#endif

extern "C" __global__ void elementwise_reference(const DTYPE* x, const DTYPE* y, float* out, bf16* allowed,
                                                 long long numel, float share) {
    const long long first = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const long long stride = static_cast<long long>(gridDim.x) * blockDim.x;
    for (long long i = first; i < numel; i += stride) {
        out[i] = to_float(x[i]) + to_float(y[i]);
        allowed[i] = ptx::to_bf16(share * fabsf(out[i]));
    }
}
