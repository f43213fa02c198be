/* Which instruction sets this processor has. */
#include "ops/cpu.h"

extern const tsr_cpu_kernel_set tsr_cpu_set_baseline;

#if defined(__x86_64__)

extern const tsr_cpu_kernel_set tsr_cpu_set_avx2;
extern const tsr_cpu_kernel_set tsr_cpu_set_avx512;

/* Each set includes the ones before it. */
static const tsr_cpu_kernel_set *const sets[] = {
    &tsr_cpu_set_baseline, &tsr_cpu_set_avx2, &tsr_cpu_set_avx512};

static size_t supported(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return 1;
    if (!__builtin_cpu_supports("avx512f") ||
        !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl"))
        return 2;
    return 3;
}

#else

static const tsr_cpu_kernel_set *const sets[] = {&tsr_cpu_set_baseline};

static size_t supported(void) { return 1; }

#endif

size_t tsr_cpu_kernel_sets(const tsr_cpu_kernel_set *const **out_sets) {
    *out_sets = sets;
    return supported();
}

const tsr_cpu_kernel_set *tsr_cpu_kernels_best(void) {
    return sets[supported() - 1];
}
