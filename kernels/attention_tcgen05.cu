// out = softmax(q kᵀ / sqrt(head_dim)) v for Blackwell: tcgen05 multiplies, with scores, weights and sums in tensor memory; one
// warpgroup for each 128 queries takes the softmax online in f32. Needs sm_100a.
//
// THIS KERNEL HAS NEVER RUN ON A GPU. It compiles, and it runs on a model of the hardware (tests/gpu_model/). That it is
// right rests on the comparison with the reference before anything is timed.
//
// q, out: [batch_heads, q_seq, head_dim]; k, v: [batch_heads, kv_seq, head_dim]; bf16 or f16, contiguous, head_dim a multiple of 8.
// A tile is BLOCK_Q queries of one head and one of `splits` shares of its keys. Its queries are one or two panels of 128, the
// rows of a product and the lanes of tensor memory. Where `splits` > 1, parts are merged as in attention_parts.cuh.
//
// Launch: (BLOCK_Q / 128 + 2) * 128 threads, grid (programs), SMEM_BYTES below of dynamic shared memory, no cluster.
//   q_map            [batch_heads, q_seq, head_dim], tile [1, 128, 64], 128-byte swizzle
//   k_map, v_map     [batch_heads, kv_seq, head_dim], tile [1, BLOCK_KV, 64], 128-byte swizzle
//   out              32-byte aligned
//   scale_log2       log2(e) / sqrt(head_dim)
//   workspace        where splits > 1: f32 [splits, batch_heads * q_seq, HEAD_DIM] sums, then [.., 2] maximum and sum
//   counters         where splits > 1: one a tile of queries; zero before and after
//   contiguous       see programs.cuh
//   queries, window, sharing, section   where CAUSAL: see Mask in attention_parts.cuh
//
//   CAUSAL, DTYPE   see attention_parts.cuh
//   HEAD_DIM     head_dim rounded up to a multiple of 16, up to 256; the rest is zeros
//   BLOCK_Q      queries of a tile: 128 or 256
//   BLOCK_KV     keys of a block: 32, 64, 96 or 128
//   NUM_STAGES   slots of the ring of keys and of that of values, at least 2
//
// Who does what: a warpgroup for each panel takes the softmax, a thread a query; the next writes results; of the last, one warp
// copies keys, values and queries to shared memory, and one owns the tensor memory and multiplies. While the tensor cores work
// for one panel, the other's warps take its softmax; with BLOCK_Q 128, those of the next block where scores have their own place.
// A panel's first scores of the next tile are multiplied right after its last weights of this one, since the next tile's queries may
// still be on their way; results are written meanwhile.
//
// Tensor memory, 512 columns of 128 lanes: for each panel BLOCK_KV of scores, HEAD_DIM of sums, and BLOCK_KV / 2 of weights,
// two a column, from where they are multiplied. Where these have no room they take the place of their scores: then a panel's next
// scores are issued after its product of weights and values, and over the weights. The PTX ISA promises the order of products
// of one accumulator and shape alone (9.7.16.6.2); that all of a thread's are taken in the order of issue is how the tensor
// cores are said to work, and what public attention kernels rely on. With weights apart nothing relies on it.
//
//   HEAD_DIM   BLOCK_Q 256: apart, in place    BLOCK_Q 128: apart
//         64               128                               128
//        128                64       128                     128
//        192                          64                      96
//        256                                                  64   (most keys of a block, by tensor and shared memory)
//
// Barriers (arrivals a phase; each wait is for the phase of that step, unless said otherwise):
//   keys_full, values_full[slot]    1 and the bytes of a block; awaited to multiply
//   keys_empty, values_empty[slot]  1, by commit, when the block's products are done; awaited to copy over the slot
//   queries_full[panel]             1 and the bytes of the panel; awaited to multiply the tile's first scores
//   queries_empty[panel]            1, by commit, after the tile's last scores; awaited to copy the next tile's
//   scores_full[panel]              1, by commit; awaited by the panel's warpgroup
//   scores_read[panel]              4, one a warp, if APART: scores are in registers; awaited to multiply the next
//   weights_full[panel][part]       4, one a warp: a part of the keys' weights is in place, and sums are rescaled where they had
//                                   to be; awaited to multiply
//   weights_read[panel]             1, by commit, if APART: weights are multiplied; awaited to store the next or rescale sums
//   sums_full[panel]                1, by commit, after the tile's last product; awaited to write
//   sums_empty[panel]               4, one a warp: sums and statistics are in registers; awaited to begin the next tile's sums
//                                   and to leave the next tile's statistics
//   statistics_full[panel]          4, one a warp: the rows' maxima and sums are in shared memory; awaited to write
// Nobody leaves before every phase of its barriers has ended.
//
// 2^x: of each 8 pairs of scores POLYNOMIAL go to the multiply-add units, the others to the special-function unit.
//
// Floor: 4 * batch_heads * q_seq * kv_seq * head_dim FLOPs; each tensor once from memory, k and v once for each BLOCK_Q queries
// from L2. Predicted, never measured, at 2.25 PFLOP/s and 8 TB/s over 148 multiprocessors at 1.85 GHz, 4096 multiply-adds a
// cycle each. Cycles of a multiprocessor for 128 keys and 256 queries, with blocks of 128 keys:
//                         head_dim 128     64
//   tensor cores                  2048   1024    2 * 256 * 128 * head_dim / 4096
//   shared memory                 2048   1024    at 128 bytes a cycle: products of queries and keys read both, 64 cycles a step of
//                                                16 for 64 of math; those of weights and values only values, half of that or less;
//                                                the copy engine writes 512 * head_dim bytes
//   tensor memory                                threads read 128 KiB of scores and write 64 KiB of weights; its rate is not public
//   special functions             1536   1280    16 a cycle, for what is no polynomial's; 2048 if all were
//   multiply-adds                  896   1088    64 pairs a cycle: 2 a score (scale, add up), 6 more for a polynomial's
//   issue                         1150   1300    instructions of each of the 4 schedulers, by the disassembly
// So heads of 128 are bound by the tensor cores and shared memory alike, and heads of 64 by the softmax, at 80 % of the tensor
// cores' rate. Blocks of 64 keys read queries twice as often: 2560 cycles of shared memory with heads of 128. A pair of programs
// that shared keys would halve what they read there; it is not built. What waits cost, and the clock under load, is not counted.
// Decoding is bound by reading k and v once: 128 keys with heads of 128 are 64 KiB, 2240 cycles of a multiprocessor's share of
// 8 TB/s, beside 1024 of the tensor cores and some 1200 of one warp's softmax.

#include "attention_parts.cuh"
#include "programs.cuh"
#include "tcgen05_softmax.cuh"

#if !defined(HEAD_DIM) || !defined(BLOCK_Q) || !defined(BLOCK_KV) || !defined(NUM_STAGES)
#error "attention_tcgen05.cu needs HEAD_DIM, BLOCK_Q, BLOCK_KV and NUM_STAGES"
#endif

namespace {

using ptx::Major;
using ptx::Pair;
using ptx::u32;
using ptx::u64;

constexpr int GROUP = 128;                // threads of a warpgroup
constexpr int PANEL = 128;                // queries of a panel
constexpr int PANELS = BLOCK_Q / PANEL;
constexpr int THREADS = (PANELS + 2) * GROUP;
constexpr int LINE = 64;                  // elements of the head in one swizzled line of 128 bytes
constexpr int LINES = (HEAD_DIM + LINE - 1) / LINE;
constexpr int Q_LINE_BYTES = PANEL * LINE * 2;      // one line of every query of a panel
constexpr int KV_LINE_BYTES = BLOCK_KV * LINE * 2;  // one line of every key of a block
constexpr int Q_BYTES = LINES * Q_LINE_BYTES;
constexpr int KV_BYTES = LINES * KV_LINE_BYTES;

constexpr int CHUNK = 32;                           // columns of tensor memory that a thread loads at once
constexpr int CHUNKS = BLOCK_KV / CHUNK;
constexpr int PARTS = CHUNKS > 1 ? 2 : 1;           // of a block's keys: the last chunk is weighed while the others are multiplied
constexpr int PART_CHUNKS = CHUNKS > 1 ? CHUNKS - 1 : 1;  // of the first

// Tensor memory.
constexpr bool APART = PANELS * (BLOCK_KV + BLOCK_KV / 2 + HEAD_DIM) <= 512;
constexpr int SCORES = 0;
constexpr int WEIGHTS = APART ? PANELS * BLOCK_KV : SCORES;
constexpr int WEIGHTS_PITCH = APART ? BLOCK_KV / 2 : BLOCK_KV;
constexpr int SUMS = WEIGHTS + PANELS * WEIGHTS_PITCH;
constexpr int COLUMNS = SUMS + PANELS * HEAD_DIM;
constexpr int TMEM_COLUMNS = COLUMNS <= 64 ? 64 : COLUMNS <= 128 ? 128 : COLUMNS <= 256 ? 256 : 512;

// Shared memory: queries, keys, values, the rows' statistics, barriers, the address of tensor memory, a flag.
constexpr int QUERIES = 0;
constexpr int KEYS = QUERIES + PANELS * Q_BYTES;
constexpr int VALUES = KEYS + NUM_STAGES * KV_BYTES;
constexpr int STATISTICS = VALUES + NUM_STAGES * KV_BYTES;
constexpr int KEY_BARRIERS = STATISTICS + BLOCK_Q * 8;
constexpr int VALUE_BARRIERS = KEY_BARRIERS + 2 * NUM_STAGES * 8;
constexpr int PANEL_BARRIERS = VALUE_BARRIERS + 2 * NUM_STAGES * 8;
constexpr int BARRIERS_A_PANEL = 10;
constexpr int TENSOR_MEMORY = PANEL_BARRIERS + PANELS * BARRIERS_A_PANEL * 8;
constexpr int FLAG = TENSOR_MEMORY + 4;
constexpr int SMEM_BYTES = FLAG + 4;

// Pairs of every 8 whose 2^x is a polynomial's: as many as leave the special-function unit less to do than the tensor cores have,
// or where it cannot, as many as balance it with the multiply-adds.
constexpr int POLYNOMIAL = HEAD_DIM <= 64 ? 3 : HEAD_DIM <= 128 ? 2 : 0;

// Registers of a thread: what is compiled for is an even share, which those that do little hand on. The softmax holds a block's
// scores, and what fewer keys leave goes to the others.
constexpr bool MANY_SCORES = BLOCK_KV > 96;
constexpr int SOFTMAX_REGISTERS = PANELS == 1 ? 240 : MANY_SCORES ? 200 : 176;
constexpr int WRITING_REGISTERS = PANELS == 1 ? 128 : MANY_SCORES ? 64 : 96;
constexpr int OTHER_REGISTERS = PANELS == 1 ? 96 : MANY_SCORES ? 48 : 64;

constexpr int COPYING_WARP = (PANELS + 1) * 4, MULTIPLYING_WARP = COPYING_WARP + 1;
constexpr int WRITING_BARRIER = 1;  // 0 is __syncthreads'

static_assert(HEAD_DIM % 16 == 0 && HEAD_DIM >= 16 && HEAD_DIM <= 256, "HEAD_DIM: a multiple of 16 up to 256");
static_assert(BLOCK_Q == 128 || BLOCK_Q == 256, "BLOCK_Q: 128 or 256");
static_assert(BLOCK_KV % CHUNK == 0 && BLOCK_KV >= CHUNK && BLOCK_KV <= 128, "BLOCK_KV: 32, 64, 96 or 128");
static_assert(NUM_STAGES >= 2, "NUM_STAGES: at least 2");
static_assert(COLUMNS <= 512, "more columns of tensor memory than there are");
static_assert(SMEM_BYTES <= 227 << 10, "more shared memory than a program has");

// The maximum is raised only where a score is this far above it, in powers of two: until then weights are at most 2^8,
// which f32 sums hold as well, and sums need no rescaling.
constexpr float SLACK = 8.0f;

#if CAUSAL
using Block = MaskedTileOf<BLOCK_Q, BLOCK_KV>;
#else
using Block = TileOf<BLOCK_Q, BLOCK_KV>;
#endif

extern __shared__ __align__(1024) unsigned char smem[];

// Slots that are filled and emptied in turn.
struct Ring {
    u32 barriers;
    int slot = 0;
    u32 phase = 0;

    __device__ __forceinline__ u32 full() const { return barriers + slot * 8; }
    __device__ __forceinline__ u32 empty() const { return barriers + (NUM_STAGES + slot) * 8; }
    __device__ __forceinline__ int offset() const { return slot * KV_BYTES; }
    __device__ __forceinline__ void advance() {
        if (++slot == NUM_STAGES) slot = 0, phase ^= 1;
    }
};

// The barriers of one panel of queries.
struct PanelBarriers {
    u32 queries_full, queries_empty, scores_full, scores_read, weights_full, weights_read, sums_full, sums_empty, statistics_full;

    __device__ __forceinline__ PanelBarriers(u32 base, int panel) {
        queries_full = base + PANEL_BARRIERS + panel * BARRIERS_A_PANEL * 8;
        queries_empty = queries_full + 8;
        scores_full = queries_empty + 8;
        scores_read = scores_full + 8;
        weights_read = scores_read + 8;
        sums_full = weights_read + 8;
        sums_empty = sums_full + 8;
        statistics_full = sums_empty + 8;
        weights_full = statistics_full + 8;  // and one more for the second part
    }
};

// One thread for all.
__device__ __forceinline__ void init_barriers(u32 base) {
    for (const int ring : {KEY_BARRIERS, VALUE_BARRIERS}) {
        for (int i = 0; i < 2 * NUM_STAGES; ++i) ptx::mbarrier_init(base + ring + i * 8, 1);
    }
    for (int panel = 0; panel < PANELS; ++panel) {
        const PanelBarriers barriers(base, panel);
        ptx::mbarrier_init(barriers.queries_full, 1);
        ptx::mbarrier_init(barriers.queries_empty, 1);
        ptx::mbarrier_init(barriers.scores_full, 1);
        ptx::mbarrier_init(barriers.sums_full, 1);
        ptx::mbarrier_init(barriers.sums_empty, 4);
        ptx::mbarrier_init(barriers.statistics_full, 4);
        for (int part = 0; part < PARTS; ++part) ptx::mbarrier_init(barriers.weights_full + part * 8, 4);
        if constexpr (APART) {
            ptx::mbarrier_init(barriers.scores_read, 4);
            ptx::mbarrier_init(barriers.weights_read, 1);
        }
    }
    ptx::fence_mbarrier_init();
}

// The warp arrives, once: what it has done in tensor memory, and waited for, comes before. It is together after.
__device__ __forceinline__ void signal(u32 barrier) {
    ptx::tcgen05_before_signal();
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(barrier);
    __syncwarp();
}

__device__ __forceinline__ void await(u32 barrier, u32 parity) {
    ptx::mbarrier_wait(barrier, parity);
    ptx::tcgen05_after_signal();
}

// The address of the program's tensor memory, and that of this warp's 32 lanes: the lane is in the upper half.
__device__ __forceinline__ u32 tensor_memory(u32 base) { return ptx::load_shared(base + TENSOR_MEMORY); }
__device__ __forceinline__ u32 own_lanes(u32 base) { return tensor_memory(base) + (threadIdx.x / 32 % 4 << 21); }

// The parities of up to 32 barriers' phases: that of the next one, and on to the one after.
struct Phases {
    u32 bits = 0;

    __device__ __forceinline__ u32 next(int which) {
        const u32 phase = bits >> which & 1;
        bits ^= 1u << which;
        return phase;
    }
};

// The tiles of one program.
struct Work {
    u32 base;  // of the shared memory
    int q_seq, kv_seq, splits;
    Tiles tiles;
#if CAUSAL
    int batch_heads;
    Mask mask;

    __device__ __forceinline__ Block tile(int index) const {
        return Block(mask, batch_heads, q_seq, kv_seq, splits, index);
    }
#else
    __device__ __forceinline__ Block tile(int index) const { return Block(q_seq, kv_seq, splits, index); }
#endif

    template <typename Body>
    __device__ __forceinline__ void each_tile(Body body) const {
#pragma unroll 1
        for (int index = tiles.first; index < tiles.end; index += tiles.stride) body(tile(index));
    }
};

__device__ __forceinline__ int panels_of(const Block& tile) { return (tile.queries + PANEL - 1) / PANEL; }
__device__ __forceinline__ int blocks_of(const Block& tile) {
    return (tile.end_key - tile.first_key + BLOCK_KV - 1) / BLOCK_KV;
}

// ---- Copying, one thread ----

__device__ __forceinline__ void copy_block(Ring& ring, u32 slots, const ptx::TensorMap& map, int first_key, int head) {
    ptx::mbarrier_wait(ring.empty(), ring.phase ^ 1);
    ptx::mbarrier_arrive_expect(ring.full(), KV_BYTES);
#pragma unroll
    for (int line = 0; line < LINES; ++line) {
        ptx::tma_load(slots + ring.offset() + line * KV_LINE_BYTES, map, ring.full(), line * LINE, first_key, head);
    }
    ring.advance();
}

__device__ __forceinline__ void copy(const Work& work, const ptx::TensorMap& q_map, const ptx::TensorMap& k_map,
                                     const ptx::TensorMap& v_map) {
    const u32 base = work.base;
    Ring keys{base + KEY_BARRIERS}, values{base + VALUE_BARRIERS};
    Phases phases;  // of each panel's queries
    const auto wait_empty = [&](int panel) {
        ptx::mbarrier_wait(PanelBarriers(base, panel).queries_empty, phases.next(panel) ^ 1);
    };
    work.each_tile([&](const Block& tile) {
        if (!tile.has_keys()) return;
#pragma unroll
        for (int panel = 0; panel < PANELS; ++panel) {
            if (panel < panels_of(tile)) {
                const u32 full = PanelBarriers(base, panel).queries_full;
                wait_empty(panel);
                ptx::mbarrier_arrive_expect(full, Q_BYTES);
#pragma unroll
                for (int line = 0; line < LINES; ++line) {
                    ptx::tma_load(base + QUERIES + panel * Q_BYTES + line * Q_LINE_BYTES, q_map, full, line * LINE,
                                  tile.first_query + panel * PANEL, tile.head);
                }
            }
            if (panel == 0) copy_block(keys, base + KEYS, k_map, tile.first_key, tile.key_head);
        }
#pragma unroll 1
        for (int key = tile.first_key; key < tile.end_key; key += BLOCK_KV) {
            if (key + BLOCK_KV < tile.end_key) copy_block(keys, base + KEYS, k_map, key + BLOCK_KV, tile.key_head);
            copy_block(values, base + VALUES, v_map, key, tile.key_head);
        }
    });
    // Every arrival has come.
    for (int i = 0; i < NUM_STAGES; ++i, keys.advance(), values.advance()) {
        ptx::mbarrier_wait(keys.empty(), keys.phase ^ 1);
        ptx::mbarrier_wait(values.empty(), values.phase ^ 1);
    }
    for (int panel = 0; panel < PANELS; ++panel) wait_empty(panel);
}

// ---- Multiplying, one thread ----

// The blocks of keys of all of a program's tiles, one after the other.
struct Steps {
    const Work& work;
    int index, block, blocks, panels;

    __device__ __forceinline__ explicit Steps(const Work& work) : work(work), index(work.tiles.first) { find(); }

    __device__ __forceinline__ bool is_end() const { return index >= work.tiles.end; }
    __device__ __forceinline__ bool is_first() const { return block == 0; }
    __device__ __forceinline__ bool is_last() const { return block == blocks - 1; }
    __device__ __forceinline__ void advance() {
        if (++block == blocks) index += work.tiles.stride, find();
    }

  private:
    // The next tile that has keys, from this one on.
    __device__ __forceinline__ void find() {
        block = 0;
        for (; !is_end(); index += work.tiles.stride) {
            const Block tile = work.tile(index);
            blocks = blocks_of(tile), panels = panels_of(tile);
            if (tile.has_keys()) return;
        }
    }
};

struct Multiplier {
    u32 base, tensor_memory;
    Ring keys, values;
    u64 query_operand, key_operand, value_operand;  // descriptors, of which only the addresses change
    Phases queries, scores, weights, sums;  // of each panel

    __device__ __forceinline__ explicit Multiplier(u32 base)
        : base(base), tensor_memory(::tensor_memory(base)), keys{base + KEY_BARRIERS}, values{base + VALUE_BARRIERS},
          query_operand(ptx::tcgen05_operand(base + QUERIES, 0, 1024)),
          key_operand(ptx::tcgen05_operand(base + KEYS, 0, 1024)),
          value_operand(ptx::tcgen05_operand(base + VALUES, KV_LINE_BYTES, 1024)) {}

    // A panel's scores of a step.
    __device__ __forceinline__ void multiply_keys(const Steps& step, int panel) {
        constexpr u32 INSTRUCTION = ptx::tcgen05_instruction(PANEL, BLOCK_KV, Major::K, Major::K, Half::IS_BF16);
        const PanelBarriers barriers(base, panel);
        if (step.is_first()) ptx::mbarrier_wait(barriers.queries_full, queries.next(panel));
        if constexpr (APART) ptx::mbarrier_wait(barriers.scores_read, scores.next(panel) ^ 1);
        if (panel == 0) ptx::mbarrier_wait(keys.full(), keys.phase);
        ptx::tcgen05_after_signal();
        const int first = ptx::opaque(panel * Q_BYTES);  // lest all descriptors be carried in registers
#pragma unroll
        for (int k = 0; k < HEAD_DIM / 16; ++k) {
            const u64 a = ptx::tcgen05_advance(query_operand, first + k / 4 * Q_LINE_BYTES + k % 4 * 32);
            const u64 b = ptx::tcgen05_advance(key_operand, keys.offset() + k / 4 * KV_LINE_BYTES + k % 4 * 32);
            ptx::tcgen05_multiply<1>(tensor_memory + SCORES + panel * BLOCK_KV, a, b, INSTRUCTION, k > 0);
        }
        ptx::tcgen05_commit<1>(barriers.scores_full);
        if (step.is_last()) ptx::tcgen05_commit<1>(barriers.queries_empty);
    }

    // Adds a panel's weighted values of a step.
    __device__ __forceinline__ void multiply_values(const Steps& step, int panel) {
        constexpr u32 INSTRUCTION = ptx::tcgen05_instruction(PANEL, HEAD_DIM, Major::K, Major::MN, Half::IS_BF16);
        const PanelBarriers barriers(base, panel);
        if (step.is_first()) ptx::mbarrier_wait(barriers.sums_empty, sums.next(panel) ^ 1);
        if (panel == 0) ptx::mbarrier_wait(values.full(), values.phase);
        const u32 weights_phase = weights.next(panel);
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            await(barriers.weights_full + part * 8, weights_phase);
            constexpr int FIRST[] = {0, PART_CHUNKS * CHUNK / 16, BLOCK_KV / 16};
#pragma unroll
            for (int k = FIRST[part]; k < FIRST[part + 1]; ++k) {
                const u32 a = tensor_memory + WEIGHTS + panel * WEIGHTS_PITCH + k * 8;
                const u64 b = ptx::tcgen05_advance(value_operand, values.offset() + k * 2048);
                ptx::tcgen05_multiply_held<1>(tensor_memory + SUMS + panel * HEAD_DIM, a, b, INSTRUCTION,
                                              !step.is_first() || k > 0);
            }
        }
        if constexpr (APART) ptx::tcgen05_commit<1>(barriers.weights_read);
        if (step.is_last()) ptx::tcgen05_commit<1>(barriers.sums_full);
    }

    __device__ __forceinline__ void release(Ring& ring) const { ptx::tcgen05_commit<1>(ring.empty()); }

    __device__ __forceinline__ void run(const Work& work) {
        Steps step(work), next(work);
        if (step.is_end()) return;
        for (int panel = 0; panel < PANELS; ++panel) {
            if (panel < next.panels) multiply_keys(next, panel);
        }
        release(keys), keys.advance();
        next.advance();
#pragma unroll 1
        for (; !step.is_end(); step.advance()) {
            // A new tile's queries may still be on their way: what is at hand goes first.
            const bool early = APART && !next.is_end() && !next.is_first();
#pragma unroll
            for (int panel = 0; panel < PANELS; ++panel) {
                if (early && panel < next.panels) multiply_keys(next, panel);
                if (panel < step.panels) multiply_values(step, panel);
                if (!early && !next.is_end() && panel < next.panels) multiply_keys(next, panel);
            }
            release(values), values.advance();
            if (next.is_end()) continue;
            release(keys), keys.advance();
            next.advance();
        }
    }
};

// ---- The softmax, a warpgroup a panel, a thread a query ----

using Scores = float[CHUNKS][CHUNK];

#if CAUSAL
// Scores of keys that the mask hides from the thread's query become -inf: it sees the keys up to `reach` places after the first.
__device__ __forceinline__ void hide(Scores& scores, const Block& tile, int reach) {
    constexpr float INFINITE = __builtin_bit_cast(float, 0x7f800000);
#pragma unroll
    for (int i = 0; i < BLOCK_KV; ++i) {
        if (tile.is_hidden(reach, i)) scores[i / CHUNK][i % CHUNK] = -INFINITE;
    }
}
#else
// Scores of keys past the last become -inf.
__device__ __forceinline__ void mask(Scores& scores, int keys) {
    constexpr float INFINITE = __builtin_bit_cast(float, 0x7f800000);
#pragma unroll
    for (int i = 0; i < BLOCK_KV; ++i) {
        if (i >= keys) scores[i / CHUNK][i % CHUNK] = -INFINITE;
    }
}
#endif

__device__ __forceinline__ float maximum_of(const Scores& scores) {
    float maxima[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) maxima[i] = fmaxf(scores[0][i], scores[0][4 + i]);
#pragma unroll
    for (int i = 8; i < BLOCK_KV; i += 8) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float(&chunk)[CHUNK] = scores[i / CHUNK];
            maxima[j] = fmaxf(fmaxf(maxima[j], chunk[i % CHUNK + j]), chunk[i % CHUNK + 4 + j]);
        }
    }
    return fmaxf(fmaxf(maxima[0], maxima[1]), fmaxf(maxima[2], maxima[3]));
}

// 2^x of both by multiply-adds: x is its nearest integer, which becomes the exponent, and a rest within 1/2, whose power is a
// polynomial of least relative error, 7.5e-5 at most. Rounding the weight errs by up to 2^-8 to bf16, 52 times as much, and by up to
// 2^-11 to f16, 6.5 times as much. What is below 2^-126 becomes that.
__device__ __forceinline__ Pair exp2_polynomial(Pair x) {
    constexpr float ROUNDING = 12582912.0f;  // 1.5 * 2^23: a sum with it has its integer in its lowest bits
    x = {fmaxf(x.low, -126.0f), fmaxf(x.high, -126.0f)};
    const Pair shifted = x + ptx::both(ROUNDING);
    const Pair rest = ptx::multiply_add(shifted + ptx::both(-ROUNDING), ptx::both(-1.0f), x);
    Pair power = ptx::multiply_add(rest, ptx::both(0.0551716999662f), ptx::both(0.2426111999029f));
    power = ptx::multiply_add(power, rest, ptx::both(0.6932609875991f));
    power = ptx::multiply_add(power, rest, ptx::both(0.9999280689114f));
    const auto scaled = [](float power, float shifted) {
        return __uint_as_float(__float_as_uint(power) + (__float_as_uint(shifted) << 23));
    };
    return {scaled(power.low, shifted.low), scaled(power.high, shifted.high)};
}

struct Softmax {
    PanelBarriers barriers;
    u32 scores, weights, sums;  // this warp's lanes of tensor memory
    float scale_log2;
    bool is_first;              // block of the tile
    Statistics row;
    Phases phases;
    static constexpr int SCORES_FULL = 0, WEIGHTS_READ = 1, SUMS_EMPTY = 2;

    // Multiplies what was summed so far.
    __device__ __forceinline__ void rescale_sums(float rescale) const {
#pragma unroll 1
        for (int column = 0; column < HEAD_DIM; column += 16) {
            float values[1][16];
            u32 words[16];
            ptx::tmem_load(values[0], sums + column);
            ptx::tmem_wait(values);
#pragma unroll
            for (int i = 0; i < 16; ++i) words[i] = __float_as_uint(values[0][i] * rescale);
            ptx::tmem_store(sums + column, words);
        }
    }

    // Weights of a chunk of keys, as 2^(score * scale_log2 - maximum), go to tensor memory, and into the row's sum.
    __device__ __forceinline__ void weigh(float (&chunk)[CHUNK], int index, Pair (&total)[2]) const {
        const Pair scale = ptx::both(scale_log2), below = ptx::both(-row.maximum);
        u32 words[CHUNK / 2];
#pragma unroll
        for (int pair = 0; pair < CHUNK / 2; ++pair) {
            const Pair exponents = ptx::multiply_add({chunk[2 * pair], chunk[2 * pair + 1]}, scale, below);
            // The polynomial's are spread among the others.
            const bool by_polynomial = (pair % 8 + 1) * POLYNOMIAL / 8 > pair % 8 * POLYNOMIAL / 8;
            const Pair weight = by_polynomial ? exp2_polynomial(exponents)
                                              : Pair{ptx::exp2_approx(exponents.low), ptx::exp2_approx(exponents.high)};
            total[pair % 2] = total[pair % 2] + weight;
            words[pair] = Half::pack(weight.low, weight.high);
        }
        ptx::tmem_store(weights + index * (CHUNK / 2), words);
    }

    __device__ __forceinline__ void await_scores() {
        await(barriers.scores_full, phases.next(SCORES_FULL));
        __syncwarp();
    }

    // Weights may be stored, and sums rescaled.
    __device__ __forceinline__ void await_weights_read() {
        if constexpr (APART) {
            await(barriers.weights_read, phases.next(WEIGHTS_READ) ^ 1);
            __syncwarp();
        }
    }

    // One block of keys. hide_some(scores) makes -inf of the scores of those that there are not, or that are hidden.
    template <typename HideSome>
    __device__ __forceinline__ void block(HideSome hide_some) {
        Scores values;
        await_scores();
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk) ptx::tmem_load(values[chunk], scores + chunk * CHUNK);
        ptx::tmem_wait(values);
        if constexpr (APART) signal(barriers.scores_read);

        hide_some(values);
#if CAUSAL
        const float highest = fmaxf(maximum_of(values) * scale_log2, LOWEST);  // a query may see none of these keys
#else
        const float highest = maximum_of(values) * scale_log2;
#endif
        float rescale = 1.0f;
        if (is_first) {
            row = {highest, 0.0f};
        } else if (highest > row.maximum + SLACK) {
            rescale = ptx::exp2_approx(row.maximum - highest);
            row = {highest, row.sum * rescale};
        }
        is_first = false;
        await_weights_read();
        const bool any_raised = __any_sync(~0u, rescale != 1.0f);
        __syncwarp();
        if (any_raised) rescale_sums(rescale);

        Pair total[2] = {};
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
#pragma unroll
            for (int chunk = part * PART_CHUNKS; chunk < (part + 1 < PARTS ? PART_CHUNKS : CHUNKS); ++chunk) {
                weigh(values[chunk], chunk, total);
            }
            ptx::tmem_wait_stores();
            signal(barriers.weights_full + part * 8);
        }
        total[0] = total[0] + total[1];
        row.sum += total[0].low + total[0].high;
    }

    // The same for a warp without queries, whose lanes may have any weights: nobody reads their sums.
    __device__ __forceinline__ void skip() {
        await_scores();
        if constexpr (APART) signal(barriers.scores_read);
        await_weights_read();
        for (int part = 0; part < PARTS; ++part) signal(barriers.weights_full + part * 8);
    }
};

__device__ __forceinline__ void take_softmax(const Work& work, int panel, float scale_log2) {
    const int thread = threadIdx.x % GROUP;
    const u32 lanes = own_lanes(work.base);
    Softmax softmax{PanelBarriers(work.base, panel), lanes + SCORES + panel * BLOCK_KV,
                    lanes + WEIGHTS + panel * WEIGHTS_PITCH, lanes + SUMS + panel * HEAD_DIM, scale_log2};
    work.each_tile([&](const Block& tile) {
        if (!tile.has_keys() || panel >= panels_of(tile)) return;
        softmax.row = {LOWEST, 0.0f};
        softmax.is_first = true;
        const bool has_queries = panel * PANEL + thread / 32 * 32 < tile.queries;
#pragma unroll 1
        for (int keys = tile.end_key - tile.first_key; keys > 0; keys -= BLOCK_KV) {
            if (has_queries) {
                softmax.block([&](Scores& values) {
#if CAUSAL
                    const int key = tile.end_key - keys;
                    if (tile.all.hides(key, BLOCK_KV)) hide(values, tile, tile.reach(panel * PANEL + thread, key));
#else
                    if (keys < BLOCK_KV) mask(values, keys);
#endif
                });
            } else {
                softmax.skip();
            }
        }
#if CAUSAL
        // Of a query that sees no key the weights are as small as a polynomial makes them, and count for nothing.
        if (softmax.row.maximum == LOWEST) softmax.row.sum = 0.0f;
#endif
        ptx::mbarrier_wait(softmax.barriers.sums_empty, softmax.phases.next(Softmax::SUMS_EMPTY) ^ 1);
        ptx::store_shared(work.base + STATISTICS + (panel * PANEL + thread) * 8,
                          uint2{__float_as_uint(softmax.row.maximum), __float_as_uint(softmax.row.sum)});
        signal(softmax.barriers.statistics_full);
    });
    if constexpr (APART) {
        ptx::mbarrier_wait(softmax.barriers.weights_read, softmax.phases.next(Softmax::WEIGHTS_READ) ^ 1);
    }
}

// ---- Writing, one warpgroup, a thread a query of each panel ----

constexpr int WRITTEN = 16;  // columns that a thread has in registers

struct Writer {
    Work work;
    u16* out;
    Partials<HEAD_DIM> partials;
    unsigned* counters;
    int head_dim;
    u32 lanes;
    Phases phases;  // of each panel

    __device__ __forceinline__ Writer(const Work& work, u16* out, const Partials<HEAD_DIM>& partials, unsigned* counters,
                                      int head_dim)
        : work(work), out(out), partials(partials), counters(counters), head_dim(head_dim), lanes(own_lanes(work.base)) {}

    // Some columns of a query of the result, a sector at a time where rows are whole sectors.
    __device__ __forceinline__ void write(const float (&sums)[WRITTEN], float scale, u16* row, int column) const {
        u32 words[WRITTEN / 16][8];
#pragma unroll
        for (int i = 0; i < WRITTEN / 2; ++i) {
            words[i / 8][i % 8] = Half::pack(sums[2 * i] * scale, sums[2 * i + 1] * scale);
        }
#pragma unroll
        for (int i = 0; i < WRITTEN; i += 16) {
            const u32(&sector)[8] = words[i / 16];
            u16* const place = row + column + i;
            if (head_dim % 16 == 0) {
                if (column + i < head_dim) ptx::store_sector(place, sector);
            } else {
                uint4* const halves = reinterpret_cast<uint4*>(place);
                if (column + i < head_dim) halves[0] = make_uint4(sector[0], sector[1], sector[2], sector[3]);
                if (column + i + 8 < head_dim) halves[1] = make_uint4(sector[4], sector[5], sector[6], sector[7]);
            }
        }
    }

    __device__ __forceinline__ static void write_part(const float (&sums)[WRITTEN], float* part) {
#pragma unroll
        for (int i = 0; i < WRITTEN; i += 4) {
            *reinterpret_cast<float4*>(part + i) = make_float4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]);
        }
    }

    // This thread's query of a panel, or its part.
    __device__ __forceinline__ void write_panel(const Block& tile, int panel, int thread) {
        const PanelBarriers barriers(work.base, panel);
        const int query = panel * PANEL + thread;
        const bool is_query = query < tile.queries, has_queries = panel * PANEL + thread / 32 * 32 < tile.queries;
        const long long row = static_cast<long long>(tile.head) * work.q_seq + tile.first_query + query;
        Statistics statistics{LOWEST, 0.0f};
        if (tile.has_keys()) {
            const u32 phase = phases.next(panel);
            ptx::mbarrier_wait(barriers.statistics_full, phase);
            const uint2 pair = ptx::load_shared_u64(work.base + STATISTICS + query * 8);
            statistics = {__uint_as_float(pair.x), __uint_as_float(pair.y)};
            await(barriers.sums_full, phase);
            __syncwarp();
        }
        const float scale = inverse_of_sum(statistics.sum);
        if (has_queries) {
#pragma unroll 1
            for (int column = 0; column < HEAD_DIM; column += WRITTEN) {
                float sums[1][WRITTEN] = {};
                if (tile.has_keys()) {
                    ptx::tmem_load(sums[0], lanes + SUMS + panel * HEAD_DIM + column);
                    ptx::tmem_wait(sums);
                    if (column == HEAD_DIM - WRITTEN) signal(barriers.sums_empty);
                }
                if (is_query && work.splits == 1) write(sums[0], scale, out + row * head_dim, column);
                if (is_query && work.splits > 1) write_part(sums[0], partials.sums(tile.split, row) + column);
                __syncwarp();
            }
        } else if (tile.has_keys()) {
            signal(barriers.sums_empty);
        }
        if (is_query && work.splits > 1) *partials.statistics(tile.split, row) = statistics;
    }

    // Whichever program is the last of the tile's splits merges them.
    __device__ __forceinline__ void merge_parts(const Block& tile, int thread) const {
        constexpr int WIDTH = PANELS == 2 ? 2 : 4;  // columns of a thread, by its registers
        const auto sync = [] { ptx::barrier_sync<GROUP>(WRITING_BARRIER); };
        volatile bool* flag = static_cast<volatile bool*>(ptx::shared_pointer(work.base + FLAG));
        if (!last_of_splits(&counters[tile.counter], work.splits, thread == 0, flag, sync)) return;
        const long long first_row = static_cast<long long>(tile.head) * work.q_seq + tile.first_query;
        const int row_vectors = head_dim / WIDTH;
        for (int vector = thread; vector < tile.queries * row_vectors; vector += GROUP) {
            const long long row = first_row + vector / row_vectors;
            const int column = vector % row_vectors * WIDTH;
            partials.template merged<WIDTH>(row, column).write(out + row * head_dim + column);
        }
    }

    __device__ __forceinline__ void run() {
        const int thread = threadIdx.x % GROUP;
        work.each_tile([&](const Block& tile) {
#pragma unroll 1
            for (int panel = 0; panel < panels_of(tile); ++panel) write_panel(tile, panel, thread);
            if (work.splits > 1) merge_parts(tile, thread);
        });
    }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_tcgen05(const __grid_constant__ ptx::TensorMap q_map, const __grid_constant__ ptx::TensorMap k_map,
                  const __grid_constant__ ptx::TensorMap v_map, u16* out, float* workspace, unsigned* counters,
                  int batch_heads, int q_seq, int kv_seq, int head_dim, int splits, float scale_log2, int contiguous
#if CAUSAL
                  , int queries, int window, int sharing, int section
#endif
) {
    const int warp = threadIdx.x / 32;
    const u32 base = ptx::shared_address(smem);
    if (warp == COPYING_WARP && ptx::elect_one()) {
        ptx::prefetch_map(q_map);
        ptx::prefetch_map(k_map);
        ptx::prefetch_map(v_map);
        init_barriers(base);
    }
    if (warp == MULTIPLYING_WARP) ptx::tmem_allocate<1, TMEM_COLUMNS>(base + TENSOR_MEMORY);
    __syncwarp();
    ptx::tcgen05_before_signal();
    __syncthreads();
    ptx::tcgen05_after_signal();

    // Each part works out for itself what it needs, in its own registers.
    const auto work = [&] {
        const int q_tiles = (q_seq + BLOCK_Q - 1) / BLOCK_Q;
        return Work{base, q_seq, kv_seq, splits, tiles_of_program(q_tiles * splits * batch_heads, contiguous)
#if CAUSAL
                    , batch_heads, Mask{queries, window, sharing, section, contiguous}
#endif
        };
    };
    if (warp < PANELS * 4) {
        ptx::take_registers<SOFTMAX_REGISTERS>();
        take_softmax(work(), warp / 4, scale_log2);
    } else if (warp < COPYING_WARP) {
        ptx::release_registers<WRITING_REGISTERS>();
        const Partials<HEAD_DIM> partials{workspace, static_cast<long long>(batch_heads) * q_seq, splits};
        Writer(work(), out, partials, counters, head_dim).run();
    } else {
        ptx::release_registers<OTHER_REGISTERS>();
        if (warp == COPYING_WARP) {
            if (ptx::elect_one()) copy(work(), q_map, k_map, v_map);
        } else if (warp == MULTIPLYING_WARP) {
            if (ptx::elect_one()) Multiplier(base).run(work());
        }
    }
    __syncwarp();
    ptx::tcgen05_before_signal();
    __syncthreads();
    ptx::tcgen05_after_signal();
    if (warp == MULTIPLYING_WARP) ptx::tmem_free<1, TMEM_COLUMNS>(tensor_memory(base));
}
