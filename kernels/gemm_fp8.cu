// C[m, n] = (A · scales)[m, k] · (B · scales)[k, n] of E4M3 numbers, with Hopper's copy engine and its wgmma. Needs sm_90a.
//
// A   e4m3 [m, k], row-major
// B   e4m3 [k, n], column-major, so [n, k] in memory: wgmma takes 8-bit operands K-major alone
// C   bf16 [m, n], row-major
// a_scales, b_scales   f32; what they belong to BLOCK_SCALES and scale_step say:
//   0, step 0   [1] and [1]: each tensor has one
//   0, step 1   [m] and [n]: a row of A and a column of B each have one
//   1           [m, ceil(k / 128)], column-major, so [ceil(k / 128), m] in memory: 128 of k of a row of A have one; and
//               [ceil(n / 128), ceil(k / 128)], row-major: 128 columns of B by 128 of k have one
// All are contiguous and begin 16-byte aligned. k is below 2^31. A number is its code times its scale, whatever the sign of the
// scale; the product of two scales must be a normal f32 or zero.
//
// Where TRANSPOSED, C^T = B^T A^T is taken: wgmma's 64 rows are columns of C, so that a tile may have as few as 8 rows of C.
// Warps copy tiles of A and B to shared memory, NUM_STAGES steps ahead; the others multiply. The tensor cores' own sums keep
// some 14 bits, so every 128 of k they are added up in f32 registers, where scales of blocks come in; while one group of warps
// adds, the other multiplies. Transposed, a thread's sums are of many rows, whose scales it reads from shared memory, of which
// wgmma at its full rate takes three quarters; else they are of two rows. Programs of a cluster may share one tile's k: each
// sends its sums to the program that adds them up.
//
// Floor: each of A, B and C once through memory (a copy moves 4.2 TB/s on an H200), and 2 m n k FLOPs at the tensor cores' 8192 a
// cycle and multiprocessor. On one of two H200s, where rows begin anywhere: 1 x 71040 x 3993 in 103 us
// as they lie and in 411 by copying both operands first, 67 x 41688 x 2077 in 90 and 116, 1284 x 4728 x 2296 in 87 and 43.
//
// Macros
//   BLOCK_M, BLOCK_N, BLOCK_K   the tile, in rows of C (multiples of 8 up to 64, of 16 up to 192; not TRANSPOSED up to 256), columns
//                               of C (up to 256; not TRANSPOSED 64 or 128) and elements of k (multiples of 128)
//   TRANSPOSED                  1: wgmma's rows are columns of C; 0: they are rows of C
//   NUM_WARPS                   warps that multiply, in groups of 4, each with 64, 128 or 256 of wgmma's rows
//   NUM_STAGES                  tiles of A and B in shared memory at once; from 2
//   BLOCK_SCALES                1: blocks of 128 have scales; 0: rows and columns, or tensors
//   K_VECTOR_BYTES              bytes that rows of A and B are aligned to: 16 (the copy engine takes them), 8 or 4, or 1 (unaligned.cuh)
//   C_VECTOR_BYTES              the same of C: 16 (by the copy engine), 8, 4 or 2; divides 2 n
//   REALIGNED                   1: all programs together first copy A and B to scratch, where rows begin at multiples of 128
//                               bytes: K_VECTOR_BYTES is 16, and the tensor maps are those of the copies; else 0
//   EVERY_LANE_ARRIVES          for racecheck only: not one lane of a warp but all arrive at barriers
//
// Launch: THREADS threads along x; dynamic shared memory of STAGES_BYTES and then STAGING_BYTES or, for split_k > 1,
// BLOCK_M * BLOCK_N floats; programs along x, those of a cluster one after the other. Arguments:
//   a, b, c_tiles             tensor maps where the engine takes them, else pointers. Tiles, 128-byte swizzle: A 128 of k x
//                             BLOCK_M; B 128 of k x BLOCK_N; C 64 columns x STAGING_ROWS
//   a_scales, b_scales, c     the scales, and C itself
//   m, n, k                   the problem
//   tiles_m, tiles_n, k_steps the problem in tiles: ceil(m / BLOCK_M), ceil(n / BLOCK_N), ceil(k / BLOCK_K)
//   group_m                   tile rows that share a column band, 1 ... tiles_m
//   split_k                   programs of a cluster, that share one tile's k: a power of two up to 16; with more than k_steps
//                             some have zeros
//   stride, span              a program's work (scheduler.cuh): span consecutive tiles (stride 1), or every stride-th
//   scale_step                how far the scales of neighbouring rows and columns are apart: 1, or 0 where all have the same
// and, with REALIGNED, where all programs must be resident at once, with a tile or without (those without copy and end):
//   a_rows, b_rows            A and B themselves
//   scratch                   room for the copy of A and then that of B
//   counters                  two words that are zero, and are left zero

#include "halves.cuh"
#include "layout.cuh"
#include "ptx.cuh"
#include "realign.cuh"
#include "scheduler.cuh"
#include "streaming.cuh"
#include "tma.cuh"
#include "unaligned.cuh"
#include "wgmma_fp8.cuh"
#include "wgmma_programs.cuh"

#if !defined(BLOCK_K)
#error "BLOCK_K must be defined: elements of k in a stage"
#endif
#if !defined(BLOCK_SCALES)
#error "BLOCK_SCALES must be defined: 1 where blocks of 128 have scales, else 0"
#endif
#if !defined(K_VECTOR_BYTES)
#error "K_VECTOR_BYTES must be defined: what the rows of A and B are aligned to"
#endif
#if !defined(REALIGNED)
#error "REALIGNED must be defined: 1 where A and B are copied to aligned rows, else 0"
#endif
#if REALIGNED
#define COPY_PARAMETERS , const byte *a_rows, const byte *b_rows, byte *scratch, u32 *counters
#else
#define COPY_PARAMETERS
#endif

namespace {

using Element = halves::bf16;

constexpr int PROMOTED = 128;               // of k, that the tensor cores sum; also what a scale of a block is for
constexpr int PANELS = BLOCK_K / PROMOTED;  // of a tile: 128 bytes, as wide as the copy engine swizzles, each with all rows

static_assert(ACROSS % (ACROSS <= 64 ? 8 : 16) == 0 && ACROSS >= 8 && ACROSS <= 192,
              "wgmma has a multiple of 8 columns up to 64, or of 16 up to 192");
static_assert(TRANSPOSED || BLOCK_N <= 128, "all columns of a tile share a block's scale");
static_assert(BLOCK_M <= 256, "the copy engine takes 256 rows at most");
static_assert(BLOCK_K % PROMOTED == 0, "BLOCK_K must be a multiple of 128");
static_assert(BLOCK_N <= 256, "a program has 256 columns at most");
static_assert(power_of_two(K_VECTOR_BYTES) && K_VECTOR_BYTES <= 16, "K_VECTOR_BYTES: 1 ... 16");

constexpr bool BY_ENGINE = K_VECTOR_BYTES == 16;
static_assert(!REALIGNED || BY_ENGINE, "realigned rows are copied by the engine");
using Source = Argument<BY_ENGINE>::Type;

// Rows of A or of B in panels of 128 of k.
template <int ROWS_>
struct Panels {
    static constexpr int ROWS = ROWS_;
    static constexpr int WIDTH = PROMOTED;
    static constexpr int COUNT = PANELS;
    static constexpr int VECTOR_BYTES = K_VECTOR_BYTES;
    static constexpr int PANEL_BYTES = unaligned::PANEL_BYTES<ROWS, WIDTH, VECTOR_BYTES>;
    static constexpr int BYTES = COUNT * PANEL_BYTES;
};
using ATile = Panels<BLOCK_M>;
using BTile = Panels<BLOCK_N>;
constexpr int STAGE_BYTES = ATile::BYTES + BTile::BYTES;
// A stage's scales: of each panel those of the rows of A, then those of 128 columns of B each.
constexpr int B_SCALES = BLOCK_N < 128 ? 1 : BLOCK_N / 128;
constexpr int PANEL_SCALES = BLOCK_M + (B_SCALES + 3) / 4 * 4;  // fours stay aligned
constexpr int SCALE_BYTES = BLOCK_SCALES ? PANELS * PANEL_SCALES * 4 : 0;
constexpr int BARRIER_BYTES = (NUM_STAGES * (16 + SCALE_BYTES) + 16 + 1023) / 1024 * 1024;  // keeps what follows aligned
constexpr int STAGES_BYTES = NUM_STAGES * STAGE_BYTES + BARRIER_BYTES;

static_assert(STAGES_BYTES + STAGING_BYTES <= 227 * 1024, "the stages exceed the shared memory of every GPU");

using Part = float[SUMS];  // of one tile and 128 of k, in the tensor cores' precision

// Tiles that a group multiplies at once: all, where registers allow, so that one is added up while the next is
// under way.
constexpr int SPARE_REGISTERS = 40;  // for addresses, counters and scales
constexpr int MOST_REGISTERS = GROUPS == 4 ? 96 : 232;
constexpr int PARTS = 2 * TILES * SUMS + SPARE_REGISTERS <= MOST_REGISTERS ? TILES : 1;
constexpr int REGISTERS = (TILES + PARTS) * SUMS + SPARE_REGISTERS;
static_assert(REGISTERS <= MOST_REGISTERS, "a thread has too few registers for its sums");

// Two groups and one warp have 168 registers a thread. Where that is too close, the loading warp brings three idle ones: a whole
// group of warps, that hands its registers to the two that multiply. Tiles that the engine does not take are copied by as many,
// each a step along k in turn, but by no more than there are stages, lest one take a stage for empty that is two rounds behind.
constexpr bool HANDS_OVER = GROUPS == 2 && REGISTERS > 160;
constexpr int LOADING_WARPS = BY_ENGINE ? 1 : scheduler::smaller(4, NUM_STAGES);
constexpr int LEFT_REGISTERS = BY_ENGINE ? 40 : REGISTERS > 216 ? 56 : 72;
constexpr int TAKEN_REGISTERS = 232 - (LEFT_REGISTERS - 40) / 2;
constexpr int THREADS = 32 * NUM_WARPS + (HANDS_OVER ? 128 : 32 * LOADING_WARPS);

// Programs a multiprocessor is to hold at once: what its shared memory allows (228 KiB, 1 of them lost to each program),
// but no more than leave each thread its registers. A quarter of the multiprocessor has 512 for each lane, and hosts every
// fourth warp.
constexpr int BY_SMEM = 228 * 1024 / (STAGES_BYTES + STAGING_BYTES + 1024);
constexpr int LOADER_REGISTERS = BY_ENGINE ? 0 : 56;  // of a thread that shifts rows into place
constexpr int BY_REGISTERS = 512 / ((GROUPS + 1) * (REGISTERS > LOADER_REGISTERS ? REGISTERS : LOADER_REGISTERS));
constexpr int RESIDENT = BY_SMEM < BY_REGISTERS ? BY_SMEM : BY_REGISTERS;

// Where this program's stages, barriers and staging begin.
struct Layout {
    u32 base;

    __device__ __forceinline__ u32 a(int stage) const { return base + stage * STAGE_BYTES; }
    __device__ __forceinline__ u32 b(int stage) const { return a(stage) + ATile::BYTES; }
    // Whether a stage's tiles have arrived, and whether all warps are done with them.
    __device__ __forceinline__ u32 full(int stage) const { return base + NUM_STAGES * STAGE_BYTES + 16 * stage; }
    __device__ __forceinline__ u32 empty(int stage) const { return full(stage) + 8; }
    // Whether all sums of this program's share have arrived from the cluster.
    __device__ __forceinline__ u32 summed() const { return full(NUM_STAGES); }
    __device__ __forceinline__ u32 scales(int stage) const { return summed() + 16 + stage * SCALE_BYTES; }
    __device__ __forceinline__ u32 staging() const { return base + STAGES_BYTES; }
};

// ---- Loading ----

// A warp begins to copy the tile that begins at (row, column) of a matrix.
template <typename Tile>
__device__ __forceinline__ void load_tile(u32 shared, const byte* matrix, u32, int rows, int k, int row, int column, int lane) {
    unaligned::begin_tile<Tile>(shared, matrix, rows, k, row, column, lane);
}

// The whole of it by the copy engine; one lane asks for it, and the barrier counts the bytes.
template <typename Tile>
__device__ __forceinline__ void load_tile(u32 shared, const ptx::TensorMap& map, u32 barrier, int, int, int row, int column,
                                          int lane) {
    if (lane != 0) return;
#pragma unroll
    for (int panel = 0; panel < PANELS; ++panel) {
        ptx::tma_load(shared + panel * Tile::PANEL_BYTES, map, barrier, column + panel * PROMOTED, row);
    }
}

// The scales of a step's blocks, zero beyond the matrices. Those of rows come four at a time where they are aligned.
__device__ __forceinline__ void load_scales(u32 shared, const float* a_scales, const float* b_scales, int m, int n, int k,
                                            int row, int column, int step, int lane) {
    const int blocks_k = scheduler::ceil_div(k, PROMOTED);
    const int width = m % 4 == 0 ? 4 : 1;
#pragma unroll 1
    for (int panel = 0; panel < PANELS; ++panel, shared += 4 * PANEL_SCALES) {
        const int block_k = step * PANELS + panel;
#pragma unroll 1
        for (int y = width * lane; y < BLOCK_M; y += width * 32) {
            const bool inside = block_k < blocks_k && row + y < m;
            const float* source = a_scales + (inside ? static_cast<i64>(block_k) * m + row + y : 0);
            if (width == 4) {
                ptx::cp_async<16>(shared + 4 * y, source, inside ? 16 : 0);
            } else {
                ptx::cp_async<4>(shared + 4 * y, source, inside ? 4 : 0);
            }
        }
        if (lane < B_SCALES) {
            const int block_n = column / 128 + lane;
            const bool inside = block_k < blocks_k && 128 * block_n < n;
            const float* source = b_scales + (inside ? static_cast<i64>(block_n) * blocks_k + block_k : 0);
            ptx::cp_async<4>(shared + 4 * (BLOCK_M + lane), source, inside ? 4 : 0);
        }
    }
}

__device__ __forceinline__ void load_stage(const Layout& at, int stage, const Source& a, const Source& b,
                                           const float* a_scales, const float* b_scales, int m, int n, int k,
                                           scheduler::Tile tile, int step, int lane) {
    const u32 full = at.full(stage);
    const int row = tile.m * BLOCK_M, column = tile.n * BLOCK_N;
    if (lane == 0) ptx::mbarrier_arrive_expect(full, BY_ENGINE ? STAGE_BYTES : 0);
    load_tile<BTile>(at.b(stage), b, full, n, k, column, step * BLOCK_K, lane);
    load_tile<ATile>(at.a(stage), a, full, m, k, row, step * BLOCK_K, lane);
    if constexpr (BLOCK_SCALES) {
        load_scales(at.scales(stage), a_scales, b_scales, m, n, k, row, column, step, lane);
        ptx::cp_async_arrive(full);
    }
    if constexpr (!BY_ENGINE) {
        ptx::cp_async_commit();
        ptx::cp_async_wait<0>();
        __syncwarp();
        unaligned::settle_tile<BTile>(at.b(stage), k, column, step * BLOCK_K, lane);
        unaligned::settle_tile<ATile>(at.a(stage), k, row, step * BLOCK_K, lane);
        ptx::fence_async_shared();
        __syncwarp();
        if (EVERY_LANE || lane == 0) ptx::mbarrier_arrive(full);
    }
}
constexpr int FULL_ARRIVALS = 1 + (BLOCK_SCALES ? 32 : 0) + (BY_ENGINE ? 0 : WARP_ARRIVALS);

// ---- Multiplying ----

// Which elements of the program's tile a lane's sums stand for: sum 4 j + 2 h + e of the group's tile i is of one of wgmma's rows
// and one of its columns.
struct LanePlace {
    int group, warp, lane;

    __device__ __forceinline__ explicit LanePlace(int thread)
        : group(thread / 128), warp(thread / 32 % 4), lane(thread % 32) {}

    __device__ __forceinline__ int along(int i, int h) const { return group * 64 * TILES + 64 * i + 16 * warp + 8 * h + lane / 4; }
    __device__ __forceinline__ int across(int j, int e) const { return 8 * j + lane % 4 * 2 + e; }
    // Where it is in the tile of C, row by row.
    __device__ __forceinline__ int index(int i, int j, int h, int e) const {
        return TRANSPOSED ? across(j, e) * BLOCK_N + along(i, h) : along(i, h) * BLOCK_N + across(j, e);
    }
};

// The scales of a lane's two rows of a tile under those of its block, where wgmma's rows are those of C; else nothing.
struct RowScales {
    float of[2] = {1, 1};

    __device__ __forceinline__ RowScales(u32 scales, int tile, const LanePlace& place) {
        if constexpr (BLOCK_SCALES && !TRANSPOSED) {
            const float b_scale = ptx::load_shared_f32(scales + 4 * BLOCK_M);
#pragma unroll
            for (int h = 0; h < 2; ++h) of[h] = ptx::load_shared_f32(scales + 4 * place.along(tile, h)) * b_scale;
        }
    }
};

// Adds the part of one tile up in f32, under the scales of its block.
__device__ __forceinline__ void promote(float (&sums)[SUMS], Part& part, u32 scales, const RowScales& rows, int tile,
                                        const LanePlace& place) {
    ptx::wgmma_hold(part);
    if constexpr (BLOCK_SCALES && TRANSPOSED) {
        const float b_scale = ptx::load_shared_f32(scales + 4 * (BLOCK_M + (place.group * TILES + tile) / 2));
#pragma unroll
        for (int j = 0; j < SUMS / 4; ++j) {
            const float2 a_scale = ptx::load_shared_f32x2(scales + 4 * place.across(j, 0));
            const float scale[2] = {a_scale.x * b_scale, a_scale.y * b_scale};
#pragma unroll
            for (int s = 0; s < 4; ++s) sums[4 * j + s] += part[4 * j + s] * scale[s % 2];
        }
    } else {
#pragma unroll
        for (int s = 0; s < SUMS; ++s) sums[s] += BLOCK_SCALES ? part[s] * rows.of[s / 2 % 2] : part[s];
    }
}

// Waits until at most `pending` products of tiles are under way; a constant once loops are unrolled.
__device__ __forceinline__ void wait_for_parts(int pending) {
    static_assert(PARTS <= 4, "a wait for each");
    if (pending == 0) ptx::wgmma_wait<0>();
    if (pending == 1) ptx::wgmma_wait<1>();
    if (pending == 2) ptx::wgmma_wait<2>();
    if (pending == 3) ptx::wgmma_wait<3>();
}

// Sums one tile over `steps` stages.
__device__ __forceinline__ void multiply_tile(Sums& sums, Ring& ring, const Layout& at, const LanePlace& place, int steps) {
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
#pragma unroll
        for (int s = 0; s < SUMS; ++s) sums[i][s] = 0;
    }
    const int group = __shfl_sync(~0u, place.group, 0);  // the compiler sees that it is one for the warp
    for (int step = 0; step < steps; ++step, ring.advance()) {
        ptx::mbarrier_wait(at.full(ring.stage), ring.parity);
        const u32 along = TRANSPOSED ? at.b(ring.stage) : at.a(ring.stage), across = TRANSPOSED ? at.a(ring.stage) : at.b(ring.stage);
        const ptx::Operand rows = ptx::wgmma_operand(along + group * TILES * 64 * PROMOTED, 16, 1024);
        const ptx::Operand columns = ptx::wgmma_operand(across, 16, 1024);
#pragma unroll
        for (int panel = 0; panel < PANELS; ++panel) {
#pragma unroll
            for (int first = 0; first < TILES; first += PARTS) {
                Part parts[PARTS];
                ptx::wgmma_fence();
#pragma unroll
                for (int i = 0; i < PARTS; ++i) {
#pragma unroll
                    for (int k32 = 0; k32 < PROMOTED / 32; ++k32) {
                        ptx::WgmmaE4m3<ACROSS>::multiply(
                            parts[i], rows.at(panel * Panels<ALONG>::PANEL_BYTES + (first + i) * 64 * PROMOTED + k32 * 32),
                            columns.at(panel * Panels<ACROSS>::PANEL_BYTES + k32 * 32), k32 > 0);
                    }
                    ptx::wgmma_commit();
                }
#pragma unroll
                for (int i = 0; i < PARTS; ++i) {
                    const u32 scales = at.scales(ring.stage) + 4 * PANEL_SCALES * panel;
                    const RowScales of_rows(scales, first + i, place);
                    wait_for_parts(PARTS - 1 - i);
                    promote(sums[first + i], parts[i], scales, of_rows, first + i, place);
                }
            }
        }
        __syncwarp();
        if (EVERY_LANE || place.lane == 0) ptx::mbarrier_arrive(at.empty(ring.stage));
    }
}

// Brings in the scales that are the same for all of k.
__device__ __forceinline__ void scale_sums(Sums& sums, const float* a_scales, const float* b_scales, int m, int n, int row,
                                           int column, int scale_step, const LanePlace& place) {
    if constexpr (!BLOCK_SCALES) {
        const float* along_scales = TRANSPOSED ? b_scales : a_scales;
        const float* across_scales = TRANSPOSED ? a_scales : b_scales;
        const int along = TRANSPOSED ? column : row, along_end = TRANSPOSED ? n : m;
        const int across = TRANSPOSED ? row : column, across_end = TRANSPOSED ? m : n;
        float of_along[TILES][2];
#pragma unroll
        for (int i = 0; i < TILES; ++i) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const int x = along + place.along(i, h);
                of_along[i][h] = x < along_end ? along_scales[x * scale_step] : 0;
            }
        }
#pragma unroll
        for (int j = 0; j < SUMS / 4; ++j) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int y = across + place.across(j, e);
                const float of_across = y < across_end ? across_scales[y * scale_step] : 0;
#pragma unroll
                for (int i = 0; i < TILES; ++i) {
#pragma unroll
                    for (int h = 0; h < 2; ++h) sums[i][4 * j + 2 * h + e] *= of_across * of_along[i][h];
                }
            }
        }
    }
}

// ---- Storing ----

__device__ __forceinline__ void stage_rows(u32 buffer, const Sums& sums, int pass, const LanePlace& place) {
    stage_matrices<Element>(buffer, sums, pass, place);
}

// Writes a group's staged rows to C at (row, column), vector by vector.
__device__ __forceinline__ void write_rows(const byte*, u16* c, u32 buffer, int m, int n, int row, int column,
                                           const LanePlace& place) {
    group_sync(place);
    for (int v = place.warp * 32 + place.lane; v < STAGING_ROWS * STAGED_PANELS * 8; v += 128) {
        const int y = v / (STAGED_PANELS * 8), x = v % (STAGED_PANELS * 8) * 8;
        const u32 address = buffer + x / 64 * STAGING_PANEL + layout::swizzled<128, 16>(y, x % 64 * 2);
        const uint4 words = ptx::load_shared_u128(address);
        const u32 columns[4] = {words.x, words.y, words.z, words.w};
        store_vector(c, columns, m, n, row + y, column + x);
    }
}

// Adds the sums of the cluster's programs: the tile, row by row, is cut into as many equal shares as there are programs, each
// sends every share to its owner's shared memory, and the owner adds them in the programs' order and writes them to C. No
// program ends before it has all its sums, nor sends any before all have begun.
__device__ __forceinline__ void combine_parts(u16* c, const Sums& sums, int m, int n, int row, int column, const Layout& at,
                                              int parts, const LanePlace& place, int thread) {
    const u32 slots = at.staging();
    const int part = ptx::cluster_rank();
    const int share = BLOCK_M * BLOCK_N / parts;
    const u32 reciprocal = ~0u / share + 1;  // index / share = index * reciprocal >> 32, exactly, below 2^16
    ptx::cluster_wait();  // every program has begun
#pragma unroll
    for (int j = 0; j < SUMS / 4; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
#pragma unroll
            for (int v = 0; v < 2 * TILES; ++v) {
                const float sum[1] = {sums[v / 2][4 * j + 2 * (v % 2) + e]};
                const int index = place.index(v / 2, j, v % 2, e);
                const int owner = __umulhi(index, reciprocal);
                const u32 slot = slots + 4 * (part * share + index - owner * share);
                ptx::store_async(ptx::cluster_address(slot, owner), sum, ptx::cluster_address(at.summed(), owner));
            }
        }
    }
    ptx::mbarrier_wait(at.summed(), 0);
    for (int v = thread * 8; v < share; v += 8 * 32 * NUM_WARPS) {
        float total[8] = {};
#pragma unroll 4
        for (int from = 0; from < parts; ++from) {
            const u32 slot = slots + 4 * (from * share + v);
            const float4 low = ptx::load_shared_f32x4(slot), high = ptx::load_shared_f32x4(slot + 16);
            total[0] += low.x, total[1] += low.y, total[2] += low.z, total[3] += low.w;
            total[4] += high.x, total[5] += high.y, total[6] += high.z, total[7] += high.w;
        }
        u32 columns[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) columns[i] = Element::pack(total[2 * i], total[2 * i + 1]);
        const int index = part * share + v;
        store_vector(c, columns, m, n, row + index / BLOCK_N, column + index % BLOCK_N);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT > 0 ? RESIDENT : 1)
gemm_fp8(const __grid_constant__ Source a, const __grid_constant__ Source b, const __grid_constant__ CTarget c_tiles,
         const float* a_scales, const float* b_scales, u16* c, int m, int n, int k, int tiles_m, int tiles_n, int k_steps,
         int group_m, int split_k, int stride, int span, int scale_step COPY_PARAMETERS) {
#if REALIGNED
    realign::copy_rows<THREADS>(scratch, a_rows, m, k);
    realign::copy_rows<THREADS>(scratch + static_cast<i64>(m) * realign::pitch_bytes(k), b_rows, n, k);
    realign::wait_for_all_programs(counters);
#endif
    const Layout at{ptx::shared_address(smem)};
    const Work work(tiles_m, tiles_n, k_steps, group_m, split_k, stride, span);
    const int thread = threadIdx.x;
    const bool loads = thread >= 32 * NUM_WARPS;
    if (thread == 32 * NUM_WARPS) {
        prefetch(b);
        prefetch(a);
        for (int stage = 0; stage < NUM_STAGES; ++stage) {
            ptx::mbarrier_init(at.full(stage), FULL_ARRIVALS);
            ptx::mbarrier_init(at.empty(stage), NUM_WARPS * WARP_ARRIVALS);
        }
        ptx::mbarrier_init(at.summed(), 1);
        ptx::fence_mbarrier_init();
        if (split_k > 1) ptx::mbarrier_arrive_expect(at.summed(), BLOCK_M * BLOCK_N * sizeof(float));
    }
    // A single loading warp knows its barriers and begins at once; the others wait for them.
    __syncwarp();
    if (loads && LOADING_WARPS == 1) {
        ptx::barrier_arrive<THREADS>(0);
    } else {
        ptx::barrier_sync<THREADS>(0);
    }
    if (split_k > 1) ptx::cluster_arrive_relaxed();

    Ring ring;
    if (loads) {
        if constexpr (HANDS_OVER) {
            ptx::release_registers<LEFT_REGISTERS>();
            if (thread >= 32 * (NUM_WARPS + LOADING_WARPS)) {
                if (split_k > 1) ptx::cluster_wait();
                return;
            }
        }
        int others = thread / 32 - NUM_WARPS;  // steps until it is this warp's turn
        for (int index = work.first; index < work.end; index += work.stride) {
            const scheduler::Tile tile = work.schedule.tile(index);
            for (int step = work.steps.begin; step < work.steps.end; ++step, ring.advance()) {
                if (LOADING_WARPS > 1 && others-- > 0) continue;
                others = LOADING_WARPS - 1;
                ptx::mbarrier_wait(at.empty(ring.stage), ring.parity ^ 1);
                load_stage(at, ring.stage, a, b, a_scales, b_scales, m, n, k, tile, step,
                           LOADING_WARPS == 1 ? thread - 32 * NUM_WARPS : thread % 32);
            }
        }
        if (split_k > 1) ptx::cluster_wait();
        return;
    }

    if constexpr (HANDS_OVER) ptx::take_registers<TAKEN_REGISTERS>();
    const LanePlace place(thread);
    int turn = 0;
    for (int index = work.first; index < work.end; index += work.stride) {
        Sums sums;
        multiply_tile(sums, ring, at, place, work.steps.end - work.steps.begin);
        const scheduler::Tile tile = work.schedule.tile(ptx::opaque(index));
        const int row = tile.m * BLOCK_M, column = tile.n * BLOCK_N;
        const LanePlace writer(ptx::opaque(thread));
        scale_sums(sums, a_scales, b_scales, m, n, row, column, scale_step, writer);
        if (split_k > 1) {
            combine_parts(c, sums, m, n, row, column, at, split_k, writer, thread);
        } else {
            store_tile(c_tiles, c, sums, m, n, row, column, at.staging(), turn, writer);
        }
    }
    if (C_BY_ENGINE && split_k == 1 && thread % 128 == 0) ptx::tma_store_wait_read<0>();
}
