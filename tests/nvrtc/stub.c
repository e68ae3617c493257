/* Stands in for NVRTC: every kernel compiles, to a cubin that names its version. Loading it leaves the file MARK. Built with
 * -DTOGETHER=N it compiles no kernel before so many are at it, and fails where they do not come. */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char LOG[] = "ptxas info    : Used 8 registers";
/* An ELF that ends where its table of no sections begins. */
static const char CUBIN[128] = {[0] = '\177', 'E', 'L', 'F', [40] = 127, [64] = ',', ' ', 'V', '1', '3', '.', '0', '.', '9', '9'};

#ifdef TOGETHER
/* Whether enough threads compile at once; they are waited for. */
static int are_together(void) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int compiling;
    pthread_mutex_lock(&lock);
    compiling++;
    pthread_mutex_unlock(&lock);
    for (int tenths = 0; tenths < 300; tenths++) {
        pthread_mutex_lock(&lock);
        const int all = compiling >= TOGETHER;
        pthread_mutex_unlock(&lock);
        if (all) return 1;
        usleep(100000);
    }
    return 0;
}
#endif

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
    (void)count, (void)options;
#ifdef TOGETHER
    if (!strstr(program, "void version()") && !are_together()) return 6;
#endif
    (void)program;
    return dlopen("libnvrtc-builtins.so.13.0", RTLD_LAZY) ? 0 : 6;
}
int nvrtcGetProgramLogSize(void *program, size_t *size) { (void)program; *size = sizeof LOG; return 0; }
int nvrtcGetProgramLog(void *program, char *log) { (void)program; memcpy(log, LOG, sizeof LOG); return 0; }
int nvrtcGetCUBINSize(void *program, size_t *size) { (void)program; *size = sizeof CUBIN; return 0; }
int nvrtcGetCUBIN(void *program, char *cubin) { (void)program; memcpy(cubin, CUBIN, sizeof CUBIN); return 0; }
