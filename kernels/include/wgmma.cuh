// Hopper's warpgroup matrix product: four warps, operands from shared memory by descriptor or (the first one) from
// registers. Needs sm_90a.
//
// wgmma computes acc[64 x N] += a[64 x 16] * b[16 x N] in bf16 or f16 with f32 sums. Of the 128 threads, warp w holds rows
// 16 w ... 16 w + 15; with g = lane / 4 and t = lane % 4, acc[4 j + 0, 1] are columns 8 j + 2 t, 2 t + 1 of row g, and
// acc[4 j + 2, 3] those of row g + 8. A register operand a[0..3] holds rows g, g+8, g, g+8 at k = 2t, 2t, 2t+8, 2t+8 (and
// the next).
#pragma once

#include "halves.cuh"
#include "ptx.cuh"

namespace ptx {

using u64 = unsigned long long;

// How an operand lies in shared memory, as the copy engine leaves it with the same swizzle.
//
// K-major (k fastest; 128-byte swizzle): rows of 64 elements of k; 8 rows, 1024 bytes, are one group, `stride_bytes` is the
// distance to the next 8 rows; the next 16 of k are 32 bytes on. `leading_bytes` is unused.
// M/N-major (rows or columns fastest; 128-byte swizzle): 64 of them are one line; 8 of k, 1024 bytes, are one group,
// `stride_bytes` is the distance to the next 8 of k and `leading_bytes` that to the next 64 rows or columns; the next 16 of k
// are two groups on.
// Tiles begin at multiples of 1024 bytes.
struct Operand {
    u64 bits;

    // `bytes` further on, a multiple of 16.
    __device__ __forceinline__ u64 at(u32 bytes) const { return bits + (bytes >> 4); }
};

constexpr u64 WGMMA_SWIZZLE_128 = 1;

__device__ __forceinline__ Operand wgmma_operand(u32 shared, u32 leading_bytes, u32 stride_bytes) {
    return {static_cast<u64>((shared & 0x3FFFFu) >> 4) | static_cast<u64>(leading_bytes >> 4) << 16
            | static_cast<u64>(stride_bytes >> 4) << 32 | WGMMA_SWIZZLE_128 << 62};
}

enum class Major { K = 0, MN = 1 };

// Before the first product, and whenever registers it reads or adds to were written by other instructions.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most PENDING groups of products are under way.
template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(PENDING) : "memory");
}

// Ties sums to this place, so that the compiler neither reads nor moves them while products are under way.
template <int COUNT>
__device__ __forceinline__ void wgmma_hold(float (&acc)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(acc[i]) :: "memory");
}

// The same for the registers of an operand.
template <int COUNT>
__device__ __forceinline__ void wgmma_hold(u32 (&operand)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+r"(operand[i]) :: "memory");
}

// Stores 8x8 matrices of 16-bit elements, transposed: lane l gives the address of row l % 8 of matrix l / 8 (16 bytes,
// aligned) and holds rows 2 * (l % 4) and the next of column l / 4 of each.
__device__ __forceinline__ void stmatrix_trans(u32 address, const u32 (&words)[2]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};"
                 :: "r"(address), "r"(words[0]), "r"(words[1]) : "memory");
}

__device__ __forceinline__ void stmatrix_trans(u32 address, const u32 (&words)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};"
                 :: "r"(address), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]) : "memory");
}

// The same, not transposed: a lane holds columns 2 * (l % 4) and the next of row l / 4 of each.
__device__ __forceinline__ void stmatrix(u32 address, const u32 (&words)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                 :: "r"(address), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]) : "memory");
}

// The operands of the inline assembly: the names of the first COUNT registers, and the sums they stand for.
#define REGISTERS_4 \
    "%0, %1, %2, %3"
#define REGISTERS_8 \
    REGISTERS_4 ", " \
    "%4, %5, %6, %7"
#define REGISTERS_12 \
    REGISTERS_8 ", " \
    "%8, %9, %10, %11"
#define REGISTERS_16 \
    REGISTERS_12 ", " \
    "%12, %13, %14, %15"
#define REGISTERS_20 \
    REGISTERS_16 ", " \
    "%16, %17, %18, %19"
#define REGISTERS_24 \
    REGISTERS_20 ", " \
    "%20, %21, %22, %23"
#define REGISTERS_28 \
    REGISTERS_24 ", " \
    "%24, %25, %26, %27"
#define REGISTERS_32 \
    REGISTERS_28 ", " \
    "%28, %29, %30, %31"
#define REGISTERS_40 \
    REGISTERS_32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39"
#define REGISTERS_48 \
    REGISTERS_40 ", " \
    "%40, %41, %42, %43, %44, %45, %46, %47"
#define REGISTERS_56 \
    REGISTERS_48 ", " \
    "%48, %49, %50, %51, %52, %53, %54, %55"
#define REGISTERS_64 \
    REGISTERS_56 ", " \
    "%56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_72 \
    REGISTERS_64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71"
#define REGISTERS_80 \
    REGISTERS_64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define REGISTERS_88 \
    REGISTERS_80 ", " \
    "%80, %81, %82, %83, %84, %85, %86, %87"
#define REGISTERS_96 \
    REGISTERS_80 ", " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define REGISTERS_104 \
    REGISTERS_96 ", " \
    "%96, %97, %98, %99, %100, %101, %102, %103"
#define REGISTERS_112 \
    REGISTERS_96 ", " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define REGISTERS_120 \
    REGISTERS_112 ", " \
    "%112, %113, %114, %115, %116, %117, %118, %119"
#define REGISTERS_128 \
    REGISTERS_112 ", " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define SUMS_4 \
    "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
#define SUMS_8 \
    SUMS_4, \
    "+f"(acc[4]), "+f"(acc[5]), "+f"(acc[6]), "+f"(acc[7])
#define SUMS_12 \
    SUMS_8, \
    "+f"(acc[8]), "+f"(acc[9]), "+f"(acc[10]), "+f"(acc[11])
#define SUMS_16 \
    SUMS_12, \
    "+f"(acc[12]), "+f"(acc[13]), "+f"(acc[14]), "+f"(acc[15])
#define SUMS_20 \
    SUMS_16, \
    "+f"(acc[16]), "+f"(acc[17]), "+f"(acc[18]), "+f"(acc[19])
#define SUMS_24 \
    SUMS_20, \
    "+f"(acc[20]), "+f"(acc[21]), "+f"(acc[22]), "+f"(acc[23])
#define SUMS_28 \
    SUMS_24, \
    "+f"(acc[24]), "+f"(acc[25]), "+f"(acc[26]), "+f"(acc[27])
#define SUMS_32 \
    SUMS_28, \
    "+f"(acc[28]), "+f"(acc[29]), "+f"(acc[30]), "+f"(acc[31])
#define SUMS_40 \
    SUMS_32, \
    "+f"(acc[32]), "+f"(acc[33]), "+f"(acc[34]), "+f"(acc[35]), "+f"(acc[36]), "+f"(acc[37]), "+f"(acc[38]), \
    "+f"(acc[39])
#define SUMS_48 \
    SUMS_40, \
    "+f"(acc[40]), "+f"(acc[41]), "+f"(acc[42]), "+f"(acc[43]), "+f"(acc[44]), "+f"(acc[45]), "+f"(acc[46]), \
    "+f"(acc[47])
#define SUMS_56 \
    SUMS_48, \
    "+f"(acc[48]), "+f"(acc[49]), "+f"(acc[50]), "+f"(acc[51]), "+f"(acc[52]), "+f"(acc[53]), "+f"(acc[54]), \
    "+f"(acc[55])
#define SUMS_64 \
    SUMS_56, \
    "+f"(acc[56]), "+f"(acc[57]), "+f"(acc[58]), "+f"(acc[59]), "+f"(acc[60]), "+f"(acc[61]), "+f"(acc[62]), \
    "+f"(acc[63])
#define SUMS_72 \
    SUMS_64, \
    "+f"(acc[64]), "+f"(acc[65]), "+f"(acc[66]), "+f"(acc[67]), "+f"(acc[68]), "+f"(acc[69]), "+f"(acc[70]), \
    "+f"(acc[71])
#define SUMS_80 \
    SUMS_64, \
    "+f"(acc[64]), "+f"(acc[65]), "+f"(acc[66]), "+f"(acc[67]), "+f"(acc[68]), "+f"(acc[69]), "+f"(acc[70]), \
    "+f"(acc[71]), "+f"(acc[72]), "+f"(acc[73]), "+f"(acc[74]), "+f"(acc[75]), "+f"(acc[76]), "+f"(acc[77]), \
    "+f"(acc[78]), "+f"(acc[79])
#define SUMS_88 \
    SUMS_80, \
    "+f"(acc[80]), "+f"(acc[81]), "+f"(acc[82]), "+f"(acc[83]), "+f"(acc[84]), "+f"(acc[85]), "+f"(acc[86]), \
    "+f"(acc[87])
#define SUMS_96 \
    SUMS_80, \
    "+f"(acc[80]), "+f"(acc[81]), "+f"(acc[82]), "+f"(acc[83]), "+f"(acc[84]), "+f"(acc[85]), "+f"(acc[86]), \
    "+f"(acc[87]), "+f"(acc[88]), "+f"(acc[89]), "+f"(acc[90]), "+f"(acc[91]), "+f"(acc[92]), "+f"(acc[93]), \
    "+f"(acc[94]), "+f"(acc[95])
#define SUMS_104 \
    SUMS_96, \
    "+f"(acc[96]), "+f"(acc[97]), "+f"(acc[98]), "+f"(acc[99]), "+f"(acc[100]), "+f"(acc[101]), "+f"(acc[102]), \
    "+f"(acc[103])
#define SUMS_112 \
    SUMS_96, \
    "+f"(acc[96]), "+f"(acc[97]), "+f"(acc[98]), "+f"(acc[99]), "+f"(acc[100]), "+f"(acc[101]), \
    "+f"(acc[102]), "+f"(acc[103]), "+f"(acc[104]), "+f"(acc[105]), "+f"(acc[106]), "+f"(acc[107]), \
    "+f"(acc[108]), "+f"(acc[109]), "+f"(acc[110]), "+f"(acc[111])
#define SUMS_120 \
    SUMS_112, \
    "+f"(acc[112]), "+f"(acc[113]), "+f"(acc[114]), "+f"(acc[115]), "+f"(acc[116]), "+f"(acc[117]), \
    "+f"(acc[118]), "+f"(acc[119])
#define SUMS_128 \
    SUMS_112, \
    "+f"(acc[112]), "+f"(acc[113]), "+f"(acc[114]), "+f"(acc[115]), "+f"(acc[116]), "+f"(acc[117]), \
    "+f"(acc[118]), "+f"(acc[119]), "+f"(acc[120]), "+f"(acc[121]), "+f"(acc[122]), "+f"(acc[123]), \
    "+f"(acc[124]), "+f"(acc[125]), "+f"(acc[126]), "+f"(acc[127])

// acc += a * b, or a * b where `add` is 0; a by its descriptor, or this thread's registers of it.
template <int N, Major A = Major::K, Major B = Major::K, typename Element = halves::bf16>
struct Wgmma;

// COUNT is N / 2, the sums of a thread; I0 ... I6 are COUNT, COUNT + 1 ...: the operands after them.
#define DEFINE_WGMMA_OF(ELEMENT, N, COUNT, I0, I1, I2, I3, I4, I5, I6)                                               \
    template <Major A, Major B>                                                                                      \
    struct Wgmma<N, A, B, halves::ELEMENT> {                                                                         \
        static __device__ __forceinline__ void multiply(float (&acc)[COUNT], u64 a, u64 b, int add) {                \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I2 ", 0;\n"                                           \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #ELEMENT "." #ELEMENT " {" REGISTERS_##COUNT "}, "\
                         "%" #I0 ", %" #I1 ", p, 1, 1, %" #I3 ", %" #I4 ";\n}"                                       \
                         : SUMS_##COUNT                                                                              \
                         : "l"(a), "l"(b), "r"(add), "n"(static_cast<int>(A)), "n"(static_cast<int>(B)));            \
        }                                                                                                            \
        static __device__ __forceinline__ void multiply(float (&acc)[COUNT], const u32 (&a)[4], u64 b, int add) {    \
            static_assert(A == Major::K, "a register operand has no other order");                                   \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I5 ", 0;\n"                                           \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #ELEMENT "." #ELEMENT " {" REGISTERS_##COUNT "}, "\
                         "{%" #I0 ", %" #I1 ", %" #I2 ", %" #I3 "}, %" #I4 ", p, 1, 1, %" #I6 ";\n}"                 \
                         : SUMS_##COUNT                                                                              \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add),                             \
                           "n"(static_cast<int>(B)));                                                                \
        }                                                                                                            \
    };
#define DEFINE_WGMMA(...)             \
    DEFINE_WGMMA_OF(bf16, __VA_ARGS__) \
    DEFINE_WGMMA_OF(f16, __VA_ARGS__)
DEFINE_WGMMA(8, 4, 4, 5, 6, 7, 8, 9, 10)
DEFINE_WGMMA(16, 8, 8, 9, 10, 11, 12, 13, 14)
DEFINE_WGMMA(24, 12, 12, 13, 14, 15, 16, 17, 18)
DEFINE_WGMMA(32, 16, 16, 17, 18, 19, 20, 21, 22)
DEFINE_WGMMA(40, 20, 20, 21, 22, 23, 24, 25, 26)
DEFINE_WGMMA(48, 24, 24, 25, 26, 27, 28, 29, 30)
DEFINE_WGMMA(56, 28, 28, 29, 30, 31, 32, 33, 34)
DEFINE_WGMMA(64, 32, 32, 33, 34, 35, 36, 37, 38)
DEFINE_WGMMA(80, 40, 40, 41, 42, 43, 44, 45, 46)
DEFINE_WGMMA(96, 48, 48, 49, 50, 51, 52, 53, 54)
DEFINE_WGMMA(112, 56, 56, 57, 58, 59, 60, 61, 62)
DEFINE_WGMMA(128, 64, 64, 65, 66, 67, 68, 69, 70)
DEFINE_WGMMA(144, 72, 72, 73, 74, 75, 76, 77, 78)
DEFINE_WGMMA(160, 80, 80, 81, 82, 83, 84, 85, 86)
DEFINE_WGMMA(176, 88, 88, 89, 90, 91, 92, 93, 94)
DEFINE_WGMMA(192, 96, 96, 97, 98, 99, 100, 101, 102)
DEFINE_WGMMA(208, 104, 104, 105, 106, 107, 108, 109, 110)
DEFINE_WGMMA(224, 112, 112, 113, 114, 115, 116, 117, 118)
DEFINE_WGMMA(240, 120, 120, 121, 122, 123, 124, 125, 126)
DEFINE_WGMMA(256, 128, 128, 129, 130, 131, 132, 133, 134)
#undef DEFINE_WGMMA
#undef DEFINE_WGMMA_OF

}  // namespace ptx
