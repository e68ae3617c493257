// The support kernels on the host, with one thread in all: fills and comparisons asked for line by line on standard input.
//
//   fill TYPE NUMEL SEED FILL FIRST SECOND COLS Q_SEQ KV_SEQ   -> the elements' bits
//   compare bf16|f32 OUT_BITS REFERENCE_BITS ALLOWED_BITS                 -> poisoned beyond worst from_first
//   compare_other f16|fp8|f64|i64, as compare                             -> poisoned beyond
//   realign ROWS ROW_BYTES                                               -> the copied rows' bytes, which were 1, 2, 3, ... before
//   alter NUMEL FIRST SECOND PITCH COLUMNS ROWS CHANGE                    -> the bytes, which were 1, 2, 3, ... before

#include <cmath>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline

template <typename To, typename From>
To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}
unsigned __float_as_uint(float value) { return bits_of<unsigned>(value); }
float __uint_as_float(unsigned bits) { return bits_of<float>(bits); }
long long __double_as_longlong(double value) { return bits_of<long long>(value); }
double __longlong_as_double(long long bits) { return bits_of<double>(bits); }

// What every lane but the first has seen.
template <typename Value>
Value __shfl_xor_sync(unsigned, Value, int) {
    return Value(0);
}
template <typename Value>
void atomicAdd(Value* sum, Value value) {
    *sum += value;
}
template <typename Value>
void atomicMax(Value* largest, Value value) {
    if (value > *largest) *largest = value;
}
void __threadfence_system() {}

struct Extent {
    int x;
};
constexpr Extent blockIdx{0}, blockDim{1}, gridDim{1}, threadIdx{0};

namespace ptx {
using bf16 = unsigned short;
float low_to_float(unsigned packed) { return __uint_as_float(packed << 16); }
float high_to_float(unsigned packed) { return __uint_as_float(packed & 0xffff0000u); }
float to_float(bf16 value) { return __uint_as_float(static_cast<unsigned>(value) << 16); }
bf16 to_bf16(float value) {
    const unsigned bits = __float_as_uint(value);
    return value != value ? 0x7fff : static_cast<bf16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
unsigned pack_bf16(float low, float high) { return to_bf16(low) | static_cast<unsigned>(to_bf16(high)) << 16; }
}  // namespace ptx

#include "support.cu"

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
unsigned __funnelshift_r(unsigned low, unsigned high, unsigned bits) {
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) >> bits);
}
namespace ptx {
using u32 = unsigned;
}
#include "realign.cuh"

template <typename Element, typename Kernel>
void fill(Kernel kernel) {
    long long numel, cols, q_seq, kv_seq;
    unsigned long long seed;
    unsigned which;
    float first, second;
    std::cin >> numel >> seed >> which >> first >> second >> cols >> q_seq >> kv_seq;
    std::vector<Element> out(numel);
    kernel(out.data(), numel, seed, which, first, second, cols, q_seq, kv_seq);
    for (const Element element : out) {
        unsigned long long bits = 0;
        std::memcpy(&bits, &element, sizeof(element));
        std::cout << bits << ' ';
    }
}

int main() {
    std::string what, type;
    while (std::cin >> what) {
        if (what == "alter") {
            long long numel, first, second, pitch, columns, rows;
            unsigned change;
            std::cin >> numel >> first >> second >> pitch >> columns >> rows >> change;
            std::vector<unsigned char> bytes(numel);
            for (long long i = 0; i < numel; ++i) bytes[i] = static_cast<unsigned char>(i + 1);
            alter(bytes.data() + first, bytes.data() + second, pitch, columns, rows, change);
            for (const unsigned char byte : bytes) std::cout << static_cast<unsigned>(byte) << ' ';
        } else if (what == "realign") {
            int rows, row_bytes;
            std::cin >> rows >> row_bytes;
            const int pitch = realign::pitch_bytes(row_bytes), bytes = rows * row_bytes;
            // The matrix ends where its memory does, so that a read beyond it is one of poison.
            std::vector<uint4> from(bytes / 16 + 1, uint4{~0u, ~0u, ~0u, ~0u}), to(rows * pitch / 16);
            unsigned char* first = reinterpret_cast<unsigned char*>(from.data());
            for (int i = 0; i < bytes; ++i) first[i] = static_cast<unsigned char>(i % 251 + 1);
            unsigned char* copies = reinterpret_cast<unsigned char*>(to.data());
            realign::copy_rows<1>(copies, first, rows, row_bytes);
            for (int row = 0; row < rows; ++row) {
                for (int i = 0; i < row_bytes; ++i) std::cout << static_cast<int>(copies[row * pitch + i]) << ' ';
            }
        } else if (std::cin >> type; what == "fill") {
            if (type == "bf16") fill<bf16>(fill_bf16);
            if (type == "f32") fill<float>(fill_f32);
            if (type == "i8") fill<unsigned char>(fill_i8);
            if (type == "i16") fill<unsigned short>(fill_i16);
            if (type == "f16") fill<f16>(fill_f16);
            if (type == "f64") fill<double>(fill_f64);
            if (type == "fp8") fill<fp8>(fill_fp8);
            if (type == "u8") fill<unsigned char>(fill_u8);
            if (type == "i32") fill<unsigned>(fill_i32);
            if (type == "i64") fill<unsigned long long>(fill_i64);
        } else if (what == "compare_other") {
            unsigned long long out, reference;
            unsigned allowed;
            std::cin >> out >> reference >> allowed;
            const bf16 limit = static_cast<bf16>(allowed);
            Comparison comparison{};
            const float expected = __uint_as_float(static_cast<unsigned>(reference));
            if (type == "f16") {
                const f16 value{static_cast<unsigned short>(out)};
                compare_f16(&value, &expected, &limit, 1, 0x1p-125f, &comparison);
            }
            if (type == "fp8") {
                const fp8 value{static_cast<unsigned char>(out)};
                compare_fp8(&value, &expected, &limit, 1, 0x1p-125f, &comparison);
            }
            if (type == "f64") {
                const double value = bits_of<double>(out), right = bits_of<double>(reference);
                compare_f64(&value, &right, &limit, 1, 0x1p-125f, &comparison);
            }
            if (type == "i64") {
                const long long value = out, right = reference;
                compare_i64(&value, &right, &limit, 1, 0, &comparison);
            }
            std::cout << comparison.poisoned << ' ' << comparison.beyond;
        } else {
            unsigned out, reference, allowed;
            std::cin >> out >> reference >> allowed;
            const float expected = __uint_as_float(reference), value = __uint_as_float(out);
            const bf16 half = static_cast<bf16>(out), limit = static_cast<bf16>(allowed);
            Comparison comparison{};
            if (type == "bf16") compare_bf16(&half, &expected, &limit, 1, 0x1p-125f, &comparison);
            if (type == "f32") compare_f32(&value, &expected, &limit, 1, 0x1p-125f, &comparison);
            std::cout << comparison.poisoned << ' ' << comparison.beyond << ' ' << comparison.worst << ' ' << comparison.from_first;
        }
        std::cout << '\n';
    }
}
