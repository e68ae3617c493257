// Each cell becomes the mean of itself and its four neighbours. TILE_X, TILE_Y: threads of a block, a cell each. STAGED: whether a
// tile with its border is put into shared memory first, (TILE_X + 2) * (TILE_Y + 2) floats of it.
extern __shared__ float tile[];

__device__ float at(const float* cells, int height, int width, int row, int col) {
    return row >= 0 && row < height && col >= 0 && col < width ? cells[static_cast<long long>(row) * width + col] : 0.0f;
}

extern "C" __global__ void stencil(const float* cells, float* means, int height, int width) {
    const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
    const int col = static_cast<int>(blockIdx.x) * TILE_X + x, row = static_cast<int>(blockIdx.y) * TILE_Y + y;
    float sum;
    if (STAGED) {
        const int pitch = TILE_X + 2;
        for (int i = y * TILE_X + x; i < pitch * (TILE_Y + 2); i += TILE_X * TILE_Y) {
            tile[i] = at(cells, height, width, row - y - 1 + i / pitch, col - x - 1 + i % pitch);
        }
        __syncthreads();
        const float* own = tile + (y + 1) * pitch + x + 1;
        sum = own[0] + own[-1] + own[1] + own[-pitch] + own[pitch];
    } else {
        sum = at(cells, height, width, row, col) + at(cells, height, width, row, col - 1)
              + at(cells, height, width, row, col + 1) + at(cells, height, width, row - 1, col)
              + at(cells, height, width, row + 1, col);
    }
    if (row < height && col < width) means[static_cast<long long>(row) * width + col] = sum * 0.2f;
}
