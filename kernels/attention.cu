// out = softmax(q kᵀ / sqrt(head_dim)) v, fused: scores live in registers, the softmax is taken online in f32.
//
// q, out: [batch_heads, q_seq, head_dim]; k, v: [batch_heads, kv_seq, head_dim]; bf16 or f16, contiguous, 16-byte aligned as a whole.
// Heads of queries that share their keys come as one, see attention_parts.cuh, so that a tile reads them once for all; under
// a mask, where they are long, each as its own, `sharing` of them to a head of keys.
// A tile is BLOCK_Q queries of one head and one of `splits` shares of its keys. Its queries stay in shared memory; keys and
// values stream through a ring of NUM_STAGES slots of BLOCK_KV each. Warps share out the queries, 16 or more each; where
// there are more warps than that, several have the same queries and share out the keys of each slot. Whatever was shared
// out is merged at the end: among warps in shared memory, among splits in `workspace`, by the last program of a tile's
// splits to get there, in a fixed order.
//
// Floor: q, k, v and out once through memory, and 4 * batch_heads * q_seq * kv_seq * head_dim FLOPs. Reached on an H200, cold L2:
// [1, 4, 16, 16384, 64] in 16.0 us (1.05 TB/s: most of it is the start and the merge of the splits) and
// [1, 32, 1, 4096, 128] in 29.8 us (2.3 TB/s); prefill about 320 TFLOP/s, the rate of mma.sync there, which is why
// attention_wgmma.cu is.
//
// Launch: NUM_WARPS * 32 threads, grid (programs), dynamic shared memory max(TILE_BYTES, MERGE_BYTES) below.
//   scale_log2   log2(e) / sqrt(head_dim)
//   workspace    where splits > 1: f32 [splits, batch_heads * q_seq, HEAD_DIM] sums, then [.., 2] maximum and sum
//   counters     where splits > 1: one a tile of queries; zero before and after
//   contiguous   see programs.cuh
//   queries, window, sharing, section   where CAUSAL: see Mask
//
//   CAUSAL, DTYPE  see attention_parts.cuh
//   HEAD_DIM       head_dim rounded up to a multiple of 16, up to 256; the rest is zeros
//   VECTOR_BYTES   bytes that every row of head_dim elements is aligned to: 2, 4, 8 or 16
//   BLOCK_Q        queries of a tile, a multiple of 16
//   BLOCK_KV       keys of a slot, a multiple of 16 for each warp that shares them
//   NUM_WARPS      warps of a program; divides BLOCK_Q / 16 or is a multiple of it
//   NUM_STAGES     slots of the ring, at least 2

#include "attention_parts.cuh"
#include "programs.cuh"

#if !defined(HEAD_DIM) || !defined(VECTOR_BYTES) || !defined(BLOCK_Q) || !defined(BLOCK_KV) || !defined(NUM_WARPS) || \
    !defined(NUM_STAGES)
#error "attention.cu needs HEAD_DIM, VECTOR_BYTES, BLOCK_Q, BLOCK_KV, NUM_WARPS and NUM_STAGES"
#endif

constexpr int THREADS = NUM_WARPS * 32;
constexpr int Q_FRAGMENTS = BLOCK_Q / 16;
constexpr int Q_WARPS = NUM_WARPS < Q_FRAGMENTS ? NUM_WARPS : Q_FRAGMENTS;
constexpr int KV_WARPS = NUM_WARPS / Q_WARPS;
constexpr int M_TILES = Q_FRAGMENTS / Q_WARPS;      // 16-row fragments of a warp's queries
constexpr int WARP_KEYS = BLOCK_KV / KV_WARPS;      // keys of a slot that a warp works on
constexpr int WIDTH = VECTOR_BYTES / 2;             // elements of a vector
constexpr int ROW_VECTORS = HEAD_DIM / WIDTH;
constexpr float INFINITE = __builtin_bit_cast(float, 0x7f800000);

// One vector more than a row keeps the eight rows of an 8x8 matrix in eight different groups of banks.
constexpr int PITCH = HEAD_DIM + 8;                 // elements between rows of q, k and v
constexpr int ROW_BYTES = PITCH * 2;
constexpr int Q_BYTES = BLOCK_Q * ROW_BYTES;
constexpr int KV_BYTES = BLOCK_KV * ROW_BYTES;
constexpr int TILE_BYTES = Q_BYTES + NUM_STAGES * 2 * KV_BYTES;
// At the end the same memory holds f32 [KV_WARPS, BLOCK_Q, PITCH] sums, then [KV_WARPS, BLOCK_Q] statistics.
constexpr int MERGE_BYTES = KV_WARPS * BLOCK_Q * (PITCH * 4 + 8);

// Query fragments stay in registers where they, the scores and the output leave enough for everything else.
constexpr int REGISTERS = THREADS > 256 ? 65536 / THREADS : 255;
constexpr bool HOLD_QUERIES = M_TILES * (HEAD_DIM / 2 + WARP_KEYS / 2 + HEAD_DIM / 4) + 100 <= REGISTERS;

// How far the product with the keys is unrolled. Queries read from shared memory are not read far ahead: the compiler
// would spill for it.
constexpr int QUERY_STEPS = HOLD_QUERIES ? HEAD_DIM / 16 : M_TILES == 1 ? 2 : 1;

static_assert(HEAD_DIM % 16 == 0 && HEAD_DIM <= 256, "HEAD_DIM: a multiple of 16 up to 256");
static_assert(VECTOR_BYTES == 2 || VECTOR_BYTES == 4 || VECTOR_BYTES == 8 || VECTOR_BYTES == 16, "VECTOR_BYTES");
static_assert(BLOCK_Q % 16 == 0 && Q_FRAGMENTS % Q_WARPS == 0 && NUM_WARPS % Q_WARPS == 0, "BLOCK_Q and NUM_WARPS");
static_assert(BLOCK_KV % (16 * KV_WARPS) == 0, "a warp needs a multiple of 16 keys");
static_assert(NUM_WARPS <= 32 && NUM_STAGES >= 2, "at most 32 warps, at least two stages");
static_assert(TILE_BYTES <= 227 << 10 && MERGE_BYTES <= 227 << 10, "more shared memory than any GPU gives a program");

struct Problem {
    const u16 *q, *k, *v;
    u16* out;
    float* workspace;
    unsigned* counters;
    int batch_heads, q_seq, kv_seq, head_dim, splits;
    float scale_log2;
#if CAUSAL
    Mask mask;
#endif
};

#if CAUSAL
using Tile = MaskedTileOf<BLOCK_Q, BLOCK_KV>;
#else
using Tile = TileOf<BLOCK_Q, BLOCK_KV>;
#endif

// Starts copying `rows` rows of head_dim elements; zeros fill the tile of ROWS rows of HEAD_DIM. Neighbouring threads take
// up to 128 bytes of a row.
template <int ROWS>
__device__ __forceinline__ void copy_rows(unsigned shared, const u16* global, int rows, int head_dim) {
    constexpr int ROW_THREADS = VECTOR_BYTES >= 4 ? 128 / VECTOR_BYTES : 32;
    constexpr int ROWS_AT_ONCE = THREADS / ROW_THREADS;
    const int first_row = threadIdx.x / ROW_THREADS;
    const int first_column = threadIdx.x % ROW_THREADS * WIDTH;
    const u16* from = global + static_cast<long long>(first_row) * head_dim + first_column;
    const unsigned to = shared + first_row * ROW_BYTES + first_column * 2;
#pragma unroll 4
    for (int row = 0; row < ROWS; row += ROWS_AT_ONCE) {
        if (ROWS % ROWS_AT_ONCE != 0 && first_row + row >= ROWS) break;
#pragma unroll
        for (int column = 0; column < HEAD_DIM; column += ROW_THREADS * WIDTH) {
            if (HEAD_DIM % (ROW_THREADS * WIDTH) != 0 && first_column + column >= HEAD_DIM) break;
            const bool inside = first_row + row < rows && first_column + column < head_dim;
            const unsigned slot = to + row * ROW_BYTES + column * 2;
            if constexpr (VECTOR_BYTES == 2) {
                ptx::store_shared(slot, inside ? from[column] : u16{0});
            } else {
                ptx::cp_async<VECTOR_BYTES>(slot, from + column, inside ? VECTOR_BYTES : 0);
            }
        }
        from += static_cast<long long>(ROWS_AT_ONCE) * head_dim;
    }
}

// What a warp knows of its queries. In the layout of `mma_m16n8k16`, a thread has rows lane / 4 and lane / 4 + 8 of each
// fragment; its sums cover its own columns until `finish`.
struct Accumulator {
    float out[M_TILES][HEAD_DIM / 8][4];
    Statistics rows[M_TILES][2];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
            for (int n = 0; n < HEAD_DIM / 8; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) out[m][n][i] = 0.0f;
            }
            rows[m][0] = rows[m][1] = {LOWEST, 0.0f};
        }
    }
};

// A warp's query fragments, 16 elements of the head at a time.
struct Queries {
    unsigned held[HOLD_QUERIES ? HEAD_DIM / 16 : 1][M_TILES][4];
    unsigned address;  // of this lane's row of the first matrix

    __device__ __forceinline__ void read(unsigned (&fragment)[4], int k, int m) const {
        ptx::ldmatrix_x4(fragment, address + m * 16 * ROW_BYTES + k * 32);
    }

    __device__ __forceinline__ void hold() {
        if constexpr (HOLD_QUERIES) {
#pragma unroll
            for (int k = 0; k < HEAD_DIM / 16; ++k) {
#pragma unroll
                for (int m = 0; m < M_TILES; ++m) read(held[k][m], k, m);
            }
        }
    }

    __device__ __forceinline__ void get(unsigned (&fragment)[4], int k, int m) const {
        if constexpr (HOLD_QUERIES) {
#pragma unroll
            for (int i = 0; i < 4; ++i) fragment[i] = held[k][m][i];
        } else {
            read(fragment, k, m);
        }
    }
};

using Scores = float[M_TILES][WARP_KEYS / 8][4];

// scores = q kᵀ. `keys`: this lane's row of the first matrix.
__device__ __forceinline__ void multiply_queries(Scores& scores, const Queries& queries, unsigned keys) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
        for (int n = 0; n < WARP_KEYS / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) scores[m][n][i] = 0.0f;
        }
    }
#pragma unroll (QUERY_STEPS)
    for (int k = 0; k < HEAD_DIM / 16; ++k) {
        unsigned a[M_TILES][4];
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) queries.get(a[m], k, m);
#pragma unroll
        for (int n = 0; n < WARP_KEYS / 16; ++n) {
            unsigned b[4];
            ptx::ldmatrix_x4(b, keys + n * 16 * ROW_BYTES + k * 32);
#pragma unroll
            for (int m = 0; m < M_TILES; ++m) {
                Half::mma_m16n8k16(scores[m][2 * n], a[m], {b[0], b[1]});
                Half::mma_m16n8k16(scores[m][2 * n + 1], a[m], {b[2], b[3]});
            }
        }
    }
}

#if CAUSAL
// Scores of keys that the mask hides become -inf, of the warp's keys from `key` on and its queries from `first_row` of the tile on.
__device__ __forceinline__ void hide(Scores& scores, const Tile& tile, int first_row, int key, int lane) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int reach = tile.reach(first_row + m * 16 + half * 8 + lane / 4, key + lane % 4 * 2);
#pragma unroll
            for (int n = 0; n < WARP_KEYS / 8; ++n) {
                if (tile.is_hidden(reach, n * 8)) scores[m][n][2 * half] = -INFINITE;
                if (tile.is_hidden(reach, n * 8 + 1)) scores[m][n][2 * half + 1] = -INFINITE;
            }
        }
    }
}
#else
// Scores of keys past the last become -inf. `keys_left`: keys from this warp's first to the end.
__device__ __forceinline__ void mask(Scores& scores, int keys_left, int lane) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
        for (int n = 0; n < WARP_KEYS / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (n * 8 + lane % 4 * 2 + i % 2 >= keys_left) scores[m][n][i] = -INFINITE;
            }
        }
    }
}
#endif

// Takes the scores into the maximum of each row and rescales what was accumulated to it.
__device__ __forceinline__ void raise_maximum(Accumulator& accumulator, const Scores& scores, float scale_log2) {
#pragma unroll
    for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float maximum = -INFINITE;
#pragma unroll
            for (int n = 0; n < WARP_KEYS / 8; ++n) {
                maximum = fmaxf(maximum, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
            }
            maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 1));
            maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, 2));

            Statistics& row = accumulator.rows[m][half];
            maximum = fmaxf(row.maximum, maximum * scale_log2);
            const float rescale = ptx::exp2_approx(row.maximum - maximum);
            row = {maximum, row.sum * rescale};
#pragma unroll
            for (int n = 0; n < HEAD_DIM / 8; ++n) {
                accumulator.out[m][n][2 * half] *= rescale;
                accumulator.out[m][n][2 * half + 1] *= rescale;
            }
        }
    }
}

// The weights 2^(score * scale_log2 - maximum) of the k-th 16 keys, as the operand of their product with the values.
__device__ __forceinline__ void weigh(unsigned (&weights)[4], Statistics (&rows)[2],
                                      const float (&scores)[WARP_KEYS / 8][4], int k, float scale_log2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        Statistics& row = rows[i % 2];
        const float(&pair)[4] = scores[2 * k + i / 2];
        const float first = ptx::exp2_approx(fmaf(pair[i % 2 * 2], scale_log2, -row.maximum));
        const float second = ptx::exp2_approx(fmaf(pair[i % 2 * 2 + 1], scale_log2, -row.maximum));
        row.sum += first + second;
        weights[i] = Half::pack(first, second);
    }
}

// out += weights v. `values`: this lane's row of the first matrix.
__device__ __forceinline__ void multiply_values(Accumulator& accumulator, const Scores& scores, unsigned values,
                                                float scale_log2) {
#pragma unroll
    for (int k = 0; k < WARP_KEYS / 16; ++k) {
        unsigned weights[M_TILES][4];
#pragma unroll
        for (int m = 0; m < M_TILES; ++m) {
            weigh(weights[m], accumulator.rows[m], scores[m], k, scale_log2);
        }
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 16; ++n) {
            unsigned b[4];
            ptx::ldmatrix_x4_trans(b, values + k * 16 * ROW_BYTES + n * 32);
#pragma unroll
            for (int m = 0; m < M_TILES; ++m) {
                Half::mma_m16n8k16(accumulator.out[m][2 * n], weights[m], {b[0], b[1]});
                Half::mma_m16n8k16(accumulator.out[m][2 * n + 1], weights[m], {b[2], b[3]});
            }
        }
    }
}

// Runs through the tile's keys.
__device__ __forceinline__ void attend(Accumulator& accumulator, const Problem& problem, const Tile& tile,
                                       unsigned shared) {
    const int lane = threadIdx.x % 32;
    const int q_warp = threadIdx.x / 32 % Q_WARPS;
    const int kv_warp = threadIdx.x / 32 / Q_WARPS;
    const unsigned ring = shared + Q_BYTES;
    const unsigned ring_end = ring + NUM_STAGES * 2 * KV_BYTES;
    const auto next_slot = [&](unsigned slot) { return slot + 2 * KV_BYTES < ring_end ? slot + 2 * KV_BYTES : ring; };

    // The copies run NUM_STAGES - 1 blocks of keys ahead.
    int copied_key = tile.first_key;
    unsigned copied_slot = ring;
    const auto copy_block = [&] {
        if (copied_key < tile.end_key) {
            const int keys = tile.end_key - copied_key;
            const long long row = static_cast<long long>(tile.key_head) * problem.kv_seq + copied_key;
            copy_rows<BLOCK_KV>(copied_slot, problem.k + row * problem.head_dim, keys, problem.head_dim);
            copy_rows<BLOCK_KV>(copied_slot + KV_BYTES, problem.v + row * problem.head_dim, keys, problem.head_dim);
        }
        ptx::cp_async_commit();
        copied_key += BLOCK_KV;
        copied_slot = next_slot(copied_slot);
    };

    const long long first_row = static_cast<long long>(tile.head) * problem.q_seq + tile.first_query;
    copy_rows<BLOCK_Q>(shared, problem.q + first_row * problem.head_dim, tile.queries, problem.head_dim);
#pragma unroll 1
    for (int block = 0; block < NUM_STAGES - 1; ++block) copy_block();

    // Each lane points at its row of the matrices that ldmatrix takes: the four of 16x16, in the order of the operand.
    Queries queries;
    queries.address = shared + (q_warp * M_TILES * 16 + lane % 16) * ROW_BYTES + lane / 16 * 16;
    const int first_key_of_warp = kv_warp * WARP_KEYS;
    const unsigned key_row = (first_key_of_warp + lane % 8 + lane / 16 * 8) * ROW_BYTES + lane / 8 % 2 * 16;
    const unsigned value_row = (first_key_of_warp + lane % 16) * ROW_BYTES + lane / 16 * 16 + KV_BYTES;

    accumulator.clear();
    unsigned slot = ring;
#pragma unroll 1
    for (int key = tile.first_key; key < tile.end_key; key += BLOCK_KV) {
        ptx::cp_async_wait<NUM_STAGES - 2>();
        __syncthreads();  // this block is there for every warp, and every warp is done with the one before
        copy_block();
        if (key == tile.first_key) queries.hold();

        Scores scores;
        multiply_queries(scores, queries, slot + key_row);
#if CAUSAL
        const int key_of_warp = key + first_key_of_warp;
        if (tile.all.hides(key_of_warp, WARP_KEYS)) hide(scores, tile, q_warp * M_TILES * 16, key_of_warp, lane);
#else
        const int keys_left = tile.end_key - key - first_key_of_warp;
        if (keys_left < WARP_KEYS) mask(scores, keys_left, lane);
#endif
        raise_maximum(accumulator, scores, problem.scale_log2);
        multiply_values(accumulator, scores, slot + value_row, problem.scale_log2);
        slot = next_slot(slot);
    }
    ptx::cp_async_wait<0>();
}

// Lays a warp's sums and statistics out in shared memory.
__device__ __forceinline__ void lay_out(const Accumulator& accumulator, float* sums, Statistics* statistics) {
    const int lane = threadIdx.x % 32;
    const int warp = threadIdx.x / 32;
    const int first_row = (warp / Q_WARPS) * BLOCK_Q + (warp % Q_WARPS) * M_TILES * 16;
#pragma unroll
    for (int m = 0; m < M_TILES; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first_row + m * 16 + half * 8 + lane / 4;
            Statistics whole = accumulator.rows[m][half];
            whole.sum += __shfl_xor_sync(0xffffffffu, whole.sum, 1);
            whole.sum += __shfl_xor_sync(0xffffffffu, whole.sum, 2);
            if (lane % 4 == 0) statistics[row] = whole;
#pragma unroll
            for (int n = 0; n < HEAD_DIM / 8; ++n) {
                float2* pair = reinterpret_cast<float2*>(sums + row * PITCH + n * 8 + lane % 4 * 2);
                *pair = {accumulator.out[m][n][2 * half], accumulator.out[m][n][2 * half + 1]};
            }
        }
    }
}

// Calls work(row, column) for every vector of the tile's rows; the same thread gets the same vectors each time.
template <typename Work>
__device__ __forceinline__ void for_each_vector(const Tile& tile, int head_dim, Work work) {
    for (int vector = threadIdx.x; vector < BLOCK_Q * ROW_VECTORS; vector += THREADS) {
        const int row = vector / ROW_VECTORS;
        const int column = vector % ROW_VECTORS * WIDTH;
        if (row < tile.queries && column < head_dim) work(row, column);
    }
}

// Merges the warps' parts, then, if this program is the last of the tile's splits, those.
__device__ __forceinline__ void finish(const Accumulator& accumulator, const Problem& problem, const Tile& tile,
                                       unsigned char* shared) {
    float* sums = reinterpret_cast<float*>(shared);
    Statistics* statistics = reinterpret_cast<Statistics*>(sums + KV_WARPS * BLOCK_Q * PITCH);
    __syncthreads();  // every warp is done with the ring
    lay_out(accumulator, sums, statistics);
    __syncthreads();

    const long long first_row = static_cast<long long>(tile.head) * problem.q_seq + tile.first_query;
    const long long all_rows = static_cast<long long>(problem.batch_heads) * problem.q_seq;
    const auto out = [&](int row, int column) { return problem.out + (first_row + row) * problem.head_dim + column; };
    const auto merge_warps = [&](int row, int column) {
        return merge<WIDTH, KV_WARPS < 4 ? KV_WARPS : 4>(KV_WARPS, [&](int warp, Statistics& part, float (&values)[WIDTH]) {
            part = statistics[warp * BLOCK_Q + row];
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) values[i] = sums[(warp * BLOCK_Q + row) * PITCH + column + i];
        });
    };
    if (problem.splits == 1) {
        for_each_vector(tile, problem.head_dim, [&](int row, int column) {
            merge_warps(row, column).write(out(row, column));
        });
        return;
    }

    const Partials<HEAD_DIM> partials{problem.workspace, all_rows, problem.splits};
    for_each_vector(tile, problem.head_dim, [&](int row, int column) {
        const Merged<WIDTH> merged = merge_warps(row, column);
        float* to = partials.sums(tile.split, first_row + row) + column;
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) to[i] = merged.sums[i];
        if (column == 0) *partials.statistics(tile.split, first_row + row) = merged.row;
    });

    __shared__ bool last;
    unsigned* counter = &problem.counters[tile.counter];
    if (!last_of_splits(counter, problem.splits, threadIdx.x == 0, &last, [] { __syncthreads(); })) return;
    for_each_vector(tile, problem.head_dim, [&](int row, int column) {
        partials.merged<WIDTH>(first_row + row, column).write(out(row, column));
    });
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention(const u16* q, const u16* k, const u16* v, u16* out, float* workspace, unsigned* counters, int batch_heads,
          int q_seq, int kv_seq, int head_dim, int splits, float scale_log2, int contiguous
#if CAUSAL
          , int queries, int window, int sharing, int section
#endif
) {
    extern __shared__ __align__(16) unsigned char shared[];
    const Problem problem{q, k, v, out, workspace, counters, batch_heads, q_seq, kv_seq, head_dim, splits, scale_log2
#if CAUSAL
                          , Mask{queries, window, sharing, section, contiguous}
#endif
    };
    const int q_tiles = (q_seq + BLOCK_Q - 1) / BLOCK_Q;
    const Tiles tiles = tiles_of_program(q_tiles * splits * batch_heads, contiguous);
    for (int index = tiles.first; index < tiles.end; index += tiles.stride) {
#if CAUSAL
        const Tile tile(problem.mask, batch_heads, q_seq, kv_seq, splits, index);
#else
        const Tile tile(q_seq, kv_seq, splits, index);
#endif
        Accumulator accumulator;
        attend(accumulator, problem, tile, ptx::shared_address(shared));
        finish(accumulator, problem, tile, shared);
        __syncthreads();  // shared memory is free for the next tile
    }
}
