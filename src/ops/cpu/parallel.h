/* How kernels cut their work.
 *
 * The body of tsr_device_parallel gets a range of units; a unit is always
 * computed alike, so bits do not depend on the number of threads. */
#ifndef TSR_OPS_CPU_PARALLEL_H
#define TSR_OPS_CPU_PARALLEL_H

#include "ops/shape.h"

static inline int64_t tsr_min(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t tsr_ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* A unit of element-wise work: a multiple of every vector, so that an element
 * is in a vector or in the tail wherever the threads' ranges begin. */
#define TSR_ELEMENTS 1024

/* Workspaces cannot be indexed by thread, which a body does not know. So the
 * work is dealt to `slots`, one workspace each: slot s does the tasks
 * [count * s / slots, count * (s + 1) / slots). */
static inline int64_t tsr_slots(int64_t tasks, int threads) {
    return tsr_min(tasks, threads < 1 ? 1 : threads);
}

/* Bytes of `count` floats, rounded up so that slots share no cache line. */
static inline size_t tsr_slot_bytes(int64_t count) {
    return ((size_t)count * sizeof(float) + 63) / 64 * 64;
}

#endif
