// loss = log(sum(exp(x))) - x[target] for each row, in f32: what a model that predicted logits x is to be told. A row whose target is
// no column (PyTorch's ignore_index, -100) has loss 0.
//
// x: [rows, cols] of DTYPE, contiguous, 16-byte aligned as a whole; a row need not be. targets: [rows], integers of TARGET_BYTES.
// loss: [rows] f32. A row is read once, as its aligned window: the 16-byte vectors that hold any of it. What the first and the last
// vector hold of other rows is masked. A row of -inf alone, and one with a NaN or +inf in it, has a loss of NaN.
//
// A tile is ROWS rows, dealt out evenly to the threads of a program: each row has NUM_WARPS * 32 / ROWS lanes, several warps or a
// part of one, and each lane takes VECTORS vectors a step, from which it updates the largest logit it has seen and the sum of
// exponentials beside it. With NUM_STAGES 2 the next step, or the first of the next row, is on its way meanwhile. With SPLIT > 1 that
// many programs, a thread block cluster, have a row between them, `share` vectors each, and exchange what they have seen through
// distributed shared memory.
//
// Floor: each logit read once, 2 bytes in 16-bit types and 4 in f32, at the rate at which memory is read. One exponential an element:
// at 4.5 TB/s and 132 multiprocessors of 1.7 GHz, 10 elements of bf16 a cycle of the 16 that the unit for them takes.
//
// Launch: NUM_WARPS * 32 threads, grid (programs * SPLIT) in clusters of SPLIT, no dynamic shared memory.
//   share        vectors of a row that a program has: of the widest window
//   steps        steps of VECTORS * lanes vectors that cover the share
//   contiguous   see programs.cuh
//
//   DTYPE         bf16, f16 or float
//   TARGET_BYTES  of a target: 4 or 8
//   ALIGNED       whether rows are multiples of 16 bytes: 0 or 1
//   ROWS          rows of a tile, a power of two; 1 where SPLIT is not
//   NUM_WARPS     warps of a program, a power of two up to 32
//   VECTORS       16-byte vectors that a lane takes a step: 1 to 8
//   NUM_STAGES    1 or 2, as above
//   SPLIT         programs of a row, a power of two up to 8; more than 1 needs sm_90

#include "numeric.cuh"
#include "programs.cuh"

#if !defined(DTYPE) || !defined(TARGET_BYTES) || !defined(ALIGNED) || !defined(ROWS) || !defined(NUM_WARPS) || \
    !defined(VECTORS) || !defined(NUM_STAGES) || !defined(SPLIT)
#error "row_cross_entropy.cu needs DTYPE, TARGET_BYTES, ALIGNED, ROWS, NUM_WARPS, VECTORS, NUM_STAGES and SPLIT"
#endif

constexpr int VECTOR_BYTES = 16;

#include "softmax_rows.cuh"

static_assert(TARGET_BYTES == 4 || TARGET_BYTES == 8, "TARGET_BYTES: 4 or 8");
static_assert(VECTORS >= 1 && VECTORS <= 8, "VECTORS: 1 to 8");
static_assert(NUM_STAGES == 1 || NUM_STAGES == 2, "NUM_STAGES: 1 or 2");

// Programs that a multiprocessor is to hold, of 65536 registers: with those of a lane's vectors and what else it needs.
constexpr int REGISTERS = 64 + 8 * NUM_STAGES * VECTORS;
constexpr int RESIDENT = 65536 / (REGISTERS * NUM_WARPS * 32);

#if TARGET_BYTES == 4
using Target = int;
#else
using Target = long long;
#endif

// Asks for a lane's vectors from `first` on; -inf for those that are none of the row's. The last vector of all may go beyond the
// tensor, but never beyond its 16 bytes.
__device__ __forceinline__ void request(Pack (&packs)[VECTORS], const DTYPE* x, const Window& window, int first,
                                        unsigned long long last_use) {
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int vector = first + i * LANES;
#pragma unroll
        for (int word = 0; word < Pack::WORDS; ++word) packs[i].words[word] = MINUS_INFINITY<DTYPE>;
        if (vector < window.vectors) {
            ptx::load_streaming(packs[i].words, x + window.first + static_cast<long long>(vector) * WIDTH, last_use);
        }
    }
}

// Takes in a step's vectors.
__device__ __forceinline__ void accumulate(Statistics& seen, Pack (&packs)[VECTORS], const Window& window, int first,
                                           int cols) {
    float maximum = seen.maximum;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int vector = first + i * LANES, column = window.column + vector * WIDTH;
        float values[WIDTH];
        packs[i].unpack(values);
        if (!ALIGNED && vector < window.vectors && !is_whole(column, cols)) {
            mask(values, column, cols);
            packs[i].pack(values);
        }
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) maximum = fmaxf(maximum, values[j]);
        // Kept packed, not as floats: the compiler does not see that these are the words from before.
#pragma unroll
        for (int word = 0; word < Pack::WORDS; ++word) asm volatile("" : "+r"(packs[i].words[word]));
    }
    const float origin = finite_or_zero(maximum);
    float sum = seen.sum * exp_of(seen.maximum - origin);
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        float values[WIDTH];
        packs[i].unpack(values);
        // Neither one long chain of additions nor many sums side by side.
        float here = 0.0f;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) here += exp_of(values[j] - origin);
        sum += here;
    }
    seen = {maximum, sum};
}

extern "C" __global__ void __launch_bounds__(NUM_WARPS * 32, RESIDENT < 1 ? 1 : RESIDENT < 32 ? RESIDENT : 32)
row_cross_entropy(const DTYPE* x, const Target* targets, float* loss, long long rows, int cols, int share, int steps,
                  int contiguous) {
    constexpr int STEP = VECTORS * LANES;
    // A program's shared memory may be written to once it runs.
    if constexpr (SPLIT > 1) ptx::cluster_sync();
    const int group = ROWS > 1 ? threadIdx.x / LANES : 0;
    const int lane = ROWS > 1 ? threadIdx.x % LANES : threadIdx.x;
    const Tiles tiles = tiles_of_program<SPLIT>(static_cast<int>((rows + ROWS - 1) / ROWS), contiguous);
    const unsigned long long last_use = ptx::evict_first_policy();
    const auto window_of = [&](long long tile) {
        return Window(tile < tiles.end ? tile * ROWS + group : rows, rows, cols, share);
    };
    Window window = window_of(tiles.first);
    Pack packs[VECTORS];
    request(packs, x, window, lane, last_use);
    int parity = 0;
    for (long long tile = tiles.first; tile < tiles.end; tile += tiles.stride, parity ^= 1) {
        const long long row = tile * ROWS + group;
        const bool writes = lane == 0 && blockIdx.x % SPLIT == 0 && row < rows;
        // Two trips to memory, one for the target and one for its logit, while the row is on its way.
        const Target target = writes ? targets[row] : Target(-1);
        const bool counts = target >= 0 && target < cols;
        const float wanted = counts ? to_float(x[row * cols + target]) : 0.0f;

        const Window following = window_of(tile + tiles.stride);
        Statistics seen{-INFINITE, 0.0f};
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            const int first = step * STEP + lane;
            const bool is_last = step + 1 == steps;
            Window source = window;
            if (is_last) source = following;
            const int next_first = is_last ? lane : first + STEP;
            Pack next[VECTORS];
            if constexpr (NUM_STAGES == 2) request(next, x, source, next_first, last_use);
            accumulate(seen, packs, window, first, cols);
            if constexpr (NUM_STAGES == 1) request(next, x, source, next_first, last_use);
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) packs[i] = next[i];
        }
        const Statistics whole = merge_warps(merge_lanes<WARP_LANES>(seen), group, lane, parity);
        if (writes) {
            const float all = finite_or_zero(whole.maximum) + logf(whole.sum);
            loss[row] = counts ? all - wanted : 0.0f;
        }
        window = following;
    }
}
