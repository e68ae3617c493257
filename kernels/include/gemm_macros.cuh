// The macros that every GEMM kernel needs; each says what they are in its contract.
#pragma once

#if !defined(BLOCK_M) || !defined(BLOCK_N) || !defined(BLOCK_K)
#error "BLOCK_M, BLOCK_N and BLOCK_K must be defined: the tile, in elements"
#endif
#if !defined(NUM_STAGES)
#error "NUM_STAGES must be defined: tiles in flight"
#endif
#if !defined(WEIGHTS)
#error "WEIGHTS must be defined: Bf16, Int16, Int4 or Fp4"
#endif
