// Which tiles a program (thread block) works on, in every program order: `flat` is `persistent_interleaved` with as many
// programs as tiles.
#pragma once

struct Tiles {
    int first, end, stride;
};

// The share of this program: a contiguous run of tiles, or every so many-th one. BLOCKS neighbouring thread blocks count as
// one program.
template <int BLOCKS = 1>
__device__ __forceinline__ Tiles tiles_of_program(int tiles, int contiguous) {
    const int program = blockIdx.x / BLOCKS, programs = gridDim.x / BLOCKS;
    if (!contiguous) return {program, tiles, programs};
    // The first programs have one tile more where the tiles do not come out even.
    const int run = tiles / programs, longer = tiles % programs;
    const int first = run * program + min(program, longer);
    return {first, first + run + (program < longer), 1};
}
