/* Calls on their way from the caller's thread to the stream's worker: a ring of
 * records, so that a call allocates nothing.
 *
 * A record is in use from the enqueue until `finished` has passed it. A stream
 * that failed drops its tasks: the gap is found by the next call that runs. */
#include "base/os.h"
#include "comm/host.h"

static void record(tsr_host_comm *comm, tsr_host_op op, uint64_t sequence,
                   bool running) {
    atomic_store_explicit(&comm->control->lines[comm->base.rank].at,
                          sequence << 8 | (uint64_t)op << 1 | running,
                          memory_order_relaxed);
}

static void finish(tsr_host_comm *comm, uint64_t sequence) {
    atomic_store(&comm->finished, (uint32_t)sequence);
    if (atomic_load(&comm->waiters) > 0)
        tsr_os_futex_wake(&comm->finished, false);
}

/* Until at most `left` calls are unfinished. */
static tsr_status wait_finished(tsr_host_comm *comm, uint32_t left) {
    tsr_status status = TSR_OK;
    uint32_t issued = (uint32_t)comm->issued, seen;
    if (issued - atomic_load(&comm->finished) <= left)
        return TSR_OK;
    int64_t since = tsr_os_now_ns();
    atomic_fetch_add(&comm->waiters, 1);
    while (status == TSR_OK &&
           issued - (seen = atomic_load(&comm->finished)) > left) {
        tsr_os_futex_wait(&comm->finished, seen, 10 * 1000 * 1000, false);
        status = tsr_host_failure(comm->group, NULL);
        if (status == TSR_OK &&
            tsr_os_now_ns() - since > 2 * comm->group->timeout_ns)
            status = tsr_host_fail(
                comm->group, TSR_UNAVAILABLE, comm->base.rank,
                "rank %d has %u calls that do not run: its stream has failed "
                "or waits",
                comm->base.rank, (unsigned)(issued - seen));
    }
    atomic_fetch_sub(&comm->waiters, 1);
    return status;
}

static tsr_status run(void *context) {
    tsr_host_call *call = context;
    tsr_host_comm *comm = call->comm;
    tsr_status status;
    uint64_t sequence = call->sequence; /* the record is reused once finished */
    tsr_host_op op = call->op;
    uint32_t before = (uint32_t)sequence - 1;
    if (atomic_load(&comm->finished) != before) {
        status = tsr_host_fail(
            comm->group, TSR_FAILED_PRECONDITION, comm->base.rank,
            "rank %d runs call #%llu before or without the one before it: its "
            "stream dropped that, or it is on another stream without an event "
            "between",
            comm->base.rank, (unsigned long long)sequence);
    } else {
        record(comm, op, sequence, true);
        comm->opened_ns = 0;
        status = tsr_host_collective_run(call);
        if (status == TSR_OK)
            status = tsr_host_wire_wait(call);
        record(comm, op, sequence, false);
    }
    finish(comm, sequence);
    return status;
}

tsr_status tsr_host_call_enqueue(tsr_host_comm *comm, const tsr_host_call *call,
                                 tsr_stream *stream) {
    TSR_TRY(wait_finished(comm, TSR_HOST_CALLS - 1));
    tsr_host_call *slot = &comm->calls[++comm->issued % TSR_HOST_CALLS];
    *slot = *call;
    slot->comm = comm;
    slot->sequence = comm->issued;
    return tsr_stream_enqueue(stream, run, slot);
}

tsr_status tsr_host_call_begin(tsr_host_comm *comm, tsr_host_op op,
                               uint64_t *out_sequence) {
    TSR_TRY(wait_finished(comm, 0));
    *out_sequence = ++comm->issued;
    record(comm, op, comm->issued, true);
    return TSR_OK;
}

void tsr_host_call_end(tsr_host_comm *comm, tsr_host_op op, uint64_t sequence) {
    record(comm, op, sequence, false);
    finish(comm, sequence);
}
