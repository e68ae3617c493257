// y = factor * x, PER_THREAD neighbours a thread. scaled_1.ptx and scaled_4.ptx are this for compute_80, compiled ahead.
extern "C" __global__ void scaled(float* y, const float* x, float factor, long long n) {
    const long long first = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * PER_THREAD;
#pragma unroll
    for (int i = 0; i < PER_THREAD; ++i) {
        if (first + i < n) y[first + i] = factor * x[first + i];
    }
}
