/* The eager front, failures: what it refuses and with which words; memory that
 * runs out at every allocation; ranks that differ; a rank that gives up. */
#include "comm/backend.h"
#include "zero/eager_failing.h"

/* ---- arguments ---- */

static void options(rank_context *context) {
    eager_rank rank;
    tsr_zero *zero;
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_INLINE});
    tsr_zero_options good = {.device = rank.device,
                             .gather_comm = rank.gather_comm,
                             .reduce_comm = rank.reduce_comm,
                             .kernels = rank.kernels,
                             .settings = {.stage = 3}};
    tsr_zero_options bad = good;
    bad.settings.stage = 0;
    CHECK_FAILS(tsr_zero_create(&bad, &zero), TSR_INVALID_ARGUMENT,
                "stage 0 is not 1, 2 or 3");
    CHECK(!zero);
    bad.settings.stage = 4;
    CHECK_FAILS(tsr_zero_create(&bad, &zero), TSR_INVALID_ARGUMENT, "stage 4");
    bad = good;
    bad.settings.bucket_bytes = SIZE_MAX; /* would be rounded up to 0 */
    CHECK_FAILS(tsr_zero_create(&bad, &zero), TSR_INVALID_ARGUMENT,
                "no memory is that large");
    bad = good;
    bad.settings.average = (tsr_average)3;
    CHECK_FAILS(tsr_zero_create(&bad, &zero), TSR_INVALID_ARGUMENT,
                "average 3");
    bad = good;
    bad.reduce_comm = bad.gather_comm;
    CHECK_FAILS(tsr_zero_create(&bad, &zero), TSR_INVALID_ARGUMENT,
                "tsr_comm_split");
    tsr_comm other = *rank.reduce_comm; /* asked who it is, no more */
    bad = good;
    bad.reduce_comm = &other;
    other.rank = 1 - context->rank;
    CHECK_FAILS(tsr_zero_create(&bad, &zero), TSR_INVALID_ARGUMENT,
                context->rank == 0
                    ? "rank 0 of 2 in gather_comm, 1 of 2 in reduce_comm"
                    : "rank 1 of 2 in gather_comm, 0 of 2 in reduce_comm");
    other.rank = context->rank;
    other.world = 3;
    CHECK_FAILS(tsr_zero_create(&bad, &zero), TSR_INVALID_ARGUMENT,
                "of 2 in gather_comm");
    bad = good;
    bad.kernels = NULL;
    CHECK_FAILS(tsr_zero_create(&bad, &zero), TSR_INVALID_ARGUMENT, "NULL");
    CHECK_OK(tsr_zero_create(&good, &zero));
    tsr_zero_release(zero);
    tsr_zero_release(NULL);
    rank_close(&rank);
}

static void params(rank_context *context) {
    eager_rank rank;
    test_param param = param_of(4, 5, 3);
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_INLINE});
    param_fill(&rank, &param);
    tsr_zero_param bad = param.desc;
#define REFUSED(text)                                                          \
    CHECK_FAILS(tsr_zero_register_param(rank.zero, &bad, rank.stream),         \
                TSR_INVALID_ARGUMENT, "parameter 4: " text);                   \
    bad = param.desc
    bad.type.dims = TSR_MAX_DIMS + 1;
    REFUSED("bad shape");
    bad.type.dims = -1;
    REFUSED("bad shape");
    bad.type.shape[0] = bad.type.shape[1] = -1;
    REFUSED("bad shape");
    bad.type.shape[0] = bad.type.shape[1] = INT64_MAX / 2;
    REFUSED("bad shape");
    bad.type.dtype = TSR_I32;
    REFUSED("the stored dtype");
    bad.gathered_dtype = TSR_U8;
    REFUSED("the gathered dtype");
    bad.communicated_dtype = TSR_DTYPE_COUNT;
    REFUSED("the communicated dtype");
    bad.accumulated_dtype = TSR_I32;
    REFUSED("the accumulated dtype");
    bad.granule = -1;
    REFUSED("granule -1");
    bad.granule = INT64_MAX;
    REFUSED("granule");
    bad.grad.context = NULL;
    REFUSED("grad is NULL");
#undef REFUSED
    int64_t id = 4;
    CHECK_FAILS(tsr_zero_register_graph(rank.zero, 1, &id, 1), TSR_NOT_FOUND,
                "parameter 4"); /* none of those was registered */
    rank_close(&rank);
    param_release(&param);
}

static void slices(rank_context *context) {
    eager_rank rank;
    test_param param = param_of(4, 5, 3);
    tsr_view view;
    rank_open(
        &rank, context,
        &(rank_options){.settings = {.stage = 2}, .kind = TSR_STREAM_INLINE});
    param_register(&rank, &param);
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, &param.desc.id, 1));
    static const int64_t bad[][2] = {
        {-1, 1}, {0, -1}, {0, 16}, {15, 1}, {INT64_MAX, INT64_MAX}};
    for (int i = 0; i < 5; i++) {
        tsr_zero_param desc = param.desc;
        desc.slice_offset = bad[i][0];
        desc.slice_count = bad[i][1];
        CHECK_FAILS(tsr_zero_register_param(rank.zero, &desc, rank.stream),
                    TSR_INVALID_ARGUMENT, "is not within its 15 elements");
    }
    CHECK_FAILS(
        tsr_zero_allgather_param(rank.zero, 1, 4, TSR_F32, rank.stream, &view),
        TSR_FAILED_PRECONDITION, "stage 2");
    CHECK_FAILS(tsr_zero_set_persistent(rank.zero, 4, rank.stream),
                TSR_FAILED_PRECONDITION, "stage 2");
    rank_close(&rank);
    param_release(&param);
}

/* So many bytes further. */
static tsr_tensor skewed(void *memory, size_t bytes) {
    return (tsr_tensor){.context = (char *)memory + bytes};
}

/* Refused where it is given, by the parameter's name; what was there stays. */
static void alignment(rank_context *context) {
    int stage = *(int *)context->argument;
    eager_rank rank;
    test_param param = param_of(4, 5, 3);
    rank_open(&rank, context,
              &(rank_options){.settings = {.stage = stage},
                              .kind = TSR_STREAM_INLINE});
    tsr_zero *zero = rank.zero;
    param.desc.type.dtype = TSR_BF16;
    param_register(&rank, &param);
    tsr_tensor odd = skewed(param.shard_memory, 1),
               half = skewed(param.grad_memory, 2);
    tsr_zero_param bad = param.desc;
    bad.grad = half;
#define REFUSED(call, text)                                                    \
    CHECK_FAILS(call, TSR_INVALID_ARGUMENT, "parameter 4: " text);             \
    CHECK(strstr(tsr_last_error(), "needs an address that is a multiple of "))
    REFUSED(tsr_zero_register_param(zero, &bad, rank.stream), "grad is at 0x");
    REFUSED(tsr_zero_update_param_grad_buffer(zero, 4, half, rank.stream),
            "grad is at 0x");
    CHECK(strstr(tsr_last_error(), "f32 needs"));
    CHECK(strstr(tsr_last_error(), "multiple of 4"));
    bad = param.desc;
    bad.shard = odd;
    if (stage == 3) {
        REFUSED(tsr_zero_register_param(zero, &bad, rank.stream),
                "shard is at 0x");
        REFUSED(tsr_zero_update_param_shard(zero, 4, odd), "shard is at 0x");
        CHECK(strstr(tsr_last_error(), "bf16 needs"));
        CHECK(strstr(tsr_last_error(), "multiple of 2"));
    } else { /* unused */
        CHECK_OK(tsr_zero_register_param(zero, &bad, rank.stream));
        CHECK_OK(tsr_zero_update_param_shard(zero, 4, odd));
        REFUSED(
            tsr_zero_update_param_grad_slice(zero, 4, half, 0, 1, rank.stream),
            "grad is at 0x");
    }
#undef REFUSED
    CHECK_OK(tsr_zero_register_graph(zero, 1, &param.desc.id, 1));
    CHECK_OK(tsr_zero_start_backward(zero, true));
    reduce_call(&rank, 1, &param, 0);
    end_backward(&rank);
    check_grad(&rank, &param, 1, 1);
    rank_close(&rank);
    param_release(&param);
}

static void *swapped(void *context) { return *(void **)context; }

/* Memory that becomes so later, where it is asked for. */
static void alignment_later(rank_context *context) {
    eager_rank rank;
    test_param param = param_of(4, 5, 3);
    tsr_view view;
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_INLINE});
    param_fill(&rank, &param);
    void *at = param.shard_memory;
    param.desc.shard = (tsr_tensor){.address = swapped, .context = &at};
    CHECK_OK(tsr_zero_register_param(rank.zero, &param.desc, rank.stream));
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, &param.desc.id, 1));
    at = (char *)param.shard_memory + 1;
    for (tsr_dtype dtype = TSR_F32; dtype <= TSR_BF16; dtype++)
        CHECK_FAILS(tsr_zero_allgather_param(rank.zero, 1, 4, dtype,
                                             rank.stream, &view),
                    TSR_INVALID_ARGUMENT, "parameter 4: shard is at 0x");
    at = param.shard_memory;
    use_param(&rank, 1, &param, TSR_F32);
    check_held(&rank, 0);
    rank_close(&rank);
    param_release(&param);
}

static void not_found(eager_rank *rank, test_param *param) {
    int64_t ids[2] = {4, 99};
    tsr_zero *zero = rank->zero;
    tsr_stream *stream = rank->stream;
    tsr_view view;
#define MISSING(call, text) CHECK_FAILS(call, TSR_NOT_FOUND, text)
    MISSING(tsr_zero_register_graph(zero, 7, ids, 2), "parameter 99");
    MISSING(tsr_zero_register_graph(zero, 1, ids, 2), "parameter 99");
    MISSING(tsr_zero_allgather_param(zero, 1, 99, TSR_F32, stream, &view),
            "parameter 99");
    MISSING(tsr_zero_allgather_param(zero, 7, 4, TSR_F32, stream, &view),
            "graph 7");
    MISSING(tsr_zero_allgather_param(zero, 1, 5, TSR_F32, stream, &view),
            "graph 1 did not name parameter 5");
    MISSING(tsr_zero_prefetch_params_fused(zero, ids, NULL, 2, stream),
            "parameter 99");
    MISSING(tsr_zero_wait_allgather(zero, 7, 4, stream), "graph 7");
    MISSING(tsr_zero_release_param(zero, 1, 5, 1, stream), "parameter 5");
    MISSING(tsr_zero_reduce_grad(zero, 1, 99, param->gradient, stream),
            "parameter 99");
    MISSING(tsr_zero_reduce_grad(zero, 7, 4, param->gradient, stream),
            "graph 7");
    MISSING(tsr_zero_weights_changed(zero, ids, 2, stream), "parameter 99");
    MISSING(tsr_zero_set_persistent(zero, 99, stream), "parameter 99");
    MISSING(tsr_zero_invalidate_gathered_param(zero, 99), "parameter 99");
    MISSING(tsr_zero_update_param_shard(zero, 99, (tsr_tensor){0}),
            "parameter 99");
    MISSING(
        tsr_zero_update_param_grad_buffer(zero, 99, (tsr_tensor){0}, stream),
        "parameter 99");
#undef MISSING
}

static void calls(rank_context *context) {
    eager_rank rank;
    test_param param = param_of(4, 5, 3), other = param_of(5, 2, 2);
    tsr_view view;
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_INLINE});
    param_register(&rank, &param);
    param_register(&rank, &other);
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, &param.desc.id, 1));
    use_param(&rank, 1, &param, TSR_F32);
    not_found(&rank, &param);
    use_param(&rank, 1, &param, TSR_F32); /* graph 1 is as it was */
    CHECK_FAILS(tsr_zero_wait_allgather(rank.zero, 1, 4, rank.stream),
                TSR_FAILED_PRECONDITION, "graph 1 waits for parameter 4");
    CHECK_FAILS(tsr_zero_release_param(rank.zero, 1, 4, 1, rank.stream),
                TSR_FAILED_PRECONDITION, "graph 1 releases parameter 4");
    CHECK_FAILS(tsr_zero_release_param(rank.zero, 1, 4, 0, rank.stream),
                TSR_INVALID_ARGUMENT, "0 users");
    CHECK_FAILS(tsr_zero_reduce_grad(rank.zero, 1, 4, NULL, rank.stream),
                TSR_INVALID_ARGUMENT, "gradient is NULL");
    CHECK_FAILS(
        tsr_zero_allgather_param(rank.zero, 1, 4, TSR_I32, rank.stream, &view),
        TSR_INVALID_ARGUMENT, "gathered as i32");
    CHECK_FAILS(tsr_zero_update_param_grad_buffer(rank.zero, 4, (tsr_tensor){0},
                                                  rank.stream),
                TSR_INVALID_ARGUMENT, "grad is NULL");
    CHECK_OK(tsr_zero_update_param_shard(rank.zero, 4, (tsr_tensor){0}));
    CHECK_FAILS(
        tsr_zero_allgather_param(rank.zero, 1, 4, TSR_F16, rank.stream, &view),
        context->world == 1 ? TSR_INVALID_ARGUMENT : TSR_UNAVAILABLE,
        "parameter 4: shard is NULL");
    check_held(&rank, 0);
    rank_close(&rank);
    param_release(&param);
    param_release(&other);
}

static void streams(rank_context *context) {
    enum { MOST = 64 };
    eager_rank rank;
    test_param param = param_of(4, 5, 3);
    tsr_stream *more[MOST];
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_INLINE});
    param_register(&rank, &param);
    for (int i = 0; i < MOST; i++) {
        CHECK_OK(tsr_stream_create(rank.device, TSR_STREAM_INLINE, "more", 0,
                                   &more[i]));
        tsr_status status = tsr_zero_abort_step(rank.zero, more[i]);
        CHECK(status == (i == MOST - 1 ? TSR_INVALID_ARGUMENT : TSR_OK));
    }
    CHECK(strstr(tsr_last_error(), "more than 64 streams"));
    tsr_zero_release(rank.zero);
    rank.zero = NULL;
    for (int i = 0; i < MOST; i++)
        tsr_stream_release(more[i]);
    rank_close(&rank);
    param_release(&param);
}

/* ---- ranks that differ ---- */

/* Each thing that must be alike. */
typedef enum differing {
    DIFFER_STAGE,
    DIFFER_BUCKET_BYTES,
    DIFFER_DOUBLE_BUFFER,
    DIFFER_AVERAGE,
    DIFFER_SYMMETRIC,
    DIFFER_COUNT,
    DIFFER_ID,
    DIFFER_STORED,
    DIFFER_DIMS,
    DIFFER_SHAPE,
    DIFFER_SHARD,
    DIFFER_GRANULE,
    DIFFER_FROZEN,
    DIFFER_GATHERED,
    DIFFER_COMMUNICATED,
    DIFFER_ACCUMULATED,
    DIFFER_PERSISTENT,
    DIFFERENCES
} differing;

static tsr_zero_settings settings_but(differing kind) {
    tsr_zero_settings settings = {.stage = 3, .bucket_bytes = 128};
    switch (kind) {
    case DIFFER_STAGE:
        settings.stage = 2;
        break;
    case DIFFER_BUCKET_BYTES:
        settings.bucket_bytes = 64;
        break;
    case DIFFER_DOUBLE_BUFFER:
        settings.double_buffer = true;
        break;
    case DIFFER_AVERAGE:
        settings.average = TSR_AVERAGE_BEFORE;
        break;
    case DIFFER_SYMMETRIC:
        settings.symmetric_memory = true;
        break;
    default:
        break;
    }
    return settings;
}

/* Of 21 elements; the shard is as large, but where it is what differs. */
static test_param param_but(differing kind, int world) {
    test_param param = param_of(5, 7, 3);
    tsr_zero_param *desc = &param.desc;
    switch (kind) {
    case DIFFER_ID:
        desc->id = 6;
        break;
    case DIFFER_STORED:
        desc->type.dtype = TSR_BF16;
        break;
    case DIFFER_DIMS:
        desc->type = (tsr_type){.dtype = TSR_F32, .dims = 1, .shape = {21}};
        break;
    case DIFFER_SHAPE:
        desc->type.shape[0] = 3;
        desc->type.shape[1] = 7;
        break;
    case DIFFER_SHARD:
        desc->type.shape[0] = 70;
        break;
    case DIFFER_GRANULE:
        desc->granule = (21 + world - 1) / world;
        break;
    case DIFFER_FROZEN:
        desc->frozen = true;
        break;
    case DIFFER_GATHERED:
        desc->gathered_dtype = TSR_BF16;
        break;
    case DIFFER_COMMUNICATED:
        desc->communicated_dtype = TSR_BF16;
        break;
    case DIFFER_ACCUMULATED:
        desc->accumulated_dtype = TSR_BF16;
        break;
    case DIFFER_PERSISTENT:
        desc->persistent = true;
        break;
    default:
        break;
    }
    return param;
}

static void difference(rank_context *context) {
    differing kind = *(differing *)context->argument,
              mine = context->rank > 0 ? kind : DIFFERENCES;
    const char *text =
        kind < DIFFER_COUNT    ? "ranks 0 and 1 differ in stage, bucket_bytes"
        : kind == DIFFER_COUNT ? "rank 0 registered 2 parameters, rank 1 1"
                               : "(number 1, from 0) differently";
    eager_rank rank;
    test_param two[2] = {param_of(4, 5, 3), param_but(mine, context->world)};
    rank_open(&rank, context,
              &(rank_options){.settings = settings_but(mine),
                              .kind = TSR_STREAM_QUEUED});
    param_register(&rank, &two[0]);
    param_fill(&rank, &two[1]);
    if (mine != DIFFER_COUNT)
        CHECK_OK(tsr_zero_register_param(rank.zero, &two[1].desc, rank.stream));
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, &two[0].desc.id, 1));
    CHECK_OK(tsr_zero_start_backward(rank.zero, true));
    for (int call = 0; call < 2; call++) /* on all ranks, each time */
        CHECK_FAILS(call ? tsr_zero_seal(rank.zero, rank.stream)
                         : tsr_zero_reduce_grad(rank.zero, 1, 4,
                                                two[0].gradient, rank.stream),
                    TSR_FAILED_PRECONDITION, text);
    CHECK_OK(tsr_comm_poll(rank.gather_comm, NULL)); /* the group lives on */
    rank_close(&rank);
    param_release(&two[0]);
    param_release(&two[1]);
}

/* ---- memory that runs out ---- */

static tsr_status try_gathers(eager_rank *rank, const int64_t ids[2]) {
    tsr_view view;
    TSR_TRY(tsr_zero_prefetch_params_fused(
        rank->zero, ids, (tsr_dtype[]){TSR_BF16, TSR_F32}, 2, rank->stream));
    for (int p = 0; p < 2; p++) {
        TSR_TRY(tsr_zero_allgather_param(rank->zero, 1, ids[p], TSR_F16,
                                         rank->stream, &view));
        TSR_TRY(tsr_zero_wait_allgather(rank->zero, 1, ids[p], rank->stream));
        TSR_TRY(tsr_zero_release_param(rank->zero, 1, ids[p], 1, rank->stream));
    }
    return TSR_OK;
}

static tsr_status try_step(eager_rank *rank, test_param *two) {
    int64_t ids[2] = {4, 5};
    for (int p = 0; p < 2; p++)
        TSR_TRY(
            tsr_zero_register_param(rank->zero, &two[p].desc, rank->stream));
    TSR_TRY(tsr_zero_register_graph(rank->zero, 1, ids, 2));
    TSR_TRY(tsr_zero_seal(rank->zero, rank->stream));
    if (rank->stage == 3)
        TSR_TRY(try_gathers(rank, ids));
    for (int micro = 0; micro < 2; micro++) {
        TSR_TRY(tsr_zero_start_backward(rank->zero, micro == 1));
        for (int p = 0; p < 2; p++)
            TSR_TRY(tsr_zero_reduce_grad(rank->zero, 1, ids[p], two[p].gradient,
                                         rank->stream));
        TSR_TRY(tsr_zero_end_backward(rank->zero, rank->stream));
    }
    TSR_TRY(tsr_zero_weights_changed(rank->zero, ids, 2, rank->stream));
    return tsr_zero_synchronize(rank->zero);
}

/* After a failure the same calls succeed, and the gradients are right. */
static void recover(eager_rank *rank, test_param *two) {
    size_t held = 0;
    CHECK_OK(tsr_zero_abort_step(rank->zero, rank->stream));
    CHECK_OK(try_step(rank, two));
    for (int p = 0; p < 2; p++) {
        check_grad(rank, &two[p], 0x3, 1);
        if (rank->stage < 3)
            continue;
        use_param(rank, 1, &two[p], TSR_F32);
        held = copy_bytes(rank, &two[1], TSR_F32); /* persistent */
    }
    check_held(rank, held);
}

static void fail_nth(rank_context *context) {
    failing *at = context->argument;
    eager_rank rank;
    test_param two[2] = {param_of(4, 5, 3), param_of(5, 70, 3)};
    rank_open(&rank, context,
              &(rank_options){.settings = {.stage = at->stage,
                                           .bucket_bytes = 128,
                                           .double_buffer = true},
                              .kind = TSR_STREAM_QUEUED,
                              .device_memory = !at->heap && at->n % 2});
    two[1].desc.persistent = at->stage == 3;
    for (int p = 0; p < 2; p++) {
        param_fill(&rank, &two[p]);
        for (int64_t i = 0; i < two[p].numel; i++)
            set_element(
                two[p].gradient, TSR_F32, (size_t)i,
                (grad_value(0, 4 + p, 0, i) + grad_value(0, 4 + p, 1, i)) / 2);
    }
    failing_begin(at, &rank);
    tsr_status status = try_step(&rank, two);
    failing_end(at, &rank, status);
    if (status != TSR_OK)
        recover(&rank, two);
    rank_close(&rank);
    param_release(&two[0]);
    param_release(&two[1]);
}

/* One rank has no memory: it says so, the others are told who. */
static void gives_up(rank_context *context) {
    bool reduces = *(bool *)context->argument;
    eager_rank rank;
    test_param two[2] = {param_of(4, 5, 3), param_of(5, 70, 3)};
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_QUEUED});
    int64_t ids[2] = {4, 5};
    for (int p = 0; p < 2; p++)
        param_register(&rank, &two[p]);
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, ids, 2));
    CHECK_OK(tsr_zero_seal(rank.zero, rank.stream));
    if (context->rank == 1)
        rank.heap.fail_at = reduces ? 1 : 2;
    tsr_status status;
    if (reduces) {
        CHECK_OK(tsr_zero_start_backward(rank.zero, true));
        status =
            tsr_zero_reduce_grad(rank.zero, 1, 5, two[1].gradient, rank.stream);
        if (status == TSR_OK)
            status = tsr_zero_end_backward(rank.zero, rank.stream);
    } else {
        status = tsr_zero_prefetch_params_fused(rank.zero, ids, NULL, 2,
                                                rank.stream);
    }
    if (status == TSR_OK) {
        CHECK(context->rank != 1);
        status = tsr_zero_synchronize(rank.zero);
    }
    if (context->rank == 1) {
        CHECK(status == TSR_OUT_OF_MEMORY);
    } else {
        CHECK(status == TSR_UNAVAILABLE);
        CHECK(strstr(tsr_last_error(), "rank 1 gave up"));
        CHECK(strstr(tsr_last_error(), "the test's heap is empty"));
    }
    tsr_view view;
    CHECK_FAILS(
        tsr_zero_allgather_param(rank.zero, 1, 4, TSR_BF16, rank.stream, &view),
        TSR_UNAVAILABLE, "rank 1 gave up");
    rank_close(&rank);
    param_release(&two[0]);
    param_release(&two[1]);
}

int main(void) {
    run_threads(2, options, NULL);
    run_threads(1, params, NULL);
    run_threads(1, slices, NULL);
    for (int stage = 1; stage <= 3; stage++)
        run_threads(1, alignment, &stage);
    run_threads(1, alignment_later, NULL);
    run_threads(1, calls, NULL);
    run_threads(1, streams, NULL);
    for (int kind = 0; kind < DIFFERENCES; kind++)
        for (int world = 2; world <= 5; world += 3)
            run_threads(world, difference, &kind);
    run_threads(3, gives_up, &(bool){false});
    run_threads(3, gives_up, &(bool){true});
    int points = 0;
    for (int stage = 1; stage <= 3; stage++)
        points += failing_each(fail_nth, stage);
    printf("memory ran out at %d places\n", points);
    return 0;
}
