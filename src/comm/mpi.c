/* The MPI communicator: creation, splits, the table. */
#include "comm/mpi.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "comm/mpi_run.h"

static const tsr_comm_vtable mpi_vtable;

/* ---- one communicator ---- */

/* MPI may still write into what is stuck: it stays. */
static void comm_free(tsr_mpi_comm *comm) {
    if (!comm)
        return;
    bool stuck = atomic_load(&comm->session->stuck);
    tsr_mpi_exchange_release(&comm->opening.exchange);
    tsr_mpi_exchange_release(&comm->chunks[0].exchange);
    tsr_mpi_exchange_release(&comm->chunks[1].exchange);
    tsr_free(comm->carried);
    if (stuck)
        return;
    tsr_free(comm->staging);
    tsr_free(comm);
}

static tsr_status make_slot(tsr_mpi_comm *comm, tsr_mpi_slot *slot,
                            size_t stride, char **memory) {
    size_t world = (size_t)comm->base.world;
    slot->stride = stride;
    slot->in = *memory;
    slot->out = slot->in + world * stride;
    *memory = slot->out + world * stride;
    return tsr_mpi_exchange_create(comm->session, 2 * comm->base.world,
                                   &slot->exchange);
}

static tsr_status comm_alloc(tsr_mpi_session *session, int64_t timeout_ns,
                             tsr_mpi_comm **out_comm) {
    tsr_status status = TSR_OK;
    tsr_mpi_comm *comm = NULL;
    size_t world = (size_t)session->start.world;
    size_t part = tsr_mpi_part_bytes(session->start.world);
    *out_comm = NULL;
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *comm, (void **)&comm));
    comm->base = (tsr_comm){.vtable = &mpi_vtable,
                            .rank = session->start.rank,
                            .world = session->start.world,
                            .capabilities = TSR_COMM_FUSED_REDUCE};
    comm->session = session;
    tsr_call_ring_init(&comm->ring, &comm->base, tsr_mpi_collective_run,
                       timeout_ns);
    TSR_TRY_GOTO(
        tsr_alloc(world, sizeof *comm->carried, (void **)&comm->carried));
    TSR_TRY_GOTO(tsr_alloc(2 * world, TSR_MPI_OPENING_BYTES + 2 * part,
                           (void **)&comm->staging));
    char *memory = comm->staging;
    TSR_TRY_GOTO(make_slot(comm, &comm->chunks[0], part, &memory));
    TSR_TRY_GOTO(make_slot(comm, &comm->chunks[1], part, &memory));
    TSR_TRY_GOTO(
        make_slot(comm, &comm->opening, TSR_MPI_OPENING_BYTES, &memory));
    *out_comm = comm;
    comm = NULL;
done:
    comm_free(comm);
    return status;
}

/* Rank 0: a new communicator's number. */
static tsr_status next_id(tsr_mpi_session *session, int *out_id) {
    int most = session->start.most_tag / TSR_MPI_TAGS - 1;
    *out_id = 0;
    if (session->start.rank != 0)
        return TSR_OK;
    *out_id = atomic_fetch_add(&session->next_id, 1);
    return *out_id > 0 && *out_id <= most
               ? TSR_OK
               : tsr_error(TSR_FAILED_PRECONDITION,
                           "%s has tags for %d communicators a job",
                           session->start.library, most);
}

/* ---- creation ---- */

/* All ranks tell how they fare; the lowest failing one's status is everybody's.
 */
static tsr_status meet(tsr_bootstrap *bootstrap, tsr_mpi_hello *mine,
                       tsr_mpi_hello *all, int timeout_ms) {
    TSR_TRY(
        tsr_bootstrap_exchange(bootstrap, mine, sizeof *mine, all, timeout_ms));
    for (int r = 0; r < bootstrap->world; r++)
        if (all[r].status != TSR_OK)
            return tsr_error((tsr_status)all[r].status, "rank %d: %.*s", r,
                             (int)sizeof all[r].text - 1, all[r].text);
    return TSR_OK;
}

static tsr_status prepare(tsr_mpi_session *session, int64_t timeout_ns,
                          tsr_mpi_group **out_group, tsr_mpi_comm **out_comm,
                          tsr_mpi_hello *hello) {
    int id;
    TSR_TRY(tsr_alloc(1, sizeof **out_group, (void **)out_group));
    TSR_TRY(comm_alloc(session, timeout_ns, out_comm));
    TSR_TRY(next_id(session, &id));
    hello->id = id;
    return TSR_OK;
}

tsr_status tsr_comm_create_mpi(tsr_bootstrap *bootstrap,
                               const tsr_comm_options *options,
                               tsr_comm **out_comm) {
    tsr_mpi_session *session =
        bootstrap ? tsr_mpi_bootstrap_session(bootstrap) : NULL;
    tsr_mpi_group *group = NULL;
    tsr_mpi_comm *comm = NULL;
    tsr_mpi_hello mine = {0}, *all = session ? session->hellos : NULL;
    int timeout_ms = options && options->timeout_ms ? options->timeout_ms
                                                    : TSR_COMM_TIMEOUT_MS;
    *out_comm = NULL;
    if (options &&
        (options->wire_bytes_per_s > 0 || options->wire_latency_ns > 0))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "MPI communicator: an injected wire is the host "
                         "communicator's");
    if (!session || timeout_ms < 0)
        return tsr_error(TSR_INVALID_ARGUMENT, "MPI communicator: %s",
                         session ? "a negative time-out"
                                 : "its bootstrap is not one of "
                                   "tsr_bootstrap_create_mpi");

    /* Peers wait for this rank: it joins even if it has already failed. */
    tsr_status status =
        prepare(session, (int64_t)timeout_ms * 1000000, &group, &comm, &mine);
    mine.status = (int32_t)status;
    if (status != TSR_OK)
        snprintf(mine.text, sizeof mine.text, "%s", tsr_last_error());
    status = meet(bootstrap, &mine, all, timeout_ms);
    if (status == TSR_OK) {
        tsr_mpi_group_join(session, group, all[0].id, comm->ring.timeout_ns);
        comm->group = group;
        comm->first = true;
        comm->tag = group->id * TSR_MPI_TAGS;
        /* Nobody calls before all know the group, or a notice could be lost. */
        status = meet(bootstrap, &mine, all, timeout_ms);
        if (status != TSR_OK)
            tsr_mpi_group_leave(group);
    }
    if (status != TSR_OK) {
        comm_free(comm);
        tsr_free(group);
        return status;
    }
    *out_comm = &comm->base;
    return TSR_OK;
}

static tsr_status mpi_split(tsr_comm *base, tsr_comm **out_comm) {
    tsr_mpi_comm *parent = (tsr_mpi_comm *)base, *comm = NULL;
    tsr_mpi_header header = {.digest = {.op = TSR_CALL_SPLIT}};
    int id = 0;
    TSR_TRY(tsr_call_ring_begin(&parent->ring, &header.digest.sequence));
    tsr_status status =
        comm_alloc(parent->session, parent->ring.timeout_ns, &comm);
    if (status == TSR_OK)
        status = next_id(parent->session, &id);
    header.id = id;
    status = tsr_mpi_agree(parent, &header, status);
    tsr_call_ring_end(&parent->ring, header.digest.sequence);
    if (status != TSR_OK) {
        comm_free(comm);
        return status;
    }
    comm->group = parent->group;
    comm->tag = tsr_mpi_opening_header(parent, 0).id * TSR_MPI_TAGS;
    *out_comm = &comm->base;
    return TSR_OK;
}

static void mpi_release(tsr_comm *base) {
    tsr_mpi_comm *comm = (tsr_mpi_comm *)base;
    tsr_mpi_group *group = comm->first ? comm->group : NULL;
    if (group)
        tsr_mpi_group_leave(group);
    bool stuck = atomic_load(&comm->session->stuck);
    comm_free(comm);
    if (!stuck)
        tsr_free(group);
}

static tsr_status mpi_poll(tsr_comm *base, int *out_rank) {
    return tsr_mpi_failure(((tsr_mpi_comm *)base)->group, out_rank);
}

static tsr_status mpi_fail(tsr_comm *base, tsr_status status,
                           const char *message) {
    return tsr_mpi_fail(((tsr_mpi_comm *)base)->group, status, base->rank, "%s",
                        message);
}

static tsr_status mpi_enqueue(tsr_comm *base, const tsr_call *call,
                              tsr_stream *stream) {
    return tsr_call_ring_enqueue(&((tsr_mpi_comm *)base)->ring, call, stream);
}

static const tsr_comm_vtable mpi_vtable = {
    .release = mpi_release,
    .poll = mpi_poll,
    .fail = mpi_fail,
    .split = mpi_split,
    .shared_alloc = NULL,
    .enqueue = mpi_enqueue,
};
