/* Stands in for NVRTC: every kernel compiles, to a cubin that names its version. Loading it leaves the file MARK. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char LOG[] = "ptxas info    : Used 8 registers";
static const char CUBIN[] = "\177ELF of a stand-in, V13.0.99";

__attribute__((constructor)) static void mark(void) { close(open(MARK, O_CREAT | O_WRONLY, 0600)); }

int nvrtcVersion(int *major, int *minor) { *major = MAJOR; *minor = 0; return 0; }
const char *nvrtcGetErrorString(int status) { (void)status; return "the stand-in fails"; }
int nvrtcCreateProgram(void **program, const char *source, const char *name, int count, const char *const *headers,
                       const char *const *names) {
    (void)name, (void)count, (void)headers, (void)names;
    *program = strdup(source);
    return 0;
}
int nvrtcDestroyProgram(void **program) { free(*program); return 0; }
/* As the real one does, it looks for its builtins by name. */
int nvrtcCompileProgram(void *program, int count, const char *const *options) {
    (void)program, (void)count, (void)options;
    return dlopen("libnvrtc-builtins.so.13.0", RTLD_LAZY) ? 0 : 6;
}
int nvrtcGetProgramLogSize(void *program, size_t *size) { (void)program; *size = sizeof LOG; return 0; }
int nvrtcGetProgramLog(void *program, char *log) { (void)program; memcpy(log, LOG, sizeof LOG); return 0; }
int nvrtcGetCUBINSize(void *program, size_t *size) { (void)program; *size = sizeof CUBIN; return 0; }
int nvrtcGetCUBIN(void *program, char *cubin) { (void)program; memcpy(cubin, CUBIN, sizeof CUBIN); return 0; }
