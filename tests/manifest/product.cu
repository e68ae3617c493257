// C += alpha A B, row-major. TILE_M by TILE_N threads have an element each; TILE_K: columns of A at a time. UNROLL: of the loop.
extern "C" __global__ void plainly(const float* a, const float* b, float* c, int m, int n, int k, float alpha) {
    const int col = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), row = static_cast<int>(blockIdx.y);
    if (col >= n) return;
    float sum = 0;
    for (int i = 0; i < k; ++i) sum += a[row * k + i] * b[i * n + col];
    c[row * n + col] += alpha * sum;
}

#ifdef TILE_K
extern "C" __global__ void product(const float* a, const float* b, float* c, int m, int n, int k, float alpha) {
    __shared__ float a_tile[TILE_M][TILE_K], b_tile[TILE_K][TILE_N];
    const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y), own = y * TILE_N + x;
    const int col = static_cast<int>(blockIdx.x) * TILE_N + x, row = static_cast<int>(blockIdx.y) * TILE_M + y;
    float sum = 0;
    for (int first = 0; first < k; first += TILE_K) {
        for (int i = own; i < TILE_M * TILE_K; i += TILE_M * TILE_N) {
            const int r = row - y + i / TILE_K, s = first + i % TILE_K;
            a_tile[i / TILE_K][i % TILE_K] = r < m && s < k ? a[r * k + s] : 0.0f;
        }
        for (int i = own; i < TILE_K * TILE_N; i += TILE_M * TILE_N) {
            const int r = first + i / TILE_N, s = col - x + i % TILE_N;
            b_tile[i / TILE_N][i % TILE_N] = r < k && s < n ? b[r * n + s] : 0.0f;
        }
        __syncthreads();
#pragma unroll UNROLL
        for (int i = 0; i < TILE_K; ++i) sum += a_tile[y][i] * b_tile[i][x];
        __syncthreads();
    }
    if (row < m && col < n) c[row * n + col] += alpha * sum;
}
#endif
