// How tcgen05 is told of its operands: descriptors. Sections are those of the PTX ISA 9.2 manual.
#pragma once

#include "ptx.cuh"

namespace ptx {

using u64 = unsigned long long;

enum class Major { K = 0, MN = 1 };

// An operand in shared memory with the copy engine's swizzle by its line, 128, 64 or 32 bytes, from a multiple of 1024 bytes.
// Lines lie along the major dimension; 8 lines are a group (9.7.16.5.1):
//   Major::K   128 bytes are 64 of k a line, rows below each other: `stride_bytes` from 8 rows to the next 8. 16 of k on is
//              32 bytes on.
//   Major::MN  64, 32 or 16 rows (or columns) a line, k below each other: `stride_bytes` from 8 of k to the next 8,
//              `leading_bytes` from one line's rows to the next line's. 16 of k on is 16 lines on, where groups of k follow
//              each other.
// Bits (9.7.16.4.1, table 40): 0-13 address, 16-29 leading, 32-45 stride, all in 16 bytes; 46-48 the constant 1; 49-51 base
// offset 0; 52 relative leading offset 0; 61-63 swizzle, 2 for 128 bytes, 4 for 64, 6 for 32.
template <int LINE_BYTES = 128>
__device__ __forceinline__ u64 tcgen05_operand(u32 shared, u32 leading_bytes, u32 stride_bytes) {
    static_assert(LINE_BYTES == 128 || LINE_BYTES == 64 || LINE_BYTES == 32, "swizzled lines: 128, 64 or 32 bytes");
    constexpr u64 SWIZZLE = LINE_BYTES == 128 ? 2 : LINE_BYTES == 64 ? 4 : 6;
    return static_cast<u64>((shared & 0x3FFFFu) >> 4) | static_cast<u64>(leading_bytes >> 4) << 16
         | static_cast<u64>(stride_bytes >> 4) << 32 | u64{1} << 46 | SWIZZLE << 61;
}

// The same operand so many bytes on: an addition to the lower half alone, where no address of shared memory carries into the
// next field.
__device__ __forceinline__ u64 tcgen05_advance(u64 operand, u32 bytes) {
    return (operand >> 32 << 32) | static_cast<u64>(static_cast<u32>(operand) + (bytes >> 4));
}

// The descriptor of bf16, f16 or E4M3 products with f32 sums (9.7.16.4.2, table 42): bits 4-5 sums 1 = f32; 7-9 and 10-12 operands
// 1 = bf16, 0 = f16, or in the kind f8f6f4 0 = E4M3; 15 and 16 the operands' majors; 17-22 N / 8; 24-28 M / 16. M is 128 (in a pair 256), N a multiple of 16 up to
// 256 (9.7.16.2.1).
__device__ constexpr u32 tcgen05_instruction(int m, int n, Major a, Major b, bool is_bf16 = true) {
    const u32 type = is_bf16 ? 1 : 0;
    return 1u << 4 | type << 7 | type << 10 | static_cast<u32>(a) << 15 | static_cast<u32>(b) << 16
         | static_cast<u32>(n / 8) << 17 | static_cast<u32>(m / 16) << 24;
}

}  // namespace ptx
