/* Ranks whose calls look alike to the communicator (two parameters of one size)
 * but are about other parameters: no rank gets the mixture. */
#include "zero/eager_rank.h"

typedef struct pair {
    eager_rank rank;
    test_param two[2]; /* ids 4 and 5, of 15 elements each */
} pair;

static void pair_open(pair *self, const rank_context *context, int stage) {
    *self = (pair){.two = {param_of(4, 5, 3), param_of(5, 3, 5)}};
    rank_open(&self->rank, context,
              &(rank_options){.settings = {.stage = stage},
                              .kind = TSR_STREAM_QUEUED});
    for (int p = 0; p < 2; p++)
        param_register(&self->rank, &self->two[p]);
    CHECK_OK(tsr_zero_register_graph(self->rank.zero, 1, (int64_t[]){4, 5}, 2));
    CHECK_OK(tsr_zero_seal(self->rank.zero, self->rank.stream));
}

static void pair_close(pair *self) {
    rank_close(&self->rank);
    param_release(&self->two[0]);
    param_release(&self->two[1]);
}

static tsr_status reduce_nothing(pair *self, int p) {
    return tsr_zero_reduce_grad(self->rank.zero, 1, self->two[p].desc.id, NULL,
                                self->rank.stream);
}

static void take(pair *self, int p) {
    void *slot;
    CHECK_OK(tsr_zero_grad_slot(self->rank.zero, 1, self->two[p].desc.id,
                                self->rank.stream, &slot));
}

/* Both gradients, in the given order, as the whole of a step. */
static void reduce_both(pair *self, int first) {
    for (int p = 0; p < 2; p++)
        reduce_call(&self->rank, 1, &self->two[p ? 1 - first : first], 0);
}

static void start(pair *self, bool update) {
    CHECK_OK(tsr_zero_start_backward(self->rank.zero, update));
}

/* The end of the step, which all ranks see fail. */
static void end_fails(pair *self) {
    tsr_zero *zero = self->rank.zero;
    tsr_status status = tsr_zero_end_backward(zero, self->rank.stream);
    if (status == TSR_OK)
        status = tsr_zero_synchronize(zero);
    CHECK(status == TSR_FAILED_PRECONDITION);
    CHECK_MESSAGE(strstr(tsr_last_error(), "ranks disagree") &&
                      strstr(tsr_last_error(), "after other calls"),
                  "%s", tsr_last_error());
}

static void end_passes(pair *self) {
    eager_rank *rank = &self->rank;
    CHECK_OK(tsr_zero_end_backward(rank->zero, rank->stream));
    rank_sync(rank);
    for (int p = 0; p < 2; p++)
        check_grad(rank, &self->two[p], 1, 1.0f / (float)rank->world);
}

static void reduced_in_another_order(rank_context *context) {
    pair self;
    pair_open(&self, context, *(int *)context->argument);
    start(&self, true);
    reduce_both(&self, context->rank == 1);
    end_fails(&self);
    pair_close(&self);
}

static void slots_taken_in_another_order(rank_context *context) {
    pair self;
    int first = context->rank == 1;
    pair_open(&self, context, *(int *)context->argument);
    start(&self, true);
    take(&self, first);
    take(&self, 1 - first);
    take(&self, 1 - first); /* once more is nothing */
    reduce_both(&self, 0);
    end_fails(&self);
    pair_close(&self);
}

/* The rank that was refused goes on, and comes back to it. */
static void refused_and_gone_on(rank_context *context) {
    pair self;
    pair_open(&self, context, *(int *)context->argument);
    start(&self, true);
    if (context->rank == 1)
        CHECK_FAILS(reduce_nothing(&self, 0), TSR_INVALID_ARGUMENT,
                    "parameter 4: its gradient is NULL");
    else
        reduce_call(&self.rank, 1, &self.two[0], 0);
    reduce_call(&self.rank, 1, &self.two[1], 0);
    if (context->rank == 1)
        reduce_call(&self.rank, 1, &self.two[0], 0);
    end_fails(&self);
    pair_close(&self);
}

static void refused_and_aborted(rank_context *context) {
    pair self;
    pair_open(&self, context, *(int *)context->argument);
    start(&self, true);
    if (context->rank == 1)
        CHECK_FAILS(reduce_nothing(&self, 0), TSR_INVALID_ARGUMENT,
                    "parameter 4: its gradient is NULL");
    else
        reduce_call(&self.rank, 1, &self.two[0], 0);
    CHECK_OK(tsr_zero_abort_step(self.rank.zero, self.rank.stream));
    start(&self, true);
    reduce_both(&self, 1);
    end_passes(&self);
    pair_close(&self);
}

/* Stage 1 keeps it, and nothing is sent in that micro-step. */
static void left_out_of_a_micro_step(rank_context *context) {
    pair self;
    pair_open(&self, context, 1);
    start(&self, false);
    if (context->rank == 0)
        reduce_call(&self.rank, 1, &self.two[0], 0);
    CHECK_OK(tsr_zero_end_backward(self.rank.zero, self.rank.stream));
    start(&self, true);
    reduce_both(&self, 0);
    end_fails(&self);
    pair_close(&self);
}

/* Of the two, one rank says that the micro-step is the step's last. */
static void ended_otherwise(rank_context *context) {
    pair self;
    pair_open(&self, context, 3);
    start(&self, context->rank == 0);
    reduce_both(&self, 0);
    end_fails(&self);
    pair_close(&self);
}

static void gathered_another(rank_context *context) {
    pair self;
    pair_open(&self, context, 3);
    eager_rank *rank = &self.rank;
    const test_param *param = &self.two[context->rank == 1];
    gather_param(rank, 1, param, TSR_F32);
    (void)tsr_zero_wait_allgather(rank->zero, 1, param->desc.id, rank->stream);
    CHECK_FAILS(tsr_zero_synchronize(rank->zero), TSR_FAILED_PRECONDITION,
                "after other calls");
    pair_close(&self);
}

int main(void) {
    for (int world = 2; world <= 3; world++) {
        for (int stage = 1; stage <= 3; stage++) {
            run_threads(world, reduced_in_another_order, &stage);
            run_threads(world, slots_taken_in_another_order, &stage);
            run_threads(world, refused_and_gone_on, &stage);
            run_threads(world, refused_and_aborted, &stage);
        }
        run_threads(world, left_out_of_a_micro_step, NULL);
        run_threads(world, ended_otherwise, NULL);
        run_threads(world, gathered_another, NULL);
    }
    return 0;
}
