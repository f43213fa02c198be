/* A counter that only rises and that threads can wait for: what streams, events
 * and the pool of the CPU backend are synchronised with. Thread-safe;
 * zero-initialise. */
#ifndef TSR_DEVICE_CPU_COUNTER_H
#define TSR_DEVICE_CPU_COUNTER_H

#include <stdatomic.h>
#include <stdint.h>

/* Counts are modulo 2^31: at any time the counts raised to and waited for must
 * lie within 2^30 of each other. */
#define CPU_COUNTER_SPAN ((uint32_t)1 << 30)

typedef struct cpu_counter {
    _Atomic uint32_t word; /* count * 2 + (1 if a thread may be asleep) */
} cpu_counter;

/* Raises the counter to `count`, unless it is there or past it, and wakes who
 * waits. Everything before it happens before the return of a
 * cpu_counter_reach it satisfies. The counter is not touched once it is raised,
 * so that who waited for `count` may free it. */
void cpu_counter_raise(cpu_counter *counter, uint32_t count);

/* Blocks until the counter is at `count` or past it: spins for some
 * microseconds, then sleeps. */
void cpu_counter_reach(cpu_counter *counter, uint32_t count);

#endif
