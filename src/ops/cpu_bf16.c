/* Times bf16 products against f32 ones, once a process. */
#include "ops/cpu_bf16.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/os.h"
#include "ops/cpu_gemm.h"
#include "ops/cpu_matmul.h"

#define PROBE_SIDE 256 /* 33 million operations: 0.1 ms of f32 */
#define PROBE_TRIES 7  /* the best of them: one that nobody disturbed */
#define PROBE_GAIN 1.1 /* less is noise */
#define ALIGNMENT 64   /* bytes: a cache line */

typedef struct probe {
    tsr_matmul *matmul;
    float *memory; /* borrowed: three matrices, their scratch behind them */
    double bf16_ns, f32_ns;
} probe;

static double best(double before, int64_t begin) {
    const double ns = (double)(tsr_os_now_ns() - begin);
    return before == 0 || ns < before ? ns : before;
}

/* The first try makes code and touches memory; the best one does not. */
static tsr_status time_both(probe *self) {
    const size_t count = (size_t)PROBE_SIDE * PROBE_SIDE;
    float *a = self->memory, *b = a + count, *c = b + count;
    const tsr_matmul_operands operands = {.a = (uint16_t *)(void *)a,
                                          .b = (uint16_t *)(void *)b,
                                          .c = (uint16_t *)(void *)c,
                                          .scratch = c + count};
    const tsr_gemm gemm = {.m = PROBE_SIDE,
                           .n = PROBE_SIDE,
                           .k = PROBE_SIDE,
                           .alpha = 1,
                           .a = a,
                           .lda = PROBE_SIDE,
                           .b = b,
                           .ldb = PROBE_SIDE,
                           .c = c,
                           .ldc = PROBE_SIDE};
    for (int i = 0; i < PROBE_TRIES; i++) {
        int64_t begin = tsr_os_now_ns();
        TSR_TRY(tsr_matmul_run(self->matmul, &operands));
        self->bf16_ns = best(self->bf16_ns, begin);
        begin = tsr_os_now_ns();
        tsr_cpu_gemm(&gemm);
        self->f32_ns = best(self->f32_ns, begin);
    }
    return TSR_OK;
}

/* No time, or no product: f32. */
static bool bf16_is_faster(void) {
    const tsr_matmul_shape shape = {.m = PROBE_SIDE,
                                    .n = PROBE_SIDE,
                                    .k = PROBE_SIDE,
                                    .lda = PROBE_SIDE,
                                    .ldb = PROBE_SIDE,
                                    .ldc = PROBE_SIDE};
    const size_t bytes = 3 * sizeof(float) * PROBE_SIDE * PROBE_SIDE;
    probe self = {0};
    void *memory = NULL;
    tsr_status status = tsr_matmul_create(&shape, &self.matmul);
    if (status == TSR_OK)
        status = tsr_alloc(ALIGNMENT + bytes + tsr_matmul_scratch_bytes(&shape),
                           1, &memory);
    if (status == TSR_OK) {
        self.memory = (float *)(tsr_round_up((uintptr_t)memory, ALIGNMENT));
        status = time_both(&self);
    }
    tsr_matmul_release(self.matmul);
    tsr_free(memory);
    return status == TSR_OK && self.bf16_ns * PROBE_GAIN < self.f32_ns;
}

static struct {
    pthread_once_t once; /* guards `faster` */
    bool faster;
    atomic_int preferred; /* tsr_bf16_choice of a test */
} choice = {.once = PTHREAD_ONCE_INIT};

static void run_probe(void) { choice.faster = bf16_is_faster(); }

static tsr_bf16_choice wanted(void) {
    const int preferred = atomic_load(&choice.preferred);
    const char *setting = getenv("TESSERA_BF16");
    if (preferred != TSR_BF16_PROBE)
        return (tsr_bf16_choice)preferred;
    if (setting && strcmp(setting, "native") == 0)
        return TSR_BF16_NATIVE;
    return setting && strcmp(setting, "f32") == 0 ? TSR_BF16_F32
                                                  : TSR_BF16_PROBE;
}

bool tsr_cpu_bf16_native(void) {
    if (!tsr_matmul_possible() || wanted() == TSR_BF16_F32)
        return false;
    if (wanted() == TSR_BF16_NATIVE)
        return true;
    pthread_once(&choice.once, run_probe);
    return choice.faster;
}

tsr_status tsr_cpu_bf16_check(void) {
    const char *setting = getenv("TESSERA_BF16");
    if (setting && strcmp(setting, "native") != 0 &&
        strcmp(setting, "f32") != 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "TESSERA_BF16 is '%.40s', must be native or f32",
                         setting);
    if (wanted() == TSR_BF16_NATIVE && !tsr_matmul_possible())
        return tsr_error(TSR_UNSUPPORTED,
                         "TESSERA_BF16=native needs oneDNN 2 (libdnnl2), "
                         "which was not found");
    return TSR_OK;
}

bool tsr_cpu_bf16_allows(tsr_bf16_choice asked) {
    const tsr_bf16_choice said = wanted();
    if (said != TSR_BF16_PROBE && said != asked)
        return false;
    return asked != TSR_BF16_NATIVE || tsr_matmul_possible();
}

void tsr_cpu_bf16_prefer(tsr_bf16_choice preferred) {
    atomic_store(&choice.preferred, (int)preferred);
}
