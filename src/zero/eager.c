/* The eager front: its life, graphs, steps. Its nouns are in eager_param.c,
 * eager_copy.c and eager_gather.c (copies), eager_bucket.c (gradients) and
 * eager_queue.c. */
#include "zero/eager.h"

/* Enough that a layer's gradients share a call, small enough to start early. */
#define DEFAULT_BUCKET_BYTES ((size_t)64 << 20)

/* ---- making ---- */

static tsr_status check_options(const tsr_zero_options *options) {
    const tsr_zero_settings *settings = &options->settings;
    if (!options->device || !options->gather_comm || !options->reduce_comm ||
        !options->kernels)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "the device, a communicator or the kernels are NULL");
    if (options->gather_comm == options->reduce_comm)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "gathers and reduces need a communicator each: "
                         "tsr_comm_split makes one");
    if (settings->stage < 1 || settings->stage > 3)
        return tsr_error(TSR_INVALID_ARGUMENT, "ZeRO stage %d is not 1, 2 or 3",
                         settings->stage);
    if (settings->average < TSR_AVERAGE_AFTER ||
        settings->average > TSR_AVERAGE_NONE)
        return tsr_error(TSR_INVALID_ARGUMENT, "average %d is none of its enum",
                         (int)settings->average);
    return TSR_OK;
}

static tsr_status create_parts(tsr_zero *zero) {
    tsr_device *device = zero->options.device;
    TSR_TRY(tsr_stream_create(device, TSR_STREAM_QUEUED, "gather", 0,
                              &zero->gather.stream));
    TSR_TRY(tsr_stream_create(device, TSR_STREAM_QUEUED, "reduce", 0,
                              &zero->reduce.stream));
    TSR_TRY(tsr_stream_create(device, TSR_STREAM_QUEUED, "bucket copy", 0,
                              &zero->copy.stream));
    TSR_TRY(tsr_event_create(device, &zero->gathers));
    TSR_TRY(tsr_event_create(device, &zero->reduces));
    TSR_TRY(tsr_event_create(device, &zero->copies));
    for (int b = 0; b < 2; b++)
        TSR_TRY(tsr_event_create(device, &zero->buckets[b].reduced));
    return TSR_OK;
}

tsr_status tsr_zero_create(const tsr_zero_options *options,
                           tsr_zero **out_zero) {
    tsr_status status = TSR_OK;
    tsr_zero *zero = NULL;
    *out_zero = NULL;
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

static void release_graph(zero_graph *graph) {
    if (!graph)
        return;
    tsr_map_release(&graph->index);
    TSR_ARRAY_FREE(&graph->bindings);
    tsr_free(graph);
}

/* What tasks use, once nothing is queued any more. */
static void release_memory(tsr_zero *zero) {
    for (size_t p = 0; p < zero->params.count; p++) {
        while (zero->params.data[p]->copies)
            (void)zero_copy_drop(zero, zero->params.data[p]->copies);
        zero_kept_release(zero, zero->params.data[p]);
        tsr_free(zero->params.data[p]);
    }
    for (int b = 0; b < 2; b++)
        zero_bucket_release(zero, &zero->buckets[b]);
}

static void release_queue(zero_queue *queue) {
    if (!queue->stream)
        return;
    (void)zero_queue_synchronize(queue);
    tsr_stream_release(queue->stream);
}

static void release_events(tsr_zero *zero) {
    for (int b = 0; b < 2; b++)
        tsr_event_release(zero->buckets[b].reduced);
    tsr_event_release(zero->gathers);
    tsr_event_release(zero->reduces);
    tsr_event_release(zero->copies);
    for (int i = 0; i < zero->stream_count; i++)
        tsr_event_release(zero->streams[i].event);
    for (size_t e = 0; e < zero->gather_events.count; e++)
        tsr_event_release(zero->gather_events.data[e]);
}

void tsr_zero_release(tsr_zero *zero) {
    if (!zero)
        return;
    /* Waits for our events may still be queued on streams of the caller. */
    for (int i = 0; i < zero->stream_count; i++) {
        tsr_stream_record(zero->streams[i].stream, zero->streams[i].event);
        tsr_event_synchronize(zero->streams[i].event);
    }
    if (zero->params.count > 0) /* else nothing is queued */
        (void)tsr_zero_synchronize(zero);
    release_memory(zero);
    release_queue(&zero->copy);
    release_queue(&zero->reduce);
    release_queue(&zero->gather);
    zero_spare_release(zero);
    release_events(zero);
    for (size_t g = 0; g < zero->graphs.count; g++)
        release_graph(zero->graphs.data[g]);
    TSR_ARRAY_FREE(&zero->gather_events);
    TSR_ARRAY_FREE(&zero->params);
    TSR_ARRAY_FREE(&zero->graphs);
    tsr_map_release(&zero->param_index);
    tsr_map_release(&zero->graph_index);
    tsr_free(zero);
}

/* ---- graphs ---- */

tsr_status zero_find_binding(const tsr_zero *zero, int64_t graph, int64_t id,
                             zero_binding **out_binding) {
    int32_t at = tsr_map_get(&zero->graph_index, graph);
    if (at < 0)
        return tsr_error(TSR_NOT_FOUND, "graph %lld is not registered",
                         (long long)graph);
    zero_graph *found = zero->graphs.data[at];
    int32_t binding = tsr_map_get(&found->index, id);
    if (binding < 0)
        return tsr_error(TSR_NOT_FOUND,
                         "graph %lld did not name parameter %lld",
                         (long long)graph, (long long)id);
    *out_binding = &found->bindings.data[binding];
    return TSR_OK;
}

static tsr_status fill_graph(const tsr_zero *zero, zero_graph *graph,
                             const int64_t *ids, size_t count) {
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->bindings, count));
    for (size_t i = 0; i < count; i++) {
        zero_param *param = NULL;
        TSR_TRY(zero_find_param(zero, ids[i], &param));
        if (tsr_map_get(&graph->index, ids[i]) >= 0)
            continue;
        TSR_TRY(
            tsr_map_set(&graph->index, ids[i], (int32_t)graph->bindings.count));
        TSR_ARRAY_PUSH(&graph->bindings, (zero_binding){0});
    }
    return TSR_OK;
}

/* Ends a graph's bindings as if each had its last release. */
static tsr_status unbind_all(tsr_zero *zero, zero_graph *graph) {
    for (size_t b = 0; b < graph->bindings.count; b++)
        TSR_TRY(zero_unbind(zero, &graph->bindings.data[b]));
    return TSR_OK;
}

static tsr_status add_graph(tsr_zero *zero, int64_t id, zero_graph *graph) {
    TSR_TRY(TSR_ARRAY_RESERVE(&zero->graphs, 1));
    TSR_TRY(tsr_map_set(&zero->graph_index, id, (int32_t)zero->graphs.count));
    TSR_ARRAY_PUSH(&zero->graphs, graph);
    return TSR_OK;
}

tsr_status tsr_zero_register_graph(tsr_zero *zero, int64_t id,
                                   const int64_t *ids, size_t count) {
    tsr_status status = TSR_OK;
    zero_graph *graph = NULL;
    int32_t index = tsr_map_get(&zero->graph_index, id);
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *graph, (void **)&graph));
    TSR_TRY_GOTO(fill_graph(zero, graph, ids, count));
    if (index >= 0) {
        TSR_TRY_GOTO(unbind_all(zero, zero->graphs.data[index]));
        release_graph(zero->graphs.data[index]);
        zero->graphs.data[index] = graph;
    } else {
        TSR_TRY_GOTO(add_graph(zero, id, graph));
    }
    graph = NULL;
done:
    release_graph(graph);
    return status;
}

tsr_status tsr_zero_reset(tsr_zero *zero, tsr_stream *stream) {
    TSR_TRY(zero_after(zero, zero->gather.stream, stream));
    for (size_t g = 0; g < zero->graphs.count; g++) {
        TSR_TRY(unbind_all(zero, zero->graphs.data[g]));
        release_graph(zero->graphs.data[g]);
        zero->graphs.data[g] = NULL;
    }
    zero->graphs.count = 0;
    tsr_map_release(&zero->graph_index);
    return TSR_OK;
}

/* ---- small things ---- */

void tsr_zero_enable_profiling(tsr_zero *zero, bool on) {
    zero->profiling = on;
}
bool tsr_zero_is_profiling(const tsr_zero *zero) { return zero->profiling; }
tsr_zero_memory tsr_zero_memory_held(const tsr_zero *zero) {
    return zero->held;
}

/* ---- steps ---- */

tsr_status tsr_zero_start_backward(tsr_zero *zero, bool update) {
    if (!zero->step_open)
        for (size_t p = 0; p < zero->params.count; p++)
            zero->params.data[p]->reduced = false;
    zero->step_open = true;
    zero->last_micro_step = update;
    return TSR_OK;
}

/* Gradients may go, and their buffers be read, after this. */
static tsr_status join_gradients(tsr_zero *zero, tsr_stream *stream) {
    TSR_TRY(zero_after_queue(stream, &zero->copy, zero->copies));
    return zero_after_queue(stream, &zero->reduce, zero->reduces);
}

/* Zeroes the gradient buffers that this step did not write, after their readers
 * on `stream`. */
static tsr_status zero_unreduced(tsr_zero *zero, tsr_stream *stream) {
    TSR_TRY(zero_after(zero, zero->reduce.stream, stream));
    for (size_t p = 0; p < zero->params.count; p++) {
        zero_param *param = zero->params.data[p];
        if (param->reduced)
            continue;
        TSR_TRY(zero_grad(zero, param));
        param->reduced = true; /* later reduces add to 0 */
    }
    return TSR_OK;
}

tsr_status tsr_zero_end_backward(tsr_zero *zero, tsr_stream *stream) {
    if (zero->profiling)
        return TSR_OK;
    if (zero->last_micro_step)
        TSR_TRY(zero_flush_kept(zero));
    TSR_TRY(zero_flush(zero));
    if (zero->last_micro_step) {
        TSR_TRY(zero_unreduced(zero, stream));
        /* The shards are written next: their readers come first. */
        TSR_TRY(zero_after_queue(stream, &zero->gather, zero->gathers));
        zero->step_open = false;
    }
    TSR_TRY(join_gradients(zero, stream));
    return tsr_comm_poll(zero->options.reduce_comm, NULL);
}

tsr_status tsr_zero_abort_step(tsr_zero *zero, tsr_stream *stream) {
    TSR_TRY(zero_after(zero, zero->gather.stream, stream));
    for (size_t g = 0; g < zero->graphs.count; g++)
        TSR_TRY(unbind_all(zero, zero->graphs.data[g]));
    for (int b = 0; b < 2; b++) {
        zero->buckets[b].entries.count = 0;
        zero->buckets[b].used = 0;
    }
    for (size_t p = 0; p < zero->params.count; p++)
        zero->params.data[p]->reduced = zero->params.data[p]->kept_valid =
            false;
    zero->step_open = false;
    zero->last_micro_step = false;
    /* Slots that nobody reduces are still being filled: before the reduce
     * stream frees them, it waits. */
    TSR_TRY(zero_after_queue(zero->reduce.stream, &zero->copy, zero->copies));
    return join_gradients(zero, stream);
}
