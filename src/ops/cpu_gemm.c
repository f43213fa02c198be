/* Matrix products by oneDNN, found at run time, or by ourselves.
 *
 * oneDNN would start OpenMP threads of its own; ours share the work already, so
 * each call runs with one OpenMP thread and leaves the caller's setting as it
 * was: the caller may be a thread of somebody else's program. */
#include "ops/cpu.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

/* From dnnl.h and dnnl_types.h of oneDNN 2 and 3; 0 is success. */
typedef int (*dnnl_sgemm_function)(char trans_a, char trans_b, int64_t m,
                                   int64_t n, int64_t k, float alpha,
                                   const float *a, int64_t lda, const float *b,
                                   int64_t ldb, float beta, float *c,
                                   int64_t ldc);
typedef struct dnnl_version_prefix {
    int major, minor, patch;
} dnnl_version_prefix;
typedef const dnnl_version_prefix *(*dnnl_version_function)(void);

static struct {
    pthread_once_t once; /* guards the rest, which is read-only afterwards */
    void *handle;
    dnnl_sgemm_function sgemm;
    dnnl_version_function version;
    int (*get_threads)(void);
    void (*set_threads)(int threads);
} library = {.once = PTHREAD_ONCE_INIT};

static atomic_bool prefer_own;

/* ISO C has no conversion from dlsym's result to a function; POSIX has this. */
#define FIND(handle, name, out_function)                                       \
    (*(void **)(out_function) = dlsym((handle), (name)))

/* Never closed: its threads and JIT code live as long as the process. */
static void load(void) {
    static const char *const names[] = {"libdnnl.so.2", "libdnnl.so.3"};
    void *handle = NULL;
    for (size_t i = 0; handle == NULL && i < sizeof names / sizeof *names; i++)
        handle = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL)
        return;
    FIND(handle, "omp_get_max_threads", &library.get_threads);
    FIND(handle, "omp_set_num_threads", &library.set_threads);
    FIND(handle, "dnnl_version", &library.version);
    FIND(handle, "dnnl_sgemm", &library.sgemm);
    if (library.get_threads == NULL || library.set_threads == NULL)
        library.sgemm = NULL; /* another threading runtime: cannot be tamed */
    if (library.sgemm != NULL)
        library.handle = handle;
}

void tsr_cpu_gemm_load(void) { pthread_once(&library.once, load); }

void *tsr_cpu_library_find(const char *name) {
    return library.handle ? dlsym(library.handle, name) : NULL;
}

int tsr_cpu_one_thread_begin(void) {
    const int threads = library.get_threads();
    library.set_threads(1);
    return threads;
}

void tsr_cpu_one_thread_end(int threads) { library.set_threads(threads); }

static bool run_dnnl(const tsr_gemm *g) {
    const int threads = tsr_cpu_one_thread_begin();
    const int failed = library.sgemm(
        g->trans_a ? 'T' : 'N', g->trans_b ? 'T' : 'N', g->m, g->n, g->k,
        g->alpha, g->a, g->lda, g->b, g->ldb, g->beta, g->c, g->ldc);
    tsr_cpu_one_thread_end(threads);
    return failed == 0;
}

void tsr_cpu_gemm(const tsr_gemm *gemm) {
    if (library.sgemm == NULL || atomic_load(&prefer_own) || !run_dnnl(gemm))
        tsr_cpu_kernels_best()->gemm(gemm);
}

char *tsr_cpu_gemm_describe(char buffer[TSR_GEMM_DESCRIPTION_BYTES]) {
    const dnnl_version_prefix *version =
        library.sgemm && library.version ? library.version() : NULL;
    if (library.sgemm == NULL)
        snprintf(buffer, TSR_GEMM_DESCRIPTION_BYTES, "own products");
    else if (version == NULL)
        snprintf(buffer, TSR_GEMM_DESCRIPTION_BYTES, "oneDNN");
    else
        snprintf(buffer, TSR_GEMM_DESCRIPTION_BYTES, "oneDNN %d.%d.%d",
                 version->major, version->minor, version->patch);
    return buffer;
}

void tsr_cpu_gemm_prefer_own(bool own) { atomic_store(&prefer_own, own); }
