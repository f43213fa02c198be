#include "cli/progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "base/text.h"

#define LIVE_INTERVAL_NS 100000000 /* ten lines a second on a terminal */
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
    char eta[32], bytes[TSR_BYTES_TEXT], utilisation[32] = "";
    double rate = (double)metrics->tokens / self->recent_seconds;
    format_duration(
        (double)(self->steps - metrics->step) * self->recent_seconds, eta);
    if (self->peak_flops > 0)
        snprintf(utilisation, sizeof utilisation, "  mfu %.1f%%",
                 100 * rate * self->flops_per_token / self->peak_flops);
    printf("%sstep %lld/%lld  loss %.4f  lr %.2e  norm %.3f  %.0f tok/s%s  "
           "arena %s  eta %s%s",
           self->live ? "\r" : "", (long long)metrics->step,
           (long long)self->steps, metrics->loss, metrics->lr,
           metrics->grad_norm, rate, utilisation,
           tsr_format_bytes(self->arena_bytes, bytes), eta,
           self->live ? "\x1b[K" : "\n");
    self->open = self->live;
    fflush(stdout);
}

void progress_pause(cli_progress *self) {
    if (self->open)
        printf("\n");
    self->open = false;
    fflush(stdout);
}
