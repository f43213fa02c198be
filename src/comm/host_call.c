/* Calls, and the recorder: what this rank is at, for those who wait for it. */
#include "base/status.h"
#include "comm/host.h"

static void record(tsr_host_comm *comm, tsr_call_op op, uint64_t sequence,
                   bool running) {
    atomic_store_explicit(&comm->control->lines[comm->base.rank].at,
                          sequence << 8 | (uint64_t)op << 1 | running,
                          memory_order_relaxed);
}

tsr_status tsr_host_call_run(const tsr_call *call) {
    tsr_host_comm *comm = (tsr_host_comm *)call->comm;
    record(comm, call->op, call->sequence, true);
    comm->opened_ns = 0;
    tsr_status status = tsr_host_collective_run(call);
    if (status == TSR_OK)
        status = tsr_host_wire_wait(call);
    record(comm, call->op, call->sequence, false);
    return status;
}

tsr_status tsr_host_call_begin(tsr_host_comm *comm, tsr_call_op op,
                               uint64_t *out_sequence) {
    TSR_TRY(tsr_call_ring_begin(&comm->ring, out_sequence));
    record(comm, op, *out_sequence, true);
    return TSR_OK;
}

void tsr_host_call_end(tsr_host_comm *comm, tsr_call_op op, uint64_t sequence) {
    record(comm, op, sequence, false);
    tsr_call_ring_end(&comm->ring, sequence);
}
