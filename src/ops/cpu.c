/* Picks the widest kernels that this processor runs. */
#include "ops/cpu.h"

#include "base/isa.h"

extern const tsr_cpu_kernel_set tsr_cpu_set_baseline, tsr_cpu_set_avx2,
    tsr_cpu_set_avx512;

static const tsr_cpu_kernel_set *const sets[] = TSR_ISA_SETS(tsr_cpu_set);

size_t tsr_cpu_kernel_sets(const tsr_cpu_kernel_set *const **out_sets) {
    *out_sets = sets;
    return tsr_isa_supported();
}

const tsr_cpu_kernel_set *tsr_cpu_kernels_best(void) {
    return sets[tsr_isa_supported() - 1];
}
