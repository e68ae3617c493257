// What products have in common whose tiles come by Hopper's copy engine: a program's work, the ring of its stages, and how its sums
// become C through shared memory. How a cluster's programs add theirs stands in each kernel: moved here, it is compiled to other code
// than the one that was measured.
//
// Macros
//   BLOCK_M, BLOCK_N     the tile, in rows and columns of C
//   TRANSPOSED           1: wgmma's 64 rows are columns of C, so that a tile may have as few as 8 rows; 0: they are rows of C
//   NUM_WARPS            warps that multiply, in groups of 4, which share the columns of C where TRANSPOSED, else its rows: each
//                        has 64, 128 or 256 of them
//   NUM_STAGES           tiles of A and B in shared memory at once: 2 ... 32
//   C_VECTOR_BYTES       bytes of one copy of C: 16 (by the copy engine), 8, 4 or 2; divides those of a row of C
//   EVERY_LANE_ARRIVES   for racecheck only: not one lane of a warp but all arrive at barriers
//
// A lane's place (LanePlace in the kernels) has its group of four warps, its warp in that and its lane.
#pragma once

#include "layout.cuh"
#include "ptx.cuh"
#include "scheduler.cuh"
#include "tma.cuh"

#if !defined(BLOCK_M) || !defined(BLOCK_N)
#error "BLOCK_M and BLOCK_N must be defined: the tile, in elements"
#endif
#if !defined(TRANSPOSED)
#error "TRANSPOSED must be defined: 1 where wgmma's rows are columns of C, else 0"
#endif
#if !defined(NUM_WARPS)
#error "NUM_WARPS must be defined: warps that multiply"
#endif
#if !defined(NUM_STAGES)
#error "NUM_STAGES must be defined: tiles in flight"
#endif
#if !defined(C_VECTOR_BYTES)
#error "C_VECTOR_BYTES must be defined: bytes of one store, by the alignment of the rows"
#endif

namespace {

using ptx::u16;
using ptx::u32;
using scheduler::power_of_two;
using i64 = long long;
using byte = unsigned char;

// Whether every lane of a warp arrives at a barrier when the warp is done. One is enough: its arrival comes after what the
// others did before a __syncwarp or a wgmma_wait. But racecheck orders only what an arriving lane did itself.
#if defined(EVERY_LANE_ARRIVES)
enum { EVERY_LANE = true, WARP_ARRIVALS = 32 };
#else
enum { EVERY_LANE = false, WARP_ARRIVALS = 1 };
#endif

constexpr int GROUPS = NUM_WARPS / 4;
constexpr int ALONG = TRANSPOSED ? BLOCK_N : BLOCK_M, ACROSS = TRANSPOSED ? BLOCK_M : BLOCK_N;  // wgmma's rows and columns
constexpr int TILES = ALONG / (64 * GROUPS);  // of 64 of wgmma's rows, a group's
constexpr int SUMS = ACROSS / 2;              // a thread's, of one tile
using Sums = float[TILES][SUMS];

static_assert(NUM_WARPS % 4 == 0 && power_of_two(GROUPS) && GROUPS <= 4, "NUM_WARPS must be 4, 8 or 16");
static_assert(ALONG % (64 * GROUPS) == 0 && power_of_two(TILES) && TILES <= 4, "a group has 64, 128 or 256 columns or rows");
static_assert(TRANSPOSED || BLOCK_N % 64 == 0, "C goes out in panels of 64 columns");
static_assert(NUM_STAGES >= 2 && NUM_STAGES <= 32, "NUM_STAGES must be 2 ... 32");
static_assert(power_of_two(C_VECTOR_BYTES) && C_VECTOR_BYTES >= 2 && C_VECTOR_BYTES <= 16, "C_VECTOR_BYTES: 2 ... 16");

// What a kernel argument is that a tile is copied from or to.
template <bool BY_ENGINE>
struct Argument {
    using Type = ptx::TensorMap;
};
template <>
struct Argument<false> {
    using Type = const byte*;
};
constexpr bool C_BY_ENGINE = C_VECTOR_BYTES == 16;
using CTarget = Argument<C_BY_ENGINE>::Type;

// Fetches what the engine has to know before its first copy.
__device__ __forceinline__ void prefetch(const ptx::TensorMap& map) { ptx::prefetch_map(map); }
__device__ __forceinline__ void prefetch(const byte*) {}

// A group's part of C goes out through shared memory in passes, two buffers of STAGING_ROWS at a time: all of the group's columns, or
// where wgmma's rows are C's, one panel of 64 columns of one tile.
constexpr int STAGING_ROWS = TRANSPOSED ? scheduler::smaller(BLOCK_M & -BLOCK_M, 64 / TILES) : 64;
constexpr int STAGING_PANEL = STAGING_ROWS * 128;
constexpr int STAGED_PANELS = TRANSPOSED ? TILES : 1;
constexpr int STAGING_BUFFER = STAGED_PANELS * STAGING_PANEL;
constexpr int STAGING_BYTES = 2 * GROUPS * STAGING_BUFFER;
constexpr int PASSES = TRANSPOSED ? BLOCK_M / STAGING_ROWS : TILES * (BLOCK_N / 64);

extern __shared__ __align__(1024) byte smem[];

// The place in the ring of stages, with the parity of its round.
struct Ring {
    int stage = 0;
    u32 parity = 0;

    __device__ __forceinline__ void advance() {
        if (++stage == NUM_STAGES) stage = 0, parity ^= 1;
    }
};

// The tiles of this program, and its part of their k.
struct Work {
    scheduler::Schedule schedule;
    scheduler::Steps steps;
    int first, end, stride;

    __device__ __forceinline__ Work(int tiles_m, int tiles_n, int k_steps, int group_m, int split_k, int stride_, int span)
        : schedule{tiles_m, tiles_n, k_steps, group_m, 1},
          steps(split_k == 1 ? scheduler::Steps{0, k_steps} : part(k_steps, split_k)),
          first(scheduler::work_begin(ptx::cluster_index(), stride_, span)),
          end(scheduler::work_end(first, span, tiles_m * tiles_n)),
          stride(stride_) {}

    // A part without a step of its own has the one past the last, where all is zero.
    __device__ __forceinline__ static scheduler::Steps part(int k_steps, int parts) {
        const scheduler::Steps own = scheduler::part_steps(k_steps, ptx::cluster_rank(), parts);
        return {own.begin, own.end + (own.begin == own.end)};
    }
};

// Holds the threads of one group. With one group the barrier's number is a constant: a program whose barriers are numbered
// at run time takes all 16, of which a multiprocessor has too few for many programs.
template <typename Place>
__device__ __forceinline__ void group_sync(const Place& place) {
    ptx::barrier_sync<128>(GROUPS == 1 ? 1 : 1 + place.group);
}

// Writes what a pass takes of a group's sums to shared memory as Element (halves.cuh), in panels of 64 columns; row r of the group's
// tile i is column 64 i + r of its columns, or such a row of its rows.
template <typename Element, typename Place>
__device__ __forceinline__ void stage_matrices(u32 buffer, const Sums& sums, int pass, const Place& place) {
    if constexpr (!TRANSPOSED) {
        const int tile = pass / (BLOCK_N / 64), panel = pass % (BLOCK_N / 64);
        const int row = 16 * place.warp + place.lane / 8 % 2 * 8 + place.lane % 8;
#pragma unroll
        for (int x = 0; x < 64; x += 16) {
            u32 words[4];  // 8 columns of 8 rows and of 8 rows further down, then the 8 columns beside
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                const int s = (64 * panel + x) / 2 + 2 * w;
                words[w] = Element::pack(sums[tile][s], sums[tile][s + 1]);
            }
            ptx::stmatrix(buffer + layout::swizzled<128, 16>(row, 2 * x + place.lane / 16 * 16), words);
        }
        return;
    }
    constexpr int MATRICES = STAGING_ROWS == 8 ? 2 : 4;  // of 8 columns, then 8 rows further down
    const u32 lane_address =
        buffer + layout::swizzled<128, 16>(place.lane / 16 * (MATRICES == 4 ? 8 : 0) + place.lane % 8,
                                           32 * place.warp + place.lane / 8 % 2 * 16);
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
#pragma unroll
        for (int y = 0; y < STAGING_ROWS; y += 4 * MATRICES) {
            u32 words[MATRICES];
#pragma unroll
            for (int w = 0; w < MATRICES; ++w) {
                const int s = (pass * STAGING_ROWS + y) / 2 + 2 * w;
                words[w] = Element::pack(sums[i][s], sums[i][s + 1]);
            }
            ptx::stmatrix_trans(lane_address + i * STAGING_PANEL + y * 128, words);
        }
    }
}

// Eight adjacent columns of one row of C.
__device__ __forceinline__ void store_vector(u16* c, const u32 (&columns)[4], int m, int n, int row, int column) {
    if (row >= m) return;
    layout::store_columns<C_VECTOR_BYTES / 2>(c + static_cast<i64>(row) * n + column, columns, n - column);
}

// Writes a group's staged rows to C at (row, column) by the copy engine. Where C's rows are not aligned for it, the kernel has a
// write_rows of its own.
template <typename Place>
__device__ __forceinline__ void write_rows(const ptx::TensorMap& c_tiles, u16*, u32 buffer, int, int, int row, int column,
                                           const Place& place) {
    ptx::fence_async_shared();
    group_sync(place);
    if (place.warp == 0 && place.lane == 0) {
#pragma unroll
        for (int i = 0; i < STAGED_PANELS; ++i) ptx::tma_store(c_tiles, buffer + i * STAGING_PANEL, column + 64 * i, row);
        ptx::tma_store_commit();
    }
}

// Writes the group's part of the tile of C that begins at (row, column) through its two buffers, which take turns from
// tile to tile; the kernel's stage_rows puts what a pass takes into one.
template <typename Place>
__device__ __forceinline__ void store_tile(const CTarget& c_tiles, u16* c, const Sums& sums, int m, int n, int row,
                                           int column, u32 staging, int& turn, const Place& place) {
#pragma unroll
    for (int pass = 0; pass < PASSES; ++pass, turn ^= 1) {
        const u32 buffer = staging + (place.group * 2 + turn) * STAGING_BUFFER;
        if (C_BY_ENGINE && place.warp == 0 && place.lane == 0) ptx::tma_store_wait_read<1>();
        group_sync(place);  // the buffer is free
        stage_rows(buffer, sums, pass, place);
        const int along = place.group * 64 * TILES;
        if constexpr (TRANSPOSED) {
            write_rows(c_tiles, c, buffer, m, n, row + pass * STAGING_ROWS, column + along, place);
        } else {
            const int tile = pass / (BLOCK_N / 64), panel = pass % (BLOCK_N / 64);
            write_rows(c_tiles, c, buffer, m, n, row + along + 64 * tile, column + 64 * panel, place);
        }
    }
}

}  // namespace
