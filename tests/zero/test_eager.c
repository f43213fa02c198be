/* The eager front, gathering: copies of every size and dtype, shared and
 * released, stale and gathered again. */
#include "zero/eager_rank.h"

static const int worlds[] = {1, 2, 3, 5};

static void on_worlds(rank_body body, void *argument) {
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++)
        run_threads(worlds[w], body, argument);
}

static void graph_of(eager_rank *rank, int64_t graph, test_param *params,
                     size_t count) {
    int64_t ids[64];
    for (size_t p = 0; p < count; p++)
        ids[p] = params[p].desc.id;
    CHECK_OK(tsr_zero_register_graph(rank->zero, graph, ids, count));
}

static void register_all(eager_rank *rank, test_param *params, size_t count) {
    for (size_t p = 0; p < count; p++)
        param_register(rank, &params[p]);
    graph_of(rank, 1, params, count);
    graph_of(rank, 2, params, count);
}

static void release_all(test_param *params, size_t count) {
    for (size_t p = 0; p < count; p++)
        param_release(&params[p]);
}

/* Sizes 0, 1, prime, even, of less than a rank; as every dtype, from each. */
static void sizes(rank_context *context) {
    static const tsr_dtype dtypes[] = {TSR_F32, TSR_BF16, TSR_F16};
    static const int64_t rows[] = {0, 1, 7, 4, 13}, granules[] = {0, 1, 4, 16};
    eager_rank rank;
    test_param params[60];
    size_t count = 0;
    rank_open(&rank, context,
              &(rank_options){.kind = TSR_STREAM_QUEUED,
                              .delay_seed = 5,
                              .max_delay_us = 20});
    for (size_t r = 0; r < 5; r++)
        for (size_t g = 0; g < 4; g++)
            for (size_t d = 0; d < 3; d++) {
                params[count] = param_of((int64_t)count * 3 + 1, rows[r], 3);
                params[count].desc.granule = granules[g];
                params[count++].desc.type.dtype = dtypes[d];
            }
    register_all(&rank, params, count);
    for (size_t p = 0; p < count; p++)
        for (size_t d = 0; d < 3; d++) {
            tsr_view view = gather_param(&rank, 1, &params[p], dtypes[d]);
            check_held(&rank, copy_bytes(&rank, &params[p], dtypes[d]));
            wait_param(&rank, 1, &params[p]);
            wait_param(&rank, 1, &params[p]); /* idempotent */
            check_view(&rank, &params[p], &view, 0);
            release_param(&rank, 1, &params[p], 1);
            check_held(&rank, 0);
        }
    rank_close(&rank);
    release_all(params, count);
}

static void shared_by_graphs(rank_context *context) {
    eager_rank rank;
    test_param param = param_of(4, 5, 3);
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_QUEUED});
    register_all(&rank, &param, 1);
    size_t bytes = copy_bytes(&rank, &param, TSR_F32);
    tsr_view one = gather_param(&rank, 1, &param, TSR_F32);
    tsr_view two = gather_param(&rank, 2, &param, TSR_F32);
    CHECK(one.data == two.data);
    check_held(&rank, bytes);
    tsr_view half = gather_param(&rank, 2, &param, TSR_BF16); /* rebinds 2 */
    check_held(&rank, bytes + bytes / 2);
    wait_param(&rank, 1, &param);
    wait_param(&rank, 2, &param);
    release_param(&rank, 1, &param, 3); /* first says 3 */
    release_param(&rank, 1, &param, 1);
    check_view(&rank, &param, &one, 0);
    check_held(&rank, bytes + bytes / 2);
    release_param(&rank, 1, &param, 1);
    check_held(&rank, bytes / 2);
    check_view(&rank, &param, &half, 0);
    release_param(&rank, 2, &param, 1);
    check_held(&rank, 0);
    one = gather_param(&rank, 1, &param, TSR_F32);
    two = gather_param(&rank, 2, &param, TSR_F32);
    release_param(&rank, 1, &param, 1);
    wait_param(&rank, 2, &param); /* gathered by graph 1 */
    check_view(&rank, &param, &two, 0);
    check_held(&rank, bytes);
    release_param(&rank, 2, &param, 1);
    check_held(&rank, 0);
    rank_close(&rank);
    param_release(&param);
}

static void versions(rank_context *context) {
    eager_rank rank;
    test_param param = param_of(4, 5, 3);
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_QUEUED});
    register_all(&rank, &param, 1);
    size_t bytes = copy_bytes(&rank, &param, TSR_F32);
    tsr_view old = gather_param(&rank, 1, &param, TSR_F32);
    wait_param(&rank, 1, &param);
    rank_sync(&rank); /* the gather has read the shard */
    param_write(&rank, &param, 1);
    CHECK_OK(
        tsr_zero_weights_changed(rank.zero, &param.desc.id, 1, rank.stream));
    check_view(&rank, &param, &old, 0); /* bound: stale, and there */
    check_held(&rank, bytes);
    tsr_view young = gather_param(&rank, 2, &param, TSR_F32);
    CHECK(young.data != old.data);
    check_held(&rank, 2 * bytes);
    wait_param(&rank, 2, &param);
    check_view(&rank, &param, &young, 1);
    check_view(&rank, &param, &old, 0);
    release_param(&rank, 1, &param, 1);
    check_held(&rank, bytes);
    tsr_view again = gather_param(&rank, 1, &param, TSR_F32);
    CHECK(again.data == young.data);
    CHECK_OK(tsr_zero_invalidate_gathered_param(rank.zero, 4));
    release_param(&rank, 1, &param, 1);
    check_held(&rank, bytes);
    release_param(&rank, 2, &param, 1);
    check_held(&rank, 0);
    use_param(&rank, 1, &param, TSR_F32);
    CHECK_OK(tsr_zero_prefetch_params_fused(rank.zero, &param.desc.id, NULL, 1,
                                            rank.stream));
    check_held(&rank, bytes); /* nobody is bound */
    CHECK_OK(tsr_zero_clear_all_gathered_params(rank.zero));
    check_held(&rank, 0);
    rank_close(&rank);
    param_release(&param);
}

static void persistent(rank_context *context) {
    eager_rank rank;
    test_param params[4];
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_INLINE});
    for (int p = 0; p < 4; p++)
        params[p] = param_of(10 + p, p, 3);
    params[1].desc.persistent = params[2].desc.persistent = true;
    params[2].desc.gathered_dtype = TSR_BF16;
    register_all(&rank, params, 4);
    check_held(&rank, 0);
    CHECK_OK(tsr_zero_seal(rank.zero, rank.stream));
    size_t bytes = copy_bytes(&rank, &params[1], TSR_F32) +
                   copy_bytes(&rank, &params[2], TSR_BF16);
    check_held(&rank, bytes);
    use_param(&rank, 1, &params[2], TSR_BF16);
    check_held(&rank, bytes);
    CHECK_OK(tsr_zero_invalidate_gathered_param(rank.zero, 11));
    CHECK_OK(tsr_zero_clear_all_gathered_params(rank.zero));
    check_held(&rank, bytes);
    CHECK_OK(tsr_zero_set_persistent(rank.zero, 13, rank.stream));
    bytes += copy_bytes(&rank, &params[3], TSR_F32);
    check_held(&rank, bytes);
    CHECK_OK(tsr_zero_set_persistent(rank.zero, 13, rank.stream));
    check_held(&rank, bytes);
    rank_sync(&rank);
    for (int p = 0; p < 4; p++)
        param_write(&rank, &params[p], 1);
    CHECK_OK(tsr_zero_weights_changed(rank.zero, (int64_t[]){10, 11, 12, 13}, 4,
                                      rank.stream));
    check_held(&rank, 0);
    for (int p = 1; p < 4; p++)
        use_param(&rank, 1, &params[p], params[p].desc.gathered_dtype);
    check_held(&rank, bytes);
    rank_close(&rank);
    release_all(params, 4);
}

static void prefetch(rank_context *context) {
    eager_rank rank;
    test_param params[4];
    rank_open(&rank, context,
              &(rank_options){.kind = TSR_STREAM_QUEUED,
                              .delay_seed = 9,
                              .max_delay_us = 100});
    for (int p = 0; p < 4; p++)
        params[p] = param_of(p, p + 2, 5);
    params[3].desc.type.dtype = TSR_BF16;
    register_all(&rank, params, 4);
    tsr_view first = gather_param(&rank, 1, &params[0], TSR_F32);
    static const int64_t ids[] = {0, 1, 2, 1, 3, 1, 3};
    static const tsr_dtype dtypes[] = {TSR_F32,  TSR_BF16, TSR_F16, TSR_BF16,
                                       TSR_BF16, TSR_F32,  TSR_F32};
    CHECK_OK(
        tsr_zero_prefetch_params_fused(rank.zero, ids, dtypes, 7, rank.stream));
    size_t bytes = copy_bytes(&rank, &params[0], TSR_F32) +
                   copy_bytes(&rank, &params[1], TSR_BF16) +
                   copy_bytes(&rank, &params[2], TSR_F16) +
                   copy_bytes(&rank, &params[3], TSR_BF16) +
                   copy_bytes(&rank, &params[1], TSR_F32) +
                   copy_bytes(&rank, &params[3], TSR_F32);
    check_held(&rank, bytes);
    CHECK_OK(
        tsr_zero_prefetch_params_fused(rank.zero, ids, dtypes, 7, rank.stream));
    CHECK_OK(
        tsr_zero_prefetch_params_fused(rank.zero, NULL, NULL, 0, rank.stream));
    check_held(&rank, bytes);
    CHECK_FAILS(tsr_zero_wait_allgather(rank.zero, 1, 1, rank.stream),
                TSR_FAILED_PRECONDITION,
                "parameter 1"); /* prefetch binds nothing */
    wait_param(&rank, 1, &params[0]);
    check_view(&rank, &params[0], &first, 0);
    release_param(&rank, 1, &params[0], 1);
    for (int i = 1; i < 7; i++)
        if (i != 3)
            use_param(&rank, 2, &params[ids[i]], dtypes[i]);
    check_held(&rank, 0);
    rank_close(&rank);
    release_all(params, 4);
}

/* reset, register_graph and abort_step end bindings whose readers are still
 * queued: nobody spoils what these read. */
static void forced_unbinding(rank_context *context) {
    for (int how = 0; how < 4; how++) {
        eager_rank rank;
        test_param param = param_of(4, 50, 3);
        void *seen = some_memory(200);
        rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_QUEUED});
        register_all(&rank, &param, 1);
        tsr_view view = gather_param(&rank, 1, &param, TSR_F32);
        wait_param(&rank, 1, &param);
        CHECK_OK(tsr_stream_enqueue(rank.stream, dawdle, NULL));
        CHECK_OK(tsr_stream_copy(rank.stream, seen, view.data,
                                 (size_t)param.numel * sizeof(float)));
        if (how == 0)
            CHECK_OK(tsr_zero_reset(rank.zero, rank.stream));
        else if (how == 1)
            graph_of(&rank, 1, &param, 1);
        else if (how == 2)
            CHECK_OK(tsr_zero_abort_step(rank.zero, rank.stream));
        else
            release_param(&rank, 1, &param, 1);
        check_held(&rank, 0);
        rank_sync(&rank);
        for (int64_t i = 0; i < param.numel; i++)
            CHECK(fabsf(get_element(seen, TSR_F32, (size_t)i) -
                        weight_value(4, 0, i)) <= 0);
        rank_close(&rank);
        param_release(&param);
        free(seen);
    }
}

/* After the last release the storage is back at the allocator, which spoils it,
 * whoever still has a view of it; so it is when a graph that is not done holds
 * another version. */
static void storage_goes_under_views(rank_context *context) {
    eager_rank rank;
    test_param param = param_of(4, 5, 3);
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_QUEUED});
    register_all(&rank, &param, 1);
    tsr_view views[2];
    for (int v = 0; v < 2; v++)
        views[v] = gather_param(&rank, 1 + v, &param, TSR_F32);
    CHECK(views[0].data == views[1].data);
    for (int v = 0; v < 2; v++)
        wait_param(&rank, 1 + v, &param);
    release_param(&rank, 1, &param, 1);
    rank_sync(&rank);
    check_view(&rank, &param, &views[0], 0); /* graph 2 still holds it */
    CHECK_OK(
        tsr_zero_weights_changed(rank.zero, &param.desc.id, 1, rank.stream));
    tsr_view young = gather_param(&rank, 1, &param, TSR_F32);
    wait_param(&rank, 1, &param);
    release_param(&rank, 2, &param, 1);
    check_held(&rank, copy_bytes(&rank, &param, TSR_F32));
    rank_sync(&rank);
    for (int64_t i = 0; i < param.numel; i++)
        CHECK(isnan(((const float *)views[0].data)[i]));
    check_view(&rank, &param, &young, 0);
    release_param(&rank, 1, &param, 1);
    check_held(&rank, 0);
    rank_sync(&rank);
    for (int64_t i = 0; i < param.numel; i++)
        CHECK(isnan(((const float *)young.data)[i]));
    rank_close(&rank);
    param_release(&param);
}

/* A second registration: other shape, other memory; the copy is not reused. */
static void registered_anew(rank_context *context) {
    eager_rank rank;
    test_param old = param_of(4, 5, 3), young = param_of(4, 2, 11);
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_INLINE});
    register_all(&rank, &old, 1);
    tsr_view view = gather_param(&rank, 1, &old, TSR_F32);
    CHECK_OK(tsr_zero_prefetch_params_fused(
        rank.zero, &old.desc.id, (tsr_dtype[]){TSR_F16}, 1, rank.stream));
    wait_param(&rank, 1, &old);
    rank_sync(&rank);
    param_register(&rank, &young);
    check_held(&rank, copy_bytes(&rank, &old, TSR_F32));
    check_view(&rank, &old, &view, 0);
    use_param(&rank, 2, &young, TSR_F32);
    release_param(&rank, 1, &old, 1);
    check_held(&rank, 0);
    void *moved = some_memory(young.shard); /* the same weights elsewhere */
    memcpy(moved, young.shard_memory, (size_t)young.shard * sizeof(float));
    memset(young.shard_memory, SPOILED, (size_t)young.shard * sizeof(float));
    CHECK_OK(tsr_zero_update_param_shard(rank.zero, 4,
                                         (tsr_tensor){.context = moved}));
    use_param(&rank, 1, &young, TSR_BF16);
    rank_close(&rank);
    param_release(&old);
    param_release(&young);
    free(moved);
}

static void *swapped(void *context) { return *(void **)context; }

/* The tensor's address is asked for at each call. */
static void swapped_memory(rank_context *context) {
    eager_rank rank;
    test_param param = param_of(4, 5, 3);
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_INLINE});
    param_fill(&rank, &param);
    void *first = param.shard_memory, *second = some_memory(param.shard);
    void *at = first;
    param.desc.shard = (tsr_tensor){.address = swapped, .context = &at};
    CHECK_OK(tsr_zero_register_param(rank.zero, &param.desc, rank.stream));
    graph_of(&rank, 1, &param, 1);
    use_param(&rank, 1, &param, TSR_F32);
    at = param.shard_memory = second;
    param_write(&rank, &param, 2);
    use_param(&rank, 1, &param, TSR_F32);
    rank_close(&rank);
    param_release(&param);
    free(first);
}

/* Two in one process, with the same ids and other values. */
static void side_by_side(rank_context *context) {
    eager_rank ranks[2];
    test_param params[2] = {param_of(4, 5, 3), param_of(4, 7, 3)};
    for (int k = 0; k < 2; k++) {
        rank_open(&ranks[k], context,
                  &(rank_options){.kind = TSR_STREAM_QUEUED,
                                  .device_memory = k == 1});
        register_all(&ranks[k], &params[k], 1);
        param_write(&ranks[k], &params[k], k + 5);
    }
    tsr_view one = gather_param(&ranks[0], 1, &params[0], TSR_F32);
    tsr_view two = gather_param(&ranks[1], 1, &params[1], TSR_F16);
    wait_param(&ranks[0], 1, &params[0]);
    wait_param(&ranks[1], 1, &params[1]);
    check_view(&ranks[0], &params[0], &one, 5);
    check_view(&ranks[1], &params[1], &two, 6);
    CHECK_OK(tsr_zero_reset(ranks[0].zero, ranks[0].stream));
    check_held(&ranks[0], 0);
    check_held(&ranks[1], copy_bytes(&ranks[1], &params[1], TSR_F16));
    check_view(&ranks[1], &params[1], &two, 6);
    rank_close(&ranks[0]);
    release_param(&ranks[1], 1, &params[1], 1);
    use_param(&ranks[1], 2, &params[1], TSR_BF16);
    rank_close(&ranks[1]);
    release_all(params, 2);
}

/* Whatever the settings and the memory, the values are the same. */
static void settings(rank_context *context) {
    for (int k = 0; k < 3; k++) {
        eager_rank rank;
        test_param param = param_of(4, 5, 3);
        rank_open(&rank, context,
                  &(rank_options){.settings = {.sync_before_allgather = k != 0,
                                               .sync_after_allgather = k == 2},
                                  .kind = TSR_STREAM_QUEUED,
                                  .device_memory = true});
        register_all(&rank, &param, 1);
        for (int round = 0; round < 20; round++)
            use_param(&rank, 1 + round % 2, &param,
                      round % 3 ? TSR_F32 : TSR_F16);
        rank_close(&rank);
        param_release(&param);
    }
}

/* One for each graph and parameter, whatever copy is bound and whoever else
 * comes and goes; by it or by ids is the same. */
static void handles(rank_context *context) {
    eager_rank rank;
    test_param params[2] = {param_of(4, 5, 3), param_of(5, 70, 3)};
    rank_open(&rank, context,
              &(rank_options){.kind = TSR_STREAM_QUEUED,
                              .delay_seed = 7,
                              .max_delay_us = 100});
    register_all(&rank, params, 2);
    tsr_view view = gather_param(&rank, 1, &params[1], TSR_F32);
    tsr_zero_binding *handle = view.binding;
    CHECK(handle);
    CHECK(gather_param(&rank, 1, &params[0], TSR_F32).binding != handle);
    CHECK(gather_param(&rank, 2, &params[1], TSR_F32).binding != handle);
    release_param(&rank, 1, &params[0], 1);
    for (int64_t graph = 2; graph < 40; graph++) /* 2: registered anew */
        graph_of(&rank, graph, params, 2);
    for (int turn = 0; turn < 2; turn++) {
        tsr_dtype dtype = turn ? TSR_BF16 : TSR_F32;
        view = gather_param(&rank, 1, &params[1], dtype);
        CHECK(view.binding == handle);
        CHECK_OK(tsr_zero_wait_binding(rank.zero, handle, rank.stream));
        check_view(&rank, &params[1], &view, 0);
        CHECK_FAILS(tsr_zero_release_binding(rank.zero, handle, 0, rank.stream),
                    TSR_INVALID_ARGUMENT, "parameter 5: 0 users");
        CHECK_OK(tsr_zero_release_binding(rank.zero, handle, 3, rank.stream));
        release_param(&rank, 1, &params[1], 1);
        check_held(&rank, copy_bytes(&rank, &params[1], dtype));
        CHECK_OK(tsr_zero_release_binding(rank.zero, handle, 1, rank.stream));
        check_held(&rank, 0);
        CHECK_FAILS(tsr_zero_wait_binding(rank.zero, handle, rank.stream),
                    TSR_FAILED_PRECONDITION, "graph 1 waits for parameter 5");
        CHECK_FAILS(tsr_zero_release_binding(rank.zero, handle, 1, rank.stream),
                    TSR_FAILED_PRECONDITION, "graph 1 releases parameter 5");
    }
    rank_close(&rank);
    release_all(params, 2);
}

int main(void) {
    on_worlds(sizes, NULL);
    on_worlds(shared_by_graphs, NULL);
    on_worlds(versions, NULL);
    on_worlds(persistent, NULL);
    on_worlds(prefetch, NULL);
    on_worlds(handles, NULL);
    run_threads(2, forced_unbinding, NULL);
    on_worlds(storage_goes_under_views, NULL);
    on_worlds(registered_anew, NULL);
    on_worlds(swapped_memory, NULL);
    run_threads(2, side_by_side, NULL);
    run_threads(2, settings, NULL);
    return 0;
}
