/* Openings: what each rank calls, compared before any data is received. */
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "comm/mpi.h"

char *tsr_mpi_opening_out(tsr_mpi_comm *comm, int peer) {
    return comm->opening.out + (size_t)peer * comm->opening.stride +
           sizeof(tsr_mpi_header);
}

tsr_mpi_header tsr_mpi_opening_header(const tsr_mpi_comm *comm, int peer) {
    tsr_mpi_header header;
    memcpy(&header, comm->opening.in + (size_t)peer * comm->opening.stride,
           sizeof header);
    return header;
}

static tsr_status compare(tsr_mpi_comm *comm) {
    char text[TSR_CALL_MISMATCH_BYTES];
    tsr_call_digest first = tsr_mpi_opening_header(comm, 0).digest;
    for (int r = 1; r < comm->base.world; r++) {
        tsr_call_digest peer = tsr_mpi_opening_header(comm, r).digest;
        if (tsr_call_digest_equal(&first, &peer))
            continue;
        tsr_call_mismatch(&first, r, &peer, text);
        return tsr_mpi_fail(comm->group, TSR_FAILED_PRECONDITION, -1, "%s",
                            text);
    }
    return TSR_OK;
}

/* An opening is at least a header. */
static tsr_status check_sizes(tsr_mpi_comm *comm) {
    const tsr_mpi_exchange *exchange = &comm->opening.exchange;
    for (int i = 0; i < comm->base.world - 1; i++)
        if (exchange->transfers[i].moved < sizeof(tsr_mpi_header))
            return tsr_mpi_fail(
                comm->group, TSR_INVALID_DATA, exchange->transfers[i].peer,
                "rank %d sent an opening of %zu bytes",
                exchange->transfers[i].peer, exchange->transfers[i].moved);
    return TSR_OK;
}

tsr_status tsr_mpi_open(tsr_mpi_comm *comm, const tsr_mpi_header *mine) {
    tsr_mpi_slot *slot = &comm->opening;
    char doing[96];
    int world = comm->base.world, rank = comm->base.rank;
    TSR_TRY(tsr_mpi_failure(comm->group, NULL));
    memcpy(slot->in + (size_t)rank * slot->stride, mine, sizeof *mine);
    for (int step = 1; step < world; step++) {
        int from = (rank + world - step) % world;
        tsr_mpi_exchange_add(
            &slot->exchange, false, slot->in + (size_t)from * slot->stride,
            slot->stride, from, comm->tag + TSR_MPI_TAG_OPENING);
    }
    for (int step = 1; step < world; step++) {
        int to = (rank + step) % world;
        char *out = slot->out + (size_t)to * slot->stride;
        memcpy(out, mine, sizeof *mine);
        tsr_mpi_exchange_add(&slot->exchange, true, out,
                             sizeof *mine + comm->carried[to], to,
                             comm->tag + TSR_MPI_TAG_OPENING);
        comm->carried[to] = 0;
    }
    tsr_mpi_exchange_start(&slot->exchange);
    snprintf(doing, sizeof doing, "has not joined %s #%llu",
             tsr_call_op_name(mine->digest.op),
             (unsigned long long)mine->digest.sequence);
    TSR_TRY(tsr_mpi_exchange_wait(&slot->exchange, comm->group,
                                  comm->group->timeout_ns, doing));
    TSR_TRY(check_sizes(comm));
    return compare(comm);
}

tsr_status tsr_mpi_agree(tsr_mpi_comm *comm, tsr_mpi_header *mine,
                         tsr_status status) {
    char text[TSR_COMM_TEXT] = "";
    mine->digest.status = (int32_t)status;
    if (status != TSR_OK)
        snprintf(text, sizeof text, "%s", tsr_last_error());
    for (int r = 0; r < comm->base.world; r++) {
        memcpy(tsr_mpi_opening_out(comm, r), text, sizeof text);
        comm->carried[r] = sizeof text;
    }
    TSR_TRY(tsr_mpi_open(comm, mine));
    for (int r = 0; r < comm->base.world; r++) {
        tsr_mpi_header peer = tsr_mpi_opening_header(comm, r);
        const char *reason = r == comm->base.rank
                                 ? text
                                 : comm->opening.in +
                                       (size_t)r * comm->opening.stride +
                                       sizeof peer;
        if (peer.digest.status != TSR_OK)
            return tsr_error((tsr_status)peer.digest.status, "rank %d: %.*s", r,
                             TSR_COMM_TEXT - 1, reason);
    }
    return TSR_OK;
}
