/* Ranks of several hosts talk over MPI, which a process joins once: at its
 * first engine of several hosts, until dc_mpi_leave. */
#ifndef TSR_TORCH_MPI_H
#define TSR_TORCH_MPI_H

#include <stdbool.h>

#include "tessera/comm.h"

/* `group` brings the ranks of the engine together: they are to be all of the
 * MPI job's, in its order. Collective over them; all fail alike. *out_mpi is
 * borrowed. Errors: FAILED_PRECONDITION (others, or another order); those of
 * tsr_bootstrap_create_mpi. */
tsr_status dc_mpi_join(tsr_bootstrap *group, int timeout_ms,
                       tsr_bootstrap **out_mpi);
/* The process ends, its engines being gone. It finalizes MPI, which waits for
 * the other ranks; after a failure it ends the job instead. */
void dc_mpi_leave(bool failed);

#endif
