// The macros that every GEMM kernel needs; each says what they are in its contract.
#pragma once

#if !defined(BLOCK_M) || !defined(BLOCK_N) || !defined(BLOCK_K)
#error "BLOCK_M, BLOCK_N and BLOCK_K must be defined: the tile, in elements"
#endif
#if !defined(NUM_STAGES)
#error "NUM_STAGES must be defined: tiles in flight"
#endif
#if !defined(DTYPE)
#error "DTYPE must be defined: the type of A and C, bf16 or f16"
#endif
#if !defined(WEIGHTS)
#error "WEIGHTS must be defined: Bf16 or F16 (as DTYPE), Int16, Int4, Fp4, Int4Group, Nvfp4 or Mxfp4"
#endif
