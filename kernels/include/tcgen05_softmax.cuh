// What a softmax between two products of tcgen05 needs beside tcgen05.cuh: tensor memory written by threads, an operand that
// lies there, and arithmetic on pairs of floats. Needs sm_100a. Sections are those of the
// PTX ISA 9.2 manual.
#pragma once

#include "tcgen05.cuh"

namespace ptx {

// ---- Tensor memory; whole warps, every thread its own lane (shape 32x32b, 9.7.16.2.3.1.1) ----

// Thirty-two columns; the values are there after tmem_wait.
__device__ __forceinline__ void tmem_load(float (&out)[32], u32 address) {
    asm volatile("tcgen05.ld.sync.aligned.32x32b.x32.b32 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "
                 "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, [%32];"
                 : "=f"(out[0]), "=f"(out[1]), "=f"(out[2]), "=f"(out[3]), "=f"(out[4]), "=f"(out[5]), "=f"(out[6]),
                   "=f"(out[7]), "=f"(out[8]), "=f"(out[9]), "=f"(out[10]), "=f"(out[11]), "=f"(out[12]), "=f"(out[13]),
                   "=f"(out[14]), "=f"(out[15]), "=f"(out[16]), "=f"(out[17]), "=f"(out[18]), "=f"(out[19]),
                   "=f"(out[20]), "=f"(out[21]), "=f"(out[22]), "=f"(out[23]), "=f"(out[24]), "=f"(out[25]),
                   "=f"(out[26]), "=f"(out[27]), "=f"(out[28]), "=f"(out[29]), "=f"(out[30]), "=f"(out[31])
                 : "r"(address) : "memory");
}

// tmem_wait for groups of thirty-two columns.
template <int GROUPS>
__device__ __forceinline__ void tmem_wait(float (&values)[GROUPS][32]) {
    asm volatile("tcgen05.wait::ld.sync.aligned;" ::: "memory");
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
#pragma unroll
        for (int i = 0; i < 32; ++i) asm volatile("" : "+f"(values[group][i]) :: "memory");
    }
}

// Writes sixteen columns; they are there after tmem_wait_stores.
__device__ __forceinline__ void tmem_store(u32 address, const u32 (&words)[16]) {
    asm volatile("tcgen05.st.sync.aligned.32x32b.x16.b32 [%0], "
                 "{%1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16};"
                 :: "r"(address), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]), "r"(words[4]), "r"(words[5]),
                    "r"(words[6]), "r"(words[7]), "r"(words[8]), "r"(words[9]), "r"(words[10]), "r"(words[11]),
                    "r"(words[12]), "r"(words[13]), "r"(words[14]), "r"(words[15])
                 : "memory");
}

// ---- Pairs of floats: one instruction for both ----

struct Pair {
    float low, high;
};

__device__ __forceinline__ Pair both(float value) { return {value, value}; }

__device__ __forceinline__ Pair operator+(Pair a, Pair b) {
    Pair sum;
    asm("{\n.reg .b64 a, b;\nmov.b64 a, {%2, %3};\nmov.b64 b, {%4, %5};\nadd.rn.f32x2 a, a, b;\nmov.b64 {%0, %1}, a;\n}"
        : "=f"(sum.low), "=f"(sum.high) : "f"(a.low), "f"(a.high), "f"(b.low), "f"(b.high));
    return sum;
}

__device__ __forceinline__ Pair operator*(Pair a, Pair b) {
    Pair product;
    asm("{\n.reg .b64 a, b;\nmov.b64 a, {%2, %3};\nmov.b64 b, {%4, %5};\nmul.rn.f32x2 a, a, b;\nmov.b64 {%0, %1}, a;\n}"
        : "=f"(product.low), "=f"(product.high) : "f"(a.low), "f"(a.high), "f"(b.low), "f"(b.high));
    return product;
}

// a * b + c, rounded once.
__device__ __forceinline__ Pair multiply_add(Pair a, Pair b, Pair c) {
    Pair sum;
    asm("{\n.reg .b64 a, b, c;\nmov.b64 a, {%2, %3};\nmov.b64 b, {%4, %5};\nmov.b64 c, {%6, %7};\n"
        "fma.rn.f32x2 a, a, b, c;\nmov.b64 {%0, %1}, a;\n}"
        : "=f"(sum.low), "=f"(sum.high)
        : "f"(a.low), "f"(a.high), "f"(b.low), "f"(b.high), "f"(c.low), "f"(c.high));
    return sum;
}

// ---- Memory ----

// Stores 32 bytes, a whole sector, to where they are aligned.
__device__ __forceinline__ void store_sector(void* global, const u32 (&words)[8]) {
    asm volatile("st.global.v8.b32 [%0], {%1, %2, %3, %4, %5, %6, %7, %8};"
                 :: "l"(global), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]), "r"(words[4]), "r"(words[5]),
                    "r"(words[6]), "r"(words[7])
                 : "memory");
}

// A place in shared memory as a pointer.
__device__ __forceinline__ void* shared_pointer(u32 address) {
    u64 pointer;
    asm("cvta.shared.u64 %0, %1;" : "=l"(pointer) : "l"(static_cast<u64>(address)));
    return reinterpret_cast<void*>(pointer);
}

}  // namespace ptx
