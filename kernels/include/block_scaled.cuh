// Operands with a scale for each group along k, the two formats that both operands of a product come in. Each has
//   GROUP              numbers along k with one scale
//   K_PER_BYTE         numbers in one byte
//   to_f16(out, raw)   four neighbours along k of a lane, K_PER_BYTE to a byte from the lowest bits of `raw` on, as
//                      pairs of f16. Which two go together is the same for both operands. The numbers are exact, times SMALLER;
//   scale(code)        a scale as a float, exactly.
// No code of a number or of a scale may be a NaN, no E4M3 scale is below zero, and a number times its scale is within the range of f32.
//
// Scales lie in blocks of 128 rows by four groups, 512 bytes each, row blocks one after the other: byte 16 (r % 32) + 4 (r / 32) + c
// of a block is row r's scale of group c. Rows are padded to whole blocks, and so are groups. That is what cuBLASLt takes
// (CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3 and VEC32_UE8M0), what torch._scaled_mm takes, and what libraries make of a
// quantizer's row-major scales before they call a kernel, once for weights and with each quantization for activations.
#pragma once

#include "ptx.cuh"

namespace block_scaled {

using ptx::u32;

constexpr int BLOCK_ROWS = 128;
constexpr int BLOCK_GROUPS = 4;
constexpr int BLOCK_BYTES = BLOCK_ROWS * BLOCK_GROUPS;

// Where in its block a row's four scales begin.
__device__ constexpr int row_in_block(int row) { return row % 32 * 16 + row / 32 % 4 * 4; }

// E2M1 with an unsigned E4M3 scale for each 16.
struct Nvfp4 {
    static constexpr int GROUP = 16;
    static constexpr int K_PER_BYTE = 2;
    static constexpr float SMALLER = 0x1p-14f;

    // The exponent and the fraction go below f16's sign as they are; its exponent is counted from 15, E2M1's from 1.
    static __device__ __forceinline__ void to_f16(u32 (&out)[2], u32 raw) {
        const u32 bytes = ptx::permute_bytes(raw, 0, 0x1404);  // two to the upper halves of the halves
        out[0] = (bytes << 4 & 0x80008000u) | (bytes << 1 & 0x0E000E00u);
        out[1] = (bytes & 0x80008000u) | (bytes >> 3 & 0x0E000E00u);
    }

    static __device__ __forceinline__ float scale(u32 code) { return __uint_as_float((code & 127) << 20) * 0x1p120f; }
};

// E4M3 with an E8M0 scale for each 32.
struct Mxfp8 {
    static constexpr int GROUP = 32;
    static constexpr int K_PER_BYTE = 1;
    static constexpr float SMALLER = 0x1p-8f;

    // Likewise; E4M3's exponent is counted from 7.
    static __device__ __forceinline__ void to_f16(u32 (&out)[2], u32 raw) {
        out[0] = (raw << 8 & 0x80008000u) | (raw << 7 & 0x3F803F80u);
        out[1] = (raw & 0x80008000u) | (raw >> 1 & 0x3F803F80u);
    }

    // The least, 2^-127, is no normal float.
    static __device__ __forceinline__ float scale(u32 code) { return __uint_as_float(code == 0 ? 1u << 22 : code << 23); }
};

}  // namespace block_scaled
