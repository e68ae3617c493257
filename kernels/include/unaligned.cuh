// Copies tiles of matrices whose rows the copy engine does not take, since they do not begin 16-byte aligned, to where it would put
// them: panels of rows of 64 or 128 bytes, swizzled. The matrix itself begins 16-byte aligned. A warp copies a tile by itself, and
// asynchronously, so that no register waits for memory; what lies outside the matrix becomes zero.
//
// Rows that begin 4- or 8-byte aligned go to their places in vectors of as many bytes. Of others a warp asks for the aligned words of 16
// bytes that hold the panel's part of each row, one more than the panel's rows have, and once these have come, it shifts each row into
// its place. Both lie in the same memory: row y of what was asked for begins where row y belongs, or behind, so that rows which are
// shifted in their order overwrite none that is still to be read.
//
// What bounds it is the way of sectors from L2, in cycles for 128 rows of 128 bytes that every multiprocessor of an H200 fetches at once, out
// of L2 (out of memory), by four warps: rows aligned to 8 bytes 557 (1053), to 4 bytes 616 (1147); the copy engine takes 449 (941) where rows
// begin at multiples of 128 bytes and 578 (952) at others of 16. Rows that are shifted take 1325 (1490), of which 400 are the shifting; by
// eight warps 1115 (1263). The engine cannot shift: to it a tile that begins at no multiple of 16 bytes of its row is an illegal instruction.
#pragma once

#include "layout.cuh"
#include "ptx.cuh"
#include "words.cuh"

namespace unaligned {

using ptx::u32;
using words::Word;
using words::WORD_BYTES;
using byte = unsigned char;
using i64 = long long;

constexpr int PANEL_ALIGNMENT = 1024;  // of swizzled panels

// Whether rows that are aligned to so many bytes have to be shifted into place.
__device__ constexpr bool is_shifted(int vector_bytes) { return vector_bytes < 4; }

// Bytes of a panel; one whose rows are shifted has room for the words that were asked for.
template <int ROWS, int WIDTH, int VECTOR_BYTES>
constexpr int PANEL_BYTES = !is_shifted(VECTOR_BYTES)
                                ? ROWS * WIDTH
                                : (ROWS * (WIDTH + WORD_BYTES) + PANEL_ALIGNMENT - 1) / PANEL_ALIGNMENT * PANEL_ALIGNMENT;

// How a warp's lanes share a panel's rows: BYTES each, so many rows at once.
template <int WIDTH, int BYTES>
struct Lane {
    static constexpr int A_ROW = WIDTH / BYTES;
    static constexpr int ROWS = 32 / A_ROW;

    int row, byte_in_row;

    __device__ __forceinline__ explicit Lane(int lane) : row(lane / A_ROW), byte_in_row(lane % A_ROW * BYTES) {}
};

// A panel's part of a matrix: where it begins, bytes from row to row, where the matrix ends, and how many rows and how many bytes of each
// there are from where it begins.
struct Part {
    const byte* first;
    i64 row_bytes;
    const byte* end;
    int rows, bytes;
};

// Copies a panel of ROWS rows, VECTOR_BYTES at a time.
template <int ROWS, int WIDTH, int VECTOR_BYTES>
__device__ __forceinline__ void copy_panel(u32 shared, const Part& part, int lane) {
    using Share = Lane<WIDTH, VECTOR_BYTES>;
    static_assert(ROWS % Share::ROWS == 0, "a warp's lanes share whole rows");
    const Share mine(lane);
    const byte* at = part.first + mine.row * part.row_bytes + mine.byte_in_row;
    const auto target = [&](int row) { return shared + layout::swizzled<WIDTH, WORD_BYTES>(row, mine.byte_in_row); };
    if (part.rows >= ROWS && part.bytes >= WIDTH) {
#pragma unroll 8
        for (int row = 0; row < ROWS; row += Share::ROWS, at += Share::ROWS * part.row_bytes) {
            ptx::cp_async<VECTOR_BYTES>(target(row + mine.row), at);
        }
    } else {
#pragma unroll 1
        for (int row = 0; row < ROWS; row += Share::ROWS, at += Share::ROWS * part.row_bytes) {
            const bool inside = row + mine.row < part.rows && mine.byte_in_row < part.bytes;
            ptx::cp_async<VECTOR_BYTES>(target(row + mine.row), at, inside ? VECTOR_BYTES : 0);
        }
    }
}

// Where the word that holds a byte begins.
__device__ __forceinline__ const byte* word_of(const byte* at) {
    return reinterpret_cast<const byte*>(reinterpret_cast<unsigned long long>(at) & -static_cast<unsigned long long>(WORD_BYTES));
}

// Asks for a word of a matrix that ends at `end`; zeros stand for what lies behind, of which nothing is read.
__device__ __forceinline__ void ask_for_word(u32 shared, const byte* word, const byte* end) {
    const i64 left = end - word;
    ptx::cp_async<WORD_BYTES>(shared, word, left >= WORD_BYTES ? WORD_BYTES : left > 0 ? static_cast<int>(left) : 0);
}

// Asks for the words of a panel of ROWS rows.
template <int ROWS, int WIDTH>
__device__ __forceinline__ void ask_for_panel(u32 shared, const Part& part, int lane) {
    using Share = Lane<WIDTH, WORD_BYTES>;
    static_assert(ROWS % Share::ROWS == 0, "a warp's lanes share whole rows");
    const Share mine(lane);
    const byte* at = part.first + mine.row * part.row_bytes;
    const u32 target = shared + mine.row * (WIDTH + WORD_BYTES) + mine.byte_in_row;
    // Most panels end well before the matrix does: then every word is there.
    if (part.end - part.first >= ROWS * part.row_bytes + WIDTH + WORD_BYTES) {
#pragma unroll 4
        for (int row = 0; row < ROWS; row += Share::ROWS, at += Share::ROWS * part.row_bytes) {
            ptx::cp_async<WORD_BYTES>(target + row * (WIDTH + WORD_BYTES), word_of(at) + mine.byte_in_row);
        }
    } else {
#pragma unroll 1
        for (int row = 0; row < ROWS; row += Share::ROWS, at += Share::ROWS * part.row_bytes) {
            ask_for_word(target + row * (WIDTH + WORD_BYTES), word_of(at) + mine.byte_in_row, part.end);
        }
    }
    // The words behind, which rows that happen to be aligned have no use for.
#pragma unroll 2
    for (int row = lane; row < ROWS; row += 32) {
        const byte* begin = part.first + row * part.row_bytes;
        if (begin != word_of(begin)) ask_for_word(shared + row * (WIDTH + WORD_BYTES) + WIDTH, word_of(begin) + WIDTH, part.end);
    }
}

// Shifts the rows of a panel whose words have come, as seen by all lanes of the warp, into their places. The first begins `first` bytes
// into a word, and the others `row_bytes` further each. CUT says that no more than `bytes` of a row exist.
template <int ROWS, int WIDTH, bool CUT>
__device__ __forceinline__ void shift_panel(u32 shared, u32 first, u32 row_bytes, int bytes, int lane) {
    using Share = Lane<WIDTH, WORD_BYTES>;
    constexpr int AT_ONCE = CUT ? 1 : ROWS % (4 * Share::ROWS) == 0 ? 4 : ROWS % (2 * Share::ROWS) == 0 ? 2 : 1;
    const Share mine(lane);
#pragma unroll 1
    for (int begin = mine.row; begin < ROWS; begin += AT_ONCE * Share::ROWS) {
        Word words[AT_ONCE], behind[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const u32 word = shared + (begin + i * Share::ROWS) * (WIDTH + WORD_BYTES) + mine.byte_in_row;
            words[i] = ptx::load_shared_u128(word), behind[i] = ptx::load_shared_u128(word + WORD_BYTES);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            const int row = begin + i * Share::ROWS;
            words[i] = words::shifted(words[i], behind[i], (first + row * row_bytes) % WORD_BYTES);
            if (CUT) words[i] = words::first_bytes(words[i], bytes - mine.byte_in_row);
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {
            ptx::store_shared(shared + layout::swizzled<WIDTH, WORD_BYTES>(begin + i * Share::ROWS, mine.byte_in_row), words[i]);
        }
        __syncwarp();
    }
}

// Begins to copy the tile that begins at (row, column_byte) of a matrix; the panels of Tile are of COUNT, each of ROWS rows of WIDTH
// bytes, PANEL_BYTES apart, and its rows are aligned to VECTOR_BYTES.
template <typename Tile>
__device__ __forceinline__ void begin_tile(u32 shared, const byte* matrix, int rows, int row_bytes, int row, int column_byte, int lane) {
    const byte* first = matrix + static_cast<i64>(row) * row_bytes + column_byte;
    const byte* end = matrix + static_cast<i64>(rows) * row_bytes;
#pragma unroll 1
    for (int panel = 0; panel < Tile::COUNT; ++panel, shared += Tile::PANEL_BYTES, first += Tile::WIDTH, column_byte += Tile::WIDTH) {
        const Part part{first, row_bytes, end, rows - row, row_bytes - column_byte};
        if constexpr (is_shifted(Tile::VECTOR_BYTES)) {
            ask_for_panel<Tile::ROWS, Tile::WIDTH>(shared, part, lane);
        } else {
            copy_panel<Tile::ROWS, Tile::WIDTH, Tile::VECTOR_BYTES>(shared, part, lane);
        }
    }
}

// What is left to do once the same has come, as seen by all lanes of the warp.
template <typename Tile>
__device__ __forceinline__ void settle_tile(u32 shared, int row_bytes, int row, int column_byte, int lane) {
    if constexpr (!is_shifted(Tile::VECTOR_BYTES)) return;
    const u32 first = static_cast<u32>(row) * row_bytes + column_byte;
#pragma unroll 1
    for (int panel = 0; panel < Tile::COUNT; ++panel, shared += Tile::PANEL_BYTES, column_byte += Tile::WIDTH) {
        const int bytes = row_bytes - column_byte;
        if (bytes >= Tile::WIDTH) {
            shift_panel<Tile::ROWS, Tile::WIDTH, false>(shared, first, row_bytes, bytes, lane);
        } else {
            shift_panel<Tile::ROWS, Tile::WIDTH, true>(shared, first, row_bytes, bytes, lane);
        }
    }
}

}  // namespace unaligned
