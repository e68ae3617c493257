// y = softmax(x) over the last axis: exp(x - max) / sum(exp(x - max)), in f32, rounded once. A row of -inf alone, and a
// row with a NaN or +inf in it, is all NaN.
//
// x, y: [rows, cols] contiguous, 16-byte aligned as a whole; a row need not be. A row is worked on as its aligned window:
// the 16-byte vectors that hold any of it. What the first and the last vector hold of other rows is masked.
//
// A tile is ROWS rows, dealt out evenly to the threads of a program: each row has NUM_WARPS * 32 / ROWS lanes, several
// warps or a part of one. A row is kept where it fits:
//   VECTORS > 0                  in registers: VECTORS vectors a lane. Read once, one exponential an element.
//   VECTORS 0 and NUM_STAGES 0   in shared memory. As a vector is written out, the next row's takes its place, so that
//                                a program with several rows always has one on its way. Read once.
//   NUM_STAGES > 0               nowhere: it goes through a ring of NUM_STAGES slots, in steps of `share` vectors, once to
//                                find maximum and sum, and once more, last step first so that L2 still holds it, to
//                                write the result.
// With SPLIT > 1 that many programs, a thread block cluster, have a row between them, `share` vectors each, and exchange
// their maxima and sums through distributed shared memory.
//
// Floor: each element read and written once, 4 bytes an element in bf16 and 8 in f32, at the rate of a device copy; 5 FLOPs
// an element are nothing beside it, and the exponentials, one or two an element, take up to half of their units' time.
//
// Reached on an H200, cold L2, bf16: 65536 x 4096 in 274 us (3.92 TB/s), 8192 x 32768 in 280 us (3.84), 65536 x 1024 in 71 us
// (3.78), 4096 x 131072 in 579 us (3.71), where a copy of as much reaches 4.2. What is missing is the time in which a row's
// maximum and sum are being found and neither loads nor stores of that program are under way.
// On an H100, beside a copy of as many bytes in the same run: 2048 x 8192 in 27.0 us (copy 26.9), 65536 x 1024 in 96.0
// (93.4), 8192 x 32768 in 369 (360), 4096 x 131072 in 748 (713). Counters there: 85 % of the memory's rate on the large ones,
// half of the issue slots used, and warps that wait for loads; in 4096 x 131072 as many wait at memory barriers. Exchanging
// statistics by asynchronous stores instead of the cluster's barrier took 775 us there, and fetching the next row into shared
// memory while one in registers is worked on gained nothing.
//
// Launch: NUM_WARPS * 32 threads, grid (programs * SPLIT) in clusters of SPLIT, dynamic shared memory: none with VECTORS > 0,
// ROWS * share * 16 bytes for whole rows, ROWS * NUM_STAGES * share * 16 for steps. A thread reads back only what it copied
// itself, so slots need no barrier.
//   share        vectors of a row that a program holds: of the widest window, or of a step
//   steps        steps that cover the widest window
//   contiguous   see programs.cuh
//
//   DTYPE        bf16, f16 or float
//   ALIGNED      whether rows are multiples of 16 bytes: 0 or 1
//   ROWS         rows of a tile, a power of two; no more than warps where VECTORS is 0, 1 where SPLIT is not
//   NUM_WARPS    warps of a program, a power of two up to 32
//   VECTORS      16-byte vectors that a lane keeps in registers, or 0
//   NUM_STAGES   slots of the ring, or 0
//   SPLIT        programs of a row, a power of two up to 8; more than 1 needs sm_90

#include "numeric.cuh"
#include "programs.cuh"
#include "streaming.cuh"
#include "tma.cuh"

#if !defined(DTYPE) || !defined(ALIGNED) || !defined(ROWS) || !defined(NUM_WARPS) || !defined(VECTORS) || \
    !defined(NUM_STAGES) || !defined(SPLIT)
#error "row_softmax.cu needs DTYPE, ALIGNED, ROWS, NUM_WARPS, VECTORS, NUM_STAGES and SPLIT"
#endif

constexpr int VECTOR_BYTES = 16;

#include "softmax_rows.cuh"

static_assert(VECTORS > 0 ? NUM_STAGES == 0 : ROWS <= NUM_WARPS, "a row is in registers, or has whole warps");
static_assert(SPLIT == 1 || NUM_STAGES == 0, "programs that share a row keep it");

#if VECTORS > 0

__device__ __forceinline__ void softmax_tiles(const DTYPE* x, DTYPE* y, long long rows, int cols, int share, int,
                                              const Tiles& tiles, int group, int lane) {
    const unsigned long long last_use = ptx::evict_first_policy();
    int parity = 0;
    for (long long tile = tiles.first; tile < tiles.end; tile += tiles.stride, parity ^= 1) {
        const Window window(tile * ROWS + group, rows, cols, share);
        const DTYPE* source = x + window.first + lane * WIDTH;
        // All loads are under way before the first is used.
        Pack packs[VECTORS];
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const int vector = lane + i * LANES;
#pragma unroll
            for (int word = 0; word < Pack::WORDS; ++word) packs[i].words[word] = MINUS_INFINITY<DTYPE>;
            // The last vector of all may go beyond the tensor, but never beyond its 16 bytes.
            if (vector < window.vectors) ptx::load_streaming(packs[i].words, source + i * LANES * WIDTH, last_use);
        }
        float values[VECTORS][WIDTH], maximum = -INFINITE;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            packs[i].unpack(values[i]);
            const int vector = lane + i * LANES;
            if (vector < window.vectors) mask(values[i], window.column + vector * WIDTH, cols);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) maximum = fmaxf(maximum, values[i][j]);
        }
        maximum = maximum_of_lanes<WARP_LANES>(maximum);
        const float origin = finite_or_zero(maximum);
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) sum += values[i][j] = exp_of(values[i][j] - origin);
        }
        sum = sum_of_lanes<WARP_LANES>(sum);
        const Statistics whole = merge_warps({maximum, sum}, group, lane, parity);
        // From the warp's maximum to the row's. Not `origin`: a warp of -inf in another row gets 0, not 0 * inf.
        const float scale = exp_of(maximum - finite_or_zero(whole.maximum)) / whole.sum;
        DTYPE* out = y + window.first + lane * WIDTH;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const int vector = lane + i * LANES;
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) values[i][j] *= scale;
            if (vector < window.vectors) store(out + i * LANES * WIDTH, values[i], window.column + vector * WIDTH, cols);
        }
    }
}

#else

constexpr int BATCH = 16 / WIDTH;  // vectors taken in at a time

// Takes in `count` vectors of a slot; the first starts at `first_column`.
__device__ __forceinline__ void accumulate(Statistics& seen, unsigned slot, int count, int first_column, int cols,
                                           int lane) {
    for (int base = lane; base < count; base += LANES * BATCH) {
        float values[BATCH][WIDTH];
        float maximum = seen.maximum;
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            const int vector = base + i * LANES;
            Pack pack;
            ptx::load_shared(pack.words, slot + (vector < count ? vector : base) * 16);
            pack.unpack(values[i]);
            mask(values[i], first_column + (vector < count ? vector : base) * WIDTH, cols);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) {
                if (vector >= count) values[i][j] = -INFINITE;
                maximum = fmaxf(maximum, values[i][j]);
            }
        }
        const float origin = finite_or_zero(maximum);
        float sum = seen.sum * exp_of(seen.maximum - origin);
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) sum += exp_of(values[i][j] - origin);
        }
        seen = {maximum, sum};
    }
}

// Writes the result for a vector of a slot.
__device__ __forceinline__ void normalize(DTYPE* out, unsigned slot, const Statistics& row, float scale, int column,
                                          int cols) {
    float values[WIDTH];
    Pack pack;
    ptx::load_shared(pack.words, slot);
    pack.unpack(values);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) values[j] = exp_of(values[j] - row.maximum) * scale;
    store(out, values, column, cols);
}

#if NUM_STAGES == 0

__device__ __forceinline__ void softmax_tiles(const DTYPE* x, DTYPE* y, long long rows, int cols, int share, int,
                                              const Tiles& tiles, int group, int lane) {
    extern __shared__ __align__(16) unsigned char slots[];
    const unsigned slot = ptx::shared_address(slots) + group * share * 16;
    const unsigned long long last_use = ptx::evict_first_policy();
    const auto window_of = [&](long long tile) {
        return Window(tile < tiles.end ? tile * ROWS + group : rows, rows, cols, share);
    };
    const auto fetch = [&](const Window& window, int vector) {
        const int source_bytes = min(WIDTH, cols - window.column - vector * WIDTH) * static_cast<int>(sizeof(DTYPE));
        ptx::cp_async_16(slot + vector * 16, x + window.first + static_cast<long long>(vector) * WIDTH, source_bytes,
                         last_use);
    };

    Window window = window_of(tiles.first);
    for (int vector = lane; vector < window.vectors; vector += LANES) fetch(window, vector);
    ptx::cp_async_commit();
    int parity = 0;
    for (long long tile = tiles.first; tile < tiles.end; tile += tiles.stride, parity ^= 1) {
        const Window next = window_of(tile + tiles.stride);
        ptx::cp_async_wait<0>();
        Statistics seen{-INFINITE, 0.0f};
        accumulate(seen, slot, window.vectors, window.column, cols, lane);
        const Statistics whole = merge_warps(merge_lanes<32>(seen), group, lane, parity);
        const float scale = 1.0f / whole.sum;
        DTYPE* out = y + window.first;
        const int both = max(window.vectors, next.vectors);
#pragma unroll 2
        for (int vector = lane; vector < both; vector += LANES) {
            if (vector < window.vectors) {
                normalize(out + static_cast<long long>(vector) * WIDTH, slot + vector * 16, whole, scale,
                          window.column + vector * WIDTH, cols);
            }
            if (vector < next.vectors) fetch(next, vector);
        }
        ptx::cp_async_commit();
        window = next;
    }
}

#else

// A place in the sequence of steps of one group of warps.
struct Cursor {
    long long tile;
    int step;

    __device__ __forceinline__ void advance(int steps_per_row, long long tile_stride) {
        if (++step < steps_per_row) return;
        step = 0;
        tile += tile_stride;
    }
};

__device__ __forceinline__ void softmax_tiles(const DTYPE* x, DTYPE* y, long long rows, int cols, int share, int steps,
                                              const Tiles& tiles, int group, int lane) {
    extern __shared__ __align__(16) unsigned char ring[];
    const int slot_bytes = share * 16;
    const unsigned slots = ptx::shared_address(ring) + group * NUM_STAGES * slot_bytes;
    const unsigned long long last_use = ptx::evict_first_policy();
    const auto first_vector_of = [&](int step) { return min(step, 2 * steps - 1 - step) * share; };
    const auto window_of = [&](long long tile) { return Window(tile * ROWS + group, rows, cols, share); };

    // The producer runs NUM_STAGES - 1 steps ahead of the consumer; both take the slots in turn.
    Cursor producer{tiles.first, 0};
    int producer_slot = 0, consumer_slot = 0;

    const auto produce = [&] {
        if (producer.tile < tiles.end) {
            const Window window = window_of(producer.tile);
            const int first_vector = first_vector_of(producer.step);
            const int count = min(share, window.vectors - first_vector);
            const unsigned slot = slots + producer_slot * slot_bytes;
            const DTYPE* source = x + window.first + static_cast<long long>(first_vector) * WIDTH;
            const int elements = cols - window.column - first_vector * WIDTH;
            const bool read_again = producer.step < steps;
            for (int vector = lane; vector < count; vector += LANES) {
                const int source_bytes = min(WIDTH, elements - vector * WIDTH) * static_cast<int>(sizeof(DTYPE));
                if (read_again) {
                    ptx::cp_async<16>(slot + vector * 16, source + vector * WIDTH, source_bytes);
                } else {
                    ptx::cp_async_16(slot + vector * 16, source + vector * WIDTH, source_bytes, last_use);
                }
            }
        }
        ptx::cp_async_commit();
        producer.advance(2 * steps, tiles.stride);
        producer_slot = producer_slot + 1 < NUM_STAGES ? producer_slot + 1 : 0;
    };
    // Starts the next copy and waits for the consumer's; returns the slot it is in.
    const auto next_slot = [&] {
        produce();
        ptx::cp_async_wait<NUM_STAGES - 1>();
        const unsigned slot = slots + consumer_slot * slot_bytes;
        consumer_slot = consumer_slot + 1 < NUM_STAGES ? consumer_slot + 1 : 0;
        return slot;
    };

    for (int stage = 0; stage < NUM_STAGES - 1; ++stage) produce();

    int parity = 0;
    for (long long tile = tiles.first; tile < tiles.end; tile += tiles.stride, parity ^= 1) {
        const Window window = window_of(tile);
        Statistics seen{-INFINITE, 0.0f};
        for (int step = 0; step < steps; ++step) {
            const int first_vector = step * share;
            accumulate(seen, next_slot(), min(share, window.vectors - first_vector),
                       window.column + first_vector * WIDTH, cols, lane);
        }
        const Statistics whole = merge_warps(merge_lanes<32>(seen), group, lane, parity);
        const float scale = 1.0f / whole.sum;
        for (int step = steps - 1; step >= 0; --step) {
            const unsigned slot = next_slot();
            const int first_vector = step * share;
            const int count = min(share, window.vectors - first_vector);
            DTYPE* out = y + window.first + static_cast<long long>(first_vector) * WIDTH;
#pragma unroll 2
            for (int vector = lane; vector < count; vector += LANES) {
                normalize(out + static_cast<long long>(vector) * WIDTH, slot + vector * 16, whole, scale,
                          window.column + (first_vector + vector) * WIDTH, cols);
            }
        }
    }
}

#endif
#endif

extern "C" __global__ void __launch_bounds__(NUM_WARPS * 32)
row_softmax(const DTYPE* x, DTYPE* y, long long rows, int cols, int share, int steps, int contiguous) {
    // A program's shared memory may be written to once it runs.
    if constexpr (SPLIT > 1) ptx::cluster_sync();
    const int group = ROWS > 1 ? threadIdx.x / LANES : 0;
    const int lane = ROWS > 1 ? threadIdx.x % LANES : threadIdx.x;
    const Tiles tiles = tiles_of_program<SPLIT>(static_cast<int>((rows + ROWS - 1) / ROWS), contiguous);
    softmax_tiles(x, y, rows, cols, share, steps, tiles, group, lane);
}
