// Weight formats: how a group of 32 columns of B, one k16 step deep, gets from its bytes in shared memory to the bf16
// fragments of four n8 tiles. A policy has
//   K_PER_ROW, COLUMN_BYTES  weights along k in one row of B's bytes, and bytes of one column of it;
//   SWIZZLE_UNIT             the unit of layout::swizzled its reads need;
//   COLUMNS                  which columns the fragments' lanes stand for;
//   DECODED                  whether the bytes are not yet what the tensor cores take;
//   SCALE                    what sums of the fragments' products are to be multiplied by: a power of two;
//   DUPLICATE_COST           what reading and decoding B costs a warp, in reads of as large a piece of A;
//   Raw                      a group's bytes as the lane read them;
//   lane_offset<ROW_BYTES>   where this lane reads the group that begins at a column, on the tile's first k16 step;
//   load<ROW_BYTES>          Raw from there, `step` k16 steps further down;
//   decode                   Raw to fragments b[tile][register] as ptx::mma_m16n8k16 takes them;
//   decode_rows              eight adjacent columns of one row of bytes to the K_PER_ROW rows of bf16 they stand for.
// The next group's address is the last one's with its bits xored by 32 * COLUMN_BYTES * group.
#pragma once

#include "layout.cuh"
#include "ptx.cuh"

namespace decode {

using ptx::bf16x2;
using ptx::u32;

// 16-bit weights, one row of B for each k: transposing matrix loads put adjacent k into one register.
struct Wide {
    static constexpr int K_PER_ROW = 1;
    static constexpr int COLUMN_BYTES = 2;
    static constexpr int SWIZZLE_UNIT = 16;
    static constexpr layout::Columns COLUMNS = layout::Columns::Natural;
    static constexpr float SCALE = 1;

    struct Raw {
        u32 word[2][4];
    };

    template <int ROW_BYTES>
    __device__ static u32 lane_offset(int column, int lane) {
        return layout::swizzled<ROW_BYTES, SWIZZLE_UNIT>(lane % 16, column * COLUMN_BYTES + lane / 16 * 16);
    }

    template <int ROW_BYTES>
    __device__ static Raw load(u32 address, int step) {
        Raw raw;
        ptx::ldmatrix_x4_trans(raw.word[0], address + step * 16 * ROW_BYTES);
        ptx::ldmatrix_x4_trans(raw.word[1], (address ^ 32) + step * 16 * ROW_BYTES);
        return raw;
    }
};

// bf16, taken as it is.
struct Bf16 : Wide {
    static constexpr bool DECODED = false;
    static constexpr int DUPLICATE_COST = 1;

    __device__ static void decode(bf16x2 (&b)[4][2], const Raw& raw) {
#pragma unroll
        for (int i = 0; i < 8; ++i) b[i / 2][i % 2] = raw.word[i / 4][i % 4];
    }

    __device__ static void decode_rows(bf16x2 (&rows)[1][4], const u32 (&raw)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) rows[0][i] = raw[i];
    }
};

// int16, rounded to nearest even.
struct Int16 : Wide {
    static constexpr bool DECODED = true;
    static constexpr int DUPLICATE_COST = 3;

    __device__ static void decode(bf16x2 (&b)[4][2], const Raw& raw) {
#pragma unroll
        for (int i = 0; i < 8; ++i) b[i / 2][i % 2] = round_pair(raw.word[i / 4][i % 4]);
    }

    __device__ static void decode_rows(bf16x2 (&rows)[1][4], const u32 (&raw)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) rows[0][i] = round_pair(raw[i]);
    }

    // x + 2^15 in the low mantissa bits of 2^23 is the float 2^23 + 2^15 + x, exactly.
    __device__ static bf16x2 round_pair(u32 pair) {
        constexpr u32 TWO_TO_23 = 0x4B000000u;
        constexpr float OFFSET = 8388608.0f + 32768.0f;
        const u32 biased = pair ^ 0x80008000u;
        const float low = __uint_as_float(ptx::permute_bytes(biased, TWO_TO_23, 0x7610)) - OFFSET;
        const float high = __uint_as_float(ptx::permute_bytes(biased, TWO_TO_23, 0x7632)) - OFFSET;
        return ptx::pack_bf16(low, high);
    }
};

// 4-bit weights, two along k a byte, low nibble first: a byte is one fragment register's pair. A lane reads 32-bit
// words of four adjacent columns, one for each tile, so that column 4g + j of the group is lane g's column of tile j.
// Format::unpack makes the pairs of a word's four bytes, 1 / SCALE of what they stand for. It works on all eight codes of the
// word while it can: the integer units take two cycles for an instruction, and a stream of weights keeps them busiest.
template <typename Format>
struct Packed {
    static constexpr int K_PER_ROW = 2;
    static constexpr int COLUMN_BYTES = 1;
    static constexpr int SWIZZLE_UNIT = 32;
    static constexpr layout::Columns COLUMNS = layout::Columns::Interleaved;
    static constexpr bool DECODED = true;
    static constexpr int DUPLICATE_COST = 3;

    // word[r] holds register r of the four tiles: k = 2t and 2t + 1, then 2t + 8 and 2t + 9.
    struct Raw {
        u32 word[2];
    };

    template <int ROW_BYTES>
    __device__ static u32 lane_offset(int column, int lane) {
        return layout::swizzled<ROW_BYTES, SWIZZLE_UNIT>(lane % 4, column + lane / 4 * 4);
    }

    template <int ROW_BYTES>
    __device__ static Raw load(u32 address, int step) {
        return {{ptx::load_shared(address + (8 * step) * ROW_BYTES),
                 ptx::load_shared(address + (8 * step + 4) * ROW_BYTES)}};
    }

    __device__ static void decode(bf16x2 (&b)[4][2], const Raw& raw) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            bf16x2 pairs[4];
            Format::unpack(pairs, raw.word[r]);
#pragma unroll
            for (int j = 0; j < 4; ++j) b[j][r] = pairs[j];
        }
    }
};

// Two's complement int4.
struct Int4 : Packed<Int4> {
    static constexpr float SCALE = 64;

    // Flipping a code's bit 3 adds 8. A code alone in the low byte of a half is a subnormal, 2^-133 of the code, or 2^-129
    // where it lies in the byte's upper nibble; the largest power of two leaves 2^-6 of it.
    __device__ static void unpack(bf16x2 (&pairs)[4], u32 word) {
        constexpr bf16x2 TWO_TO_123_AND_127 = 0x7D007F00u, MINUS_EIGHT_64THS = 0xBE00BE00u;
        const u32 low = ptx::and_xor(word, 0x0F0F0F0Fu, 0x08080808u);
        const u32 high = ptx::and_xor(word, 0xF0F0F0F0u, 0x80808080u);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const u32 codes = ptx::permute_bytes(low, high, 0x8480 + 0x1111 * j);  // the sign of a byte of `low` is zeros
            pairs[j] = ptx::fma_bf16x2(codes, TWO_TO_123_AND_127, MINUS_EIGHT_64THS);
        }
    }

    __device__ static void decode_rows(bf16x2 (&rows)[2][4], const u32 (&raw)[2]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const u32 low = raw[i / 2], high = raw[i / 2] >> 4;
            rows[0][i] = pair(ptx::permute_bytes(low, low, i % 2 == 0 ? 0x1100 : 0x3322));
            rows[1][i] = pair(ptx::permute_bytes(high, high, i % 2 == 0 ? 0x1100 : 0x3322));
        }
    }

    // The weights themselves, from codes in the low bits of both halves: 128 + (x + 8), with x + 8 in the low mantissa bits
    // of 128; flipping bit 3 adds the 8.
    __device__ static bf16x2 pair(u32 codes) {
        constexpr bf16x2 ONE = 0x3F803F80u, MINUS_136 = 0xC308C308u;
        return ptx::fma_bf16x2(ptx::and_xor(codes, 0x000F000Fu, 0x43084308u), ONE, MINUS_136);
    }
};

// E2M1: 0 .5 1 1.5 2 3 4 6, bit 3 = sign.
struct Fp4 : Packed<Fp4> {
    static constexpr float SCALE = 1;

    __device__ static void unpack(bf16x2 (&pairs)[4], u32 word) {
        const u32 low = word << 4;
#pragma unroll
        for (int j = 0; j < 4; ++j) pairs[j] = pair(ptx::permute_bytes(low, word, 0xC480 + 0x1111 * j));
    }

    __device__ static void decode_rows(bf16x2 (&rows)[2][4], const u32 (&raw)[2]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const u32 selector = i % 2 == 0 ? 0x9180 : 0xB3A2;
            const u32 low = raw[i / 2] << 4, high = raw[i / 2];
            rows[0][i] = pair(ptx::permute_bytes(low, low, selector));
            rows[1][i] = pair(ptx::permute_bytes(high, high, selector));
        }
    }

    // In each half a byte with a code in its upper nibble, and its sign all over the byte above. Two bits further up the sign
    // is still the sign, and the rest lies in the last bits of the exponent and the first of the mantissa, where it reads
    // 2^-126 of the weight; codes without exponent bits are subnormal there too.
    __device__ static bf16x2 pair(u32 codes) {
        constexpr bf16x2 TWO_TO_126 = 0x7E807E80u, ZERO = 0x80008000u;
        return ptx::fma_bf16x2(codes * 4 & 0x81C081C0u, TWO_TO_126, ZERO);
    }
};

}  // namespace decode
