/* An injected wire: calls take the time that their bytes would take over a link
 * between hosts. For tests, and for trying plans of slower links. */
#include <time.h>

#include "base/os.h"
#include "comm/host.h"

/* A failure of the group is looked for this often while a call sleeps. */
#define NAP_NS ((int64_t)10 * 1000 * 1000)

/* What a rank must receive at the least. */
static double received_bytes(const tsr_call *call) {
    double world = call->comm->world;
    double bytes = (double)tsr_call_digest_make(call, 0, call->tensors).bytes;
    switch (call->op) {
    case TSR_CALL_GATHER:
    case TSR_CALL_REDUCE_SCATTER:
        return bytes * (world - 1);
    case TSR_CALL_ALL_REDUCE: /* a reduce-scatter and a gather */
        return bytes * 2 * (world - 1) / world;
    case TSR_CALL_BROADCAST:
        return bytes;
    default:
        return 0;
    }
}

static void sleep_ns(int64_t ns) {
    struct timespec span = {.tv_sec = (time_t)(ns / 1000000000),
                            .tv_nsec = (long)(ns % 1000000000)};
    nanosleep(&span, NULL); /* cut short by a signal: the caller looks again */
}

static bool has_wire(const tsr_host_comm *comm) {
    return comm->base.world > 1 && (comm->group->wire_bytes_per_s > 0 ||
                                    comm->group->wire_latency_ns > 0);
}

void tsr_host_wire_open(tsr_host_comm *comm) {
    if (has_wire(comm) && comm->opened_ns == 0)
        comm->opened_ns = tsr_os_now_ns();
}

tsr_status tsr_host_wire_wait(const tsr_call *call) {
    const tsr_host_comm *comm = (const tsr_host_comm *)call->comm;
    const tsr_host_group *group = comm->group;
    double span = (double)group->wire_latency_ns;
    if (!has_wire(comm))
        return TSR_OK;
    if (group->wire_bytes_per_s > 0)
        span += received_bytes(call) / group->wire_bytes_per_s * 1e9;
    int64_t end =
        comm->opened_ns + (span < 4e18 ? (int64_t)span : (int64_t)4e18);
    for (int64_t left; (left = end - tsr_os_now_ns()) > 0;) {
        TSR_TRY(tsr_host_failure(group, NULL));
        sleep_ns(left < NAP_NS ? left : NAP_NS);
    }
    return TSR_OK;
}
