/* The eager front: gradients that are made in their slots, and buckets that
 * leave when they are full. */
#include "zero/eager.h"
#include "zero/eager_failing.h"
#include "zero/eager_params.h"

/* Small buckets, one or two of them. */
static rank_options buckets_of(size_t bytes, bool twice) {
    return (rank_options){
        .settings = {.bucket_bytes = bytes, .double_buffer = twice},
        .kind = TSR_STREAM_QUEUED};
}

static void open_sealed(eager_rank *rank, const rank_context *context,
                        test_param *params, tsr_dtype communicated,
                        rank_options options) {
    rank_open(rank, context, &options);
    open_params(rank, params, communicated, TSR_F32);
    CHECK_OK(tsr_zero_seal(rank->zero, rank->stream));
}

static float *take(eager_rank *rank, int graph, const test_param *param,
                   tsr_stream *stream) {
    void *slot;
    CHECK_OK(
        tsr_zero_grad_slot(rank->zero, graph, param->desc.id, stream, &slot));
    CHECK(slot && (uintptr_t)slot % 64 == 0);
    return slot;
}

static void give(eager_rank *rank, int graph, const test_param *param,
                 const void *grad) {
    CHECK_OK(tsr_zero_reduce_grad(rank->zero, graph, param->desc.id, grad,
                                  rank->stream));
}

/* Gradient number `call` on the host, as the caller's: lives until the test
 * ends. */
static const void *make(const eager_rank *rank, test_param *param, int call) {
    for (int64_t i = 0; i < param->numel; i++)
        set_element(param->gradient, param->desc.communicated_dtype, (size_t)i,
                    grad_value(rank->rank, param->desc.id, call, i));
    return param->gradient;
}

static void write_slot(const test_param *param, void *slot,
                       tsr_stream *stream) {
    size_t bytes =
        (size_t)param->numel * tsr_dtype_bytes(param->desc.communicated_dtype);
    CHECK_OK(tsr_stream_copy(stream, slot, param->gradient, bytes));
}

/* Made in place; nobody waits on the host but for the memory of `make`. */
static void give_in_place(eager_rank *rank, int graph, test_param *param,
                          int call) {
    float *slot = take(rank, graph, param, rank->stream);
    make(rank, param, call);
    write_slot(param, slot, rank->stream);
    give(rank, graph, param, slot);
    CHECK_OK(tsr_stream_synchronize(rank->stream));
}

static void refuses_flush(tsr_status status, int id) {
    char text[40];
    snprintf(text, sizeof text, "parameter %d: the bucket", id);
    CHECK_FAILS(status, TSR_FAILED_PRECONDITION, text);
}

/* ---- values ---- */

typedef struct step_case {
    int stage;
    size_t bucket_bytes;
    bool double_buffer, symmetric;
    tsr_average average;
    tsr_dtype communicated;
} step_case;

/* The last micro-step is made in place; the first one is where there is a
 * slot. Parameter 4 comes twice, its second gradient from elsewhere. */
static void micro_step(eager_rank *rank, test_param *params, int micro) {
    CHECK_OK(tsr_zero_start_backward(rank->zero, micro == 1));
    for (int p = PARAMS - 1; p >= 0; p--) {
        if (rank->stage > 1 || micro == 1)
            give_in_place(rank, 1, &params[p], micro);
        else
            reduce_call(rank, 1, &params[p], micro);
    }
    reduce_call(rank, 2, &params[4], 2 + micro);
    end_backward(rank);
}

static void step(rank_context *context) {
    const step_case *at = context->argument;
    eager_rank rank;
    test_param params[PARAMS];
    rank_options options = {.settings = {.stage = at->stage,
                                         .bucket_bytes = at->bucket_bytes,
                                         .double_buffer = at->double_buffer,
                                         .symmetric_memory = at->symmetric,
                                         .average = at->average},
                            .kind = TSR_STREAM_QUEUED,
                            .delay_seed = 5,
                            .max_delay_us = 40};
    open_sealed(&rank, context, params, at->communicated, options);
    for (int round = 0; round < 2; round++) {
        micro_step(&rank, params, 0);
        micro_step(&rank, params, 1);
        for (int p = 0; p < PARAMS; p++)
            check_grad(&rank, &params[p], p == 4 ? 0xF : 0x3,
                       scale_of(rank.world, at->average));
    }
    close_params(&rank, params);
}

static void steps(void) {
    static const size_t buckets[] = {64, 200, 700, 4096};
    int number = 0;
    for (int stage = 1; stage <= 3; stage++)
        for (int b = 0; b < 4; b++)
            for (int average = 0; average < 3; average++) {
                step_case at = {.stage = stage,
                                .bucket_bytes = buckets[b],
                                .double_buffer = number % 2 == 0,
                                .symmetric = number % 4 == 3,
                                .average = (tsr_average)average};
                if (number % 3 == 1 && average != TSR_AVERAGE_BEFORE)
                    at.communicated = TSR_BF16;
                run_threads(worlds[number % 4], step, &at);
                if (at.symmetric)
                    run_processes(2, step, &at);
                number++;
            }
}

/* ---- order ---- */

/* One bucket: what its last rank gives late is still read when the slot is
 * taken again. */
static void waits_for_the_reduce(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    tsr_stream *other;
    rank_options options = buckets_of(64, false);
    options.settings.symmetric_memory = *(bool *)context->argument;
    open_sealed(&rank, context, params, TSR_F32, options);
    CHECK_OK(
        tsr_stream_create(rank.device, TSR_STREAM_QUEUED, "other", 0, &other));
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    make(&rank, &params[1], 0);
    make(&rank, &params[2], 0);
    if (context->rank == context->world - 1)
        CHECK_OK(tsr_stream_enqueue(rank.stream, dawdle, NULL));
    give(&rank, 1, &params[1], params[1].gradient);
    float *slot = take(&rank, 1, &params[2], other);
    write_slot(&params[2], slot, other);
    CHECK_OK(tsr_zero_reduce_grad(rank.zero, 1, 2, slot, other));
    CHECK_OK(tsr_zero_end_backward(rank.zero, other));
    CHECK_OK(tsr_stream_synchronize(other));
    check_grad(&rank, &params[1], 1, 1 / (float)rank.world);
    check_grad(&rank, &params[2], 1, 1 / (float)rank.world);
    tsr_zero_release(rank.zero);
    rank.zero = NULL;
    tsr_stream_release(other);
    close_params(&rank, params);
}

/* The stream that took it is slow; the one that gives it says nothing of it. */
static void made_on_another_stream(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    tsr_stream *other;
    open_sealed(&rank, context, params, TSR_F32, buckets_of(4096, true));
    CHECK_OK(
        tsr_stream_create(rank.device, TSR_STREAM_QUEUED, "other", 0, &other));
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    make(&rank, &params[4], 0);
    float *slot = take(&rank, 1, &params[4], other);
    CHECK_OK(tsr_stream_enqueue(other, dawdle, NULL));
    write_slot(&params[4], slot, other);
    CHECK(take(&rank, 2, &params[4], rank.stream) == slot);
    give(&rank, 2, &params[4], slot);
    end_backward(&rank);
    check_grad(&rank, &params[4], 1, 1 / (float)rank.world);
    tsr_zero_release(rank.zero);
    rank.zero = NULL;
    tsr_stream_release(other);
    close_params(&rank, params);
}

static void in_the_order_taken(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    open_sealed(&rank, context, params, TSR_F32, buckets_of(4096, true));
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    float *slot = take(&rank, 1, &params[3], rank.stream);
    give(&rank, 1, &params[2], make(&rank, &params[2], 0));
    make(&rank, &params[3], 0);
    write_slot(&params[3], slot, rank.stream);
    give(&rank, 1, &params[3], slot);
    const zero_bucket *bucket = &rank.zero->buckets[rank.zero->filling];
    CHECK(bucket->entries.count == 2);
    CHECK(bucket->entries.data[0].param->desc.id == 3);
    CHECK(bucket->entries.data[1].param->desc.id == 2);
    end_backward(&rank);
    check_grad(&rank, &params[2], 1, 1 / (float)rank.world);
    check_grad(&rank, &params[3], 1, 1 / (float)rank.world);
    close_params(&rank, params);
}

/* ---- flushes ---- */

/* The gradient buffer is written without anybody asking for more. */
static void full_leaves_at_once(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS], small = param_of(5, 1, 1);
    float scale = 1 / (float)context->world;
    open_sealed(&rank, context, params, TSR_F32,
                buckets_of(128, *(bool *)context->argument));
    param_register(&rank, &small);
    CHECK_OK(tsr_zero_register_graph(rank.zero, 3, &small.desc.id, 1));
    CHECK_OK(tsr_zero_start_backward(rank.zero, false));
    reduce_call(&rank, 1, &params[4], 0); /* larger than a bucket */
    check_grad(&rank, &params[4], 1, scale);
    float *slot = take(&rank, 3, &small, rank.stream); /* 64 bytes */
    reduce_call(&rank, 1, &params[1], 0);
    check_grad(&rank, &params[1], 0, scale); /* full, but not filled */
    make(&rank, &small, 0);
    write_slot(&small, slot, rank.stream);
    give(&rank, 3, &small, slot);
    rank_sync(&rank);
    check_grad(&rank, &params[1], 1, scale);
    check_grad(&rank, &small, 1, scale);
    reduce_call(&rank, 1, &params[1], 1);
    check_grad(&rank, &params[1], 1, scale); /* there is room */
    end_backward(&rank);
    check_grad(&rank, &params[1], 3, scale);
    close_params(&rank, params);
    param_release(&small);
}

/* Alike on all ranks, and nothing has changed. */
static void holds_up_a_flush(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    void *none = &rank;
    open_sealed(&rank, context, params, TSR_F32, buckets_of(128, true));
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    reduce_call(&rank, 1, &params[0], 0);
    float *slot = take(&rank, 1, &params[1], rank.stream);
    size_t held = tsr_zero_memory_held(rank.zero).buckets;
    for (int turn = 0; turn < 2; turn++) {
        refuses_flush(tsr_zero_grad_slot(rank.zero, 1, 4, rank.stream, &none),
                      1);
        CHECK(!none);
        refuses_flush(tsr_zero_reduce_grad(rank.zero, 1, 4, params[4].gradient,
                                           rank.stream),
                      1);
        refuses_flush(tsr_zero_reduce_grad(rank.zero, 1, 0, NULL, rank.stream),
                      1); /* has one there */
        refuses_flush(tsr_zero_end_backward(rank.zero, rank.stream), 1);
        CHECK_FAILS(
            tsr_zero_register_param(rank.zero, &params[1].desc, rank.stream),
            TSR_FAILED_PRECONDITION, "parameter 1");
        CHECK_OK(tsr_zero_reset(rank.zero, rank.stream));
        for (int graph = 1; graph <= 2; graph++)
            CHECK_OK(tsr_zero_register_graph(rank.zero, graph,
                                             (int64_t[]){0, 1, 2, 3, 4}, 5));
        CHECK(take(&rank, 2, &params[1], rank.stream) == slot);
    }
    CHECK(tsr_zero_memory_held(rank.zero).buckets == held);
    CHECK_OK(tsr_comm_poll(rank.reduce_comm, NULL)); /* the group lives on */
    make(&rank, &params[1], 0);
    write_slot(&params[1], slot, rank.stream);
    give(&rank, 1, &params[1], slot);
    give_in_place(&rank, 1, &params[4], 0);
    end_backward(&rank);
    check_grad(&rank, &params[1], 1, 1 / (float)rank.world);
    check_grad(&rank, &params[4], 1, 1 / (float)rank.world);
    close_params(&rank, params);
}

/* ---- other addresses ---- */

static void from_elsewhere(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    open_sealed(&rank, context, params, TSR_F32, buckets_of(4096, true));
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    float *slot = take(&rank, 1, &params[4], rank.stream);
    float *two = take(&rank, 1, &params[3], rank.stream);
    make(&rank, &params[4], 1);
    write_slot(&params[4], slot, rank.stream);
    CHECK_OK(tsr_stream_synchronize(rank.stream));
#define NOT_ITS_OWN(id, address)                                               \
    CHECK_FAILS(tsr_zero_reduce_grad(rank.zero, 1, id, address, rank.stream),  \
                TSR_INVALID_ARGUMENT, "lies in a bucket")
    NOT_ITS_OWN(4, two);
    NOT_ITS_OWN(4, slot + 1);
    NOT_ITS_OWN(2, slot);
    give(&rank, 1, &params[4], make(&rank, &params[4], 0));
    NOT_ITS_OWN(4, slot); /* filled */
    give(&rank, 1, &params[3], make(&rank, &params[3], 0));
#undef NOT_ITS_OWN
    end_backward(&rank);
    check_grad(&rank, &params[4], 1, 1 / (float)rank.world);
    check_grad(&rank, &params[3], 1, 1 / (float)rank.world);
    close_params(&rank, params);
}

/* The buffer is replaced between the two calls. */
static void moved_buffer(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    open_sealed(&rank, context, params, TSR_F32, buckets_of(4096, true));
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    float *slot = take(&rank, 1, &params[3], rank.stream);
    void *old = params[3].grad_memory;
    params[3].grad_memory = some_memory(params[3].grad_count);
    CHECK_OK(tsr_zero_update_param_grad_buffer(
        rank.zero, 3, (tsr_tensor){.context = params[3].grad_memory},
        rank.stream));
    make(&rank, &params[3], 0);
    write_slot(&params[3], slot, rank.stream);
    give(&rank, 1, &params[3], slot);
    end_backward(&rank);
    check_grad(&rank, &params[3], 1, 1 / (float)rank.world);
    close_params(&rank, params);
    free(old);
}

/* ---- no slot ---- */

static void no_slot(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS], frozen = param_of(9, 3, 3);
    void *slot = &rank;
    rank_options options = buckets_of(4096, true);
    options.settings.stage = 1;
    open_sealed(&rank, context, params, TSR_F32, options);
    param_fill(&rank, &frozen);
    frozen.desc.frozen = true;
    CHECK_OK(tsr_zero_register_param(rank.zero, &frozen.desc, rank.stream));
    CHECK_OK(tsr_zero_register_graph(rank.zero, 3, &frozen.desc.id, 1));
    CHECK_FAILS(tsr_zero_grad_slot(rank.zero, 3, 9, rank.stream, &slot),
                TSR_INVALID_ARGUMENT, "parameter 9 is frozen");
    CHECK(!slot);
    CHECK_FAILS(tsr_zero_grad_slot(rank.zero, 3, 4, rank.stream, &slot),
                TSR_NOT_FOUND, "graph 3 did not name parameter 4");
    CHECK_OK(tsr_zero_start_backward(rank.zero, false));
    slot = &rank;
    CHECK_OK(tsr_zero_grad_slot(rank.zero, 1, 4, rank.stream, &slot));
    CHECK(!slot);
    tsr_zero_enable_profiling(rank.zero, true);
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    slot = &rank;
    CHECK_OK(tsr_zero_grad_slot(rank.zero, 1, 4, rank.stream, &slot));
    CHECK(!slot && tsr_zero_memory_held(rank.zero).buckets == 0);
    close_params(&rank, params);
    param_release(&frozen);
}

/* ---- aborted ---- */

/* A slot that is dropped is still being written, by a stream that says nothing
 * to the others: its memory is not given back, nor to the next one, before. */
static void aborted(rank_context *context) {
    bool larger = *(bool *)context->argument;
    eager_rank rank;
    test_param params[PARAMS];
    tsr_stream *other, *third;
    open_sealed(&rank, context, params, TSR_F32, buckets_of(128, false));
    CHECK_OK(
        tsr_stream_create(rank.device, TSR_STREAM_QUEUED, "other", 0, &other));
    CHECK_OK(
        tsr_stream_create(rank.device, TSR_STREAM_QUEUED, "third", 0, &third));
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    float *slot = take(&rank, 1, &params[1], other);
    *(float *)params[1].gradient = 12345;
    CHECK_OK(tsr_stream_enqueue(other, dawdle, NULL));
    write_slot(&params[1], slot, other);
    CHECK_OK(tsr_zero_abort_step(rank.zero, rank.stream));
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    int next = larger ? 4 : 2;
    make(&rank, &params[next], 0);
    CHECK_OK(
        tsr_zero_reduce_grad(rank.zero, 1, next, params[next].gradient, third));
    CHECK_OK(tsr_stream_synchronize(other)); /* before it is reduced */
    end_backward(&rank);
    check_grad(&rank, &params[1], 0, 1);
    check_grad(&rank, &params[next], 1, 1 / (float)rank.world);
    tsr_zero_release(rank.zero);
    rank.zero = NULL;
    tsr_stream_release(other);
    tsr_stream_release(third);
    close_params(&rank, params);
}

/* ---- memory that runs out ---- */

static tsr_status try_step(eager_rank *rank, test_param *params) {
    void *slot;
    TSR_TRY(tsr_zero_start_backward(rank->zero, true));
    for (int p = 0; p < PARAMS; p++) {
        TSR_TRY(tsr_zero_grad_slot(rank->zero, 1, p, rank->stream, &slot));
        write_slot(&params[p], slot, rank->stream);
        TSR_TRY(tsr_zero_reduce_grad(rank->zero, 1, p, slot, rank->stream));
    }
    TSR_TRY(tsr_zero_end_backward(rank->zero, rank->stream));
    return tsr_zero_synchronize(rank->zero);
}

static void fail_nth(rank_context *context) {
    failing *at = context->argument;
    eager_rank rank;
    test_param params[PARAMS];
    open_sealed(&rank, context, params, TSR_F32, buckets_of(128, true));
    for (int p = 0; p < PARAMS; p++)
        make(&rank, &params[p], 0);
    failing_begin(at, &rank);
    tsr_status status = try_step(&rank, params);
    failing_end(at, &rank, status);
    if (status != TSR_OK) {
        CHECK_OK(tsr_zero_abort_step(rank.zero, rank.stream));
        CHECK_OK(try_step(&rank, params));
    }
    for (int p = 0; p < PARAMS; p++)
        check_grad(&rank, &params[p], 1, 1);
    close_params(&rank, params);
}

int main(void) {
    for (int k = 0; k < 2; k++) {
        bool yes = k;
        on_worlds(waits_for_the_reduce, &yes);
        on_worlds(full_leaves_at_once, &yes);
        on_worlds(aborted, &yes);
    }
    on_worlds(made_on_another_stream, NULL);
    on_worlds(in_the_order_taken, NULL);
    on_worlds(holds_up_a_flush, NULL);
    on_worlds(from_elsewhere, NULL);
    on_worlds(moved_buffer, NULL);
    on_worlds(no_slot, NULL);
    failing_each(fail_nth, 3);
    steps();
    return 0;
}
