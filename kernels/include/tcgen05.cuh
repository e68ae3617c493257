// Blackwell's tensor cores: products of tiles in shared memory, summed in tensor memory (TMEM), issued by one thread, by
// one program or by a pair of them (CTAS 1 or 2). Needs sm_100a. Sections are those of the PTX ISA 9.2 manual.
//
// TMEM has 512 columns of 128 lanes of 32 bits. An address is lane << 16 | column (9.7.16.1); warp w of a program reads
// lanes 32 (w % 4) ... 32 (w % 4) + 31 alone (9.7.16.8.1). A product with M = 128 leaves row i of its sums in lane i and
// column j in column j of the accumulator; in a pair, M = 256, each program holds its own 128 rows that way (9.7.16.10.5).
#pragma once

#include "tcgen05_operands.cuh"
#include "tma.cuh"

namespace ptx {

// ---- Tensor memory; whole warps, all by the same warp of a program, in a pair by both programs at once ----

// COLUMNS is a power of two from 32 to 512 (9.7.16.7.1). The address is written to shared memory; waits for room.
template <int CTAS, int COLUMNS>
__device__ __forceinline__ void tmem_allocate(u32 shared) {
    static_assert(COLUMNS >= 32 && COLUMNS <= 512 && (COLUMNS & (COLUMNS - 1)) == 0, "TMEM columns: 32 ... 512");
    if constexpr (CTAS == 1) {
        asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;" :: "r"(shared), "n"(COLUMNS) : "memory");
        asm volatile("tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;" ::: "memory");
    } else {
        asm volatile("tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [%0], %1;" :: "r"(shared), "n"(COLUMNS) : "memory");
        asm volatile("tcgen05.relinquish_alloc_permit.cta_group::2.sync.aligned;" ::: "memory");
    }
}

template <int CTAS, int COLUMNS>
__device__ __forceinline__ void tmem_free(u32 address) {
    if constexpr (CTAS == 1) {
        asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, %1;" :: "r"(address), "n"(COLUMNS) : "memory");
    } else {
        asm volatile("tcgen05.dealloc.cta_group::2.sync.aligned.b32 %0, %1;" :: "r"(address), "n"(COLUMNS) : "memory");
    }
}

// Sixteen columns of this warp's 32 lanes, each thread its own lane (shape 32x32b, 9.7.16.2.3.1.1). All lanes call it; the
// values are there after tmem_wait.
__device__ __forceinline__ void tmem_load(float (&out)[16], u32 address) {
    asm volatile("tcgen05.ld.sync.aligned.32x32b.x16.b32 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, [%16];"
                 : "=f"(out[0]), "=f"(out[1]), "=f"(out[2]), "=f"(out[3]), "=f"(out[4]), "=f"(out[5]), "=f"(out[6]),
                   "=f"(out[7]), "=f"(out[8]), "=f"(out[9]), "=f"(out[10]), "=f"(out[11]), "=f"(out[12]), "=f"(out[13]),
                   "=f"(out[14]), "=f"(out[15])
                 : "r"(address) : "memory");
}

// Waits for this thread's loads. The values are tied to this place, so that nothing uses them earlier.
template <int GROUPS>
__device__ __forceinline__ void tmem_wait(float (&values)[GROUPS][16]) {
    asm volatile("tcgen05.wait::ld.sync.aligned;" ::: "memory");
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
#pragma unroll
        for (int i = 0; i < 16; ++i) asm volatile("" : "+f"(values[group][i]) :: "memory");
    }
}

// Eight columns of 16 lanes, four registers a thread; the address names the first lane, the warp's first or its 16th (shape
// 16x256b twice, 9.7.16.2.3.1.4). Registers 0 and 1 are columns 2t and 2t + 1 (t = lane % 4) of the lane / 4-th of these
// lanes, 2 and 3 the same of the one 8 below, 4 to 7 the same 8 columns on. All lanes call it; see tmem_wait_stores.
__device__ __forceinline__ void tmem_store_16x256b(u32 address, const u32 (&words)[8]) {
    asm volatile("tcgen05.st.sync.aligned.16x256b.x2.b32 [%0], {%1, %2, %3, %4, %5, %6, %7, %8};"
                 :: "r"(address), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]), "r"(words[4]), "r"(words[5]),
                    "r"(words[6]), "r"(words[7]) : "memory");
}

// Eight columns of 16 lanes likewise (shape 16x128b twice, 9.7.16.2.3.1.3). Register 0 is column t of the lane / 4-th of these
// lanes, 1 the same of the one 8 below, 2 and 3 the same 4 columns on.
__device__ __forceinline__ void tmem_store_16x128b(u32 address, const u32 (&words)[4]) {
    asm volatile("tcgen05.st.sync.aligned.16x128b.x2.b32 [%0], {%1, %2, %3, %4};"
                 :: "r"(address), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]) : "memory");
}

// Waits until this thread's stores to tensor memory are done.
__device__ __forceinline__ void tmem_wait_stores() { asm volatile("tcgen05.wait::st.sync.aligned;" ::: "memory"); }

// ---- Order between threads: before one signals another, and after it was signalled (9.7.16.6.4) ----

__device__ __forceinline__ void tcgen05_before_signal() { asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory"); }
__device__ __forceinline__ void tcgen05_after_signal() { asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory"); }

// Arrives once at the barrier, in a pair at that place in both programs, when all products this thread has issued are done
// (9.7.16.12.1). It is a before_signal of its own.
template <int CTAS>
__device__ __forceinline__ void tcgen05_commit(u32 barrier) {
    if constexpr (CTAS == 1) {
        asm volatile("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" :: "r"(barrier) : "memory");
    } else {
        asm volatile("tcgen05.commit.cta_group::2.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [%0], %1;"
                     :: "r"(barrier), "h"(static_cast<u16>(3)) : "memory");
    }
}

// Arrives at the barrier of the pair's first program. What the others wait for with it is the tensor core's to read, of its
// own program's shared memory and past a proxy fence: the default scope is enough, and that of the cluster would make every
// arrival flush and invalidate as for the whole GPU.
template <int CTAS>
__device__ __forceinline__ void mbarrier_arrive_first(u32 barrier) {
    if constexpr (CTAS == 1) {
        mbarrier_arrive(barrier);
    } else {
        asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" :: "r"(cluster_address(barrier, 0)) : "memory");
    }
}

// The same and promises nothing of what this thread stored: what it has read from tensor memory may be overwritten.
template <int CTAS>
__device__ __forceinline__ void mbarrier_arrive_first_relaxed(u32 barrier) {
    if constexpr (CTAS == 1) {
        asm volatile("mbarrier.arrive.relaxed.cta.shared::cta.b64 _, [%0];" :: "r"(barrier) : "memory");
    } else {
        asm volatile("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%0];"
                     :: "r"(cluster_address(barrier, 0)) : "memory");
    }
}

// Adds one to a counter in global memory and returns what it was. What this thread wrote before, and what others wrote that
// it met at a barrier, is there for whoever counts later; what those before did is there for this thread and whom it meets.
__device__ __forceinline__ u32 count_acquire_release(u32* counter) {
    u32 before;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
}

// tma_load into this program's shared memory; the barrier of the pair's first program counts the bytes.
template <int CTAS>
__device__ __forceinline__ void tma_load_first(u32 shared, const TensorMap& map, u32 barrier, int x, int y) {
    if constexpr (CTAS == 1) {
        tma_load(shared, map, barrier, x, y);
    } else {
        asm volatile("cp.async.bulk.tensor.2d.cta_group::2.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                     "[%0], [%1, {%3, %4}], [%2];"
                     :: "r"(shared), "l"(&map), "r"(cluster_address(barrier, 0)), "r"(x), "r"(y) : "memory");
    }
}

// ---- Grids ----

// Asks the hardware for a block of this grid that has not begun, in a pair for two that belong together: they never begin then.
// The answer, 16 bytes, is written to this place, in a pair of both programs, and counted by the barrier next to it. One thread,
// of the pair's first program; none asks again who was told that there is none.
template <int CTAS>
__device__ __forceinline__ void cancel_block(u32 answer, u32 barrier) {
    if constexpr (CTAS == 1) {
        asm volatile("clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 [%0], [%1];"
                     :: "r"(answer), "r"(barrier) : "memory");
    } else {
        asm volatile("clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.multicast::cluster::all.b128 "
                     "[%0], [%1];" :: "r"(answer), "r"(barrier) : "memory");
    }
}

// The block of an answer, of a pair the first, or -1 where there was none.
__device__ __forceinline__ int canceled_block(u32 answer) {
    int block;
    asm volatile("{\n.reg .b128 answer;\n.reg .pred canceled;\nld.shared.b128 answer, [%1];\n"
                 "clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 canceled, answer;\nmov.b32 %0, -1;\n"
                 "@canceled clusterlaunchcontrol.query_cancel.get_first_ctaid::x.b32.b128 %0, answer;\n}"
                 : "=r"(block) : "r"(answer) : "memory");
    return block;
}

// ---- Products ----

// sums += a * b over 16 of k, or a * b where `add` is 0. One thread, in a pair of the first program: both programs' operands
// are at the same places of their shared memory, the first half of M and of N with the first program.
template <int CTAS>
__device__ __forceinline__ void tcgen05_multiply(u32 sums, u64 a, u64 b, u32 instruction, u32 add) {
    if constexpr (CTAS == 1) {
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %4, 0;\ntcgen05.mma.cta_group::1.kind::f16 [%0], %1, %2, %3, p;\n}"
                     :: "r"(sums), "l"(a), "l"(b), "r"(instruction), "r"(add) : "memory");
    } else {
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %4, 0;\ntcgen05.mma.cta_group::2.kind::f16 [%0], %1, %2, %3, p;\n}"
                     :: "r"(sums), "l"(a), "l"(b), "r"(instruction), "r"(add) : "memory");
    }
}

// The same over 32 of k of E4M3 operands: as many bytes, and at twice the rate.
template <int CTAS>
__device__ __forceinline__ void tcgen05_multiply_e4m3(u32 sums, u64 a, u64 b, u32 instruction, u32 add) {
    if constexpr (CTAS == 1) {
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %4, 0;\ntcgen05.mma.cta_group::1.kind::f8f6f4 [%0], %1, %2, %3, p;\n}"
                     :: "r"(sums), "l"(a), "l"(b), "r"(instruction), "r"(add) : "memory");
    } else {
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %4, 0;\ntcgen05.mma.cta_group::2.kind::f8f6f4 [%0], %1, %2, %3, p;\n}"
                     :: "r"(sums), "l"(a), "l"(b), "r"(instruction), "r"(add) : "memory");
    }
}

// The same as tcgen05_multiply with `a` in tensor memory, in a pair at that address in both programs: lane i is row i of a program's M, each column
// two neighbours along k, the first in its lower half.
template <int CTAS>
__device__ __forceinline__ void tcgen05_multiply_held(u32 sums, u32 a, u64 b, u32 instruction, u32 add) {
    if constexpr (CTAS == 1) {
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %4, 0;\ntcgen05.mma.cta_group::1.kind::f16 [%0], [%1], %2, %3, p;\n}"
                     :: "r"(sums), "r"(a), "l"(b), "r"(instruction), "r"(add) : "memory");
    } else {
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %4, 0;\ntcgen05.mma.cta_group::2.kind::f16 [%0], [%1], %2, %3, p;\n}"
                     :: "r"(sums), "r"(a), "l"(b), "r"(instruction), "r"(add) : "memory");
    }
}

}  // namespace ptx
