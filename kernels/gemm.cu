// C[m, n] = A[m, k] · decode(B), with mma.sync on bf16 or f16 and f32 accumulation. Needs sm_80.
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
// Floor: each of A, B and C once through memory, and 2 m n k FLOPs. Reached on an H200, cold L2: 4096^3 in 362 us (380 TFLOP/s),
// bound by mma.sync, which has about half of that chip's tensor-core rate; 16 x 4096 x 4096 in 17.1 us (bf16, 2.0 TB/s with
// the start of the kernel in it) and 11.5 us (int4).
//
// Macros
//   BLOCK_M, BLOCK_N, BLOCK_K   the tile, in rows of C, columns of C and elements of k; powers of two from 16, 32, 16
//   NUM_WARPS                   warps of a program; a power of two
//   NUM_STAGES                  tiles of A and B in shared memory at once; from 2
//   DTYPE                       the type of A and C: bf16 or f16
//   WEIGHTS                     the format of B: Bf16 or F16 (as DTYPE), Int16, Int4, Fp4, Int4Group, Nvfp4 or Mxfp4 (decode.cuh)
//   ZERO_POINTS                 Int4Group: 1 where weights have zero points, else 0
//   GROUP                       weights with scales: how many of a step along k share one: 16 ... BLOCK_K, which it divides
//   A_VECTOR_BYTES              bytes of one copy of A: 16, 8, 4 or 2; divides the bytes of a row of A
//   B_VECTOR_BYTES              bytes of one copy of B: 16, 8, 4, 2 or (4-bit weights) 1; divides those of a row of B
//
// Launch: 32 * NUM_WARPS threads along x, SMEM_BYTES of dynamic shared memory, programs along x. The work and its order
// (scheduler.cuh) are arguments, so that they cost no compile:
//   partials                  split_k > 1: BLOCK_M * BLOCK_N floats for each tile and part of k, in fragment order
//   arrivals                  split_k > 1: one zero for each tile; zero again at the end
//   tiles_m, tiles_n, k_steps the problem in tiles: ceil(m / BLOCK_M), ceil(n / BLOCK_N), ceil(k / BLOCK_K)
//   group_m                   tile rows that share a column band, 1 ... tiles_m
//   split_k                   programs that share one tile's k; with more than k_steps some have none
//   stride, span              a program's work: span consecutive numbers (stride 1), or every stride-th (span = all)
//   scales, zeros             weights with scales: pointers; null for none
//   tensor_scale              weights with scales: the factor, or null for none
//   group_steps               weights with scales: steps along k that share one row of scales; 1 where a step has whole rows

#include "decode.cuh"
#include "gemm_rows.cuh"
#include "layout.cuh"
#include "ptx.cuh"
#include "scheduler.cuh"

#if !defined(NUM_WARPS)
#error "NUM_WARPS must be defined: warps of a program"
#endif

namespace {

static_assert(power_of_two(BLOCK_M) && BLOCK_M >= 16, "BLOCK_M must be a power of two from 16");
static_assert(power_of_two(BLOCK_N) && BLOCK_N >= 32, "BLOCK_N must be a power of two from 32");
static_assert(power_of_two(BLOCK_K) && BLOCK_K >= 16, "BLOCK_K must be a power of two from 16");
static_assert(power_of_two(NUM_WARPS) && NUM_WARPS <= 32, "NUM_WARPS must be a power of two up to 32");
static_assert(NUM_WARPS * 16 * 32 <= BLOCK_M * BLOCK_N, "a warp's tile is at least 16 x 32");
static_assert(NUM_STAGES >= 2, "NUM_STAGES must be at least 2");

// Warps along n: the split that reads the least of A and B from shared memory, where a byte of B that several warps read
// costs each of them DUPLICATE_COST bytes of A, for decoding it. Of two equal ones, the split with fewer such warps.
__device__ constexpr int choose_warps_n() {
    int best = 0, least = 0;
    for (int warps_n = 1; warps_n <= NUM_WARPS && 32 * warps_n <= BLOCK_N; warps_n *= 2) {
        const int warps_m = NUM_WARPS / warps_n;
        if (16 * warps_m > BLOCK_M) continue;
        const int reads = warps_n * BLOCK_M + warps_m * BLOCK_N * Weights::DUPLICATE_COST;
        if (best == 0 || reads <= least) best = warps_n, least = reads;
    }
    return best;
}

constexpr int THREADS = 32 * NUM_WARPS;
constexpr int WARPS_N = choose_warps_n();
constexpr int WARPS_M = NUM_WARPS / WARPS_N;
constexpr int WARP_M = BLOCK_M / WARPS_M;
constexpr int WARP_N = BLOCK_N / WARPS_N;
constexpr int TILES_M = WARP_M / 16;   // m16 tiles of a warp
constexpr int GROUPS_N = WARP_N / 32;  // 32-column groups of a warp, four n8 tiles each

constexpr int A_ROW_BYTES = 2 * BLOCK_K;
constexpr int A_SWIZZLE_UNIT = 16;
constexpr int A_BYTES = BLOCK_M * A_ROW_BYTES;
constexpr int B_ROWS = BLOCK_K / Weights::K_PER_ROW;
constexpr int B_ROW_BYTES = BLOCK_N * Weights::COLUMN_BYTES;
constexpr int B_BYTES = B_ROWS * B_ROW_BYTES;

// What a stage has beside A and B, and the kernel beside its other arguments, for weights with scales.
#if defined(GROUP)
constexpr bool SCALED = true;
static_assert(GROUP >= 16 && GROUP % 16 == 0 && BLOCK_K % GROUP == 0, "GROUP: 16 ... BLOCK_K, a step has whole ones, or one");
static_assert(Weights::SCALE_BYTES > 0, "GROUP: these weights have no scales");
constexpr int GROUP_K16 = GROUP / 16;
constexpr int GROUPS_K = BLOCK_K / GROUP;  // of a step
constexpr int SCALE_ROW_BYTES = BLOCK_N * Weights::SCALE_BYTES;
constexpr int ZERO_ROW_BYTES = BLOCK_N;
constexpr int ZEROS = GROUPS_K * SCALE_ROW_BYTES;  // where they begin
constexpr int SCALES_BYTES = ZEROS + (Weights::ZERO_BYTES > 0 ? GROUPS_K * ZERO_ROW_BYTES : 0);
// Their rows have as many columns as B's rows of bytes, and are aligned accordingly.
constexpr int SCALE_VECTOR_BYTES = scheduler::smaller(16, Weights::SCALE_BYTES * B_VECTOR_BYTES);
#define SCALE_PARAMETERS , const byte *scales, const byte *zeros, const float *tensor_scale, int group_steps
#else
constexpr bool SCALED = false;
constexpr int SCALES_BYTES = 0;
static_assert(Weights::SCALE_BYTES == 0, "GROUP must be defined: weights that share a scale");
#define SCALE_PARAMETERS
#endif
constexpr int SMEM_BYTES = NUM_STAGES * (A_BYTES + B_BYTES + SCALES_BYTES);

// Adjacent columns of C that one store may write: as many as are aligned in B.
constexpr int STORE_COLUMNS = scheduler::smaller(8, B_VECTOR_BYTES / Weights::COLUMN_BYTES);

// Fragment (tile * GROUPS_N + group) * 4 + j belongs to n8 tile j of that group of that m16 tile.
constexpr int FRAGMENTS = TILES_M * GROUPS_N * 4;
using Accumulators = float[FRAGMENTS][4];

// Where a thread's warp works in the tile.
__device__ __forceinline__ int warp_row(int thread) { return thread / 32 / WARPS_N * WARP_M; }
__device__ __forceinline__ int warp_column(int thread) { return thread / 32 % WARPS_N * WARP_N; }

// Programs a multiprocessor is to hold at once: what its shared memory allows (228 KiB, 1 of them lost to each program),
// but no more than leave each thread registers for its sums, its operands and its addresses.
constexpr int REGISTERS = FRAGMENTS * 4 <= 64 ? 128 : 256;
constexpr int BY_SMEM = 228 * 1024 / (SMEM_BYTES + 1024);
constexpr int BY_REGISTERS = 65536 / (THREADS * REGISTERS);
constexpr int RESIDENT = BY_SMEM < BY_REGISTERS ? BY_SMEM : BY_REGISTERS;

static_assert(SMEM_BYTES <= 227 * 1024, "the stages exceed the shared memory of every GPU");

extern __shared__ __align__(1024) byte smem[];

template <int BYTES>
__device__ __forceinline__ void copy_vector(u32 shared, const byte* global, bool inside) {
    if constexpr (BYTES >= 4) {
        ptx::cp_async<BYTES>(shared, global, inside ? BYTES : 0);
    } else if constexpr (BYTES == 2) {
        ptx::store_shared(shared, inside ? *reinterpret_cast<const u16*>(global) : u16{0});
    } else {
        ptx::store_shared(shared, inside ? *global : byte{0});
    }
}

// Copies a tile of ROWS x ROW_BYTES that begins at (row, column_byte) of a matrix to shared memory, swizzled; what lies
// outside the matrix becomes zero.
template <int ROWS, int ROW_BYTES, int VECTOR_BYTES, int SWIZZLE_UNIT>
__device__ __forceinline__ void copy_tile(u32 shared, const byte* matrix, int rows, int row_bytes, int row,
                                          int column_byte, int thread) {
    constexpr int PASS_VECTORS = scheduler::smaller(ROW_BYTES / VECTOR_BYTES, THREADS);
    constexpr int PASS_BYTES = PASS_VECTORS * VECTOR_BYTES;
    constexpr int PASS_ROWS = THREADS / PASS_VECTORS;
    constexpr int UNROLL = VECTOR_BYTES >= 4 ? 16 : 4;
    const int first_row = thread / PASS_VECTORS;
    const int first_byte = thread % PASS_VECTORS * VECTOR_BYTES;
    const byte* origin = matrix + static_cast<i64>(row + first_row) * row_bytes + (column_byte + first_byte);
#pragma unroll UNROLL
    for (int y = 0; y < ROWS; y += PASS_ROWS) {
        if (PASS_ROWS > ROWS && first_row >= ROWS) break;
#pragma unroll UNROLL
        for (int x = 0; x < ROW_BYTES; x += PASS_BYTES) {
            const bool inside = row + first_row + y < rows && column_byte + first_byte + x < row_bytes;
            const u32 offset = layout::swizzled<ROW_BYTES, SWIZZLE_UNIT>(first_row + y, first_byte + x);
            copy_vector<VECTOR_BYTES>(shared + offset, origin + static_cast<i64>(y) * row_bytes + x, inside);
        }
    }
}

// The scales of a lane's columns for the k16 step that it is at.
struct LaneScales {
    Weights::Scales<4> of_group[GROUPS_N];

    // A step is unrolled, so that only the first k16 step of a group reads anything. The address is that of the stage's scales.
    __device__ __forceinline__ void move_to(u32 stage_scales, int column, int step) {
#if defined(GROUP)
        if (step % GROUP_K16 != 0) return;
        const int row = step / GROUP_K16;
#pragma unroll
        for (int group = 0; group < GROUPS_N; ++group) {
            const int first = column + 32 * group;
            of_group[group].load(stage_scales + row * SCALE_ROW_BYTES + first * Weights::SCALE_BYTES,
                                 stage_scales + ZEROS + row * ZERO_ROW_BYTES + first);
        }
#endif
    }
};

// One k16 step of a warp's part of A and B, as its lanes read them.
struct Operands {
    u32 a[TILES_M][4];
    Weights::Raw b[GROUPS_N];

    // The addresses are this lane's in the stage's A and B.
    __device__ __forceinline__ void load(u32 a_address, u32 b_address, int step) {
#pragma unroll
        for (int i = 0; i < TILES_M; ++i) ptx::ldmatrix_x4(a[i], (a_address ^ (32 * step)) + i * 16 * A_ROW_BYTES);
#pragma unroll
        for (int group = 0; group < GROUPS_N; ++group) {
            b[group] = Weights::load<B_ROW_BYTES>(b_address ^ (32 * Weights::COLUMN_BYTES * group), step);
        }
    }

    __device__ __forceinline__ void multiply_into(Accumulators& acc, const LaneScales& scales) const {
#pragma unroll
        for (int group = 0; group < GROUPS_N; ++group) {
            u32 weights[4][2];
            Weights::decode(weights, b[group], scales.of_group[group]);
#pragma unroll
            for (int i = 0; i < TILES_M; ++i) {
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    Element::mma_m16n8k16(acc[(i * GROUPS_N + group) * 4 + j], a[i], weights[j]);
                }
            }
        }
    }
};

// Writes the tile of C that begins at (row, column).
__device__ __forceinline__ void store_tile(u16* c, Accumulators& acc, float tensor_scale, int m, int n, int row, int column,
                                           int thread) {
    const int lane = thread % 32;
    row += warp_row(thread);
    column += warp_column(thread);
    if constexpr (Weights::SCALE != 1 || SCALED) {
        const float factor = Weights::SCALE * tensor_scale;
#pragma unroll
        for (int i = 0; i < FRAGMENTS; ++i) {
#pragma unroll
            for (int s = 0; s < 4; ++s) acc[i][s] *= factor;
        }
    }
    layout::store_fragments<Weights::COLUMNS, Element, STORE_COLUMNS, TILES_M, GROUPS_N>(c, acc, m, n, row, column, lane);
}

// Leaves this program's sums with those of the tile's other parts of k. The last program to arrive takes them all, adds
// them in the parts' order, so that every run gives the same bits, and returns true.
__device__ __forceinline__ bool combine_parts(Accumulators& acc, float* partials, u32* arrivals, int part, int parts,
                                              int thread) {
    constexpr int PART_VECTORS = BLOCK_M * BLOCK_N / 4;
    float4* vectors = reinterpret_cast<float4*>(partials) + thread;
#pragma unroll
    for (int i = 0; i < FRAGMENTS; ++i) {
        vectors[part * i64{PART_VECTORS} + i * THREADS] = make_float4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
    }
    __threadfence();
    __syncthreads();
    const bool last = __syncthreads_or(thread == 0 && atomicAdd(arrivals, 1u) == parts - 1u);
    if (!last) return false;
    __threadfence();
    if (thread == 0) *arrivals = 0;

#pragma unroll
    for (int i = 0; i < FRAGMENTS; ++i) acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = 0.0f;
#pragma unroll 1
    for (int left = parts; left > 0; --left, vectors += PART_VECTORS) {
#pragma unroll
        for (int i = 0; i < FRAGMENTS; ++i) {
            if (i % 8 == 0) __syncwarp();  // so that the compiler starts no more loads at once than it has registers for
            const float4 theirs = ptx::load_at_l2(vectors + i * THREADS);
            acc[i][0] += theirs.x, acc[i][1] += theirs.y, acc[i][2] += theirs.z, acc[i][3] += theirs.w;
        }
    }
    return true;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT > 0 ? RESIDENT : 1)
gemm(const byte* a, const byte* b, u16* c, float* partials, u32* arrivals, int m, int n, int k, int tiles_m, int tiles_n,
     int k_steps, int group_m, int split_k, int stride, int span SCALE_PARAMETERS) {
    const scheduler::Schedule schedule{tiles_m, tiles_n, k_steps, group_m, split_k};
    const int first = scheduler::work_begin(blockIdx.x, stride, span);
    const int end = scheduler::work_end(first, span, schedule.size());
    if (first >= end) return;

    const u32 a_stages = ptx::shared_address(smem);
    const u32 b_stages = a_stages + NUM_STAGES * A_BYTES;
    const int thread = threadIdx.x, lane = thread % 32;
    const u32 a_lane =
        a_stages + layout::swizzled<A_ROW_BYTES, A_SWIZZLE_UNIT>(warp_row(thread) + lane % 16, lane / 16 * 16);
    const u32 b_lane = b_stages + Weights::lane_offset<B_ROW_BYTES>(warp_column(thread), lane);
    const u32 scale_stages = b_stages + NUM_STAGES * B_BYTES;
    const int scale_column = warp_column(thread) + lane / 4 * 4;

    // Loading runs NUM_STAGES - 1 steps ahead of multiplying, over into the next tile.
    int load_index = first;
    scheduler::Work load = schedule.at(first);
    auto load_next = [&](int stage) {
        while (load.begin == load.end && load_index + stride < end) {
            load_index += stride;
            load = schedule.at(load_index);
        }
        if (load.begin < load.end) {
            const int loader = ptx::opaque(thread);
            copy_tile<BLOCK_M, A_ROW_BYTES, A_VECTOR_BYTES, A_SWIZZLE_UNIT>(
                a_stages + stage * A_BYTES, a, m, 2 * k, load.tile_m * BLOCK_M, load.begin * A_ROW_BYTES, loader);
            copy_tile<B_ROWS, B_ROW_BYTES, B_VECTOR_BYTES, Weights::SWIZZLE_UNIT>(
                b_stages + stage * B_BYTES, b, k / Weights::K_PER_ROW, n * Weights::COLUMN_BYTES, load.begin * B_ROWS,
                load.tile_n * B_ROW_BYTES, loader);
#if defined(GROUP)
            const u32 shared = scale_stages + stage * SCALES_BYTES;
            const int row = load.begin / group_steps * GROUPS_K;
            const int groups = scheduler::ceil_div(k, group_steps > 1 ? group_steps * BLOCK_K : GROUP);
            copy_tile<GROUPS_K, SCALE_ROW_BYTES, SCALE_VECTOR_BYTES, scheduler::smaller(SCALE_ROW_BYTES, 128)>(
                shared, scales, groups, n * Weights::SCALE_BYTES, row, load.tile_n * SCALE_ROW_BYTES, loader);
            if constexpr (Weights::ZERO_BYTES > 0) {
                copy_tile<GROUPS_K, ZERO_ROW_BYTES, B_VECTOR_BYTES, scheduler::smaller(ZERO_ROW_BYTES, 128)>(
                    shared + ZEROS, zeros, groups, n, row, load.tile_n * ZERO_ROW_BYTES, loader);
            }
#endif
            ++load.begin;
        }
        ptx::cp_async_commit();
    };
    for (int stage = 0; stage < NUM_STAGES - 1; ++stage) load_next(stage);

    int stage = 0;
    for (int index = first; index < end; index += stride) {
        Accumulators acc = {};
        const scheduler::Work ahead = schedule.at(index);
        for (int steps = ahead.end - ahead.begin; steps > 0; --steps) {
            ptx::cp_async_wait<NUM_STAGES - 2>();
            __syncthreads();  // this stage has arrived for every warp, and every warp is done with the one before it
            const u32 a_address = a_lane + stage * A_BYTES, b_address = b_lane + stage * B_BYTES;
            LaneScales lane_scales;
            Operands operands[2];  // the next step's are on their way while this one's are multiplied
            load_next(stage == 0 ? NUM_STAGES - 1 : stage - 1);
            operands[0].load(a_address, b_address, 0);
#pragma unroll
            for (int k16 = 0; k16 < BLOCK_K / 16; ++k16) {
                if (k16 + 1 < BLOCK_K / 16) operands[(k16 + 1) % 2].load(a_address, b_address, k16 + 1);
                lane_scales.move_to(scale_stages + stage * SCALES_BYTES, scale_column, k16);
                operands[k16 % 2].multiply_into(acc, lane_scales);
            }
            stage = stage + 1 == NUM_STAGES ? 0 : stage + 1;
        }

        const scheduler::Work work = schedule.at(ptx::opaque(index));
        const int writer = ptx::opaque(thread);
        if (split_k > 1) {
            float* tile_partials = partials + static_cast<i64>(work.tile) * split_k * (BLOCK_M * BLOCK_N);
            if (!combine_parts(acc, tile_partials, arrivals + work.tile, work.part, split_k, writer)) continue;
        }
#if defined(GROUP)
        const float factor = tensor_scale == nullptr ? 1.0f : *tensor_scale;
#else
        constexpr float factor = 1.0f;
#endif
        store_tile(c, acc, factor, m, n, work.tile_m * BLOCK_M, work.tile_n * BLOCK_N, writer);
    }
}
