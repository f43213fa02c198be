/* The eager front: its life. Its nouns are in eager_graph.c, eager_param.c,
 * eager_copy.c and eager_gather.c (copies), eager_slot.c and eager_bucket.c
 * (gradients), eager_step.c, eager_host.c, eager_offload.c (tensors on the
 * host), eager_shard.c (shards there) and eager_queue.c. */
#include "zero/eager.h"

/* Enough that a layer's gradients share a call, small enough to start early. */
#define DEFAULT_BUCKET_BYTES ((size_t)64 << 20)

/* ---- arguments ---- */

tsr_status zero_not_given(const char *function, const char *argument) {
    return tsr_error(TSR_INVALID_ARGUMENT, "%s: %s is NULL", function,
                     argument);
}

/* ---- making ---- */

static tsr_status check_given(const tsr_zero_options *options,
                              const char *function) {
    const tsr_allocator *allocator = options->allocator;
    TSR_TRY(zero_given(options->device, function, "options.device"));
    TSR_TRY(zero_given(options->gather_comm, function, "options.gather_comm"));
    TSR_TRY(zero_given(options->reduce_comm, function, "options.reduce_comm"));
    TSR_TRY(zero_given(options->kernels, function, "options.kernels"));
    if (!allocator)
        return TSR_OK;
    TSR_TRY(zero_given(allocator->alloc, function, "options.allocator.alloc"));
    return zero_given(allocator->free, function, "options.allocator.free");
}

static tsr_status check_options(const tsr_zero_options *options) {
    const tsr_zero_settings *settings = &options->settings;
    if (options->gather_comm == options->reduce_comm)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "gathers and reduces need a communicator each: "
                         "tsr_comm_split makes one");
    if (tsr_comm_world(options->gather_comm) !=
            tsr_comm_world(options->reduce_comm) ||
        tsr_comm_rank(options->gather_comm) !=
            tsr_comm_rank(options->reduce_comm))
        return tsr_error(
            TSR_INVALID_ARGUMENT,
            "this is rank %d of %d in gather_comm, %d of %d in reduce_comm: "
            "both must have the same ranks",
            tsr_comm_rank(options->gather_comm),
            tsr_comm_world(options->gather_comm),
            tsr_comm_rank(options->reduce_comm),
            tsr_comm_world(options->reduce_comm));
    if (settings->stage < 1 || settings->stage > 3)
        return tsr_error(TSR_INVALID_ARGUMENT, "ZeRO stage %d is not 1, 2 or 3",
                         settings->stage);
    if (settings->average < TSR_AVERAGE_AFTER ||
        settings->average > TSR_AVERAGE_NONE)
        return tsr_error(TSR_INVALID_ARGUMENT, "average %d is none of its enum",
                         (int)settings->average);
    if (settings->bucket_bytes > PTRDIFF_MAX)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "bucket_bytes is %zu: no memory is that large",
                         settings->bucket_bytes);
    if (settings->symmetric_memory &&
        !(tsr_comm_capabilities(options->reduce_comm) & TSR_COMM_SHARED_MEMORY))
        return tsr_error(TSR_UNSUPPORTED,
                         "symmetric_memory: the ranks of the reduce "
                         "communicator share no memory");
    return TSR_OK;
}

static tsr_status create_parts(tsr_zero *zero) {
    static const char *const names[ZERO_QUEUES] = {
        "gather", "reduce", "bucket copy", "copy out", "copy in"};
    for (int q = 0; q < ZERO_QUEUES; q++)
        TSR_TRY(zero_queue_create(zero, &zero->queues[q], names[q]));
    for (int b = 0; b < 2; b++)
        TSR_TRY(
            tsr_event_create(zero->options.device, &zero->buckets[b].reduced));
    return TSR_OK;
}

tsr_status tsr_zero_create(const tsr_zero_options *options,
                           tsr_zero **out_zero) {
    tsr_status status = TSR_OK;
    tsr_zero *zero = NULL;
    TSR_TRY(zero_given(out_zero, __func__, "out_zero"));
    *out_zero = NULL;
    TSR_TRY(zero_given(options, __func__, "options"));
    TSR_TRY(check_given(options, __func__));
    TSR_TRY(check_options(options));
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *zero, (void **)&zero));
    zero->options = *options;
    if (zero->options.settings.bucket_bytes == 0)
        zero->options.settings.bucket_bytes = DEFAULT_BUCKET_BYTES;
    zero->allocator =
        options->allocator ? *options->allocator : zero_own_allocator(zero);
    zero->world = tsr_comm_world(options->gather_comm);
    zero->rank = tsr_comm_rank(options->gather_comm);
    zero->sealed = true; /* nothing is registered that could differ */
    TSR_TRY_GOTO(create_parts(zero));
    *out_zero = zero;
    zero = NULL;
done:
    tsr_zero_release(zero);
    return status;
}

/* What tasks use, once nothing is queued any more. */
static void release_memory(tsr_zero *zero) {
    for (size_t g = 0; g < zero->graphs.count; g++)
        (void)zero_drop_tensors(zero, zero->graphs.data[g]);
    for (size_t p = 0; p < zero->params.count; p++) {
        while (zero->params.data[p]->copies)
            (void)zero_copy_drop(zero, zero->params.data[p]->copies);
        zero_kept_release(zero, zero->params.data[p]);
        zero_param_release(zero, zero->params.data[p]);
    }
    for (int b = 0; b < 2; b++)
        zero_bucket_release(zero, &zero->buckets[b]);
    zero_pool_release(zero);
}

static void release_lists(tsr_zero *zero) {
    for (size_t g = 0; g < zero->graphs.count; g++)
        zero_graph_release(zero->graphs.data[g]);
    TSR_ARRAY_FREE(&zero->reloads);
    TSR_ARRAY_FREE(&zero->params);
    TSR_ARRAY_FREE(&zero->graphs);
    tsr_map_release(&zero->param_index);
    tsr_map_release(&zero->graph_index);
}

void tsr_zero_release(tsr_zero *zero) {
    if (!zero)
        return;
    /* Waits for our events may still be queued on streams of the caller. */
    for (int i = 0; i < zero->stream_count; i++) {
        tsr_stream_record(zero->streams[i].stream, zero->streams[i].event);
        tsr_event_synchronize(zero->streams[i].event);
    }
    (void)tsr_zero_synchronize(zero);
    release_memory(zero);
    for (int q = 0; q < ZERO_QUEUES; q++)
        zero_queue_release(&zero->queues[q]);
    zero_spare_release(zero);
    tsr_comm_shared_free(zero->options.reduce_comm, zero->shared);
    for (int b = 0; b < 2; b++)
        tsr_event_release(zero->buckets[b].reduced);
    for (int i = 0; i < zero->stream_count; i++)
        tsr_event_release(zero->streams[i].event);
    release_lists(zero);
    tsr_free(zero);
}

/* ---- small things ---- */

void tsr_zero_enable_profiling(tsr_zero *zero, bool on) {
    zero->profiling = on;
}

bool tsr_zero_is_profiling(const tsr_zero *zero) { return zero->profiling; }

tsr_zero_memory tsr_zero_memory_held(const tsr_zero *zero) {
    return zero->held;
}

/* Nothing to do: backward's course alone says what a step is. */
tsr_status tsr_zero_start_forward(tsr_zero *zero) {
    return zero_given(zero, __func__, "zero");
}

tsr_status tsr_zero_end_forward(tsr_zero *zero) {
    return zero_given(zero, __func__, "zero");
}
