/* The eager front and memory of the caller that moves between calls: the
 * address of a tsr_tensor is read anew at each call, never kept. */
#include "zero/eager_rank.h"

/* What a tsr_tensor of the tests is: two places, one of which counts. */
typedef struct place {
    void *memory[2];
    int at;
} place;

static void *address_now(void *context) {
    const place *self = context;
    return self->memory[self->at];
}

static tsr_tensor tensor_of(place *self, void *first, int64_t count) {
    *self = (place){.memory = {first, some_memory(count)}};
    return (tsr_tensor){.address = address_now, .context = self};
}

/* The caller swaps: the contents go on, the old memory holds anything. */
static void swap(place *self, int64_t count) {
    size_t bytes = (size_t)count * sizeof(float);
    void *from = self->memory[self->at], *to = self->memory[1 - self->at];
    memcpy(to, from, bytes);
    memset(from, SPOILED, bytes);
    self->at = 1 - self->at;
}

static void check_spoiled(const void *memory, int64_t count) {
    const unsigned char *bytes = memory;
    for (size_t i = 0; i < (size_t)count * sizeof(float); i++)
        CHECK_MESSAGE(bytes[i] == SPOILED, "byte %zu was written", i);
}

static const int worlds[] = {1, 2, 3};

static void on_worlds(rank_body body, void *argument) {
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++)
        run_threads(worlds[w], body, argument);
}

/* Read as it is, cast, and in a group. */
static void moved_shard(rank_context *context) {
    eager_rank rank;
    test_param param = param_of(4, 7, 3);
    place shard;
    int64_t id = 4;
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_QUEUED});
    param_fill(&rank, &param);
    param.desc.shard = tensor_of(&shard, param.shard_memory, param.shard);
    CHECK_OK(tsr_zero_register_param(rank.zero, &param.desc, rank.stream));
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, &id, 1));
    for (int round = 0; round < 4; round++) {
        use_param(&rank, 1, &param, TSR_F32);
        use_param(&rank, 1, &param, TSR_BF16);
        CHECK_OK(tsr_zero_prefetch_params_fused(
            rank.zero, &id, (tsr_dtype[]){TSR_F16}, 1, rank.stream));
        use_param(&rank, 1, &param, TSR_F16);
        rank_sync(&rank); /* nobody reads the old place any more */
        swap(&shard, param.shard);
        CHECK_OK(tsr_zero_invalidate_gathered_param(rank.zero, id));
    }
    rank_close(&rank);
    free(shard.memory[1]);
    param_release(&param);
}

/* The buffer's value, wherever it is now. */
static void check_moved(eager_rank *rank, test_param *param, const place *grad,
                        unsigned calls) {
    param->grad_memory = grad->memory[grad->at];
    check_grad(rank, param, calls, 1 / (float)rank->world);
    check_spoiled(grad->memory[1 - grad->at], param->grad_count);
}

/* Written, added to and zeroed at the place of the call. */
static void moved_grad(rank_context *context) {
    eager_rank rank;
    test_param param = param_of(4, 7, 3);
    place grad;
    int64_t id = 4;
    rank_open(&rank, context,
              &(rank_options){.settings = {.stage = *(int *)context->argument},
                              .kind = TSR_STREAM_QUEUED});
    param_fill(&rank, &param);
    param.desc.grad = tensor_of(&grad, param.grad_memory, param.grad_count);
    CHECK_OK(tsr_zero_register_param(rank.zero, &param.desc, rank.stream));
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, &id, 1));
    for (int round = 0; round < 2; round++) {
        for (int micro = 0; micro < 2; micro++) {
            rank_sync(&rank);
            swap(&grad, param.grad_count);
            CHECK_OK(tsr_zero_start_backward(rank.zero, micro == 1));
            reduce_call(&rank, 1, &param, micro);
            end_backward(&rank);
        }
        check_moved(&rank, &param, &grad, 0x3);
        rank_sync(&rank);
        swap(&grad, param.grad_count);
        check_moved(&rank, &param, &grad, 0x3);
        CHECK_OK(tsr_zero_start_backward(rank.zero, true));
        end_backward(&rank); /* nothing came */
        check_moved(&rank, &param, &grad, 0);
    }
    rank_close(&rank);
    param.grad_memory = grad.memory[0];
    free(grad.memory[1]);
    param_release(&param);
}

int main(void) {
    on_worlds(moved_shard, NULL);
    for (int stage = 1; stage <= 3; stage++)
        on_worlds(moved_grad, &stage);
    return 0;
}
