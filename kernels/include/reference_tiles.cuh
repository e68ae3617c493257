// What the plain products have in common that others are compared with: a program of THREADS threads computes a tile of C of
// TILE x TILE, DEPTH of k at a time, and each of its threads EACH x EACH elements that lie SIDE apart.
#pragma once

#include "numeric.cuh"

namespace {

using i64 = long long;

constexpr int TILE = 64;
constexpr int DEPTH = 32;
constexpr int SIDE = 16;           // threads along each side of the tile
constexpr int EACH = TILE / SIDE;  // elements of a thread along each side
constexpr int THREADS = SIDE * SIDE;

// Where this thread's elements lie; programs compute tiles row after row.
struct Place {
    int first_row, first_column, y, x;

    __device__ explicit Place(int n) {
        const int tiles_n = n / TILE + (n % TILE != 0);
        first_row = blockIdx.x / tiles_n * TILE, first_column = blockIdx.x % tiles_n * TILE;
        y = threadIdx.x / SIDE, x = threadIdx.x % SIDE;
    }

    __device__ int row(int i) const { return first_row + y + i * SIDE; }
    __device__ int column(int j) const { return first_column + x + j * SIDE; }
};

// The number that an E4M3 code stands for: a sign, four bits of exponent, three of mantissa. No NaN is among the inputs.
__device__ float e4m3(unsigned char code) {
    const int exponent = code >> 3 & 15;
    const float mantissa = static_cast<float>(code & 7);
    const float magnitude = exponent == 0 ? mantissa * 0x1p-9f : (8 + mantissa) * __uint_as_float((exponent + 117u) << 23);
    return code & 0x80 ? -magnitude : magnitude;
}

}  // namespace
