// out = softmax(q kᵀ / sqrt(head_dim)) v for Hopper: one producer warp streams tiles through the copy engine, CONSUMERS
// warpgroups multiply them by wgmma and take the softmax online in f32. Needs sm_90a.
//
// q, out: [batch_heads, q_seq, head_dim]; k, v: [batch_heads, kv_seq, head_dim]; bf16 or f16, contiguous, head_dim a multiple of 8.
// Heads of queries that share their keys come as one, see attention_parts.cuh; under a mask, where they are long, each as its
// own, `sharing` of them to a head of keys.
// A tile is BLOCK_Q queries of one head and one of `splits` shares of its keys; each warpgroup has 64 of the queries. Keys
// and values pass through a ring of NUM_STAGES slots each. While the tensor cores multiply weights and values of one
// block, the warpgroup takes the softmax of the next one's scores; and warpgroups take turns at issuing products, so that
// the softmax of one runs beside the products of the other. Blocks go from the last to the first: only the first one
// taken can be ragged. Where `splits` > 1, parts are merged as in attention_parts.cuh.
//
// With two buffers of queries (QUERY_BUFFERS) those of a program's next tile are loaded, and the result of the last is stored, while
// this tile's are multiplied, and a warpgroup passes over blocks that a mask hides from all of its queries.
//
// Launch: (BLOCK_Q / 64 + 1) * 128 threads, grid (programs), SMEM_BYTES below of dynamic shared memory, no cluster.
//   q_map, out_map   [batch_heads, q_seq, head_dim], tile [1, 64, 64], 128-byte swizzle
//   k_map, v_map     [batch_heads, kv_seq, head_dim], tile [1, BLOCK_KV, 64], 128-byte swizzle
//   out              the tensor of out_map, 8-byte aligned
//   scale_log2       log2(e) / sqrt(head_dim)
//   workspace        where splits > 1: f32 [splits, batch_heads * q_seq, HEAD_DIM] sums, then [.., 2] maximum and sum
//   counters         where splits > 1: one a tile of queries; zero before and after
//   contiguous       see programs.cuh
//   queries, window, sharing, section   where CAUSAL: see Mask
//
//   CAUSAL, DTYPE   see attention_parts.cuh
//   HEAD_DIM     head_dim rounded up to an extent that wgmma.cuh has, a multiple of 16 up to 256; the rest is zeros
//   BLOCK_Q      queries of a tile: 64, 128 or 192, one warpgroup for each 64
//   BLOCK_KV     keys of a block: a multiple of 16 up to 256 that wgmma.cuh has
//   NUM_STAGES   slots of the ring of keys and of that of values, at least 2
//   QUERY_BUFFERS   tiles of queries in shared memory at once: 1, or 2, which needs a key for every query
//
// Floor: 4 * batch_heads * q_seq * kv_seq * head_dim FLOPs (of the pairs of queries and keys that a mask leaves) at the tensor
// cores' 4096 a cycle and SM, beside one exponential a score at 16 a cycle and SM: with head_dim 64 both take as long, with 128
// the products take twice as long.
// Decoding is bound by reading k and v once.
//
// Reached on an H200, cold L2: [1, 32, 4096, 4096, 128] in 439 us (626 TFLOP/s), [1, 32, 8192, 8192, 128] in 1696 us (648),
// [1, 32, 4096, 4096, 64] in 316 us (435); [2, 16, 16384, 16384, 128] in 6698 us (657). With head_dim 64 the exponentials
// take as long as the products, and only part of the one runs beside the other; with 128 it is the power limit's clock.
// Beside cuDNN under the same load, one buffer of queries: [4, 8, 2048, 2048, 128] in 118 us (cuDNN 115), [4, 8, 4096, 4096, 128] in
// 437 (409), [1, 8, 8192, 8192, 64] in 305 (293), [2, 16, 16384, 16384, 128] in 6706 (6909). Two, beside one in one run: 108 us (116),
// 395 (417), 283 (308); the shorter the keys, the more: [8, 32, 512, 512, 128] in 65.7 (77.4). Under a mask, where warpgroups pass over
// what is hidden, causal [1, 64, 4096, 4096, 64] with 8 heads of keys in 299 (336), [17, 100, 1394, 1394, 64] with 25 in 1126 (1366).
// Under a mask, by what it leaves: causal [1, 16, 16384, 16384, 128] with 8 heads of keys in 1706 us (644 TFLOP/s), causal [1, 64,
// 2048, 2048, 128] with 8 in 139 (495), [1, 32, 8192, 8192, 128] with 8 and a window of 4096 in 665 (620).
// Counters on an H100: [4, 8, 4096, 4096, 128], two warpgroups: tensor cores busy for 71 % of the cycles at 1.74 GHz, the
// exponentials' units for 36 %; [1, 8, 8192, 8192, 64], three: 48 % and 48 %.

#include "attention_parts.cuh"
#include "programs.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

#if !defined(HEAD_DIM) || !defined(BLOCK_Q) || !defined(BLOCK_KV) || !defined(NUM_STAGES) || !defined(QUERY_BUFFERS)
#error "attention_wgmma.cu needs HEAD_DIM, BLOCK_Q, BLOCK_KV, NUM_STAGES and QUERY_BUFFERS"
#endif

using ptx::u32;

constexpr int GROUP = 128;                    // threads of a warpgroup
constexpr int GROUP_ROWS = 64;                // queries of a warpgroup
constexpr int CONSUMERS = BLOCK_Q / GROUP_ROWS;
constexpr int THREADS = (CONSUMERS + 1) * GROUP;
constexpr int LINE = 64;                      // elements of the head in one swizzled line of 128 bytes
constexpr int LINES = (HEAD_DIM + LINE - 1) / LINE;
constexpr int Q_PANEL_BYTES = GROUP_ROWS * LINE * 2;  // one line of every query of a warpgroup
constexpr int KV_PANEL_BYTES = BLOCK_KV * LINE * 2;   // one line of every key of a block
constexpr int Q_BYTES = CONSUMERS * LINES * Q_PANEL_BYTES;
constexpr int KV_BYTES = LINES * KV_PANEL_BYTES;
constexpr int RING_BYTES = NUM_STAGES * KV_BYTES;

constexpr bool AHEAD = QUERY_BUFFERS == 2;  // the next tile's queries are loaded meanwhile

// Shared memory: queries (later the result, in their place), keys, values, barriers, a flag.
constexpr int BARRIERS = 4 * NUM_STAGES + 2 * QUERY_BUFFERS;
constexpr int SMEM_BYTES = QUERY_BUFFERS * Q_BYTES + 2 * RING_BYTES + (BARRIERS + 1) * 8;

// Registers of a thread: what is compiled for is an even share, which the producer hands on.
constexpr int PRODUCER_REGISTERS = CONSUMERS == 2 ? 24 : 32;
constexpr int CONSUMER_REGISTERS = CONSUMERS == 2 ? 240 : 160;

static_assert(HEAD_DIM % 16 == 0 && HEAD_DIM <= 256, "HEAD_DIM: a multiple of 16 up to 256");
static_assert(BLOCK_Q % GROUP_ROWS == 0 && CONSUMERS >= 1 && CONSUMERS <= 3, "BLOCK_Q: 64, 128 or 192");
static_assert(BLOCK_KV % 16 == 0 && BLOCK_KV <= 256, "BLOCK_KV: a multiple of 16 up to 256");
static_assert(NUM_STAGES >= 2, "NUM_STAGES: at least 2");
static_assert(QUERY_BUFFERS == 1 || QUERY_BUFFERS == 2, "QUERY_BUFFERS: 1 or 2");
static_assert(SMEM_BYTES <= 227 << 10, "more shared memory than a program has");

constexpr float INFINITE = __builtin_bit_cast(float, 0x7f800000);

// The maximum is raised only where a score is this far above it, in powers of two: until then weights are at most 2^8,
// which f32 sums hold as well, and sums need no rescaling.
constexpr float SLACK = 8.0f;

#if CAUSAL
using Tile = MaskedTileOf<BLOCK_Q, BLOCK_KV>;
#else
using Tile = TileOf<BLOCK_Q, BLOCK_KV>;
#endif

struct Problem {
    const ptx::TensorMap &q_map, &k_map, &v_map, &out_map;
    u16* out;
    Partials<HEAD_DIM> partials;
    unsigned* counters;
    int q_seq, kv_seq, head_dim;
    float scale_log2;
    Tiles tiles;
#if CAUSAL
    int batch_heads;
    Mask mask;
#endif

    __device__ __forceinline__ Tile tile(int index) const {
#if CAUSAL
        return Tile(mask, batch_heads, q_seq, kv_seq, partials.splits, index);
#else
        return Tile(q_seq, kv_seq, partials.splits, index);
#endif
    }
};

// Slots that the producer fills and the consumers empty, in turn.
struct Ring {
    u32 slots, barriers;
    int slot = 0;
    u32 phase = 0;

    __device__ __forceinline__ u32 tile() const { return slots + slot * KV_BYTES; }
    __device__ __forceinline__ u32 full() const { return barriers + slot * 8; }
    __device__ __forceinline__ u32 empty() const { return barriers + (NUM_STAGES + slot) * 8; }
    __device__ __forceinline__ void advance() {
        if (++slot == NUM_STAGES) slot = 0, phase ^= 1;
    }
};

// Tiles of queries have the buffers in turn. Of a tile's place in the turns of two rounds: its buffer, the parity of its round, and
// the place of the tile after it. Numbers in place of a struct, for this leaves the machine code of one buffer as it was measured.
__device__ __forceinline__ int buffer_of(u32 place) { return AHEAD ? place % 2 : 0; }
__device__ __forceinline__ u32 parity_of(u32 place) { return AHEAD ? place / 2 : place; }
__device__ __forceinline__ u32 after(u32 place) { return AHEAD ? (place + 1) % 4 : place ^ 1; }

struct Memory {
    u32 queries, keys, values, key_barriers, value_barriers, queries_full, queries_empty;
    volatile bool* flag;

    __device__ __forceinline__ explicit Memory(unsigned char* shared) {
        queries = ptx::shared_address(shared);
        keys = queries + QUERY_BUFFERS * Q_BYTES;
        values = keys + RING_BYTES;
        key_barriers = values + RING_BYTES;
        value_barriers = key_barriers + 2 * NUM_STAGES * 8;
        queries_full = value_barriers + 2 * NUM_STAGES * 8;
        queries_empty = queries_full + 8 * QUERY_BUFFERS;
        flag = reinterpret_cast<volatile bool*>(shared + SMEM_BYTES - 8);
    }

    __device__ __forceinline__ u32 full(int buffer) const { return queries_full + buffer * 8; }
    __device__ __forceinline__ u32 empty(int buffer) const { return queries_empty + buffer * 8; }

    // One thread for all.
    __device__ __forceinline__ void init_barriers() const {
        for (int slot = 0; slot < NUM_STAGES; ++slot) {
            for (const u32 barriers : {key_barriers, value_barriers}) {
                ptx::mbarrier_init(barriers + slot * 8, 1);
                ptx::mbarrier_init(barriers + (NUM_STAGES + slot) * 8, CONSUMERS * 4);  // a lane of each warp
            }
        }
        for (int buffer = 0; buffer < QUERY_BUFFERS; ++buffer) {
            ptx::mbarrier_init(full(buffer), 1);
            ptx::mbarrier_init(empty(buffer), CONSUMERS);
        }
        ptx::fence_mbarrier_init();
    }
};

// ---- The producer, one thread ----

__device__ __forceinline__ void load_block(Ring& ring, const ptx::TensorMap& map, int first_key, int head) {
    ptx::mbarrier_wait(ring.empty(), ring.phase ^ 1);
    ptx::mbarrier_arrive_expect(ring.full(), KV_BYTES);
#pragma unroll
    for (int line = 0; line < LINES; ++line) {
        ptx::tma_load(ring.tile() + line * KV_PANEL_BYTES, map, ring.full(), line * LINE, first_key, head);
    }
    ring.advance();
}

__device__ __forceinline__ void load_queries(const Memory& memory, const Problem& problem, const Tile& tile, int buffer) {
    ptx::mbarrier_arrive_expect(memory.full(buffer), Q_BYTES);
#pragma unroll
    for (int panel = 0; panel < CONSUMERS * LINES; ++panel) {
        ptx::tma_load(memory.queries + buffer * Q_BYTES + panel * Q_PANEL_BYTES, problem.q_map, memory.full(buffer),
                      panel % LINES * LINE, tile.first_query + panel / LINES * GROUP_ROWS, tile.head);
    }
}

// The first key of a tile's last block.
__device__ __forceinline__ int last_block(const Tile& tile) {
    return tile.first_key + (tile.end_key - 1 - tile.first_key) / BLOCK_KV * BLOCK_KV;
}

__device__ __forceinline__ void produce(const Memory& memory, const Problem& problem) {
    Ring keys{memory.keys, memory.key_barriers}, values{memory.values, memory.value_barriers};
    u32 place = 0;
#pragma unroll 1
    for (int index = problem.tiles.first; index < problem.tiles.end; index += problem.tiles.stride) {
        const Tile tile = problem.tile(index);
        if (!tile.has_keys()) continue;
        int key = last_block(tile);
        load_block(keys, problem.k_map, key, tile.key_head);
        ptx::mbarrier_wait(memory.empty(buffer_of(place)), parity_of(place) ^ 1);
        load_queries(memory, problem, tile, buffer_of(place));
        place = after(place);
#pragma unroll 1
        for (; key > tile.first_key; key -= BLOCK_KV) {
            load_block(keys, problem.k_map, key - BLOCK_KV, tile.key_head);
            load_block(values, problem.v_map, key, tile.key_head);
        }
        load_block(values, problem.v_map, key, tile.key_head);
    }
}

// ---- Consumers, a warpgroup each ----

using Scores = float[BLOCK_KV / 2];
using Weights = u32[BLOCK_KV / 16][4];
using Sums = float[HEAD_DIM / 2];

// A thread has rows lane / 4 and lane / 4 + 8 of its warp's 16; its sums cover its own columns until `finish`.
struct Accumulator {
    Sums out;
    Statistics rows[2];

    // What a share without keys comes to.
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 2; ++i) out[i] = 0.0f;
        rows[0] = rows[1] = {LOWEST, 0.0f};
    }
};

__device__ __forceinline__ void multiply_keys(Scores& scores, ptx::Operand queries, u32 tile) {
    const ptx::Operand keys = ptx::wgmma_operand(tile, 0, 1024);
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; ++k) {
        const u32 within = k % 4 * 32;
        ptx::Wgmma<BLOCK_KV, ptx::Major::K, ptx::Major::K, Half>::multiply(scores, queries.at(k / 4 * Q_PANEL_BYTES + within),
                                       keys.at(k / 4 * KV_PANEL_BYTES + within), k > 0);
    }
    ptx::wgmma_commit();
}

__device__ __forceinline__ void multiply_values(Sums& out, const Weights& weights, u32 tile) {
    const ptx::Operand values = ptx::wgmma_operand(tile, KV_PANEL_BYTES, 1024);
#pragma unroll
    for (int k = 0; k < BLOCK_KV / 16; ++k) {
        ptx::Wgmma<HEAD_DIM, ptx::Major::K, ptx::Major::MN, Half>::multiply(out, weights[k], values.at(k * 2048), 1);
    }
    ptx::wgmma_commit();
}

// This thread's place among the queries of its warpgroup and of keys or columns of the head.
struct Place {
    int row, column;

    __device__ __forceinline__ Place() {
        const int lane = threadIdx.x % 32;
        row = threadIdx.x % GROUP / 32 * 16 + lane / 4;
        column = lane % 4 * 2;
    }
};

#if CAUSAL
// Scores of keys that the mask hides become -inf, of the keys from `key` on and the warpgroup's queries from `first_row` of the tile on.
__device__ __forceinline__ void hide(Scores& scores, const Tile& tile, int first_row, int key) {
    const Place place;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int reach = tile.reach(first_row + place.row + 8 * half, key + place.column);
#pragma unroll
        for (int i = 2 * half; i < BLOCK_KV / 2; i += 4) {
            if (tile.is_hidden(reach, i / 4 * 8)) scores[i] = -INFINITE;
            if (tile.is_hidden(reach, i / 4 * 8 + 1)) scores[i + 1] = -INFINITE;
        }
    }
}
#else
// Scores of keys past the last become -inf.
__device__ __forceinline__ void mask(Scores& scores, int keys) {
    const int first_column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < BLOCK_KV / 2; ++i) {
        if (first_column + i / 4 * 8 + i % 2 >= keys) scores[i] = -INFINITE;
    }
}
#endif

// The maximum of a row's scores, over the four lanes that have them.
__device__ __forceinline__ float row_maximum(const Scores& scores, int half) {
    float maximum[2] = {-INFINITE, -INFINITE};
#pragma unroll
    for (int i = 2 * half; i < BLOCK_KV / 2; i += 4) {
        maximum[0] = fmaxf(maximum[0], scores[i]);
        maximum[1] = fmaxf(maximum[1], scores[i + 1]);
    }
    maximum[0] = fmaxf(maximum[0], maximum[1]);
    maximum[0] = fmaxf(maximum[0], __shfl_xor_sync(~0u, maximum[0], 1));
    return fmaxf(maximum[0], __shfl_xor_sync(~0u, maximum[0], 2));
}

// Raises the rows' maxima to those of the scores where they are too far below. What was summed so far is to be rescaled by
// `rescale`, which is 1 where the result is false, for the whole warp.
__device__ __forceinline__ bool raise_maxima(float (&rescale)[2], Statistics (&rows)[2], const Scores& scores,
                                             float scale_log2) {
    bool raised = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float maximum = row_maximum(scores, half) * scale_log2;
        const bool raise = maximum > rows[half].maximum + SLACK;
        rescale[half] = raise ? ptx::exp2_approx(rows[half].maximum - maximum) : 1.0f;
        if (raise) rows[half].maximum = maximum;
        rows[half].sum *= rescale[half];
        raised |= raise;
    }
    return __any_sync(~0u, raised);
}

// Scores become the weights 2^(score * scale_log2 - maximum).
__device__ __forceinline__ void weigh(Scores& scores, Statistics (&rows)[2], float scale_log2) {
    float sums[4] = {};
#pragma unroll
    for (int i = 0; i < BLOCK_KV / 2; ++i) {
        scores[i] = ptx::exp2_approx(fmaf(scores[i], scale_log2, -rows[i / 2 % 2].maximum));
        sums[i % 4] += scores[i];
    }
    rows[0].sum += sums[0] + sums[1];
    rows[1].sum += sums[2] + sums[3];
}

// Sums' layout of 16 columns is that of a register operand's 16 of k.
__device__ __forceinline__ void pack(Weights& weights, const Scores& scores) {
#pragma unroll
    for (int i = 0; i < BLOCK_KV / 4; ++i) {
        weights[i / 4][i % 4] = Half::pack(scores[2 * i], scores[2 * i + 1]);
        asm volatile("" : "+r"(weights[i / 4][i % 4]) :: "memory");  // here, not after the fence before their product
    }
}

__device__ __forceinline__ void rescale_sums(Sums& out, const float (&rescale)[2]) {
#pragma unroll
    for (int i = 0; i < HEAD_DIM / 2; ++i) out[i] *= rescale[i / 2 % 2];
}

// Warpgroups issue their products in turn.
struct Turn {
    int group;

    __device__ __forceinline__ void wait() const {
        if constexpr (CONSUMERS > 1) ptx::barrier_sync<2 * GROUP>(1 + group);
    }
    __device__ __forceinline__ void pass() const {
        if constexpr (CONSUMERS > 1) ptx::barrier_arrive<2 * GROUP>(1 + (group + 1) % CONSUMERS);
    }
};

// Hands a slot back to the producer, for this warp.
__device__ __forceinline__ void release(Ring& ring) {
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(ring.empty());
    ring.advance();
}

// Runs through the tile's keys. `queries`: this warpgroup's. `meanwhile`: what is done while the first product is under way.
template <typename Meanwhile>
__device__ __forceinline__ void attend(Accumulator& accumulator, Ring& keys, Ring& values, const Tile& tile, u32 queries,
                                       Turn turn, float scale_log2, Meanwhile meanwhile) {
    const ptx::Operand query_operand = ptx::wgmma_operand(queries, 0, 1024);
    Scores scores;
    Weights weights;
    int key = last_block(tile);
#if CAUSAL
    const Seen seen = AHEAD ? tile.seen(turn.group * GROUP_ROWS, GROUP_ROWS) : tile.all;
    if constexpr (AHEAD) {
        for (; key > tile.first_key && key >= seen.end; key -= BLOCK_KV) {
            turn.wait();
            turn.pass();
            ptx::mbarrier_wait(keys.full(), keys.phase);
            release(keys);
            ptx::mbarrier_wait(values.full(), values.phase);
            release(values);
        }
    }
#endif

#pragma unroll
    for (int i = 0; i < HEAD_DIM / 2; ++i) accumulator.out[i] = 0.0f;
    ptx::mbarrier_wait(keys.full(), keys.phase);
    ptx::wgmma_fence();
    multiply_keys(scores, query_operand, keys.tile());
    meanwhile();
    ptx::wgmma_wait<0>();
    ptx::wgmma_hold(scores);
    release(keys);
#if CAUSAL
    if (seen.hides(key, BLOCK_KV)) hide(scores, tile, turn.group * GROUP_ROWS, key);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        // A query may see none of these keys, whose weights are then 0.
        accumulator.rows[half] = {fmaxf(row_maximum(scores, half) * scale_log2, LOWEST), 0.0f};
    }
#else
    if (tile.end_key - key < BLOCK_KV) mask(scores, tile.end_key - key);
#pragma unroll
    for (int half = 0; half < 2; ++half) accumulator.rows[half] = {row_maximum(scores, half) * scale_log2, 0.0f};
#endif
    weigh(scores, accumulator.rows, scale_log2);
    pack(weights, scores);

    if (key > tile.first_key) ptx::mbarrier_wait(keys.full(), keys.phase);
#pragma unroll 1
    while (key > tile.first_key) {
        key -= BLOCK_KV;
        turn.wait();
        ptx::wgmma_fence();
        multiply_keys(scores, query_operand, keys.tile());
        ptx::mbarrier_wait(values.full(), values.phase);
        ptx::wgmma_fence();
        multiply_values(accumulator.out, weights, values.tile());
        turn.pass();

        ptx::wgmma_wait<1>();
        ptx::wgmma_hold(scores);
        release(keys);
#if CAUSAL
        if (seen.hides(key, BLOCK_KV)) hide(scores, tile, turn.group * GROUP_ROWS, key);
#endif
        float rescale[2];
        const bool raised = raise_maxima(rescale, accumulator.rows, scores, scale_log2);
        weigh(scores, accumulator.rows, scale_log2);
        // The product ends after the weights: this wait also keeps the assembler from taking its end first.
        if (key > tile.first_key) ptx::mbarrier_wait(keys.full(), keys.phase);

        ptx::wgmma_wait<0>();
        ptx::wgmma_hold(accumulator.out);
        release(values);
        if (raised) rescale_sums(accumulator.out, rescale);
        ptx::wgmma_hold(accumulator.out);
        ptx::wgmma_hold(scores);  // packed after it, into registers it reads
        pack(weights, scores);
    }

    ptx::mbarrier_wait(values.full(), values.phase);
    ptx::wgmma_fence();
    multiply_values(accumulator.out, weights, values.tile());
    ptx::wgmma_wait<0>();
    ptx::wgmma_hold(accumulator.out);
    release(values);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float& sum = accumulator.rows[half].sum;
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
    }
}

// Writes the warpgroup's result by way of the shared memory its queries are done with.
__device__ __forceinline__ void write_result(const Accumulator& accumulator, const Problem& problem, const Tile& tile,
                                             int group, u32 shared) {
    const Place place;
    ptx::barrier_sync<GROUP>(1 + CONSUMERS + group);  // all its warps are done with the queries
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = place.row + 8 * half;
        const float scale = inverse_of_sum(accumulator.rows[half].sum);
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; ++n) {
            const float(&out)[HEAD_DIM / 2] = accumulator.out;
            const u32 line = shared + n / 8 * Q_PANEL_BYTES + row * LINE * 2;
            ptx::store_shared(line + ((n % 8) ^ (row % 8)) * 16 + place.column * 2,
                              Half::pack(out[4 * n + 2 * half] * scale, out[4 * n + 2 * half + 1] * scale));
        }
    }
    ptx::fence_async_shared();
    ptx::barrier_sync<GROUP>(1 + CONSUMERS + group);
    if (threadIdx.x % GROUP == 0) {
#pragma unroll
        for (int line = 0; line < LINES; ++line) {
            ptx::tma_store(problem.out_map, shared + line * Q_PANEL_BYTES, line * LINE,
                           tile.first_query + group * GROUP_ROWS, tile.head);
        }
        ptx::tma_store_commit();
        if constexpr (!AHEAD) ptx::tma_store_wait_read<0>();
    }
}

// Leaves the warpgroup's part in the workspace; the last of the tile's splits merges them.
__device__ __forceinline__ void write_part(const Accumulator& accumulator, const Problem& problem, const Tile& tile,
                                           int group, volatile bool* flag) {
    const Place place;
    const Partials<HEAD_DIM>& partials = problem.partials;
    const long long first_row = static_cast<long long>(tile.head) * problem.q_seq + tile.first_query;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = group * GROUP_ROWS + place.row + 8 * half;
        if (row >= tile.queries) continue;
        float* sums = partials.sums(tile.split, first_row + row) + place.column;
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; ++n) {
            *reinterpret_cast<float2*>(sums + 8 * n) = {accumulator.out[4 * n + 2 * half],
                                                        accumulator.out[4 * n + 2 * half + 1]};
        }
        if (place.column == 0) *partials.statistics(tile.split, first_row + row) = accumulator.rows[half];
    }

    constexpr int WIDTH = 4;
    const int thread = group * GROUP + threadIdx.x % GROUP;
    const auto sync = [] { ptx::barrier_sync<CONSUMERS * GROUP>(1 + 2 * CONSUMERS); };
    if (!last_of_splits(&problem.counters[tile.counter], partials.splits, thread == 0, flag, sync)) return;
    const int row_vectors = problem.head_dim / WIDTH;
    for (int vector = thread; vector < tile.queries * row_vectors; vector += CONSUMERS * GROUP) {
        const long long row = first_row + vector / row_vectors;
        const int column = vector % row_vectors * WIDTH;
        partials.merged<WIDTH>(row, column).write(problem.out + row * problem.head_dim + column);
    }
}

__device__ __forceinline__ void consume(const Memory& memory, const Problem& problem, int group) {
    Ring keys{memory.keys, memory.key_barriers}, values{memory.values, memory.value_barriers};
    const u32 queries = memory.queries + group * LINES * Q_PANEL_BYTES;
    const Turn turn{group};
    if (group == CONSUMERS - 1) turn.pass();  // the first turn is the first warpgroup's
    u32 place = 0;
    bool owes = false;  // the buffer of the last tile, whose result is being stored, is still this warpgroup's
#pragma unroll 1
    for (int index = problem.tiles.first; index < problem.tiles.end; index += problem.tiles.stride) {
        const Tile tile = problem.tile(index);
        Accumulator accumulator;
        const int buffer = buffer_of(place);
        const u32 mine = queries + buffer * Q_BYTES;
        if (tile.has_keys()) {
            ptx::mbarrier_wait(memory.full(buffer), parity_of(place));
            place = after(place);
            const auto hand_back = [&] {
                if (!AHEAD || !owes || threadIdx.x % GROUP != 0) return;
                ptx::tma_store_wait_read<0>();
                ptx::mbarrier_arrive(memory.empty(buffer ^ 1));
            };
            attend(accumulator, keys, values, tile, mine, turn, problem.scale_log2, hand_back);
        } else {
            accumulator.clear();
        }
        if (problem.partials.splits == 1) {
            write_result(accumulator, problem, tile, group, mine);
            if constexpr (AHEAD) owes = true;
        } else {
            write_part(accumulator, problem, tile, group, memory.flag);
        }
        if (!owes && tile.has_keys() && threadIdx.x % GROUP == 0) ptx::mbarrier_arrive(memory.empty(buffer));
    }
    if (owes && threadIdx.x % GROUP == 0) ptx::tma_store_wait_read<0>();
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_wgmma(const __grid_constant__ ptx::TensorMap q_map, const __grid_constant__ ptx::TensorMap k_map,
                const __grid_constant__ ptx::TensorMap v_map, const __grid_constant__ ptx::TensorMap out_map, u16* out,
                float* workspace, unsigned* counters, int batch_heads, int q_seq, int kv_seq, int head_dim, int splits,
                float scale_log2, int contiguous
#if CAUSAL
                , int queries, int window, int sharing, int section
#endif
) {
    extern __shared__ __align__(1024) unsigned char shared[];
    const Memory memory(shared);
    if (threadIdx.x == 0) {
        memory.init_barriers();
        for (const ptx::TensorMap* map : {&q_map, &k_map, &v_map, &out_map}) ptx::prefetch_map(*map);
    }
    __syncthreads();

    const int q_tiles = (q_seq + BLOCK_Q - 1) / BLOCK_Q;
    const Partials<HEAD_DIM> partials{workspace, static_cast<long long>(batch_heads) * q_seq, splits};
    const Problem problem{q_map,  k_map,  v_map,    out_map,    out, partials, counters, q_seq,
                          kv_seq, head_dim, scale_log2, tiles_of_program(q_tiles * splits * batch_heads, contiguous)
#if CAUSAL
                          , batch_heads, Mask{queries, window, sharing, section, contiguous}
#endif
    };
    const int group = __shfl_sync(~0u, threadIdx.x / GROUP, 0);  // the compiler sees that a warp is in one
    if (group == CONSUMERS) {
        if constexpr (CONSUMERS > 1) ptx::release_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x == CONSUMERS * GROUP) produce(memory, problem);
    } else {
        if constexpr (CONSUMERS > 1) ptx::take_registers<CONSUMER_REGISTERS>();
        consume(memory, problem, group);
    }
}
