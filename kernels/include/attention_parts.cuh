// How attention's work is cut into tiles, and how parts of its result that saw different keys are merged: where programs
// share a tile's keys they leave their parts in a workspace, for the last of them to merge.
#pragma once

#include "numeric.cuh"
#include "scheduler.cuh"
#include "streaming.cuh"

// One unit of work: up to Q queries of a head and one of `splits` nearly equal shares of its keys, in whole blocks of KV. With
// more splits than blocks some have no keys.
template <int Q, int KV>
struct TileOf {
    int head, first_query, queries, first_key, end_key, split, counter;

    // Tiles of the same keys are neighbours.
    __device__ __forceinline__ TileOf(int q_seq, int kv_seq, int splits, int index) {
        const int q_tiles = (q_seq + Q - 1) / Q;
        const int kv_blocks = (kv_seq + KV - 1) / KV;
        const int q_tile = index % q_tiles;
        split = index / q_tiles % splits;
        head = index / q_tiles / splits;
        first_query = q_tile * Q;
        queries = min(Q, q_seq - first_query);
        const scheduler::Steps blocks = scheduler::part_steps(kv_blocks, split, splits);
        first_key = blocks.begin * KV;
        end_key = min(blocks.end * KV, kv_seq);
        counter = head * q_tiles + q_tile;
    }

    __device__ __forceinline__ bool has_keys() const { return first_key < end_key; }
};

// Of the scores of one query: their maximum times scale_log2, or less where weights may exceed 1, and the sum of
// 2^(score * scale_log2 - maximum).
struct alignas(8) Statistics {
    float maximum, sum;
};

// The maximum where no key has been seen: below every score, and finite, so that the difference of two of them is 0.
constexpr float LOWEST = -3.0e38f;

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
    __device__ __forceinline__ void write(bf16* out) const {
        const float scale = 1.0f / row.sum;
        if constexpr (WIDTH == 1) {
            *out = ptx::to_bf16(sums[0] * scale);
        } else {
            float values[WIDTH];
#pragma unroll
            for (int i = 0; i < WIDTH; ++i) values[i] = sums[i] * scale;
            Vector<bf16, 2 * WIDTH> packed;
            packed.pack(values);
            *reinterpret_cast<Vector<bf16, 2 * WIDTH>*>(out) = packed;
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
