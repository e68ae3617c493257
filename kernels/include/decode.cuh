// Weight formats: how a group of 32 columns of B, one k16 step deep, gets from its bytes in shared memory to the fragments of
// four n8 tiles, in the type of the activations (`Element`: halves.cuh). A policy has
//   K_PER_ROW, COLUMN_BYTES  weights along k in one row of B's bytes, and bytes of one column of it;
//   SWIZZLE_UNIT             the unit of layout::swizzled its reads need;
//   COLUMNS                  which columns the fragments' lanes stand for;
//   DECODED                  whether the bytes are not yet what the tensor cores take;
//   SCALE                    what sums of the fragments' products are to be multiplied by: a power of two;
//   DUPLICATE_COST           what reading and decoding B costs a warp, in reads of as large a piece of A;
//   SCALE_BYTES, ZERO_BYTES  of a column's scale, and of its zero point, for a group of weights along k: 0 where there is none;
//   Scales<COLUMNS>          those of so many adjacent columns in registers, as `unpack` wants them;
//   RowScales                those of eight adjacent columns, as `decode_rows` wants them;
//   ROWS_SCALE               as SCALE, of products of what `decode_rows` makes;
//   Raw                      a group's bytes as the lane read them;
//   lane_offset<ROW_BYTES>   where this lane reads the group that begins at a column, on the tile's first k16 step;
//   load<ROW_BYTES>          Raw from there, `step` k16 steps further down;
//   decode                   Raw to fragments b[tile][register] as ptx::mma_m16n8k16 takes them;
//   decode_rows              eight adjacent columns of one row of bytes, two a register, to the K_PER_ROW rows of Element they stand for.
// The next group's address is the last one's with its bits xored by 32 * COLUMN_BYTES * group.
#pragma once

#include "halves.cuh"
#include "layout.cuh"
#include "ptx.cuh"

namespace decode {

using ptx::u32;

// What formats have in registers that have neither scales nor zero points.
struct NoScales {
    __device__ __forceinline__ void load(u32, u32) {}
};

// 16-bit weights, one row of B for each k: transposing matrix loads put adjacent k into one register.
struct Wide {
    static constexpr int K_PER_ROW = 1;
    static constexpr int COLUMN_BYTES = 2;
    static constexpr int SWIZZLE_UNIT = 16;
    static constexpr layout::Columns COLUMNS = layout::Columns::Natural;
    static constexpr float SCALE = 1;
    static constexpr float ROWS_SCALE = 1;
    static constexpr int SCALE_BYTES = 0;
    static constexpr int ZERO_BYTES = 0;

    template <int>
    using Scales = NoScales;
    using RowScales = NoScales;

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

// The activations' own type, taken as it is.
template <typename Element>
struct Same : Wide {
    static constexpr bool DECODED = false;
    static constexpr int DUPLICATE_COST = 1;

    __device__ static void decode(u32 (&b)[4][2], const Raw& raw, const NoScales&) {
#pragma unroll
        for (int i = 0; i < 8; ++i) b[i / 2][i % 2] = raw.word[i / 4][i % 4];
    }

    __device__ static void decode_rows(u32 (&rows)[1][4], const u32 (&raw)[4], const NoScales&) {
#pragma unroll
        for (int i = 0; i < 4; ++i) rows[0][i] = raw[i];
    }
};
template <typename Element>
using Bf16 = Same<Element>;
template <typename Element>
using F16 = Same<Element>;

// int16, rounded to nearest even.
template <typename Element>
struct Int16 : Wide {
    static constexpr bool DECODED = true;
    static constexpr int DUPLICATE_COST = 3;

    __device__ static void decode(u32 (&b)[4][2], const Raw& raw, const NoScales&) {
#pragma unroll
        for (int i = 0; i < 8; ++i) b[i / 2][i % 2] = round_pair(raw.word[i / 4][i % 4]);
    }

    __device__ static void decode_rows(u32 (&rows)[1][4], const u32 (&raw)[4], const NoScales&) {
#pragma unroll
        for (int i = 0; i < 4; ++i) rows[0][i] = round_pair(raw[i]);
    }

    // x + 2^15 in the low mantissa bits of 2^23 is the float 2^23 + 2^15 + x, exactly.
    __device__ static u32 round_pair(u32 pair) {
        constexpr u32 TWO_TO_23 = 0x4B000000u;
        constexpr float OFFSET = 8388608.0f + 32768.0f;
        const u32 biased = pair ^ 0x80008000u;
        const float low = __uint_as_float(ptx::permute_bytes(biased, TWO_TO_23, 0x7610)) - OFFSET;
        const float high = __uint_as_float(ptx::permute_bytes(biased, TWO_TO_23, 0x7632)) - OFFSET;
        return Element::pack(low, high);
    }
};

// Words of shared memory, as many as so many bytes are.
template <int BYTES>
__device__ __forceinline__ void load_words(u32 (&words)[(BYTES + 3) / 4], u32 address) {
    if constexpr (BYTES == 2) {
        words[0] = ptx::load_shared_u16(address);
    } else if constexpr (BYTES == 4) {
        words[0] = ptx::load_shared(address);
    } else if constexpr (BYTES == 8) {
        const uint2 pair = ptx::load_shared_u64(address);
        words[0] = pair.x, words[1] = pair.y;
    } else {
        static_assert(BYTES == 16, "2, 4, 8 or 16 bytes");
        const uint4 four = ptx::load_shared_u128(address);
        words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
    }
}

// 4-bit weights, two along k a byte, low nibble first: a byte is one fragment register's pair. A lane reads 32-bit
// words of four adjacent columns, one for each tile, so that column 4g + j of the group is lane g's column of tile j.
// Format::unpack makes the pairs of a word's four bytes, 1 / SCALE of what they stand for; byte j is of the column `first` + j of
// those that the scales are for, which begin anew after the last. It works on all eight codes of the
// word while it can: the integer units take two cycles for an instruction, and a stream of weights keeps them busiest.
template <typename Format>
struct Packed {
    static constexpr int K_PER_ROW = 2;
    static constexpr int COLUMN_BYTES = 1;
    static constexpr int SWIZZLE_UNIT = 32;
    static constexpr layout::Columns COLUMNS = layout::Columns::Interleaved;
    static constexpr bool DECODED = true;
    static constexpr int DUPLICATE_COST = 3;
    static constexpr float ROWS_SCALE = 1;
    static constexpr int SCALE_BYTES = 0;
    static constexpr int ZERO_BYTES = 0;

    template <int>
    using Scales = NoScales;
    using RowScales = NoScales;

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

    template <typename Scales>
    __device__ static void decode(u32 (&b)[4][2], const Raw& raw, const Scales& scales) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            u32 pairs[4];
            Format::unpack(pairs, raw.word[r], scales, 0);
#pragma unroll
            for (int j = 0; j < 4; ++j) b[j][r] = pairs[j];
        }
    }

    // Of two columns and one weight along k at a time: Format::spread has their codes where Format::pair takes them, with the
    // scales of pair i of the eight columns.
    template <typename RowScales>
    __device__ static void decode_rows(u32 (&rows)[2][4], const u32 (&raw)[2], const RowScales& scales) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const u32 low = raw[i / 2] << Format::CODE_AT, high = raw[i / 2] >> (4 - Format::CODE_AT);
            rows[0][i] = Format::pair(Format::spread(low, i % 2), scales, i);
            rows[1][i] = Format::pair(Format::spread(high, i % 2), scales, i);
        }
    }
};

// The codes of a word's four bytes, by the activations' type. In each half of [j] is a number that a constant for that half makes
// the unsigned code of byte j plus another constant; FLIP's bits of each code are flipped first.
template <typename Element, u32 FLIP>
struct UnsignedCodes;

// A code alone in the low byte of a half is a subnormal, 2^-133 of the code, or 2^-129 where it lies in the byte's upper nibble;
// the largest power of two leaves 2^-6 of it.
template <u32 FLIP>
struct UnsignedCodes<halves::bf16, FLIP> {
    u32 low, high;

    __device__ __forceinline__ explicit UnsignedCodes(u32 word)
        : low(ptx::and_xor(word, 0x0F0F0F0Fu, FLIP * 0x01010101u)),
          high(ptx::and_xor(word, 0xF0F0F0F0u, FLIP * 0x10101010u)) {}

    __device__ __forceinline__ u32 operator[](int j) const {
        return ptx::permute_bytes(low, high, 0x8480 + 0x1111 * j);  // the sign of a byte of `low` is zeros
    }
};

// A code in the last bits of 1024 is 1024 and the code; in the four bits above these, 1024 and 16 times the code.
template <u32 FLIP>
struct UnsignedCodes<halves::f16, FLIP> {
    u32 word;

    __device__ __forceinline__ explicit UnsignedCodes(u32 word_) : word(word_) {}

    __device__ __forceinline__ u32 operator[](int j) const {
        return ptx::and_xor(ptx::permute_bytes(word, word, 0x1111 * j), 0x00F0000Fu, 0x64006400u ^ FLIP ^ FLIP << 20);
    }
};

// Codes of two columns from the low nibbles of a word's bytes: in both halves 128 and the unsigned code, or 1024 and the code where
// that is f16's; FLIP's bits of each code are flipped first.
template <typename Element, u32 FLIP>
struct UnsignedPairs {
    static constexpr int CODE_AT = 0;
    static constexpr u32 LARGE = Element::IS_BF16 ? 0x43004300u : 0x64006400u;
    static constexpr u32 MINUS_LARGE = LARGE | 0x80008000u;
    static constexpr u32 ONE = Element::IS_BF16 ? 0x3F803F80u : 0x3C003C00u;

    // Of bytes 0 and 1, or 2 and 3.
    __device__ __forceinline__ static u32 spread(u32 word, int second) {
        const u32 codes = ptx::permute_bytes(word, word, second ? 0x3322 : 0x1100);
        return ptx::and_xor(codes, 0x000F000Fu, LARGE ^ FLIP * 0x00010001u);
    }
};

// Two's complement int4.
template <typename Element>
struct Int4 : Packed<Int4<Element>>, UnsignedPairs<Element, 8> {
    static constexpr float SCALE = Element::IS_BF16 ? 64 : 1;

    // Flipping a code's bit 3 adds 8.
    __device__ static void unpack(u32 (&pairs)[4], u32 word, const NoScales&, int) {
        const UnsignedCodes<Element, 8> codes(word);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if constexpr (Element::IS_BF16) {
                constexpr u32 TWO_TO_123_AND_127 = 0x7D007F00u, MINUS_EIGHT_64THS = 0xBE00BE00u;
                pairs[j] = Element::fma(codes[j], TWO_TO_123_AND_127, MINUS_EIGHT_64THS);
            } else {
                constexpr u32 SIXTEENTH_AND_ONE = 0x2C003C00u, MINUS_72_AND_1032 = 0xD480E408u;
                pairs[j] = Element::fma(codes[j], SIXTEENTH_AND_ONE, MINUS_72_AND_1032);
            }
        }
    }

    // Flipping bit 3 has added 8.
    __device__ __forceinline__ static u32 pair(u32 codes, const NoScales&, int) {
        using Pairs = UnsignedPairs<Element, 8>;
        return Element::fma(codes, Pairs::ONE, Pairs::MINUS_LARGE + 0x00080008u);
    }
};

// int4 with a scale of the activations' type for a group along k: two's complement, or with a zero point of four bits, a byte each,
// unsigned: (code - zero) * scale, rounded once.
//
// bf16 without zero points: scales are 2^-60 ... 2^60, or zero. The scale is a factor of the constants that a pair is made with,
// since eight times it is no longer than it is. With zero points, a second product has it.
template <typename Element, bool WITH_ZEROS>
struct ScaledInt4 : Packed<ScaledInt4<Element, WITH_ZEROS>>, UnsignedPairs<Element, WITH_ZEROS ? 0 : 8> {
    static constexpr bool FOLDED = Element::IS_BF16 && !WITH_ZEROS;
    static constexpr float SCALE = FOLDED ? 0x1p66f : Element::IS_BF16 ? 64 : 1;
    static constexpr int SCALE_BYTES = 2;
    static constexpr int ZERO_BYTES = WITH_ZEROS ? 1 : 0;

    template <int COLUMNS>
    struct Scales {
        u32 factor[COLUMNS];
        u32 offset[FOLDED || WITH_ZEROS ? COLUMNS : 1];

        __device__ __forceinline__ void load(u32 scales, u32 zeros) {
            u32 words[COLUMNS / 2];
            load_words<2 * COLUMNS>(words, scales);
            u32 zero_words[(COLUMNS + 3) / 4];
            if constexpr (WITH_ZEROS) load_words<COLUMNS>(zero_words, zeros);
#pragma unroll
            for (int i = 0; i < COLUMNS; ++i) {
                const u32 scale = ptx::permute_bytes(words[i / 2], words[i / 2], i % 2 == 0 ? 0x1010 : 0x3232);
                if constexpr (FOLDED) {
                    constexpr u32 TWO_TO_63_AND_67 = 0x5F006100u, MINUS_8_TIMES_TWO_TO_MINUS_66 = 0xA000A000u;
                    factor[i] = Element::multiply(scale, TWO_TO_63_AND_67);
                    offset[i] = Element::multiply(scale, MINUS_8_TIMES_TWO_TO_MINUS_66);
                } else {
                    factor[i] = scale;
                    if constexpr (WITH_ZEROS) offset[i] = minus_zero_point(zero_words[i / 4], i % 4);
                }
            }
            if constexpr (!FOLDED && !WITH_ZEROS) offset[0] = 0xD480E408u;  // -(64 + 8) and -(1024 + 8)
        }

        // What is added to a pair of codes in WEIGHT's units.
        __device__ __forceinline__ static u32 minus_zero_point(u32 word, int byte) {
            if constexpr (Element::IS_BF16) {
                constexpr u32 MINUS_TWO_TO_127 = 0xFF00FF00u;  // of a subnormal, 2^-133 of the zero point
                return Element::multiply(ptx::permute_bytes(word, 0, 0x4040 + 0x0101 * byte), MINUS_TWO_TO_127);
            } else {
                return ptx::permute_bytes(word, 0, 0x4440 + byte) * 0x00100001u + 0xD400E400u;
            }
        }
    };

    template <int COLUMNS>
    __device__ static void unpack(u32 (&pairs)[4], u32 word, const Scales<COLUMNS>& scales, int first) {
        const UnsignedCodes<Element, WITH_ZEROS ? 0 : 8> codes(word);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const int column = (first + j) % COLUMNS;
            const u32 factor = scales.factor[column], offset = scales.offset[FOLDED || WITH_ZEROS ? column : 0];
            if constexpr (FOLDED) {
                pairs[j] = Element::fma(codes[j], factor, offset);
            } else {
                constexpr u32 UNIT = Element::IS_BF16 ? 0x7D007F00u : 0x2C003C00u;  // 2^123 and 2^127; 1/16 and 1
                pairs[j] = Element::multiply(Element::fma(codes[j], UNIT, offset), factor);
            }
        }
    }

    struct RowScales {
        u32 factor[4];
        u32 offset[WITH_ZEROS ? 4 : 1];

        __device__ __forceinline__ void load(u32 scales, u32 zeros) {
            load_words<16>(factor, scales);
            constexpr u32 MINUS_LARGE = UnsignedPairs<Element, 0>::MINUS_LARGE;
            if constexpr (WITH_ZEROS) {
                u32 words[2];
                load_words<8>(words, zeros);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    offset[i] = MINUS_LARGE + ptx::permute_bytes(words[i / 2], 0, i % 2 == 0 ? 0x4140 : 0x4342);
                }
            } else {
                offset[0] = MINUS_LARGE + 0x00080008u;
            }
        }
    };

    __device__ __forceinline__ static u32 pair(u32 codes, const RowScales& scales, int i) {
        const u32 offset = scales.offset[WITH_ZEROS ? i : 0];
        return Element::multiply(Element::fma(codes, UnsignedPairs<Element, 0>::ONE, offset), scales.factor[i]);
    }
};
#if defined(ZERO_POINTS)
template <typename Element>
using Int4Group = ScaledInt4<Element, ZERO_POINTS>;
#endif

// The codes of a word's four bytes as bits of Element's that read 1 / FULL of their weights: in each half a byte with a code in its
// upper nibble, and its sign all over the byte above. Some bits further up the sign is still the sign, and the rest lies in the
// last bits of the exponent and the first of the mantissa; codes without exponent bits are subnormal there too.
template <typename Element>
struct E2m1Codes {
    static constexpr u32 FULL = Element::IS_BF16 ? 0x7E807E80u : 0x74007400u;  // 2^126, 2^14
    static constexpr int CODE_AT = 4;

    u32 low, word;

    __device__ __forceinline__ explicit E2m1Codes(u32 word_) : low(word_ << 4), word(word_) {}

    __device__ __forceinline__ u32 operator[](int j) const {
        return place(ptx::permute_bytes(low, word, 0xC480 + 0x1111 * j));
    }

    __device__ __forceinline__ static u32 place(u32 codes) {
        return Element::IS_BF16 ? codes * 4 & 0x81C081C0u : codes * 32 & 0x8E008E00u;
    }

    // Those of two columns, from the upper nibbles of bytes 0 and 1, or 2 and 3.
    __device__ __forceinline__ static u32 spread(u32 word, int second) {
        return place(ptx::permute_bytes(word, word, second ? 0xB3A2 : 0x9180));
    }
};

// E2M1: 0 .5 1 1.5 2 3 4 6, bit 3 = sign.
template <typename Element>
struct Fp4 : Packed<Fp4<Element>> {
    static constexpr float SCALE = 1;

    __device__ static void unpack(u32 (&pairs)[4], u32 word, const NoScales&, int) {
        const E2m1Codes<Element> codes(word);
#pragma unroll
        for (int j = 0; j < 4; ++j) pairs[j] = Element::multiply(codes[j], E2m1Codes<Element>::FULL);
    }

    static constexpr int CODE_AT = E2m1Codes<Element>::CODE_AT;
    __device__ __forceinline__ static u32 spread(u32 word, int second) { return E2m1Codes<Element>::spread(word, second); }

    __device__ __forceinline__ static u32 pair(u32 codes, const NoScales&, int) {
        return Element::multiply(codes, E2m1Codes<Element>::FULL);
    }
};

// E2M1 with scales of a byte. The scale is the factor that the codes' bits are multiplied by, with so much of FULL as a factor
// has room for; products are exact.
template <typename Element, typename Byte>
struct ScaledFp4 : Packed<ScaledFp4<Element, Byte>> {
    static constexpr float SCALE = Byte::SCALE;
    static constexpr float ROWS_SCALE = Byte::SCALE;
    static constexpr int SCALE_BYTES = 1;

    template <int COLUMNS>
    struct Scales {
        u32 factor[COLUMNS];

        __device__ __forceinline__ void load(u32 scales, u32) {
            u32 words[(COLUMNS + 3) / 4];
            load_words<COLUMNS>(words, scales);
#pragma unroll
            for (int i = 0; i < COLUMNS; i += 2) Byte::factors(factor[i], factor[i + 1], words[i / 4], i % 4);
        }
    };

    template <int COLUMNS>
    __device__ static void unpack(u32 (&pairs)[4], u32 word, const Scales<COLUMNS>& scales, int first) {
        const E2m1Codes<Element> codes(word);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            pairs[j] = scaled(codes[j], scales.factor[(first + j) % COLUMNS]);
        }
    }

    __device__ __forceinline__ static u32 scaled(u32 codes, u32 factor) {
        if constexpr (Byte::APART) codes = Element::multiply(codes, E2m1Codes<Element>::FULL);
        return Element::multiply(codes, factor);
    }

    struct RowScales {
        u32 factor[4];

        __device__ __forceinline__ void load(u32 scales, u32) {
            u32 words[2];
            load_words<8>(words, scales);
#pragma unroll
            for (int i = 0; i < 4; ++i) factor[i] = Byte::pair(words[i / 2], 2 * (i % 2));
        }
    };

    static constexpr int CODE_AT = E2m1Codes<Element>::CODE_AT;
    __device__ __forceinline__ static u32 spread(u32 word, int second) { return E2m1Codes<Element>::spread(word, second); }

    __device__ __forceinline__ static u32 pair(u32 codes, const RowScales& scales, int i) {
        return scaled(codes, scales.factor[i]);
    }
};

// E4M3 scales, NaN not among them. In Element's bits they read a power of two of themselves, subnormal ones too.
template <typename Element>
struct E4m3Scale {
    static constexpr bool APART = false;
    static constexpr float SCALE = Element::IS_BF16 ? 512 : 128;

    // Those of a byte and the next, in both halves; as a pair, one in each.
    __device__ __forceinline__ static void factors(u32& first, u32& second, u32 word, int byte) {
        const u32 both = pair(word, byte);
        first = ptx::permute_bytes(both, both, 0x1010);
        second = ptx::permute_bytes(both, both, 0x3232);
    }

    __device__ __forceinline__ static u32 pair(u32 word, int byte) {
        const u32 codes = ptx::permute_bytes(word, 0, 0x9180 + 0x1111 * byte);  // in each half one, its sign all over the byte above
        if constexpr (Element::IS_BF16) {
            constexpr u32 TWO_TO_127 = 0x7F007F00u, TWO_TO_110 = 0x76807680u;
            return Element::multiply(Element::multiply(codes * 16 & 0x87F087F0u, TWO_TO_127), TWO_TO_110);
        } else {
            constexpr u32 TWO_TO_15 = 0x78007800u;
            return Element::multiply(codes * 128 & 0xBF80BF80u, TWO_TO_15);
        }
    }
};
template <typename Element>
using Nvfp4 = ScaledFp4<Element, E4m3Scale<Element>>;

// E8M0 scales, powers of two. bf16: 2^-60 ... 2^60, above which they count as 2^61. f16: those that f16 has; it has the weights'
// own product, since a factor has no room for FULL.
template <typename Element>
struct E8m0Scale {
    static constexpr bool APART = !Element::IS_BF16;
    static constexpr float SCALE = Element::IS_BF16 ? 0x1p60f : 1;

    __device__ __forceinline__ static void factors(u32& first, u32& second, u32 word, int byte) {
        first = factor(ptx::permute_bytes(word, 0, 0x4440 + byte));
        second = factor(ptx::permute_bytes(word, 0, 0x4441 + byte));
    }

    __device__ __forceinline__ static u32 pair(u32 word, int byte) {
        u32 first, second;
        factors(first, second, word, byte);
        return ptx::permute_bytes(first, second, 0x5410);
    }

    __device__ __forceinline__ static u32 factor(u32 code) {
        if constexpr (Element::IS_BF16) {
            constexpr u32 LARGEST = 188, MORE = 66, BOTH = 0x00800080u;  // 2^61; 126 - 60
            return min(code, LARGEST) * BOTH + MORE * BOTH;
        } else {
            const float scale = __uint_as_float(code << 23);
            return Element::pack(scale, scale);
        }
    }
};
template <typename Element>
using Mxfp4 = ScaledFp4<Element, E8m0Scale<Element>>;

}  // namespace decode
