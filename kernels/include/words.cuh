// Words of 16 bytes, as they are read and written at once.
#pragma once

#include "ptx.cuh"

namespace words {

using ptx::u32;
using Word = uint4;

constexpr int WORD_BYTES = sizeof(Word);

// The 16 bytes that begin `shift` (0 ... 15) bytes into `low`, of it and of the 16 behind it.
__device__ __forceinline__ Word shifted(const Word& low, const Word& high, u32 shift) {
    u32 words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    if (shift & 8) {
#pragma unroll
        for (int i = 0; i < 6; ++i) words[i] = words[i + 2];
    }
    if (shift & 4) {
#pragma unroll
        for (int i = 0; i < 5; ++i) words[i] = words[i + 1];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = __funnelshift_r(words[i], words[i + 1], shift % 4 * 8);
    return {words[0], words[1], words[2], words[3]};
}

// The first `count` bytes of a word, and zeros behind; all of them where there are as many or more, none where it is negative.
__device__ __forceinline__ Word first_bytes(const Word& word, int count) {
    u32 words[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int left = count - 4 * i;
        if (left < 4) words[i] = left > 0 ? words[i] & (1u << 8 * left) - 1 : 0;
    }
    return {words[0], words[1], words[2], words[3]};
}

}  // namespace words
