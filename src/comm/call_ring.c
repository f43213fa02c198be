#include "comm/call_ring.h"

#include <stdio.h>

#include "base/os.h"
#include "base/status.h"
#include "comm/backend.h"

/* Waiters look for the group's failure and at the clock this often. */
#define NAP_NS ((int64_t)10 * 1000 * 1000)

void tsr_call_ring_init(tsr_call_ring *ring, tsr_comm *comm, tsr_call_run run,
                        int64_t timeout_ns) {
    ring->comm = comm;
    ring->run = run;
    ring->timeout_ns = timeout_ns;
}

/* Until at most `left` calls are unfinished. */
static tsr_status wait_finished(tsr_call_ring *ring, uint32_t left) {
    tsr_status status = TSR_OK;
    tsr_comm *comm = ring->comm;
    uint32_t issued = (uint32_t)ring->issued, seen;
    char text[128];
    if (issued - atomic_load(&ring->finished) <= left)
        return TSR_OK;
    int64_t since = tsr_os_now_ns();
    atomic_fetch_add(&ring->waiters, 1);
    while (status == TSR_OK &&
           issued - (seen = atomic_load(&ring->finished)) > left) {
        tsr_os_futex_wait(&ring->finished, seen, NAP_NS, false);
        status = comm->vtable->poll(comm, NULL);
        if (status == TSR_OK &&
            tsr_os_now_ns() - since > 2 * ring->timeout_ns) {
            snprintf(text, sizeof text,
                     "rank %d has %u calls that do not run: its stream has "
                     "failed or waits",
                     comm->rank, (unsigned)(issued - seen));
            status = comm->vtable->fail(comm, TSR_UNAVAILABLE, text);
        }
    }
    atomic_fetch_sub(&ring->waiters, 1);
    return status;
}

static tsr_status fail_gap(const tsr_call *call) {
    char text[192];
    snprintf(text, sizeof text,
             "rank %d runs call #%llu before or without the one before it: its "
             "stream dropped that, or it is on another stream without an event "
             "between",
             call->comm->rank, (unsigned long long)call->sequence);
    return call->comm->vtable->fail(call->comm, TSR_FAILED_PRECONDITION, text);
}

static tsr_status run(void *context) {
    tsr_call_record *record = context;
    tsr_call_ring *ring = record->ring;
    uint64_t sequence = record->call.sequence;
    tsr_status status = atomic_load(&ring->finished) == (uint32_t)sequence - 1
                            ? ring->run(&record->call)
                            : fail_gap(&record->call);
    tsr_call_ring_end(ring, sequence); /* the record may be reused */
    return status;
}

tsr_status tsr_call_ring_enqueue(tsr_call_ring *ring, const tsr_call *call,
                                 tsr_stream *stream) {
    TSR_TRY(wait_finished(ring, TSR_CALL_RING_CALLS - 1));
    tsr_call_record *record =
        &ring->records[++ring->issued % TSR_CALL_RING_CALLS];
    *record = (tsr_call_record){ring, *call};
    record->call.comm = ring->comm;
    record->call.sequence = ring->issued;
    return tsr_stream_enqueue(stream, run, record);
}

tsr_status tsr_call_ring_begin(tsr_call_ring *ring, uint64_t *out_sequence) {
    TSR_TRY(wait_finished(ring, 0));
    *out_sequence = ++ring->issued;
    return TSR_OK;
}

void tsr_call_ring_end(tsr_call_ring *ring, uint64_t sequence) {
    atomic_store(&ring->finished, (uint32_t)sequence);
    if (atomic_load(&ring->waiters) > 0)
        tsr_os_futex_wake(&ring->finished, false);
}
