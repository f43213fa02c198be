/* The line that tells how training goes. */
#ifndef TSR_CLI_PROGRESS_H
#define TSR_CLI_PROGRESS_H

#include "tessera/train.h"

typedef struct cli_progress {
    int64_t steps;          /* of the whole run */
    int64_t last_step;      /* of it that will be done now: steps, or fewer */
    int64_t begin_ns;       /* when it started */
    int64_t first_step;     /* done before it started */
    int64_t end_ns;         /* when time is up; 0: it is not limited */
    int64_t shown_ns;       /* of the latest line */
    double flops_per_token; /* model flops */
    double peak_flops;      /* of all ranks, a second */
    size_t arena_bytes;     /* of one rank */
    double recent_seconds;  /* of a step, smoothed */
    bool open;              /* the latest line was not ended yet */
    bool live; /* a terminal: one line, rewritten; else a line now and then */
} cli_progress;

/* peak_flops may be 0: utilisation is then left out. */
void progress_begin(cli_progress *self, int64_t first_step, int64_t steps,
                    double flops_per_token, double peak_flops,
                    size_t arena_bytes);
/* Shows a step: always the first and the last, in between as often as a reader
 * can follow. */
void progress_step(cli_progress *self, const tsr_step_metrics *metrics);
/* Moves off the live line: before anything else is printed, and at the end. */
void progress_pause(cli_progress *self);

#endif
