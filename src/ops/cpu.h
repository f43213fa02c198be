/* The fast kernels of the host's processors, one set an instruction set. */
#ifndef TSR_OPS_CPU_H
#define TSR_OPS_CPU_H

#include "ops/cpu_gemm.h"
#include "tessera/ops.h"

typedef struct tsr_cpu_kernel_set {
    const char *isa; /* "baseline", "avx2", "avx512" */
    const tsr_kernel *rows;
    size_t count;
    tsr_gemm_run gemm; /* our own matrix product in this instruction set */
} tsr_cpu_kernel_set;

/* The sets this processor can run, widest last; at least one. Thread-safe. */
size_t tsr_cpu_kernel_sets(const tsr_cpu_kernel_set *const **out_sets);

/* The widest of them. */
const tsr_cpu_kernel_set *tsr_cpu_kernels_best(void);

#endif
