// z = x + y, an element a thread.
template <typename ELEMENT>
__global__ void vector_add(ELEMENT* z, const ELEMENT* x, const ELEMENT* y, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) z[i] = x[i] + y[i];
}
