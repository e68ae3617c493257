// What a GEMM kernel with tcgen05 has around its products: which tiles a program, or a pair of programs, works on, and the way of
// finished sums from tensor memory to C. Needs sm_100a.
//
// A kernel's Shape has
//   Element                     of C (halves.cuh)
//   M, N                        the tile, in rows and columns of C
//   CTAS                        programs that share a tile: 1, or 2
//   SWAPPED                     whether the instruction's rows are columns of C: 128 * CTAS of them, else rows
//   INSTRUCTION_N               columns of the instruction, and of tensor memory that its sums take
//   ROW_BLOCKS                  instructions below each other in a tile, whose sums lie side by side; 1 where SWAPPED
//   TILES                       tiles whose sums are in tensor memory at once
//   STORERS                     groups of four warps that store, each its share of the sums' columns: 1 or 2
//   column_of(lane)             where SWAPPED: which of its warp's 32 columns of C a lane of the tensor memory holds
// Warps 0 ... 3 store, and of a second group 8 ... 11, since registers are handed over by groups of four.
// Barriers (arrivals a phase):
//   summed[tile]    1, by commit, at both programs, when a tile's products are done; awaited to store the tile
//   stored[tile]    one for each storing warp of the pair, at its first program, when it has read the sums; awaited to begin
//                   the next tile but TILES - 1
//   answered[i]     1 and the 16 bytes of an answer, at each program; awaited to begin the next tile
//   taken[i]        one for each that reads an answer, of both programs, at the first; awaited to ask again, and to leave
// Signals between the programs of a pair never release at the cluster's scope: what they stand for is the tensor core's and the
// copy engine's to use, past proxy fences, or was read from tensor memory.
#pragma once

#include "halves.cuh"
#include "layout.cuh"
#include "scheduler.cuh"
#include "streaming.cuh"
#include "tcgen05.cuh"

namespace tcgen05_gemm {

using ptx::u32;
using i64 = long long;

// The widest line of 16-bit elements that a swizzle takes and so many columns are a multiple of.
__device__ constexpr int widest_line(int columns) { return columns % 64 == 0 ? 64 : columns % 32 == 0 ? 32 : 16; }
__device__ constexpr int power_of_two_from(int least, int value) {
    return value <= least ? least : power_of_two_from(2 * least, value);
}

constexpr int FIRST_OTHER_STORER = 8;  // the first warp of the second group
constexpr int STORING_BARRIER = 1;     // 0 is __syncthreads'

// Tiles that the copying thread may be ahead of those who store, where the hardware deals them out, and one.
constexpr int ANSWERS = 4;

// Columns of a tile's sums, and from there to the next tile's.
template <typename Shape>
__device__ constexpr int sum_columns() {
    return Shape::ROW_BLOCKS * Shape::INSTRUCTION_N;
}
template <typename Shape>
__device__ constexpr int sum_stride() {
    return (sum_columns<Shape>() + 31) / 32 * 32;
}

// A storing warp writes this many of the instruction's columns at a time, one box of C: 32 rows x a line of columns, or a line of
// rows x 32 columns. It has two boxes.
template <typename Shape>
__device__ constexpr int box_bytes() {
    return 32 * widest_line(Shape::INSTRUCTION_N) * 2;
}
template <typename Shape>
__device__ constexpr int boxes_bytes() {
    return 4 * Shape::STORERS * 2 * box_bytes<Shape>();
}

// What Tiles keeps in shared memory: answers of the hardware, then barriers; and beside them the address of the tensor memory.
constexpr int ANSWERED = 16 * ANSWERS;
constexpr int TAKEN = ANSWERED + 8 * ANSWERS;
constexpr int SUMMED = TAKEN + 8 * ANSWERS;
constexpr int STORED = SUMMED + 8 * 2;
constexpr int IS_LAST = STORED + 8 * 2;  // whether this program adds up the tile's parts
constexpr int TENSOR_MEMORY = IS_LAST + 4;
constexpr int TILES_BYTES = TENSOR_MEMORY + 4;

// A place in a ring of SIZE barriers, and the parity of its current phase.
template <int SIZE>
struct Place {
    int index = 0;
    u32 parity = 0;

    __device__ __forceinline__ u32 of(u32 barriers) const { return barriers + 8 * index; }

    __device__ __forceinline__ void advance() {
        if (++index == SIZE) index = 0, parity ^= 1;
    }
};

enum class Role {
    Copying,      // one thread of each program
    Multiplying,  // one thread of the first
    Warp,         // a whole warp
};

// All threads of the program, or of the pair. What the programs of a pair write for each other at the start, their barriers,
// has a fence of its own, so that their meeting promises nothing: it would flush and invalidate as for the whole GPU.
template <int CTAS>
__device__ __forceinline__ void sync_all() {
    __syncthreads();
    if constexpr (CTAS == 2) {
        ptx::cluster_arrive_relaxed();
        ptx::cluster_wait();
    }
}

// The tiles of one program, or of a pair.
template <int CTAS>
struct Tiles {
    using Answer = Place<ANSWERS>;

    u32 base;  // of what it keeps in shared memory, a multiple of 16
    int rank;  // in the pair
    scheduler::Schedule schedule;
    int first, end, stride;

    // One thread, before any other uses them; a fence of their own follows. `other_warps`: those that work on tiles beside the ones
    // that store.
    template <typename Shape>
    __device__ __forceinline__ void init_barriers(int other_warps) const {
        constexpr int STORING_WARPS = 4 * Shape::STORERS;
        for (int tile = 0; tile < Shape::TILES; ++tile) {
            ptx::mbarrier_init(base + SUMMED + 8 * tile, 1);
            ptx::mbarrier_init(base + STORED + 8 * tile, CTAS * STORING_WARPS);
        }
        for (int answer = 0; answer < ANSWERS; ++answer) {
            ptx::mbarrier_init(base + ANSWERED + 8 * answer, 1);
            ptx::mbarrier_init(base + TAKEN + 8 * answer, 1 + CTAS * (1 + STORING_WARPS + other_warps));
        }
    }

    // Works on each tile of this program. With a stride, their numbers are known. Without, a program begins with its own, and what
    // comes after is dealt out by the hardware (cluster launch control): the copying threads ask for a block that has not begun
    // when they begin a tile, and everyone takes the answer when done with that tile.
    template <Role ROLE, typename Body>
    __device__ __forceinline__ void each(Body body) const {
        Answer answer;
        for (int index = first; index < end;) {
            if (ROLE == Role::Copying && stride == 0) ask(answer);
            body(schedule.at(index));
            index = stride > 0 ? index + stride : take<ROLE>(answer);
        }
        // The other program's last arrivals may still be on their way when the pair meets at the end, which orders nothing.
        if (ROLE == Role::Copying && stride == 0) {
            for (int i = 0; i < ANSWERS; ++i, answer.advance()) await_taken(answer);
        }
    }

    // Waits until the sums of this place have been read.
    template <int SIZE>
    __device__ __forceinline__ void await_stored(const Place<SIZE>& sums) const {
        ptx::mbarrier_wait(sums.of(base + STORED), sums.parity ^ 1);
    }

    // A whole warp tells that it has read them.
    template <int SIZE>
    __device__ __forceinline__ void say_stored(const Place<SIZE>& sums) const {
        ptx::tcgen05_before_signal();
        __syncwarp();
        if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive_first_relaxed<CTAS>(sums.of(base + STORED));
    }

    // Waits until the products of this place's sums are done.
    template <int SIZE>
    __device__ __forceinline__ void await_summed(const Place<SIZE>& sums) const {
        ptx::mbarrier_wait(sums.of(base + SUMMED), sums.parity);
    }

    // Has their tile's products tell when they are done.
    template <int SIZE>
    __device__ __forceinline__ void say_summed(const Place<SIZE>& sums) const {
        ptx::tcgen05_commit<CTAS>(sums.of(base + SUMMED));
    }

    // Waits until everyone has taken what was last answered at this place, if anything was.
    __device__ __forceinline__ void await_taken(const Answer& answer) const {
        if (rank == 0) ptx::mbarrier_wait(answer.of(base + TAKEN), answer.parity ^ 1);
    }

    __device__ __forceinline__ void ask(const Answer& answer) const {
        const u32 answered = answer.of(base + ANSWERED);
        await_taken(answer);
        ptx::mbarrier_arrive_expect(answered, 16);
        if (rank == 0) ptx::cancel_block<CTAS>(base + 16 * answer.index, answered);
    }

    // The number of the next tile, or the end.
    template <Role ROLE>
    __device__ __forceinline__ int take(Answer& answer) const {
        ptx::mbarrier_wait(answer.of(base + ANSWERED), answer.parity);
        if (ROLE == Role::Warp) __syncwarp();
        const int block = ptx::canceled_block(base + 16 * answer.index);
        ptx::fence_async_shared();  // the next answer is written by the asynchronous proxy
        if (ROLE == Role::Warp) __syncwarp();
        if (ROLE != Role::Warp || threadIdx.x % 32 == 0) ptx::mbarrier_arrive_first<CTAS>(answer.of(base + TAKEN));
        answer.advance();
        return block < 0 ? end : block / CTAS;
    }
};

// What a storing thread reads of tensor memory: a lane, and so many columns.
template <typename Shape>
struct Storer {
    static constexpr int COLUMNS = sum_columns<Shape>() / Shape::STORERS;

    int warp, quarter, lane;  // among those that store; of the tensor memory's lanes; in the warp

    __device__ __forceinline__ explicit Storer(int thread)
        : warp(thread / 32 < 4 ? thread / 32 : thread / 32 - FIRST_OTHER_STORER + 4),
          quarter(thread / 32 % 4),
          lane(thread % 32) {}

    __device__ __forceinline__ int first() const { return Shape::STORERS == 1 ? 0 : warp / 4 * COLUMNS; }
    __device__ __forceinline__ int end() const { return first() + COLUMNS; }
    // The tensor memory at its lane, in the upper half of the address.
    __device__ __forceinline__ u32 lanes(u32 tensor_memory) const { return tensor_memory + (quarter << 21); }
};

// Where sums have no scales of their own.
struct NoScales {
    template <typename Values>
    __device__ __forceinline__ void apply(const scheduler::Work&, Values&, int) const {}
};

// The way of sums to C; the storing warps.
template <typename Shape>
struct Storing {
    using Element = typename Shape::Element;
    using Box = Place<2>;
    static constexpr int CTAS = Shape::CTAS;
    static constexpr int CHUNK = widest_line(Shape::INSTRUCTION_N);  // columns of sums at a time: one box
    using Values = float[CHUNK / 16][16];

    Tiles<CTAS> tiles;
    u32 boxes;      // in shared memory, a multiple of 1024
    float factor;   // of all sums
    float* partials;
    u32* arrivals;

    // Stores every tile. scales.apply(work, values, column) multiplies a chunk of its sums, from a column on, by what is theirs.
    template <typename Scales>
    __device__ __forceinline__ void store(u32 tensor_memory, const ptx::TensorMap& c, int thread, const Scales& scales) const {
        const Storer<Shape> storer(thread);
        Place<Shape::TILES> sums;
        each_tile(thread, [&](const scheduler::Work& work, Box& box) {
            tiles.await_summed(sums);
            ptx::tcgen05_after_signal();
            const u32 tile = storer.lanes(tensor_memory) + sums.index * sum_stride<Shape>();
#pragma unroll 1
            for (int column = storer.first(); column < storer.end(); column += CHUNK) {
                Values values;
                __syncwarp();  // the lanes may leave the wait, and the copy's issue, one by one
#pragma unroll
                for (int i = 0; i < CHUNK / 16; ++i) ptx::tmem_load(values[i], tile + column + 16 * i);
                ptx::tmem_wait(values);
                // The next tile need not wait for these to be stored.
                if (column == storer.end() - CHUNK) tiles.say_stored(sums);
                scales.apply(work, values, column);
                put(values, c, box, work, column, storer);
            }
            sums.advance();
            finish(c, box, work, storer, thread);
        });
    }

    // body(work, box) stores a tile. Two boxes of a warp are on their way at a time.
    template <typename Body>
    __device__ __forceinline__ void each_tile(int thread, Body body) const {
        Box box;
        tiles.template each<Role::Warp>([&](const scheduler::Work& work) { body(work, box); });
        if (thread % 32 == 0) ptx::tma_store_wait_read<0>();
        __syncwarp();
    }

    // Puts a chunk of a tile's sums into C, or where k is split with those of the tile's other parts.
    __device__ __forceinline__ void put(const Values& values, const ptx::TensorMap& c, Box& box, const scheduler::Work& work,
                                        int column, const Storer<Shape>& storer) const {
        if (tiles.schedule.split_k == 1) {
            store_box(values, c, box, work, column, storer);
        } else {
            save_part(values, part_of(work, work.part, storer), column);
        }
    }

    // Where k is split, whoever is the last with a tile adds its parts up, in their order, and stores them.
    __device__ __forceinline__ void finish(const ptx::TensorMap& c, Box& box, const scheduler::Work& work,
                                           const Storer<Shape>& storer, int thread) const {
        if (tiles.schedule.split_k == 1 || !is_last(arrivals + work.tile * CTAS + tiles.rank, thread)) return;
#pragma unroll 1
        for (int column = storer.first(); column < storer.end(); column += CHUNK) {
            Values values = {};
#pragma unroll 1
            for (int part = 0; part < tiles.schedule.split_k; ++part) add_part(values, part_of(work, part, storer), column);
            store_box(values, c, box, work, column, storer);
        }
    }

    // Rounds a chunk of columns of sums, puts it together in shared memory and has it copied to C.
    __device__ __forceinline__ void store_box(const Values& values, const ptx::TensorMap& c, Box& box,
                                              const scheduler::Work& work, int column, const Storer<Shape>& storer) const {
        const int lane = storer.lane;
        const u32 shared = boxes + (2 * storer.warp + box.index) * box_bytes<Shape>();
        box.advance();
        if (lane == 0) ptx::tma_store_wait_read<1>();
        __syncwarp();
        if constexpr (Shape::SWAPPED) {
#pragma unroll
            for (int row = 0; row < CHUNK; ++row) {
                ptx::store_shared(shared + row * 64 + Shape::column_of(lane) * 2,
                                  Element::round(factor * values[row / 16][row % 16]));
            }
        } else {
#pragma unroll
            for (int piece = 0; piece < CHUNK / 8; ++piece) {
                u32 columns[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float* pair = values[piece / 2] + piece % 2 * 8 + 2 * i;
                    columns[i] = Element::pack(factor * pair[0], factor * pair[1]);
                }
                ptx::store_shared(shared + layout::swizzled<2 * CHUNK, 16>(lane, 16 * piece),
                                  make_uint4(columns[0], columns[1], columns[2], columns[3]));
            }
        }
        ptx::fence_async_shared();
        __syncwarp();
        if (lane == 0) {
            const int block = Shape::ROW_BLOCKS == 1 ? 0 : column / Shape::INSTRUCTION_N;
            const int row_of_block = block * 128 + 32 * storer.quarter;
            const int x = work.tile_n * Shape::N +
                          (Shape::SWAPPED ? tiles.rank * (Shape::N / CTAS) + 32 * storer.quarter : column - block * Shape::INSTRUCTION_N);
            const int y = work.tile_m * Shape::M + (Shape::SWAPPED ? column : tiles.rank * (Shape::M / CTAS) + row_of_block);
            ptx::tma_store(c, shared, x, y);
            ptx::tma_store_commit();
        }
    }

    // This thread's vectors of a part of a tile: its lane's sums, four columns each, a vector of every lane after the other.
    __device__ __forceinline__ float4* part_of(const scheduler::Work& work, int part, const Storer<Shape>& storer) const {
        constexpr int PROGRAM_VECTORS = 128 * sum_columns<Shape>() / 4;
        float* const parts = partials + static_cast<i64>(work.tile) * tiles.schedule.split_k * (Shape::M * Shape::N);
        return reinterpret_cast<float4*>(parts) + static_cast<i64>(part * CTAS + tiles.rank) * PROGRAM_VECTORS +
               32 * storer.quarter + storer.lane;
    }

    __device__ __forceinline__ static void save_part(const Values& values, float4* part, int column) {
#pragma unroll
        for (int i = 0; i < CHUNK / 4; ++i) {
            const float* four = values[i / 4] + i % 4 * 4;
            part[(column / 4 + i) * 128] = make_float4(four[0], four[1], four[2], four[3]);
        }
    }

    __device__ __forceinline__ static void add_part(Values& values, const float4* part, int column) {
#pragma unroll
        for (int i = 0; i < CHUNK / 4; ++i) {
            const float4 theirs = ptx::load_at_l2(part + (column / 4 + i) * 128);
            float* four = values[i / 4] + i % 4 * 4;
            four[0] += theirs.x, four[1] += theirs.y, four[2] += theirs.z, four[3] += theirs.w;
        }
    }

    // Whether this program is the last to have saved its part of the tile, so that it finds them all; they are added in the
    // parts' order, so that every run gives the same bits. The storing warps; one thread's release and acquire order
    // what all of them wrote and will read, past the barriers on both sides.
    __device__ __forceinline__ bool is_last(u32* count, int thread) const {
        constexpr int STORING_THREADS = 128 * Shape::STORERS;
        ptx::barrier_sync<STORING_THREADS>(STORING_BARRIER);
        if (thread == 0) {
            const bool last = ptx::count_acquire_release(count) == tiles.schedule.split_k - 1u;
            if (last) *count = 0;
            ptx::store_shared(tiles.base + IS_LAST, static_cast<u32>(last));
        }
        ptx::barrier_sync<STORING_THREADS>(STORING_BARRIER);
        return ptx::load_shared(tiles.base + IS_LAST) != 0;
    }
};

}  // namespace tcgen05_gemm
