/* The instruction sets that kernels are compiled for, once each; every set
 * includes the ones before it. */
#ifndef TSR_BASE_ISA_H
#define TSR_BASE_ISA_H

#include <stddef.h>

/* {&NAME_baseline, ...}: what the build made of one source, narrowest first. */
#if defined(__x86_64__)
#define TSR_ISA_SETS(name)                                                     \
    { &name##_baseline, &name##_avx2, &name##_avx512 }
#else
#define TSR_ISA_SETS(name)                                                     \
    { &name##_baseline }
#endif

/* How many of them this processor runs, at least 1. Cost: nanoseconds.
 * Thread-safe. */
size_t tsr_isa_supported(void);

#endif
