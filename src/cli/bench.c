/* tessera bench step: the speed of whole steps on this machine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "cli/session.h"

typedef struct bench_flags {
    option_list what;
    session_flags session;
    int64_t steps;
} bench_flags;

static const option_row rows[] = {
    SESSION_ROWS(bench_flags, session),
    {"steps", OPTION_INT, offsetof(bench_flags, steps), 1, 1e6, "N",
     "steps measured, after two of warm-up (default 10)"},
};

static int run(int argc, char **argv);

const cli_command bench_command = {
    .name = "bench",
    .summary = "Measures steps on random tokens: bench step.",
    .usage = "step [options]",
    .examples = "  tessera bench step --model gpt2 --seq 64 --ranks 2 "
                "--threads 1 --batch 2\n",
    .rows = rows,
    .row_count = sizeof rows / sizeof *rows,
    .operands = 1,
    .operand_offset = offsetof(bench_flags, what),
    .run = run,
};

#define WARM_UP 2

typedef struct bench_job {
    bench_flags flags;
    cli_ranks ranks;
    cli_session session;
} bench_job;

/* Tokens without meaning, different in every sample. */
static void read_sample(const void *context, int64_t sample, int32_t *tokens,
                        int32_t *targets) {
    const bench_job *job = context;
    uint64_t state = (uint64_t)sample * 0x9e3779b97f4a7c15u + 1;
    for (int64_t t = 0; t < job->session.model.seq; t++) {
        state = state * 6364136223846793005u +
                1442695040888963407u; /* Knuth's MMIX generator */
        tokens[t] =
            (int32_t)((state >> 33) % (uint64_t)job->session.model.vocab);
        targets[t] =
            (int32_t)((state >> 17) % (uint64_t)job->session.model.vocab);
    }
}

static int by_value(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

static void report(const bench_job *job, tsr_trainer *trainer,
                   const double *seconds, int64_t tokens, double peak) {
    int64_t steps = job->flags.steps;
    double median = seconds[steps / 2], rate = (double)tokens / median;
    double flops = rate * tsr_gpt_flops_per_token(&job->session.model,
                                                  job->session.model.seq);
    char arena[TSR_BYTES_TEXT];
    printf("step      median %.1f ms, least %.1f, most %.1f (%lld steps)\n",
           1e3 * median, 1e3 * seconds[0], 1e3 * seconds[steps - 1],
           (long long)steps);
    printf("speed     %.0f tokens/s, %.1f model GFLOP/s = %.1f %% of the %.1f "
           "GFLOP/s measured peak\n",
           rate, 1e-9 * flops, 100 * flops / peak, 1e-9 * peak);
    printf("          model flops a token: 6 * parameters + 6 * layers * dim * "
           "seq\n");
    printf("memory    %s a rank\n",
           tsr_format_bytes(tsr_trainer_arena_bytes(trainer), arena));
}

static tsr_status measure(const bench_job *job, tsr_trainer *trainer,
                          bool first, double *seconds) {
    tsr_step_metrics metrics;
    double peak;
    TSR_TRY(tsr_trainer_measure_peak(trainer, &peak));
    for (int64_t i = -WARM_UP; i < job->flags.steps; i++) {
        TSR_TRY(tsr_trainer_step(trainer, &metrics));
        if (i >= 0)
            seconds[i] = metrics.seconds;
    }
    qsort(seconds, (size_t)job->flags.steps, sizeof *seconds, by_value);
    if (first)
        report(job, trainer, seconds, metrics.tokens, peak);
    return TSR_OK;
}

static tsr_status run_rank(tsr_bootstrap *bootstrap, void *context) {
    const bench_job *job = context;
    tsr_trainer *trainer = NULL;
    double *seconds = NULL;
    tsr_status status = TSR_OK;
    tsr_trainer_options options = session_trainer(&job->session);
    ranks_pin(&job->ranks, tsr_bootstrap_rank(bootstrap),
              (int)job->session.flags.threads);
    options.samples = (tsr_samples){read_sample, job};
    options.seed = 1;
    options.rates =
        (tsr_rates){.peak = 1e-4, .steps = job->flags.steps + WARM_UP};
    TSR_TRY_GOTO(tsr_alloc((size_t)job->flags.steps, sizeof *seconds,
                           (void **)&seconds));
    TSR_TRY_GOTO(tsr_trainer_create(&options, bootstrap, &trainer));
    status = measure(job, trainer, tsr_bootstrap_rank(bootstrap) == 0, seconds);
done:
    tsr_trainer_release(trainer);
    tsr_free(seconds);
    return status;
}

static int run(int argc, char **argv) {
    bench_job self = {.flags = {.session = SESSION_DEFAULTS, .steps = 10}};
    int code = options_parse(&bench_command, argc, argv, &self.flags);
    if (code < 0 && (self.flags.what.count == 0 ||
                     strcmp(self.flags.what.data[0], "step") != 0))
        code = options_mistake(&bench_command, "what to measure? known: step");
    if (code >= 0)
        return ranks_mistake(&bench_command, code);
    tsr_status status =
        ranks_open(&bench_command, self.flags.session.ranks, &self.ranks);
    if (status == TSR_OK)
        status =
            ranks_agree_on_options(&self.ranks, &bench_command, &self.flags);
    if (status == TSR_OK)
        status = session_open(&self.flags.session, &self.ranks, false,
                              &self.session);
    if (status != TSR_OK) {
        code = ranks_fail(&self.ranks, &bench_command, status);
    } else {
        char kernels[SESSION_KERNELS_BYTES];
        if (self.ranks.first)
            printf("machine   %lld ranks x %lld threads, %s\n",
                   (long long)self.session.flags.ranks,
                   (long long)self.session.flags.threads,
                   session_kernels(&self.session, kernels));
        fflush(stdout);
        code = launch(&bench_command, &self.ranks, run_rank, &self);
    }
    session_close(&self.session);
    return ranks_close(&self.ranks, code);
}
