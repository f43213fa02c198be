/* The eager front, offload: shards to the host and back, and failures. */
#include "zero/eager_failing.h"
#include "zero/eager_offload.h"

typedef struct shards {
    eager_rank rank;
    test_param two[2];
    moving moving[2];
    chunk_list list;
} shards;

static void open_shards(shards *self, const rank_context *context,
                        const rank_options *options, size_t host_bytes) {
    rank_options with = *options;
    int64_t ids[2] = {4, 5};
    *self = (shards){.two = {param_of(4, 50, 3), param_of(5, 7, 3)}};
    with.settings.host_bytes = host_bytes;
    rank_open(&self->rank, context, &with);
    for (int p = 0; p < 2; p++) {
        param_fill(&self->rank, &self->two[p]);
        param_moves(&self->two[p], &self->moving[p], &self->list);
        CHECK_OK(tsr_zero_register_param(self->rank.zero, &self->two[p].desc,
                                         self->rank.stream));
    }
    for (int graph = 1; graph <= 2; graph++)
        CHECK_OK(tsr_zero_register_graph(self->rank.zero, graph, ids, 2));
}

static void close_shards(shards *self) {
    rank_close(&self->rank);
    for (int p = 0; p < 2; p++)
        param_release(&self->two[p]);
    chunks_free(&self->list);
}

static void shard_out(shards *self, int p) {
    CHECK_OK(
        tsr_zero_offload_parameter(self->rank.zero, 4 + p, self->rank.stream));
}

static void shard_in(shards *self, int p) {
    CHECK_OK(
        tsr_zero_reload_parameter(self->rank.zero, 4 + p, self->rank.stream));
}

static size_t shard_size(const shards *self, int p) {
    return self->moving[p].bytes;
}

/* Gathers that are in flight when the shard leaves read it before its memory
 * is given up; those after the reload read what came back. */
static void shard_there_and_back(rank_context *context) {
    shards self;
    tsr_view view;
    open_shards(&self, context, context->argument, MANY);
    eager_rank *rank = &self.rank;
    CHECK_OK(tsr_zero_seal(rank->zero, rank->stream));
    for (int round = 0; round < 4; round++) {
        CHECK_OK(tsr_stream_enqueue(rank->stream, dawdle, NULL));
        view = gather_param(rank, 1, &self.two[0], TSR_BF16);
        shard_out(&self, 0);
        shard_out(&self, 0);
        CHECK(self.moving[0].vacated == round + 1 && !self.moving[0].now);
        CHECK(tsr_zero_memory_held(rank->zero).host == shard_size(&self, 0));
        wait_param(rank, 1, &self.two[0]);
        check_view(rank, &self.two[0], &view, round);
        shard_in(&self, 0);
        shard_in(&self, 0);
        CHECK(self.moving[0].occupied == round + 1);
        view = gather_param(rank, 2, &self.two[0], TSR_F32);
        wait_param(rank, 2, &self.two[0]);
        check_view(rank, &self.two[0], &view, round);
        release_param(rank, 2, &self.two[0], 1);
        release_param(rank, 1, &self.two[0], 1);
        check_held(rank, 0);
        rank_sync(rank);
        moving_write(rank, &self.two[0], &self.moving[0], round + 1);
        CHECK_OK(tsr_zero_weights_changed(rank->zero, (int64_t[]){4}, 1,
                                          rank->stream));
        CHECK(tsr_zero_memory_held(rank->zero).host == 0);
    }
    shard_out(&self, 0); /* in flight when all is released */
    shard_out(&self, 1);
    shard_in(&self, 1);
    close_shards(&self);
}

/* The caller's stream writes the shard, it leaves, comes back, and the stream
 * reads it: nobody waits on the host. */
static void shard_follows_the_stream(rank_context *context) {
    shards self;
    open_shards(&self, context, context->argument, MANY);
    eager_rank *rank = &self.rank;
    chunk *seen[6];
    size_t bytes = shard_size(&self, 0);
    for (unsigned round = 0; round < 6; round++) {
        self.moving[0].now->seed = round;
        self.moving[0].now->bytes = bytes;
        CHECK_OK(tsr_stream_enqueue(rank->stream, dawdle, NULL));
        CHECK_OK(
            tsr_stream_enqueue(rank->stream, run_make, self.moving[0].now));
        CHECK_OK(tsr_zero_weights_changed(rank->zero, (int64_t[]){4}, 1,
                                          rank->stream));
        shard_out(&self, 0);
        shard_in(&self, 0);
        seen[round] = see(&self.list, rank->stream, self.moving[0].now->memory,
                          bytes, round);
    }
    rank_sync(rank);
    for (int round = 0; round < 6; round++)
        check_seen(seen[round]);
    close_shards(&self);
}

/* A gather that another stream asks for comes behind the copy in, too, which
 * the first one holds up. */
static void shard_gathered_elsewhere(rank_context *context) {
    shards self;
    tsr_stream *other;
    tsr_view view;
    open_shards(&self, context, context->argument, MANY);
    eager_rank *rank = &self.rank;
    CHECK_OK(
        tsr_stream_create(rank->device, TSR_STREAM_QUEUED, "other", 0, &other));
    CHECK_OK(tsr_zero_seal(rank->zero, rank->stream));
    shard_out(&self, 0);
    CHECK_OK(tsr_stream_enqueue(rank->stream, dawdle, NULL));
    shard_in(&self, 0);
    CHECK_OK(tsr_zero_allgather_param(rank->zero, 1, 4, TSR_F32, other, &view));
    wait_param(rank, 1, &self.two[0]);
    check_view(rank, &self.two[0], &view, 0);
    release_param(rank, 1, &self.two[0], 1);
    tsr_zero_release(rank->zero);
    rank->zero = NULL;
    tsr_stream_release(other);
    close_shards(&self);
}

/* Other weights in the shard, about which nobody was told: they show whether it
 * was copied. */
static void shard_unchanged(rank_context *context) {
    shards self;
    open_shards(&self, context, context->argument, MANY);
    eager_rank *rank = &self.rank;
    size_t bytes = shard_size(&self, 0);
    shard_out(&self, 0);
    shard_in(&self, 0);
    CHECK(tsr_zero_memory_held(rank->zero).host == bytes); /* kept */
    rank_sync(rank);
    moving_write(rank, &self.two[0], &self.moving[0], 1);
    shard_out(&self, 0);
    shard_in(&self, 0);
    self.two[0].version = 0;
    use_param(rank, 1, &self.two[0], TSR_F32);
    CHECK_OK(tsr_zero_invalidate_gathered_param(rank->zero, 4));
    CHECK(tsr_zero_memory_held(rank->zero).host == bytes); /* weights stay */
    rank_sync(rank);
    moving_write(rank, &self.two[0], &self.moving[0], 2);
    CHECK_OK(
        tsr_zero_weights_changed(rank->zero, (int64_t[]){4}, 1, rank->stream));
    shard_out(&self, 0);
    shard_in(&self, 0);
    use_param(rank, 1, &self.two[0], TSR_F32);
    rank_sync(rank);
    moving_write(rank, &self.two[0], &self.moving[0], 3);
    CHECK_OK(
        tsr_zero_register_param(rank->zero, &self.two[0].desc, rank->stream));
    CHECK(tsr_zero_memory_held(rank->zero).host == 0);
    shard_out(&self, 0);
    shard_in(&self, 0);
    use_param(rank, 2, &self.two[0], TSR_F16);
    close_shards(&self);
}

/* What needs the shard is refused, on all ranks, and nothing else is hurt. */
static void shard_away(rank_context *context) {
    shards self;
    tsr_view view;
    open_shards(&self, context, context->argument, MANY);
    eager_rank *rank = &self.rank;
    tsr_zero *zero = rank->zero;
    tsr_stream *stream = rank->stream;
    int64_t id = 4, both[2] = {5, 4};
    view = gather_param(rank, 1, &self.two[0], TSR_F32);
    shard_out(&self, 0);
#define AWAY(call)                                                             \
    CHECK_FAILS(call, TSR_FAILED_PRECONDITION,                                 \
                "parameter 4: its shard is on the host: reload_parameter "     \
                "first")
    AWAY(tsr_zero_allgather_param(zero, 2, 4, TSR_F16, stream, &view));
    AWAY(tsr_zero_prefetch_params_fused(
        zero, both, (tsr_dtype[]){TSR_F16, TSR_BF16}, 2, stream));
    AWAY(tsr_zero_weights_changed(zero, both, 2, stream));
    AWAY(tsr_zero_update_param_shard(zero, 4, self.two[0].desc.shard));
    AWAY(tsr_zero_register_param(zero, &self.two[0].desc, stream));
    tsr_view again = gather_param(rank, 2, &self.two[0], TSR_F32);
    CHECK(again.data == view.data); /* valid: needs no shard */
    CHECK_OK(tsr_zero_set_persistent(zero, 4, stream));
    wait_param(rank, 2, &self.two[0]);
    check_view(rank, &self.two[0], &again, 0);
    release_param(rank, 2, &self.two[0], 1);
    release_param(rank, 1, &self.two[0], 1);
    self.two[1].desc.persistent = true; /* not sealed any more */
    CHECK_OK(tsr_zero_register_param(zero, &self.two[1].desc, stream));
    shard_out(&self, 1);
    CHECK_FAILS(tsr_zero_seal(zero, stream), TSR_FAILED_PRECONDITION,
                "parameter 5: its shard is on the host");
    shard_in(&self, 1);
    use_param(rank, 1, &self.two[1], TSR_F32);
    check_held(rank, copy_bytes(rank, &self.two[0], TSR_F32) +
                         copy_bytes(rank, &self.two[1], TSR_F32));
    shard_in(&self, 0);
    CHECK_OK(tsr_zero_weights_changed(zero, &id, 1, stream));
    shard_out(&self, 0);
    AWAY(tsr_zero_set_persistent(zero, 4, stream));
    AWAY(tsr_zero_allgather_param(zero, 1, 4, TSR_F32, stream, &view));
#undef AWAY
    CHECK_OK(tsr_zero_start_backward(zero, true)); /* gradients go on */
    reduce_call(rank, 1, &self.two[0], 0);
    end_backward(rank);
    check_grad(rank, &self.two[0], 1, 1 / (float)rank->world);
    shard_in(&self, 0);
    use_param(rank, 1, &self.two[0], TSR_F32);
    CHECK_OK(tsr_comm_poll(rank->gather_comm, NULL));
    close_shards(&self);
}

/* Kept copies give way, in the order of registration; shards that are away do
 * not. */
static void shard_budget(rank_context *context) {
    shards self;
    char tensor[4];
    open_shards(&self, context, context->argument, 1);
    CHECK_FAILS(tsr_zero_offload_parameter(self.rank.zero, 4, self.rank.stream),
                TSR_OUT_OF_MEMORY, "its budget of 1 (host_bytes)");
    CHECK(self.moving[0].vacated == 0);
    use_param(&self.rank, 1, &self.two[0], TSR_F32);
    close_shards(&self);
    size_t shard4 = shard_size(&self, 0), shard5 = shard_size(&self, 1);
    open_shards(&self, context, context->argument, shard4 + shard5);
    eager_rank *rank = &self.rank;
    for (int p = 0; p < 2; p++) {
        shard_out(&self, p);
        shard_in(&self, p);
    }
    CHECK(tsr_zero_memory_held(rank->zero).host == shard4 + shard5);
    CHECK_OK(tsr_zero_offload_tensor(rank->zero, 1, 1, tensor, 4, rank->stream,
                                     NULL));
    CHECK(tsr_zero_memory_held(rank->zero).host == shard5 + 4);
    shard_out(&self, 0);
    CHECK(tsr_zero_memory_held(rank->zero).host == shard4 + 4);
    CHECK_FAILS(tsr_zero_offload_parameter(rank->zero, 5, rank->stream),
                TSR_OUT_OF_MEMORY, "do not fit on the host");
    close_shards(&self);
}

/* occupy that gives no memory, then some; an address that says none; nothing to
 * move; stages without shards. */
static void shard_odds(rank_context *context) {
    shards self;
    open_shards(&self, context, context->argument, MANY);
    eager_rank *rank = &self.rank;
    test_param none = param_of(6, 0, 3);
    param_register(rank, &none);
    CHECK_OK(tsr_zero_register_graph(rank->zero, 3, (int64_t[]){6}, 1));
    shard_out(&self, 0);
    self.moving[0].refuses = true;
    CHECK_FAILS(tsr_zero_reload_parameter(rank->zero, 4, rank->stream),
                TSR_OUT_OF_MEMORY, "the test gives no memory");
    CHECK_FAILS(tsr_zero_update_param_shard(rank->zero, 4, (tsr_tensor){0}),
                TSR_FAILED_PRECONDITION, "reload_parameter first");
    self.moving[0].refuses = false;
    shard_in(&self, 0);
    use_param(rank, 1, &self.two[0], TSR_F32);
    CHECK_OK(tsr_zero_offload_parameter(rank->zero, 6, rank->stream));
    tsr_view view;
    CHECK_FAILS(tsr_zero_allgather_param(rank->zero, 3, 6, TSR_F32,
                                         rank->stream, &view),
                TSR_FAILED_PRECONDITION, "reload_parameter first");
    CHECK_OK(tsr_zero_reload_parameter(rank->zero, 6, rank->stream));
    use_param(rank, 3, &none, TSR_F32);
    CHECK_OK(tsr_zero_update_param_shard(rank->zero, 5, (tsr_tensor){0}));
    CHECK_FAILS(tsr_zero_offload_parameter(rank->zero, 5, rank->stream),
                TSR_INVALID_ARGUMENT, "parameter 5: shard is NULL");
    CHECK_FAILS(tsr_zero_offload_parameter(rank->zero, 99, rank->stream),
                TSR_NOT_FOUND, "parameter 99");
    CHECK_FAILS(tsr_zero_reload_parameter(rank->zero, 99, rank->stream),
                TSR_NOT_FOUND, "parameter 99");
    param_release(&none);
    close_shards(&self);
    eager_rank whole;
    test_param param = param_of(4, 5, 3);
    rank_open(&whole, context,
              &(rank_options){.settings = {.stage = 2, .host_bytes = MANY}});
    param_register(&whole, &param);
    CHECK_FAILS(tsr_zero_offload_parameter(whole.zero, 4, whole.stream),
                TSR_INVALID_ARGUMENT, "stage 2 has no shards");
    CHECK_FAILS(tsr_zero_reload_parameter(whole.zero, 4, whole.stream),
                TSR_INVALID_ARGUMENT, "stage 2 has no shards");
    rank_close(&whole);
    param_release(&param);
}

/* A tensor without vacate and occupy: the memory stays, and `address` may say
 * another by the time of the reload. */
static void *swapped(void *context) { return *(void **)context; }

static void shard_stays(rank_context *context) {
    eager_rank rank;
    test_param param = param_of(4, 50, 3);
    rank_open(&rank, context,
              &(rank_options){.settings = {.host_bytes = MANY},
                              .kind = TSR_STREAM_QUEUED});
    param_fill(&rank, &param);
    void *at = param.shard_memory, *other = some_memory(param.shard);
    param.desc.shard = (tsr_tensor){.address = swapped, .context = &at};
    CHECK_OK(tsr_zero_register_param(rank.zero, &param.desc, rank.stream));
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, (int64_t[]){4}, 1));
    CHECK_OK(tsr_zero_offload_parameter(rank.zero, 4, rank.stream));
    at = other;
    CHECK_OK(tsr_zero_reload_parameter(rank.zero, 4, rank.stream));
    use_param(&rank, 1, &param, TSR_F32);
    rank_close(&rank);
    param_release(&param);
    free(other);
}

/* ---- failures ---- */

static tsr_status breaks(void *context) {
    (void)context;
    return tsr_fail(TSR_INVALID_DATA, "the test's kernel breaks");
}

/* A stream of the caller's that has failed drops its tasks, not its events:
 * nobody waits for ever, and once it has told, all is well again. */
static void failed_stream(rank_context *context) {
    shards self;
    open_shards(&self, context, &kinds[0], MANY);
    eager_rank *rank = &self.rank;
    CHECK_OK(tsr_zero_seal(rank->zero, rank->stream));
    chunk *at = make_tensor(&self.list, rank->stream, 300, 1, false);
    CHECK_OK(tsr_stream_enqueue(rank->stream, breaks, NULL));
    offload(rank, 1, 7, at);
    wait_offload(rank, 1, 7);
    spoil(rank->stream, at); /* dropped */
    void *back = reload(rank, 1, 7);
    CHECK(wait_reload(rank, 1, 7, NULL) == back);
    shard_out(&self, 0);
    shard_in(&self, 0);
    CHECK_FAILS(tsr_stream_synchronize(rank->stream), TSR_INVALID_DATA,
                "the test's kernel breaks");
    CHECK_OK(tsr_zero_synchronize(rank->zero));
    chunk *seen = see(&self.list, rank->stream, back, 300, 1);
    free_one(rank, back);
    rank_sync(rank);
    check_seen(seen);
    use_param(rank, 1, &self.two[0], TSR_F32);
    close_shards(&self);
}

static tsr_status try_offload(shards *self, chunk *at) {
    tsr_zero *zero = self->rank.zero;
    tsr_stream *stream = self->rank.stream;
    void *back[2];
    for (int t = 0; t < 2; t++)
        TSR_TRY(tsr_zero_offload_tensor(zero, 1, t, at->memory,
                                        at->bytes - (size_t)t, stream, NULL));
    for (int p = 0; p < 2; p++)
        TSR_TRY(tsr_zero_offload_parameter(zero, 4 + p, stream));
    for (int t = 0; t < 2; t++) {
        TSR_TRY(tsr_zero_reload_tensor(zero, 1, t, stream, &back[t]));
        TSR_TRY(tsr_zero_wait_reload(zero, 1, t, NULL, stream, &back[t]));
    }
    for (int p = 0; p < 2; p++)
        TSR_TRY(tsr_zero_reload_parameter(zero, 4 + p, stream));
    TSR_TRY(tsr_zero_free_tensors(zero, back, 2, stream));
    return tsr_zero_reset(zero, stream);
}

static void fail_nth(rank_context *context) {
    failing *at = context->argument;
    shards self;
    open_shards(&self, context, &kinds[at->heap ? 0 : at->n % 2], MANY);
    chunk *tensor = make_tensor(&self.list, self.rank.stream, 300, 1, false);
    CHECK_OK(tsr_zero_seal(self.rank.zero, self.rank.stream));
    failing_begin(at, &self.rank);
    failing_end(at, &self.rank, try_offload(&self, tensor));
    for (int64_t graph = 1; graph <= 2; graph++) /* reset has dropped them */
        CHECK_OK(tsr_zero_register_graph(self.rank.zero, graph,
                                         (int64_t[]){4, 5}, 2));
    CHECK_OK(try_offload(&self, tensor));
    CHECK_OK(tsr_zero_register_graph(self.rank.zero, 1, (int64_t[]){4, 5}, 2));
    for (int p = 0; p < 2; p++)
        use_param(&self.rank, 1, &self.two[p], TSR_F32);
    close_shards(&self);
}

int main(void) {
    rank_body moved[] = {shard_there_and_back,
                         shard_follows_the_stream,
                         shard_unchanged,
                         shard_gathered_elsewhere,
                         shard_away,
                         shard_budget,
                         shard_odds};
    for (int k = 0; k < KINDS; k++) {
        rank_options kind = kinds[k];
        for (size_t t = 0; t < sizeof moved / sizeof *moved; t++)
            for (int world = 1; world <= 3; world++)
                run_threads(world, moved[t], &kind);
    }
    run_threads(2, shard_stays, NULL);
    run_threads(2, failed_stream, NULL);
    int points = failing_each(fail_nth, 3);
    printf("memory ran out at %d places\n", points);
    return 0;
}
