/* What goes wrong in the runtime that this one stands in for, one function a
 * defect: each shows the right behaviour. */
#include <stdatomic.h>
#include <sys/mman.h>

#include "zero/eager_host.h"

/* Rank 0 goes first; the others wait for it without a collective. */
static atomic_int passed;

static void first_rank_first(const eager_rank *rank, int point) {
    if (rank->rank == 0)
        atomic_store(&passed, point);
    while (atomic_load(&passed) < point)
        sleep_ms(1);
}

static void open_two(eager_rank *rank, const rank_context *context,
                     const rank_options *options, test_param *two) {
    int64_t ids[2] = {4, 5};
    rank_open(rank, context, options);
    for (int p = 0; p < 2; p++)
        param_register(rank, &two[p]);
    for (int graph = 1; graph <= 2; graph++)
        CHECK_OK(tsr_zero_register_graph(rank->zero, graph, ids, 2));
}

static void close_two(eager_rank *rank, test_param *two) {
    rank_close(rank);
    param_release(&two[0]);
    param_release(&two[1]);
}

static const rank_options queued = {.kind = TSR_STREAM_QUEUED};

/* 1. The gradient ends where its page ends; its shards are longer. */
static void reads_past_uneven_gradient(rank_context *context) {
    eager_rank rank;
    test_param two[2] = {param_of(4, 5, 1), param_of(5, 7, 1)};
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *pages;
    open_two(&rank, context, &queued, two);
    CHECK_OK(tsr_os_map(2 * page, true, &pages));
    CHECK(mprotect((char *)pages + page, page, PROT_NONE) == 0);
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    for (int p = 0; p < 2; p++) {
        float *grad = (float *)(void *)((char *)pages + page) - two[p].numel;
        for (int64_t i = 0; i < two[p].numel; i++)
            grad[i] = grad_value(rank.rank, 4 + p, 0, i);
        CHECK_OK(tsr_zero_reduce_grad(rank.zero, 1, 4 + p, grad, rank.stream));
        end_backward(&rank);
    }
    check_grad(&rank, &two[0], 1, 1 / (float)rank.world);
    check_grad(&rank, &two[1], 1, 1 / (float)rank.world);
    rank_sync(&rank);
    tsr_os_unmap(pages, 2 * page);
    close_two(&rank, two);
}

/* 2. The cast reads the shard after its writer, into memory that lives until
 * the group has run; each parameter has its own dtype. */
static void fused_prefetch_casts_too_early(rank_context *context) {
    eager_rank rank;
    test_param two[2] = {param_of(4, 50, 3), param_of(5, 7, 3)};
    open_two(&rank, context, &queued, two);
    test_param written[2];
    for (int p = 0; p < 2; p++) {
        written[p] = two[p];
        written[p].shard_memory = some_memory(two[p].shard);
        param_write(&rank, &written[p], 3);
    }
    CHECK_OK(tsr_stream_enqueue(rank.stream, dawdle, NULL));
    for (int p = 0; p < 2; p++)
        CHECK_OK(tsr_stream_copy(rank.stream, two[p].shard_memory,
                                 written[p].shard_memory,
                                 (size_t)two[p].shard * sizeof(float)));
    CHECK_OK(tsr_zero_prefetch_params_fused(rank.zero, (int64_t[]){4, 5},
                                            (tsr_dtype[]){TSR_BF16, TSR_F16}, 2,
                                            rank.stream));
    check_held(&rank, copy_bytes(&rank, &two[0], TSR_BF16) +
                          copy_bytes(&rank, &two[1], TSR_F16));
    two[0].version = two[1].version = 3;
    use_param(&rank, 1, &two[0], TSR_BF16);
    use_param(&rank, 1, &two[1], TSR_F16);
    check_held(&rank, 0);
    for (int p = 0; p < 2; p++)
        free(written[p].shard_memory);
    close_two(&rank, two);
}

/* 3. As many elements, another dtype: another copy. Another registration:
 * another copy, another gradient. */
static void reuse_checks_only_the_count(rank_context *context) {
    eager_rank rank;
    test_param two[2] = {param_of(4, 5, 3), param_of(5, 7, 3)};
    open_two(&rank, context, &queued, two);
    tsr_view wide = gather_param(&rank, 1, &two[0], TSR_F32);
    tsr_view narrow = gather_param(&rank, 2, &two[0], TSR_BF16);
    CHECK(wide.data != narrow.data);
    wait_param(&rank, 1, &two[0]);
    wait_param(&rank, 2, &two[0]);
    check_view(&rank, &two[0], &wide, 0);
    check_view(&rank, &two[0], &narrow, 0);
    release_param(&rank, 2, &two[0], 1);
    rank_sync(&rank);
    param_write(&rank, &two[0], 1);
    CHECK_OK(tsr_zero_register_param(rank.zero, &two[0].desc, rank.stream));
    tsr_view again = gather_param(&rank, 2, &two[0], TSR_F32);
    CHECK(again.data != wide.data);
    wait_param(&rank, 2, &two[0]);
    check_view(&rank, &two[0], &again, 1);
    two[0].desc.communicated_dtype = TSR_BF16;
    for (int round = 0; round < 2; round++) { /* f32 slots become bf16 ones */
        CHECK_OK(tsr_zero_start_backward(rank.zero, true));
        reduce_call(&rank, 1, &two[1], round);
        end_backward(&rank);
        check_grad(&rank, &two[1], 1u << round, 1 / (float)rank.world);
        two[1].desc.communicated_dtype = TSR_BF16;
        CHECK_OK(tsr_zero_register_param(rank.zero, &two[1].desc, rank.stream));
    }
    close_two(&rank, two);
}

/* 4. Copies are as valid as the weights are old; backward has no say. */
static void valid_follows_the_end_of_backward(rank_context *context) {
    eager_rank rank;
    test_param two[2] = {param_of(4, 5, 3), param_of(5, 7, 3)};
    open_two(&rank, context, &queued, two);
    tsr_view before = gather_param(&rank, 1, &two[0], TSR_F32);
    for (int micro = 0; micro < 2; micro++) {
        CHECK_OK(tsr_zero_start_backward(rank.zero, micro == 1));
        reduce_call(&rank, 1, &two[0], micro);
        end_backward(&rank);
        tsr_view after = gather_param(&rank, 1, &two[0], TSR_F32);
        CHECK(after.data == before.data); /* nobody wrote the weights */
    }
    rank_sync(&rank);
    param_write(&rank, &two[0], 1); /* an optimizer, or a checkpoint */
    CHECK_OK(
        tsr_zero_weights_changed(rank.zero, (int64_t[]){4}, 1, rank.stream));
    use_param(&rank, 2, &two[0], TSR_F32); /* an evaluation */
    use_param(&rank, 1, &two[0], TSR_F32); /* the next forward */
    check_held(&rank, 0);
    close_two(&rank, two);
}

/* 5. Over graphs and within one bucket gradients add; what has none is 0. */
static void accumulation_flags_of_executors(rank_context *context) {
    eager_rank rank;
    test_param two[2] = {param_of(4, 5, 3), param_of(5, 7, 3)};
    open_two(&rank, context, &queued, two);
    for (int round = 0; round < 2; round++) {
        CHECK_OK(tsr_zero_start_backward(rank.zero, true));
        reduce_call(&rank, 1, &two[0], 0);
        reduce_call(&rank, 1, &two[0], 1); /* the same again */
        reduce_call(&rank, 2, &two[0], 2); /* in another graph */
        if (round == 0)
            reduce_call(&rank, 2, &two[1], 3);
        end_backward(&rank);
        check_grad(&rank, &two[0], 7, 1 / (float)rank.world);
        check_grad(&rank, &two[1], round == 0 ? 8 : 0, 1 / (float)rank.world);
    }
    close_two(&rank, two);
}

/* 6. Graph 2 waits for what graph 1 gathered, on a stream of its own; neither
 * frees under the other; after an exception the counts are fresh. */
static void events_of_executors(rank_context *context) {
    eager_rank rank;
    test_param two[2] = {param_of(4, 50, 3), param_of(5, 7, 3)};
    tsr_stream *other;
    tsr_view view;
    void *seen = some_memory(150);
    open_two(&rank, context, &queued, two);
    CHECK_OK(
        tsr_stream_create(rank.device, TSR_STREAM_QUEUED, "other", 0, &other));
    CHECK_OK(tsr_stream_enqueue(rank.stream, dawdle, NULL));
    gather_param(&rank, 1, &two[0], TSR_F32); /* late: after the dawdling */
    CHECK_OK(tsr_zero_allgather_param(rank.zero, 2, 4, TSR_F32, other, &view));
    release_param(&rank, 1, &two[0], 1);
    CHECK_OK(tsr_zero_wait_allgather(rank.zero, 2, 4, other));
    CHECK_OK(tsr_stream_enqueue(other, dawdle, NULL));
    CHECK_OK(tsr_stream_copy(other, seen, view.data, 150 * sizeof(float)));
    CHECK_OK(tsr_zero_release_param(rank.zero, 2, 4, 1, other));
    check_held(&rank, 0);
    rank_sync(&rank);
    CHECK_OK(tsr_stream_synchronize(other));
    for (int64_t i = 0; i < 150; i++)
        CHECK(fabsf(get_element(seen, TSR_F32, (size_t)i) -
                    weight_value(4, 0, i)) <= 0);
    gather_param(&rank, 1, &two[0], TSR_F32);
    release_param(&rank, 1, &two[0], 3); /* two are still to come */
    CHECK_OK(tsr_zero_abort_step(rank.zero, rank.stream));
    check_held(&rank, 0);
    use_param(&rank, 1, &two[0], TSR_F32); /* one user */
    check_held(&rank, 0);
    tsr_zero_release(rank.zero);
    rank.zero = NULL;
    tsr_stream_release(other);
    free(seen);
    close_two(&rank, two);
}

/* 7. A graph that fills the bucket flushes the other graph's slots too. */
static void swap_loses_slots(rank_context *context) {
    eager_rank rank;
    test_param two[2] = {param_of(4, 5, 3), param_of(5, 70, 3)};
    rank_options options = queued;
    options.settings.bucket_bytes = 256;
    options.settings.double_buffer = true;
    open_two(&rank, context, &options, two);
    for (int round = 0; round < 3; round++) {
        CHECK_OK(tsr_zero_start_backward(rank.zero, true));
        for (int call = 0; call < 3; call++) {
            reduce_call(&rank, 1, &two[0], call);
            reduce_call(&rank, 2, &two[1], call);
        }
        end_backward(&rank);
        check_grad(&rank, &two[0], 7, 1 / (float)rank.world);
        check_grad(&rank, &two[1], 7, 1 / (float)rank.world);
    }
    close_two(&rank, two);
}

static void open_host(eager_rank *rank, const rank_context *context) {
    rank_options options = queued;
    options.settings.host_bytes = 1 << 20;
    rank_open(rank, context, &options);
    CHECK_OK(tsr_zero_register_graph(rank->zero, 1, NULL, 0));
}

/* 8. The tensor's memory is reused, on a stream that has nothing else to do,
 * while its copy is held up by an earlier one: only wait_offload keeps the two
 * apart. */
static void source_freed_while_the_copy_flies(rank_context *context) {
    eager_rank rank;
    chunk_list list = {0};
    tsr_stream *other;
    chunk *seen[8];
    void *back;
    open_host(&rank, context);
    CHECK_OK(
        tsr_stream_create(rank.device, TSR_STREAM_QUEUED, "other", 0, &other));
    for (unsigned i = 0; i < 8; i++) {
        chunk *late = make_tensor(&list, rank.stream, 10, 99, true);
        chunk *at = make_tensor(&list, other, 5000, i, false);
        CHECK_OK(tsr_zero_offload_tensor(rank.zero, 1, 2, late->memory, 10,
                                         rank.stream, NULL));
        CHECK_OK(tsr_zero_offload_tensor(rank.zero, 1, 1, at->memory, 5000,
                                         other, NULL));
        CHECK_OK(tsr_zero_wait_offload(rank.zero, 1, 1, other));
        spoil(other, at);
        CHECK_OK(tsr_zero_reload_tensor(rank.zero, 1, 1, rank.stream, &back));
        CHECK_OK(tsr_zero_wait_reload(rank.zero, 1, 1, NULL, other, &back));
        seen[i] = see(&list, other, back, 5000, i);
        CHECK_OK(tsr_zero_free_tensors(rank.zero, &back, 1, other));
    }
    rank_sync(&rank);
    CHECK_OK(tsr_stream_synchronize(other));
    for (int i = 0; i < 8; i++)
        check_seen(seen[i]);
    tsr_zero_release(rank.zero);
    rank.zero = NULL;
    tsr_stream_release(other);
    rank_close(&rank);
    chunks_free(&list);
}

/* 8. What the host has it is not given again: a shard that was spoilt behind
 * everybody's back is as before when it has been away. */
static void unchanged_weights_are_copied(rank_context *context) {
    eager_rank rank;
    test_param two[2] = {param_of(4, 5, 3), param_of(5, 7, 3)};
    rank_options options = queued;
    options.settings.host_bytes = 1 << 20;
    open_two(&rank, context, &options, two);
    for (int round = 0; round < 3; round++) {
        CHECK_OK(tsr_zero_offload_parameter(rank.zero, 4, rank.stream));
        CHECK_OK(tsr_zero_reload_parameter(rank.zero, 4, rank.stream));
        use_param(&rank, 1, &two[0], TSR_F32);
        CHECK_OK(tsr_stream_synchronize(rank.stream));
        memset(two[0].shard_memory, SPOILED,
               (size_t)two[0].shard * sizeof(float));
    }
    close_two(&rank, two);
}

/* 8. One after the other is brought back, read and freed within a backward:
 * never more than one is there. */
static void reloads_live_to_the_end_of_backward(rank_context *context) {
    eager_rank rank;
    chunk_list list = {0};
    void *back;
    open_host(&rank, context);
    for (int64_t id = 0; id < 10; id++) {
        chunk *at = make_tensor(&list, rank.stream, 4000, (unsigned)id, false);
        CHECK_OK(tsr_zero_offload_tensor(rank.zero, 1, id, at->memory, 4000,
                                         rank.stream, NULL));
    }
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    for (int64_t id = 10; id-- > 0;) {
        CHECK_OK(tsr_zero_reload_tensor(rank.zero, 1, id, rank.stream, &back));
        CHECK(rank.heap.live == 4000);
        CHECK_OK(
            tsr_zero_wait_reload(rank.zero, 1, id, NULL, rank.stream, &back));
        CHECK_OK(tsr_zero_free_tensors(rank.zero, &back, 1, rank.stream));
        CHECK(rank.heap.live == 0);
    }
    CHECK_OK(tsr_zero_end_backward(rank.zero, rank.stream));
    rank_sync(&rank);
    rank_close(&rank);
    chunks_free(&list);
}

/* 8. An id whose tensor grows and shrinks. */
static void host_buffers_keep_the_first_shape(rank_context *context) {
    static const size_t sizes[] = {100, 3000, 50, 3000, 101};
    eager_rank rank;
    chunk_list list = {0};
    void *back;
    open_host(&rank, context);
    for (unsigned i = 0; i < 5; i++) {
        chunk *at = make_tensor(&list, rank.stream, sizes[i], i, false);
        CHECK_OK(tsr_zero_offload_tensor(rank.zero, 1, 1, at->memory, sizes[i],
                                         rank.stream, NULL));
        CHECK(tsr_zero_memory_held(rank.zero).host == sizes[i]);
        if (i % 2 == 0)
            continue; /* replaced on the host */
        CHECK_OK(tsr_zero_reload_tensor(rank.zero, 1, 1, rank.stream, &back));
        CHECK(rank.heap.live == sizes[i]);
        CHECK_OK(
            tsr_zero_wait_reload(rank.zero, 1, 1, NULL, rank.stream, &back));
        chunk *seen = see(&list, rank.stream, back, sizes[i], i);
        CHECK_OK(tsr_zero_free_tensors(rank.zero, &back, 1, rank.stream));
        rank_sync(&rank);
        check_seen(seen);
    }
    rank_close(&rank);
    chunks_free(&list);
}

/* 9. A rank that fails within a group says so; the others are told. */
static void an_error_hangs_the_others(rank_context *context) {
    eager_rank rank;
    test_param two[2] = {param_of(4, 5, 3), param_of(5, 7, 3)};
    open_two(&rank, context, &queued, two);
    CHECK_OK(tsr_zero_seal(rank.zero, rank.stream));
    bool culprit = context->rank == context->world - 1;
    if (culprit)
        CHECK_OK(tsr_zero_update_param_shard(rank.zero, 5, (tsr_tensor){0}));
    tsr_status status = tsr_zero_prefetch_params_fused(
        rank.zero, (int64_t[]){4, 5}, NULL, 2, rank.stream);
    if (status == TSR_OK)
        status = tsr_zero_synchronize(rank.zero);
    CHECK_MESSAGE(status == (culprit ? TSR_INVALID_ARGUMENT : TSR_UNAVAILABLE),
                  "%s", tsr_last_error());
    CHECK(strstr(tsr_last_error(), "parameter 5: shard is NULL"));
    CHECK_FAILS(tsr_zero_prefetch_params_fused(rank.zero, (int64_t[]){4, 5},
                                               (tsr_dtype[]){TSR_F16, TSR_F16},
                                               2, rank.stream),
                TSR_UNAVAILABLE, "gave up: parameter 5: shard is NULL");
    CHECK_FAILS(tsr_zero_end_backward(rank.zero, rank.stream), TSR_UNAVAILABLE,
                "shard is NULL");
    close_two(&rank, two);
}

/* 10. Registering waits for nobody, however many there are; sizes are compared
 * where they may differ. */
static void a_collective_for_each_parameter(rank_context *context) {
    enum { MANY = 200 };
    eager_rank rank;
    test_param params[MANY];
    rank_open(&rank, context, &queued);
    if (rank.rank > 0)
        first_rank_first(&rank, 1);
    for (int p = 0; p < MANY; p++) {
        params[p] = param_of(p, 1 + p % 5, 3);
        if (p == 150 && rank.rank == 1)
            params[p].desc.type.shape[1]++;
        param_register(&rank, &params[p]);
    }
    if (rank.rank == 0)
        first_rank_first(&rank, 1);
    CHECK_FAILS(tsr_zero_seal(rank.zero, rank.stream), TSR_FAILED_PRECONDITION,
                "ranks 0 and 1 registered parameter 150");
    rank_close(&rank);
    for (int p = 0; p < MANY; p++)
        param_release(&params[p]);
}

/* 11. Compute does not wait for a reduce, not even for both buckets' ones;
 * buckets are kept from one backward to the next. */
static void compute_waits_for_reduces(rank_context *context) {
    eager_rank rank;
    test_param two[2] = {param_of(4, 5, 3), param_of(5, 70, 3)};
    rank_options options = queued;
    options.settings.bucket_bytes = 64;
    options.settings.double_buffer = true;
    open_two(&rank, context, &options, two);
    CHECK_OK(tsr_zero_seal(rank.zero, rank.stream));
    int allocs = 0;
    for (int step = 0; step < 4; step++) {
        CHECK_OK(tsr_zero_start_backward(rank.zero, true));
        if (rank.rank > 0)
            first_rank_first(&rank, 10 + step);
        for (int call = 0; call < 4; call++)
            CHECK_OK(tsr_zero_reduce_grad(rank.zero, 1, 4 + call % 2,
                                          two[call % 2].gradient, rank.stream));
        CHECK_OK(tsr_stream_synchronize(rank.stream)); /* without peers */
        if (rank.rank == 0)
            first_rank_first(&rank, 10 + step);
        end_backward(&rank);
        if (step == 1)
            allocs = rank.heap.allocs;
    }
    CHECK(rank.heap.allocs == allocs);
    close_two(&rank, two);
}

/* 11. Stage 1 keeps to itself until the last micro-step. */
static void every_micro_batch_reduces(rank_context *context) {
    eager_rank rank;
    test_param two[2] = {param_of(4, 5, 3), param_of(5, 70, 3)};
    rank_options options = queued;
    options.settings.stage = 1;
    options.settings.bucket_bytes = 64;
    open_two(&rank, context, &options, two);
    CHECK_OK(tsr_zero_seal(rank.zero, rank.stream));
    if (rank.rank > 0)
        first_rank_first(&rank, 20);
    for (int micro = 0; micro < 3; micro++) { /* without peers */
        CHECK_OK(tsr_zero_start_backward(rank.zero, false));
        reduce_call(&rank, 1, &two[0], micro);
        reduce_call(&rank, 1, &two[1], micro);
        end_backward(&rank);
    }
    if (rank.rank == 0)
        first_rank_first(&rank, 20);
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    reduce_call(&rank, 1, &two[0], 3);
    end_backward(&rank);
    check_grad(&rank, &two[0], 15, 1 / (float)rank.world);
    check_grad(&rank, &two[1], 7, 1 / (float)rank.world);
    close_two(&rank, two);
}

/* 11. Buckets are reduced in the order of the calls: same bits each time,
 * whatever the ids, the delays and the order of registration. */
static void flush_order_follows_a_map(rank_context *context) {
    float first[2][64];
    for (int run = 0; run < 3; run++) {
        eager_rank rank;
        test_param two[2] = {param_of(4, 5, 3), param_of(5, 7, 3)};
        rank_options options = queued;
        options.settings.bucket_bytes = 128;
        options.delay_seed = (uint64_t)run;
        options.max_delay_us = 200;
        open_two(&rank, context, &options, two);
        CHECK_OK(tsr_zero_start_backward(rank.zero, true));
        for (int call = 0; call < 6; call++) {
            test_param *param = &two[call % 2];
            for (int64_t i = 0; i < param->numel; i++) /* sums that round */
                ((float *)param->gradient)[i] =
                    powf(3.0f, (float)((call * 7 + i + rank.rank) % 11)) / 7;
            CHECK_OK(tsr_zero_reduce_grad(rank.zero, 1, param->desc.id,
                                          param->gradient, rank.stream));
            rank_sync(&rank);
        }
        end_backward(&rank);
        for (int p = 0; p < 2; p++) {
            size_t bytes = (size_t)two[p].shard * sizeof(float);
            if (run == 0)
                memcpy(first[p], two[p].grad_memory, bytes);
            CHECK(memcmp(first[p], two[p].grad_memory, bytes) == 0);
        }
        close_two(&rank, two);
    }
}

/* 12. Nobody calls start_forward, and the buckets are shared all the same. */
static void symmetric_path_waits_for_start_forward(rank_context *context) {
    eager_rank rank;
    test_param two[2] = {param_of(4, 5, 3), param_of(5, 7, 3)};
    rank_options options = queued;
    options.settings.symmetric_memory = true;
    options.settings.bucket_bytes = 4096;
    open_two(&rank, context, &options, two);
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    reduce_call(&rank, 1, &two[0], 0);
    CHECK(tsr_zero_memory_held(rank.zero).buckets == 4096);
    CHECK(rank.heap.live == 0); /* none of it is private */
    end_backward(&rank);
    check_grad(&rank, &two[0], 1, 1 / (float)rank.world);
    CHECK_OK(tsr_zero_start_forward(rank.zero)); /* nor do they disturb */
    use_param(&rank, 1, &two[1], TSR_F32);
    CHECK_OK(tsr_zero_end_forward(rank.zero));
    close_two(&rank, two);
}

/* 12. Gathers, of one group and of many parameters, far wider than the shared
 * memory, while a gradient waits in that; then a gradient that is wider. */
static void wide_gathers_overflow(rank_context *context) {
    enum { WIDE = 40 };
    eager_rank rank;
    test_param params[WIDE];
    int64_t ids[WIDE];
    rank_options options = queued;
    options.settings.symmetric_memory = true;
    options.settings.bucket_bytes = 128;
    rank_open(&rank, context, &options);
    for (int p = 0; p < WIDE; p++) {
        params[p] = param_of(p, p == 0 ? 5 : 200 + p, 3);
        param_register(&rank, &params[p]);
        ids[p] = p;
    }
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, ids, WIDE));
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    reduce_call(&rank, 1, &params[0], 0);
    CHECK_OK(tsr_zero_prefetch_params_fused(rank.zero, ids, NULL, WIDE,
                                            rank.stream));
    for (int p = 0; p < WIDE; p++)
        use_param(&rank, 1, &params[p], TSR_F32);
    reduce_call(&rank, 1, &params[WIDE - 1], 1);
    reduce_call(&rank, 1, &params[0], 2);
    end_backward(&rank);
    check_grad(&rank, &params[0], 5, 1 / (float)rank.world);
    check_grad(&rank, &params[WIDE - 1], 2, 1 / (float)rank.world);
    tsr_zero_memory held = tsr_zero_memory_held(rank.zero);
    CHECK(held.gathered == 0 && held.buckets == rank.heap.live + 128);
    rank_close(&rank);
    for (int p = 0; p < WIDE; p++)
        param_release(&params[p]);
}

int main(void) {
    run_threads(3, reads_past_uneven_gradient, NULL);
    run_threads(3, fused_prefetch_casts_too_early, NULL);
    run_threads(2, reuse_checks_only_the_count, NULL);
    run_threads(2, valid_follows_the_end_of_backward, NULL);
    run_threads(3, accumulation_flags_of_executors, NULL);
    run_threads(2, events_of_executors, NULL);
    run_threads(2, swap_loses_slots, NULL);
    run_threads(1, source_freed_while_the_copy_flies, NULL);
    run_threads(3, unchanged_weights_are_copied, NULL);
    run_threads(1, reloads_live_to_the_end_of_backward, NULL);
    run_threads(1, host_buffers_keep_the_first_shape, NULL);
    run_threads(3, an_error_hangs_the_others, NULL);
    run_threads(3, a_collective_for_each_parameter, NULL);
    run_threads(2, compute_waits_for_reduces, NULL);
    run_threads(3, every_micro_batch_reduces, NULL);
    run_threads(3, flush_order_follows_a_map, NULL);
    run_threads(3, symmetric_path_waits_for_start_forward, NULL);
    run_processes(2, symmetric_path_waits_for_start_forward, NULL);
    run_threads(3, wide_gathers_overflow, NULL);
    run_processes(2, wide_gathers_overflow, NULL);
    return 0;
}
