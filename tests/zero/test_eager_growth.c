/* The eager front over 1,000 steps with everything in the loop: it holds at the
 * end what it held after the first ones. */
#define _GNU_SOURCE
#include "zero/eager_host.h"

#include "zero/eager.h"
#include "zero/heap.h"

enum { PARAMS = 3, TENSORS = 4, WARM = 100, LAST = 1000 };

/* What may grow without a byte of tsr_zero_memory_held showing it. */
typedef struct footprint {
    tsr_zero_memory held;
    size_t events, reloads, pool, copies, queued;
    size_t live; /* of the caller's allocator */
    int streams;
} footprint;

static footprint footprint_of(const eager_rank *rank) {
    const tsr_zero *zero = rank->zero;
    footprint at = {.held = tsr_zero_memory_held(zero),
                    .live = rank->heap.live,
                    .reloads = zero->reloads.capacity,
                    .streams = zero->stream_count};
    for (int q = 0; q < ZERO_QUEUES; q++) {
        at.events +=
            zero->queues[q].events.count + zero->queues[q].events_taken;
        at.queued += zero->queues[q].first != NULL;
    }
    for (const zero_host *host = zero->pool; host; host = host->next)
        at.pool++;
    for (size_t p = 0; p < zero->params.count; p++)
        for (const zero_copy *copy = zero->params.data[p]->copies; copy;
             copy = copy->next)
            at.copies++;
    return at;
}

typedef struct looper {
    eager_rank rank;
    test_param params[PARAMS];
    moving moving;
    chunk_list list;
    chunk *tensors[TENSORS];
} looper;

static void forward(looper *self) {
    eager_rank *rank = &self->rank;
    int64_t ids[PARAMS] = {0, 1, 2};
    CHECK_OK(tsr_zero_start_forward(rank->zero));
    CHECK_OK(tsr_zero_prefetch_params_fused(rank->zero, ids, NULL, PARAMS,
                                            rank->stream));
    for (int p = 0; p < PARAMS; p++) {
        gather_param(rank, 1, &self->params[p], TSR_F32);
        wait_param(rank, 1, &self->params[p]);
        release_param(rank, 1, &self->params[p], 1);
    }
    for (int t = 0; t < TENSORS; t++) {
        CHECK_OK(tsr_zero_offload_tensor(
            rank->zero, 1, t, self->tensors[t]->memory, self->tensors[t]->bytes,
            rank->stream, NULL));
        CHECK_OK(tsr_zero_wait_offload(rank->zero, 1, t, rank->stream));
    }
    CHECK_OK(tsr_zero_end_forward(rank->zero));
}

static void backward(looper *self, int step) {
    eager_rank *rank = &self->rank;
    void *back;
    CHECK_OK(tsr_zero_start_backward(rank->zero, step % 3 == 2));
    for (int t = TENSORS; t-- > 0;) {
        CHECK_OK(tsr_zero_reload_tensor(rank->zero, 1, t, rank->stream, &back));
        CHECK_OK(
            tsr_zero_wait_reload(rank->zero, 1, t, NULL, rank->stream, &back));
        if (t > 0 || step % 10)
            CHECK_OK(tsr_zero_free_tensors(rank->zero, &back, 1, rank->stream));
    }
    for (int p = 0; p < PARAMS; p++) {
        void *grad = self->params[p].gradient;
        gather_param(rank, 2, &self->params[p], TSR_BF16);
        if (step % 2)
            CHECK_OK(tsr_zero_grad_slot(rank->zero, 1, p, rank->stream, &grad));
        CHECK_OK(tsr_zero_reduce_grad(rank->zero, 1, p, grad, rank->stream));
    }
    if (step % 7 == 6) {
        CHECK_OK(tsr_zero_grad_slot(rank->zero, 1, 0, rank->stream, &back));
        CHECK_OK(tsr_zero_abort_step(rank->zero, rank->stream));
        return;
    }
    for (int p = 0; p < PARAMS; p++)
        release_param(rank, 2, &self->params[p], 1);
    CHECK_OK(tsr_zero_end_backward(rank->zero, rank->stream));
}

/* Registered anew now and then, which ends what was left over. */
static void between(looper *self, int step) {
    eager_rank *rank = &self->rank;
    int64_t ids[PARAMS] = {0, 1, 2};
    CHECK_OK(tsr_zero_offload_parameter(rank->zero, 0, rank->stream));
    CHECK_OK(tsr_zero_reload_parameter(rank->zero, 0, rank->stream));
    CHECK_OK(tsr_zero_weights_changed(rank->zero, ids, PARAMS, rank->stream));
    if (step % 10 == 9)
        for (int graph = 1; graph <= 2; graph++)
            CHECK_OK(tsr_zero_register_graph(rank->zero, graph, ids, PARAMS));
    if (step % 50 == 49)
        CHECK_OK(tsr_zero_register_param(rank->zero, &self->params[1].desc,
                                         rank->stream));
}

static void open_looper(looper *self, const rank_context *context) {
    int64_t ids[PARAMS] = {0, 1, 2};
    *self = (looper){0};
    rank_open(&self->rank, context,
              &(rank_options){
                  .settings = {.bucket_bytes = 512,
                               .host_bytes = 1 << 20,
                               .double_buffer = true,
                               .symmetric_memory = *(bool *)context->argument},
                  .kind = TSR_STREAM_QUEUED,
                  .device_memory = true});
    for (int p = 0; p < PARAMS; p++) {
        self->params[p] = param_of(p, 7 + 60 * p, 3);
        param_register(&self->rank, &self->params[p]);
    }
    for (int graph = 1; graph <= 2; graph++)
        CHECK_OK(tsr_zero_register_graph(self->rank.zero, graph, ids, PARAMS));
    for (int t = 0; t < TENSORS; t++)
        self->tensors[t] =
            make_tensor(&self->list, self->rank.stream,
                        1000 + 500 * (size_t)(t / 2), (unsigned)t, false);
}

static long heap_now(void) {
#if defined(HEAP_COUNTS)
    return atomic_load(&heap_outstanding);
#else
    return 0;
#endif
}

static void check_same(const footprint *a, const footprint *b) {
#define SAME(field)                                                            \
    CHECK_MESSAGE(a->field == b->field, #field ": %lld, then %lld",            \
                  (long long)a->field, (long long)b->field)
    SAME(held.gathered);
    SAME(held.buckets);
    SAME(held.reloaded);
    SAME(held.host);
    SAME(held.host_pool);
    SAME(events);
    SAME(reloads);
    SAME(pool);
    SAME(copies);
    SAME(queued);
    SAME(live);
    SAME(streams);
#undef SAME
    CHECK(b->queued == 0);
}

/* Works that are kept are as many as were once in flight, which differs from
 * run to run: so many bytes of them are no growth. 36 a step would be. */
enum { SLACK = 32 << 10 };

static void grows(rank_context *context) {
    looper self;
    footprint warm = {0};
    long heap = 0;
    open_looper(&self, context);
    for (int step = 0; step < LAST; step++) {
        forward(&self);
        backward(&self, step);
        between(&self, step);
        rank_sync(&self.rank);
        if (step + 1 == WARM) {
            CHECK_OK(tsr_comm_barrier(self.rank.gather_comm, self.rank.stream));
            rank_sync(&self.rank);
            warm = footprint_of(&self.rank);
            heap = heap_now();
        }
    }
    CHECK_OK(tsr_comm_barrier(self.rank.gather_comm, self.rank.stream));
    rank_sync(&self.rank);
    footprint end = footprint_of(&self.rank);
    check_same(&warm, &end);
    CHECK_MESSAGE(heap_now() <= heap + SLACK, "%ld bytes, then %ld", heap,
                  heap_now());
    rank_close(&self.rank);
    for (int p = 0; p < PARAMS; p++)
        param_release(&self.params[p]);
    chunks_free(&self.list);
}

int main(void) {
    run_threads(1, grows, &(bool){false});
    run_threads(2, grows, &(bool){true});
    return 0;
}
