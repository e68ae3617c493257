// How attention's work is cut into tiles, and how parts of its result that saw different keys are merged: where programs
// share a tile's keys they leave their parts in a workspace, for the last of them to merge.
//
// Heads of queries that share a head of keys lie one after the other in memory, so that they are as well one head of all
// their queries: `q_seq` below is then that of all. Only a mask tells whose query is which.
//
//   CAUSAL   1 where queries see keys up to their own alone, and a window of them if there is one; else 0, or not given
//   DTYPE    the type of q, k, v and out: f16, or bf16, which need not be given
#pragma once

#include "halves.cuh"
#include "numeric.cuh"
#include "scheduler.cuh"
#include "streaming.cuh"

#ifndef CAUSAL
#define CAUSAL 0
#endif
#ifndef DTYPE
#define DTYPE bf16
#endif

using Half = halves::DTYPE;
using ptx::u16;  // its bits in memory

// One unit of work: up to Q queries of a head and one of `splits` nearly equal shares of its keys, in whole blocks of KV. With
// more splits than blocks some have no keys.
template <int Q, int KV>
struct TileOf {
    int head, key_head, first_query, queries, first_key, end_key, split, counter;

    // Tiles of the same keys are neighbours.
    __device__ __forceinline__ TileOf(int q_seq, int kv_seq, int splits, int index) {
        const int q_tiles = (q_seq + Q - 1) / Q;
        const int kv_blocks = (kv_seq + KV - 1) / KV;
        const int q_tile = index % q_tiles;
        split = index / q_tiles % splits;
        key_head = head = index / q_tiles / splits;
        first_query = q_tile * Q;
        queries = min(Q, q_seq - first_query);
        const scheduler::Steps blocks = scheduler::part_steps(kv_blocks, split, splits);
        first_key = blocks.begin * KV;
        end_key = min(blocks.end * KV, kv_seq);
        counter = head * q_tiles + q_tile;
    }

    __device__ __forceinline__ bool has_keys() const { return first_key < end_key; }
};

// What a causal kernel is told beside the sizes: query i of a head sees the key j where i + kv_seq - queries - window < j
// <= i + kv_seq - queries, so that both end together. A query that sees none gives zeros.
struct Mask {
    int queries;   // of a head: row r of a tile's head is query r % queries
    int window;    // keys that a query sees at most
    int sharing;   // heads, as tiles know them, that share a head of keys
    int section;   // heads whose tiles take turns: their keys and values stay in L2 meanwhile
    int contiguous;
};

// The keys that some queries see: each of them those from `all_from` up to `all_to`, none those from `end` on.
struct Seen {
    int all_from, all_to, end;

    // Whether any of the queries does not see all `keys` keys from `key` on.
    __device__ __forceinline__ bool hides(int key, int keys) const { return key < all_from || key + keys > all_to; }
};

// The same as TileOf under a mask: the keys of a tile are those that any of its queries sees.
template <int Q, int KV>
struct MaskedTileOf {
    int head, key_head, first_query, queries, first_key, end_key, split, counter;
    Seen all;  // by all of its queries
    int head_queries, offset, window;

    // Tiles of more keys come before those of fewer, section by section, so that the last to start are soon done; in
    // contiguous runs they alternate instead, for all runs to be as long.
    __device__ __forceinline__ MaskedTileOf(const Mask& mask, int heads, int q_seq, int kv_seq, int splits, int index)
        : head_queries(mask.queries), offset(kv_seq - mask.queries), window(mask.window) {
        const int q_tiles = (q_seq + Q - 1) / Q;
        int q_tile;
        if (mask.contiguous) {
            const int place = index % q_tiles;
            q_tile = place % 2 == 0 ? q_tiles - 1 - place / 2 : place / 2;
            split = index / q_tiles % splits;
            head = index / q_tiles / splits;
        } else {
            const int section_tiles = mask.section * q_tiles * splits;
            const int first_head = index / section_tiles * mask.section;
            const int turn = min(mask.section, heads - first_head) * splits;
            const int within = index % section_tiles;
            q_tile = q_tiles - 1 - within / turn;
            split = within % turn % splits;
            head = first_head + within % turn / splits;
        }
        key_head = head / mask.sharing;
        first_query = q_tile * Q;
        queries = min(Q, q_seq - first_query);
        counter = head * q_tiles + q_tile;

        all = seen_from(0, queries);
        const int from = max(0, all.all_to - window), to = max(from, all.end);
        const scheduler::Steps blocks = scheduler::part_steps((to - from + KV - 1) / KV, split, splits);
        first_key = from + blocks.begin * KV;
        end_key = min(from + blocks.end * KV, to);
    }

    __device__ __forceinline__ bool has_keys() const { return first_key < end_key; }

    // What the queries in `count` rows from `first_row` on see.
    __device__ __forceinline__ Seen seen_from(int first_row, int count) const {
        // Where they are the end of one head's queries and the beginning of the next one's, any may be among them.
        const int first = (first_query + first_row) % head_queries;
        const bool is_whole = first + count > head_queries;
        const int least = is_whole ? 0 : first, most = is_whole ? head_queries - 1 : first + count - 1;
        return {most + offset + 1 - window, least + offset + 1, most + offset + 1};
    }

    // What those in up to `rows` rows from `first_row` on see, of which there may be none.
    __device__ __forceinline__ Seen seen(int first_row, int rows) const {
        const int count = min(rows, queries - first_row);
        return count > 0 ? seen_from(first_row, count) : Seen{0, 0x7fffffff, 0};
    }

    // How far ahead of `key` the last key is that the query in `row` of the tile sees; negative where it is before it. Those
    // seen are that one and `window` - 1 before it.
    __device__ __forceinline__ int reach(int row, int key) const {
        return (first_query + row) % head_queries + offset - key;
    }

    // Whether the key `column` places further than that `key` is none of those.
    __device__ __forceinline__ bool is_hidden(int reach, int column) const {
        return static_cast<unsigned>(reach - column) >= static_cast<unsigned>(window);
    }
};

// Of the scores of one query: their maximum times scale_log2, or less where weights may exceed 1, and the sum of
// 2^(score * scale_log2 - maximum).
struct alignas(8) Statistics {
    float maximum, sum;
};

// The maximum where no key has been seen: below every score, and finite, so that the difference of two of them is 0.
constexpr float LOWEST = -3.0e38f;

// What the sums of a query are to be multiplied by. Under a mask there may be no key to it.
__device__ __forceinline__ float inverse_of_sum(float sum) {
    if constexpr (CAUSAL) {
        return sum > 0.0f ? 1.0f / sum : 0.0f;
    } else {
        return 1.0f / sum;
    }
}

// WIDTH columns of one query, of all the parts so far.
template <int WIDTH>
struct Merged {
    Statistics row{LOWEST, 0.0f};
    float sums[WIDTH]{};

    // Takes AT_ONCE more parts in.
    template <int AT_ONCE>
    __device__ __forceinline__ void add(const Statistics (&rows)[AT_ONCE], const float (&parts)[AT_ONCE][WIDTH]) {
        float maximum = row.maximum;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) maximum = fmaxf(maximum, rows[i].maximum);
        const float rescale = ptx::exp2_approx(row.maximum - maximum);
        row = {maximum, row.sum * rescale};
#pragma unroll
        for (int column = 0; column < WIDTH; ++column) sums[column] *= rescale;
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const float scale = ptx::exp2_approx(rows[i].maximum - maximum);
            row.sum += rows[i].sum * scale;
#pragma unroll
            for (int column = 0; column < WIDTH; ++column) sums[column] += parts[i][column] * scale;
        }
    }

    // Writes the columns of the result.
    __device__ __forceinline__ void write(u16* out) const {
        const float scale = inverse_of_sum(row.sum);
        if constexpr (WIDTH == 1) {
            *out = Half::round(sums[0] * scale);
        } else {
            float values[WIDTH];
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) values[i] = sums[i] * scale;
            Vector<u16, 2 * WIDTH> packed;
#pragma unroll
            for (int word = 0; word < WIDTH / 2; ++word) packed.words[word] = Half::pack(values[2 * word], values[2 * word + 1]);
            *reinterpret_cast<Vector<u16, 2 * WIDTH>*>(out) = packed;
        }
    }
};

// Merges `parts` parts, AT_ONCE reads ahead, always in the same order. read(part, statistics, sums) reads one.
template <int WIDTH, int AT_ONCE, typename Read>
__device__ __forceinline__ Merged<WIDTH> merge(int parts, Read read) {
    Merged<WIDTH> merged;
#pragma unroll 1
    for (int first = 0; first < parts; first += AT_ONCE) {
        Statistics rows[AT_ONCE];
        float sums[AT_ONCE][WIDTH];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            if (first + i < parts) {
                read(first + i, rows[i], sums[i]);
            } else {
                rows[i] = {LOWEST, 0.0f};
#pragma unroll
                for (int column = 0; column < WIDTH; ++column) sums[i][column] = 0.0f;
            }
        }
        merged.add(rows, sums);
    }
    return merged;
}

// What the splits of all queries leave in the workspace: f32 [splits, rows, PITCH] sums, then Statistics [splits, rows].
template <int PITCH>
struct Partials {
    float* workspace;
    long long rows;
    int splits;

    __device__ __forceinline__ float* sums(int split, long long row) const {
        return workspace + (split * rows + row) * PITCH;
    }

    __device__ __forceinline__ Statistics* statistics(int split, long long row) const {
        return reinterpret_cast<Statistics*>(workspace + splits * rows * PITCH) + split * rows + row;
    }

    // Merges WIDTH columns of one query over the splits, which other programs wrote: read at L2.
    template <int WIDTH>
    __device__ __forceinline__ Merged<WIDTH> merged(long long row, int column) const {
        constexpr int AT_ONCE = WIDTH > 4 ? 4 : 8;
        return merge<WIDTH, AT_ONCE>(splits, [&](int split, Statistics& part, float (&values)[WIDTH]) {
            const float2 pair = __ldcg(reinterpret_cast<const float2*>(statistics(split, row)));
            part = {pair.x, pair.y};
            const float* from = sums(split, row) + column;
            if constexpr (WIDTH % 4 == 0) {
#pragma unroll
                for (int i = 0; i < WIDTH; i += 4) {
                    const float4 four = ptx::load_at_l2(reinterpret_cast<const float4*>(from + i));
                    values[i] = four.x, values[i + 1] = four.y, values[i + 2] = four.z, values[i + 3] = four.w;
                }
            } else {
#pragma unroll
                for (int i = 0; i < WIDTH; ++i) values[i] = __ldcg(from + i);
            }
        });
    }
};

// Whether this program is the last of its tile's splits: it then sees what all of them wrote before. `sync` holds the
// threads that call this, `leader` is one of them, `flag` a place of theirs in shared memory.
template <typename Sync>
__device__ __forceinline__ bool last_of_splits(unsigned* counter, int splits, bool leader, volatile bool* flag, Sync sync) {
    __threadfence();
    sync();
    if (leader) {
        const bool last = atomicAdd(counter, 1u) + 1 == static_cast<unsigned>(splits);
        if (last) *counter = 0;
        *flag = last;
    }
    sync();
    const bool last = *flag;
    if (last) __threadfence();
    return last;
}
