// Copies matrices whose rows begin anywhere to scratch memory, where rows begin at multiples of 128 bytes: what the copy engine
// takes, and takes fastest, since no 128 bytes of a row then lie in two lines of the cache. All programs of a launch copy
// together and wait for each other, so all must be resident at once. Needs sm_90.
#pragma once

#include "ptx.cuh"
#include "words.cuh"

namespace realign {

using ptx::u32;
using byte = unsigned char;
using i64 = long long;
using words::Word;

constexpr int LINE_BYTES = 128;

// Bytes from one row to the next in scratch.
__device__ __forceinline__ int pitch_bytes(int row_bytes) { return (row_bytes + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES; }

// The 16 bytes at an aligned place, of which at least the first lies before `end`; what lies behind is not read.
__device__ __forceinline__ Word load_word(const byte* at, const byte* end) {
    if (at + sizeof(Word) <= end) return *reinterpret_cast<const Word*>(at);
    u32 words[4] = {};
    // Unrolled, for an array that is indexed by a variable would lie in local memory.
#pragma unroll
    for (int i = 0; i < sizeof(Word); ++i) {
        if (at + i < end) words[i / 4] |= static_cast<u32>(at[i]) << i % 4 * 8;
    }
    return {words[0], words[1], words[2], words[3]};
}

// The 16 bytes at any place before `end`, from the aligned ones that hold them.
__device__ __forceinline__ Word load_anywhere(const byte* at, const byte* end) {
    const int shift = static_cast<int>(reinterpret_cast<unsigned long long>(at) % sizeof(Word));
    const byte* first = at - shift;
    const Word low = load_word(first, end);
    Word high{};
    if (shift != 0 && first + sizeof(Word) < end) high = load_word(first + sizeof(Word), end);
    return words::shifted(low, high, shift);
}

// This program's share of a matrix. What follows a row in scratch, up to the next 16 bytes, is undefined.
template <int THREADS>
__device__ __forceinline__ void copy_rows(byte* to, const byte* from, int rows, int row_bytes) {
    constexpr int AT_ONCE = 4;  // pieces of a thread under way
    const u32 pieces = (row_bytes + sizeof(Word) - 1) / sizeof(Word);  // of a row
    const u32 all = pieces * rows, stride = gridDim.x * THREADS;
    const int pitch = pitch_bytes(row_bytes);
    const byte* end = from + static_cast<i64>(rows) * row_bytes;
    for (u32 first = blockIdx.x * THREADS + threadIdx.x; first < all; first += AT_ONCE * stride) {
        Word words[AT_ONCE];
        byte* places[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const u32 piece = first + i * stride;
            places[i] = nullptr;
            if (piece >= all) continue;
            const u32 row = piece / pieces, column = piece % pieces * sizeof(Word);
            words[i] = load_anywhere(from + static_cast<i64>(row) * row_bytes + column, end);
            places[i] = to + static_cast<i64>(row) * pitch + column;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            if (places[i] != nullptr) *reinterpret_cast<Word*>(places[i]) = words[i];
        }
    }
}

// Holds all threads of the launch until each has come, and makes what they wrote visible to every thread and to its copy engine.
// Of the two counters, zero before, the last to leave makes zeros again.
__device__ __forceinline__ void wait_for_all_programs(u32* counters) {
    asm volatile("fence.proxy.async;" ::: "memory");
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 arrived;
        asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(arrived) : "l"(counters) : "memory");
        ++arrived;
        // Read without order, and ordered once behind: an acquiring load drops the cache's lines each time.
        while (arrived < gridDim.x) {
            asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(counters) : "memory");
        }
        asm volatile("fence.acq_rel.gpu;" ::: "memory");
        u32 left;
        asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(left) : "l"(counters + 1) : "memory");
        if (left + 1 == gridDim.x) counters[0] = 0, counters[1] = 0;
    }
    __syncthreads();
    asm volatile("fence.proxy.async;" ::: "memory");
}

}  // namespace realign
