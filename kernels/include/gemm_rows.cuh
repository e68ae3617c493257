// What GEMM kernels have in common whose rows may be copied in pieces as wide as they are aligned.
#pragma once

#include "decode.cuh"
#include "gemm_macros.cuh"
#include "halves.cuh"
#include "ptx.cuh"
#include "scheduler.cuh"

#if !defined(A_VECTOR_BYTES) || !defined(B_VECTOR_BYTES)
#error "A_VECTOR_BYTES and B_VECTOR_BYTES must be defined: bytes of one copy, by the alignment of the rows"
#endif

namespace {

using ptx::u16;
using ptx::u32;
using scheduler::power_of_two;
using i64 = long long;
using byte = unsigned char;
using Element = halves::DTYPE;
using Weights = decode::WEIGHTS<Element>;

static_assert(power_of_two(A_VECTOR_BYTES) && A_VECTOR_BYTES >= 2 && A_VECTOR_BYTES <= 16, "A_VECTOR_BYTES: 2 ... 16");
static_assert(power_of_two(B_VECTOR_BYTES) && B_VECTOR_BYTES >= Weights::COLUMN_BYTES && B_VECTOR_BYTES <= 16,
              "B_VECTOR_BYTES: one column's bytes ... 16");

}  // namespace
