// C[m, n] = (A · scales)[m, k] · (B · scales)[k, n], both of numbers with a scale for each group along k, with mma.sync on decoded f16
// and f32 sums. Needs sm_80. Blackwell multiplies these formats itself (gemm_block_scaled_tcgen05.cu): here it is other GPUs that
// are to have the same families, whose references and plans they so prove.
//
// A   E2M1 [m, k / 2], two a byte along k, low nibble first (k even), or E4M3 [m, k]
// B   likewise [n, k / 2] or [n, k]: its columns one after the other, k along each
// C   [m, n] in DTYPE
// a_scales, b_scales   of the rows of A and of the columns of B, in blocks of 128 x 4 (block_scaled.cuh)
// a_factor, b_factor   f32, a factor of all of A and of all of B; null for none
// All are contiguous, A, B and C row-major, and begin 16-byte aligned. Rows are below 2^31 bytes.
//
// Numbers become f16 exactly, and so do their products in f32. A group's are summed alone; its sum times both scales goes to the sums
// in f32. So no scale is rounded, and none is too large or too small for f16.
//
// Macros
//   BLOCK_M, BLOCK_N            rows of C, columns of C; powers of two from 16, 32, up to 128
//   BLOCK_K                     elements of k; a power of two, whole blocks of scales: from 64 (Nvfp4) or 128 (Mxfp8)
//   NUM_WARPS                   warps of a program; a power of two
//   NUM_STAGES                  tiles of A and B in shared memory at once; from 2
//   DTYPE                       the type of C: bf16 or f16
//   FORMAT                      of A and B: Nvfp4 or Mxfp8 (block_scaled.cuh)
//   K_VECTOR_BYTES              bytes of one copy of A and B: 16, 8, 4, 2 or 1; divides the bytes of a row
//   C_VECTOR_BYTES              bytes of one store of C: 16, 8, 4 or 2; divides the bytes of a row
//
// Launch: 32 * NUM_WARPS threads along x, SMEM_BYTES of dynamic shared memory, programs along x. The work and its order
// (scheduler.cuh) are arguments:
//   tiles_m, tiles_n, k_steps, group_m, stride, span    as in gemm.cu, each tile with all of k
//
// Floor: each of A, B, C and the scales once through memory, and 2 m n k FLOPs. Never measured. What bounds it is arithmetic beside the
// tensor cores: a multiply-add in f32 for each element of C and group, which is one for 16 or 32 of k.

#include "block_scaled.cuh"
#include "halves.cuh"
#include "layout.cuh"
#include "ptx.cuh"
#include "scheduler.cuh"

#if !defined(BLOCK_M) || !defined(BLOCK_N) || !defined(BLOCK_K)
#error "BLOCK_M, BLOCK_N and BLOCK_K must be defined: the tile, in elements"
#endif
#if !defined(NUM_WARPS) || !defined(NUM_STAGES)
#error "NUM_WARPS and NUM_STAGES must be defined: warps of a program, and tiles in flight"
#endif
#if !defined(DTYPE) || !defined(FORMAT)
#error "DTYPE and FORMAT must be defined: the type of C, bf16 or f16, and of A and B, Nvfp4 or Mxfp8"
#endif
#if !defined(K_VECTOR_BYTES) || !defined(C_VECTOR_BYTES)
#error "K_VECTOR_BYTES and C_VECTOR_BYTES must be defined: bytes of one copy and one store, by the alignment of the rows"
#endif

namespace {

using ptx::u16;
using ptx::u32;
using i64 = long long;
using byte = unsigned char;
using Element = halves::DTYPE;
using Format = block_scaled::FORMAT;
using scheduler::power_of_two;

constexpr int BLOCK_K_OF_SCALES = block_scaled::BLOCK_GROUPS * Format::GROUP;
constexpr int SCALE_BLOCKS = BLOCK_K / BLOCK_K_OF_SCALES;  // of a step

static_assert(power_of_two(BLOCK_M) && BLOCK_M >= 16 && BLOCK_M <= 128, "BLOCK_M must be a power of two from 16 to 128");
static_assert(power_of_two(BLOCK_N) && BLOCK_N >= 32 && BLOCK_N <= 128, "BLOCK_N must be a power of two from 32 to 128");
static_assert(power_of_two(BLOCK_K) && SCALE_BLOCKS >= 1, "BLOCK_K must be a power of two, from a block of scales on");
static_assert(power_of_two(NUM_WARPS) && NUM_WARPS * 16 * 32 <= BLOCK_M * BLOCK_N, "NUM_WARPS: a warp's tile is at least 16 x 32");
static_assert(NUM_STAGES >= 2, "NUM_STAGES must be at least 2");
static_assert(power_of_two(K_VECTOR_BYTES) && K_VECTOR_BYTES <= 16, "K_VECTOR_BYTES: 1 ... 16");
static_assert(power_of_two(C_VECTOR_BYTES) && C_VECTOR_BYTES >= 2 && C_VECTOR_BYTES <= 16, "C_VECTOR_BYTES: 2 ... 16");

constexpr int THREADS = 32 * NUM_WARPS;
constexpr int WARPS_N = scheduler::smaller(NUM_WARPS, BLOCK_N / 32);
constexpr int WARPS_M = NUM_WARPS / WARPS_N;
constexpr int WARP_M = BLOCK_M / WARPS_M;
constexpr int WARP_N = BLOCK_N / WARPS_N;
constexpr int TILES_M = WARP_M / 16;   // m16 tiles of a warp
constexpr int GROUPS_N = WARP_N / 32;  // 32-column groups of a warp, four n8 tiles each
constexpr int FRAGMENTS = TILES_M * GROUPS_N * 4;
using Accumulators = float[FRAGMENTS][4];

// Rows in shared memory lie 16 bytes apart, so that eight of them begin at different banks.
constexpr int ROW_BYTES = BLOCK_K / Format::K_PER_BYTE;
constexpr int PITCH = ROW_BYTES + 16;
constexpr int STEP_BYTES = 16 / Format::K_PER_BYTE;  // of a row, for 16 of k
constexpr int LANE_BYTES = STEP_BYTES / 4;           // of those, a lane's four numbers

constexpr int A_BYTES = BLOCK_M * PITCH;
constexpr int B_BYTES = BLOCK_N * PITCH;
constexpr int A_SCALES = A_BYTES + B_BYTES;  // four bytes a row, block after block
constexpr int B_SCALES = A_SCALES + SCALE_BLOCKS * BLOCK_M * 4;
constexpr int STAGE_BYTES = B_SCALES + SCALE_BLOCKS * BLOCK_N * 4;
constexpr int SMEM_BYTES = NUM_STAGES * STAGE_BYTES;

// As many as leave each thread registers for its sums, its operands and its addresses.
constexpr int REGISTERS = FRAGMENTS * 4 <= 32 ? 168 : 256;
constexpr int BY_SMEM = 228 * 1024 / (SMEM_BYTES + 1024);
constexpr int BY_REGISTERS = 65536 / (THREADS * REGISTERS);
constexpr int RESIDENT = scheduler::smaller(BY_SMEM, BY_REGISTERS);

static_assert(STAGE_BYTES % 16 == 0, "stages begin 16-byte aligned");
static_assert(SMEM_BYTES <= 227 * 1024, "the stages exceed the shared memory of every GPU");

extern __shared__ __align__(1024) byte smem[];

// Copies rows of a step; what lies outside the matrix becomes zero.
template <int ROWS>
__device__ __forceinline__ void copy_rows(u32 shared, const byte* matrix, int rows, int row_bytes, int first_row, int first_byte,
                                          int thread) {
    constexpr int ROW_VECTORS = ROW_BYTES / K_VECTOR_BYTES;
    constexpr int UNROLL = K_VECTOR_BYTES >= 4 ? 8 : 4;
#pragma unroll UNROLL
    for (int i = thread; i < ROWS * ROW_VECTORS; i += THREADS) {
        const int row = i / ROW_VECTORS, at = i % ROW_VECTORS * K_VECTOR_BYTES;
        const bool inside = first_row + row < rows && first_byte + at < row_bytes;
        const byte* global = matrix + static_cast<i64>(first_row + row) * row_bytes + first_byte + at;
        const u32 to = shared + row * PITCH + at;
        if constexpr (K_VECTOR_BYTES >= 4) {
            ptx::cp_async<K_VECTOR_BYTES>(to, global, inside ? K_VECTOR_BYTES : 0);
        } else if constexpr (K_VECTOR_BYTES == 2) {
            ptx::store_shared(to, inside ? *reinterpret_cast<const u16*>(global) : u16{0});
        } else {
            ptx::store_shared(to, inside ? *global : byte{0});
        }
    }
}

// Copies the scales of these rows, four bytes each and block of k. All rows of the tile are in one block of rows.
template <int ROWS>
__device__ __forceinline__ void copy_scales(u32 shared, const byte* scales, int blocks, int first_row, int first_block,
                                            int thread) {
    const byte* of_rows = scales + static_cast<i64>(first_row / block_scaled::BLOCK_ROWS) * blocks * block_scaled::BLOCK_BYTES;
#pragma unroll 4
    for (int i = thread; i < SCALE_BLOCKS * ROWS; i += THREADS) {
        const int block = first_block + i / ROWS, row = first_row + i % ROWS;
        const i64 at = static_cast<i64>(block) * block_scaled::BLOCK_BYTES + block_scaled::row_in_block(row);
        ptx::cp_async<4>(shared + i * 4, of_rows + at, block < blocks ? 4 : 0);
    }
}

// A lane's four numbers at a place of a row.
__device__ __forceinline__ u32 load_numbers(u32 address) {
    if constexpr (LANE_BYTES == 2) {
        return ptx::load_shared_u16(address);
    } else {
        return ptx::load_shared(address);
    }
}

__device__ __forceinline__ float scale_of(u32 word, int group) { return Format::scale(word >> 8 * group & 255); }

// Multiplies one step. A lane has numbers 4t ... 4t + 3 (t = lane % 4) of 16 along k, where the product wants others: it is the same
// numbers of both operands that meet.
__device__ __forceinline__ void multiply_step(Accumulators& acc, u32 stage, int warp_row, int warp_column, int lane) {
    const u32 a_lane = stage + (warp_row + lane / 4) * PITCH + lane % 4 * LANE_BYTES;
    const u32 b_lane = stage + A_BYTES + (warp_column + lane / 4) * PITCH + lane % 4 * LANE_BYTES;
    const u32 a_scales = stage + A_SCALES + (warp_row + lane / 4) * 4;
    const u32 b_scales = stage + B_SCALES + (warp_column + 2 * (lane % 4)) * 4;
    constexpr int STEPS = Format::GROUP / 16;  // of 16 of k, in a group
#pragma unroll 1
    for (int block = 0; block < SCALE_BLOCKS; ++block) {
        u32 row_scales[TILES_M][2];
#pragma unroll
        for (int i = 0; i < TILES_M; ++i) {
            row_scales[i][0] = ptx::load_shared(a_scales + (block * BLOCK_M + 16 * i) * 4);
            row_scales[i][1] = ptx::load_shared(a_scales + (block * BLOCK_M + 16 * i + 8) * 4);
        }
#pragma unroll 1  // the loads of several groups at once would take more registers than there are
        for (int group = 0; group < block_scaled::BLOCK_GROUPS; ++group) {
            const int first = (block * block_scaled::BLOCK_GROUPS + group) * STEPS * STEP_BYTES;
            u32 a[TILES_M][STEPS][4];
#pragma unroll
            for (int i = 0; i < TILES_M; ++i) {
#pragma unroll
                for (int step = 0; step < STEPS; ++step) {
                    u32 upper[2], lower[2];
                    const u32 at = a_lane + 16 * i * PITCH + first + step * STEP_BYTES;
                    Format::to_f16(upper, load_numbers(at));
                    Format::to_f16(lower, load_numbers(at + 8 * PITCH));
                    a[i][step][0] = upper[0], a[i][step][1] = lower[0], a[i][step][2] = upper[1], a[i][step][3] = lower[1];
                }
            }
#pragma unroll
            for (int tile = 0; tile < GROUPS_N * 4; ++tile) {
                u32 b[STEPS][2];
#pragma unroll
                for (int step = 0; step < STEPS; ++step) {
                    Format::to_f16(b[step], load_numbers(b_lane + 8 * tile * PITCH + first + step * STEP_BYTES));
                }
                const uint2 words = ptx::load_shared_u64(b_scales + (block * BLOCK_N + 8 * tile) * 4);
                const float left = scale_of(words.x, group), right = scale_of(words.y, group);
#pragma unroll
                for (int i = 0; i < TILES_M; ++i) {
                    float sums[4] = {};
#pragma unroll
                    for (int step = 0; step < STEPS; ++step) halves::f16::mma_m16n8k16(sums, a[i][step], b[step]);
                    const float upper = scale_of(row_scales[i][0], group), lower = scale_of(row_scales[i][1], group);
                    float(&to)[4] = acc[i * GROUPS_N * 4 + tile];
                    to[0] += sums[0] * upper * left, to[1] += sums[1] * upper * right;
                    to[2] += sums[2] * lower * left, to[3] += sums[3] * lower * right;
                }
            }
        }
    }
}

// Writes a warp's part of the tile, which begins at (row, column).
__device__ __forceinline__ void store_tile(u16* c, Accumulators& acc, float factor, int m, int n, int row, int column, int lane) {
    constexpr float SCALE = 1 / (Format::SMALLER * Format::SMALLER);
#pragma unroll
    for (int i = 0; i < FRAGMENTS; ++i) {
#pragma unroll
        for (int s = 0; s < 4; ++s) acc[i][s] = acc[i][s] * SCALE * factor;
    }
    layout::store_fragments<layout::Columns::Natural, Element, C_VECTOR_BYTES / 2, TILES_M, GROUPS_N>(c, acc, m, n, row, column, lane);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT > 0 ? RESIDENT : 1)
gemm_block_scaled(const byte* a, const byte* b, const byte* a_scales, const byte* b_scales, const float* a_factor,
                  const float* b_factor, u16* c, int m, int n, int k, int tiles_m, int tiles_n, int k_steps, int group_m,
                  int stride, int span) {
    const scheduler::Schedule schedule{tiles_m, tiles_n, k_steps, group_m, 1};
    const int first = scheduler::work_begin(blockIdx.x, stride, span);
    const int end = scheduler::work_end(first, span, schedule.size());
    const u32 stages = ptx::shared_address(smem);
    const int thread = threadIdx.x, lane = thread % 32;
    const int warp_row = thread / 32 / WARPS_N * WARP_M, warp_column = thread / 32 % WARPS_N * WARP_N;
    const int row_bytes = k / Format::K_PER_BYTE;
    const int blocks = scheduler::ceil_div(k, BLOCK_K_OF_SCALES);

    for (int index = first; index < end; index += stride) {
        const scheduler::Work work = schedule.at(index);
        const int row = work.tile_m * BLOCK_M, column = work.tile_n * BLOCK_N;
        // Loading runs NUM_STAGES - 1 steps ahead of multiplying.
        const auto load = [&](int step, int at) {
            if (step < k_steps) {
                const u32 stage = stages + at * STAGE_BYTES;
                copy_rows<BLOCK_M>(stage, a, m, row_bytes, row, step * ROW_BYTES, thread);
                copy_rows<BLOCK_N>(stage + A_BYTES, b, n, row_bytes, column, step * ROW_BYTES, thread);
                copy_scales<BLOCK_M>(stage + A_SCALES, a_scales, blocks, row, step * SCALE_BLOCKS, thread);
                copy_scales<BLOCK_N>(stage + B_SCALES, b_scales, blocks, column, step * SCALE_BLOCKS, thread);
            }
            ptx::cp_async_commit();
        };
        for (int step = 0; step < NUM_STAGES - 1; ++step) load(step, step);

        Accumulators acc = {};
        int at = 0;
        for (int step = 0; step < k_steps; ++step) {
            ptx::cp_async_wait<NUM_STAGES - 2>();
            __syncthreads();  // this stage has arrived for every warp, and every warp is done with the one before it
            load(step + NUM_STAGES - 1, at == 0 ? NUM_STAGES - 1 : at - 1);
            multiply_step(acc, stages + at * STAGE_BYTES, warp_row, warp_column, lane);
            at = at + 1 == NUM_STAGES ? 0 : at + 1;
        }
        const float factor = (a_factor == nullptr ? 1.0f : *a_factor) * (b_factor == nullptr ? 1.0f : *b_factor);
        store_tile(c, acc, factor, m, n, row + warp_row, column + warp_column, lane);
        __syncthreads();  // the next tile's first stages are those of this one's last steps
    }
}
