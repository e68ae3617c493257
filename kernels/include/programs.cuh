// Which tiles a program (thread block) works on, in every program order: `flat` is `persistent_interleaved` with as many
// programs as tiles.
#pragma once

struct Tiles {
    long long first, end, stride;
};

// The share of this program: a contiguous run of tiles, or every gridDim.x-th one.
__device__ __forceinline__ Tiles tiles_of_program(long long tiles, int contiguous) {
    if (!contiguous) return {blockIdx.x, tiles, gridDim.x};
    const long long run = (tiles + gridDim.x - 1) / gridDim.x;
    const long long first = run * blockIdx.x;
    return {first, min(first + run, tiles), 1};
}
