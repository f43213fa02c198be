#include "mpi.h"

#include <pthread.h>
#include <stdio.h>

#include "base/memory.h"
#include "base/status.h"
#include "registry.h"

/* How a rank fares, for all ranks to know. */
typedef struct fate {
    int32_t status;
    char text[508];
} fate;

/* MPI's bootstrap of this process, the job's ranks being the engine's. */
static tsr_status join(const tsr_bootstrap *group, tsr_bootstrap **out_mpi) {
    dc_registry_state *registry = dc_registry();
    if (!registry->mpi)
        TSR_TRY(tsr_bootstrap_create_mpi(&registry->mpi));
    *out_mpi = registry->mpi;
    int rank = tsr_bootstrap_rank(*out_mpi);
    int world = tsr_bootstrap_world(*out_mpi);
    if (rank == tsr_bootstrap_rank(group) &&
        world == tsr_bootstrap_world(group))
        return TSR_OK;
    return tsr_error(TSR_FAILED_PRECONDITION,
                     "rank %d of %d in the process group is rank %d of %d in "
                     "the MPI job: over MPI an engine has all ranks of the "
                     "job, in its order",
                     tsr_bootstrap_rank(group), tsr_bootstrap_world(group),
                     rank, world);
}

/* The lowest failing rank's status, on all ranks. */
static tsr_status agree(tsr_bootstrap *group, tsr_status status,
                        int timeout_ms) {
    fate mine = {.status = (int32_t)status}, *all = NULL;
    size_t world = (size_t)tsr_bootstrap_world(group);
    if (status != TSR_OK)
        snprintf(mine.text, sizeof mine.text, "%s", tsr_last_error());
    TSR_TRY(tsr_alloc(world, sizeof *all, (void **)&all));
    status = tsr_bootstrap_exchange(group, &mine, sizeof mine, all, timeout_ms);
    for (size_t r = 0; r < world && status == TSR_OK; r++)
        if (all[r].status != TSR_OK)
            status = tsr_error((tsr_status)all[r].status, "rank %zu: %.*s", r,
                               (int)sizeof all[r].text - 1, all[r].text);
    tsr_free(all);
    return status;
}

tsr_status dc_mpi_join(tsr_bootstrap *group, int timeout_ms,
                       tsr_bootstrap **out_mpi) {
    dc_lock();
    tsr_status status = join(group, out_mpi);
    dc_unlock();
    return agree(group, status, timeout_ms);
}

void dc_mpi_leave(bool failed) {
    dc_registry_state *registry = dc_registry();
    dc_lock();
    if (registry->mpi && failed) {
        (void)tsr_bootstrap_conclude(
            registry->mpi,
            tsr_error(TSR_UNAVAILABLE, "the process ends by an exception"));
        tsr_bootstrap_end_job(registry->mpi, 1);
    }
    tsr_bootstrap_release(registry->mpi);
    registry->mpi = NULL;
    dc_unlock();
}
