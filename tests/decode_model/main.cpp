// The weight formats of decode.cuh on the host: what a lane makes of words of codes, of scales and of zero points. Of each line of
// standard input
//   BITS_OF_SCALE_0 .. BITS_OF_SCALE_3 ZERO_0 .. ZERO_3 WORD
// it prints the eight weights of the word's four bytes, the low nibble's first, as the fragments hold them and times the format's
// factor: the bits of doubles. Then those of a row of eight columns, which are these four twice, from its rows. WEIGHTS, DTYPE and ZERO_POINTS are the kernels' macros.

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iostream>

#define __device__
#define __forceinline__ inline

struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};

uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

template <typename To, typename From>
To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}
float __uint_as_float(unsigned bits) { return bits_of<float>(bits); }
unsigned __shfl_xor_sync(unsigned, unsigned value, int) { return value; }
unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }

// Shared memory: scales from 0 on, zero points from 256 on.
alignas(16) unsigned char memory[512];

template <typename Word>
Word at(unsigned address) {
    Word word;
    std::memcpy(&word, memory + address, sizeof(word));
    return word;
}

namespace ptx {

using u16 = unsigned short;
using u32 = unsigned;

u32 permute_bytes(u32 low, u32 high, u32 selector) {
    const std::uint64_t bytes = low | std::uint64_t{high} << 32;
    u32 picked = 0;
    for (int i = 0; i < 4; ++i) {
        const u32 nibble = selector >> 4 * i & 15;
        const u32 byte = bytes >> 8 * (nibble & 7) & 255;
        picked |= (nibble < 8 ? byte : byte < 128 ? 0u : 255u) << 8 * i;
    }
    return picked;
}
u32 and_xor(u32 a, u32 b, u32 c) { return (a & b) ^ c; }
u16 load_shared_u16(u32 address) { return at<u16>(address); }
u32 load_shared(u32 address) { return at<u32>(address); }
uint2 load_shared_u64(u32 address) { return at<uint2>(address); }
uint4 load_shared_u128(u32 address) { return at<uint4>(address); }
void ldmatrix_x4_trans(u32 (&)[4], u32) {}
u32 fma_bf16x2(u32, u32, u32) { return 0; }
u32 pack_bf16(float, float) { return 0; }

}  // namespace ptx

// The halves of halves.cuh, by their definition: a number of so many bits is a sign, an exponent and a fraction.
namespace halves {

using ptx::u32;

template <int EXPONENT_BITS, int FRACTION_BITS>
struct Half {
    static constexpr bool IS_BF16 = EXPONENT_BITS == 8;
    static constexpr int BIAS = (1 << (EXPONENT_BITS - 1)) - 1;

    static double number(unsigned bits) {
        const int exponent = bits >> FRACTION_BITS & ((1 << EXPONENT_BITS) - 1);
        const double fraction = bits & ((1 << FRACTION_BITS) - 1);
        const double sign = bits >> 15 & 1 ? -1 : 1;
        if (exponent == (1 << EXPONENT_BITS) - 1) return sign * (fraction == 0 ? INFINITY : NAN);
        const double significand = exponent == 0 ? fraction : fraction + (1 << FRACTION_BITS);
        return sign * std::ldexp(significand, (exponent == 0 ? 1 : exponent) - BIAS - FRACTION_BITS);
    }

    // Nearest, ties to even.
    static unsigned nearest(double value) {
        const unsigned sign = std::signbit(value) ? 0x8000 : 0;
        const double magnitude = std::fabs(value);
        if (value != value) return 0x7fff;
        if (magnitude == 0) return sign;
        int exponent = 0;
        std::frexp(magnitude, &exponent);  // magnitude < 2^exponent
        if (exponent - 1 < 1 - BIAS) exponent = 2 - BIAS;
        const double unit = std::ldexp(1, exponent - 1 - FRACTION_BITS);
        const double units = std::nearbyint(magnitude / unit);
        const unsigned code = static_cast<unsigned>(units) + ((exponent - 2 + BIAS) << FRACTION_BITS);
        const unsigned infinity = ((1 << EXPONENT_BITS) - 1) << FRACTION_BITS;
        return sign | (magnitude == INFINITY || code > infinity ? infinity : code);
    }

    static u32 pack(float low, float high) { return nearest(low) | nearest(high) << 16; }
    static u32 fma(u32 a, u32 b, u32 c) {
        u32 result = 0;
        for (int i = 0; i < 32; i += 16) {
            // long double holds the sum of a product of such numbers and a third one that is near it in size.
            const long double product = static_cast<long double>(number(a >> i & 0xffff)) * number(b >> i & 0xffff);
            result |= nearest(static_cast<double>(product + number(c >> i & 0xffff))) << i;
        }
        return result;
    }
    static u32 multiply(u32 a, u32 b) { return fma(a, b, 0x80008000u); }
};
using bf16 = Half<8, 7>;
using f16 = Half<5, 10>;

}  // namespace halves

#include "decode.cuh"

using Element = halves::DTYPE;
using Weights = decode::WEIGHTS<Element>;

int main() {
    unsigned scales[4], zeros[4], word;
    while (std::cin >> scales[0] >> scales[1] >> scales[2] >> scales[3] >> zeros[0] >> zeros[1] >> zeros[2] >> zeros[3] >> word) {
        for (int i = 0; i < 8; ++i) {
            std::memcpy(memory + i * Weights::SCALE_BYTES, &scales[i % 4], Weights::SCALE_BYTES);  // little-endian
            memory[256 + i] = static_cast<unsigned char>(zeros[i % 4]);
        }
        Weights::Scales<4> of_group;
        of_group.load(0, 256);
        unsigned pairs[4];
        Weights::unpack(pairs, word, of_group, 0);
        for (const unsigned pair : pairs) {
            for (int i = 0; i < 32; i += 16) {
                const double weight = Element::number(pair >> i & 0xffff) * static_cast<double>(Weights::SCALE);
                std::cout << bits_of<std::uint64_t>(weight) << ' ';
            }
        }
        Weights::RowScales of_row;
        of_row.load(0, 256);
        unsigned rows[2][4];
        const unsigned raw[2] = {word, word};
        Weights::decode_rows(rows, raw, of_row);
        for (int column = 0; column < 8; ++column) {
            for (const auto& row : rows) {
                const double weight = Element::number(row[column / 2] >> column % 2 * 16 & 0xffff) * static_cast<double>(Weights::ROWS_SCALE);
                std::cout << bits_of<std::uint64_t>(weight) << ' ';
            }
        }
        std::cout << '\n';
    }
}
