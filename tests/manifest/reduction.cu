// The sum and the largest of n integers. Each of the blocks of THREADS threads puts its own into `parts`; the last to come, which
// `arrived` tells, adds them up and leaves it 0. `unused` is null.
struct Part {
    long long sum;
    long long largest;
};

__device__ Part both(Part one, Part other) {
    return {one.sum + other.sum, one.largest > other.largest ? one.largest : other.largest};
}

extern "C" __global__ void plainly(const int* values, long long* sum, int* largest, long long n) {
    Part all{0, values[0]};
    for (long long i = 0; i < n; ++i) all = both(all, {values[i], values[i]});
    *sum = all.sum;
    *largest = static_cast<int>(all.largest);
}

#ifdef THREADS
__device__ Part of_block(Part own) {
    __shared__ Part parts[THREADS];
    parts[threadIdx.x] = own;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) parts[threadIdx.x] = both(parts[threadIdx.x], parts[threadIdx.x + half]);
        __syncthreads();
    }
    return parts[0];
}

extern "C" __global__ void reduction(const int* values, long long* sum, int* largest, Part* parts, unsigned* arrived,
                                     const void* unused, long long n) {
    __shared__ bool is_last;
    Part own{0, values[0]};
    for (long long i = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x; i < n;
         i += static_cast<long long>(gridDim.x) * THREADS) {
        own = both(own, {values[i], values[i]});
    }
    own = of_block(own);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = own;
        __threadfence();
        is_last = atomicAdd(arrived, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    Part all{0, values[0]};
    for (unsigned block = threadIdx.x; block < gridDim.x; block += THREADS) all = both(all, parts[block]);
    __syncthreads();
    all = of_block(all);
    if (threadIdx.x == 0) {
        *sum = all.sum;
        *largest = static_cast<int>(all.largest);
        *arrived = 0;
    }
}
#endif
