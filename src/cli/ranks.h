/* Where a command's ranks come from: an MPI launcher started them, this process
 * being one, or launch() forks them from here. */
#ifndef TSR_CLI_RANKS_H
#define TSR_CLI_RANKS_H

#include <stdint.h>

#include "cli/options.h"
#include "tessera/comm.h"

typedef struct cli_ranks {
    tsr_bootstrap *mpi; /* owned; NULL: forked */
    bool first;         /* this process speaks, and opens what is written: the
                           parent, or rank 0 */
    int world;
    int host_ranks; /* of this host */
    bool one_host;  /* all are */
    int sharing;    /* ranks that may run on the same processors as this one */
    int threads; /* a rank: the processors there are for the one with fewest */
} cli_ranks;

/* Finds out. asked: --ranks, 0 if not given. Collective under MPI.
 * Errors: INVALID_ARGUMENT (`asked` is not what the launcher started; ranks run
 * different commands: names both); those of tsr_bootstrap_create_mpi. */
tsr_status ranks_open(const cli_command *command, int64_t asked,
                      cli_ranks *out_ranks);
/* A command line that does not parse, the mistake being tsr_last_error(). Under
 * MPI ends the job: rank 0 has said its own mistake, or is told that of another
 * rank to say. Else, and for code 0, returns the code. */
int ranks_mistake(const cli_command *command, int code);
/* This process's failure, whose message is tsr_last_error(): one line on
 * standard error from all ranks together, the cause. Returns the exit code. */
int ranks_fail(const cli_ranks *ranks, const cli_command *command,
               tsr_status status);
/* Ends the job if the code is not 0. Returns the code. */
int ranks_close(cli_ranks *ranks, int code);
/* What every rank must have alike. */
typedef struct rank_term {
    const char *name; /* as the user knows it: "the text of --data" */
    uint64_t value;
} rank_term;

/* Under MPI, compares the terms of all ranks; forked ranks have one command
 * line, and OK is returned. Waits up to 30 minutes for the slowest rank.
 * Errors: INVALID_ARGUMENT, the same words on all ranks: names the first term
 * that is not alike, and the ranks where it is not rank 0's; UNAVAILABLE (a
 * peer is gone). Collective: as many terms on every rank, in one order. */
tsr_status ranks_agree(const cli_ranks *self, const rank_term *terms,
                       size_t count);

/* The same for every option of the command, lists apart.
 * values  what options_parse filled, with defaults in place */
tsr_status ranks_agree_on_options(const cli_ranks *self,
                                  const cli_command *command,
                                  const void *values);

/* Keeps the threads of rank `rank`, those started from now on, on processors of
 * their own, when the ranks that share processors fill them. */
void ranks_pin(const cli_ranks *ranks, int rank, int threads);

#endif
