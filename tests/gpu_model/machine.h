// A model of the parts of Hopper and Blackwell GPUs that the kernels for them ask of: it runs a grid and refuses what the PTX ISA does
// not promise to work, even where it would have come out right. In the order in which one builds on the other:
//   clocks.h         who knows of what: the order that signals make, without which two accesses are a race
//   threads.h        threads as fibers, the seeded order in which they and the engines run
//   memory.h         shared and global memory, and their accesses by threads and by engines
//   barriers.h       mbarriers, barriers of warps, programs and clusters
//   tensor_memory.h  allocation, loads and stores, tcgen05 fences
//   copy_engine.h    tensor maps, copies in and out
//   operands.h       descriptors of operands in shared memory
//   tensor_core.h    products in tensor memory, commits
//   warpgroup.h      Hopper's products, whose sums are in registers
//   instructions.h   the PTX of the kernels' `asm` statements
//   machine.cpp      grids: what begins and ends; what kernels call
// Kernels see of it only this file, and host.h for the CUDA C++ around their `asm` statements; then a `main` for each kernel.
// The kernels and their headers are compiled as they are, but that each `asm` statement becomes a call of the model
// (source.rs). `refused: ` and a reason on stderr, and status 1, are how it says no.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace model {

using u32 = uint32_t;
using u64 = unsigned long long;
using Value = unsigned __int128;

// Says no, and ends.
[[noreturn]] void fail(const char* format, ...);

// ---- `asm` statements ----

// An operand of an `asm` statement: its bits, and where the result goes.
struct Argument {
    Value bits;
    void* place;
    size_t bytes;
};
template <typename T>
Argument output(T& variable) {
    Argument argument{0, &variable, sizeof(T)};
    memcpy(&argument.bits, &variable, sizeof(T));
    return argument;
}
template <typename T>
Argument input(const T& value) {
    Argument argument{0, nullptr, sizeof(T)};
    memcpy(&argument.bits, &value, sizeof(T));
    return argument;
}

class Code {
  public:
    struct Parsed;
    explicit Code(const char* text);
    void run(std::vector<Argument> arguments) const;

  private:
    std::shared_ptr<const Parsed> parsed;
};

// ---- What else kernels call, for the thread that runs ----

u32 thread_index();   // in its program
u32 program_index();  // in the grid
u32 programs_of_grid();
unsigned char* shared_symbol();  // what the dynamic shared memory's name stands for; no thread reads or writes there
unsigned char* shared_memory();  // the program's
void sync_program();
void sync_warp(u32 mask);
u64 exchange(u32 mask, u64 value, int from_lane);  // what that lane of the warp gave
void fence_gpu();
u32 atomic_add(u32* pointer, u32 value);
void thread_reads_global(const void* pointer, size_t bytes);
void thread_writes_global(const void* pointer, size_t bytes);

// ---- Launches ----

// What a tensor map says. Extents, strides and tile begin with the fastest.
struct Map {
    uint8_t* base;
    int element_bytes;
    std::vector<int64_t> extents, strides_bytes;  // one stride less
    std::vector<int> tile;
    int swizzle_bytes;  // 0, 32, 64 or 128

    int64_t tile_bytes() const {
        int64_t bytes = element_bytes;
        for (const int extent : tile) bytes *= extent;
        return bytes;
    }
};

struct Launch {
    u32 programs, cluster, threads, shared_bytes;
    u32 at_once = ~0u;          // clusters that fit the GPU together
};

// Whether lanes that went ways of their own count as together where these meet again, as nvcc has it. PTX does not promise it, so what has
// never run on a GPU must not rely on it.
inline bool lanes_reconverge = false;

// Runs `body` in every thread of the grid, in an order that the seed decides.
void run_grid(const Launch& launch, unsigned seed, const std::function<void()>& body);

// Global memory that programs of the grid share: their accesses are followed, in pieces of 4 bytes.
void share(void* begin, size_t bytes);

// ---- Numbers ----

inline float float_of(u32 bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
inline u32 bits_of(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    return bits;
}
inline float from_bf16(u32 bits) { return float_of(bits << 16); }
inline float from_e4m3(u32 code) {
    const u32 exponent = code >> 3 & 15, mantissa = code & 7;
    const float magnitude = exponent == 0 ? mantissa / 512.0f : float_of((exponent + 120) << 23 | mantissa << 20);
    return (code & 127) == 127 ? float_of(0x7FC00000) : code & 128 ? -magnitude : magnitude;
}
inline u32 to_bf16(float value) {
    const u32 bits = bits_of(value);
    return value != value ? 0x7FFF : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

inline float from_f16(u32 bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                                      : std::ldexp(static_cast<float>(fraction + (exponent ? 1024 : 0)), std::max(exponent, 1) - 25);
    return bits >> 15 & 1 ? -size : size;
}
// To nearest even.
inline u32 to_f16(float value) {
    const u32 sign = bits_of(value) >> 31 << 15;
    const float size = std::fabs(value);
    if (size != size) return 0x7FFF;
    if (size == 0) return sign;
    if (size >= 65520) return sign | 0x7C00;
    int exponent = 0;
    std::frexp(size, &exponent);
    const int unit = std::max(exponent, -13) - 11;
    const float steps = std::nearbyint(std::ldexp(size, -unit));
    // A carry out of the fraction is one of the exponent.
    return sign | static_cast<u32>((unit + 24) * 1024 + steps);
}

}  // namespace model

// What an `asm` statement becomes: its text, then its operands in their order, each `output(...)` or `input(...)`.
#define MODEL_ASM(text, ...)                                                                                                   \
    do {                                                                                                                       \
        static const model::Code code(text);                                                                                   \
        code.run({__VA_ARGS__});                                                                                               \
    } while (false)
