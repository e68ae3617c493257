// C[m, n] = A[m, k] · decode(B), with Hopper's copy engine and its wgmma, or mma.sync, on bf16 or f16 and f32 accumulation. Needs
// sm_90a.
//
// A   bf16 or f16 [m, k]
// B   [k, n] of weights in A's type or int16, or [k / 2, n] bytes of two 4-bit weights along k, low nibble first (k even)
// C   [m, n] in A's type
// Of weights with scales, for each group of weights along k (the last may be shorter), g of them, decode.cuh says what they are:
// scales   [g, n] of A's type (Int4Group), E4M3 (Nvfp4) or E8M0 (Mxfp4)
// zeros    bytes [g, n] of four bits (Int4Group with ZERO_POINTS)
// tensor_scale   f32, a factor of all (Nvfp4)
// All are contiguous and row-major, and begin 16-byte aligned. k * 2 and the bytes of a row of B are below 2^31.
//
// The product is taken transposed, C^T = B^T A^T: wgmma's 64 rows are columns of C, so that a tile may have as few as 8
// rows of C and so that weights to be decoded are the operand that may lie in registers. One warp has the copy engine bring tiles
// of A and B to shared memory, NUM_STAGES steps ahead, or four copy those whose rows it does not take; the others multiply, and
// decode one part of a step while another is multiplied. Programs of a cluster may share one tile's k: each sends its sums to the
// program that adds them up.
//
// Tiles of up to 16 rows may be multiplied warp by warp with mma.sync, on the same fragments (BY_WARP): wgmma takes as long
// for them as for more rows, and makes four warps wait for each other, while a stream of weights wants its warps independent.
//
// Floor: each of A, B and C once through memory (a copy moves 4.2 TB/s on an H200), and 2 m n k FLOPs at the tensor cores'
// 4096 a cycle and multiprocessor. Reached on an H200, cold L2, beside cuBLAS in bf16: 2048^3 in 27.1 us (cuBLAS 26.6), 4096^3
// in 187 (178), 8192^3 in 1533 (1407), 2048 x 28672 x 8192 in 1384 (1208; int4 1289), 16 x 28672 x 8192 in 117 (122; int4 42.4,
// fp4 46.7), 16 x 4096 x 4096 in 15.9 (17.4; int4 9.8, fp4 10.4, int16 16.2), where reading 4-bit weights takes 7.2.
// Large tiles run at the power limit: the clock falls from 1980 to about 1400 MHz, where the tensor cores are busy for 83 to
// 87 % of it, and weights of 4 bits, which move fewer bytes, are the fastest. Loading each tile of A once for two programs of a
// cluster, side by side along n, by multicast made no difference: 1.00 times the time on 40 such products (0.93 to 1.04).
//
// What bounds a stream of 4-bit weights, from an H100's counters. Large (16 x 28672 x 8192): memory, at 74 % of its peak, and
// beside it the issue slots, 58 % (fp4) and 52 % (int4) busy before the decoding of a lane's eight weights took 17 and 10
// instructions; a faster memory meets them first. Small (16 x 4096 x 4096): latency, at 29 % of the memory's peak; tiles of 64
// columns in clusters of two are the fastest there, and each doubling of the cluster costs 0.3 to 0.9 us.
//
// Rows that the engine does not take, on one of two H200s: fp4 2207 x 72 x 23378 in 91 us as they lie (205 by copying both
// operands first), bf16 3000 x 5003 x 2006 of MXFP4 weights in 364, 1024 x 50257 x 768 of int4 in groups in 427 (567 and 718 by
// mma.sync). What bounds int4 7189 x 84 x 5234, at 80 us on an H200: the time that each warp's copies take one after the other;
// without them 30 are left, and memory is busy for 16 %, L2 for 24 % and the issue slots for 43 % of it.
//
// Macros
//   BLOCK_M, BLOCK_N, BLOCK_K   the tile, in rows of C (multiples of 8 up to 64, of 16 up to 256), columns of C and elements
//                               of k (multiples of 64, of at most 256 rows of B: what the copy engine takes at once)
//   NUM_WARPS                   warps that multiply, in groups of 4, each with BLOCK_N / groups columns (64, 128, 256)
//   BY_WARP                     1: each warp multiplies by itself, with mma.sync, and BLOCK_M is 8 or 16; 0: groups, with wgmma
//   NUM_STAGES                  tiles of A and B in shared memory at once; from 2
//   DTYPE                       the type of A and C: bf16 or f16
//   WEIGHTS                     the format of B: Bf16 or F16 (as DTYPE), Int16, Int4, Fp4, Int4Group, Nvfp4 or Mxfp4 (decode.cuh)
//   ZERO_POINTS                 Int4Group: 1 where weights have zero points, else 0
//   GROUP                       weights with scales: how many of a step along k share one: 16 ... BLOCK_K, which it divides
//   A_VECTOR_BYTES              bytes that rows of A are aligned to: 16 (the copy engine takes them), 8 or 4, or 2 (unaligned.cuh)
//   B_VECTOR_BYTES              the same of B: 16, 8 or 4, or 2 or (4-bit weights) 1
//   C_VECTOR_BYTES              bytes of one copy of C: 16 (by the copy engine), 8, 4 or 2
//   REALIGNED                   operands that all programs together first copy to scratch, where rows begin at multiples of 128
//                               bytes: 0 none, 1 A, 2 B, 3 both. Their vectors are 16 bytes, their tensor maps those of the copies
//   EVERY_LANE_ARRIVES          for racecheck only: not one lane of a warp but all arrive at barriers
//
// Launch: THREADS threads along x; dynamic shared memory of STAGES_BYTES (which has the scales) and then STAGING_BYTES or, for split_k > 1,
// BLOCK_M * BLOCK_N floats; programs along x, those of a cluster one after the other. Arguments:
//   a, b, c_tiles             tensor maps where the vector is 16 bytes, else pointers. Tiles, 128-byte swizzle: A 64 of k x
//                             BLOCK_M; B 128 bytes (or BLOCK_N, if fewer; 64-byte swizzle) x rows of BLOCK_K; C 64 columns
//                             x STAGING_ROWS
//   c                         C itself
//   m, n, k                   the problem
//   tiles_m, tiles_n, k_steps the problem in tiles: ceil(m / BLOCK_M), ceil(n / BLOCK_N), ceil(k / BLOCK_K)
//   group_m                   tile rows that share a column band, 1 ... tiles_m
//   split_k                   programs of a cluster, that share one tile's k: a power of two up to 16; with more than k_steps
//                             some have zeros
//   stride, span              a program's work (scheduler.cuh): span consecutive tiles (stride 1), or every stride-th
//   a_rows, b_rows            A and B themselves; these and the next two are read with REALIGNED alone, where all programs must be
//                             resident at once, with a tile or without: those without copy and end
//   scratch                   room for the copy of A, if there is one, and then that of B
//   counters                  two words that are zero, and are left zero
//   scales, zeros             weights with scales: tensor maps where rows are multiples of 16 bytes, else pointers; null for none.
//                             Tiles, without swizzle: up to 256 columns x a step's groups
//   tensor_scale              weights with scales: the factor, or null for none
//   group_steps               weights with scales: steps along k that share one row of scales; 1 where a step has whole rows

#include "decode.cuh"
#include "gemm_rows.cuh"
#include "layout.cuh"
#include "ptx.cuh"
#include "realign.cuh"
#include "scheduler.cuh"
#include "streaming.cuh"
#include "tma.cuh"
#include "unaligned.cuh"
#include "wgmma.cuh"
#define TRANSPOSED 1
#include "wgmma_programs.cuh"

#if !defined(BY_WARP)
#error "BY_WARP must be defined: 1 for mma.sync, 0 for wgmma"
#endif
#if !defined(REALIGNED)
#error "REALIGNED must be defined: 0 none, 1 A, 2 B, 3 both are copied to aligned rows"
#endif

namespace {

constexpr bool PACKED = Weights::K_PER_ROW == 2;

static_assert(BLOCK_M % (BLOCK_M <= 64 ? 8 : 16) == 0 && BLOCK_M >= 8 && BLOCK_M <= 256,
              "BLOCK_M must be a multiple of 8 up to 64, or of 16 up to 256");
static_assert(!BY_WARP || BLOCK_M <= 16, "BY_WARP: BLOCK_M must be 8 or 16");
static_assert(BLOCK_K % 64 == 0 && BLOCK_K / Weights::K_PER_ROW <= 256,
              "BLOCK_K must be a multiple of 64, of at most 256 rows of B");
static_assert(REALIGNED >= 0 && REALIGNED <= 3 && (!REALIGNED || !BY_WARP), "REALIGNED: 0 ... 3, with wgmma");
static_assert(!(REALIGNED & 1) || A_VECTOR_BYTES == 16, "a realigned A is copied by the engine");
static_assert(!(REALIGNED & 2) || B_VECTOR_BYTES == 16, "a realigned B is copied by the engine");

// Tiles lie in panels as wide as the copy engine swizzles, each with all rows.
template <int ROWS_, int ROW_BYTES_, int ELEMENT_BYTES_, int VECTOR_BYTES_>
struct Panels {
    static constexpr int ROWS = ROWS_;
    static constexpr int ROW_BYTES = ROW_BYTES_;
    static constexpr int ELEMENT_BYTES = ELEMENT_BYTES_;
    static constexpr int VECTOR_BYTES = VECTOR_BYTES_;
    static constexpr bool BY_ENGINE = VECTOR_BYTES == 16;
    static constexpr int WIDTH = scheduler::smaller(ROW_BYTES, 128);
    static constexpr int COUNT = ROW_BYTES / WIDTH;
    static constexpr int PANEL_BYTES = unaligned::PANEL_BYTES<ROWS, WIDTH, VECTOR_BYTES>;
    static constexpr int BYTES = COUNT * PANEL_BYTES;

    __device__ static constexpr u32 offset(int row, int byte) {
        return byte / WIDTH * PANEL_BYTES + layout::swizzled<WIDTH, 16>(row, byte % WIDTH);
    }
};

// A step's scales or zero points, in panels of as many columns as the copy engine takes at once; not swizzled, since the lanes of a
// quad read the same and those of a warp adjacent ones.
template <int ROWS_, int COLUMNS, int ELEMENT_BYTES_, int VECTOR_BYTES_>
struct ScaleTile {
    static constexpr int ROWS = ROWS_;
    static constexpr int ELEMENT_BYTES = ELEMENT_BYTES_;
    static constexpr int ROW_BYTES = COLUMNS * ELEMENT_BYTES;
    static constexpr int VECTOR_BYTES = VECTOR_BYTES_;
    static constexpr bool BY_ENGINE = VECTOR_BYTES == 16;
    static constexpr int WIDTH = scheduler::smaller(COLUMNS, 256) * ELEMENT_BYTES;
    static constexpr int COUNT = ROW_BYTES / WIDTH;
    static constexpr int PANEL_BYTES = scheduler::ceil_div(ROWS * WIDTH, 128) * 128;
    static constexpr int BYTES = COUNT * PANEL_BYTES;
    static constexpr int ENGINE_BYTES = BY_ENGINE ? ROWS * ROW_BYTES : 0;

    __device__ static constexpr u32 offset(int row, int byte) {
        return byte / WIDTH * PANEL_BYTES + row * WIDTH + byte % WIDTH;
    }
};

using ATile = Panels<BLOCK_M, 2 * BLOCK_K, 2, A_VECTOR_BYTES>;
using BTile =
    Panels<BLOCK_K / Weights::K_PER_ROW, BLOCK_N * Weights::COLUMN_BYTES, Weights::COLUMN_BYTES, B_VECTOR_BYTES>;

using ASource = Argument<ATile::BY_ENGINE>::Type;
using BSource = Argument<BTile::BY_ENGINE>::Type;

// What a stage has beside A and B, and the kernel beside its other arguments, for weights with scales.
#if defined(GROUP)
constexpr bool SCALED = true;
static_assert(GROUP >= 16 && GROUP % 16 == 0 && BLOCK_K % GROUP == 0, "GROUP: 16 ... BLOCK_K, a step has whole ones, or one");
static_assert(Weights::SCALE_BYTES > 0, "GROUP: these weights have no scales");
constexpr int GROUP_K16 = GROUP / 16;

struct StageScales {
    // Their rows have as many columns as B's rows of bytes, and are aligned accordingly.
    static constexpr int VECTOR_BYTES = scheduler::smaller(16, Weights::SCALE_BYTES * B_VECTOR_BYTES);
    using Scales = ScaleTile<BLOCK_K / GROUP, BLOCK_N, Weights::SCALE_BYTES, VECTOR_BYTES>;
    using Zeros = ScaleTile<BLOCK_K / GROUP, BLOCK_N, 1, B_VECTOR_BYTES>;
    static constexpr int ZEROS = Scales::BYTES;  // where they begin
    static constexpr int BYTES = Scales::BYTES + (Weights::ZERO_BYTES > 0 ? Zeros::BYTES : 0);
    static constexpr int ENGINE_BYTES = Scales::ENGINE_BYTES + (Weights::ZERO_BYTES > 0 ? Zeros::ENGINE_BYTES : 0);
    static constexpr bool BY_ENGINE = Scales::BY_ENGINE && (Weights::ZERO_BYTES == 0 || Zeros::BY_ENGINE);
};
using ScaleSource = Argument<StageScales::Scales::BY_ENGINE>::Type;
using ZeroSource = Argument<(Weights::ZERO_BYTES > 0) && StageScales::Zeros::BY_ENGINE>::Type;
#define SCALE_PARAMETERS                                                                                                \
    , const __grid_constant__ ScaleSource scales, const __grid_constant__ ZeroSource zeros, const float *tensor_scale, \
        int group_steps
#define SCALE_ARGUMENTS {scales, zeros, tensor_scale, group_steps}

struct Scaling {
    const ScaleSource& scales;
    const ZeroSource& zeros;
    const float* tensor_scale;
    int group_steps;

    // What sums are to be multiplied by beside the format's own factor.
    __device__ __forceinline__ float factor() const { return tensor_scale == nullptr ? 1.0f : *tensor_scale; }
};
#else
constexpr bool SCALED = false;
static_assert(Weights::SCALE_BYTES == 0, "GROUP must be defined: weights that share a scale");

struct StageScales {
    static constexpr int BYTES = 0, ENGINE_BYTES = 0;
    static constexpr bool BY_ENGINE = true;
};
#define SCALE_PARAMETERS
#define SCALE_ARGUMENTS {}

struct Scaling {
    __device__ __forceinline__ float factor() const { return 1.0f; }
};
#endif

constexpr int STAGE_BYTES = ATile::BYTES + BTile::BYTES;
constexpr int SCALES_BYTES = scheduler::ceil_div(NUM_STAGES * StageScales::BYTES, 1024) * 1024;
constexpr int BARRIER_BYTES = 1024;  // keeps what follows aligned
constexpr int STAGES_BYTES = NUM_STAGES * STAGE_BYTES + SCALES_BYTES + BARRIER_BYTES;

static_assert(STAGES_BYTES + STAGING_BYTES <= 227 * 1024, "the stages exceed the shared memory of every GPU");

// Weights are decoded two chunks of k at a time, one being multiplied; a chunk is so many k16 steps.
constexpr int CHUNK = !Weights::DECODED                     ? BLOCK_K / 16
                      : TILES * BLOCK_M >= 128 || TILES > 2 ? 2
                                                            : scheduler::smaller(4, BLOCK_K / 32);
constexpr int CHUNKS = BLOCK_K / 16 / CHUNK;
static_assert(CHUNK * CHUNKS * 16 == BLOCK_K, "a step has whole chunks");

// What a thread needs: its sums, its operands and its addresses.
constexpr int FRAGMENT_REGISTERS = BY_WARP ? 16 : Weights::DECODED ? 2 * CHUNK * TILES * 4 : 0;
constexpr int SCALE_REGISTERS = SCALED ? 2 * TILES * (Weights::SCALE_BYTES == 2 ? 2 : 1) + 2 : 0;
constexpr int REGISTERS = TILES * SUMS + FRAGMENT_REGISTERS + SCALE_REGISTERS + 48;

// Two groups and one warp have 168 registers a thread. Where that is too close, the loading warp brings three idle ones: a whole
// group of warps, that hands its registers to the two that multiply.
constexpr bool HANDS_OVER = GROUPS == 2 && REGISTERS > 160;
// Tiles that the engine does not take are copied by four warps, each a step along k in turn; but by no more than there are
// stages, lest one take a stage for empty that is two rounds behind.
constexpr int LOADING_WARPS = ATile::BY_ENGINE && BTile::BY_ENGINE ? 1 : scheduler::smaller(4, NUM_STAGES);
constexpr int LEFT_REGISTERS = LOADING_WARPS == 1 ? 40 : REGISTERS > 216 ? 56 : 72;
constexpr int TAKEN_REGISTERS = 232 - (LEFT_REGISTERS - 40) / 2;
constexpr int THREADS = 32 * NUM_WARPS + (HANDS_OVER ? 128 : 32 * LOADING_WARPS);

// Programs a multiprocessor is to hold at once: what its shared memory allows (228 KiB, 1 of them lost to each program),
// but no more than leave each thread its registers. A quarter of the multiprocessor has 512 for each lane, and hosts every
// fourth warp.
constexpr int BY_SMEM = 228 * 1024 / (STAGES_BYTES + STAGING_BYTES + 1024);
constexpr int BY_REGISTERS = BY_WARP ? 4 * 512 / ((NUM_WARPS + LOADING_WARPS) * REGISTERS) : 512 / ((GROUPS + 1) * REGISTERS);
constexpr int RESIDENT = BY_SMEM < BY_REGISTERS ? BY_SMEM : BY_REGISTERS;

// Where this program's stages, barriers and staging begin.
struct Layout {
    u32 base;

    __device__ __forceinline__ u32 a(int stage) const { return base + stage * STAGE_BYTES; }
    __device__ __forceinline__ u32 b(int stage) const { return a(stage) + ATile::BYTES; }
    __device__ __forceinline__ u32 scales(int stage) const {
        return base + NUM_STAGES * STAGE_BYTES + stage * StageScales::BYTES;
    }
    // Whether a stage's tiles have arrived, and whether all warps are done with them.
    __device__ __forceinline__ u32 full(int stage) const {
        return base + NUM_STAGES * STAGE_BYTES + SCALES_BYTES + 16 * stage;
    }
    __device__ __forceinline__ u32 empty(int stage) const { return full(stage) + 8; }
    // Whether all sums of this program's share have arrived from the cluster.
    __device__ __forceinline__ u32 summed() const { return full(NUM_STAGES); }
    __device__ __forceinline__ u32 staging() const { return base + STAGES_BYTES; }
};
static_assert(16 * NUM_STAGES + 8 <= BARRIER_BYTES, "two barriers a stage and one more");

// ---- Loading ----

// A warp copies a tile of scales that begins at (row, column_byte) of a matrix, vector by vector; what lies outside becomes zero.
template <typename Tile>
__device__ __forceinline__ void load_tile(u32 shared, const byte* matrix, u32, int rows, int row_bytes, int row,
                                          int column_byte, int lane) {
    using Vector = typename ptx::Word<Tile::VECTOR_BYTES>::Type;
    constexpr int ROW_VECTORS = Tile::ROW_BYTES / Tile::VECTOR_BYTES;
#pragma unroll 1
    for (int i = lane; i < Tile::ROWS * ROW_VECTORS; i += 32) {
        const int y = i / ROW_VECTORS, x = i % ROW_VECTORS * Tile::VECTOR_BYTES;
        const bool inside = row + y < rows && column_byte + x < row_bytes;
        const byte* source = matrix + static_cast<i64>(row + y) * row_bytes + (column_byte + x);
        ptx::store_shared(shared + Tile::offset(y, x), inside ? *reinterpret_cast<const Vector*>(source) : Vector{});
    }
}

// A tile of any kind by the copy engine; one lane asks for it, and the barrier counts the bytes.
template <typename Tile>
__device__ __forceinline__ void load_tile(u32 shared, const ptx::TensorMap& map, u32 barrier, int, int, int row,
                                          int column_byte, int lane) {
    if (lane != 0) return;
#pragma unroll
    for (int panel = 0; panel < Tile::COUNT; ++panel) {
        const int column = (column_byte + panel * Tile::WIDTH) / Tile::ELEMENT_BYTES;
        ptx::tma_load(shared + panel * Tile::PANEL_BYTES, map, barrier, column, row);
    }
}

// A step's scales and zero points, `groups` rows of them in all.
__device__ __forceinline__ void load_scales(u32 shared, u32 full, const Scaling& scaling, int n, int k, int column, int step,
                                            int lane) {
#if defined(GROUP)
    using Scales = StageScales::Scales;
    const int row = step / scaling.group_steps * Scales::ROWS;
    const int groups = scheduler::ceil_div(k, scaling.group_steps > 1 ? scaling.group_steps * BLOCK_K : GROUP);
    load_tile<Scales>(shared, scaling.scales, full, groups, n * Scales::ELEMENT_BYTES, row, column * Scales::ELEMENT_BYTES,
                      lane);
    if constexpr (Weights::ZERO_BYTES > 0) {
        load_tile<StageScales::Zeros>(shared + StageScales::ZEROS, scaling.zeros, full, groups, n, row, column, lane);
    }
#endif
}

// The same of A or of B, or else the beginning of it.
template <typename Tile, typename Source>
__device__ __forceinline__ void begin_tile(u32 shared, const Source& source, u32 barrier, int rows, int row_bytes, int row,
                                           int column_byte, int lane) {
    if constexpr (Tile::BY_ENGINE) {
        load_tile<Tile>(shared, source, barrier, rows, row_bytes, row, column_byte, lane);
    } else {
        unaligned::begin_tile<Tile>(shared, source, rows, row_bytes, row, column_byte, lane);
    }
}

constexpr bool ALL_BY_ENGINE = ATile::BY_ENGINE && BTile::BY_ENGINE && StageScales::BY_ENGINE;

__device__ __forceinline__ void load_stage(const Layout& at, int stage, const ASource& a, const BSource& b,
                                           const Scaling& scaling, int m, int n, int k, scheduler::Tile tile, int step,
                                           int lane) {
    constexpr int ENGINE_BYTES =
        (ATile::BY_ENGINE ? ATile::BYTES : 0) + (BTile::BY_ENGINE ? BTile::BYTES : 0) + StageScales::ENGINE_BYTES;
    const u32 full = at.full(stage);
    if (lane == 0) ptx::mbarrier_arrive_expect(full, ENGINE_BYTES);
    if constexpr (ALL_BY_ENGINE) {
        load_tile<BTile>(at.b(stage), b, full, k / Weights::K_PER_ROW, n * Weights::COLUMN_BYTES, step * BTile::ROWS,
                         tile.n * BTile::ROW_BYTES, lane);
        load_tile<ATile>(at.a(stage), a, full, m, 2 * k, tile.m * BLOCK_M, step * ATile::ROW_BYTES, lane);
        load_scales(at.scales(stage), full, scaling, n, k, tile.n * BLOCK_N, step, lane);
    } else {
        const int a_row = tile.m * BLOCK_M, a_column = step * ATile::ROW_BYTES;
        const int b_row = step * BTile::ROWS, b_column = tile.n * BTile::ROW_BYTES, b_row_bytes = n * Weights::COLUMN_BYTES;
        begin_tile<BTile>(at.b(stage), b, full, k / Weights::K_PER_ROW, b_row_bytes, b_row, b_column, lane);
        begin_tile<ATile>(at.a(stage), a, full, m, 2 * k, a_row, a_column, lane);
        load_scales(at.scales(stage), full, scaling, n, k, tile.n * BLOCK_N, step, lane);
        ptx::cp_async_commit();
        ptx::cp_async_wait<0>();
        __syncwarp();
        unaligned::settle_tile<BTile>(at.b(stage), b_row_bytes, b_row, b_column, lane);
        unaligned::settle_tile<ATile>(at.a(stage), 2 * k, a_row, a_column, lane);
        ptx::fence_async_shared();
        __syncwarp();
        if (EVERY_LANE || lane == 0) ptx::mbarrier_arrive(full);
    }
}
constexpr int FULL_ARRIVALS = 1 + (ALL_BY_ENGINE ? 0 : WARP_ARRIVALS);

// ---- Multiplying ----

// Where this lane's part of its group's columns lies, and which columns of C its sums stand for.
//
// 16-bit weights: row r of the group's tile i is column 64 i + r. 4-bit weights: a lane reads all its columns of a row at
// once, 2 * TILES bytes, byte 2 i + h being row 8 h + lane / 4 of its warp's 16 of tile i. Pieces of 16 bytes go to the
// warps in turn, so that the rows that the lanes of a quad read meet different banks.
struct LanePlace {
    static constexpr int RUN = PACKED ? 2 * TILES : 1;  // adjacent columns that a lane holds

    int group, warp, lane;

    __device__ __forceinline__ explicit LanePlace(int thread)
        : group(thread / 128), warp(thread / 32 % 4), lane(thread % 32) {}

    // The first column, in the program's tile, of this lane's run; of its row of tile i and half h, for 16-bit weights.
    __device__ __forceinline__ int column(int i, int h) const {
        const int first = group * 64 * TILES + 16 * warp;
        if constexpr (PACKED) {
            constexpr int RUNS = 16 / RUN;  // a 16-byte piece has
            return first + 64 * (lane / 4 / RUNS) + RUN * (lane / 4 % RUNS);
        } else {
            return first + 64 * i + 8 * h + lane / 4;
        }
    }
};

// The scales of this lane's columns for the k16 step that it is at, and where it reads those of a step's first group.
template <typename Format>
struct LaneScales {
    typename Format::template Scales<2 * TILES> values;
    u32 scales = 0, zeros = 0;

    __device__ __forceinline__ void begin(u32 stage_scales, const LanePlace& place) {
#if defined(GROUP)
        scales = stage_scales + StageScales::Scales::offset(0, place.column(0, 0) * Format::SCALE_BYTES);
        if constexpr (Format::ZERO_BYTES > 0) {
            zeros = stage_scales + StageScales::ZEROS + StageScales::Zeros::offset(0, place.column(0, 0));
        }
#endif
    }

    // A step is unrolled, so that only the first k16 step of a group reads anything.
    __device__ __forceinline__ void move_to(int k16) {
#if defined(GROUP)
        if (k16 % GROUP_K16 != 0) return;
        const int row = k16 / GROUP_K16;
        if constexpr (Format::ZERO_BYTES > 0) {
            values.load(scales + row * StageScales::Scales::WIDTH, zeros + row * StageScales::Zeros::WIDTH);
        } else {
            values.load(scales + row * StageScales::Scales::WIDTH, 0);
        }
#endif
    }
};

// One chunk of k of a group's weights, as fragments of wgmma's first operand.
template <typename Format>
struct Fragments {
    using Scales = LaneScales<Format>;

    u32 word[CHUNK][TILES][4];

    // Where this lane reads in a stage's B.
    __device__ __forceinline__ static u32 lane_offset(const LanePlace& place) {
        if constexpr (PACKED) {
            return BTile::offset(place.lane % 4, place.column(0, 0));
        } else {
            const int row = place.lane % 8 + place.lane / 16 * 8;
            return BTile::offset(row, 2 * (place.group * 64 * TILES + 16 * place.warp + place.lane / 8 % 2 * 8));
        }
    }

    __device__ __forceinline__ void load(u32 lane_address, Scales& scales, int chunk) {
#pragma unroll
        for (int k16 = 0; k16 < CHUNK; ++k16) load_k16(word[k16], lane_address, scales, chunk * CHUNK + k16);
    }

    __device__ __forceinline__ static void load_k16(u32 (&fragment)[TILES][4], u32 lane_address, Scales& scales, int k16) {
        scales.move_to(k16);
        const int k16_bytes = k16 * (16 / Format::K_PER_ROW) * BTile::WIDTH;
        const u32 address = lane_address + k16_bytes;
        if constexpr (PACKED) {
            // Words of the lane's columns in rows t and t + 4, where the swizzle flips one bit of the address.
            constexpr u32 FLIP = BTile::WIDTH == 128 ? 64 : 32;
            const u32 below = (lane_address ^ FLIP) + 4 * BTile::WIDTH + k16_bytes;
            if constexpr (TILES == 1) {
                const u32 low = ptx::load_shared_u16(address), high = ptx::load_shared_u16(below);
                Format::unpack(fragment[0], low | high << 16, scales.values, 0);
            } else if constexpr (TILES == 2) {
                unpack_two(fragment, scales, 0, ptx::load_shared(address), ptx::load_shared(below));
            } else {
                const uint2 first = ptx::load_shared_u64(address), second = ptx::load_shared_u64(below);
                unpack_two(fragment, scales, 0, first.x, second.x);
                unpack_two(fragment, scales, 2, first.y, second.y);
            }
        } else {
#pragma unroll
            for (int i = 0; i < TILES; ++i) {
                ptx::ldmatrix_x4_trans(fragment[i], address + i * BTile::PANEL_BYTES);
                if constexpr (Format::DECODED) {
#pragma unroll
                    for (int r = 0; r < 4; ++r) fragment[i][r] = Format::round_pair(fragment[i][r]);
                }
            }
        }
    }

    // Two tiles' fragments from a word of row t and one of row t + 4.
    __device__ __forceinline__ static void unpack_two(u32 (&fragment)[TILES][4], const Scales& scales, int tile, u32 upper,
                                                      u32 lower) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            u32 pairs[4];
            Format::unpack(pairs, r == 0 ? upper : lower, scales.values, 2 * tile);
            fragment[tile][2 * r] = pairs[0], fragment[tile][2 * r + 1] = pairs[1];
            fragment[tile + 1][2 * r] = pairs[2], fragment[tile + 1][2 * r + 1] = pairs[3];
        }
    }

    __device__ __forceinline__ void hold() {
#pragma unroll
        for (int k16 = 0; k16 < CHUNK; ++k16) {
#pragma unroll
            for (int i = 0; i < TILES; ++i) ptx::wgmma_hold(word[k16][i]);
        }
    }
};

// Sums one tile over `steps` stages.
template <typename Format>
__device__ __forceinline__ void multiply_tile(Sums& acc, Ring& ring, const Layout& at, const LanePlace& place,
                                              int steps) {
    const u32 lane_offset = Fragments<Format>::lane_offset(place);
    Fragments<Format> fragments[2];
    LaneScales<Format> scales;
    int last_stage = 0;
    for (int step = 0; step < steps; ++step) {
        ptx::mbarrier_wait(at.full(ring.stage), ring.parity);
        scales.begin(at.scales(ring.stage), place);
        const ptx::Operand a = ptx::wgmma_operand(at.a(ring.stage), 16, 1024);
        const ptx::Operand b = ptx::wgmma_operand(at.b(ring.stage) + place.group * TILES * BTile::PANEL_BYTES, 16, 1024);
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk) {
            Fragments<Format>& mine = fragments[chunk % 2];
            if constexpr (Format::DECODED) mine.load(at.b(ring.stage) + lane_offset, scales, chunk);
            ptx::wgmma_fence();
#pragma unroll
            for (int j = 0; j < CHUNK; ++j) {
                const int k16 = chunk * CHUNK + j;
                const int add = step > 0 || k16 > 0;
                const ptx::u64 rows = a.at(k16 / 4 * ATile::PANEL_BYTES + k16 % 4 * 32);
#pragma unroll
                for (int i = 0; i < TILES; ++i) {
                    if constexpr (Format::DECODED) {
                        using Product = ptx::Wgmma<BLOCK_M, ptx::Major::K, ptx::Major::K, Element>;
                        Product::multiply(acc[i], mine.word[j][i], rows, add);
                    } else {
                        using Product = ptx::Wgmma<BLOCK_M, ptx::Major::MN, ptx::Major::K, Element>;
                        Product::multiply(acc[i], b.at(i * BTile::PANEL_BYTES + k16 * 2048), rows, add);
                    }
                }
            }
            ptx::wgmma_commit();
            ptx::wgmma_wait<1>();  // what was multiplied before is done
            if constexpr (Format::DECODED) fragments[(chunk + 1) % 2].hold();
            if (chunk == 0 && step > 0 && (EVERY_LANE || place.lane == 0)) {
                ptx::mbarrier_arrive(at.empty(last_stage));
            }
        }
        last_stage = ring.stage;
        ring.advance();
    }
    ptx::wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < TILES; ++i) ptx::wgmma_hold(acc[i]);
    if (EVERY_LANE || place.lane == 0) ptx::mbarrier_arrive(at.empty(last_stage));
}

// The same with each warp for itself.
template <typename Format>
__device__ __forceinline__ void multiply_tile_by_warp(Sums& acc, Ring& ring, const Layout& at,
                                                      const LanePlace& place, int steps) {
    // Matrices of 8 rows of A and 8 of k: 16 of k, then the next 8 rows.
    const u32 a_offset = ATile::offset(BLOCK_M == 8 ? place.lane % 8 : place.lane % 8 + place.lane / 16 * 8,
                                       place.lane / 8 % 2 * 16);
    const u32 b_offset = Fragments<Format>::lane_offset(place);
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
#pragma unroll
        for (int s = 0; s < SUMS; ++s) acc[i][s] = 0;
    }
    LaneScales<Format> scales;
    for (int step = 0; step < steps; ++step) {
        ptx::mbarrier_wait(at.full(ring.stage), ring.parity);
        scales.begin(at.scales(ring.stage), place);
        const u32 a = at.a(ring.stage) + a_offset, b = at.b(ring.stage) + b_offset;
#pragma unroll
        for (int k16 = 0; k16 < BLOCK_K / 16; ++k16) {
            u32 rows[4], columns[TILES][4];
            ptx::ldmatrix_x4(rows, (a ^ k16 % 4 * 32) + k16 / 4 * ATile::PANEL_BYTES);
            Fragments<Format>::load_k16(columns, b, scales, k16);
#pragma unroll
            for (int i = 0; i < TILES; ++i) {
#pragma unroll
                for (int j = 0; j < BLOCK_M / 8; ++j) {
                    const u32 eight_rows[2] = {rows[2 * j], rows[2 * j + 1]};
                    Element::mma_m16n8k16(reinterpret_cast<float(&)[4]>(acc[i][4 * j]), columns[i], eight_rows);
                }
            }
        }
        // The last loads may still be under way, and only a fence keeps the copy engine's next write behind them.
        ptx::fence_async_shared();
        __syncwarp();
        if (EVERY_LANE || place.lane == 0) ptx::mbarrier_arrive(at.empty(ring.stage));
        ring.advance();
    }
}

// ---- Storing ----

// Writes STAGING_ROWS rows of a group's sums to shared memory in C's type, in panels of 64 columns.
__device__ __forceinline__ void stage_rows(u32 buffer, const Sums& acc, int pass, const LanePlace& place) {
    if constexpr (PACKED) {
        const int column = place.column(0, 0) - place.group * 64 * TILES;
#pragma unroll
        for (int y = 0; y < STAGING_ROWS; y += 8) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int s = (pass * STAGING_ROWS + y) / 2 + e;
                const int row = y + place.lane % 4 * 2 + e;
                const u32 address =
                    buffer + column / 64 * STAGING_PANEL + layout::swizzled<128, 16>(row, column % 64 * 2);
                u32 words[TILES];
#pragma unroll
                for (int i = 0; i < TILES; ++i) words[i] = Element::pack(acc[i][s], acc[i][s + 2]);
                if constexpr (TILES == 1) ptx::store_shared(address, words[0]);
                if constexpr (TILES == 2) ptx::store_shared(address, make_uint2(words[0], words[1]));
                if constexpr (TILES == 4) {
                    ptx::store_shared(address, make_uint4(words[0], words[1], words[2], words[3]));
                }
            }
        }
    } else {
        stage_matrices<Element>(buffer, acc, pass, place);
    }
}

__device__ __forceinline__ void copy_vector(u16* to, u32 shared) { *to = ptx::load_shared_u16(shared); }
__device__ __forceinline__ void copy_vector(u32* to, u32 shared) { *to = ptx::load_shared(shared); }
__device__ __forceinline__ void copy_vector(uint2* to, u32 shared) { *to = ptx::load_shared_u64(shared); }
__device__ __forceinline__ void copy_vector(uint4* to, u32 shared) { *to = ptx::load_shared_u128(shared); }

// Writes a group's staged rows to C at (row, column), vector by vector.
__device__ __forceinline__ void write_rows(const byte*, u16* c, u32 buffer, int m, int n, int row, int column,
                                           const LanePlace& place) {
    group_sync(place);
    // Adjacent lanes write adjacent vectors, so that a warp's store meets as few lines of the cache as it can.
    using Vector = typename ptx::Word<C_VECTOR_BYTES>::Type;
    constexpr int WIDTH = C_VECTOR_BYTES / 2, ROW_VECTORS = TILES * 64 / WIDTH;
    constexpr int AT_ONCE = GROUPS == 2 && !HANDS_OVER && REGISTERS > 152 ? 2 : 8;  // as far as there are registers
#pragma unroll AT_ONCE
    for (int v = place.warp * 32 + place.lane; v < STAGING_ROWS * ROW_VECTORS; v += 128) {
        const int y = v / ROW_VECTORS, x = v % ROW_VECTORS * WIDTH;
        if (row + y >= m || column + x >= n) continue;
        const u32 address = buffer + x / 64 * STAGING_PANEL + layout::swizzled<128, 16>(y, x % 64 * 2);
        copy_vector(reinterpret_cast<Vector*>(c + static_cast<i64>(row + y) * n + (column + x)), address);
    }
}

// Adds the sums of the cluster's programs: the tile, row by row, is cut into as many equal shares as there are programs, each
// sends every share to its owner's shared memory, and the owner adds them in the programs' order and writes them to C. No
// program ends before it has all its sums, nor sends any before all have begun.
__device__ __forceinline__ void combine_parts(u16* c, const Sums& acc, int m, int n, int row, int column, const Layout& at,
                                              int parts, const LanePlace& place, int thread) {
    const u32 slots = at.staging();
    const int part = ptx::cluster_rank();
    const int share = BLOCK_M * BLOCK_N / parts;
    const u32 reciprocal = ~0u / share + 1;  // index / share = index * reciprocal >> 32, exactly, below 2^16
    ptx::cluster_wait();  // every program has begun
#pragma unroll
    for (int j = 0; j < BLOCK_M / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int y = 8 * j + place.lane % 4 * 2 + e;
            constexpr int RUN = LanePlace::RUN, VECTOR = scheduler::smaller(RUN, 4);
#pragma unroll
            for (int v = 0; v < 2 * TILES / VECTOR; ++v) {
                const int x = PACKED ? place.column(0, 0) + v * VECTOR : place.column(v / 2, v % 2);
                float sums[VECTOR];
#pragma unroll
                for (int i = 0; i < VECTOR; ++i) {
                    const int run = v * VECTOR + i;
                    sums[i] = acc[run / 2][4 * j + 2 * (run % 2) + e];
                }
                const int index = y * BLOCK_N + x, owner = __umulhi(index, reciprocal);
                const u32 slot = slots + 4 * (part * share + index - owner * share);
                ptx::store_async(ptx::cluster_address(slot, owner), sums, ptx::cluster_address(at.summed(), owner));
            }
        }
    }
    ptx::mbarrier_wait(at.summed(), 0);
    for (int v = thread * 8; v < share; v += 8 * 32 * NUM_WARPS) {
        float sums[8] = {};
#pragma unroll 4
        for (int from = 0; from < parts; ++from) {
            const u32 slot = slots + 4 * (from * share + v);
            const float4 low = ptx::load_shared_f32x4(slot), high = ptx::load_shared_f32x4(slot + 16);
            sums[0] += low.x, sums[1] += low.y, sums[2] += low.z, sums[3] += low.w;
            sums[4] += high.x, sums[5] += high.y, sums[6] += high.z, sums[7] += high.w;
        }
        u32 columns[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) columns[i] = Element::pack(sums[2 * i], sums[2 * i + 1]);
        const int index = part * share + v;
        store_vector(c, columns, m, n, row + index / BLOCK_N, column + index % BLOCK_N);
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT > 0 ? RESIDENT : 1)
gemm_wgmma(const __grid_constant__ ASource a, const __grid_constant__ BSource b, const __grid_constant__ CTarget c_tiles,
           u16* c, int m, int n, int k, int tiles_m, int tiles_n, int k_steps, int group_m, int split_k, int stride,
           int span, const byte* a_rows, const byte* b_rows, byte* scratch, u32* counters SCALE_PARAMETERS) {
#if REALIGNED
    const i64 a_bytes = REALIGNED & 1 ? static_cast<i64>(m) * realign::pitch_bytes(2 * k) : 0;
    if (REALIGNED & 1) realign::copy_rows<THREADS>(scratch, a_rows, m, 2 * k);
    if (REALIGNED & 2) {
        realign::copy_rows<THREADS>(scratch + a_bytes, b_rows, k / Weights::K_PER_ROW, n * Weights::COLUMN_BYTES);
    }
    realign::wait_for_all_programs(counters);
#endif
    const Layout at{ptx::shared_address(smem)};
    const Scaling scaling SCALE_ARGUMENTS;
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
                load_stage(at, ring.stage, a, b, scaling, m, n, k, tile, step, thread % 32);
            }
        }
        if (split_k > 1) ptx::cluster_wait();
        return;
    }

    if constexpr (HANDS_OVER) ptx::take_registers<TAKEN_REGISTERS>();
    const LanePlace place(thread);
    int turn = 0;
    for (int index = work.first; index < work.end; index += work.stride) {
        Sums acc;
        const int steps = work.steps.end - work.steps.begin;
        if constexpr (BY_WARP) {
            multiply_tile_by_warp<Weights>(acc, ring, at, place, steps);
        } else {
            multiply_tile<Weights>(acc, ring, at, place, steps);
        }
        if constexpr (Weights::SCALE != 1 || SCALED) {
            const float factor = Weights::SCALE * scaling.factor();
#pragma unroll
            for (int i = 0; i < TILES; ++i) {
#pragma unroll
                for (int s = 0; s < SUMS; ++s) acc[i][s] *= factor;
            }
        }
        const scheduler::Tile tile = work.schedule.tile(ptx::opaque(index));
        const int row = tile.m * BLOCK_M, column = tile.n * BLOCK_N;
        const LanePlace writer(ptx::opaque(thread));
        if (split_k > 1) {
            combine_parts(c, acc, m, n, row, column, at, split_k, writer, thread);
        } else {
            store_tile(c_tiles, c, acc, m, n, row, column, at.staging(), turn, writer);
        }
    }
    if (C_BY_ENGINE && split_k == 1 && thread % 128 == 0) ptx::tma_store_wait_read<0>();
}
