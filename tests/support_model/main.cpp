// The support kernels on the host, with one thread in all: fills and comparisons asked for line by line on standard input. Tiles are
// copied by a warp of threads.
//
//   fill TYPE NUMEL SEED FILL FIRST SECOND COLS Q_SEQ KV_SEQ   -> the elements' bits
//   compare bf16|f32 OUT_BITS REFERENCE_BITS ALLOWED_BITS                 -> poisoned beyond worst from_first
//   compare_other f16|fp8|f64|i64, as compare                             -> poisoned beyond
//   realign ROWS ROW_BYTES                                               -> the copied rows' bytes, which were 1, 2, 3, ... before
//   tile VECTOR_BYTES TILE_ROWS WIDTH ROWS ROW_BYTES ROW COLUMN_BYTE     -> the bytes of two panels, row by row and not swizzled, of
//                                                                            a matrix whose bytes were 1, 2, 3, ...
//   alter NUMEL FIRST SECOND PITCH COLUMNS ROWS CHANGE                    -> the bytes, which were 1, 2, 3, ... before

#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <mutex>
#include <string>
#include <thread>
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

struct f16 {
    unsigned short bits;
};
float to_float(f16 value) {
    const unsigned sign = (value.bits & 0x8000u) << 16, code = value.bits & 0x7fffu;
    const unsigned exponent = code >> 10, mantissa = code & 0x3ffu;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | mantissa << 13);
    const float magnitude = exponent == 0 ? static_cast<float>(mantissa) * 5.9604644775390625e-8f
                                          : static_cast<float>(mantissa + 1024) * __uint_as_float((exponent + 102) << 23);
    return __uint_as_float(sign | __float_as_uint(magnitude));
}
f16 to_f16(float value) {
    const float magnitude = std::fabs(value);
    const unsigned sign = __float_as_uint(value) >> 16 & 0x8000u;
    unsigned code;
    if (value != value) {
        return {0x7fff};
    } else if (magnitude >= 65520.0f) {
        code = 0x7c00;
    } else if (magnitude < 6.103515625e-5f) {
        code = static_cast<unsigned>(std::rint(magnitude * 16777216));
    } else {
        const unsigned exponent = (__float_as_uint(magnitude) >> 23) - 127 + 15;
        const float scaled = magnitude * __uint_as_float((127 + 25 - exponent) << 23);
        code = exponent * 1024 + static_cast<unsigned>(std::rint(scaled)) - 1024;
    }
    return {static_cast<unsigned short>(code | sign)};
}
unsigned pack_f16(float low, float high) { return to_f16(low).bits | static_cast<unsigned>(to_f16(high).bits) << 16; }
}  // namespace ptx

#include "support.cu"

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
unsigned __funnelshift_r(unsigned low, unsigned high, unsigned bits) {
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) >> bits);
}

// Holds the 32 threads of a warp until all have come.
void __syncwarp() {
    static std::mutex mutex;
    static std::condition_variable all_came;
    static int waiting = 0, round = 0;
    std::unique_lock<std::mutex> lock(mutex);
    const int mine = round;
    if (++waiting == 32) {
        waiting = 0, ++round;
        all_came.notify_all();
    } else {
        all_came.wait(lock, [&] { return round != mine; });
    }
}

namespace ptx {
using u32 = unsigned;
using u16 = unsigned short;

// Shared memory, and a matrix of which nothing behind the end may be read.
alignas(1024) unsigned char shared[64 * 1024];
const unsigned char* end_of_matrix;

template <int BYTES>
void cp_async(u32 to, const void* from, int source_bytes = BYTES) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "4, 8 or 16 bytes");
    const auto* source = static_cast<const unsigned char*>(from);
    const auto place = reinterpret_cast<unsigned long long>(from);
    if (to % BYTES != 0 || source_bytes > 0 && (place % BYTES != 0 || source + source_bytes > end_of_matrix)) {
        std::fprintf(stderr, "a copy of %d bytes is not aligned, or reads behind the matrix\n", BYTES);
        std::_Exit(1);
    }
    std::memset(shared + to, 0, BYTES);
    if (source_bytes > 0) std::memcpy(shared + to, source, source_bytes);
}
uint4 load_shared_u128(u32 from) { return *reinterpret_cast<const uint4*>(shared + from); }
void store_shared(u32 to, uint4 word) { *reinterpret_cast<uint4*>(shared + to) = word; }
}  // namespace ptx
#include "realign.cuh"
#include "unaligned.cuh"

template <int ROWS_, int WIDTH_, int VECTOR_BYTES_>
struct TwoPanels {
    static constexpr int ROWS = ROWS_, WIDTH = WIDTH_, VECTOR_BYTES = VECTOR_BYTES_, COUNT = 2;
    static constexpr int PANEL_BYTES = unaligned::PANEL_BYTES<ROWS, WIDTH, VECTOR_BYTES>;
};

template <typename Tile>
void copy_tile(int rows, int row_bytes, int row, int column_byte) {
    std::vector<uint4> memory(rows * row_bytes / 16 + 1);
    unsigned char* matrix = reinterpret_cast<unsigned char*>(memory.data());
    for (int i = 0; i < rows * row_bytes; ++i) matrix[i] = static_cast<unsigned char>(i % 251 + 1);
    ptx::end_of_matrix = matrix + rows * row_bytes;
    std::memset(ptx::shared, 255, sizeof(ptx::shared));
    std::vector<std::thread> warp;
    for (int lane = 0; lane < 32; ++lane) {
        warp.emplace_back([=] {
            unaligned::begin_tile<Tile>(0, matrix, rows, row_bytes, row, column_byte, lane);
            __syncwarp();
            unaligned::settle_tile<Tile>(0, row_bytes, row, column_byte, lane);
        });
    }
    for (std::thread& lane : warp) lane.join();
    for (int y = 0; y < Tile::ROWS; ++y) {
        for (int x = 0; x < 2 * Tile::WIDTH; ++x) {
            const unsigned place = layout::swizzled<Tile::WIDTH, 16>(y, x % Tile::WIDTH);
            std::cout << static_cast<int>(ptx::shared[x / Tile::WIDTH * Tile::PANEL_BYTES + place]) << ' ';
        }
    }
}

template <int ROWS, int WIDTH>
void copy_tile_by(int vector_bytes, int rows, int row_bytes, int row, int column_byte) {
    if (vector_bytes == 8) copy_tile<TwoPanels<ROWS, WIDTH, 8>>(rows, row_bytes, row, column_byte);
    if (vector_bytes == 4) copy_tile<TwoPanels<ROWS, WIDTH, 4>>(rows, row_bytes, row, column_byte);
    if (vector_bytes < 4) copy_tile<TwoPanels<ROWS, WIDTH, 1>>(rows, row_bytes, row, column_byte);
}

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
        } else if (what == "tile") {
            int vector_bytes, tile_rows, width, rows, row_bytes, row, column_byte;
            std::cin >> vector_bytes >> tile_rows >> width >> rows >> row_bytes >> row >> column_byte;
            if (tile_rows == 8) copy_tile_by<8, 128>(vector_bytes, rows, row_bytes, row, column_byte);
            if (tile_rows == 24) copy_tile_by<24, 128>(vector_bytes, rows, row_bytes, row, column_byte);
            if (tile_rows == 64 && width == 128) copy_tile_by<64, 128>(vector_bytes, rows, row_bytes, row, column_byte);
            if (tile_rows == 64 && width == 64) copy_tile_by<64, 64>(vector_bytes, rows, row_bytes, row, column_byte);
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
