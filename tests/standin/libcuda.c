/* A stand-in for the CUDA driver, to test what is done about a driver's faults where there is no GPU. It has names and memory to
 * give and runs no kernel: outputs count as right, since a comparison that never ran found nothing, and times are invented. What
 * is measured with it says nothing.
 *
 * In the environment:
 *   STANDIN_INIT=CODE            cuInit fails with this code
 *   STANDIN_COUNT=N              devices there are; 1
 *   STANDIN_UUID=N               the number of the first one
 *   STANDIN_NAME=TEXT            what each is called; NVIDIA H200
 *   STANDIN_VERSION=N            the CUDA version the driver is for; 13000
 *   STANDIN_FREE_MIB=N           memory that is free, of 141 GiB
 *   STANDIN_PAUSE_US=N           how long the device is waited for, each time
 *   STANDIN_MOST_THREADS=N       threads that a block of any kernel may have; 1024
 *   STANDIN_PARAMETERS=8,8,4     sizes of any kernel's parameters
 *   STANDIN_FAULT=FUNCTION:CODE  this function fails with this code: cuMemAlloc_v2, cuLaunchKernelEx, cuModuleLoadData, …
 *   STANDIN_FAULT_AFTER=N        but for its first N calls in a process
 * Built with -DTOO_OLD it lacks cuEventElapsedTime_v2, as drivers before 12.8 do.
 */
#define _DEFAULT_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int Result;
typedef uint64_t Address;

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

/* The code a function is to fail with now, 0 for none. */
static Result fault(const char *function, long *calls) {
    const char *wanted = getenv("STANDIN_FAULT");
    size_t length = strlen(function);
    if (!wanted || strncmp(wanted, function, length) != 0 || wanted[length] != ':') return 0;
    return ++*calls > number("STANDIN_FAULT_AFTER", 0) ? atoi(wanted + length + 1) : 0;
}

#define FAULTS                                                                                                                  \
    do {                                                                                                                        \
        static long calls;                                                                                                      \
        Result failure = fault(__func__, &calls);                                                                               \
        if (failure) return failure;                                                                                            \
    } while (0)

static const struct {
    Result code;
    const char *name, *text;
} ERRORS[] = {
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static Result describe(Result code, const char **text, int by_name) {
    for (size_t at = 0; at < sizeof ERRORS / sizeof *ERRORS; at++)
        if (ERRORS[at].code == code) {
            *text = by_name ? ERRORS[at].name : ERRORS[at].text;
            return 0;
        }
    return 1;
}

Result cuGetErrorName(Result code, const char **text) { return describe(code, text, 1); }
Result cuGetErrorString(Result code, const char **text) { return describe(code, text, 0); }

Result cuInit(unsigned flags) {
    (void)flags;
    return (Result)number("STANDIN_INIT", 0);
}

Result cuDriverGetVersion(int *version) {
    *version = (int)number("STANDIN_VERSION", 13000);
    return 0;
}

Result cuDeviceGetCount(int *count) {
    FAULTS;
    *count = (int)number("STANDIN_COUNT", 1);
    return 0;
}

Result cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return 0;
}

Result cuDeviceGetName(char *name, int length, int device) {
    FAULTS;
    (void)device;
    const char *called = getenv("STANDIN_NAME");
    snprintf(name, (size_t)length, "%s", called ? called : "NVIDIA H200");
    return 0;
}

/* Each device has its own, the same in every process. */
Result cuDeviceGetUuid_v2(char uuid[16], int device) {
    memset(uuid, 0, 16);
    snprintf(uuid, 16, "gpu %d", (int)number("STANDIN_UUID", 0) + device);
    return 0;
}

Result cuDeviceTotalMem_v2(size_t *bytes, int device) {
    (void)device;
    *bytes = (size_t)141 << 30;
    return 0;
}

Result cuDeviceGetPCIBusId(char *text, int length, int device) {
    snprintf(text, (size_t)length, "00000000:%02X:00.0", device + 1);
    return 0;
}

/* By the numbers of CUdevice_attribute, what an H200 has. */
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
        case 16: *value = 132; break;           /* multiprocessors */
        case 38: *value = 60 << 20; break;      /* L2 */
        case 39: *value = 2048; break;          /* threads a multiprocessor */
        case 75: *value = 9; break;             /* compute capability */
        case 76: *value = 0; break;
        case 81: *value = 228 << 10; break;     /* shared memory a multiprocessor */
        case 82: *value = 65536; break;         /* registers a multiprocessor */
        case 97: *value = 227 << 10; break;     /* shared memory a block */
        default: *value = 1;
    }
    return 0;
}

Result cuDevicePrimaryCtxRetain(void **context, int device) {
    FAULTS;
    (void)device;
    *context = (void *)1;
    return 0;
}

Result cuCtxSetCurrent(void *context) { return (void)context, 0; }

Result cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    *total = (size_t)141 << 30;
    *free_bytes = (size_t)number("STANDIN_FREE_MIB", 140 << 10) << 20;
    return 0;
}

/* Addresses of nothing. */
Result cuMemAlloc_v2(Address *address, size_t bytes) {
    FAULTS;
    static Address next = (Address)1 << 40;
    *address = next;
    next += (bytes + 0xffff) & ~(Address)0xffff;
    return 0;
}

Result cuMemFree_v2(Address address) { return (void)address, 0; }

Result cuMemHostAlloc(void **host, size_t bytes, unsigned flags) {
    (void)flags;
    *host = calloc(1, bytes);
    return *host ? 0 : 2;
}

Result cuMemHostGetDevicePointer_v2(Address *address, void *host, unsigned flags) {
    (void)flags;
    *address = (Address)(uintptr_t)host;
    return 0;
}

Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *stream) {
    return (void)to, (void)from, (void)bytes, (void)stream, 0;
}

Result cuMemcpyDtoH_v2(void *to, Address from, size_t bytes) {
    (void)from;
    memset(to, 0, bytes);
    return 0;
}

Result cuMemcpyHtoD_v2(Address to, const void *from, size_t bytes) {
    FAULTS;
    return (void)to, (void)from, (void)bytes, 0;
}

Result cuMemsetD8Async(Address address, unsigned char byte, size_t bytes, void *stream) {
    return (void)address, (void)byte, (void)bytes, (void)stream, 0;
}

Result cuModuleLoadData(void **module, const void *image) {
    FAULTS;
    (void)image;
    *module = (void *)1;
    return 0;
}

Result cuModuleUnload(void *module) { return (void)module, 0; }

Result cuModuleGetFunction(void **function, void *module, const char *name) {
    (void)module, (void)name;
    *function = (void *)1;
    return 0;
}

Result cuFuncSetAttribute(void *function, int attribute, int value) {
    return (void)function, (void)attribute, (void)value, 0;
}

/* By the numbers of CUfunction_attribute: what a kernel of 32 registers has. */
Result cuFuncGetAttribute(int *value, int attribute, void *function) {
    FAULTS;
    (void)function;
    *value = attribute == 0 ? (int)number("STANDIN_MOST_THREADS", 1024) : attribute == 4 ? 32 : 0;
    return 0;
}

/* The parameters' sizes, such as 8,8,8,4; it does not tell where there are none. */
Result cuFuncGetParamInfo(void *function, size_t index, size_t *offset, size_t *size) {
    FAULTS;
    (void)function;
    const char *sizes = getenv("STANDIN_PARAMETERS");
    if (!sizes) return 801;
    *offset = 8 * index;
    for (; index > 0; index--) {
        sizes = strchr(sizes, ',');
        if (!sizes++) return 1;
    }
    *size = (size_t)atol(sizes);
    return 0;
}

Result cuLaunchKernelEx(const void *config, void *function, void **parameters, void **extra) {
    FAULTS;
    return (void)config, (void)function, (void)parameters, (void)extra, 0;
}

Result cuTensorMapEncodeTiled(void) { return 0; }

Result cuStreamCreate(void **stream, unsigned flags) {
    (void)flags;
    *stream = (void *)1;
    return 0;
}

Result cuStreamSynchronize(void *stream) {
    FAULTS;
    (void)stream;
    usleep((useconds_t)number("STANDIN_PAUSE_US", 0));
    return 0;
}

Result cuEventCreate(void **event, unsigned flags) {
    (void)flags;
    *event = (void *)1;
    return 0;
}

Result cuEventRecord(void *event, void *stream) { return (void)event, (void)stream, 0; }

#ifndef TOO_OLD
/* About 20 µs, never twice the same. */
Result cuEventElapsedTime_v2(float *milliseconds, void *start, void *end) {
    static unsigned turn;
    (void)start, (void)end;
    *milliseconds = 0.02f + 1e-5f * (float)(++turn % 7);
    return 0;
}
#endif
