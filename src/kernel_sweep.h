/* Which config should this kernel run with, on this shape, on this GPU?
 *
 * Loads a document of observed heuristics and answers queries from it, and launches what it answers. Build the library with
 *
 *     cargo rustc --release --lib --crate-type cdylib --no-default-features --features c
 *
 * and with --features c,run for the functions that launch.
 *
 * Loaded heuristics may be asked from many threads at once. Functions that can fail say so in what they return, and
 * kernel_sweep_error() then says why. */
#ifndef KERNEL_SWEEP_H
#define KERNEL_SWEEP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A document ready to be asked. */
typedef struct kernel_sweep_heuristics kernel_sweep_heuristics;

/* A named dimension of a query: {"m", 16}. A family's names are
 *   matmul, matmul_int4, matmul_int16, matmul_fp4, matmul_nvfp4, matmul_mxfp4, matmul_nvfp4_nvfp4,
 *   matmul_mxfp8: m n k (k in unpacked elements)
 *   matmul_int4_group: the same, and where they are not plain group (weights along k that share a scale: 32 or 64 in place of 128, 0
 *   for all) and zero_points (1 where there are any)
 *   matmul_fp8: m n k, and scale_block where it is not one scale a tensor (1 for one a row and a column, 128 for blocks)
 *   attention: batch heads q_seq kv_seq head_dim, and where they are not plain kv_heads causal window
 *   row_softmax, row_norm_rms, row_norm_layer, row_cross_entropy: rows cols     elementwise: numel */
typedef struct {
    const char *name;
    int64_t value;
} kernel_sweep_dimension;

/* Where configs come from: nowhere, the rule of the shape's bucket, the fallback of its group, measurements of this very shape
 * and type, the class's fitted model. */
enum {
    KERNEL_SWEEP_NONE = 0,
    KERNEL_SWEEP_RULE = 1,
    KERNEL_SWEEP_FALLBACK = 2,
    KERNEL_SWEEP_MEASURED = 3,
    KERNEL_SWEEP_MODEL = 4
};

enum {
    KERNEL_SWEEP_PID_FLAT = 1,
    KERNEL_SWEEP_PID_PERSISTENT_BLOCKED = 2,
    KERNEL_SWEEP_PID_PERSISTENT_INTERLEAVED = 3,
    KERNEL_SWEEP_PID_CLUSTER_LAUNCH_CONTROL = 4, /* the hardware deals tiles out to programs that run */
    KERNEL_SWEEP_PID_XYZ = 5                    /* Helion's, on a grid with several axes; no kernel that ships has it */
};

enum {
    KERNEL_SWEEP_MMA_SIMT = 1,
    KERNEL_SWEEP_MMA_SYNC = 2,
    KERNEL_SWEEP_MMA_WGMMA = 3,
    KERNEL_SWEEP_MMA_TCGEN05 = 4,
    KERNEL_SWEEP_MMA_SYNC_TMA = 5,    /* mma.sync on tiles that the copy engine loads */
    KERNEL_SWEEP_MMA_TCGEN05_TMEM = 6, /* tcgen05 on decoded weights in tensor memory */
    KERNEL_SWEEP_MMA_SIMT_WIDE = 7     /* simt with vectors of 32 bytes */
};

/* The knobs of a config. A knob that the config does not have is zero. kernel_sweep_lookup_json() gives the whole config,
 * with knobs of other tools. */
typedef struct {
    uint32_t block_sizes[8];    /* tile extents, the first eight of them */
    uint32_t block_size_count;  /* how many there are */
    uint32_t l2_grouping;       /* tiles along m that share a column band */
    uint32_t num_sm_multiplier; /* programs a multiprocessor, for persistent orders */
    uint32_t num_stages;        /* depth of the load pipeline in tiles */
    uint32_t num_warps;         /* warps of a program */
    uint32_t split_k;           /* programs that share the reduction of a tile */
    uint32_t reduction_loop;    /* columns of a step of a row reduction; zero for the whole row, too */
    uint32_t pid_type;          /* KERNEL_SWEEP_PID_... */
    uint32_t mma;               /* KERNEL_SWEEP_MMA_... */
    uint32_t realigned;         /* operands that are copied to aligned rows first: 1 a, 2 b, 3 both */
    uint32_t prefetch;          /* what a program loads for its next tile meanwhile: 1 queries */
} kernel_sweep_config;

/* Where configs come from, and how many there are. */
typedef struct {
    uint32_t source;     /* KERNEL_SWEEP_NONE, _RULE, _FALLBACK, _MEASURED or _MODEL */
    int64_t rule_index;  /* of the rule in the document, else -1 */
    char group[16];      /* of the fallback, else empty */
    size_t config_count; /* may be more than fitted; zero also where a rule holds no usable config */
} kernel_sweep_answer;

/* Load a document: from a file, from JSON text of so many bytes, or the one built in for a GPU by its short name ("h200") or
 * the driver's name for the device ("NVIDIA H200"). NULL where that fails. Free it with kernel_sweep_free(). */
kernel_sweep_heuristics *kernel_sweep_load(const char *path);
kernel_sweep_heuristics *kernel_sweep_load_json(const char *json, size_t length);
kernel_sweep_heuristics *kernel_sweep_builtin(const char *gpu);
void kernel_sweep_free(kernel_sweep_heuristics *heuristics);

/* Which configs for a family (or another class of the document) at exactly these dimensions? `dtype` is that of the
 * first tensor by its exact name: "bf16", "f32", "torch.float16"...; NULL for bf16, or for the first that the family
 * comes in where it has no bf16. Fills `answer` and up to `capacity` of `configs`, best first; either may be NULL. Returns 0, or -1
 * where the query fits no kernel: an unknown family or type, a type that the family does not run, a dimension that is missing,
 * unknown or not positive. */
int kernel_sweep_lookup(const kernel_sweep_heuristics *heuristics, const char *family,
                        const kernel_sweep_dimension *dimensions, size_t dimension_count, const char *dtype,
                        kernel_sweep_answer *answer, kernel_sweep_config *configs, size_t capacity);

/* Answers a query in JSON with JSON, by tensor signatures: the lines that `sweep lookup --batch` reads and writes. Writes up
 * to `capacity` bytes with a final zero to `buffer`, which may be NULL, and returns the length of the whole answer without the
 * zero; 0 where a pointer is NULL that may not be. */
size_t kernel_sweep_lookup_json(const kernel_sweep_heuristics *heuristics, const char *query, char *buffer,
                                size_t capacity);

/* The same, but arguments that fit nothing (inner sizes that disagree, a type that the class does not run) are refused, as by
 * `sweep lookup --batch --check`: returns 0, and kernel_sweep_error() says why. */
size_t kernel_sweep_lookup_json_checked(const kernel_sweep_heuristics *heuristics, const char *query, char *buffer,
                                        size_t capacity);

/* Why kernel_sweep_lookup() answers so, in JSON as `sweep lookup --explain --json` says it: what each that may answer would have
 * said, with expected times in microseconds. Writes and returns as kernel_sweep_lookup_json(); 0 where the query is wrong. */
size_t kernel_sweep_explain_json(const kernel_sweep_heuristics *heuristics, const char *family,
                                 const kernel_sweep_dimension *dimensions, size_t dimension_count, const char *dtype,
                                 char *buffer, size_t capacity);

/* Running what is served. These are there where the library was built with --features c,run.
 *
 * A runtime is a GPU with a document and the kernels loaded on it; a kernel is prepared for one problem. Both may be used from many
 * threads and on many streams at once. What needs time or memory is done by kernel_sweep_prepare(): a launch checks its tensors,
 * allocates nothing and waits for nothing. */
typedef struct kernel_sweep_runtime kernel_sweep_runtime;
typedef struct kernel_sweep_kernel kernel_sweep_kernel;

/* Types of elements. Two 4-bit weights are a byte; signed or not is the same. So is a scale in E4M3 or E8M0. */
enum {
    KERNEL_SWEEP_BF16 = 1,
    KERNEL_SWEEP_F32 = 2,
    KERNEL_SWEEP_BYTE = 3,
    KERNEL_SWEEP_INT16 = 4,
    KERNEL_SWEEP_F16 = 5,
    KERNEL_SWEEP_E4M3 = 6, /* eight-bit floats */
    KERNEL_SWEEP_INT64 = 7
};

/* A tensor in the GPU's memory, contiguous in row-major order, aligned to 16 bytes, on Blackwell to 32: a launch refuses others. */
typedef struct {
    void *data;            /* a device pointer (CUdeviceptr) */
    uint32_t element;      /* KERNEL_SWEEP_BF16, ... */
    size_t rank;           /* extents */
    const uint64_t *shape; /* slowest first */
} kernel_sweep_tensor;

/* Open a GPU by its ordinal, as CUDA counts those it shows the process, in its primary context (the CUDA runtime's); or adopt a
 * CUcontext, or the current one where it is NULL. Answers come from the document file, else from the bundle's document, else from
 * the one built in for the GPU. With a bundle (`sweep bundle`) nothing is compiled; without, NVRTC is looked for when a kernel is
 * prepared that is not cached. Either file may be NULL. NULL where that fails. Close it with kernel_sweep_close(); kernels may
 * outlive it. */
kernel_sweep_runtime *kernel_sweep_open(uint32_t ordinal, const char *document, const char *bundle);
kernel_sweep_runtime *kernel_sweep_adopt(void *context, const char *document, const char *bundle);
void kernel_sweep_close(kernel_sweep_runtime *runtime);

/* Looks a problem up, compiles its kernel or takes it from cache or bundle, and loads it; `dtype` as in kernel_sweep_lookup(). NULL
 * where that fails. A kernel that needs scratch gets its own, unless it is prepared without: then every launch is given some. Give it
 * back with kernel_sweep_release(), which waits for what runs, once no launch needs it, and no graph unless the runtime stays open. */
kernel_sweep_kernel *kernel_sweep_prepare(const kernel_sweep_runtime *runtime, const char *family,
                                          const kernel_sweep_dimension *dimensions, size_t dimension_count,
                                          const char *dtype);
kernel_sweep_kernel *kernel_sweep_prepare_without_scratch(const kernel_sweep_runtime *runtime, const char *family,
                                                          const kernel_sweep_dimension *dimensions,
                                                          size_t dimension_count, const char *dtype);
void kernel_sweep_release(kernel_sweep_kernel *kernel);

/* Bytes of GPU memory that a launch needs beside its tensors; 0 for most kernels. */
uint64_t kernel_sweep_scratch_bytes(const kernel_sweep_kernel *kernel);

/* Launches a kernel on a stream (CUstream or cudaStream_t; NULL is the default one) and returns at once: 0, or -1 where a tensor is
 * not the problem's, or the driver refuses. Inputs in the family's order: A B; Q K V; X; X Y. `scratch` may be NULL: a kernel that
 * needs some then uses its own, one launch after the other on the GPU, and in no graph (one that was prepared without refuses); else it
 * is as many bytes, aligned to 16, that nothing else uses meanwhile. */
int kernel_sweep_launch(const kernel_sweep_kernel *kernel, void *stream, const kernel_sweep_tensor *inputs,
                        size_t input_count, const kernel_sweep_tensor *output, void *scratch, uint64_t scratch_bytes);

/* What went wrong in this thread's last call, in one line; empty where nothing did. Valid until this thread's next call. */
const char *kernel_sweep_error(void);

#ifdef __cplusplus
}
#endif

#endif
