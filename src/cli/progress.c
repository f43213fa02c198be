#include "cli/progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "base/text.h"

#define LIVE_INTERVAL_NS 100000000 /* ten lines a second on a terminal */
#define DEFAULT_COLUMNS 80         /* of a terminal that does not say */
#define PLAIN_INTERVAL_NS                                                      \
    5000000000 /* one line every five seconds elsewhere                        \
                */

void progress_begin(cli_progress *self, int64_t first_step, int64_t steps,
                    double flops_per_token, double peak_flops,
                    size_t arena_bytes) {
    *self = (cli_progress){.steps = steps,
                           .last_step = steps,
                           .first_step = first_step,
                           .begin_ns = tsr_os_now_ns(),
                           .flops_per_token = flops_per_token,
                           .peak_flops = peak_flops,
                           .arena_bytes = arena_bytes,
                           .live = isatty(STDOUT_FILENO) == 1};
}

static void format_duration(double seconds, char buffer[32]) {
    long whole = (long)(seconds + 0.5);
    if (whole >= 3600)
        snprintf(buffer, 32, "%ldh%02ldm", whole / 3600, whole / 60 % 60);
    else if (whole >= 60)
        snprintf(buffer, 32, "%ldm%02lds", whole / 60, whole % 60);
    else
        snprintf(buffer, 32, "%lds", whole);
}

/* In the order shown. */
enum { STEP, LOSS, LR, NORM, RATE, MFU, ARENA, ETA, FIELDS };

/* Left out first to last where the terminal is too narrow; the step stays. */
static const int least_important[] = {ARENA, MFU, NORM, LR, ETA, RATE, LOSS};

typedef char field_text[64];

static size_t line_length(field_text *fields) {
    size_t length = 0;
    for (int f = 0; f < FIELDS; f++)
        if (fields[f][0])
            length += strlen(fields[f]) + (length ? 2 : 0);
    return length;
}

/* A line that reached the last column would be wrapped on some terminals, and
 * the next one would then begin below it. */
static void fit(field_text *fields) {
    int columns = tsr_os_terminal_columns();
    size_t limit = (size_t)(columns > 0 ? columns : DEFAULT_COLUMNS) - 1;
    for (size_t i = 0; i < sizeof least_important / sizeof *least_important &&
                       line_length(fields) > limit;
         i++)
        fields[least_important[i]][0] = '\0';
    if (limit < sizeof fields[STEP])
        fields[STEP][limit] = '\0';
}

static void show(const cli_progress *self, field_text *fields) {
    const char *before = self->live ? "\r" : "";
    if (self->live)
        fit(fields);
    for (int f = 0; f < FIELDS; f++) {
        if (!fields[f][0])
            continue;
        printf("%s%s", before, fields[f]);
        before = "  ";
    }
    fputs(self->live ? "\x1b[K" : "\n", stdout);
    fflush(stdout);
}

void progress_step(cli_progress *self, const tsr_step_metrics *metrics) {
    int64_t now = tsr_os_now_ns();
    bool edge = metrics->step == self->first_step + 1 ||
                metrics->step == self->last_step;
    /* A tenth of each new step: follows a change within some twenty steps. */
    self->recent_seconds =
        self->recent_seconds == 0
            ? metrics->seconds
            : 0.9 * self->recent_seconds + 0.1 * metrics->seconds;
    if (!edge && now - self->shown_ns <
                     (self->live ? LIVE_INTERVAL_NS : PLAIN_INTERVAL_NS))
        return;
    self->shown_ns = now;
    char eta[32], bytes[TSR_BYTES_TEXT];
    field_text fields[FIELDS] = {{0}};
    double rate = (double)metrics->tokens / self->recent_seconds;
    double left = (double)(self->steps - metrics->step) * self->recent_seconds;
    if (self->end_ns != 0 && (double)(self->end_ns - now) * 1e-9 < left)
        left = fmax((double)(self->end_ns - now) * 1e-9, 0);
    format_duration(left, eta);
    snprintf(fields[STEP], sizeof *fields, "step %lld/%lld",
             (long long)metrics->step, (long long)self->steps);
    snprintf(fields[LOSS], sizeof *fields, "loss %.4f", metrics->loss);
    snprintf(fields[LR], sizeof *fields, "lr %.2e", metrics->lr);
    snprintf(fields[NORM], sizeof *fields, "norm %.3f", metrics->grad_norm);
    snprintf(fields[RATE], sizeof *fields, "%.0f tok/s", rate);
    if (self->peak_flops > 0)
        snprintf(fields[MFU], sizeof *fields, "mfu %.1f%%",
                 100 * rate * self->flops_per_token / self->peak_flops);
    snprintf(fields[ARENA], sizeof *fields, "arena %s",
             tsr_format_bytes(self->arena_bytes, bytes));
    snprintf(fields[ETA], sizeof *fields, "eta %s", eta);
    show(self, fields);
    self->open = self->live;
}

void progress_pause(cli_progress *self) {
    if (self->open)
        printf("\n");
    self->open = false;
    fflush(stdout);
}
