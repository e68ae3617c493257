// y = softmax(x) over the last axis, as row_softmax.cu, in vectors of 32 bytes and with rows in registers alone. Needs sm_100.
//
// THIS KERNEL HAS NEVER RUN ON A GPU.
//
// x, y: [rows, cols] contiguous, 32-byte aligned as a whole; a row need not be. A row is worked on as its aligned window: the
// 32-byte vectors that hold any of it. What the first and the last vector hold of other rows is masked.
//
// A tile is ROWS rows, dealt out evenly to the threads of a program: each row has NUM_WARPS * 32 / ROWS lanes, several warps or a
// part of one, and each lane VECTORS vectors of it. With SPLIT > 1 that many programs, a thread block cluster, have a row between
// them, `share` vectors each, and send each other their maxima and sums by asynchronous stores, which need no fence. With NUM_STAGES 2
// a program asks for its next row before it works on the one at hand.
//
// Floor: each element read and written once, 4 bytes an element in bf16 and 8 in f32; 5 FLOPs and one exponential an element.
// On paper, for a B200: half of 8 TB/s is read, and a trip to memory is taken to be a microsecond under load, so 4 MB must be on
// their way at any time, 27 KB for each of 148 multiprocessors. Where lanes have 64 bytes of a row each and 1024 of them have
// room, 64 KB are asked for at once; but nothing is asked for while a row is worked on, about as long: there are 7 instructions
// and an exponential an element, and at 4 TB/s a multiprocessor takes in 7 elements a cycle, which fills 0.4 of its lanes and as
// much of its unit for exponentials. NUM_STAGES 2 asks for the next row in that time, for 8 registers a vector more. 65536 x
// 1024 in bf16 are predicted to take 34 us beside the launch, 8192 x 32768 134 us.
//
// Launch: NUM_WARPS * 32 threads, grid (programs * SPLIT) in clusters of SPLIT, no dynamic shared memory.
//   share        vectors of a row that a program holds: of the widest window
//   contiguous   see programs.cuh
//
//   DTYPE        bf16, f16 or float
//   ALIGNED      whether rows are multiples of 32 bytes: 0 or 1
//   ROWS         rows of a tile, a power of two; 1 where SPLIT is not
//   NUM_WARPS    warps of a program, a power of two up to 32
//   VECTORS      32-byte vectors that a lane keeps in registers, 1 to 4
//   NUM_STAGES   rows of a lane in registers: 1, or 2 with the next on its way
//   SPLIT        programs of a row, a power of two up to 8

#include "numeric.cuh"
#include "programs.cuh"
#include "streaming.cuh"
#include "tma.cuh"
#include "wide.cuh"

#if !defined(DTYPE) || !defined(ALIGNED) || !defined(ROWS) || !defined(NUM_WARPS) || !defined(VECTORS) || \
    !defined(NUM_STAGES) || !defined(SPLIT)
#error "row_softmax_wide.cu needs DTYPE, ALIGNED, ROWS, NUM_WARPS, VECTORS, NUM_STAGES and SPLIT"
#endif

constexpr int VECTOR_BYTES = 32;

#include "softmax_rows.cuh"

// Programs that a multiprocessor is to hold: with so many registers a lane, for its elements in f32, the row on its way and the
// rest. Each of its four quarters has 16384, and it holds no more than 32 programs.
constexpr int REGISTERS = 32 + VECTORS * (WIDTH + 8 * (NUM_STAGES - 1));
constexpr int RESIDENT_WARPS = 4 * (16384 / (REGISTERS * 32));
constexpr int BY_REGISTERS = RESIDENT_WARPS > NUM_WARPS ? RESIDENT_WARPS / NUM_WARPS : 1;
constexpr int RESIDENT = BY_REGISTERS < 32 ? BY_REGISTERS : 32;

static_assert(VECTORS >= 1 && VECTORS <= 4, "VECTORS: 1 to 4");
static_assert(NUM_STAGES == 1 || NUM_STAGES == 2, "NUM_STAGES: 1 or 2");

// What the warps of all programs of a row have seen. Rows alternate between two buffers: who sends for the row after the next has
// had the next row's from every warp here, and each of these sent it after it had read what the buffer held before.
struct Exchange {
    Statistics parts[2][PARTS];
    unsigned long long barriers[2];
};

__device__ __forceinline__ Statistics exchange(Exchange& shared, const Statistics& of_warp, int lane, int round) {
    const int buffer = round % 2, part = static_cast<int>(blockIdx.x % SPLIT) * WARPS_PER_ROW + lane / 32;
    const unsigned barrier = ptx::shared_address(&shared.barriers[buffer]);
    if (lane == 0) ptx::mbarrier_arrive_expect(barrier, PARTS * sizeof(Statistics));
    if (lane % 32 < SPLIT) {
        const unsigned there = ptx::cluster_address(ptx::shared_address(&shared.parts[buffer][part]), lane % 32);
        ptx::store_async(there, {of_warp.maximum, of_warp.sum}, ptx::cluster_address(barrier, lane % 32));
    }
    ptx::mbarrier_wait(barrier, round / 2 % 2);
    Statistics seen = shared.parts[buffer][lane % (PARTS < 32 ? PARTS : 32)];
#pragma unroll
    for (int part = 32; part < PARTS; part += 32) seen = merge(seen, shared.parts[buffer][part + lane % 32]);
    __syncwarp();
    return merge_lanes<PARTS < 32 ? PARTS : 32>(seen);
}

// Asks for a lane's vectors of a row. The last vector of all may go beyond the tensor, but never beyond its 32 bytes.
__device__ __forceinline__ void request(Pack (&packs)[VECTORS], const DTYPE* x, const Window& window, int lane) {
    const DTYPE* source = x + window.first + lane * WIDTH;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
#pragma unroll
        for (int word = 0; word < Pack::WORDS; ++word) packs[i].words[word] = MINUS_INFINITY<DTYPE>;
        if (lane + i * LANES < window.vectors) ptx::load_streaming(packs[i].words, source + i * LANES * WIDTH);
    }
}

extern "C" __global__ void __launch_bounds__(NUM_WARPS * 32, RESIDENT)
row_softmax(const DTYPE* x, DTYPE* y, long long rows, int cols, int share, int contiguous) {
    __shared__ Exchange shared;
    if constexpr (SPLIT > 1) {
        if (threadIdx.x < 2) ptx::mbarrier_init(ptx::shared_address(&shared.barriers[threadIdx.x]), 1);
        ptx::fence_mbarrier_init();
        ptx::cluster_sync();
    }
    const int group = ROWS > 1 ? threadIdx.x / LANES : 0;
    const int lane = ROWS > 1 ? threadIdx.x % LANES : threadIdx.x;
    const Tiles tiles = tiles_of_program<SPLIT>(static_cast<int>((rows + ROWS - 1) / ROWS), contiguous);
    const auto window_of = [&](long long tile) {
        return Window(tile < tiles.end ? tile * ROWS + group : rows, rows, cols, share);
    };
    Window window = window_of(tiles.first);
    Pack packs[VECTORS];
    request(packs, x, window, lane);
    int round = 0;
    for (long long tile = tiles.first; tile < tiles.end; tile += tiles.stride, ++round) {
        const Window next = window_of(tile + tiles.stride);
        float values[VECTORS][WIDTH], maximum = -INFINITE;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            packs[i].unpack(values[i]);
            const int vector = lane + i * LANES;
            if (vector < window.vectors) mask(values[i], window.column + vector * WIDTH, cols);
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) maximum = fmaxf(maximum, values[i][j]);
        }
        if constexpr (NUM_STAGES == 2) request(packs, x, next, lane);
        maximum = maximum_of_lanes<WARP_LANES>(maximum);
        const float origin = finite_or_zero(maximum);
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
#pragma unroll
            for (int j = 0; j < WIDTH; ++j) sum += values[i][j] = exp_of(values[i][j] - origin);
        }
        const Statistics of_warp{maximum, sum_of_lanes<WARP_LANES>(sum)};
        Statistics whole;
        if constexpr (SPLIT > 1) {
            whole = exchange(shared, of_warp, lane, round);
        } else {
            whole = merge_warps(of_warp, group, lane, round % 2);
        }
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
        if constexpr (NUM_STAGES == 1) request(packs, x, next, lane);
        window = next;
    }
}
