/* Calls on their way from the caller's thread to the stream's worker: a ring of
 * records, so that a call allocates nothing.
 *
 * A record is in use from the enqueue until `finished` has passed it. A stream
 * that failed drops its tasks: the gap is found by the next call that runs. */
#include "base/os.h"
#include "base/status.h"
#include "comm/mpi.h"

const char *tsr_mpi_op_name(uint32_t op) {
    static const char *const names[] = {
        [TSR_MPI_GATHER] = "gather",
        [TSR_MPI_REDUCE_SCATTER] = "reduce_scatter",
        [TSR_MPI_ALL_REDUCE] = "all_reduce",
        [TSR_MPI_BROADCAST] = "broadcast",
        [TSR_MPI_BARRIER] = "barrier",
        [TSR_MPI_SPLIT] = "split",
    };
    return op < sizeof names / sizeof *names ? names[op] : "?";
}

static void finish(tsr_mpi_comm *comm, uint64_t sequence) {
    atomic_store(&comm->finished, (uint32_t)sequence);
    if (atomic_load(&comm->waiters) > 0)
        tsr_os_futex_wake(&comm->finished, false);
}

/* Until at most `left` calls are unfinished. */
static tsr_status wait_finished(tsr_mpi_comm *comm, uint32_t left) {
    tsr_status status = TSR_OK;
    uint32_t issued = (uint32_t)comm->issued, seen;
    if (issued - atomic_load(&comm->finished) <= left)
        return TSR_OK;
    int64_t since = tsr_os_now_ns();
    atomic_fetch_add(&comm->waiters, 1);
    while (status == TSR_OK &&
           issued - (seen = atomic_load(&comm->finished)) > left) {
        tsr_os_futex_wait(&comm->finished, seen, 10 * 1000 * 1000, false);
        status = tsr_mpi_failure(comm->group, NULL);
        if (status == TSR_OK &&
            tsr_os_now_ns() - since > 2 * comm->group->timeout_ns)
            status = tsr_mpi_fail(
                comm->group, TSR_UNAVAILABLE, comm->base.rank,
                "rank %d has %u calls that do not run: its stream has failed "
                "or waits",
                comm->base.rank, (unsigned)(issued - seen));
    }
    atomic_fetch_sub(&comm->waiters, 1);
    return status;
}

static tsr_status run(void *context) {
    tsr_mpi_call *call = context;
    tsr_mpi_comm *comm = call->comm;
    uint64_t sequence = call->sequence; /* the record is reused once finished */
    tsr_status status;
    if (atomic_load(&comm->finished) != (uint32_t)sequence - 1)
        status = tsr_mpi_fail(
            comm->group, TSR_FAILED_PRECONDITION, comm->base.rank,
            "rank %d runs call #%llu before or without the one before it: its "
            "stream dropped that, or it is on another stream without an event "
            "between",
            comm->base.rank, (unsigned long long)sequence);
    else
        status = tsr_mpi_collective_run(call);
    finish(comm, sequence);
    return status;
}

tsr_status tsr_mpi_call_enqueue(tsr_mpi_comm *comm, const tsr_mpi_call *call,
                                tsr_stream *stream) {
    TSR_TRY(wait_finished(comm, TSR_MPI_CALLS - 1));
    tsr_mpi_call *slot = &comm->calls[++comm->issued % TSR_MPI_CALLS];
    *slot = *call;
    slot->comm = comm;
    slot->sequence = comm->issued;
    return tsr_stream_enqueue(stream, run, slot);
}

tsr_status tsr_mpi_call_begin(tsr_mpi_comm *comm, uint64_t *out_sequence) {
    TSR_TRY(wait_finished(comm, 0));
    *out_sequence = ++comm->issued;
    return TSR_OK;
}

void tsr_mpi_call_end(tsr_mpi_comm *comm, uint64_t sequence) {
    finish(comm, sequence);
}
