// Where a tile's bytes lie in shared memory, and how a warp's accumulators become rows of C.
#pragma once

#include "ptx.cuh"

namespace layout {

using ptx::u32;

// Byte offset of (row, byte) in a tile of ROW_BYTES a row, swizzled in units of UNIT bytes: each row's units are xored
// with a number that differs between the rows that share the 32 banks' 128 bytes, so that one column of units, read
// down consecutive rows, meets no bank twice. Hence swizzled(row, byte ^ d) = swizzled(row, byte) ^ d for any d that is
// a multiple of UNIT below ROW_BYTES, and rows 128 / UNIT apart are swizzled alike.
template <int ROW_BYTES, int UNIT>
__device__ constexpr u32 swizzled(int row, int byte) {
    constexpr int UNITS = ROW_BYTES / UNIT;
    constexpr int UNITS_A_LINE = 128 / UNIT;
    constexpr int PERIOD = UNITS < UNITS_A_LINE ? UNITS : UNITS_A_LINE;
    constexpr int ROWS_A_LINE = UNITS_A_LINE / PERIOD;
    const int unit = (row / ROWS_A_LINE) % PERIOD;
    return static_cast<u32>(row * ROW_BYTES + (byte ^ (unit * UNIT)));
}

// Which columns of a 32-column group the accumulators of its four n8 tiles stand for.
enum class Columns {
    Natural,      // tile j, column c: 8j + c
    Interleaved,  // tile j, column c: 4c + j
};

// A 4x4 transpose over the four lanes of a quad: word[i] of lane t becomes word[t] of lane i.
__device__ __forceinline__ void transpose_quad(u32 (&word)[4], int lane) {
#pragma unroll
    for (int distance = 1; distance <= 2; distance *= 2) {
        const bool upper = lane & distance;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i & distance) continue;
            const u32 received = __shfl_xor_sync(~0u, upper ? word[i] : word[i + distance], distance);
            (upper ? word[i] : word[i + distance]) = received;
        }
    }
}

// Columns 8t … 8t + 7 (t = lane % 4) of one row of a 32-column group as Element (halves.cuh), from the accumulators of its four
// tiles; `half` picks row lane / 4 (0) or 8 below it (1). Every lane of the warp takes part.
template <Columns COLUMNS, typename Element>
__device__ __forceinline__ void eight_columns(u32 (&out)[4], const float (*tiles)[4], int half, int lane) {
    if constexpr (COLUMNS == Columns::Interleaved) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int first = 2 * (i % 2);
            out[i] = Element::pack(tiles[first][2 * half + i / 2], tiles[first + 1][2 * half + i / 2]);
        }
    } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) out[j] = Element::pack(tiles[j][2 * half], tiles[j][2 * half + 1]);
        transpose_quad(out, lane);
    }
}

// Stores eight adjacent columns of 16 bits, of which the first `inside` exist, WIDTH (1, 2, 4 or 8) at once.
template <int WIDTH>
__device__ __forceinline__ void store_columns(ptx::u16* c, const u32 (&columns)[4], int inside) {
    if constexpr (WIDTH == 8) {
        if (inside >= 8) *reinterpret_cast<uint4*>(c) = make_uint4(columns[0], columns[1], columns[2], columns[3]);
    } else if constexpr (WIDTH == 4) {
        if (inside >= 4) *reinterpret_cast<uint2*>(c) = make_uint2(columns[0], columns[1]);
        if (inside >= 8) *reinterpret_cast<uint2*>(c + 4) = make_uint2(columns[2], columns[3]);
    } else if constexpr (WIDTH == 2) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (inside >= 2 * i + 2) *reinterpret_cast<u32*>(c + 2 * i) = columns[i];
        }
    } else {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if (inside > i) c[i] = static_cast<ptx::u16>(columns[i / 2] >> (16 * (i % 2)));
        }
    }
}

// Stores a warp's sums of m16n8k16 products, which begin at (row, column) of C [m, n]: TILES of 16 rows, each of GROUPS of 32 columns,
// WIDTH (1, 2, 4 or 8) of them at once.
template <Columns COLUMNS, typename Element, int WIDTH, int TILES, int GROUPS>
__device__ __forceinline__ void store_fragments(ptx::u16* c, const float (*sums)[4], int m, int n, int row, int column, int lane) {
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int lane_row = row + 16 * i + 8 * half + lane / 4;
#pragma unroll
            for (int group = 0; group < GROUPS; ++group) {
                const int lane_column = column + 32 * group + 8 * (lane % 4);
                u32 columns[4];
                eight_columns<COLUMNS, Element>(columns, sums + (i * GROUPS + group) * 4, half, lane);
                ptx::u16* row_of_c = c + static_cast<long long>(lane_row) * n;
                if (lane_row < m) store_columns<WIDTH>(row_of_c + lane_column, columns, n - lane_column);
            }
        }
    }
}

}  // namespace layout
