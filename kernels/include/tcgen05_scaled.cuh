// Products of Blackwell's tensor cores whose operands have scales (block scaling): E2M1 with an unsigned E4M3 scale for each 16 along
// k, or E4M3 with an E8M0 scale for each 32, summed in f32. Needs sm_100a. Sections are those of the PTX ISA 9.2 manual.
//
// Scales are read from tensor memory (9.7.16.10.7). Four of a row, in the four bytes of a word, lie in lane r % 32 and column r / 32
// of 128 rows, and once more in each other quarter of the lanes: blocks of 128 x 4. One product takes 64 of k of E2M1, all four
// bytes of a row's word; or 32 of k of E4M3, the byte that its instruction names. A program of a pair has the scales of its own
// rows of the first operand, and those of all rows of the second.
#pragma once

#include "tcgen05.cuh"

namespace ptx {

// 32 rows of 16 bytes in shared memory, below each other from a multiple of 16: the block of scales that tcgen05_copy_scales
// takes. Bits as in tcgen05_operand; no swizzle, eight rows to the next are 128 bytes.
__device__ __forceinline__ u64 tcgen05_scales(u32 shared) {
    return static_cast<u64>((shared & 0x3FFFFu) >> 4) | u64{128 >> 4} << 32 | u64{1} << 46;
}

// Copies such a block to four columns of tensor memory, to each quarter of the lanes alike; in a pair, from each program's shared
// memory to its own tensor memory. One thread; products that it issues after read what it copied (9.7.16.6.2).
template <int CTAS>
__device__ __forceinline__ void tcgen05_copy_scales(u32 to, u64 scales) {
    if constexpr (CTAS == 1) {
        asm volatile("tcgen05.cp.cta_group::1.32x128b.warpx4 [%0], %1;" :: "r"(to), "l"(scales) : "memory");
    } else {
        asm volatile("tcgen05.cp.cta_group::2.32x128b.warpx4 [%0], %1;" :: "r"(to), "l"(scales) : "memory");
    }
}

// The descriptor of such products (9.7.16.4.2, tables 43 and 44): bits 4-5 and 29-30 which byte of B's and of A's words of scales;
// 7-9 and 10-12 operands, 0 = E4M3, or 1 = E2M1 where both are; 17-22 N / 8; 23 scales 1 = E8M0, 0 = unsigned E4M3; 24-28 M / 16. Both
// operands lie along k.
__device__ constexpr u32 tcgen05_scaled_instruction(int m, int n, bool is_e2m1, int byte) {
    const u32 type = is_e2m1 ? 1 : 0, id = static_cast<u32>(byte);
    return id << 4 | type << 7 | type << 10 | static_cast<u32>(n / 8) << 17 | (is_e2m1 ? 0u : 1u) << 23
         | static_cast<u32>(m / 16) << 24 | id << 29;
}

// sums += (a * scales) * (b * scales) over 32 bytes along k of both, or that product where `add` is 0. As tcgen05_multiply.
template <int CTAS, bool IS_E2M1>
__device__ __forceinline__ void tcgen05_multiply_scaled(u32 sums, u64 a, u64 b, u32 instruction, u32 a_scales, u32 b_scales,
                                                        u32 add) {
    if constexpr (CTAS == 1 && IS_E2M1) {
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\n"
                     "tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.scale_vec::4X [%0], %1, %2, %3, [%4], [%5], p;\n}"
                     :: "r"(sums), "l"(a), "l"(b), "r"(instruction), "r"(a_scales), "r"(b_scales), "r"(add) : "memory");
    } else if constexpr (IS_E2M1) {
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\n"
                     "tcgen05.mma.cta_group::2.kind::mxf4nvf4.block_scale.scale_vec::4X [%0], %1, %2, %3, [%4], [%5], p;\n}"
                     :: "r"(sums), "l"(a), "l"(b), "r"(instruction), "r"(a_scales), "r"(b_scales), "r"(add) : "memory");
    } else if constexpr (CTAS == 1) {
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\n"
                     "tcgen05.mma.cta_group::1.kind::mxf8f6f4.block_scale.scale_vec::1X [%0], %1, %2, %3, [%4], [%5], p;\n}"
                     :: "r"(sums), "l"(a), "l"(b), "r"(instruction), "r"(a_scales), "r"(b_scales), "r"(add) : "memory");
    } else {
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\n"
                     "tcgen05.mma.cta_group::2.kind::mxf8f6f4.block_scale.scale_vec::1X [%0], %1, %2, %3, [%4], [%5], p;\n}"
                     :: "r"(sums), "l"(a), "l"(b), "r"(instruction), "r"(a_scales), "r"(b_scales), "r"(add) : "memory");
    }
}

// tma_load of three extents into this program's shared memory; the barrier of the pair's first program counts the bytes.
template <int CTAS>
__device__ __forceinline__ void tma_load_first(u32 shared, const TensorMap& map, u32 barrier, int x, int y, int z) {
    if constexpr (CTAS == 1) {
        tma_load(shared, map, barrier, x, y, z);
    } else {
        asm volatile("cp.async.bulk.tensor.3d.cta_group::2.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                     "[%0], [%1, {%3, %4, %5}], [%2];"
                     :: "r"(shared), "l"(&map), "r"(cluster_address(barrier, 0)), "r"(x), "r"(y), "r"(z) : "memory");
    }
}

}  // namespace ptx
