/* Ranks that an MPI launcher started: everybody sends to everybody. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/os.h"
#include "comm/mpi.h"

#define DRAIN_MS 1000

typedef struct mpi_bootstrap {
    tsr_bootstrap base;
    tsr_mpi_session *session; /* owned */
    tsr_mpi_exchange exchange;
    uint64_t *sizes; /* (world) */
} mpi_bootstrap;

/* The same words on all ranks. */
static tsr_status check_sizes(mpi_bootstrap *self) {
    for (int r = 1; r < self->base.world; r++)
        if (self->sizes[r] != self->sizes[0])
            return tsr_mpi_fail(
                &self->session->root, TSR_FAILED_PRECONDITION, -1,
                "bootstrap exchange: rank 0 brings %llu bytes, rank %d %llu",
                (unsigned long long)self->sizes[0], r,
                (unsigned long long)self->sizes[r]);
    return TSR_OK;
}

static tsr_status move(mpi_bootstrap *self, const void *mine, size_t bytes,
                       void *all, int tag, int timeout_ms) {
    int world = self->base.world, rank = self->base.rank;
    for (int step = 1; step < world; step++) {
        int from = (rank + world - step) % world;
        tsr_mpi_exchange_add(&self->exchange, false,
                             (char *)all + (size_t)from * bytes, bytes, from,
                             tag);
    }
    for (int step = 1; step < world; step++)
        tsr_mpi_exchange_add(&self->exchange, true, mine, bytes,
                             (rank + step) % world, tag);
    tsr_mpi_exchange_start(&self->exchange);
    return tsr_mpi_exchange_wait(&self->exchange, &self->session->root,
                                 (int64_t)timeout_ms * 1000000,
                                 "is silent in a bootstrap exchange");
}

static tsr_status mpi_exchange(tsr_bootstrap *bootstrap, const void *mine,
                               size_t bytes, void *all, int timeout_ms) {
    mpi_bootstrap *self = (mpi_bootstrap *)bootstrap;
    uint64_t size = bytes;
    if (bytes > TSR_MPI_MOST_BYTES)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "bootstrap exchange of %zu bytes a rank: more than 1 "
                         "GiB",
                         bytes);
    TSR_TRY(tsr_mpi_failure(&self->session->root, NULL));
    char *own = (char *)all + (size_t)bootstrap->rank * bytes;
    if (bytes > 0)
        memmove(own, mine, bytes);
    TSR_TRY(move(self, &size, sizeof size, self->sizes, TSR_MPI_TAG_HEAD,
                 timeout_ms));
    self->sizes[bootstrap->rank] = size;
    TSR_TRY(check_sizes(self));
    return bytes > 0 ? move(self, own, bytes, all, TSR_MPI_TAG_BODY, timeout_ms)
                     : TSR_OK;
}

static void mpi_release(tsr_bootstrap *bootstrap) {
    mpi_bootstrap *self = (mpi_bootstrap *)bootstrap;
    tsr_mpi_exchange_release(&self->exchange);
    tsr_mpi_session_release(self->session);
    tsr_free(self->sizes);
    tsr_free(self);
}

static tsr_status mpi_conclude(tsr_bootstrap *bootstrap, tsr_status mine) {
    return tsr_mpi_conclude(((mpi_bootstrap *)bootstrap)->session, mine);
}

static void mpi_end_job(tsr_bootstrap *bootstrap, int exit_code) {
    /* A launcher that is told to end the job may not read what was said about
     * it. */
    tsr_os_wait_read(DRAIN_MS);
    tsr_mpi_session_abort(((mpi_bootstrap *)bootstrap)->session, exit_code);
}

static const tsr_bootstrap_vtable mpi_vtable = {
    .one_address_space = false,
    .exchange = mpi_exchange,
    .release = mpi_release,
    .conclude = mpi_conclude,
    .end_job = mpi_end_job,
};

tsr_mpi_session *tsr_mpi_bootstrap_session(tsr_bootstrap *bootstrap) {
    return bootstrap->vtable == &mpi_vtable
               ? ((mpi_bootstrap *)bootstrap)->session
               : NULL;
}

tsr_status tsr_bootstrap_create_mpi(tsr_bootstrap **out_bootstrap) {
    tsr_status status = TSR_OK;
    mpi_bootstrap *self = NULL;
    *out_bootstrap = NULL;
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *self, (void **)&self));
    TSR_TRY_GOTO(tsr_mpi_session_create(&self->session));
    const tsr_mpi_start *start = &self->session->start;
    self->base = (tsr_bootstrap){&mpi_vtable, start->rank, start->world};
    TSR_TRY_GOTO(tsr_alloc((size_t)start->world, sizeof *self->sizes,
                           (void **)&self->sizes));
    TSR_TRY_GOTO(tsr_alloc((size_t)start->world, sizeof *self->session->hellos,
                           (void **)&self->session->hellos));
    TSR_TRY_GOTO(tsr_mpi_exchange_create(self->session, 2 * start->world,
                                         &self->exchange));
    *out_bootstrap = &self->base;
    self = NULL; /* now the caller's */
done:
    if (self && self->session) /* the others must not wait for this rank */
        tsr_mpi_fail(&self->session->root, status, self->session->start.rank,
                     "rank %d: %s", self->session->start.rank,
                     tsr_last_error());
    if (self)
        mpi_release(&self->base);
    return status;
}
