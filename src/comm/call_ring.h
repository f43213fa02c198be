/* Calls on their way from the caller's thread to the stream's worker: a ring of
 * records, so that a call allocates nothing.
 *
 * A record is in use from the enqueue until `finished` has passed it. A stream
 * that failed drops its tasks: the gap is found by the next call that runs. */
#ifndef TSR_COMM_CALL_RING_H
#define TSR_COMM_CALL_RING_H

#include <stdatomic.h>

#include "comm/call.h"

#define TSR_CALL_RING_CALLS 1024 /* enqueued and not finished */

/* On the stream's worker, one call of a communicator at a time. */
typedef tsr_status (*tsr_call_run)(const tsr_call *call);

typedef struct tsr_call_record {
    struct tsr_call_ring *ring;
    tsr_call call;
} tsr_call_record;

/* Part of a communicator. One thread at a time enqueues, begins and ends. */
typedef struct tsr_call_ring {
    tsr_comm *comm; /* asked for, and told, of failures; outlives */
    tsr_call_run run;
    int64_t timeout_ns;
    uint64_t issued;                    /* sequence of the last call */
    _Atomic uint32_t finished, waiters; /* futex; low bits of a sequence */
    tsr_call_record records[TSR_CALL_RING_CALLS];
} tsr_call_ring;

/* The ring is zeroed. */
void tsr_call_ring_init(tsr_call_ring *ring, tsr_comm *comm, tsr_call_run run,
                        int64_t timeout_ns);
/* Copies `call`. Waits while the ring is full.
 * Errors: the group's failure; UNAVAILABLE (earlier calls do not run). */
tsr_status tsr_call_ring_enqueue(tsr_call_ring *ring, const tsr_call *call,
                                 tsr_stream *stream);
/* A call that runs on the caller's thread, between these two: begins once all
 * earlier ones have finished. */
tsr_status tsr_call_ring_begin(tsr_call_ring *ring, uint64_t *out_sequence);
void tsr_call_ring_end(tsr_call_ring *ring, uint64_t sequence);

#endif
