/* Devices: memory, streams, events, kernels' threads.
 *
 * A stream is an ordered queue of work; an event is a point in one. As in CUDA:
 * a wait binds to the latest record enqueued before it, and waiting for an
 * event that was never recorded is a no-op. */
#ifndef TESSERA_DEVICE_H
#define TESSERA_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#include "tessera/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tsr_device tsr_device; /* thread-safe */
typedef struct tsr_stream tsr_stream; /* one enqueuing thread at a time */
typedef struct tsr_event
    tsr_event; /* one recording stream at a time; any may wait */

typedef struct tsr_cpu_options {
    int threads; /* threads that share one kernel, the stream's own included; 0:
                    1 */
    uint64_t delay_seed;   /* not 0: every task is preceded by a random delay
                              drawn from this seed (tests) */
    uint32_t max_delay_us; /* the longest such delay */
} tsr_cpu_options;

/* The host's processors as a device. A queued stream owns one worker thread;
 * kernels on it may use the device's `threads`. Errors: OUT_OF_MEMORY; IO (no
 * thread could be started). */
TSR_API tsr_status tsr_device_create_cpu(const tsr_cpu_options *options,
                                         tsr_device **out_device);

/* Takes NULL. Streams and events of the device must be released before. */
TSR_API void tsr_device_release(tsr_device *device);

TSR_API int tsr_device_threads(const tsr_device *device);

/* Memory of the device, zeroed, aligned to 64 bytes (huge pages and first touch
 * where that pays). Errors: OUT_OF_MEMORY. Cost: one system call and the first
 * touch; never called while a plan is walked. */
TSR_API tsr_status tsr_device_alloc(tsr_device *device, size_t bytes,
                                    void **out_memory);
TSR_API void tsr_device_free(tsr_device *device, void *memory,
                             size_t bytes); /* takes NULL */

/* Memory of the host, zeroed, aligned to 64 bytes, that copies to and from the
 * device may use while they are in flight (pinned where that means something;
 * on the CPU: ordinary pages). Errors and cost: as above. */
TSR_API tsr_status tsr_device_alloc_host(tsr_device *device, size_t bytes,
                                         void **out_memory);
TSR_API void tsr_device_free_host(tsr_device *device, void *memory,
                                  size_t bytes); /* takes NULL */

/* ---- streams ---- */

typedef enum tsr_stream_kind {
    TSR_STREAM_QUEUED, /* own worker; enqueuing returns at once */
    TSR_STREAM_INLINE, /* the caller's thread runs each task when it is
                          enqueued; a wait blocks it */
} tsr_stream_kind;

/* name      for messages; borrowed, outlives the stream
 * capacity  tasks that may be queued before an enqueue has to wait for the
 *           worker; 0: 1024
 * Errors: INVALID_ARGUMENT (no name, a capacity of 2^30 or more);
 * OUT_OF_MEMORY; IO (no thread could be started). */
TSR_API tsr_status tsr_stream_create(tsr_device *device, tsr_stream_kind kind,
                                     const char *name, size_t capacity,
                                     tsr_stream **out_stream);
/* Waits for queued work, then frees. Takes NULL. */
TSR_API void tsr_stream_release(tsr_stream *stream);

TSR_API tsr_device *tsr_stream_device(tsr_stream *stream);

/* A task runs on the stream's worker, in order. A failing task makes the stream
 * *failed*: later tasks are dropped (events are still recorded, so that nobody
 * waits for ever) until tsr_stream_synchronize has reported the failure. */
typedef tsr_status (*tsr_task)(void *context);

/* Enqueues `task(context)`; `context` is borrowed until the task has run. Never
 * allocates. Returns before completion. Errors: none of its own on a queued
 * stream; the task's status on an inline one. */
TSR_API tsr_status tsr_stream_enqueue(tsr_stream *stream, tsr_task task,
                                      void *context);

/* Blocks until everything enqueued has run; returns the stream's failure,
 * clears it, and makes its message the calling thread's. */
TSR_API tsr_status tsr_stream_synchronize(tsr_stream *stream);

/* TSR_OK, or the failure that tsr_stream_synchronize will report (it sets no
 * message and clears nothing). From any thread: who has waited for an event of
 * the stream sees failures from before it. */
TSR_API tsr_status tsr_stream_poll(tsr_stream *stream);

/* Copies `bytes`; both ranges are borrowed until the copy has run; they must
 * not overlap. */
TSR_API tsr_status tsr_stream_copy(tsr_stream *stream, void *to,
                                   const void *from, size_t bytes);

/* ---- events ---- */

TSR_API tsr_status tsr_event_create(tsr_device *device, tsr_event **out_event);
TSR_API void tsr_event_release(
    tsr_event *event); /* takes NULL; not while a wait for it is queued */
TSR_API tsr_status tsr_stream_record(tsr_stream *stream, tsr_event *event);
TSR_API tsr_status tsr_stream_wait(tsr_stream *stream, tsr_event *event);
/* Blocks the calling thread until the latest record has been reached. */
TSR_API void tsr_event_synchronize(tsr_event *event);

/* ---- threads of a kernel ---- */

/* `body(context, begin, end)` for a partition of [0, count) into contiguous
 * ranges, one a thread, at most `threads`; returns when all have run. Only from
 * a task of the device (one at a time: a second caller runs its whole range
 * itself). The body must compute each index alike whatever the partition: then
 * bits do not depend on the thread count. */
typedef void (*tsr_parallel_body)(void *context, int64_t begin, int64_t end);
TSR_API void tsr_device_parallel(tsr_device *device, int64_t count,
                                 tsr_parallel_body body, void *context);

#ifdef __cplusplus
}
#endif
#endif
