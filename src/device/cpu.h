/* The parts of the CPU backend, for each other. */
#ifndef TSR_DEVICE_CPU_H
#define TSR_DEVICE_CPU_H

#include <pthread.h>
#include <stdatomic.h>

#include "device/backend.h"
#include "device/cpu_counter.h"

typedef struct cpu_pool cpu_pool;

typedef struct cpu_device {
    tsr_device base;
    cpu_pool *pool; /* owned; NULL with one thread */
    uint64_t delay_seed;
    uint32_t max_delay_us;
    _Atomic uint32_t streams_created; /* gives each stream its own delays */
} cpu_device;

/* Invariant: `completed` follows `recorded`; equal when no record is queued. */
typedef struct cpu_event {
    tsr_event base;
    _Atomic uint32_t recorded; /* records enqueued */
    cpu_counter completed;     /* the latest record reached */
} cpu_event;

/* ---- cpu_thread.c ---- */

/* Starts a thread that takes no asynchronous signals: those are for the
 * program's own threads. Errors: IO. */
tsr_status cpu_thread_start(void *(*body)(void *), void *context,
                            pthread_t *out_thread);

/* ---- cpu_stream.c, cpu_event.c: entries of the vtable ---- */

tsr_status cpu_stream_create(tsr_device *device, tsr_stream_kind kind,
                             const char *name, size_t capacity,
                             tsr_stream **out_stream);
void cpu_stream_release(tsr_stream *stream);
tsr_status cpu_stream_enqueue(tsr_stream *stream, tsr_task task, void *context);
tsr_status cpu_stream_synchronize(tsr_stream *stream);
tsr_status cpu_stream_poll(tsr_stream *stream);
tsr_status cpu_stream_copy(tsr_stream *stream, void *to, const void *from,
                           size_t bytes);
tsr_status cpu_stream_record(tsr_stream *stream, tsr_event *event);
tsr_status cpu_stream_wait(tsr_stream *stream, tsr_event *event);

tsr_status cpu_event_create(tsr_device *device, tsr_event **out_event);
void cpu_event_release(tsr_event *event);
void cpu_event_synchronize(tsr_event *event);

/* ---- cpu_pool.c ---- */

/* A pool of `threads` >= 2, the caller of cpu_pool_run included. Thread-safe.
 * Errors: OUT_OF_MEMORY; IO. */
tsr_status cpu_pool_create(int threads, cpu_pool **out_pool);
void cpu_pool_release(cpu_pool *pool); /* takes NULL; not while it runs */

/* tsr_device_parallel for count > 0. */
void cpu_pool_run(cpu_pool *pool, int64_t count, tsr_parallel_body body,
                  void *context);

#endif
