/* Runs a command's ranks: as a rank of an MPI job, or as processes forked from
 * this one, taken down together. */
#ifndef TSR_CLI_LAUNCH_H
#define TSR_CLI_LAUNCH_H

#include "cli/ranks.h"

/* What one rank runs; a failure's message is tsr_last_error(). */
typedef tsr_status (*rank_body)(tsr_bootstrap *bootstrap, void *context);

/* Runs `body` on every rank (in this process when there is one, or when MPI
 * started it) and waits for all that it started. When one of those fails or
 * dies, the others have a few seconds to notice and then are killed. Exactly
 * one line about the cause goes to standard error. Returns the exit code. A
 * process that forks must have no other threads yet. */
int launch(const cli_command *command, const cli_ranks *ranks, rank_body body,
           void *context);

#endif
