/* The host communicator: creation, splits, the table. */
#include "comm/host.h"

#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/os.h"

/* Spinning pays while every rank has a processor: a wake-up costs some 5 us on
 * each side. With more ranks than processors it only keeps the late one off. */
#define SPIN_NS ((int64_t)20 * 1000)

static const tsr_comm_vtable host_vtable;

static tsr_status comm_alloc(tsr_host_group *group, int rank, int world,
                             tsr_host_comm **out_comm) {
    TSR_TRY(tsr_alloc(1, sizeof **out_comm, (void **)out_comm));
    (*out_comm)->base = (tsr_comm){.vtable = &host_vtable,
                                   .rank = rank,
                                   .world = world,
                                   .capabilities = TSR_COMM_SHARED_MEMORY |
                                                   TSR_COMM_FUSED_REDUCE};
    (*out_comm)->group = group;
    tsr_call_ring_init(&(*out_comm)->ring, &(*out_comm)->base,
                       tsr_host_call_run, group->timeout_ns);
    return TSR_OK;
}

/* ---- the group ---- */

static void group_release(tsr_host_group *group) {
    if (!group)
        return;
    tsr_host_leave(group);
    pthread_mutex_destroy(&group->report);
    tsr_free(group->sockets);
    tsr_free(group);
}

static tsr_status group_alloc(const tsr_bootstrap *bootstrap, int timeout_ms,
                              tsr_host_group **out_group) {
    tsr_status status = TSR_OK;
    tsr_host_group *group = NULL;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    *out_group = NULL;

    TSR_TRY_GOTO(tsr_alloc(1, sizeof *group, (void **)&group));
    pthread_mutex_init(&group->report, NULL);
    group->rank = bootstrap->rank;
    group->world = bootstrap->world;
    group->watch.stop[0] = group->watch.stop[1] = -1;
    group->one_address_space =
        bootstrap->vtable->one_address_space || group->world == 1;
    group->timeout_ns = (int64_t)timeout_ms * 1000000;
    group->spin_ns = group->world <= processors ? SPIN_NS : 0;
    group->cache_bytes = tsr_os_cache_bytes();
    group->control_bytes = tsr_host_control_bytes(group->world);
    TSR_TRY_GOTO(tsr_alloc((size_t)group->world, sizeof *group->sockets,
                           (void **)&group->sockets));
    for (int r = 0; r < group->world; r++)
        group->sockets[r] = -1;
    *out_group = group;
    group = NULL; /* now the caller's */
done:
    group_release(group);
    return status;
}

/* ---- communicators ---- */

tsr_status tsr_comm_create_host(tsr_bootstrap *bootstrap,
                                const tsr_comm_options *options,
                                tsr_comm **out_comm) {
    tsr_status status = TSR_OK;
    tsr_host_group *group = NULL;
    tsr_host_comm *comm = NULL;
    int timeout_ms = options && options->timeout_ms ? options->timeout_ms
                                                    : TSR_COMM_TIMEOUT_MS;
    double rate = options ? options->wire_bytes_per_s : 0;
    int64_t latency_ns = options ? options->wire_latency_ns : 0;
    *out_comm = NULL;
    if (!(rate >= 0) || latency_ns < 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "an injected wire of %g bytes/s and %lld ns", rate,
                         (long long)latency_ns);
    if (!bootstrap || bootstrap->world > TSR_HOST_RANKS || timeout_ms < 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "host communicator: no bootstrap, more than %d ranks, "
                         "or a negative time-out",
                         TSR_HOST_RANKS);

    status = group_alloc(bootstrap, timeout_ms, &group);
    if (status == TSR_OK)
        status = comm_alloc(group, group->rank, group->world, &comm);
    /* Peers wait for this rank: it joins even if it has already failed. */
    TSR_TRY_GOTO(tsr_host_join(group, bootstrap, timeout_ms, status));
    group->wire_bytes_per_s = rate;
    group->wire_latency_ns = latency_ns;
    comm->first = true;
    comm->control = group->root;
    *out_comm = &comm->base;
    comm = NULL; /* now the caller's */
    group = NULL;
done:
    tsr_free(comm);
    group_release(group);
    return status;
}

static tsr_status host_split(tsr_comm *base, tsr_comm **out_comm) {
    tsr_host_comm *parent = (tsr_host_comm *)base, *comm = NULL;
    tsr_host_group *group = parent->group;
    void *control;
    uint32_t offer;
    tsr_status status = comm_alloc(group, base->rank, base->world, &comm);
    status = tsr_host_share(parent, TSR_CALL_SPLIT, group->control_bytes,
                            status, &control, &offer);
    if (status != TSR_OK) {
        tsr_free(comm);
        return status;
    }
    comm->control = control;
    comm->offer = offer;
    comm->staging_only = parent->staging_only;
    *out_comm = &comm->base;
    return TSR_OK;
}

static void host_release(tsr_comm *base) {
    tsr_host_comm *comm = (tsr_host_comm *)base;
    tsr_host_group *group = comm->group;
    if (comm->first) {
        group_release(group);
    } else {
        atomic_store(&comm->control->lines[base->rank].goodbye, 1);
        tsr_host_drop(group, comm->control, group->control_bytes, comm->offer);
    }
    tsr_free(comm);
}

static tsr_status host_shared_alloc(tsr_comm *base, size_t bytes,
                                    void **out_memory) {
    if (bytes == 0)
        return tsr_error(TSR_INVALID_ARGUMENT, "shared memory of 0 bytes");
    return tsr_host_shared_alloc((tsr_host_comm *)base, bytes, out_memory);
}

static void host_shared_free(tsr_comm *base, void *memory) {
    tsr_host_shared_free(((tsr_host_comm *)base)->group, memory);
}

static tsr_status host_poll(tsr_comm *base, int *out_rank) {
    return tsr_host_failure(((tsr_host_comm *)base)->group, out_rank);
}

static tsr_status host_fail(tsr_comm *base, tsr_status status,
                            const char *message) {
    return tsr_host_fail(((tsr_host_comm *)base)->group, status, base->rank,
                         "%s", message);
}

static tsr_status host_enqueue(tsr_comm *base, const tsr_call *call,
                               tsr_stream *stream) {
    return tsr_call_ring_enqueue(&((tsr_host_comm *)base)->ring, call, stream);
}

void tsr_host_comm_stage_only(tsr_comm *comm) {
    ((tsr_host_comm *)comm)->staging_only = true;
}

void tsr_host_comm_no_cache(tsr_comm *comm) {
    ((tsr_host_comm *)comm)->group->cache_bytes = 0;
}

static const tsr_comm_vtable host_vtable = {
    .release = host_release,
    .poll = host_poll,
    .fail = host_fail,
    .split = host_split,
    .shared_alloc = host_shared_alloc,
    .shared_free = host_shared_free,
    .enqueue = host_enqueue,
};
