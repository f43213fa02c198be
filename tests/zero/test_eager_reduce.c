/* The eager front, gradients: buckets, steps of several micro-steps, averages,
 * stages. */
#include "zero/eager_params.h"

/* ---- one step, every setting ---- */

typedef struct step_case {
    int stage;
    size_t bucket_bytes;
    bool double_buffer, sync;
    tsr_average average;
    tsr_dtype communicated, accumulated;
} step_case;

/* Two micro-steps of two graphs; parameter 3 has its gradient only in the
 * first, 4 twice a micro-step. */
static void micro_steps(eager_rank *rank, test_param *params) {
    for (int micro = 0; micro < 2; micro++) {
        CHECK_OK(tsr_zero_start_backward(rank->zero, micro == 1));
        for (int p = PARAMS - 1; p >= 0; p--)
            if (p != 3 || micro == 0)
                reduce_call(rank, 1, &params[p], 2 * micro);
        reduce_call(rank, 2, &params[4], 2 * micro + 1);
        end_backward(rank);
    }
}

static void step(rank_context *context) {
    const step_case *at = context->argument;
    eager_rank rank;
    test_param params[PARAMS];
    float scale = scale_of(context->world, at->average);
    rank_open(&rank, context,
              &(rank_options){.settings = {.stage = at->stage,
                                           .bucket_bytes = at->bucket_bytes,
                                           .double_buffer = at->double_buffer,
                                           .sync_before_reduce = at->sync,
                                           .sync_after_reduce = at->sync,
                                           .average = at->average},
                              .kind = TSR_STREAM_QUEUED,
                              .delay_seed = 3,
                              .max_delay_us = 10});
    open_params(&rank, params, at->communicated, at->accumulated);
    for (int round = 0; round < 2; round++) {
        micro_steps(&rank, params);
        for (int p = 0; p < PARAMS; p++)
            check_grad(&rank, &params[p],
                       p == 4   ? 0xFu
                       : p == 3 ? 0x1u
                                : 0x5u,
                       scale);
    }
    CHECK_OK(tsr_zero_start_backward(rank.zero, true)); /* nothing comes */
    end_backward(&rank);
    for (int p = 0; p < PARAMS; p++)
        check_grad(&rank, &params[p], 0, scale);
    check_held(&rank, 0);
    close_params(&rank, params);
}

static void steps(void) {
    static const size_t buckets[] = {0, 64, 200, 700};
    int number = 0;
    for (int stage = 1; stage <= 3; stage++)
        for (size_t b = 0; b < 4; b++)
            for (int average = 0; average < 3; average++) {
                step_case at = {.stage = stage,
                                .bucket_bytes = buckets[b],
                                .double_buffer = number % 2 == 0,
                                .sync = number % 5 == 0,
                                .average = (tsr_average)average};
                if (number % 3 == 1 && average != TSR_AVERAGE_BEFORE)
                    at.communicated = TSR_BF16;
                if (number % 4 == 1)
                    at.accumulated = TSR_F16;
                run_threads(worlds[number % 4], step, &at);
                number++;
            }
}

/* ---- buckets ---- */

/* What is held, bucket by bucket, follows from the sizes of slots. */
static void bucket_memory(rank_context *context) {
    bool twice = *(bool *)context->argument;
    eager_rank rank;
    test_param params[PARAMS];
    rank_open(&rank, context,
              &(rank_options){
                  .settings = {.bucket_bytes = 128, .double_buffer = twice},
                  .kind = TSR_STREAM_INLINE});
    open_params(&rank, params, TSR_F32, TSR_F32);
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    CHECK(tsr_zero_memory_held(rank.zero).buckets == 0);
    reduce_call(&rank, 1, &params[1], 0); /* a slot of 64 */
    CHECK(tsr_zero_memory_held(rank.zero).buckets == 128);
    reduce_call(&rank, 1, &params[1], 1); /* again: flushes, other bucket */
    CHECK(tsr_zero_memory_held(rank.zero).buckets == (twice ? 256 : 128));
    size_t large = (copy_bytes(&rank, &params[4], TSR_F32) + 63) / 64 * 64;
    reduce_call(&rank, 1, &params[4], 0); /* larger: a bucket of its own */
    CHECK(tsr_zero_memory_held(rank.zero).buckets == large + (twice ? 128 : 0));
    end_backward(&rank);
    check_grad(&rank, &params[1], 3, 1 / (float)rank.world);
    check_grad(&rank, &params[4], 1, 1 / (float)rank.world);
    CHECK(tsr_zero_memory_held(rank.zero).buckets ==
          large + (twice ? 128 : 0)); /* kept */
    close_params(&rank, params);
}

/* Nobody waits on the host between backward and the end: gradients are made
 * anew in the same memory only after end_backward. */
static void without_host_waits(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    rank_open(&rank, context,
              &(rank_options){.settings = {.stage = *(int *)context->argument,
                                           .bucket_bytes = 256,
                                           .double_buffer = true},
                              .kind = TSR_STREAM_QUEUED,
                              .delay_seed = 11,
                              .max_delay_us = 300});
    open_params(&rank, params, TSR_F32, TSR_F32);
    float *made[8][PARAMS];
    for (int call = 0; call < 8; call++)
        for (int p = 0; p < PARAMS; p++) {
            made[call][p] = some_memory(params[p].numel);
            for (int64_t i = 0; i < params[p].numel; i++)
                made[call][p][i] = grad_value(rank.rank, p, call, i);
        }
    for (int call = 0; call < 8; call++) {
        CHECK_OK(tsr_zero_start_backward(rank.zero, call == 7));
        for (int p = 0; p < PARAMS; p++) {
            CHECK_OK(tsr_stream_copy(rank.stream, params[p].gradient,
                                     made[call][p],
                                     (size_t)params[p].numel * sizeof(float)));
            CHECK_OK(tsr_zero_reduce_grad(rank.zero, 1, p, params[p].gradient,
                                          rank.stream));
        }
        CHECK_OK(tsr_zero_end_backward(rank.zero, rank.stream));
    }
    CHECK_OK(tsr_stream_synchronize(rank.stream));
    for (int p = 0; p < PARAMS; p++)
        check_grad(&rank, &params[p], 0xFF, 1 / (float)rank.world);
    close_params(&rank, params);
    for (int call = 0; call < 8; call++)
        for (int p = 0; p < PARAMS; p++)
            free(made[call][p]);
}

static tsr_status spoil_gradient(void *context) {
    const test_param *param = context;
    memset(param->gradient, SPOILED, (size_t)param->numel * sizeof(float));
    return TSR_OK;
}

/* The gradient's memory is reused, while its copy is held up by that of another
 * one: only wait_grads_copied keeps the two apart. */
static void reused_gradients(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    tsr_stream *other;
    rank_open(&rank, context,
              &(rank_options){.settings = {.stage = *(int *)context->argument},
                              .kind = TSR_STREAM_QUEUED});
    open_params(&rank, params, TSR_F32, TSR_F32);
    CHECK_OK(
        tsr_stream_create(rank.device, TSR_STREAM_QUEUED, "other", 0, &other));
    for (int64_t i = 0; i < params[4].numel; i++)
        ((float *)params[4].gradient)[i] = grad_value(rank.rank, 4, 0, i);
    CHECK_OK(tsr_zero_seal(rank.zero, rank.stream));
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    CHECK_OK(tsr_stream_enqueue(rank.stream, dawdle, NULL));
    CHECK_OK(
        tsr_zero_reduce_grad(rank.zero, 1, 1, params[1].gradient, rank.stream));
    CHECK_OK(tsr_zero_reduce_grad(rank.zero, 1, 4, params[4].gradient, other));
    CHECK_OK(tsr_zero_wait_grads_copied(rank.zero, other));
    CHECK_OK(tsr_stream_enqueue(other, spoil_gradient, &params[4]));
    end_backward(&rank);
    check_grad(&rank, &params[4], 1, 1 / (float)rank.world);
    tsr_zero_release(rank.zero);
    rank.zero = NULL;
    tsr_stream_release(other);
    close_params(&rank, params);
}

/* ---- the course of a step ---- */

/* Of two graphs, each with an end_backward in the last micro-step. */
static void graph_after_graph(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    int stage = *(int *)context->argument;
    rank_open(&rank, context,
              &(rank_options){.settings = {.stage = stage},
                              .kind = TSR_STREAM_QUEUED});
    open_params(&rank, params, TSR_F32, TSR_F32);
    CHECK_OK(tsr_zero_start_backward(rank.zero, false));
    reduce_call(&rank, 1, &params[2], 0);
    end_backward(&rank);
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    reduce_call(&rank, 2, &params[3], 0);
    end_backward(&rank);
    reduce_call(&rank, 1, &params[2], 1);
    reduce_call(&rank, 1, &params[4], 1);
    end_backward(&rank);
    check_grad(&rank, &params[2], 3, 1 / (float)rank.world);
    check_grad(&rank, &params[3], 1, 1 / (float)rank.world);
    check_grad(&rank, &params[4], 2, 1 / (float)rank.world);
    close_params(&rank, params);
}

static void aborted(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    int stage = *(int *)context->argument;
    float scale = 1 / (float)context->world;
    rank_open(&rank, context,
              &(rank_options){.settings = {.stage = stage, .bucket_bytes = 64},
                              .kind = TSR_STREAM_QUEUED,
                              .delay_seed = 4,
                              .max_delay_us = 100});
    open_params(&rank, params, TSR_F32, TSR_F32);
    for (int round = 0; round < 3; round++) {
        CHECK_OK(tsr_zero_start_backward(rank.zero, false));
        for (int p = 0; p < PARAMS; p++)
            reduce_call(&rank, 1, &params[p], 5);
        CHECK_OK(tsr_zero_start_backward(rank.zero, round == 1));
        reduce_call(&rank, 1, &params[4], 6);
        reduce_call(&rank, 1, &params[1], 6); /* waits in a bucket */
        CHECK_OK(tsr_zero_abort_step(rank.zero, rank.stream));
    }
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    reduce_call(&rank, 1, &params[3], 1);
    reduce_call(&rank, 1, &params[4], 2);
    end_backward(&rank);
    for (int p = 0; p < PARAMS; p++)
        check_grad(&rank, &params[p], p == 3 ? 2 : p == 4 ? 4 : 0, scale);
    close_params(&rank, params);
}

/* A slot that abort_step drops is still being filled: its bucket is not freed
 * before. */
static void aborted_slot(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    rank_open(&rank, context,
              &(rank_options){.settings = {.bucket_bytes = 64},
                              .kind = TSR_STREAM_QUEUED});
    open_params(&rank, params, TSR_F32, TSR_F32);
    tsr_stream *other;
    CHECK_OK(
        tsr_stream_create(rank.device, TSR_STREAM_QUEUED, "other", 0, &other));
    CHECK_OK(tsr_zero_seal(rank.zero, other));
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    CHECK_OK(tsr_stream_enqueue(rank.stream, dawdle, NULL));
    CHECK_OK(
        tsr_zero_reduce_grad(rank.zero, 1, 1, params[1].gradient, rank.stream));
    CHECK_OK(tsr_zero_abort_step(rank.zero, other));
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    reduce_call(&rank, 1, &params[4], 0); /* needs a larger bucket */
    end_backward(&rank);
    check_grad(&rank, &params[1], 0, 1);
    check_grad(&rank, &params[4], 1, 1 / (float)rank.world);
    tsr_zero_release(rank.zero);
    rank.zero = NULL;
    tsr_stream_release(other);
    close_params(&rank, params);
}

/* Frozen: no buffer, not zeroed. Profiling: nothing moves. */
static void frozen_and_profiling(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS], frozen = param_of(9, 3, 3);
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_INLINE});
    open_params(&rank, params, TSR_F32, TSR_F32);
    param_fill(&rank, &frozen);
    frozen.desc.frozen = true;
    frozen.desc.grad = (tsr_tensor){0};
    CHECK_OK(tsr_zero_register_param(rank.zero, &frozen.desc, rank.stream));
    CHECK_OK(tsr_zero_register_graph(rank.zero, 3, &frozen.desc.id, 1));
    use_param(&rank, 3, &frozen, TSR_F32);
    CHECK_FAILS(
        tsr_zero_reduce_grad(rank.zero, 3, 9, frozen.gradient, rank.stream),
        TSR_INVALID_ARGUMENT, "parameter 9 is frozen");
    CHECK(!tsr_zero_is_profiling(rank.zero));
    tsr_zero_enable_profiling(rank.zero, true);
    CHECK(tsr_zero_is_profiling(rank.zero));
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    reduce_call(&rank, 1, &params[4], 0);
    release_param(&rank, 1, &params[4], 1); /* not gathered */
    use_param(&rank, 1, &params[4], TSR_F32);
    end_backward(&rank);
    CHECK(tsr_zero_memory_held(rank.zero).buckets == 0);
    tsr_zero_enable_profiling(rank.zero, false);
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    reduce_call(&rank, 1, &params[4], 0);
    end_backward(&rank);
    check_grad(&rank, &params[4], 1, 1 / (float)rank.world);
    close_params(&rank, params);
    param_release(&frozen);
}

/* Other memory for a gradient, within a step and between two. */
static void moved_buffers(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_QUEUED});
    open_params(&rank, params, TSR_F32, TSR_BF16);
    void *old = params[3].grad_memory;
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    reduce_call(&rank, 1, &params[3], 0);
    end_backward(&rank);
    params[3].grad_memory = some_memory(params[3].grad_count);
    memset(params[3].grad_memory, SPOILED,
           (size_t)params[3].grad_count * sizeof(float));
    CHECK_OK(tsr_zero_update_param_grad_buffer(
        rank.zero, 3, (tsr_tensor){.context = params[3].grad_memory},
        rank.stream));
    CHECK_OK(tsr_stream_synchronize(rank.stream));
    check_grad(&rank, &params[3], 0, 1);
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    reduce_call(&rank, 1, &params[3], 1);
    CHECK_FAILS(
        tsr_zero_register_param(rank.zero, &params[3].desc, rank.stream),
        TSR_FAILED_PRECONDITION, "parameter 3");
    end_backward(&rank);
    check_grad(&rank, &params[3], 2, 1 / (float)rank.world);
    params[3].desc.grad.context = params[3].grad_memory;
    CHECK_OK(tsr_zero_register_param(rank.zero, &params[3].desc, rank.stream));
    CHECK_OK(tsr_stream_synchronize(rank.stream));
    check_grad(&rank, &params[3], 0, 1);
    close_params(&rank, params);
    free(old);
}

/* Stage 1: the sum of earlier micro-steps goes with the registration. */
static void registered_anew_within_a_step(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    rank_open(
        &rank, context,
        &(rank_options){.settings = {.stage = 1}, .kind = TSR_STREAM_QUEUED});
    open_params(&rank, params, TSR_F32, TSR_F32);
    CHECK_OK(tsr_zero_start_backward(rank.zero, false));
    reduce_call(&rank, 1, &params[3], 0);
    CHECK(tsr_zero_memory_held(rank.zero).buckets ==
          (size_t)params[3].numel * sizeof(float));
    end_backward(&rank);
    CHECK_OK(tsr_zero_register_param(rank.zero, &params[3].desc, rank.stream));
    CHECK(tsr_zero_memory_held(rank.zero).buckets == 0);
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    end_backward(&rank);
    check_grad(&rank, &params[3], 0, 1);
    close_params(&rank, params);
}

int main(void) {
    for (int stage = 1; stage <= 3; stage++) {
        on_worlds(graph_after_graph, &stage);
        on_worlds(aborted, &stage);
        on_worlds(without_host_waits, &stage);
        on_worlds(reused_gradients, &stage);
    }
    on_worlds(aborted_slot, NULL);
    on_worlds(bucket_memory, &(bool){false});
    on_worlds(bucket_memory, &(bool){true});
    on_worlds(frozen_and_profiling, NULL);
    on_worlds(moved_buffers, NULL);
    on_worlds(registered_anew_within_a_step, NULL);
    steps();
    return 0;
}
