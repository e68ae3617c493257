// C[m, n] = A[m, k] · decode(B), with tcgen05 on bf16, f16 or E4M3 and f32 sums in tensor memory. Needs sm_100a.
//
// THIS KERNEL HAS NEVER RUN ON A GPU. It compiles; its encodings were checked against the PTX manual and public kernels, its
// addresses and barriers on a model of the hardware (tests/gpu_model/). That it is right rests on the comparison with the
// reference before anything is timed.
//
// A   bf16 or f16 [m, k], or for E4m3 as B
// B   [k, n] of weights in A's type or int16, or [k / 2, n] bytes of two 4-bit weights along k, low nibble first (k even);
//     or E4M3 [n, k]: A and B then have scales in f32, which BLOCK_SCALES and scale_step say more of
// C   [m, n] in A's type, or for E4m3 bf16
// a_scales, b_scales   E4m3 without BLOCK_SCALES: [1] and [1], or with a scale_step of 1 [m] and [n]; with BLOCK_SCALES
//     [ceil(k / 128), m], for 128 of k of a row of A, and [ceil(n / 128), ceil(k / 128)], for 128 columns of B by 128 of k. The
//     product of two must be a normal f32 or zero
// Of weights with scales, for each group of weights along k (the last may be shorter), g of them, decode.cuh says what they are:
// scales   [g, n] of A's type (Int4Group), E4M3 (Nvfp4) or E8M0 (Mxfp4)
// zeros    bytes [g, n] of four bits (Int4Group with ZERO_POINTS)
// tensor_scale   f32, a factor of all (Nvfp4)
// All are contiguous and row-major, their rows multiples of 16 bytes: the copy engine fills what lies beyond them with zeros.
//
// Macros
//   BLOCK_M, BLOCK_N, BLOCK_K   the tile, in rows of C, columns of C and elements of k
//                               BLOCK_M 128: its rows are the instruction's M; BLOCK_N a multiple of 16 up to 256
//                               BLOCK_M 256, 512: the same with a pair of programs, each with half the rows and half the
//                               columns of B; BLOCK_N a multiple of 32 up to 256
//                               BLOCK_M a multiple of 16 below 128: the weights' columns are the instruction's M, the rows its
//                               N; BLOCK_N 128
//                               TENSOR_WEIGHTS: likewise, with BLOCK_M a multiple of 16 up to 256; or with a pair of programs
//                               BLOCK_N 256, each half the columns and half the rows of A, and BLOCK_M a multiple of 32
//                               BLOCK_K 64 or 128, for E4m3 128 or 256, and BLOCK_N 32, 64, 128 or 256
//   NUM_STAGES                  tiles of A and B in shared memory at once; from 2
//   DTYPE                       the type of A and C: bf16 or f16; for E4m3 of C
//   BLOCK_SCALES                E4m3: 1 where blocks of 128 have scales; 0: rows and columns, or tensors
//   WEIGHTS                     the format of B: Bf16 or F16 (as DTYPE), Int16, Int4, Fp4, Int4Group, Nvfp4 or Mxfp4
//                               (decode.cuh), or E4m3, and A likewise
//   ZERO_POINTS                 Int4Group: 1 where weights have zero points, else 0
//   GROUP                       weights with scales: how many of a step along k share one: 16 ... BLOCK_K, which it divides
//   TENSOR_WEIGHTS              1: decoded weights go to tensor memory, where they are the instruction's first operand; else 0
//   DECODE_WARPS                warps that decode weights; 0 for Bf16 and F16; 4 or 8 for TENSOR_WEIGHTS
//   BUFFERS                     steps of decoded weights at once, 2 ... NUM_STAGES; 0 for Bf16 and F16
//   SUM_TILES                   tiles whose sums are in tensor memory at once: 2, so that one is multiplied while the other is
//                               stored, or 1
// Sums, two columns of 32 bits for each four of decoded weights, and what a power of two adds must fit 512 columns.
//
// Launch: 32 * (6 + DECODE_WARPS) threads along x, or 384 where E4M3's sums have more than 128 columns; SMEM_BYTES of dynamic shared memory, programs (pairs in clusters of 2) along
// x. A line is 64, 32 or 16 columns, the widest that the columns in question are a multiple of; it is swizzled by its bytes.
// Tensor maps: A in tiles of A_ROWS x 64, swizzled by 128 bytes, E4M3's A and B of 128 of k x a program's rows or columns likewise;
// else B in tiles of BLOCK_K x a line of a program's columns; undecoded,
// of all of a program's rows of bytes and columns, not swizzled, or for TENSOR_WEIGHTS of 128 bytes of columns, swizzled; scales and
// zero points of a step's groups x a program's columns, not swizzled; C in tiles of 32 x a line of BLOCK_N, or, where the weights
// come first, of a line of BLOCK_M, in rows, x 32, not swizzled. The work and its order (scheduler.cuh) are arguments:
//   partials                    split_k > 1: BLOCK_M * BLOCK_N floats for each tile and part of k
//   arrivals                    split_k > 1: one zero for each tile and program of it; zero again at the end
//   tiles_m, tiles_n, k_steps, group_m, split_k, stride, span    as in gemm.cu; a pair counts as one program. A stride of 0:
//                               there are as many programs as parts of tiles, and `span` is as many; those that run take the
//                               work of those that have not begun (cluster launch control)
// Weights with scales have four more:
//   scales, zeros               tensor maps; no zero points: a null pointer
//   tensor_scale                the factor, or null for none
//   group_steps                 steps along k that share one row of scales; 1 where a step has whole rows
// E4M3 has six more:
//   a_scales, b_scales          the scales
//   m, n, blocks_k              rows of A, columns of B and blocks of 128 of k that have some, the last perhaps shorter
//   scale_step                  how far the scales of neighbouring rows and columns are apart: 1, or 0 where all have the same
//
// Who does what: warps 0 ... 3 take sums from tensor memory to C, each its 32 lanes, where E4M3 has 256 columns of them with warps
// 8 ... 11, half of the columns each; warp 4 copies, and asks for the next tile
// where the hardware deals them out; warp 5 owns the tensor memory and multiplies, in a pair the first program's for both; the
// others decode.
//
// Barriers (arrivals a phase; each wait is for the phase of that step or tile, unless said otherwise):
//   full[stage]     1 and the bytes of A (and of bf16 B) of the whole pair, at the pair's first program; awaited to multiply
//   raw[stage]      1 and the bytes of this program's undecoded B, its scales and zero points; awaited to decode
//   ready[buffer]   one for each decoding warp of the pair, at its first program; awaited to multiply
//   empty[stage]    1, by commit, at both programs, when a step's products are done; awaited to copy over the stage (the phase
//                   before), and to decode over the buffer (the step BUFFERS earlier)
// and those of the tiles (tcgen05_gemm.cuh). With E4M3 and BLOCK_SCALES a tile of sums there is 128 of k: those who store scale it and
// add it up in registers.
// The multiplying thread waits for full and ready both: those who decode know nothing of A. A stage is never two phases ahead
// of those who wait for it, since NUM_STAGES is at least BUFFERS. Nobody leaves before every phase of its
// barriers has ended and all programs of the pair have come to the end.
// One thread a tile has a fence of the whole GPU, with split_k > 1.
//
// Floor: 2 (m k + m n) + k n B's bytes, 2 m n k operations. On paper, and never measured: 2.25 PFLOP/s, 8 TB/s and 148
// multiprocessors at 1.85 GHz are 4096 multiply-adds and 29 bytes of memory a cycle of one; shared memory moves 128 bytes, and
// tensor memory is taken to move a column of 128 lanes. Cycles for 64 of k, of one program, whose pair reads half of B for both:
//   tile                         products   shared memory: copied, decoded, read    tensor memory   weights from HBM
//   128 x 256                        512      384             384  =  768
//   256 x 256, pair                  512      256             256  =  512
//   512 x 256, pair                 1024      384             512  =  896
//   256 x 192, pair                  384      224             224  =  448
//   256 x  64, pair                  128      160             160  =  320
//    16 x 128, bf16                   32      144             144  =  288                             565
//    16 x 128, 4 bits, shared         32       48  32 + 128   144  =  352                             141
//    16 x 128, 4 bits, tensor         32       48  32          16  =   96         32 + 32             141
//   256 x 256, 4 bits, shared        512      160  32 + 128   256  =  576
//   256 x 256, 4 bits, tensor        512      160  32         128  =  320         32 + 32
// E4M3 has as many bytes in 128 of k as bf16 in 64 and is multiplied in as many cycles, so that the table holds for its 128 of k: at
// best 4.5 PFLOP/s with 256 x 256, 3 with 256 x 128, which shared memory limits. 512 x 256 has no room for what two groups of warps
// store. Scales of blocks take a warp 196 instructions for 128 columns and 128 of k, by ptxas: two warps a scheduler 392 cycles of the
// 512 that products take. Tensors', rows' and columns' scales come in once a tile.
// So 4-bit weights through shared memory reach 40 % of the memory's rate at few rows, and through tensor memory nearly all of it:
// decoding takes a warp some 20 issue cycles for 256 weights, 160 cycles a step on four schedulers where memory takes 141. Scales
// add little to what moves and more to what is decoded: by ptxas's instructions a step takes four schedulers 158 cycles for int4 in
// groups of 128, 209 in groups of 32 with zero points, 227 for MXFP4 and 262 for NVFP4 (196 for E2M1 alone), where memory takes 146,
// 168, 150 and 159: two thirds of its rate for NVFP4, where decoding and not memory is the limit. Storing
// reads each column of sums once and hides behind the next tile's products with SUM_TILES 2; with 512 x 256 it does not, some
// 1000 cycles a tile, which 64 steps outweigh from k = 4096 on. 4096 ** 3 on 74 pairs: 256 x 256 and 512 x 256 take 131,000 cycles,
// 71 us (4 and 2 rounds, the last not full), 256 x 192 takes 5 rounds, 77 us by shared memory and 66 by products. 1024 ** 3: 64
// pairs of 256 x 64, 16 steps, 2.8 us beside start and end. A multiprocessor takes 64 bytes a cycle from L2 for 256 x 256, 48 for
// 512 x 256: 17 and 13 TB/s for all of them, which L2 may not give.
//
// Not here, by count. Clusters of two pairs that share A or B by multicast: a multiprocessor's shared memory takes in and gives out as
// many bytes as before, 512 cycles of them for 512 of products, and as many come in from L2, 64 a cycle; only L2 reads fewer, 48 a
// cycle and multiprocessor, which 512 x 256 does by a pair alone, with 48 coming in as well. For that all four programs would wait
// for the slowest with every stage, and multiprocessors that are no multiple of four in their cluster of the chip would have no work
// (two of 18 are 11 %). On an H200, gemm_wgmma.cu was as fast with multicast as without.
// Programmatic dependent launch, which has a kernel begin while the one before it in its stream drains, is not built. It would take an
// attribute at the launch, and in the kernel a wait before it touches what others write and a signal to the next. A launch that is
// measured by itself gains nothing, whatever the kernel does: it begins after the event before it. What is served runs back to back,
// in CUDA graphs, and gains by each launch what of its beginning hides behind the end of the one before: setting up, taken to be 500
// cycles for two meetings of the pair, barriers and tensor memory, 0.3 us; the first trip to memory, taken to be 0.8 us, of weights,
// which no kernel before it writes; and what the GPU itself takes from one kernel to the next, which is not counted here. These 1.1 us
// are 1.5 % of the 71 us of 4096 ** 3, but at few rows as much as the 1.05 us in which memory gives all 8.4 MB of 4096 x 4096 weights
// of 4 bits: there, up to half of a launch is what it would gain.

#include "decode.cuh"
#include "gemm_macros.cuh"
#include "layout.cuh"
#include "scheduler.cuh"
#include "streaming.cuh"
#include "tcgen05.cuh"
#include "tcgen05_gemm.cuh"

#if !defined(DECODE_WARPS) || !defined(BUFFERS)
#error "DECODE_WARPS and BUFFERS must be defined: warps that decode weights, and steps of weights decoded at once"
#endif
#if defined(BLOCK_SCALES)
namespace decode {
// Multiplied as it lies there, like the activations' own type.
template <typename Element>
using E4m3 = Same<Element>;
}  // namespace decode
#endif
#if !defined(TENSOR_WEIGHTS) || !defined(SUM_TILES)
#error "TENSOR_WEIGHTS and SUM_TILES must be defined: whether decoded weights go to tensor memory, and tiles of sums there"
#endif

namespace {

using ptx::Major;
using ptx::u32;
using ptx::u64;
using i64 = long long;
using tcgen05_gemm::Role;
using Element = halves::DTYPE;
using Weights = decode::WEIGHTS<Element>;

#if defined(BLOCK_SCALES)
constexpr bool FP8 = true;
constexpr bool PROMOTED = BLOCK_SCALES;  // sums of 128 of k come to registers, each with scales of its own
#else
constexpr bool FP8 = false;
constexpr bool PROMOTED = false;
#endif

#if defined(GROUP)
constexpr bool SCALED = true;
constexpr int GROUP_K = GROUP;
static_assert(GROUP >= 16 && GROUP % 16 == 0 && BLOCK_K % GROUP == 0, "GROUP: 16 ... BLOCK_K, a step has whole ones, or one");
static_assert(Weights::SCALE_BYTES > 0, "GROUP: these weights have no scales");
#define SCALE_PARAMETERS                                                                                                \
    , const __grid_constant__ ptx::TensorMap scales, const __grid_constant__ ZeroSource zeros, const float *tensor_scale, \
        int group_steps
#define SCALE_ARGUMENTS {scales, zeros, tensor_scale, group_steps}
#elif defined(BLOCK_SCALES)
constexpr bool SCALED = false;
constexpr int GROUP_K = BLOCK_K;
#define SCALE_PARAMETERS , const float *a_scales, const float *b_scales, int m, int n, int blocks_k, int scale_step
#define SCALE_ARGUMENTS {a_scales, b_scales, m, n, blocks_k, scale_step}
#else
constexpr bool SCALED = false;
constexpr int GROUP_K = BLOCK_K;
static_assert(Weights::SCALE_BYTES == 0, "GROUP must be defined: weights that share a scale");
#define SCALE_PARAMETERS
#define SCALE_ARGUMENTS {}
#endif

constexpr bool DECODED = Weights::DECODED;
constexpr bool HELD = TENSOR_WEIGHTS;               // decoded weights go to tensor memory
constexpr bool SWAPPED = HELD || BLOCK_M < 128;     // the weights are the instruction's first operand
constexpr int CTAS = HELD ? BLOCK_N / 128 : BLOCK_M > 128 ? 2 : 1;
constexpr int ROW_BLOCKS = SWAPPED ? 1 : BLOCK_M / (128 * CTAS);  // instructions below each other
constexpr int INSTRUCTION_N = SWAPPED ? BLOCK_M : BLOCK_N;
constexpr int LINE_K = FP8 ? 128 : 64;  // of k, in a line of 128 bytes

static_assert(SWAPPED ? BLOCK_N == 128 * CTAS && CTAS <= 2 : BLOCK_M == 128 || BLOCK_M == 256 || BLOCK_M == 512,
              "BLOCK_M: 128, 256 or 512, or the weights' columns are the instruction's rows: BLOCK_N 128, of a pair 256");
static_assert(INSTRUCTION_N % (16 * CTAS) == 0 && INSTRUCTION_N >= 16 && INSTRUCTION_N <= 256,
              "the instruction's columns: a multiple of 16, of a pair of 32, up to 256");
static_assert(BLOCK_K == LINE_K || BLOCK_K == 2 * LINE_K, "BLOCK_K: 64 or 128, for E4m3 128 or 256");
static_assert(!FP8 || ((128 % BLOCK_N == 0 || BLOCK_N == 256) && BLOCK_M <= 256), "E4m3: columns are in whole blocks; 256 rows");
static_assert((DECODE_WARPS > 0) == DECODED && (BUFFERS > 0) == DECODED, "DECODE_WARPS, BUFFERS: 0 for bf16 weights alone");
static_assert(DECODED || !HELD, "TENSOR_WEIGHTS: weights that need no decoding are read where they lie");
static_assert(!HELD || DECODE_WARPS % 4 == 0, "DECODE_WARPS: as many for each 32 lanes of the tensor memory");
static_assert(NUM_STAGES >= 2 && NUM_STAGES >= BUFFERS && BUFFERS != 1, "NUM_STAGES: 2, and no fewer than BUFFERS; BUFFERS: 2");

// One program's part of the tile.
constexpr int A_ROWS = BLOCK_M / CTAS;
constexpr int COLUMNS = BLOCK_N / CTAS;

// Operand tiles are panels one line wide, one after the other: A's hold A_ROWS rows of LINE_K of k each, B's BLOCK_K of its columns,
// or E4M3's as A's.
constexpr int A_LINE_BYTES = 128;
constexpr int A_PANEL_BYTES = A_ROWS * A_LINE_BYTES;
constexpr int A_BYTES = BLOCK_K / LINE_K * A_PANEL_BYTES;
constexpr int B_LINE = FP8 ? 64 : tcgen05_gemm::widest_line(COLUMNS), B_LINE_BYTES = 2 * B_LINE;
constexpr int B_PANEL_BYTES = (FP8 ? COLUMNS : BLOCK_K) * B_LINE_BYTES;
constexpr int OPERAND_BYTES = (FP8 ? BLOCK_K / LINE_K : COLUMNS / B_LINE) * B_PANEL_BYTES;  // of B, as it is multiplied
// Undecoded weights: a line is a row of the tile, or for matrix loads 128 bytes, panel after panel.
constexpr int RAW_ROWS = BLOCK_K / Weights::K_PER_ROW;
constexpr int RAW_LINE = HELD ? 128 / Weights::COLUMN_BYTES : COLUMNS;
constexpr int RAW_PANEL_BYTES = RAW_ROWS * RAW_LINE * Weights::COLUMN_BYTES;
constexpr int B_BYTES = DECODED ? COLUMNS / RAW_LINE * RAW_PANEL_BYTES : OPERAND_BYTES;

// The most pieces of a row of bytes, eight columns each, that a decoding thread has of a step where it takes so many rows at once.
__device__ constexpr int pieces_a_thread(int rows) {
    return rows * scheduler::ceil_div(RAW_ROWS / rows * (COLUMNS / 8), DECODED ? 32 * DECODE_WARPS : 1);
}

// A step's scales and zero points lie as rows of a program's columns, the copy engine's tiles at multiples of 128 bytes.
constexpr int SCALE_ROWS = BLOCK_K / GROUP_K;
constexpr int SCALE_ROW_BYTES = COLUMNS * Weights::SCALE_BYTES, ZERO_ROW_BYTES = COLUMNS * Weights::ZERO_BYTES;
constexpr int ZEROS = (SCALE_ROWS * SCALE_ROW_BYTES + 127) / 128 * 128;  // behind the scales
constexpr int SCALES_BYTES = ZEROS + (SCALE_ROWS * ZERO_ROW_BYTES + 127) / 128 * 128;
constexpr int SCALES_COPIED = SCALE_ROWS * (SCALE_ROW_BYTES + ZERO_ROW_BYTES);

// Where there are no zero points, a null pointer is in their map's place.
template <bool PRESENT>
struct ZeroPoints {
    using Source = ptx::TensorMap;
};
template <>
struct ZeroPoints<false> {
    using Source = const void*;
};
using ZeroSource = ZeroPoints<(Weights::ZERO_BYTES > 0)>::Source;

template <typename Source>
__device__ __forceinline__ void prefetch_zeros(const Source& zeros) {
    if constexpr (Weights::ZERO_BYTES > 0) ptx::prefetch_map(zeros);
}

template <typename Source>
__device__ __forceinline__ void copy_zeros(u32 shared, const Source& zeros, u32 barrier, int column, int row) {
    if constexpr (Weights::ZERO_BYTES > 0) ptx::tma_load(shared, zeros, barrier, column, row);
}

#if defined(GROUP)
struct Scaling {
    const ptx::TensorMap& scales;
    const ZeroSource& zeros;
    const float* tensor_scale;
    int group_steps;

    // What sums are to be multiplied by beside the format's own factor.
    __device__ __forceinline__ float factor() const { return tensor_scale == nullptr ? 1.0f : *tensor_scale; }
};

__device__ __forceinline__ void prefetch_scales(const Scaling& scaling) {
    ptx::prefetch_map(scaling.scales);
    prefetch_zeros(scaling.zeros);
}

__device__ __forceinline__ void copy_scales(u32 shared, const Scaling& scaling, u32 barrier, int column, int step) {
    const int row = step / scaling.group_steps * SCALE_ROWS;
    ptx::tma_load(shared, scaling.scales, barrier, column, row);
    copy_zeros(shared + ZEROS, scaling.zeros, barrier, column, row);
}
#else
#if defined(BLOCK_SCALES)
struct Scaling {
    const float *a_scales, *b_scales;
    int m, n, blocks_k, step;

    __device__ __forceinline__ float factor() const { return 1.0f; }

    // Of a row of A and of a column of B, or of so many of 128 of k of theirs; zero beyond the matrices.
    __device__ __forceinline__ float of_row(int row, int block) const {
        if constexpr (PROMOTED) return row < m && block < blocks_k ? a_scales[static_cast<i64>(block) * m + row] : 0;
        return row < m ? a_scales[row * step] : 0;
    }
    __device__ __forceinline__ float of_column(int column, int block) const {
        if constexpr (PROMOTED) {
            return column < n && block < blocks_k ? b_scales[static_cast<i64>(column / 128) * blocks_k + block] : 0;
        }
        return column < n ? b_scales[column * step] : 0;
    }
};
#else
struct Scaling {
    __device__ __forceinline__ float factor() const { return 1.0f; }
};
#endif

__device__ __forceinline__ void prefetch_scales(const Scaling&) {}
__device__ __forceinline__ void copy_scales(u32, const Scaling&, u32, int, int) {}
#endif

// Where a stage's scales of some columns lie: those of the step's first group.
struct ScalePlace {
    u32 scales, zeros;

    __device__ __forceinline__ static ScalePlace of_step(u32 tile) { return {tile, tile + ZEROS}; }

    __device__ __forceinline__ ScalePlace columns_on(int columns) const {
        return {scales + columns * Weights::SCALE_BYTES, zeros + columns * Weights::ZERO_BYTES};
    }

    // Reads those of the group that so many of k before it are in.
    template <typename Scales>
    __device__ __forceinline__ void load(Scales& values, int k) const {
        const int row = k / GROUP_K;
        values.load(scales + row * SCALE_ROW_BYTES, zeros + row * ZERO_ROW_BYTES);
    }
};

// The tile as sums and their way to C have it.
struct Shape {
    using Element = halves::DTYPE;
    static constexpr int M = BLOCK_M, N = BLOCK_N;
    static constexpr bool SWAPPED = ::SWAPPED;
    static constexpr int CTAS = ::CTAS, INSTRUCTION_N = ::INSTRUCTION_N, ROW_BLOCKS = ::ROW_BLOCKS;
    static constexpr int TILES = SUM_TILES;
    // Those of E4M3, that scale and may add up in registers, have 128 columns at most.
    static constexpr int STORERS = FP8 ? (ROW_BLOCKS * INSTRUCTION_N + 127) / 128 : 1;

    // 4-bit weights in tensor memory lie as transposing matrix loads leave them (hold_block).
    __device__ __forceinline__ static int column_of(int lane) {
        return HELD && Weights::K_PER_ROW == 2 ? lane / 16 * 16 + lane % 8 * 2 + lane / 8 % 2 : lane;
    }
};

using Storing = tcgen05_gemm::Storing<Shape>;
using Storer = tcgen05_gemm::Storer<Shape>;
constexpr int CHUNK = Storing::CHUNK;
constexpr int STORERS = Shape::STORERS;
constexpr int STORED_COLUMNS = Storer::COLUMNS;

// Columns of tensor memory: sums, then decoded weights.
constexpr int SUM_STRIDE = tcgen05_gemm::sum_stride<Shape>();
constexpr int WEIGHT_COLUMNS = BLOCK_K / 2;
constexpr int ALL_WEIGHT_COLUMNS = HELD ? BUFFERS * WEIGHT_COLUMNS : 0;
constexpr int WEIGHTS_AT = SUM_TILES * SUM_STRIDE;
constexpr int TMEM_COLUMNS = tcgen05_gemm::power_of_two_from(32, WEIGHTS_AT + ALL_WEIGHT_COLUMNS);

constexpr int A_STAGES = 0;
constexpr int OPERANDS = A_STAGES + NUM_STAGES * A_BYTES;
constexpr int BOXES = OPERANDS + (HELD ? 0 : BUFFERS * OPERAND_BYTES);  // two for each storing warp
constexpr int B_STAGES = BOXES + tcgen05_gemm::boxes_bytes<Shape>();
constexpr int SCALE_STAGES = B_STAGES + NUM_STAGES * B_BYTES;
constexpr int ROW_SCALES = SCALE_STAGES + NUM_STAGES * SCALES_BYTES;  // of 128 of k of a tile's rows, each storing warp's own
constexpr int TILES = ROW_SCALES + (PROMOTED && SWAPPED ? 4 * STORERS * 4 * INSTRUCTION_N : 0);  // barriers and answers (tcgen05_gemm.cuh)
constexpr int TENSOR_MEMORY = TILES + tcgen05_gemm::TENSOR_MEMORY;  // its address
constexpr int FULL = TILES + tcgen05_gemm::TILES_BYTES;
constexpr int EMPTY = FULL + 8 * NUM_STAGES;
constexpr int RAW = EMPTY + 8 * NUM_STAGES;
constexpr int READY = RAW + (DECODED ? 8 * NUM_STAGES : 0);
constexpr int SMEM_BYTES = READY + 8 * BUFFERS;

constexpr int COPYING_WARP = 4, MULTIPLYING_WARP = 5, FIRST_DECODING_WARP = 6;
constexpr int FIRST_OTHER_STORER = tcgen05_gemm::FIRST_OTHER_STORER;  // two warps before it are idle
constexpr int THREADS = 32 * (STORERS > 1 ? FIRST_OTHER_STORER + 4 : FIRST_DECODING_WARP + DECODE_WARPS);
constexpr bool HANDS_OVER = PROMOTED && STORERS > 1;  // 168 registers a thread are too few for 128 columns of sums

// Programs a multiprocessor is to hold at once: what its shared memory allows (228 KiB, 1 of them lost to each program),
// but no more than leave each thread 104 registers, which those that store 64 columns at a time need, or with E4M3 enough for all
// the columns it stores.
constexpr int BY_SMEM = 228 * 1024 / (SMEM_BYTES + 1024);
constexpr int REGISTERS = FP8 ? 96 + STORED_COLUMNS : 104;
constexpr int BY_REGISTERS = 65536 / (THREADS * REGISTERS);
constexpr int RESIDENT = BY_REGISTERS == 0 ? 1 : scheduler::smaller(BY_SMEM, BY_REGISTERS);

static_assert(A_BYTES % 1024 == 0 && OPERAND_BYTES % 1024 == 0 && tcgen05_gemm::box_bytes<Shape>() % 1024 == 0, "the swizzle repeats every 1024 bytes");
static_assert(B_BYTES % (DECODED && !HELD ? 128 : 1024) == 0, "undecoded tiles begin at a multiple of 128, swizzled ones of 1024");
static_assert(SUM_TILES == 1 || SUM_TILES == 2, "SUM_TILES: 1 or 2");
static_assert(TMEM_COLUMNS <= 512, "sums and decoded weights exceed the tensor memory");
static_assert(SMEM_BYTES <= 227 * 1024, "the stages exceed the shared memory of a program");
static_assert(THREADS <= 512, "DECODE_WARPS: at most 10, for more leave a thread too few registers");

extern __shared__ __align__(1024) unsigned char smem[];

using Stage = tcgen05_gemm::Place<NUM_STAGES>;
using Buffer = tcgen05_gemm::Place<(BUFFERS > 0 ? BUFFERS : 1)>;
using Sums = tcgen05_gemm::Place<SUM_TILES>;

// The work of one program, or of a pair.
struct Program {
    u32 base;  // of the shared memory
    int rank;  // in the pair
    tcgen05_gemm::Tiles<CTAS> tiles;

    // Copies the operands of every step; one thread.
    __device__ __forceinline__ void copy(const ptx::TensorMap& a, const ptx::TensorMap& b, const Scaling& scaling) const {
        Stage stage;
        tiles.each<Role::Copying>([&](const scheduler::Work& work) {
            const int row = work.tile_m * BLOCK_M + rank * A_ROWS;
            const int column = work.tile_n * BLOCK_N + rank * COLUMNS;
            for (int step = work.begin; step < work.end; ++step, stage.advance()) {
                ptx::mbarrier_wait(stage.of(base + EMPTY), stage.parity ^ 1);
                copy_step(a, b, scaling, stage, row, column, step);
            }
        });
        for (int i = 0; i < NUM_STAGES; ++i, stage.advance()) ptx::mbarrier_wait(stage.of(base + EMPTY), stage.parity ^ 1);
    }

    __device__ __forceinline__ void copy_step(const ptx::TensorMap& a, const ptx::TensorMap& b, const Scaling& scaling,
                                              const Stage& stage, int row, int column, int step) const {
        const int k = step * BLOCK_K;
        const u32 a_tile = base + A_STAGES + stage.index * A_BYTES, b_tile = base + B_STAGES + stage.index * B_BYTES;
        const u32 full = stage.of(base + FULL), raw = stage.of(base + RAW);
        if (rank == 0) ptx::mbarrier_arrive_expect(full, CTAS * (A_BYTES + (DECODED ? 0 : B_BYTES)));
#pragma unroll
        for (int panel = 0; panel < BLOCK_K / LINE_K; ++panel) {
            ptx::tma_load_first<CTAS>(a_tile + panel * A_PANEL_BYTES, a, full, k + LINE_K * panel, row);
        }
        if constexpr (FP8) {
#pragma unroll
            for (int panel = 0; panel < BLOCK_K / LINE_K; ++panel) {
                ptx::tma_load_first<CTAS>(b_tile + panel * B_PANEL_BYTES, b, full, k + LINE_K * panel, column);
            }
        } else if constexpr (DECODED) {
            ptx::mbarrier_arrive_expect(raw, B_BYTES + SCALES_COPIED);
#pragma unroll
            for (int panel = 0; panel < COLUMNS / RAW_LINE; ++panel) {
                ptx::tma_load(b_tile + panel * RAW_PANEL_BYTES, b, raw, column + RAW_LINE * panel, k / Weights::K_PER_ROW);
            }
            copy_scales(base + SCALE_STAGES + stage.index * SCALES_BYTES, scaling, raw, column, step);
        } else {
#pragma unroll
            for (int panel = 0; panel < COLUMNS / B_LINE; ++panel) {
                ptx::tma_load_first<CTAS>(b_tile + panel * B_PANEL_BYTES, b, full, column + B_LINE * panel, k);
            }
        }
    }

    // Decodes the weights of every step; all decoding warps.
    __device__ __forceinline__ void decode_all(u32 tensor_memory, int thread) const {
        Stage stage, reused;
        Buffer buffer;
        int steps = 0;
        tiles.each<Role::Warp>([&](const scheduler::Work& work) {
            for (int step = work.begin; step < work.end; ++step, ++steps) {
                if (steps >= BUFFERS) {
                    ptx::mbarrier_wait(reused.of(base + EMPTY), reused.parity);
                    reused.advance();
                }
                ptx::mbarrier_wait(stage.of(base + RAW), stage.parity);
                const u32 raw_tile = base + B_STAGES + stage.index * B_BYTES;
                const u32 scales = base + SCALE_STAGES + stage.index * SCALES_BYTES;
                if constexpr (HELD) {
                    __syncwarp();
                    ptx::tcgen05_after_signal();
                    hold_step<Weights>(raw_tile, scales, tensor_memory + WEIGHTS_AT + buffer.index * WEIGHT_COLUMNS, thread);
                    ptx::tmem_wait_stores();
                    ptx::tcgen05_before_signal();
                } else {
                    decode_step(raw_tile, scales, base + OPERANDS + buffer.index * OPERAND_BYTES, thread);
                    ptx::fence_async_shared();
                }
                __syncwarp();
                if (thread % 32 == 0) ptx::mbarrier_arrive_first<CTAS>(buffer.of(base + READY));
                stage.advance();
                buffer.advance();
            }
        });
    }

    // Decodes a step into tensor memory. A warp has 32 of the tile's columns, those of the lanes it reaches, and a share of its
    // rows. Transposing matrix loads leave neighbours along k in one register, as the tensor core wants them.
    template <typename Format>
    __device__ __forceinline__ static void hold_step(u32 raw_tile, u32 scale_tile, u32 weights, int thread) {
        constexpr int SHARES = HELD ? DECODE_WARPS / 4 : 1;
        constexpr int BLOCK_DEPTH = 16 * Format::K_PER_ROW;
        const int lane = thread % 32, warp = thread / 32;
        const int quarter = (FIRST_DECODING_WARP + warp) % 4, share = warp / 4;
        weights += quarter << 21;  // 32 lanes, in the upper half of the address
        HeldScales<Format> scales{ScalePlace::of_step(scale_tile).columns_on(32 * quarter + 2 * (lane / 4)), {}};
#pragma unroll
        for (int i = 0; i < RAW_ROWS / 16 / SHARES + (RAW_ROWS / 16 % SHARES != 0); ++i) {
            const int block = i * SHARES + share;  // of 16 rows
            const bool begins_group = i == 0 || i * SHARES * BLOCK_DEPTH % GROUP_K == 0;
            if (RAW_ROWS / 16 % SHARES == 0 || block < RAW_ROWS / 16) {
                hold_block<Format>(raw_tile, scales, begins_group, weights, quarter, block, lane);
            }
        }
    }

    // The scales of a lane's two columns in each half of a warp's 32, of the group that it is at.
    template <typename Format>
    struct HeldScales {
        ScalePlace place;
        typename Format::template Scales<2> values[2];

        __device__ __forceinline__ void move_to(int half, int k) { place.columns_on(16 * half).load(values[half], k); }
    };

    // Sixteen rows of bytes. Of 4-bit weights, 16 columns are 16 bytes of a row: read as 8 pairs of columns and transposed, lane l
    // gets rows 2t and 2t + 1 (t = l % 4) of columns 2 (l / 4) and the next. Their tensor memory lanes are l / 4 and 8 below
    // (Shape::column_of), a row is a column there. Of 16-bit weights, 8 columns are 16 bytes.
    template <typename Format>
    __device__ __forceinline__ static void hold_block(u32 raw_tile, HeldScales<Format>& scales, bool begins_group, u32 weights,
                                                      int quarter, int block, int lane) {
        u32 raw[2][4];
        const int row = 16 * block + lane % 8, matrix = lane / 8;
        if constexpr (Format::K_PER_ROW == 2) {
            const u32 at = layout::swizzled<128, 16>(row + matrix / 2 * 8, 32 * quarter + matrix % 2 * 16);
            ptx::ldmatrix_x4_trans(raw[0], raw_tile + at);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                u32 words[8];
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    // Eight rows are 16 of k: the shortest group.
                    if (SCALED && (i == 0 ? begins_group : GROUP_K == 16)) scales.move_to(half, 32 * block + 16 * i);
                    u32 pairs[4];  // of the first column and the second, then in the next row
                    Format::unpack(pairs, raw[0][2 * i + half], scales.values[half], 0);
                    words[4 * i] = pairs[0], words[4 * i + 1] = pairs[2], words[4 * i + 2] = pairs[1], words[4 * i + 3] = pairs[3];
                }
                ptx::tmem_store_16x256b(weights + (half << 20) + 16 * block, words);
            }
        } else {
            const u32 panel = raw_tile + quarter / 2 * RAW_PANEL_BYTES;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const u32 at = layout::swizzled<128, 16>(row + 8 * i, quarter % 2 * 64 + 16 * matrix);
                ptx::ldmatrix_x4_trans(raw[i], panel + at);
            }
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                u32 words[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) words[i] = Format::round_pair(raw[i / 2][2 * half + i % 2]);
                ptx::tmem_store_16x128b(weights + (half << 20) + 8 * block, words);
            }
        }
    }

    // A thread decodes eight columns of a row of bytes at a time: 16 bytes of each row of bf16 they stand for. It loads several
    // such pieces before it decodes them: of the same columns, and of eight rows whose weights share scales, as many as leave no
    // thread more to do than one by one.
    __device__ __forceinline__ static void decode_step(u32 raw_tile, u32 scale_tile, u32 operand, int thread) {
        constexpr int ROW_PIECES = COLUMNS / 8, STEP = 32 * DECODE_WARPS;
        constexpr int AT_ONCE = pieces_a_thread(4) == pieces_a_thread(1) ? 4 : pieces_a_thread(2) == pieces_a_thread(1) ? 2 : 1;
        constexpr int APART = 8 / AT_ONCE, UNITS = RAW_ROWS / AT_ONCE * ROW_PIECES, PIECE_BYTES = 8 * Weights::COLUMN_BYTES;
#pragma unroll 1
        for (u32 unit = thread; unit < UNITS; unit += STEP) {
            const u32 column = unit % ROW_PIECES, line = unit / ROW_PIECES;
            const u32 first_row = line / APART * 8 + line % APART;
            u32 raw[AT_ONCE][PIECE_BYTES / 4];
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) {
                const u32 piece = (first_row + i * APART) * ROW_PIECES + column;
                decode::load_words<PIECE_BYTES>(raw[i], raw_tile + piece * PIECE_BYTES);
            }
            typename Weights::RowScales scales;
            if constexpr (SCALED) ScalePlace::of_step(scale_tile).columns_on(8 * column).load(scales, line / APART * 16);
#pragma unroll
            for (int i = 0; i < AT_ONCE; ++i) decode_piece(raw[i], scales, operand, first_row + i * APART, column);
        }
    }

    __device__ __forceinline__ static void decode_piece(const u32 (&raw)[2 * Weights::COLUMN_BYTES],
                                                        const typename Weights::RowScales& scales, u32 operand, u32 row,
                                                        u32 piece) {
        u32 rows[Weights::K_PER_ROW][4];
        Weights::decode_rows(rows, raw, scales);
#pragma unroll
        for (int i = 0; i < Weights::K_PER_ROW; ++i) {
            constexpr u32 LINE_PIECES = B_LINE / 8;
            const u32 offset = layout::swizzled<B_LINE_BYTES, 16>(row * Weights::K_PER_ROW + i, piece % LINE_PIECES * 16);
            store_words(operand + piece / LINE_PIECES * B_PANEL_BYTES + offset, rows[i]);
        }
    }

    __device__ __forceinline__ static void store_words(u32 address, const u32 (&words)[4]) {
        ptx::store_shared(address, make_uint4(words[0], words[1], words[2], words[3]));
    }

    // Multiplies every step of every tile into the sums whose turn it is; one thread of the first program.
    __device__ __forceinline__ void multiply(u32 tensor_memory) const {
        Stage stage;
        Sums sums;
        Buffer buffer;
        const u64 a = ptx::tcgen05_operand<A_LINE_BYTES>(base + A_STAGES, 0, 8 * A_LINE_BYTES);
        const u64 b = ptx::tcgen05_operand<B_LINE_BYTES>(base + (DECODED ? OPERANDS : B_STAGES), FP8 ? 0 : B_PANEL_BYTES,
                                                         8 * B_LINE_BYTES);
        tiles.each<Role::Multiplying>([&](const scheduler::Work& work) {
            if constexpr (PROMOTED) return multiply_promoted(tensor_memory, a, b, stage, sums, work.end - work.begin);
            tiles.await_stored(sums);
            ptx::tcgen05_after_signal();
            for (int step = work.begin; step < work.end; ++step) {
                ptx::mbarrier_wait(stage.of(base + FULL), stage.parity);
                if constexpr (DECODED) ptx::mbarrier_wait(buffer.of(base + READY), buffer.parity);
                ptx::tcgen05_after_signal();
                multiply_step(tensor_memory + sums.index * SUM_STRIDE, ptx::tcgen05_advance(a, stage.index * A_BYTES),
                              ptx::tcgen05_advance(b, DECODED ? buffer.index * OPERAND_BYTES : stage.index * B_BYTES),
                              tensor_memory + WEIGHTS_AT + buffer.index * WEIGHT_COLUMNS, step > work.begin);
                ptx::tcgen05_commit<CTAS>(stage.of(base + EMPTY));
                stage.advance();
                if constexpr (DECODED) buffer.advance();
            }
            tiles.say_summed(sums);
            sums.advance();
        });
        for (int i = 0; i < SUM_TILES; ++i, sums.advance()) tiles.await_stored(sums);
    }

    // The same where sums of 128 of k come to registers one by one: each has tensor memory of its turn.
    __device__ __forceinline__ void multiply_promoted(u32 tensor_memory, u64 a, u64 b, Stage& stage, Sums& sums, int steps) const {
        for (int step = 0; step < steps; ++step) {
            ptx::mbarrier_wait(stage.of(base + FULL), stage.parity);
#pragma unroll
            for (int panel = 0; panel < BLOCK_K / LINE_K; ++panel) {
                tiles.await_stored(sums);
                ptx::tcgen05_after_signal();
                multiply_line(tensor_memory + sums.index * SUM_STRIDE, ptx::tcgen05_advance(a, stage.index * A_BYTES),
                              ptx::tcgen05_advance(b, stage.index * B_BYTES), 0, panel, false);
                tiles.say_summed(sums);
                sums.advance();
            }
            ptx::tcgen05_commit<CTAS>(stage.of(base + EMPTY));
            stage.advance();
        }
    }

    // One step: A from shared memory, the weights from there too, or from tensor memory.
    __device__ __forceinline__ static void multiply_step(u32 sums, u64 a, u64 b, u32 held, bool add) {
#pragma unroll
        for (int line = 0; line < BLOCK_K / LINE_K; ++line) multiply_line(sums, a, b, held, line, add || line > 0);
    }

    // A line of A: four instructions, each over 32 bytes of it.
    __device__ __forceinline__ static void multiply_line(u32 sums, u64 a, u64 b, u32 held, int line, bool add) {
        constexpr Major B_MAJOR = FP8 ? Major::K : Major::MN;
        constexpr u32 INSTRUCTION = ptx::tcgen05_instruction(128 * CTAS, INSTRUCTION_N, SWAPPED && !HELD ? B_MAJOR : Major::K,
                                                             SWAPPED ? Major::K : B_MAJOR, Element::IS_BF16 && !FP8);
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            const int k16 = 4 * line + part;
            const u64 a_k = ptx::tcgen05_advance(a, line * A_PANEL_BYTES + part * 32);
            const u64 b_k = ptx::tcgen05_advance(b, FP8 ? line * B_PANEL_BYTES + part * 32 : k16 * 16 * B_LINE_BYTES);
            const bool add_k = add || part > 0;
            if constexpr (FP8) {
                ptx::tcgen05_multiply_e4m3<CTAS>(sums, SWAPPED ? b_k : a_k, SWAPPED ? a_k : b_k, INSTRUCTION, add_k);
            } else if constexpr (HELD) {
                ptx::tcgen05_multiply_held<CTAS>(sums, held + 8 * k16, a_k, INSTRUCTION, add_k);
            } else if constexpr (SWAPPED) {
                ptx::tcgen05_multiply<CTAS>(sums, b_k, a_k, INSTRUCTION, add_k);
            } else {
#pragma unroll
                for (int block = 0; block < ROW_BLOCKS; ++block) {
                    const u64 rows = ptx::tcgen05_advance(a_k, block * 128 * A_LINE_BYTES);
                    ptx::tcgen05_multiply<CTAS>(sums + block * INSTRUCTION_N, rows, b_k, INSTRUCTION, add_k);
                }
            }
        }
    }

    // Stores every tile; the storing warps. `Source` is Scaling: what is left out is then not looked at either.
    template <typename Source>
    __device__ __forceinline__ void store(u32 tensor_memory, const ptx::TensorMap& c, const Source& scaling, float* partials,
                                          u32* arrivals, int thread) const {
        // What sums of decoded weights fall short of their values.
        const float factor = (HELD ? Weights::SCALE : Weights::ROWS_SCALE) * scaling.factor();
        const Storing storing{tiles, base + BOXES, factor, partials, arrivals};
        const Storer storer(thread);
        if constexpr (PROMOTED) {
            Sums sums;
            storing.each_tile(thread, [&](const scheduler::Work& work, Storing::Box& box) {
                float values[STORED_COLUMNS / 16][16] = {};
                add_up(values, TileScales<Source>(scaling, rank, work, storer), storer.lanes(tensor_memory), sums, work, storer);
                const Storer writer(ptx::opaque(thread));
#pragma unroll
                for (int column = 0; column < STORED_COLUMNS; column += CHUNK) {
                    auto& chunk = reinterpret_cast<Storing::Values&>(values[column / 16]);
                    storing.put(chunk, c, box, work, writer.first() + column, writer);
                }
                storing.finish(c, box, work, writer, thread);
            });
        } else {
            storing.store(tensor_memory, c, thread, ChunkScales<Source>{scaling, rank, storer});
        }
    }

    // The scales of a storing thread's sums.
    template <typename Source>
    struct TileScales {
        const Source& source;
        int row, column;  // of C: those of its lane, from which on the others are counted; 128 columns of a block have one scale

        __device__ __forceinline__ TileScales(const Source& source_, int rank, const scheduler::Work& work, const Storer& storer)
            : source(source_),
              row(work.tile_m * BLOCK_M + (SWAPPED ? 0 : rank * A_ROWS + 32 * storer.quarter + storer.lane)),
              column(work.tile_n * BLOCK_N + (SWAPPED && !PROMOTED ? 32 * storer.quarter + storer.lane : 0)) {}

        // Of the thread's lane, and of a column of the sums.
        __device__ __forceinline__ float of_lane(int block) const {
            return SWAPPED ? source.of_column(column, block) : source.of_row(row, block);
        }
        __device__ __forceinline__ float of_column(int sum_column, int block) const {
            return SWAPPED ? source.of_row(row + sum_column, block) : source.of_column(column + sum_column, block);
        }

        __device__ __forceinline__ void apply(Storing::Values& values, int first) const {
            const float lane = of_lane(0);
#pragma unroll
            for (int i = 0; i < CHUNK; ++i) values[i / 16][i % 16] *= lane * of_column(first + i, 0);
        }
    };

    // What a chunk of sums is multiplied by where rows and columns of E4M3 have scales.
    template <typename Source>
    struct ChunkScales {
        const Source& source;
        int rank;
        Storer storer;

        __device__ __forceinline__ void apply(const scheduler::Work& work, Storing::Values& values, int column) const {
            if constexpr (FP8) TileScales<Source>(source, rank, work, storer).apply(values, column);
        }
    };

    // Scales that a thread has read ahead, of 128 of k each: its lane's, and those of the columns that it fetches for its warp; columns
    // of C, which are in one block, have one.
    struct BlockScales {
        static constexpr int FETCHED = SWAPPED ? (INSTRUCTION_N + 31) / 32 : 1;
        float lane, columns[FETCHED];

        template <typename Scales>
        __device__ __forceinline__ void fetch(const Scales& scales, const Storer& storer, int block) {
            lane = scales.of_lane(block);
#pragma unroll
            for (int i = 0; i < FETCHED; ++i) {
                columns[i] = scales.of_column(SWAPPED ? storer.lane + 32 * i : storer.first(), block);
            }
        }
    };

    // Adds up a tile's sums of 128 of k each, by their scales, in registers.
    template <typename Scales>
    __device__ __forceinline__ void add_up(float (&totals)[STORED_COLUMNS / 16][16], const Scales& scales, u32 lanes, Sums& sums,
                                           const scheduler::Work& work, const Storer& storer) const {
        const int begin = work.begin * (BLOCK_K / 128), end = work.end * (BLOCK_K / 128);
        const u32 row_scales = base + ROW_SCALES + storer.warp * 4 * INSTRUCTION_N;
        constexpr int AHEAD = BlockScales::FETCHED > 2 ? 2 : 4;
        BlockScales ahead[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) ahead[i].fetch(scales, storer, begin + i);
#pragma unroll 1
        for (int first = begin; first < end; first += AHEAD) {
#pragma unroll
            for (int i = 0; i < AHEAD; ++i) {
                if (first + i >= end) break;
                const float scale = ahead[i].lane * (SWAPPED ? 1 : ahead[i].columns[0]);
                if constexpr (SWAPPED) {
                    __syncwarp();  // the warp has read the last ones
#pragma unroll
                    for (int f = 0; f < BlockScales::FETCHED; ++f) {
                        const int column = storer.lane + 32 * f;
                        if (column < INSTRUCTION_N) {
                            ptx::store_shared(row_scales + 4 * column, __float_as_uint(scale * ahead[i].columns[f]));
                        }
                    }
                }
                ahead[i].fetch(scales, storer, first + i + AHEAD);
                tiles.await_summed(sums);
                ptx::tcgen05_after_signal();
                add_block<scheduler::smaller(CHUNK, 32)>(totals, lanes + sums.index * SUM_STRIDE + storer.first(), scale, row_scales, sums);
                sums.advance();
            }
        }
    }

    // One of them, so many columns at a time.
    template <int WIDTH>
    __device__ __forceinline__ void add_block(float (&totals)[STORED_COLUMNS / 16][16], u32 tile, float scale, u32 row_scales,
                                              const Sums& sums) const {
#pragma unroll
        for (int column = 0; column < STORED_COLUMNS; column += WIDTH) {
            float values[WIDTH / 16][16];
            __syncwarp();
#pragma unroll
            for (int i = 0; i < WIDTH / 16; ++i) ptx::tmem_load(values[i], tile + column + 16 * i);
            ptx::tmem_wait(values);
            if (column == STORED_COLUMNS - WIDTH) tiles.say_stored(sums);
#pragma unroll
            for (int i = 0; i < WIDTH; i += 4) {
                float4 by = {scale, scale, scale, scale};
                if constexpr (SWAPPED) by = ptx::load_shared_f32x4(row_scales + 4 * (column + i));
                float* total = totals[(column + i) / 16] + i % 16;
                const float* value = values[i / 16] + i % 16;
                total[0] += by.x * value[0], total[1] += by.y * value[1], total[2] += by.z * value[2], total[3] += by.w * value[3];
            }
        }
    }
};

__device__ __forceinline__ void init_barriers(const Program& program) {
    const u32 base = program.base;
    for (int stage = 0; stage < NUM_STAGES; ++stage) {
        ptx::mbarrier_init(base + FULL + 8 * stage, 1);
        ptx::mbarrier_init(base + EMPTY + 8 * stage, 1);
        if (DECODED) ptx::mbarrier_init(base + RAW + 8 * stage, 1);
    }
    for (int buffer = 0; buffer < BUFFERS; ++buffer) ptx::mbarrier_init(base + READY + 8 * buffer, CTAS * DECODE_WARPS);
    program.tiles.init_barriers<Shape>(DECODE_WARPS);
    ptx::fence_mbarrier_init();
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
gemm_tcgen05(const __grid_constant__ ptx::TensorMap a, const __grid_constant__ ptx::TensorMap b,
             const __grid_constant__ ptx::TensorMap c, float* partials, u32* arrivals, int tiles_m, int tiles_n, int k_steps,
             int group_m, int split_k, int stride, int span SCALE_PARAMETERS) {
    const int thread = threadIdx.x, warp = thread / 32;
    const u32 base = ptx::shared_address(smem);
    const int rank = CTAS == 1 ? 0 : static_cast<int>(ptx::cluster_rank());
    const scheduler::Schedule schedule{tiles_m, tiles_n, k_steps, group_m, split_k};
    const int first = scheduler::work_begin(blockIdx.x / CTAS, stride, span);
    const int end = scheduler::work_end(first, span, schedule.size());
    const Program program{base, rank, {base + TILES, rank, schedule, first, end, stride}};
    const Scaling scaling SCALE_ARGUMENTS;

    if (CTAS > 1) tcgen05_gemm::sync_all<CTAS>();  // the other program is there to allocate with
    if (warp == COPYING_WARP && ptx::elect_one()) {
        ptx::prefetch_map(a);
        ptx::prefetch_map(b);
        ptx::prefetch_map(c);
        prefetch_scales(scaling);
        init_barriers(program);
    }
    __syncwarp();
    if (warp == MULTIPLYING_WARP) ptx::tmem_allocate<CTAS, TMEM_COLUMNS>(base + TENSOR_MEMORY);
    __syncwarp();
    ptx::tcgen05_before_signal();
    tcgen05_gemm::sync_all<CTAS>();
    ptx::tcgen05_after_signal();
    const u32 tensor_memory = ptx::load_shared(base + TENSOR_MEMORY);

    if (warp < COPYING_WARP || (STORERS > 1 && warp >= FIRST_OTHER_STORER)) {
        if constexpr (HANDS_OVER) ptx::take_registers<232>();
        program.store(tensor_memory, c, scaling, partials, arrivals, thread);
    } else {
        if constexpr (HANDS_OVER) ptx::release_registers<40>();
        if (warp == COPYING_WARP) {
            if (ptx::elect_one()) program.copy(a, b, scaling);
        } else if (warp == MULTIPLYING_WARP) {
            if (rank == 0 && ptx::elect_one()) program.multiply(tensor_memory);
        } else if constexpr (DECODED) {
            program.decode_all(tensor_memory, thread - 32 * FIRST_DECODING_WARP);
        }
    }
    __syncwarp();
    ptx::tcgen05_before_signal();
    tcgen05_gemm::sync_all<CTAS>();
    ptx::tcgen05_after_signal();
    if (warp == MULTIPLYING_WARP) ptx::tmem_free<CTAS, TMEM_COLUMNS>(tensor_memory);
}
