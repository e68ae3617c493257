// C[m, n] = (A · scales)[m, k] · (B · scales)[k, n], both of numbers with a scale for each group along k, with tcgen05's block-scaled
// products and f32 sums in tensor memory. Needs sm_100a.
//
// THIS KERNEL HAS NEVER RUN ON A GPU. It compiles; its encodings were checked against the PTX manual and public kernels, its
// addresses and barriers on a model of the hardware (tests/gpu_model/). That it is right rests on the comparison with the
// reference before anything is timed.
//
// A   E2M1 [m, k / 2], two a byte along k, low nibble first, or E4M3 [m, k]
// B   likewise [n, k / 2] or [n, k]: its columns one after the other, k along each
// C   [m, n] in DTYPE
// a_scales, b_scales   of the rows of A and of the columns of B, in blocks of 128 x 4 (block_scaled.cuh). What pads them is no NaN.
// a_factor, b_factor   f32, a factor of all of A and of all of B; null for none
// All are contiguous, A, B and C row-major, their rows multiples of 16 bytes: the copy engine fills what lies beyond with zeros.
//
// Macros
//   BLOCK_M, BLOCK_N, BLOCK_K   the tile, in rows of C, columns of C and elements of k
//                               BLOCK_M 128, or 256 with a pair of programs, each with half the rows and half the columns of B: its
//                               rows are the instruction's M; BLOCK_N 128 or 256
//                               BLOCK_M 64, or 16 or 32 where there are no more rows than that: the columns are the instruction's M,
//                               the rows its N; BLOCK_N 128, or 256 with a pair, each with half the columns and half the rows of A;
//                               BLOCK_M from 32 then
//                               BLOCK_K 128 or 256 bytes of a row
//   NUM_STAGES                  tiles of A and B in shared memory, and of their scales there and in tensor memory, at once; from 2
//   DTYPE                       the type of C: bf16 or f16
//   FORMAT                      of A and B: Nvfp4 or Mxfp8 (block_scaled.cuh)
//   SUM_TILES                   tiles whose sums are in tensor memory at once: 2, so that one is multiplied while the other is
//                               stored, or 1
// Sums, the scales of all stages and what a power of two adds must fit 512 columns.
//
// Launch: 192 threads along x, SMEM_BYTES of dynamic shared memory, programs (pairs in clusters of 2) along x. A line is 64, 32 or 16
// columns, the widest that the columns in question are a multiple of; it is swizzled by its bytes. Tensor maps: A and B in tiles of
// a program's rows (of B, columns) x 128 bytes, swizzled by 128; scales as bytes of three extents, 256, two for each block along k,
// and blocks of rows, in tiles of a step's, not swizzled: of the instruction's M one block of rows, of its N as many as it has; C in
// tiles of 32 x a line of BLOCK_N, swizzled, or, where columns are the instruction's M, of a line of BLOCK_M, in rows, x 32, not
// swizzled. The work and its order (scheduler.cuh) are arguments:
//   partials                    split_k > 1: BLOCK_M * BLOCK_N floats for each tile and part of k
//   arrivals                    split_k > 1: one zero for each tile and program of it; zero again at the end
//   tiles_m, tiles_n, k_steps, group_m, split_k, stride, span    as in gemm_tcgen05.cu, where a stride of 0 is cluster launch control
//
// Who does what: warps 0 ... 3 take sums from tensor memory to C, each its 32 lanes; warp 4 copies, and asks for the next tile
// where the hardware deals them out; warp 5 owns the tensor memory, has scales copied there and multiplies, in a pair the first
// program's for both.
//
// Barriers (arrivals a phase; each wait is for the phase of that step or tile, unless said otherwise):
//   full[stage]     1 and the bytes of A, B and their scales of the whole pair, at the pair's first program; awaited to multiply
//   empty[stage]    1, by commit, at both programs, when a step's products are done; awaited to copy over the stage (the phase before)
//   summed, stored, answered, taken    as in tcgen05_gemm.cuh
// A product reads the scales that were copied to tensor memory by the same thread before it; that a copy waits for a product before
// it is promised by nobody. So each stage has its own columns for scales: whoever waited for `full` knows, through the thread that
// waited for `empty` to fill it again, that the products on what was there are done.
//
// Floor: A, B and their scales once, 2 m n bytes of C, 2 m n k operations. On paper, and never measured: NVFP4 9 PFLOP/s and MXFP8
// 4.5 on 148 multiprocessors at 1.85 GHz, 8 TB/s; shared memory moves 128 bytes a cycle. 128 bytes of k of a pair's 256 x 256, either
// format: products 512 cycles of one multiprocessor; shared memory 256 to copy A and B there, 256 to read them, and twice 48 for the
// scales of NVFP4, twice 12 for those of MXFP8. So shared memory is what bounds it, 608 and 536 cycles, not by much.

#include "block_scaled.cuh"
#include "halves.cuh"
#include "tcgen05_gemm.cuh"
#include "tcgen05_scaled.cuh"

#if !defined(BLOCK_M) || !defined(BLOCK_N) || !defined(BLOCK_K)
#error "BLOCK_M, BLOCK_N and BLOCK_K must be defined: the tile, in elements"
#endif
#if !defined(NUM_STAGES) || !defined(SUM_TILES)
#error "NUM_STAGES and SUM_TILES must be defined: tiles in flight, and tiles of sums in tensor memory"
#endif
#if !defined(DTYPE) || !defined(FORMAT)
#error "DTYPE and FORMAT must be defined: the type of C, bf16 or f16, and of A and B, Nvfp4 or Mxfp8"
#endif

namespace {

using ptx::u32;
using ptx::u64;
using tcgen05_gemm::Role;
using Format = block_scaled::FORMAT;

constexpr bool IS_E2M1 = Format::K_PER_BYTE == 2;
constexpr int K_BYTES = BLOCK_K / Format::K_PER_BYTE;
constexpr int LINE_BYTES = 128, LINES = K_BYTES / LINE_BYTES;
constexpr int PRODUCT_BYTES = 32, PRODUCTS = LINE_BYTES / PRODUCT_BYTES;  // along k, of a line

// The tile as sums and their way to C have it. The instruction's rows are its first operand's, its columns the second's.
struct Shape {
    using Element = halves::DTYPE;
    static constexpr int M = BLOCK_M, N = BLOCK_N;
    static constexpr bool SWAPPED = BLOCK_M < 128;  // columns of C are the instruction's rows
    static constexpr int CTAS = (SWAPPED ? BLOCK_N : BLOCK_M) / 128;
    static constexpr int INSTRUCTION_N = SWAPPED ? BLOCK_M : BLOCK_N;
    static constexpr int ROW_BLOCKS = 1, STORERS = 1;
    static constexpr int TILES = SUM_TILES;

    __device__ __forceinline__ static int column_of(int lane) { return lane; }
};

constexpr bool SWAPPED = Shape::SWAPPED;
constexpr int CTAS = Shape::CTAS;
constexpr int INSTRUCTION_N = Shape::INSTRUCTION_N;

static_assert(SWAPPED ? BLOCK_M == 16 || BLOCK_M == 32 || BLOCK_M == 64 : BLOCK_M == 128 || BLOCK_M == 256, "BLOCK_M: 16 ... 256");
static_assert(BLOCK_N == 128 || BLOCK_N == 256, "BLOCK_N: 128 or 256");
static_assert(INSTRUCTION_N >= 16 * CTAS, "BLOCK_M: from 32 beside 256 columns");
static_assert(K_BYTES == 128 || K_BYTES == 256, "BLOCK_K: 128 or 256 bytes of a row");
static_assert(NUM_STAGES >= 2, "NUM_STAGES: from 2");

// One program's part of a stage. An operand's lines are panels one after the other; its scales are blocks, those along k next to
// each other, then those of the next 128 rows.
constexpr int FIRST_ROWS = 128, SECOND_ROWS = INSTRUCTION_N / CTAS;
constexpr int FIRST_PANEL = FIRST_ROWS * LINE_BYTES, SECOND_PANEL = SECOND_ROWS * LINE_BYTES;
constexpr int FIRST_BYTES = LINES * FIRST_PANEL, SECOND_BYTES = LINES * SECOND_PANEL;
constexpr int K_BLOCKS = BLOCK_K / (block_scaled::BLOCK_GROUPS * Format::GROUP);  // of scales, of a step
constexpr int SECOND_BLOCKS = INSTRUCTION_N > 128 ? INSTRUCTION_N / 128 : 1;      // along the rows
constexpr int FIRST_SCALES = K_BLOCKS * block_scaled::BLOCK_BYTES;
constexpr int SECOND_SCALES = SECOND_BLOCKS * FIRST_SCALES;
constexpr int STAGE_BYTES = FIRST_BYTES + SECOND_BYTES + FIRST_SCALES + SECOND_SCALES;

// Columns of tensor memory: sums, then the scales of each stage, for each block along k four of the first operand and then those of
// the second.
constexpr int BLOCK_COLUMNS = 4;
constexpr int K_BLOCK_COLUMNS = (1 + SECOND_BLOCKS) * BLOCK_COLUMNS;
constexpr int SCALE_COLUMNS = K_BLOCKS * K_BLOCK_COLUMNS;
constexpr int SCALES_AT = SUM_TILES * tcgen05_gemm::sum_stride<Shape>();
constexpr int TMEM_COLUMNS = tcgen05_gemm::power_of_two_from(32, SCALES_AT + NUM_STAGES * SCALE_COLUMNS);

constexpr int FIRST_STAGES = 0;
constexpr int SECOND_STAGES = FIRST_STAGES + NUM_STAGES * FIRST_BYTES;
constexpr int FIRST_SCALE_STAGES = SECOND_STAGES + NUM_STAGES * SECOND_BYTES;
constexpr int SECOND_SCALE_STAGES = FIRST_SCALE_STAGES + NUM_STAGES * FIRST_SCALES;
constexpr int BOXES = (SECOND_SCALE_STAGES + NUM_STAGES * SECOND_SCALES + 1023) / 1024 * 1024;
constexpr int TILES = BOXES + tcgen05_gemm::boxes_bytes<Shape>();  // barriers and answers (tcgen05_gemm.cuh)
constexpr int FULL = TILES + tcgen05_gemm::TILES_BYTES;
constexpr int EMPTY = FULL + 8 * NUM_STAGES;
constexpr int TENSOR_MEMORY = TILES + tcgen05_gemm::TENSOR_MEMORY;  // its address
constexpr int SMEM_BYTES = EMPTY + 8 * NUM_STAGES;

constexpr int COPYING_WARP = 4, MULTIPLYING_WARP = 5;
constexpr int THREADS = 192;

// Programs a multiprocessor is to hold at once: what its shared memory allows (228 KiB, 1 of them lost to each program), but no more
// than leave each thread 104 registers, which those that store 64 columns at a time need.
constexpr int BY_SMEM = 228 * 1024 / (SMEM_BYTES + 1024);
constexpr int RESIDENT = scheduler::smaller(BY_SMEM, 65536 / (THREADS * 104));

static_assert(FIRST_PANEL % 1024 == 0 && SECOND_PANEL % 1024 == 0, "the swizzle repeats every 1024 bytes");
static_assert(SUM_TILES == 1 || SUM_TILES == 2, "SUM_TILES: 1 or 2");
static_assert(TMEM_COLUMNS <= 512, "sums and scales exceed the tensor memory");
static_assert(SMEM_BYTES <= 227 * 1024, "the stages exceed the shared memory of a program");

extern __shared__ __align__(1024) unsigned char smem[];

using Stage = tcgen05_gemm::Place<NUM_STAGES>;
using Sums = tcgen05_gemm::Place<SUM_TILES>;

// The work of one program, or of a pair.
struct Program {
    u32 base;  // of the shared memory
    tcgen05_gemm::Tiles<CTAS> tiles;

    // Copies the operands of every step and their scales; one thread.
    __device__ __forceinline__ void copy(const ptx::TensorMap& first, const ptx::TensorMap& second,
                                         const ptx::TensorMap& first_scales, const ptx::TensorMap& second_scales) const {
        Stage stage;
        tiles.each<Role::Copying>([&](const scheduler::Work& work) {
            const int row = work.tile_m * BLOCK_M, column = work.tile_n * BLOCK_N;
            const int first_row = (SWAPPED ? column : row) + tiles.rank * FIRST_ROWS;
            const int second_tile = SWAPPED ? row : column, second_row = second_tile + tiles.rank * SECOND_ROWS;
            for (int step = work.begin; step < work.end; ++step, stage.advance()) {
                ptx::mbarrier_wait(stage.of(base + EMPTY), stage.parity ^ 1);
                const u32 full = stage.of(base + FULL);
                if (tiles.rank == 0) ptx::mbarrier_arrive_expect(full, CTAS * STAGE_BYTES);
#pragma unroll
                for (int line = 0; line < LINES; ++line) {
                    const int k = step * K_BYTES + line * LINE_BYTES;
                    ptx::tma_load_first<CTAS>(base + FIRST_STAGES + stage.index * FIRST_BYTES + line * FIRST_PANEL, first, full, k,
                                              first_row);
                    ptx::tma_load_first<CTAS>(base + SECOND_STAGES + stage.index * SECOND_BYTES + line * SECOND_PANEL, second, full,
                                              k, second_row);
                }
                ptx::tma_load_first<CTAS>(base + FIRST_SCALE_STAGES + stage.index * FIRST_SCALES, first_scales, full, 0,
                                          2 * K_BLOCKS * step, first_row / block_scaled::BLOCK_ROWS);
                ptx::tma_load_first<CTAS>(base + SECOND_SCALE_STAGES + stage.index * SECOND_SCALES, second_scales, full, 0,
                                          2 * K_BLOCKS * step, second_tile / block_scaled::BLOCK_ROWS);
            }
        });
        for (int i = 0; i < NUM_STAGES; ++i, stage.advance()) ptx::mbarrier_wait(stage.of(base + EMPTY), stage.parity ^ 1);
    }

    // Multiplies every step of every tile into the sums whose turn it is; one thread of the first program.
    __device__ __forceinline__ void multiply(u32 tensor_memory) const {
        Stage stage;
        Sums sums;
        const u64 first = ptx::tcgen05_operand<LINE_BYTES>(base + FIRST_STAGES, 0, 8 * LINE_BYTES);
        const u64 second = ptx::tcgen05_operand<LINE_BYTES>(base + SECOND_STAGES, 0, 8 * LINE_BYTES);
        const u64 first_scales = ptx::tcgen05_scales(base + FIRST_SCALE_STAGES);
        const u64 second_scales = ptx::tcgen05_scales(base + SECOND_SCALE_STAGES);
        tiles.each<Role::Multiplying>([&](const scheduler::Work& work) {
            // Fewer rows than a block of scales begin at a column of their own.
            const int second_tile = SWAPPED ? work.tile_m * BLOCK_M : 0;
            const u32 first_column = second_tile % block_scaled::BLOCK_ROWS / 32;
            tiles.await_stored(sums);
            ptx::tcgen05_after_signal();
            for (int step = work.begin; step < work.end; ++step) {
                ptx::mbarrier_wait(stage.of(base + FULL), stage.parity);
                ptx::tcgen05_after_signal();
                const u32 scales = tensor_memory + SCALES_AT + stage.index * SCALE_COLUMNS;
                copy_scales(scales, ptx::tcgen05_advance(first_scales, stage.index * FIRST_SCALES),
                            ptx::tcgen05_advance(second_scales, stage.index * SECOND_SCALES));
                multiply_step(tensor_memory + sums.index * tcgen05_gemm::sum_stride<Shape>(),
                              ptx::tcgen05_advance(first, stage.index * FIRST_BYTES),
                              ptx::tcgen05_advance(second, stage.index * SECOND_BYTES), scales,
                              scales + BLOCK_COLUMNS + first_column, step > work.begin);
                ptx::tcgen05_commit<CTAS>(stage.of(base + EMPTY));
                stage.advance();
            }
            tiles.say_summed(sums);
            sums.advance();
        });
        for (int i = 0; i < SUM_TILES; ++i, sums.advance()) tiles.await_stored(sums);
    }

    // A step's scales, from the stage in shared memory to that in tensor memory.
    __device__ __forceinline__ static void copy_scales(u32 scales, u64 first, u64 second) {
#pragma unroll
        for (int block = 0; block < K_BLOCKS; ++block) {
            const u32 to = scales + block * K_BLOCK_COLUMNS;
            ptx::tcgen05_copy_scales<CTAS>(to, ptx::tcgen05_advance(first, block * block_scaled::BLOCK_BYTES));
#pragma unroll
            for (int rows = 0; rows < SECOND_BLOCKS; ++rows) {
                const int from = (rows * K_BLOCKS + block) * block_scaled::BLOCK_BYTES;
                ptx::tcgen05_copy_scales<CTAS>(to + (1 + rows) * BLOCK_COLUMNS, ptx::tcgen05_advance(second, from));
            }
        }
    }

    // One step, 32 bytes of k at a time: of E2M1 with a block of scales each, of E4M3 with a byte of one.
    __device__ __forceinline__ static void multiply_step(u32 sums, u64 first, u64 second, u32 first_scales, u32 second_scales,
                                                         bool add) {
#pragma unroll
        for (int product = 0; product < LINES * PRODUCTS; ++product) {
            const int line = product / PRODUCTS, within = product % PRODUCTS;
            const u32 instruction =
                ptx::tcgen05_scaled_instruction(128 * CTAS, INSTRUCTION_N, IS_E2M1, IS_E2M1 ? 0 : within);
            const u32 columns = (IS_E2M1 ? product : line) * K_BLOCK_COLUMNS;
            ptx::tcgen05_multiply_scaled<CTAS, IS_E2M1>(
                sums, ptx::tcgen05_advance(first, line * FIRST_PANEL + within * PRODUCT_BYTES),
                ptx::tcgen05_advance(second, line * SECOND_PANEL + within * PRODUCT_BYTES), instruction, first_scales + columns,
                second_scales + columns, add || product > 0);
        }
    }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
gemm_block_scaled_tcgen05(const __grid_constant__ ptx::TensorMap a, const __grid_constant__ ptx::TensorMap b,
                          const __grid_constant__ ptx::TensorMap a_scales, const __grid_constant__ ptx::TensorMap b_scales,
                          const __grid_constant__ ptx::TensorMap c, const float* a_factor, const float* b_factor, float* partials,
                          u32* arrivals, int tiles_m, int tiles_n, int k_steps, int group_m, int split_k, int stride, int span) {
    const int thread = threadIdx.x, warp = thread / 32;
    const u32 base = ptx::shared_address(smem);
    const int rank = CTAS == 1 ? 0 : static_cast<int>(ptx::cluster_rank());
    const scheduler::Schedule schedule{tiles_m, tiles_n, k_steps, group_m, split_k};
    const int first = scheduler::work_begin(blockIdx.x / CTAS, stride, span);
    const int end = scheduler::work_end(first, span, schedule.size());
    const Program program{base, {base + TILES, rank, schedule, first, end, stride}};

    if (CTAS > 1) tcgen05_gemm::sync_all<CTAS>();  // the other program is there to allocate with
    if (warp == COPYING_WARP && ptx::elect_one()) {
        ptx::prefetch_map(a);
        ptx::prefetch_map(b);
        ptx::prefetch_map(a_scales);
        ptx::prefetch_map(b_scales);
        ptx::prefetch_map(c);
        for (int stage = 0; stage < NUM_STAGES; ++stage) {
            ptx::mbarrier_init(base + FULL + 8 * stage, 1);
            ptx::mbarrier_init(base + EMPTY + 8 * stage, 1);
        }
        program.tiles.init_barriers<Shape>(0);
        ptx::fence_mbarrier_init();
    }
    __syncwarp();
    if (warp == MULTIPLYING_WARP) ptx::tmem_allocate<CTAS, TMEM_COLUMNS>(base + TENSOR_MEMORY);
    __syncwarp();
    ptx::tcgen05_before_signal();
    tcgen05_gemm::sync_all<CTAS>();
    ptx::tcgen05_after_signal();
    const u32 tensor_memory = ptx::load_shared(base + TENSOR_MEMORY);

    if (warp < COPYING_WARP) {
        const float factor = (a_factor == nullptr ? 1.0f : *a_factor) * (b_factor == nullptr ? 1.0f : *b_factor);
        const tcgen05_gemm::Storing<Shape> storing{program.tiles, base + BOXES, factor, partials, arrivals};
        storing.store(tensor_memory, c, thread, tcgen05_gemm::NoScales{});
    } else if (warp == COPYING_WARP) {
        if (ptx::elect_one()) {
            if constexpr (SWAPPED) {
                program.copy(b, a, b_scales, a_scales);
            } else {
                program.copy(a, b, a_scales, b_scales);
            }
        }
    } else if (rank == 0 && ptx::elect_one()) {
        program.multiply(tensor_memory);
    }
    __syncwarp();
    ptx::tcgen05_before_signal();
    tcgen05_gemm::sync_all<CTAS>();
    ptx::tcgen05_after_signal();
    if (warp == MULTIPLYING_WARP) ptx::tmem_free<CTAS, TMEM_COLUMNS>(tensor_memory);
}
