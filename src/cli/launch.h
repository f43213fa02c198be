/* Local ranks: processes forked from this one, taken down together. */
#ifndef TSR_CLI_LAUNCH_H
#define TSR_CLI_LAUNCH_H

#include "cli/options.h"
#include "tessera/comm.h"

/* What one rank runs; a failure's message is tsr_last_error(). */
typedef tsr_status (*rank_body)(tsr_bootstrap *bootstrap, void *context);

/* Runs `body` on `ranks` processes (in this one when ranks is 1) and waits for
 * all. When one fails or dies, the others have a few seconds to notice and then
 * are killed. Exactly one line about the cause goes to standard error. Returns
 * the exit code. The calling process must have no other threads yet. */
int launch(const cli_command *command, int ranks, rank_body body,
           void *context);

#endif
