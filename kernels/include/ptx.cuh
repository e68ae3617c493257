// One-instruction wrappers: asynchronous copies, matrix loads, the tensor-core product and conversions of bf16 and f16.
// Needs sm_80. Shared memory is addressed by 32-bit shared-window addresses throughout.
#pragma once

namespace ptx {

using u16 = unsigned short;
using u32 = unsigned int;

// A bf16 in memory; arithmetic happens in f32 or in packed pairs.
using bf16 = unsigned short;

// Two bf16 in a register, the first element in the low half.
using bf16x2 = unsigned int;

// IEEE half precision in memory: a type of its own, so that it is told from bf16.
struct f16 {
    u16 bits;
};

__device__ __forceinline__ u32 shared_address(const void* pointer) {
    unsigned long long address;
    asm("cvta.to.shared.u64 %0, %1;" : "=l"(address) : "l"(pointer));
    return static_cast<u32>(address);
}

// The same value, but opaque: what is computed from it is computed here, not earlier and then carried in registers.
__device__ __forceinline__ int opaque(int value) {
    asm volatile("" : "+r"(value));
    return value;
}

// ---- Asynchronous copies, global to shared ----

// Copies `source_bytes` of BYTES (4, 8 or 16, the alignment of both sides) and fills the rest with zeros; with 0 the
// source is not read.
template <int BYTES>
__device__ __forceinline__ void cp_async(u32 shared, const void* global, int source_bytes = BYTES) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "cp.async copies 4, 8 or 16 bytes");
    if constexpr (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                     :: "r"(shared), "l"(global), "r"(source_bytes) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                     :: "r"(shared), "l"(global), "n"(BYTES), "r"(source_bytes) : "memory");
    }
}

// Closes the group of the copies this thread has issued since the last one; it may be empty.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most PENDING of this thread's groups are under way. Other threads' copies need a barrier after it.
template <int PENDING>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory");
}

// ---- Shared memory ----

// The unsigned type of so many bytes.
template <int BYTES>
struct Word;
template <>
struct Word<1> {
    using Type = unsigned char;
};
template <>
struct Word<2> {
    using Type = u16;
};
template <>
struct Word<4> {
    using Type = u32;
};
template <>
struct Word<8> {
    using Type = uint2;
};
template <>
struct Word<16> {
    using Type = uint4;
};

__device__ __forceinline__ u32 load_shared(u32 address) {
    u32 word;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
    return word;
}

__device__ __forceinline__ u16 load_shared_u16(u32 address) {
    u16 half;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(half) : "r"(address) : "memory");
    return half;
}

__device__ __forceinline__ uint2 load_shared_u64(u32 address) {
    uint2 words;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(words.x), "=r"(words.y) : "r"(address) : "memory");
    return words;
}

__device__ __forceinline__ uint4 load_shared_u128(u32 address) {
    uint4 words;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w) : "r"(address) : "memory");
    return words;
}

__device__ __forceinline__ float4 load_shared_f32x4(u32 address) {
    float4 values;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(values.x), "=f"(values.y), "=f"(values.z), "=f"(values.w) : "r"(address) : "memory");
    return values;
}

__device__ __forceinline__ void store_shared(u32 address, u32 value) {
    asm volatile("st.shared.u32 [%0], %1;" :: "r"(address), "r"(value) : "memory");
}

__device__ __forceinline__ void store_shared(u32 address, uint2 words) {
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" :: "r"(address), "r"(words.x), "r"(words.y) : "memory");
}

__device__ __forceinline__ void store_shared(u32 address, uint4 words) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
                 :: "r"(address), "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w) : "memory");
}

__device__ __forceinline__ void store_shared(u32 address, unsigned char value) {
    asm volatile("st.shared.u8 [%0], %1;" :: "r"(address), "r"(static_cast<u32>(value)) : "memory");
}

__device__ __forceinline__ void store_shared(u32 address, u16 value) {
    asm volatile("st.shared.u16 [%0], %1;" :: "r"(address), "h"(value) : "memory");
}

// Four 8x8 matrices of 16-bit elements. Lane l gives the address of row l % 8 of matrix l / 8 (16 bytes, aligned) and
// receives elements 2 * (l % 4) and the next of row l / 4 of each.
__device__ __forceinline__ void ldmatrix_x4(u32 (&out)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(address) : "memory");
}

// The same with each matrix transposed: lane l receives rows 2 * (l % 4) and the next of column l / 4.
__device__ __forceinline__ void ldmatrix_x4_trans(u32 (&out)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(address) : "memory");
}

// ---- Global memory ----

// Reads at L2, past an L1 that may hold what was there before another program wrote it.
__device__ __forceinline__ float4 load_at_l2(const float4* pointer) {
    float4 value;
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w) : "l"(pointer) : "memory");
    return value;
}

// ---- Arithmetic ----

// acc[16x8] += a[16x16] * b[16x8], bf16 with f32 accumulation, over a warp. With g = lane / 4 and t = lane % 4:
// a[0..3] = rows g, g+8, g, g+8 at k = 2t, 2t, 2t+8, 2t+8 (and the next); b[0..1] = k = 2t, 2t+8 (and the next) of
// column g; acc[0..3] = columns 2t, 2t+1 of row g, then of row g+8.
__device__ __forceinline__ void mma_m16n8k16(float (&acc)[4], const bf16x2 (&a)[4], const bf16x2 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Rounds to nearest even.
__device__ __forceinline__ bf16x2 pack_bf16(float low, float high) {
    bf16x2 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

__device__ __forceinline__ bf16 to_bf16(float value) {
    bf16 rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded) : "f"(value));
    return rounded;
}

__device__ __forceinline__ float low_to_float(bf16x2 packed) { return __uint_as_float(packed << 16); }
__device__ __forceinline__ float high_to_float(bf16x2 packed) { return __uint_as_float(packed & 0xFFFF0000u); }
__device__ __forceinline__ float to_float(bf16 value) { return __uint_as_float(static_cast<u32>(value) << 16); }

// Rounds to nearest even; what is too large becomes infinite.
__device__ __forceinline__ f16 to_f16(float value) {
    f16 rounded;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(value));
    return rounded;
}

// Two of them in a register, the first in the low half.
__device__ __forceinline__ u32 pack_f16(float low, float high) {
    u32 packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

__device__ __forceinline__ float to_float(f16 value) {
    float exact;
    asm("cvt.f32.f16 %0, %1;" : "=f"(exact) : "h"(value.bits));
    return exact;
}

// a * b + c in both halves, rounded once.
__device__ __forceinline__ bf16x2 fma_bf16x2(bf16x2 a, bf16x2 b, bf16x2 c) {
    bf16x2 result;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}

// (a & b) ^ c in one instruction, which the compiler does not find where b and c are both constants.
__device__ __forceinline__ u32 and_xor(u32 a, u32 b, u32 c) {
    u32 result;
    asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}

// Four bytes picked out of the eight of (high, low) by the four nibbles of `selector`; a nibble's bit 3 replicates the
// sign of the picked byte instead.
__device__ __forceinline__ u32 permute_bytes(u32 low, u32 high, u32 selector) {
    u32 picked;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(picked) : "r"(low), "r"(high), "r"(selector));
    return picked;
}

}  // namespace ptx
