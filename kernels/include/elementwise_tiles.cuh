// out = x + y on one whole tile: what the elementwise kernels share. Before it is included THREADS, DTYPE, VECTOR_BYTES, VECTORS
// (of a thread's share of the tile) and BATCH (of those, loaded of each input before the first is used) are defined.
#pragma once

#include "numeric.cuh"

using Pack = Vector<DTYPE, VECTOR_BYTES>;

__device__ __forceinline__ Pack add(const Pack& x, const Pack& y) {
    float sums[Pack::WIDTH], terms[Pack::WIDTH];
    x.unpack(sums);
    y.unpack(terms);
#pragma unroll
    for (int i = 0; i < Pack::WIDTH; ++i) sums[i] += terms[i];
    Pack out;
    out.pack(sums);
    return out;
}

// No `__restrict__`: a store that may alias the inputs keeps the compiler from moving loads of the batch behind it.
__device__ __forceinline__ void add_whole_tile(const Pack* x, const Pack* y, Pack* out) {
#pragma unroll 1
    for (int batch = 0; batch < VECTORS; batch += BATCH) {
        Pack xs[BATCH], ys[BATCH];
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            xs[i] = x[(batch + i) * THREADS + threadIdx.x];
            ys[i] = y[(batch + i) * THREADS + threadIdx.x];
        }
#pragma unroll
        for (int i = 0; i < BATCH; ++i) out[(batch + i) * THREADS + threadIdx.x] = add(xs[i], ys[i]);
    }
}
