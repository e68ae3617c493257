/* Prepares and launches a kernel as a C program would, on the stand-in for the driver. Says which expectation fails; says "ok" where
 * none does. */
#include "kernel_sweep.h"
#include <stdio.h>
#include <string.h>

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("line %d: not so: %s (last error: %s)\n", __LINE__, #condition, kernel_sweep_error());              \
            return 1;                                                                                                  \
        }                                                                                                              \
    } while (0)

#define SAYS(text) (strstr(kernel_sweep_error(), text) != NULL)

/* Where the stand-in's device 0 has its memory. */
static void *at(int place) { return (void *)(uintptr_t)(((uint64_t)16 << 40) + ((uint64_t)place << 32)); }

/* Launches the kernel of a problem on these tensors, the output last, one behind the other in memory. */
static int launches(const kernel_sweep_runtime *runtime, const char *family, const kernel_sweep_dimension *shape,
                    size_t dimensions, const char *dtype, kernel_sweep_tensor *tensors, size_t count) {
    kernel_sweep_kernel *kernel = kernel_sweep_prepare(runtime, family, shape, dimensions, dtype);
    EXPECT(kernel != NULL);
    for (size_t place = 0; place < count; place++)
        tensors[place].data = at((int)place + 1);
    EXPECT(kernel_sweep_launch(kernel, NULL, tensors, count - 1, &tensors[count - 1], NULL, 0) == 0);
    tensors[0].element = KERNEL_SWEEP_INT16;
    EXPECT(kernel_sweep_launch(kernel, NULL, tensors, count - 1, &tensors[count - 1], NULL, 0) == -1 && SAYS("this is i16"));
    kernel_sweep_release(kernel);
    return 0;
}

/* Tensors of every type that a kernel has. */
static int other_types(const kernel_sweep_runtime *runtime) {
    uint64_t a[] = {16, 512}, b[] = {384, 512}, c[] = {16, 384}, a_scales[] = {4, 16}, b_scales[] = {3, 4};
    kernel_sweep_dimension product[] = {{"m", 16}, {"n", 384}, {"k", 512}, {"scale_block", 128}};
    kernel_sweep_tensor fp8[] = {{NULL, KERNEL_SWEEP_E4M3, 2, a},
                                 {NULL, KERNEL_SWEEP_E4M3, 2, b},
                                 {NULL, KERNEL_SWEEP_F32, 2, a_scales},
                                 {NULL, KERNEL_SWEEP_F32, 2, b_scales},
                                 {NULL, KERNEL_SWEEP_BF16, 2, c}};
    if (launches(runtime, "matmul_fp8", product, 4, NULL, fp8, 5))
        return 1;
    uint64_t rows[] = {16, 4096}, columns[] = {4096}, one_a_row[] = {16};
    kernel_sweep_dimension shape[] = {{"rows", 16}, {"cols", 4096}};
    kernel_sweep_tensor norm[] = {{NULL, KERNEL_SWEEP_F16, 2, rows},
                                  {NULL, KERNEL_SWEEP_F16, 1, columns},
                                  {NULL, KERNEL_SWEEP_F16, 2, rows}};
    if (launches(runtime, "row_norm_rms", shape, 2, "f16", norm, 3))
        return 1;
    kernel_sweep_tensor loss[] = {{NULL, KERNEL_SWEEP_F32, 2, rows},
                                  {NULL, KERNEL_SWEEP_INT64, 1, one_a_row},
                                  {NULL, KERNEL_SWEEP_F32, 1, one_a_row}};
    return launches(runtime, "row_cross_entropy", shape, 2, "f32", loss, 3);
}

/* A kernel that needs scratch, and is prepared without. */
static int scratch_of_ours(const kernel_sweep_runtime *runtime) {
    kernel_sweep_dimension shape[] = {{"batch", 1}, {"heads", 8}, {"q_seq", 1}, {"kv_seq", 16384}, {"head_dim", 128}};
    kernel_sweep_kernel *kernel = kernel_sweep_prepare_without_scratch(runtime, "attention", shape, 5, NULL);
    EXPECT(kernel != NULL);
    uint64_t bytes = kernel_sweep_scratch_bytes(kernel), q[] = {1, 8, 1, 128}, k[] = {1, 8, 16384, 128};
    EXPECT(bytes > 0);
    kernel_sweep_tensor inputs[] = {{at(1), KERNEL_SWEEP_BF16, 4, q}, {at(2), KERNEL_SWEEP_BF16, 4, k}, {at(3), KERNEL_SWEEP_BF16, 4, k}};
    kernel_sweep_tensor output = {at(4), KERNEL_SWEEP_BF16, 4, q};
    EXPECT(kernel_sweep_launch(kernel, NULL, inputs, 3, &output, NULL, 0) == -1 && SAYS("prepared without"));
    EXPECT(kernel_sweep_launch(kernel, NULL, inputs, 3, &output, at(5), bytes - 1) == -1 && SAYS("scratch of"));
    EXPECT(kernel_sweep_launch(kernel, NULL, inputs, 3, &output, at(5), bytes) == 0);
    kernel_sweep_release(kernel);
    EXPECT(kernel_sweep_prepare_without_scratch(runtime, "attention", shape, 4, NULL) == NULL && SAYS("head_dim"));
    EXPECT(kernel_sweep_prepare_without_scratch(NULL, "attention", shape, 5, NULL) == NULL && SAYS("runtime is a null pointer"));
    return 0;
}

int main(int count, char **arguments) {
    if (count != 2)
        return 2;
    const char *bundle = arguments[1];
    EXPECT(kernel_sweep_open(7, NULL, bundle) == NULL && SAYS("there is no GPU 7"));
    EXPECT(kernel_sweep_open(0, NULL, "/nowhere") == NULL && SAYS("/nowhere"));
    EXPECT(kernel_sweep_open(0, "/nowhere", bundle) == NULL && SAYS("/nowhere"));
    EXPECT(kernel_sweep_adopt(NULL, NULL, bundle) == NULL && SAYS("no CUDA context is current"));
    kernel_sweep_runtime *runtime = kernel_sweep_open(0, NULL, bundle);
    EXPECT(runtime != NULL && strcmp(kernel_sweep_error(), "") == 0);

    kernel_sweep_dimension shape[] = {{"m", 16}, {"n", 4096}, {"k", 4096}};
    EXPECT(kernel_sweep_prepare(runtime, "matmul_int4", shape, 2, NULL) == NULL && SAYS("needs dimension 'k'"));
    EXPECT(kernel_sweep_prepare(runtime, "matmul_int5", shape, 3, NULL) == NULL && SAYS("matmul_int5"));
    EXPECT(kernel_sweep_prepare(runtime, "matmul_int4", shape, 3, "f32") == NULL && SAYS("comes in bf16 and f16 only"));
    EXPECT(kernel_sweep_prepare(runtime, "matmul_fp8", shape, 3, "bf16") == NULL && SAYS("comes in fp8 only"));
    EXPECT(kernel_sweep_prepare(runtime, "matmul_fp8", shape, 3, NULL) == NULL && SAYS("holds no such kernel"));
    EXPECT(kernel_sweep_prepare(NULL, "matmul_int4", shape, 3, NULL) == NULL && SAYS("runtime is a null pointer"));
    shape[0].value = 17;
    shape[2].value = 66;
    EXPECT(kernel_sweep_prepare(runtime, "matmul_int4", shape, 3, NULL) == NULL && SAYS("holds no such kernel"));
    shape[0].value = 16;
    shape[2].value = 4096;
    kernel_sweep_kernel *kernel = kernel_sweep_prepare(runtime, "matmul_int4", shape, 3, "torch.bfloat16");
    EXPECT(kernel != NULL && kernel_sweep_scratch_bytes(kernel) == 0);
    if (other_types(runtime) || scratch_of_ours(runtime))
        return 1;
    kernel_sweep_close(runtime); /* kernels may outlive it */

    uint64_t a_shape[] = {16, 4096}, b_shape[] = {2048, 4096}, c_shape[] = {16, 4096};
    kernel_sweep_tensor inputs[] = {{at(1), KERNEL_SWEEP_BF16, 2, a_shape}, {at(2), KERNEL_SWEEP_BYTE, 2, b_shape}};
    kernel_sweep_tensor output = {at(3), KERNEL_SWEEP_BF16, 2, c_shape};
    EXPECT(kernel_sweep_launch(kernel, (void *)5, inputs, 2, &output, NULL, 0) == 0);
    EXPECT(kernel_sweep_launch(kernel, NULL, inputs, 2, &output, at(4), 64) == 0);
    EXPECT(kernel_sweep_launch(kernel, NULL, inputs, 1, &output, NULL, 0) == -1 && SAYS("1 input tensors where there are 2"));
    EXPECT(kernel_sweep_launch(kernel, NULL, inputs, 2, NULL, NULL, 0) == -1 && SAYS("output is a null pointer"));
    EXPECT(kernel_sweep_launch(NULL, NULL, inputs, 2, &output, NULL, 0) == -1 && SAYS("kernel is a null pointer"));
    b_shape[0] = 2047;
    EXPECT(kernel_sweep_launch(kernel, NULL, inputs, 2, &output, NULL, 0) == -1 && SAYS("B i8 [2048, 4096]"));
    b_shape[0] = 2048;
    inputs[1].element = KERNEL_SWEEP_F32;
    EXPECT(kernel_sweep_launch(kernel, NULL, inputs, 2, &output, NULL, 0) == -1 && SAYS("this is f32"));
    inputs[1].element = 9;
    EXPECT(kernel_sweep_launch(kernel, NULL, inputs, 2, &output, NULL, 0) == -1 && SAYS("there is no type 9"));
    inputs[1].element = KERNEL_SWEEP_BYTE;
    inputs[0].data = a_shape;
    EXPECT(kernel_sweep_launch(kernel, NULL, inputs, 2, &output, NULL, 0) == -1 && SAYS("in no GPU's own memory"));
    inputs[0].data = output.data;
    EXPECT(kernel_sweep_launch(kernel, NULL, inputs, 2, &output, NULL, 0) == -1 && SAYS("C lies over A"));
    kernel_sweep_release(kernel);
    kernel_sweep_release(NULL);
    kernel_sweep_close(NULL);
    printf("ok\n");
    return 0;
}
