// Row softmax with faults: which one is by NUM_STAGES. For tests of what a fault costs; see tests/faults.rs.
//
//   NUM_STAGES 2   leaves a wrong result, and its inputs overwritten
//   NUM_STAGES 4   never ends
//   NUM_STAGES 5   writes far out of bounds
//   NUM_STAGES 6   traps
//   NUM_STAGES 7   never ends compiling
//   NUM_STAGES 9   asks for more shared memory than there is, beside the dynamic one of its launch
//   other          the kernel as it should be

#include "numeric.cuh"

#define PARAMETERS const DTYPE *x, DTYPE *y, long long rows, int cols, int, int, int

#if NUM_STAGES == 2
extern "C" __global__ void row_softmax(PARAMETERS) {
    const long long first = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    for (long long i = first; i < rows * cols; i += static_cast<long long>(gridDim.x) * blockDim.x) {
        const_cast<DTYPE*>(x)[i] = y[i] = from_float<DTYPE>(1.0f);
    }
}
#elif NUM_STAGES == 4
extern "C" __global__ void row_softmax(PARAMETERS) {
    volatile DTYPE* const out = y;
    while (true) out[0] = from_float<DTYPE>(1.0f);
}
#elif NUM_STAGES == 5
extern "C" __global__ void row_softmax(PARAMETERS) { y[1ll << 40] = from_float<DTYPE>(1.0f); }
#elif NUM_STAGES == 6
extern "C" __global__ void row_softmax(PARAMETERS) { __trap(); }
#elif NUM_STAGES == 9
extern "C" __global__ void row_softmax(PARAMETERS) {
    __shared__ volatile int much[12 << 10];
    much[threadIdx.x] = cols;
    y[0] = from_float<DTYPE>(static_cast<float>(much[threadIdx.x ^ 1]));
}
#elif NUM_STAGES == 7
// Each call of `work` is evaluated by the compiler, and there are a million different ones.
template <int N>
constexpr unsigned work() {
    unsigned sum = N;
    for (unsigned i = 0; i < 100000; ++i) sum ^= i * N;
    return sum;
}
template <int FIRST, int COUNT>
constexpr unsigned all_work() {
    if constexpr (COUNT == 1) {
        constexpr unsigned sum = work<FIRST>();
        return sum;
    } else {
        return all_work<FIRST, COUNT / 2>() ^ all_work<FIRST + COUNT / 2, COUNT - COUNT / 2>();
    }
}
extern "C" __global__ void row_softmax(PARAMETERS) { y[0] = from_float<DTYPE>(static_cast<float>(all_work<0, 1 << 20>())); }
#else
#include "row_softmax_as_it_should_be.cuh"
#endif
