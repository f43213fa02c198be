/* The eager front, stages 1 and 2: the slice of a gradient that a rank has,
 * changed after registration. */
#include "zero/eager_rank.h"

enum { PARAMS = 4 };

static const int worlds[] = {1, 2, 3, 5};
static const int stages[] = {1, 2};

static void on_both_stages(rank_body body) {
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++)
        for (size_t s = 0; s < 2; s++)
            run_threads(worlds[w], body, (void *)&stages[s]);
}

/* Sizes 0, 1, prime and another. */
static void open_params(eager_rank *rank, const rank_context *context,
                        test_param *params, tsr_dtype accumulated) {
    static const int64_t rows[PARAMS] = {0, 1, 37, 40};
    int64_t ids[PARAMS];
    rank_open(rank, context,
              &(rank_options){.settings = {.stage = *(int *)context->argument},
                              .kind = TSR_STREAM_QUEUED,
                              .delay_seed = 7,
                              .max_delay_us = 20});
    for (int p = 0; p < PARAMS; p++) {
        params[p] = param_of(p, rows[p], p < 3 ? 1 : 3);
        params[p].desc.accumulated_dtype = accumulated;
        param_register(rank, &params[p]);
        ids[p] = p;
    }
    CHECK_OK(tsr_zero_register_graph(rank->zero, 1, ids, PARAMS));
    rank_sync(rank); /* what zeroes buffers: tests free them */
}

static void close_params(eager_rank *rank, test_param *params) {
    rank_close(rank);
    for (int p = 0; p < PARAMS; p++)
        param_release(&params[p]);
}

/* Spoiled memory for [offset, + count); the caller frees what is returned. */
static void *move_slice(eager_rank *rank, test_param *param, int64_t offset,
                        int64_t count) {
    void *old = param->grad_memory;
    param->desc.slice_offset = offset;
    param->desc.slice_count = param->grad_count = count;
    param->grad_memory = some_memory(count);
    memset(param->grad_memory, SPOILED, (size_t)count * sizeof(float));
    CHECK_OK(tsr_zero_update_param_grad_slice(
        rank->zero, param->desc.id, (tsr_tensor){.context = param->grad_memory},
        offset, count, rank->stream));
    return old;
}

/* A step of one micro-step, whose gradients are `call`, and its result. */
static void step(eager_rank *rank, test_param *params, int call) {
    CHECK_OK(tsr_zero_start_backward(rank->zero, true));
    for (int p = 0; p < PARAMS; p++)
        reduce_call(rank, 1, &params[p], call);
    end_backward(rank);
    for (int p = 0; p < PARAMS; p++)
        check_grad(rank, &params[p], 1u << call, 1 / (float)rank->world);
}

/* ---- between steps ---- */

typedef struct part {
    int64_t offset, count;
} part;

/* Of `numel` elements: another rank's, all of them, the inner ones, none at the
 * very end. */
static part part_of(const eager_rank *rank, int64_t numel, int round) {
    int64_t each = (numel + rank->world - 1) / rank->world;
    int64_t begin = (rank->rank + 1) % rank->world * each;
    if (begin > numel)
        begin = numel;
    part parts[] = {{begin, numel - begin < each ? numel - begin : each},
                    {0, numel},
                    {numel > 2 ? 1 : 0, numel > 2 ? numel - 2 : numel},
                    {numel, 0}};
    return parts[round];
}

/* The new buffer is zeroed at once; the old one is left alone. */
static void between_steps(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    open_params(&rank, context, params, TSR_BF16);
    step(&rank, params, 0);
    for (int round = 0; round < 4; round++) {
        void *old[PARAMS];
        for (int p = 0; p < PARAMS; p++) {
            size_t before = (size_t)params[p].grad_count * sizeof(float);
            part to = part_of(&rank, params[p].numel, round);
            old[p] = move_slice(&rank, &params[p], to.offset, to.count);
            CHECK_OK(tsr_stream_synchronize(rank.stream));
            check_grad(&rank, &params[p], 0, 1);
            memset(old[p], SPOILED, before);
            free(old[p]); /* the sanitizers see who still writes there */
        }
        step(&rank, params, round + 1);
    }
    close_params(&rank, params);
}

/* ---- within a step ---- */

/* A gradient that waits, and one whose slot is taken, go into the slice that is
 * current when the bucket leaves. */
static void gradients_that_wait(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    void *slot, *old[2];
    open_params(&rank, context, params, TSR_F32);
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    reduce_call(&rank, 1, &params[2], 0);
    CHECK_OK(tsr_zero_grad_slot(rank.zero, 1, 3, rank.stream, &slot));
    CHECK(slot);
    for (int p = 2; p < PARAMS; p++)
        old[p - 2] = move_slice(&rank, &params[p], 1, params[p].numel - 1);
    reduce_call(&rank, 1, &params[3], 1); /* a copy into the slot */
    end_backward(&rank);
    check_grad(&rank, &params[2], 1, 1 / (float)rank.world);
    check_grad(&rank, &params[3], 2, 1 / (float)rank.world);
    free(old[0]);
    free(old[1]);
    close_params(&rank, params);
}

/* Stage 1 has the sum of earlier micro-steps in memory of its own, for any
 * slice of it; in stage 2 they were reduced into the buffer that is gone. A
 * rank may have no buffer until the last micro-step. */
static void between_micro_steps(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    open_params(&rank, context, params, TSR_F32);
    unsigned calls = rank.stage == 1 ? 3 : 2;
    for (int round = 0; round < 2; round++) {
        CHECK_OK(tsr_zero_update_param_grad_slice(rank.zero, 3, (tsr_tensor){0},
                                                  0, 0, rank.stream));
        CHECK_OK(tsr_zero_start_backward(rank.zero, false));
        reduce_call(&rank, 1, &params[3], 0);
        end_backward(&rank);
        free(move_slice(&rank, &params[3], rank.rank, 100));
        CHECK_OK(tsr_zero_start_backward(rank.zero, true));
        reduce_call(&rank, 1, &params[3], 1);
        end_backward(&rank);
        check_grad(&rank, &params[3], calls, 1 / (float)rank.world);
    }
    close_params(&rank, params);
}

/* ---- order ---- */

static tsr_status spoil(void *context) {
    memset(context, SPOILED, 40 * 3 * sizeof(float));
    return TSR_OK;
}

static tsr_status add_one(void *context) {
    *(float *)context += 1;
    return TSR_OK;
}

/* Zeroed after what the stream holds and before what comes there later. */
static void in_the_streams_order(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    open_params(&rank, context, params, TSR_F32);
    for (int round = 0; round < 20; round++) {
        float *memory = some_memory(40 * 3);
        free(params[3].grad_memory);
        params[3].grad_memory = memory;
        params[3].desc.slice_offset = 0;
        params[3].desc.slice_count = params[3].grad_count = 40 * 3;
        if (round == 0)
            CHECK_OK(tsr_stream_enqueue(rank.stream, dawdle, NULL));
        CHECK_OK(tsr_stream_enqueue(rank.stream, spoil, memory));
        CHECK_OK(tsr_zero_update_param_grad_slice(
            rank.zero, 3, (tsr_tensor){.context = memory}, 0, 40 * 3,
            rank.stream));
        CHECK_OK(tsr_stream_enqueue(rank.stream, add_one, memory));
        CHECK_OK(tsr_stream_synchronize(rank.stream));
        CHECK_MESSAGE(fabsf(memory[0] - 1) <= 0, "%g", (double)memory[0]);
        memory[0] = 0;
        check_grad(&rank, &params[3], 0, 1);
    }
    close_params(&rank, params);
}

/* ---- errors ---- */

static void refuse(eager_rank *rank, test_param *param, int64_t offset,
                   int64_t count) {
    CHECK_FAILS(tsr_zero_update_param_grad_slice(
                    rank->zero, param->desc.id,
                    (tsr_tensor){.context = param->gradient}, offset, count,
                    rank->stream),
                TSR_INVALID_ARGUMENT, "parameter 3: the slice");
}

/* What is refused changes nothing. */
static void refused(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS], frozen = param_of(9, 4, 4);
    open_params(&rank, context, params, TSR_F32);
    test_param *param = &params[3];
    refuse(&rank, param, -1, 2);
    refuse(&rank, param, 2, -1);
    refuse(&rank, param, 0, param->numel + 1);
    refuse(&rank, param, param->numel, 1);
    refuse(&rank, param, INT64_MAX, INT64_MAX);
    CHECK_FAILS(tsr_zero_update_param_grad_slice(rank.zero, 3, (tsr_tensor){0},
                                                 0, 1, rank.stream),
                TSR_INVALID_ARGUMENT, "parameter 3: grad is NULL");
    CHECK_FAILS(tsr_zero_update_param_grad_slice(rank.zero, 77, (tsr_tensor){0},
                                                 0, 0, rank.stream),
                TSR_NOT_FOUND, "parameter 77");
    step(&rank, params, 0);
    param_fill(&rank, &frozen);
    frozen.desc.frozen = true;
    CHECK_OK(tsr_zero_register_param(rank.zero, &frozen.desc, rank.stream));
    CHECK_OK(tsr_zero_update_param_grad_slice(rank.zero, 9, (tsr_tensor){0}, 3,
                                              4, rank.stream));
    step(&rank, params, 1);
    close_params(&rank, params);
    param_release(&frozen);
}

static void refused_in_stage_3(rank_context *context) {
    eager_rank rank;
    test_param param = param_of(3, 5, 7);
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_QUEUED});
    param_register(&rank, &param);
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, &(int64_t){3}, 1));
    CHECK_FAILS(tsr_zero_update_param_grad_slice(
                    rank.zero, 3, (tsr_tensor){.context = param.gradient}, 0, 1,
                    rank.stream),
                TSR_FAILED_PRECONDITION, "parameter 3: stage 3");
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    reduce_call(&rank, 1, &param, 0);
    end_backward(&rank);
    check_grad(&rank, &param, 1, 1 / (float)rank.world);
    rank_close(&rank);
    param_release(&param);
}

int main(void) {
    on_both_stages(between_steps);
    on_both_stages(gradients_that_wait);
    on_both_stages(between_micro_steps);
    on_both_stages(in_the_streams_order);
    on_both_stages(refused);
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++)
        run_threads(worlds[w], refused_in_stage_3, NULL);
    return 0;
}
