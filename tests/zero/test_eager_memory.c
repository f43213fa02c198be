/* The eager front when one of two ranks runs out of memory, at each of its
 * allocations in collective calls: it says so, its peer is told who, and nobody
 * waits for the communicators' time-out. */
#include "base/memory.h"
#include "zero/eager_rank.h"

enum { STREAMS = 8, PATIENCE_MS = 100000 /* less than RANKS_ALARM */ };

/* Shared by the ranks, which are processes: tsr_alloc_fail_at counts over all
 * threads of one. */
typedef struct memory_case {
    int stage, culprit;
    long n;
    tsr_status ends[2]; /* out */
    char messages[2][TSR_MESSAGE_BYTES];
} memory_case;

typedef struct memory_rank {
    eager_rank base;
    test_param two[2];
    tsr_stream *streams[STREAMS]; /* each is new to the call that takes it */
} memory_rank;

static tsr_status gathers(memory_rank *self) {
    tsr_zero *zero = self->base.zero;
    tsr_view view;
    int64_t second = 5;
    TSR_TRY(
        tsr_zero_allgather_param(zero, 1, 4, TSR_F32, self->streams[0], &view));
    TSR_TRY(tsr_zero_allgather_param(zero, 1, 4, TSR_F32, self->streams[1],
                                     &view)); /* is valid, bound anew */
    TSR_TRY(tsr_zero_prefetch_params_fused(
        zero, &second, (tsr_dtype[]){TSR_BF16}, 1, self->streams[2]));
    return tsr_zero_set_persistent(zero, 5, self->streams[3]);
}

/* Collective calls, and start_backward. */
static tsr_status collective_calls(memory_rank *self) {
    tsr_zero *zero = self->base.zero;
    if (self->base.stage == 3)
        TSR_TRY(gathers(self));
    for (int micro = 0; micro < 2; micro++) {
        TSR_TRY(tsr_zero_start_backward(zero, micro == 1));
        for (int p = 0; p < 2; p++)
            TSR_TRY(tsr_zero_reduce_grad(zero, 1, 4 + p, self->two[p].gradient,
                                         self->streams[4 + micro]));
        TSR_TRY(tsr_zero_end_backward(zero, self->streams[6 + micro]));
    }
    return tsr_zero_synchronize(zero);
}

/* A call that waits for the other rank, whatever that failed at before. */
static tsr_status meet(memory_rank *self) {
    tsr_zero *zero = self->base.zero;
    TSR_TRY(tsr_zero_start_backward(zero, true));
    TSR_TRY(tsr_zero_reduce_grad(zero, 1, 4, self->two[0].gradient,
                                 self->streams[0]));
    TSR_TRY(tsr_zero_end_backward(zero, self->streams[0]));
    return tsr_zero_synchronize(zero);
}

static void open_rank(memory_rank *self, const rank_context *context,
                      int stage) {
    *self = (memory_rank){.two = {param_of(4, 5, 3), param_of(5, 70, 3)}};
    rank_open(&self->base, context,
              &(rank_options){.settings = {.stage = stage,
                                           .bucket_bytes = 128,
                                           .double_buffer = true},
                              .kind = TSR_STREAM_QUEUED,
                              .device_memory = true,
                              .timeout_ms = PATIENCE_MS});
    for (int p = 0; p < 2; p++)
        param_register(&self->base, &self->two[p]);
    CHECK_OK(tsr_zero_register_graph(self->base.zero, 1, (int64_t[]){4, 5}, 2));
    CHECK_OK(tsr_stream_synchronize(self->base.stream));
    for (int s = 0; s < STREAMS; s++)
        CHECK_OK(tsr_stream_create(self->base.device, TSR_STREAM_QUEUED, "more",
                                   0, &self->streams[s]));
}

static void close_rank(memory_rank *self) {
    tsr_zero_release(self->base.zero);
    self->base.zero = NULL;
    for (int s = 0; s < STREAMS; s++)
        tsr_stream_release(self->streams[s]);
    rank_close(&self->base);
    param_release(&self->two[0]);
    param_release(&self->two[1]);
}

static void out_of_memory(rank_context *context) {
    memory_case *at = context->argument;
    memory_rank self;
    char mine = 0, all[2];
    open_rank(&self, context, at->stage);
    if (context->rank == at->culprit)
        tsr_alloc_fail_at(at->n);
    tsr_status status = collective_calls(&self);
    tsr_alloc_fail_at(0);
    if (status == TSR_OK)
        status = meet(&self);
    at->ends[context->rank] = status;
    if (status != TSR_OK)
        snprintf(at->messages[context->rank], sizeof at->messages[0], "%s",
                 tsr_last_error());
    /* Nobody's leaving is what the other one hears of. */
    CHECK_OK(
        tsr_bootstrap_exchange(context->bootstrap, &mine, 1, all, PATIENCE_MS));
    close_rank(&self);
}

/* true: memory ran out. */
static bool check_ends(const memory_case *at) {
    char who[64];
    int peer = 1 - at->culprit;
    snprintf(who, sizeof who, "rank %d gave up", at->culprit);
    if (at->ends[0] == TSR_OK && at->ends[1] == TSR_OK)
        return false;
    CHECK_MESSAGE(at->ends[at->culprit] == TSR_OUT_OF_MEMORY,
                  "stage %d, allocation %ld: %s: %s", at->stage, at->n,
                  tsr_status_name(at->ends[at->culprit]),
                  at->messages[at->culprit]);
    CHECK_MESSAGE(at->ends[peer] == TSR_UNAVAILABLE &&
                      strstr(at->messages[peer], who),
                  "stage %d, allocation %ld, the peer: %s: %s", at->stage,
                  at->n, tsr_status_name(at->ends[peer]), at->messages[peer]);
    return true;
}

int main(void) {
    memory_case *at = shared_memory(sizeof *at);
    for (int stage = 1; stage <= 3; stage++) {
        long n = 0;
        do {
            n++;
            *at =
                (memory_case){.stage = stage, .culprit = (int)(n % 2), .n = n};
            run_processes(2, out_of_memory, at);
        } while (check_ends(at));
        printf("stage %d: memory ran out at %ld allocations\n", stage, n - 1);
        CHECK(n > 8); /* at least the events of the new streams */
    }
    return 0;
}
