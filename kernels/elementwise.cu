// out = x + y, added in f32 and rounded once.
//
// x, y, out: [numel] contiguous, 16-byte aligned. A program works on tiles of BLOCK elements; each thread loads its share
// of both inputs in vectors of up to 16 bytes, up to BATCH of each before it uses the first.
//
// Floor: x and y read and out written once, 6 bytes an element in bf16 and 12 in f32, at the rate of a device copy; one FLOP
// an element is nothing beside it. Reached on an H200, bf16, cold L2: 2^27 elements in 187.9 us (4.29 TB/s) and 2^29 in 733 us
// (4.39 TB/s), the rate of a copy. Marking the inputs as the first to leave L2 cost 4 % there.
// Counters on an H100, 2^24 elements: 83 % of the memory's rate, 11 % of the issue slots, warps that wait for loads. 2^20
// elements are bound by the launch and one trip to memory: there a bare kernel without a loop over tiles took 6.69 us, one
// with it 6.82.
//
// Launch: NUM_WARPS * 32 threads, grid (programs), no dynamic shared memory.
//
//   DTYPE       bf16, f16 or float
//   BLOCK       elements of a tile: a power of two, at least 4 bytes a thread
//   NUM_WARPS   warps of a program
//   ONE_TILE    whether there are as many programs as tiles: 0 or 1

#include "numeric.cuh"
#include "programs.cuh"

#if !defined(DTYPE) || !defined(BLOCK) || !defined(NUM_WARPS) || !defined(ONE_TILE)
#error "elementwise.cu needs DTYPE, BLOCK, NUM_WARPS and ONE_TILE"
#endif

constexpr int THREADS = NUM_WARPS * 32;
constexpr int THREAD_BYTES = BLOCK / THREADS * static_cast<int>(sizeof(DTYPE));
constexpr int VECTOR_BYTES = THREAD_BYTES < 16 ? THREAD_BYTES : 16;
constexpr int VECTORS = THREAD_BYTES / VECTOR_BYTES;
constexpr int LARGEST_BATCH = NUM_WARPS > 16 ? 4 : 8;  // 1024 threads have 64 registers each
constexpr int BATCH = VECTORS < LARGEST_BATCH ? VECTORS : LARGEST_BATCH;

static_assert((BLOCK & (BLOCK - 1)) == 0, "BLOCK must be a power of two");
static_assert(BLOCK % THREADS == 0 && THREAD_BYTES >= 4, "a thread needs at least 4 bytes of a tile");

#include "elementwise_tiles.cuh"

__device__ __forceinline__ void add_tile(const DTYPE* x, const DTYPE* y, DTYPE* out, long long numel, long long tile) {
    const long long first = tile * BLOCK;
    if (first + BLOCK <= numel) {
        add_whole_tile(reinterpret_cast<const Pack*>(x + first), reinterpret_cast<const Pack*>(y + first),
                       reinterpret_cast<Pack*>(out + first));
    } else {
        for (long long i = first + threadIdx.x; i < numel; i += THREADS) {
            out[i] = from_float<DTYPE>(to_float(x[i]) + to_float(y[i]));
        }
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
