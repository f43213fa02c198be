/* The file of --metrics: one JSON object a step. */
#ifndef TSR_CLI_METRICS_H
#define TSR_CLI_METRICS_H

#include <stdio.h>

#include "tessera/train.h"

/* What a line tells beside the step's own metrics. */
typedef struct metrics_extra {
    double flops_per_token;
    double peak_flops;       /* of all ranks, a second; 0: unknown */
    const double *eval_loss; /* NULL: not evaluated */
} metrics_extra;

/* Opens the file for a new run, or to go on with what it holds.
 * Errors: IO (names --metrics). */
tsr_status metrics_open(const char *path, bool resume, FILE **out_file);

/* Drops the lines of steps after `step`, which a run that resumes there will do
 * again, and what an interrupted write left behind them. What is no file on
 * disk stays as it is.
 * file    of metrics_open with `resume`
 * Errors: INVALID_DATA (a line up to there is none of ours, or out of order:
 *         names file and line; nothing is dropped then); IO; OUT_OF_MEMORY. */
tsr_status metrics_cut(FILE *file, const char *path, int64_t step);

tsr_status metrics_write(FILE *file, const char *path,
                         const tsr_step_metrics *metrics,
                         const metrics_extra *extra);

#endif
