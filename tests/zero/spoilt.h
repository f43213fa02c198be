/* Training with memory spoilt before each section: nothing is read before it is
 * written. */
#ifndef TSR_TESTS_ZERO_SPOILT_H
#define TSR_TESTS_ZERO_SPOILT_H

#include "runs.h"

static inline tsr_status spoilt_feed(void *context) {
    const tsr_feed *self = context;
    for (int64_t b = 0; b < self->batch; b++)
        self->samples->read(self->samples->context, self->first + b,
                            self->tokens + b * self->seq,
                            self->targets + b * self->seq);
    return TSR_OK;
}

/* tsr_trainer_step, with the memory of a section spoilt before each. */
static inline void spoilt_step(tsr_trainer *trainer, tsr_task spoil) {
    int micro_steps = trainer->options.micro_steps;
    trainer->schedule[0] =
        (float)tsr_rate_at(&trainer->options.rates, trainer->step + 1);
    trainer->schedule[1] = (float)(trainer->step + 1);
    for (int k = 0; k <= micro_steps; k++) {
        tsr_section section = k == micro_steps ? TSR_UPDATE
                              : k == 0         ? TSR_MICRO_FIRST
                                               : TSR_MICRO_NEXT;
        CHECK_OK(tsr_executor_enqueue(trainer->executor, spoil, trainer));
        if (section != TSR_UPDATE) {
            int64_t part = (trainer->step * micro_steps + k) * trainer->world +
                           trainer->rank;
            trainer->feeds[k].first = part * trainer->batch;
            CHECK_OK(tsr_executor_enqueue(trainer->executor, spoilt_feed,
                                          &trainer->feeds[k]));
        }
        CHECK_OK(tsr_executor_walk(trainer->executor, section));
    }
    CHECK_OK(tsr_executor_synchronize(trainer->executor));
    trainer->step++;
}

typedef struct spoilt_job {
    run_job job;
    tsr_task spoil; /* (trainer) what a section must not rely on */
} spoilt_job;

static inline void spoilt_rank(rank_context *rank) {
    const spoilt_job *at = rank->argument;
    const run_job *job = &at->job;
    tsr_trainer_options options = run_options(job->session, rank->rank);
    tsr_trainer *trainer;
    CHECK_OK(tsr_trainer_create(&options, rank->bootstrap, &trainer));
    for (int s = 0; s < job->session->run->steps; s++) {
        spoilt_step(trainer, at->spoil);
        job->outcome->losses[rank->rank][s] = *trainer->loss;
        job->outcome->norms[rank->rank][s] = *trainer->grad_norm;
    }
    outcome_collect(job->outcome, trainer);
    tsr_trainer_release(trainer);
}

#endif
