// Row softmax with faults: which one is by ROWS. For tests of what a fault costs; see tests/faults.rs.
//
//   ROWS 2     leaves a wrong result, and its inputs overwritten
//   ROWS 8     never ends
//   ROWS 16    writes far out of bounds
//   ROWS 32    traps
//   ROWS 64    asks for more shared memory than there is, beside the dynamic one of its launch
//   ROWS 128   never ends compiling
//   other      the kernel as it should be

#include "numeric.cuh"

#define PARAMETERS const DTYPE *x, DTYPE *y, long long rows, int cols, int step_vectors, int chunks, int contiguous

#if ROWS == 2
extern "C" __global__ void row_softmax(PARAMETERS) {
    const long long first = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    for (long long i = first; i < rows * cols; i += static_cast<long long>(gridDim.x) * blockDim.x) {
        const_cast<DTYPE*>(x)[i] = y[i] = from_float<DTYPE>(1.0f);
    }
}
#elif ROWS == 8
extern "C" __global__ void row_softmax(PARAMETERS) {
    volatile DTYPE* const out = y;
    while (true) out[0] = from_float<DTYPE>(1.0f);
}
#elif ROWS == 16
extern "C" __global__ void row_softmax(PARAMETERS) { y[1ll << 40] = from_float<DTYPE>(1.0f); }
#elif ROWS == 32
extern "C" __global__ void row_softmax(PARAMETERS) { __trap(); }
#elif ROWS == 64
extern "C" __global__ void row_softmax(PARAMETERS) {
    __shared__ volatile int much[12 << 10];
    much[threadIdx.x] = cols;
    y[0] = from_float<DTYPE>(static_cast<float>(much[threadIdx.x ^ 1]));
}
#elif ROWS == 128
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
