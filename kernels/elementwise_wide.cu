// out = x + y, added in f32 and rounded once, in vectors of 32 bytes. Needs sm_100.
//
// THIS KERNEL HAS NEVER RUN ON A GPU.
//
// x, y, out: [numel] contiguous, 32-byte aligned. A program works on tiles of BLOCK elements; each thread loads its share of both
// inputs in vectors of 32 bytes (`ld.global.v8.f32`), up to BATCH of each before it uses the first. The last tile's whole vectors
// go the same way.
//
// Floor: x and y read and out written once, 6 bytes an element in bf16 and 12 in f32.
// On paper, for a B200: two thirds of 8 TB/s are read, and a trip to memory is taken to be a microsecond under load, so 5.3 MB
// must be on their way at any time, 36 KB for each of 148 multiprocessors. A thread asks for 128 bytes at once and takes 48
// registers at most, so 1280 threads have room and 160 KB are asked for; with one vector of each input, 2048 and 128 KB. Half
// of that would do: what is gained by wider vectors is half of the instructions and of the requests to L1 for as many bytes.
// 2^27 elements are predicted to take 101 us, 2^29 403 us and 2^24 13 us beside the launch.
//
// Launch: NUM_WARPS * 32 threads, grid (programs), no dynamic shared memory.
//
//   DTYPE       bf16, f16 or float
//   BLOCK       elements of a tile: a power of two, at least 32 bytes a thread
//   NUM_WARPS   warps of a program
//   ONE_TILE    whether there are as many programs as tiles: 0 or 1

#include "numeric.cuh"
#include "programs.cuh"

#if !defined(DTYPE) || !defined(BLOCK) || !defined(NUM_WARPS) || !defined(ONE_TILE)
#error "elementwise_wide.cu needs DTYPE, BLOCK, NUM_WARPS and ONE_TILE"
#endif

constexpr int THREADS = NUM_WARPS * 32;
constexpr int THREAD_BYTES = BLOCK / THREADS * static_cast<int>(sizeof(DTYPE));
constexpr int VECTOR_BYTES = 32;
constexpr int VECTORS = THREAD_BYTES / VECTOR_BYTES;
constexpr int BATCH = VECTORS < 2 ? VECTORS : 2;

static_assert((BLOCK & (BLOCK - 1)) == 0, "BLOCK must be a power of two");
static_assert(BLOCK % THREADS == 0 && THREAD_BYTES >= VECTOR_BYTES, "a thread needs at least 32 bytes of a tile");

#include "elementwise_tiles.cuh"

__device__ __forceinline__ void add_tile(const DTYPE* x, const DTYPE* y, DTYPE* out, long long numel, long long tile) {
    const long long first = tile * BLOCK;
    const Pack* xs = reinterpret_cast<const Pack*>(x + first);
    const Pack* ys = reinterpret_cast<const Pack*>(y + first);
    Pack* outs = reinterpret_cast<Pack*>(out + first);
    if (first + BLOCK <= numel) {
        add_whole_tile(xs, ys, outs);
        return;
    }
    const int left = static_cast<int>(numel - first), vectors = left / Pack::WIDTH;
    for (int i = threadIdx.x; i < vectors; i += THREADS) outs[i] = add(xs[i], ys[i]);
    for (int i = vectors * Pack::WIDTH + threadIdx.x; i < left; i += THREADS) {
        out[first + i] = from_float<DTYPE>(to_float(x[first + i]) + to_float(y[first + i]));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
elementwise(const DTYPE* x, const DTYPE* y, DTYPE* out, long long numel, int contiguous) {
    if constexpr (ONE_TILE) {
        add_tile(x, y, out, numel, blockIdx.x);
    } else {
        const Tiles tiles = tiles_of_program(static_cast<int>((numel + BLOCK - 1) / BLOCK), contiguous);
        for (long long tile = tiles.first; tile < tiles.end; tile += tiles.stride) add_tile(x, y, out, numel, tile);
    }
}
