// A convolution with a filter of `size` by `size`. BORDER: what is beyond the edge. PIXELS: of a thread, blockDim.x apart.
#include "border.h"

template <typename BORDER, int PIXELS>
__global__ void convolution(const float* picture, const float* filter, float* out, int height, int width, int size) {
    const int row = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
    const int first = static_cast<int>(blockIdx.x * blockDim.x * PIXELS + threadIdx.x);
    for (int pixel = 0; pixel < PIXELS; ++pixel) {
        const int col = first + pixel * static_cast<int>(blockDim.x);
        if (row >= height || col >= width) continue;
        float sum = 0;
        for (int y = 0; y < size; ++y) {
            for (int x = 0; x < size; ++x) {
                sum += filter[y * size + x] * BORDER::at(picture, height, width, row + y - size / 2, col + x - size / 2);
            }
        }
        out[row * width + col] = sum;
    }
}
