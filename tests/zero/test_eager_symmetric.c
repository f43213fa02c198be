/* The eager front with symmetric buckets: the same bits, read where they lie,
 * beside whatever else is shared. */
#include "comm/backend.h"
#include "comm/host.h"
#include "zero/eager_rank.h"

enum { PARAMS = 4, CALLS = 9, BUCKET = 512 };

static const int64_t rows[PARAMS] = {1, 13, 40, 97}; /* the last is too large */

static void open_params(eager_rank *rank, const rank_context *context,
                        const rank_options *options, test_param *params) {
    static const tsr_dtype dtypes[PARAMS] = {TSR_F32, TSR_BF16, TSR_F32,
                                             TSR_F16};
    int64_t ids[PARAMS];
    rank_open(rank, context, options);
    for (int p = 0; p < PARAMS; p++) {
        params[p] = param_of(p, rows[p], 3);
        params[p].desc.communicated_dtype = dtypes[p];
        param_register(rank, &params[p]);
        ids[p] = p;
    }
    CHECK_OK(tsr_zero_register_graph(rank->zero, 1, ids, PARAMS));
}

static void close_params(eager_rank *rank, test_param *params) {
    rank_close(rank);
    for (int p = 0; p < PARAMS; p++)
        param_release(&params[p]);
}

static rank_options with(bool symmetric, bool twice) {
    return (rank_options){.settings = {.bucket_bytes = BUCKET,
                                       .double_buffer = twice,
                                       .symmetric_memory = symmetric},
                          .kind = TSR_STREAM_QUEUED,
                          .delay_seed = 9,
                          .max_delay_us = 50};
}

/* Steps of gradients whose sums round; `last`: parameters 0 to last. */
static void steps(eager_rank *rank, test_param *params, int last) {
    for (int call = 0; call < CALLS; call++) {
        CHECK_OK(tsr_zero_start_backward(rank->zero, call % 3 == 2));
        for (int p = 0; p <= last; p++) {
            for (int64_t i = 0; i < params[p].numel; i++)
                set_element(
                    params[p].gradient, params[p].desc.communicated_dtype,
                    (size_t)i,
                    powf(3.0f, (float)((call + i + 5 * rank->rank) % 9)) / 7);
            CHECK_OK(tsr_zero_reduce_grad(rank->zero, 1, p, params[p].gradient,
                                          rank->stream));
            CHECK_OK(tsr_zero_wait_grads_copied(rank->zero, rank->stream));
            CHECK_OK(tsr_stream_synchronize(rank->stream)); /* written next */
        }
        end_backward(rank);
    }
}

/* ---- bits ---- */

static void same_bits(rank_context *context) {
    char *first[PARAMS];
    for (int run = 0; run < 4; run++) {
        eager_rank rank;
        test_param params[PARAMS];
        rank_options options = with(run > 0, run == 2);
        if (run == 3)
            options.kind = TSR_STREAM_INLINE;
        open_params(&rank, context, &options, params);
        steps(&rank, params, PARAMS - 1);
        for (int p = 0; p < PARAMS; p++) {
            size_t bytes = (size_t)params[p].shard * sizeof(float);
            if (run == 0) {
                first[p] = some_memory(params[p].shard);
                memcpy(first[p], params[p].grad_memory, bytes);
            }
            CHECK(memcmp(first[p], params[p].grad_memory, bytes) == 0);
        }
        close_params(&rank, params);
    }
    for (int p = 0; p < PARAMS; p++)
        free(first[p]);
}

/* ---- where gradients are read ---- */

enum { MARK = 0x5A };

/* This rank's staging slots, both of them. */
static bool marked(const eager_rank *rank, bool set) {
    tsr_host_comm *comm = (tsr_host_comm *)rank->reduce_comm;
    size_t bytes = tsr_host_slot_bytes(rank->world), touched = 0;
    for (int turn = 0; turn < 2; turn++, comm->turn ^= 1) {
        char *slot = tsr_host_slot(comm, rank->rank);
        if (set)
            memset(slot, MARK, bytes);
        for (size_t i = 0; i < bytes; i++)
            touched += slot[i] != MARK;
    }
    return touched == 0;
}

/* Between processes only what lies in shared memory is read in place. */
static void read_where_they_lie(rank_context *context) {
    bool symmetric = *(bool *)context->argument;
    eager_rank rank;
    test_param params[PARAMS];
    rank_options options = with(symmetric, true);
    open_params(&rank, context, &options, params);
    CHECK_OK(tsr_zero_seal(rank.zero, rank.stream));
    CHECK(marked(&rank, true));
    steps(&rank, params, PARAMS - 2);
    CHECK(marked(&rank, false) == symmetric);
    marked(&rank, true);
    steps(&rank, params, PARAMS - 1); /* with one from private memory */
    CHECK(!marked(&rank, false));
    close_params(&rank, params);
}

/* ---- memory ---- */

static size_t held(const eager_rank *rank) {
    check_held(rank, 0);
    return tsr_zero_memory_held(rank->zero).buckets;
}

/* check_held counts the heap: shared memory is none of it. */
static size_t shared_held(const eager_rank *rank) {
    return tsr_zero_memory_held(rank->zero).buckets - rank->heap.live;
}

static void formula(rank_context *context) {
    for (int twice = 0; twice < 2; twice++) {
        eager_rank rank;
        test_param params[PARAMS];
        rank_options options = with(true, twice);
        size_t shared = BUCKET * (size_t)(twice ? 2 : 1);
        open_params(&rank, context, &options, params);
        CHECK(held(&rank) == 0);
        CHECK_OK(tsr_zero_seal(rank.zero, rank.stream));
        CHECK(shared_held(&rank) == shared && rank.heap.live == 0);
        steps(&rank, params, PARAMS - 2);
        CHECK(shared_held(&rank) == shared && rank.heap.live == 0);
        steps(&rank, params, PARAMS - 1);
        CHECK(shared_held(&rank) == shared);
        size_t slot = (copy_bytes(&rank, &params[3], TSR_F16) + 63) / 64 * 64;
        CHECK(slot > BUCKET && rank.heap.live % slot == 0);
        CHECK(rank.heap.live >= slot &&
              rank.heap.live <= (size_t)(twice + 1) * slot);
        int allocs = rank.heap.allocs;
        steps(&rank, params, PARAMS - 1);
        CHECK(rank.heap.allocs <= allocs + 1); /* the other bucket's */
        close_params(&rank, params);
    }
}

/* ---- beside others ---- */

/* A caller with shared memory of its own, two at a time, one after the other:
 * nothing is used up. */
static void beside_others(rank_context *context) {
    eager_rank base, at[2];
    test_param params[2];
    void *mine;
    rank_open(&base, context, &(rank_options){.kind = TSR_STREAM_INLINE});
    CHECK_OK(tsr_comm_shared_alloc(base.gather_comm, 10000, &mine));
    memset((char *)mine + 3000 * context->rank, 1, 10);
    for (int round = 0; round < 12; round++) {
        for (int k = 0; k < 2; k++) {
            tsr_zero_options options = {
                .device = base.device,
                .gather_comm = base.gather_comm,
                .reduce_comm = base.reduce_comm,
                .kernels = base.kernels,
                .settings = {.stage = 3,
                             .bucket_bytes = 100 + 4096 * (size_t)round,
                             .symmetric_memory = true}};
            at[k] = base;
            at[k].heap = (eager_heap){0};
            params[k] = param_of(1, 7 + k, 3);
            CHECK_OK(tsr_zero_create(&options, &at[k].zero));
            param_register(&at[k], &params[k]);
            CHECK_OK(tsr_zero_register_graph(at[k].zero, 1, (int64_t[]){1}, 1));
            CHECK_OK(tsr_zero_start_backward(at[k].zero, true));
            reduce_call(&at[k], 1, &params[k], round);
        }
        for (int k = 0; k < 2; k++) {
            end_backward(&at[k]);
            check_grad(&at[k], &params[k], 1u << round, 1 / (float)base.world);
            tsr_zero_release(at[k].zero);
            param_release(&params[k]);
        }
    }
    CHECK_OK(tsr_comm_barrier(base.gather_comm, base.stream));
    CHECK(((char *)mine)[0] == 1);
    rank_close(&base);
}

/* ---- refusals ---- */

static void refused(rank_context *context) {
    eager_rank rank;
    tsr_zero *zero;
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_INLINE});
    tsr_zero_options options = {
        .device = rank.device,
        .gather_comm = rank.gather_comm,
        .reduce_comm = rank.reduce_comm,
        .kernels = rank.kernels,
        .settings = {.stage = 3, .symmetric_memory = true}};
    rank.reduce_comm->capabilities &= ~(unsigned)TSR_COMM_SHARED_MEMORY;
    CHECK_FAILS(tsr_zero_create(&options, &zero), TSR_UNSUPPORTED,
                "the ranks of the reduce communicator share no memory");
    CHECK(!zero);
    rank_close(&rank);
}

static void too_large(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    rank_options options = with(true, false);
    options.settings.bucket_bytes = (size_t)1 << 46;
    open_params(&rank, context, &options, params);
    for (int call = 0; call < 2; call++)
        CHECK_FAILS(tsr_zero_seal(rank.zero, rank.stream), TSR_OUT_OF_MEMORY,
                    "");
    CHECK(held(&rank) == 0);
    CHECK_OK(tsr_comm_poll(rank.reduce_comm, NULL)); /* the group lives on */
    close_params(&rank, params);
}

static void ranks_differ(rank_context *context) {
    eager_rank rank;
    test_param params[PARAMS];
    rank_options options = with(context->rank == 1, false);
    open_params(&rank, context, &options, params);
    CHECK_FAILS(tsr_zero_seal(rank.zero, rank.stream), TSR_FAILED_PRECONDITION,
                "symmetric_memory");
    close_params(&rank, params);
}

int main(void) {
    for (int world = 1; world <= 3; world++) {
        run_threads(world, same_bits, NULL);
        run_processes(world, same_bits, NULL);
        run_threads(world, formula, NULL);
        run_threads(world, beside_others, NULL);
        run_processes(world, beside_others, NULL);
        run_processes(world, too_large, NULL);
        run_threads(world, too_large, NULL);
    }
    run_processes(2, read_where_they_lie, &(bool){true});
    run_processes(3, read_where_they_lie, &(bool){true});
    run_processes(2, read_where_they_lie, &(bool){false});
    run_processes(3, formula, NULL);
    run_threads(1, refused, NULL);
    run_threads(2, ranks_differ, NULL);
    return 0;
}
