// y = softmax(x) over the last axis: exp(x - max) / sum(exp(x - max)), in f32, rounded once. A row of -inf alone, and a
// row with a NaN or +inf in it, is all NaN.
//
// x, y: [rows, cols] contiguous, 16-byte aligned as a whole; a row need not be. A row is worked on as its aligned window:
// the 16-byte vectors that hold any of it. What the first and the last vector hold of other rows is masked.
//
// A tile is ROWS rows. Each row belongs to NUM_WARPS / ROWS warps, or, where a program has fewer warps than rows, each warp
// has several rows in turn. Rows go through a ring of NUM_STAGES slots in shared memory, by asynchronous copies; a slot
// holds one step, of `step_vectors` vectors. A thread reads back only what it copied itself, so the ring needs no barrier.
//   WHOLE_ROW 1: a step is the whole row; it is read once.
//   WHOLE_ROW 0: a step is a chunk of the row; each chunk is read twice, first to find maximum and sum, then, last chunk
//                first so that L2 still holds it, to write the result.
//
// Launch: NUM_WARPS * 32 threads, grid (programs), dynamic shared memory min(NUM_WARPS, ROWS) * NUM_STAGES * step_vectors
// * 16 bytes.
//   step_vectors   WHOLE_ROW 1: the vectors of the widest window. WHOLE_ROW 0: of a chunk.
//   chunks         steps that cover the widest window
//   contiguous     see programs.cuh
//
//   DTYPE        bf16 or float
//   ROWS         rows of a tile, a power of two
//   NUM_WARPS    warps of a program, a power of two up to 32
//   NUM_STAGES   slots of the ring, at least 1
//   WHOLE_ROW    0 or 1

#include "numeric.cuh"
#include "programs.cuh"
#include "streaming.cuh"

#if !defined(DTYPE) || !defined(ROWS) || !defined(NUM_WARPS) || !defined(NUM_STAGES) || !defined(WHOLE_ROW)
#error "row_softmax.cu needs DTYPE, ROWS, NUM_WARPS, NUM_STAGES and WHOLE_ROW"
#endif

using Pack = Vector<DTYPE, 16>;

constexpr int WIDTH = Pack::WIDTH;
constexpr int WARPS_PER_ROW = NUM_WARPS > ROWS ? NUM_WARPS / ROWS : 1;
constexpr int GROUPS = NUM_WARPS / WARPS_PER_ROW;  // rows at a time
constexpr int TURNS = ROWS / GROUPS;
constexpr int LANES = WARPS_PER_ROW * 32;  // threads of a row
constexpr int BATCH = 16 / WIDTH;          // vectors in registers at a time
constexpr float LOG2_E = 1.44269504f;
constexpr float INFINITE = __builtin_bit_cast(float, 0x7f800000);

static_assert((ROWS & (ROWS - 1)) == 0 && (NUM_WARPS & (NUM_WARPS - 1)) == 0, "ROWS and NUM_WARPS: powers of two");
static_assert(NUM_WARPS <= 32 && NUM_STAGES >= 1, "at most 32 warps, at least one stage");

// What has been seen of a row: its maximum, and the sum of exp(x - maximum).
struct Statistics {
    float maximum, sum;
};

__device__ __forceinline__ float exp_of(float x) { return ptx::exp2_approx(x * LOG2_E); }

// A number to subtract that leaves -inf at -inf where nothing larger has been seen.
__device__ __forceinline__ float finite_or_zero(float maximum) { return maximum == -INFINITE ? 0.0f : maximum; }

__device__ __forceinline__ Statistics merge(const Statistics& a, const Statistics& b) {
    const float maximum = fmaxf(a.maximum, b.maximum);
    const float origin = finite_or_zero(maximum);
    return {maximum, a.sum * exp_of(a.maximum - origin) + b.sum * exp_of(b.maximum - origin)};
}

// Merges over aligned runs of THREADS lanes of a warp; every lane gets the result.
template <int THREADS>
__device__ __forceinline__ Statistics merge_lanes(Statistics statistics) {
#pragma unroll
    for (int distance = THREADS / 2; distance > 0; distance /= 2) {
        statistics = merge(statistics, {__shfl_xor_sync(0xffffffffu, statistics.maximum, distance),
                                        __shfl_xor_sync(0xffffffffu, statistics.sum, distance)});
    }
    return statistics;
}

// Merges over the warps of a row. Rows alternate between two buffers, so that one barrier a row is enough.
__device__ __forceinline__ Statistics merge_row(Statistics statistics, int group, int lane, int parity) {
    statistics = merge_lanes<32>(statistics);
    if constexpr (WARPS_PER_ROW > 1) {
        __shared__ Statistics of_warp[2][GROUPS][WARPS_PER_ROW];
        if (lane % 32 == 0) of_warp[parity][group][lane / 32] = statistics;
        ptx::barrier_sync<LANES>(group);
        statistics = merge_lanes<WARPS_PER_ROW>(of_warp[parity][group][lane % WARPS_PER_ROW]);
    }
    return statistics;
}

// One row's window: its vectors and where in them the row lies.
struct Window {
    long long first;  // element of the tensor at which the window starts
    int skew;         // elements of the first vector before the row
    int vectors;

    __device__ __forceinline__ Window(long long row, int cols) {
        skew = static_cast<int>(row * cols % WIDTH);
        first = row * cols - skew;
        vectors = (skew + cols + WIDTH - 1) / WIDTH;
    }
};

// A place in the sequence of steps of one group of warps.
struct Cursor {
    long long tile;
    int turn, step;

    __device__ __forceinline__ void advance(int steps_per_row, long long tile_stride) {
        if (++step < steps_per_row) return;
        step = 0;
        if (++turn < TURNS) return;
        turn = 0;
        tile += tile_stride;
    }
};

// Takes in the row's part of a slot: vectors `first_vector` and on of the window, as far as it goes.
__device__ __forceinline__ void accumulate(Statistics& seen, unsigned slot, const Window& window, int cols,
                                           int first_vector, int step_vectors, int lane) {
    const int count = min(step_vectors, window.vectors - first_vector);
    for (int base = lane; base < count; base += LANES * BATCH) {
        float values[BATCH][WIDTH];
        float maximum = seen.maximum;
#pragma unroll
        for (int i = 0; i < BATCH; ++i) {
            const int vector = base + i * LANES;
            const int column = (first_vector + vector) * WIDTH - window.skew;
            Pack pack;
            ptx::load_shared(pack.words, slot + (vector < count ? vector : base) * 16);
            pack.unpack(values[i]);
            if (vector >= count || column < 0 || column + WIDTH > cols) {
#pragma unroll
                for (int j = 0; j < WIDTH; ++j) {
                    if (vector >= count || column + j < 0 || column + j >= cols) values[i][j] = -INFINITE;
                }
            }
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) maximum = fmaxf(maximum, values[i][j]);
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

// Writes the result of the same part.
__device__ __forceinline__ void normalize(DTYPE* y, const Statistics& row, unsigned slot, const Window& window, int cols,
                                          int first_vector, int step_vectors, int lane) {
    const int count = min(step_vectors, window.vectors - first_vector);
    const float scale = 1.0f / row.sum;
#pragma unroll 2
    for (int vector = lane; vector < count; vector += LANES) {
        const int column = (first_vector + vector) * WIDTH - window.skew;
        DTYPE* out = y + window.first + static_cast<long long>(first_vector + vector) * WIDTH;
        float values[WIDTH];
        Pack pack;
        ptx::load_shared(pack.words, slot + vector * 16);
        pack.unpack(values);
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) values[j] = exp_of(values[j] - row.maximum) * scale;
        if (column >= 0 && column + WIDTH <= cols) {
            pack.pack(values);
            ptx::store_streaming(out, pack.words);
        } else {
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) {
                if (column + j >= 0 && column + j < cols) out[j] = from_float<DTYPE>(values[j]);
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(NUM_WARPS * 32)
row_softmax(const DTYPE* x, DTYPE* y, long long rows, int cols, int step_vectors, int chunks, int contiguous) {
    extern __shared__ __align__(16) unsigned char ring[];
    const int group = threadIdx.x / LANES;
    const int lane = threadIdx.x % LANES;
    const int slot_bytes = step_vectors * 16;
    const unsigned slots = ptx::shared_address(ring) + group * NUM_STAGES * slot_bytes;
    const unsigned long long last_use = ptx::evict_first_policy();
    const Tiles tiles = tiles_of_program(static_cast<int>((rows + ROWS - 1) / ROWS), contiguous);
    const int steps_per_row = WHOLE_ROW ? 1 : 2 * chunks;

    const auto row_of = [&](const Cursor& cursor) { return cursor.tile * ROWS + cursor.turn * GROUPS + group; };
    const auto first_vector_of = [&](int step) { return min(step, steps_per_row - 1 - step) * step_vectors; };

    // The producer runs NUM_STAGES - 1 steps ahead of the consumer; both take the slots in turn.
    Cursor producer{tiles.first, 0, 0}, consumer = producer;
    int producer_slot = 0, consumer_slot = 0;

    const auto produce = [&] {
        if (producer.tile < tiles.end && row_of(producer) < rows) {
            const Window window(row_of(producer), cols);
            const int first_vector = first_vector_of(producer.step);
            const int count = min(step_vectors, window.vectors - first_vector);
            const unsigned slot = slots + producer_slot * slot_bytes;
            const DTYPE* source = x + window.first + static_cast<long long>(first_vector) * WIDTH;
            const int elements = window.skew + cols - first_vector * WIDTH;
            const bool read_again = !WHOLE_ROW && producer.step < chunks;
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
        producer.advance(steps_per_row, tiles.stride);
        producer_slot = producer_slot + 1 < NUM_STAGES ? producer_slot + 1 : 0;
    };
    // Starts the next copy and waits for the consumer's; returns the slot it is in.
    const auto next_slot = [&] {
        produce();
        ptx::cp_async_wait<NUM_STAGES - 1>();
        const unsigned slot = slots + consumer_slot * slot_bytes;
        consumer.advance(steps_per_row, tiles.stride);
        consumer_slot = consumer_slot + 1 < NUM_STAGES ? consumer_slot + 1 : 0;
        return slot;
    };

    for (int stage = 0; stage < NUM_STAGES - 1; ++stage) produce();

    for (int parity = 0; consumer.tile < tiles.end; parity ^= 1) {
        const long long row = row_of(consumer);
        if (row >= rows) {
            for (int step = 0; step < steps_per_row; ++step) next_slot();
            continue;
        }
        const Window window(row, cols);
        Statistics seen{-INFINITE, 0.0f};
        if constexpr (WHOLE_ROW) {
            const unsigned slot = next_slot();
            accumulate(seen, slot, window, cols, 0, step_vectors, lane);
            normalize(y, merge_row(seen, group, lane, parity), slot, window, cols, 0, step_vectors, lane);
        } else {
            for (int chunk = 0; chunk < chunks; ++chunk) {
                accumulate(seen, next_slot(), window, cols, chunk * step_vectors, step_vectors, lane);
            }
            const Statistics whole = merge_row(seen, group, lane, parity);
            for (int chunk = chunks - 1; chunk >= 0; --chunk) {
                normalize(y, whole, next_slot(), window, cols, chunk * step_vectors, step_vectors, lane);
            }
        }
    }
}
