// What is beyond the edge of a picture.
#pragma once

struct zero {
    static __device__ float at(const float* picture, int height, int width, int row, int col) {
        return row >= 0 && row < height && col >= 0 && col < width ? picture[row * width + col] : 0.0f;
    }
};

struct clamp {
    static __device__ float at(const float* picture, int height, int width, int row, int col) {
        row = row < 0 ? 0 : row >= height ? height - 1 : row;
        col = col < 0 ? 0 : col >= width ? width - 1 : col;
        return picture[row * width + col];
    }
};
