/* The eager front and the host: settings that make it wait in gathers and
 * reduces, and what synchronize tells it. */
#include <stdatomic.h>

#include "zero/eager_rank.h"

/* A mutant that does not wait is seen when the slow kernel has not yet passed:
 * several chances, should the host be slow as well. */
enum { ROUNDS = 4 };

static const int worlds[] = {1, 2, 3};

/* ---- waits ---- */

/* A slow kernel on the caller's stream, and a tensor whose address, asked for
 * on the way to the wire, tells whether that was through by then. */
typedef struct witness {
    void *memory;
    atomic_bool passed;
    bool seen;
} witness;

static tsr_status slow(void *context) {
    witness *self = context;
    TSR_TRY(dawdle(NULL));
    atomic_store(&self->passed, true);
    return TSR_OK;
}

static void *look(void *context) {
    witness *self = context;
    self->seen = atomic_load(&self->passed);
    return self->memory;
}

static tsr_tensor witnessed(witness *self, void *memory) {
    self->memory = memory;
    return (tsr_tensor){.address = look, .context = self};
}

static void begin(witness *self, eager_rank *rank) {
    self->seen = false;
    atomic_store(&self->passed, false);
    CHECK_OK(tsr_stream_enqueue(rank->stream, slow, self));
}

static void open_rank(eager_rank *rank, const rank_context *context,
                      test_param *param) {
    *param = param_of(4, 5, 3);
    rank_open(rank, context,
              &(rank_options){.settings =
                                  *(const tsr_zero_settings *)context->argument,
                              .kind = TSR_STREAM_QUEUED});
    param_fill(rank, param);
}

static void seal(eager_rank *rank, const test_param *param) {
    CHECK_OK(tsr_zero_register_param(rank->zero, &param->desc, rank->stream));
    CHECK_OK(tsr_zero_register_graph(rank->zero, 1, &param->desc.id, 1));
    CHECK_OK(tsr_zero_seal(rank->zero, rank->stream));
    rank_sync(rank);
}

/* before: nothing is gathered until the caller's stream is through. after: the
 * call returns with the weights gathered, and no wait_allgather is needed. */
static void gathers(rank_context *context) {
    const tsr_zero_settings *settings = context->argument;
    eager_rank rank;
    test_param param;
    witness shard = {0};
    open_rank(&rank, context, &param);
    param.desc.shard = witnessed(&shard, param.shard_memory);
    seal(&rank, &param);
    for (int round = 0; round < ROUNDS; round++) {
        begin(&shard, &rank);
        tsr_view view = gather_param(&rank, 1, &param, TSR_F32);
        CHECK(shard.seen || !settings->sync_before_allgather);
        CHECK(atomic_load(&shard.passed) || !settings->sync_after_allgather);
        for (int64_t i = 0; settings->sync_after_allgather && i < param.numel;
             i++)
            CHECK(fabsf(((float *)view.data)[i] - weight_value(4, 0, i)) <= 0);
        release_param(&rank, 1, &param, 1);
        rank_sync(&rank);
    }
    rank_close(&rank);
    param_release(&param);
}

/* before: nothing is reduced until the gradients are in their slots. after: the
 * flush returns with the gradient buffers written. */
static void reduces(rank_context *context) {
    const tsr_zero_settings *settings = context->argument;
    eager_rank rank;
    test_param param;
    witness grad = {0};
    open_rank(&rank, context, &param);
    param.desc.grad = witnessed(&grad, param.grad_memory);
    for (int64_t i = 0; i < param.numel; i++)
        ((float *)param.gradient)[i] = grad_value(rank.rank, 4, 0, i);
    seal(&rank, &param);
    for (int round = 0; round < ROUNDS; round++) {
        begin(&grad, &rank);
        CHECK_OK(tsr_zero_start_backward(rank.zero, true));
        CHECK_OK(
            tsr_zero_reduce_grad(rank.zero, 1, 4, param.gradient, rank.stream));
        CHECK_OK(tsr_zero_end_backward(rank.zero, rank.stream));
        CHECK(grad.seen || !settings->sync_before_reduce);
        CHECK(atomic_load(&grad.passed) || !settings->sync_after_reduce);
        if (settings->sync_after_reduce)
            check_grad(&rank, &param, 1, 1 / (float)rank.world);
        rank_sync(&rank);
        memset(param.grad_memory, SPOILED,
               (size_t)param.grad_count * sizeof(float));
    }
    rank_close(&rank);
    param_release(&param);
}

static void on_worlds(rank_body body, tsr_zero_settings settings) {
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++)
        run_threads(worlds[w], body, &settings);
}

/* ---- synchronize ---- */

static tsr_status no_cast(const tsr_kernel_call *call) {
    (void)call;
    return tsr_fail(TSR_INVALID_DATA, "the test's cast breaks");
}

static tsr_status no_memory(void *context) {
    (void)context;
    return tsr_fail(TSR_IO, "the test's memory breaks");
}

static void vacate_breaks(void *context, tsr_stream *stream) {
    (void)context;
    CHECK_OK(tsr_stream_enqueue(stream, no_memory, NULL));
}

static tsr_status occupy_nothing(void *context, tsr_stream *stream) {
    (void)context;
    (void)stream;
    return TSR_OK;
}

/* Two streams of the tsr_zero fail, gather and out: the first is told, once. */
static void two_failures(rank_context *context) {
    static const tsr_kernel broken = {.op = "cast", .run = no_cast};
    eager_rank rank;
    test_param cast = param_of(4, 5, 3), moved = param_of(5, 5, 3);
    tsr_view view;
    rank_open(&rank, context,
              &(rank_options){.settings = {.host_bytes = 1 << 20},
                              .kind = TSR_STREAM_QUEUED});
    CHECK_OK(tsr_kernel_table_add(rank.kernels, &broken));
    param_register(&rank, &cast);
    param_fill(&rank, &moved);
    moved.desc.shard.vacate = vacate_breaks;
    moved.desc.shard.occupy = occupy_nothing;
    CHECK_OK(tsr_zero_register_param(rank.zero, &moved.desc, rank.stream));
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, &cast.desc.id, 1));
    CHECK_OK(tsr_zero_seal(rank.zero, rank.stream));
    CHECK_OK(tsr_zero_offload_parameter(rank.zero, 5, rank.stream));
    CHECK_OK(
        tsr_zero_allgather_param(rank.zero, 1, 4, TSR_F16, rank.stream, &view));
    CHECK_FAILS(tsr_zero_synchronize(rank.zero), TSR_INVALID_DATA,
                "the test's cast breaks");
    CHECK_OK(tsr_zero_synchronize(rank.zero));
    rank_close(&rank);
    param_release(&cast);
    param_release(&moved);
}

int main(void) {
    on_worlds(gathers, (tsr_zero_settings){.sync_before_allgather = true});
    on_worlds(gathers, (tsr_zero_settings){.sync_after_allgather = true});
    for (int stage = 1; stage <= 3; stage++) {
        on_worlds(reduces, (tsr_zero_settings){.stage = stage,
                                               .sync_before_reduce = true});
        on_worlds(reduces, (tsr_zero_settings){.stage = stage,
                                               .sync_after_reduce = true});
    }
    run_threads(1, two_failures, NULL);
    return 0;
}
