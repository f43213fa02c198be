/* The eager front: registry, streams, settings. Its nouns are in
 * eager_gather.c (copies) and eager_bucket.c (gradients). */
#include "zero/eager.h"

#include <string.h>

#include <xxhash.h>

/* Enough that a layer's gradients share a call, small enough to start early. */
#define DEFAULT_BUCKET_BYTES ((size_t)64 << 20)

/* ---- memory of our own, when the caller brings none ---- */

typedef struct block {
    tsr_device *device;
    void *memory;
    size_t bytes;
} block;

static tsr_status own_alloc(void *context, size_t bytes, tsr_stream *stream,
                            void **out_memory) {
    (void)stream;
    return tsr_device_alloc(context, bytes, out_memory);
}

static tsr_status free_block(void *context) {
    block *at = context;
    tsr_device_free(at->device, at->memory, at->bytes);
    return TSR_OK;
}

static void own_free(void *context, void *memory, size_t bytes,
                     tsr_stream *stream) {
    block *at;
    if (tsr_alloc(1, sizeof *at, (void **)&at) != TSR_OK) {
        tsr_stream_synchronize(stream); /* no memory to defer it with */
        tsr_device_free(context, memory, bytes);
        return;
    }
    *at = (block){context, memory, bytes};
    zero_enqueue_owned(stream, free_block, at);
}

/* ---- tasks that own their context ---- */

static tsr_status free_context(void *context) {
    tsr_free(context);
    return TSR_OK;
}

tsr_status zero_enqueue_owned(tsr_stream *stream, tsr_task task,
                              void *context) {
    tsr_status status =
        task ? tsr_stream_enqueue(stream, task, context) : TSR_OK;
    tsr_status freed = tsr_stream_enqueue(stream, free_context, context);
    return status != TSR_OK ? status : freed;
}

/* ---- streams of the caller ---- */

tsr_status zero_stream_index(tsr_zero *zero, tsr_stream *stream, int *out) {
    for (int i = 0; i < zero->stream_count; i++)
        if (zero->streams[i].stream == stream) {
            *out = i;
            return TSR_OK;
        }
    if (zero->stream_count == ZERO_STREAMS)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "more than %d streams use one tsr_zero", ZERO_STREAMS);
    zero_stream *added = &zero->streams[zero->stream_count];
    TSR_TRY(tsr_event_create(zero->options.device, &added->event));
    added->stream = stream;
    *out = zero->stream_count++;
    return TSR_OK;
}

tsr_status zero_after(tsr_zero *zero, tsr_stream *waiter, tsr_stream *stream) {
    int index;
    TSR_TRY(zero_stream_index(zero, stream, &index));
    TSR_TRY(tsr_stream_record(stream, zero->streams[index].event));
    return tsr_stream_wait(waiter, zero->streams[index].event);
}

/* ---- making ---- */

static tsr_status check_settings(const tsr_zero_settings *settings) {
    if (settings->stage < 1 || settings->stage > 3)
        return tsr_error(TSR_INVALID_ARGUMENT, "ZeRO stage %d is not 1, 2 or 3",
                         settings->stage);
    return TSR_OK;
}

static tsr_status create_parts(tsr_zero *zero) {
    tsr_device *device = zero->options.device;
    TSR_TRY(tsr_stream_create(device, TSR_STREAM_QUEUED, "gather", 0,
                              &zero->gather_stream));
    TSR_TRY(tsr_stream_create(device, TSR_STREAM_QUEUED, "reduce", 0,
                              &zero->reduce_stream));
    TSR_TRY(tsr_stream_create(device, TSR_STREAM_QUEUED, "bucket copy", 0,
                              &zero->copy_stream));
    TSR_TRY(tsr_event_create(device, &zero->filled));
    for (int b = 0; b < 2; b++)
        TSR_TRY(tsr_event_create(device, &zero->buckets[b].reduced));
    return TSR_OK;
}

tsr_status tsr_zero_create(const tsr_zero_options *options,
                           tsr_zero **out_zero) {
    tsr_status status = TSR_OK;
    tsr_zero *zero = NULL;
    *out_zero = NULL;
    TSR_TRY(check_settings(&options->settings));
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *zero, (void **)&zero));
    zero->options = *options;
    if (zero->options.settings.bucket_bytes == 0)
        zero->options.settings.bucket_bytes = DEFAULT_BUCKET_BYTES;
    zero->allocator = options->allocator ? *options->allocator
                                         : (tsr_allocator){own_alloc, own_free,
                                                           options->device};
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

void tsr_zero_release(tsr_zero *zero) {
    if (!zero)
        return;
    /* Waits for our events may still be queued on streams of the caller. */
    for (int i = 0; i < zero->stream_count; i++) {
        tsr_stream_record(zero->streams[i].stream, zero->streams[i].event);
        tsr_event_synchronize(zero->streams[i].event);
    }
    for (size_t p = 0; p < zero->params.count; p++) {
        while (zero->params.data[p]->copies)
            zero_copy_drop(zero, zero->params.data[p]->copies);
        zero_kept_release(zero, zero->params.data[p]);
        tsr_free(zero->params.data[p]);
    }
    for (int b = 0; b < 2; b++)
        zero_bucket_release(zero, &zero->buckets[b]);
    tsr_stream_release(zero->copy_stream);
    tsr_stream_release(zero->reduce_stream);
    tsr_stream_release(zero->gather_stream);
    for (int b = 0; b < 2; b++)
        tsr_event_release(zero->buckets[b].reduced);
    tsr_event_release(zero->filled);
    for (int i = 0; i < zero->stream_count; i++)
        tsr_event_release(zero->streams[i].event);
    for (size_t g = 0; g < zero->graphs.count; g++)
        release_graph(zero->graphs.data[g]);
    for (size_t e = 0; e < zero->gather_events.count; e++)
        tsr_event_release(zero->gather_events.data[e]);
    TSR_ARRAY_FREE(&zero->gather_events);
    TSR_ARRAY_FREE(&zero->params);
    TSR_ARRAY_FREE(&zero->graphs);
    tsr_map_release(&zero->param_index);
    tsr_map_release(&zero->graph_index);
    tsr_free(zero);
}

/* ---- parameters ---- */

tsr_status zero_find_param(const tsr_zero *zero, int64_t id,
                           zero_param **out_param) {
    int32_t index = tsr_map_get(&zero->param_index, id);
    if (index < 0)
        return tsr_error(TSR_NOT_FOUND, "parameter %lld is not registered",
                         (long long)id);
    *out_param = zero->params.data[index];
    return TSR_OK;
}

static tsr_status check_param(const tsr_zero *zero,
                              const tsr_zero_param *desc) {
    static const char *const names[] = {"gathered", "communicated",
                                        "accumulated"};
    tsr_dtype dtypes[] = {desc->gathered_dtype, desc->communicated_dtype,
                          desc->accumulated_dtype};
    int64_t numel = tsr_type_count(&desc->type);
    long long id = (long long)desc->id;
    if (desc->type.dims < 0 || desc->type.dims > TSR_MAX_DIMS || numel < 0)
        return tsr_error(TSR_INVALID_ARGUMENT, "parameter %lld: bad shape", id);
    for (int i = 0; i < 3; i++)
        if (dtypes[i] != TSR_F32 && dtypes[i] != TSR_BF16 &&
            dtypes[i] != TSR_F16)
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "parameter %lld: the %s dtype must be f32, bf16 "
                             "or f16",
                             id, names[i]);
    if (desc->granule < 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "parameter %lld: granule %lld is negative", id,
                         (long long)desc->granule);
    if (zero->options.settings.stage < 3 &&
        (desc->slice_offset < 0 || desc->slice_count < 0 ||
         desc->slice_offset > numel - desc->slice_count))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "parameter %lld: the slice [%lld, +%lld) is not "
                         "within its %lld elements",
                         id, (long long)desc->slice_offset,
                         (long long)desc->slice_count, (long long)numel);
    return TSR_OK;
}

/* Elements of the gradient buffer. */
static int64_t grad_count(const tsr_zero *zero, const zero_param *param) {
    return zero->options.settings.stage == 3 ? param->shard
                                             : param->desc.slice_count;
}

typedef struct zeroing {
    void *memory;
    size_t bytes;
} zeroing;

static tsr_status run_zeroing(void *context) {
    const zeroing *at = context;
    memset(at->memory, 0, at->bytes);
    return TSR_OK;
}

static tsr_status zero_grad(const tsr_zero *zero, const zero_param *param,
                            tsr_stream *stream) {
    zeroing *at;
    size_t bytes = (size_t)grad_count(zero, param) *
                   tsr_dtype_bytes(param->desc.accumulated_dtype);
    if (param->desc.frozen || bytes == 0)
        return TSR_OK;
    TSR_TRY(tsr_alloc(1, sizeof *at, (void **)&at));
    *at = (zeroing){zero_address(&param->desc.grad), bytes};
    return zero_enqueue_owned(stream, run_zeroing, at);
}

static tsr_status add_param(tsr_zero *zero, int64_t id, zero_param **out) {
    zero_param *param = NULL;
    TSR_TRY(TSR_ARRAY_RESERVE(&zero->params, 1));
    TSR_TRY(tsr_alloc(1, sizeof *param, (void **)&param));
    tsr_status status =
        tsr_map_set(&zero->param_index, id, (int32_t)zero->params.count);
    if (status != TSR_OK) {
        tsr_free(param);
        return status;
    }
    TSR_ARRAY_PUSH(&zero->params, param);
    *out = param;
    return TSR_OK;
}

tsr_status tsr_zero_register_param(tsr_zero *zero, const tsr_zero_param *desc,
                                   tsr_stream *stream) {
    zero_param *param = NULL;
    int32_t index = tsr_map_get(&zero->param_index, desc->id);
    TSR_TRY(check_param(zero, desc));
    if (index >= 0)
        param = zero->params.data[index];
    else
        TSR_TRY(add_param(zero, desc->id, &param));
    int64_t granule = desc->granule ? desc->granule : 1;
    int64_t part = granule * zero->world;
    param->desc = *desc;
    param->desc.granule = granule;
    param->numel = tsr_type_count(&desc->type);
    param->shard = (param->numel + part - 1) / part * granule;
    param->persistent = desc->persistent;
    param->version++;
    param->reduced = false;
    zero->sealed = false;
    return zero_grad(zero, param, stream);
}

tsr_status tsr_zero_update_param_grad_buffer(tsr_zero *zero, int64_t id,
                                             tsr_tensor grad,
                                             tsr_stream *stream) {
    zero_param *param = NULL;
    TSR_TRY(zero_find_param(zero, id, &param));
    param->desc.grad = grad;
    return zero_grad(zero, param, stream);
}

tsr_status tsr_zero_update_param_shard(tsr_zero *zero, int64_t id,
                                       tsr_tensor shard) {
    zero_param *param = NULL;
    TSR_TRY(zero_find_param(zero, id, &param));
    param->desc.shard = shard;
    return TSR_OK;
}

/* ---- seal ---- */

#define HASHED 10

/* What must be equal on all ranks. */
static uint64_t hash_param(const zero_param *param) {
    const tsr_zero_param *desc = &param->desc;
    uint64_t words[HASHED + TSR_MAX_DIMS] = {
        (uint64_t)desc->id,          (uint64_t)desc->type.dtype,
        (uint64_t)desc->type.dims,   (uint64_t)desc->granule,
        (uint64_t)desc->frozen,      (uint64_t)desc->gathered_dtype,
        (uint64_t)param->persistent, (uint64_t)desc->communicated_dtype,
        (uint64_t)param->shard,      (uint64_t)desc->accumulated_dtype};
    memcpy(words + HASHED, desc->type.shape,
           (size_t)desc->type.dims * sizeof(uint64_t));
    return XXH3_64bits(words,
                       (HASHED + (size_t)desc->type.dims) * sizeof *words);
}

/* Gathers `count` words of every rank and waits for them. */
static tsr_status exchange(tsr_zero *zero, const uint64_t *mine, size_t count,
                           uint64_t *all) {
    tsr_gather gather = {.shard = mine,
                         .full = all,
                         .count = count * sizeof *mine,
                         .dtype = TSR_U8};
    TSR_TRY(tsr_comm_gather(zero->options.gather_comm, &gather, 1,
                            zero->gather_stream));
    return tsr_stream_synchronize(zero->gather_stream);
}

static tsr_status compare_params(tsr_zero *zero, const uint64_t *mine,
                                 uint64_t *all) {
    size_t count = zero->params.count;
    TSR_TRY(exchange(zero, mine, count, all));
    for (size_t p = 0; p < count; p++)
        for (int r = 1; r < zero->world; r++)
            if (all[(size_t)r * count + p] != all[p])
                return tsr_error(
                    TSR_FAILED_PRECONDITION,
                    "ranks 0 and %d registered parameter %lld (the %zu. "
                    "one) differently",
                    r, (long long)zero->params.data[p]->desc.id, p + 1);
    return TSR_OK;
}

static tsr_status check_alike(tsr_zero *zero) {
    tsr_status status = TSR_OK;
    size_t count = zero->params.count;
    uint64_t own_count = count, *mine = NULL, *all = NULL;
    TSR_TRY_GOTO(tsr_alloc(count + 1, sizeof *mine, (void **)&mine));
    TSR_TRY_GOTO(tsr_alloc((count + 1) * (size_t)zero->world, sizeof *all,
                           (void **)&all));
    TSR_TRY_GOTO(exchange(zero, &own_count, 1, all));
    for (int r = 1; r < zero->world; r++)
        if (all[r] != all[0]) {
            status = tsr_error(
                TSR_FAILED_PRECONDITION,
                "rank 0 registered %llu parameters, rank %d %llu",
                (unsigned long long)all[0], r, (unsigned long long)all[r]);
            goto done;
        }
    for (size_t p = 0; p < count; p++)
        mine[p] = hash_param(zero->params.data[p]);
    status = compare_params(zero, mine, all);
done:
    tsr_free(all);
    tsr_free(mine);
    return status;
}

/* All persistent parameters without a valid copy, as one group. */
static tsr_status gather_persistent(tsr_zero *zero, tsr_stream *stream) {
    tsr_status status = TSR_OK;
    zero_param **params = NULL;
    tsr_dtype *dtypes = NULL;
    size_t count = 0;
    TSR_TRY_GOTO(tsr_alloc(zero->params.count + 1, sizeof(zero_param *),
                           (void **)&params));
    TSR_TRY_GOTO(
        tsr_alloc(zero->params.count + 1, sizeof *dtypes, (void **)&dtypes));
    for (size_t p = 0; p < zero->params.count; p++) {
        zero_param *param = zero->params.data[p];
        if (!param->persistent ||
            zero_valid_copy(param, param->desc.gathered_dtype))
            continue;
        dtypes[count] = param->desc.gathered_dtype;
        params[count++] = param;
    }
    if (count > 0)
        status = zero_gather(zero, params, dtypes, count, stream);
done:
    tsr_free(dtypes);
    tsr_free(params);
    return status;
}

tsr_status tsr_zero_seal(tsr_zero *zero, tsr_stream *stream) {
    if (zero->sealed)
        return TSR_OK;
    TSR_TRY(check_alike(zero));
    zero->sealed = true;
    return zero->options.settings.stage == 3 ? gather_persistent(zero, stream)
                                             : TSR_OK;
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
        TSR_TRY_GOTO(TSR_ARRAY_RESERVE(&zero->graphs, 1));
        TSR_TRY_GOTO(
            tsr_map_set(&zero->graph_index, id, (int32_t)zero->graphs.count));
        TSR_ARRAY_PUSH(&zero->graphs, graph);
    }
    graph = NULL;
done:
    release_graph(graph);
    return status;
}

tsr_status tsr_zero_reset(tsr_zero *zero, tsr_stream *stream) {
    int index;
    TSR_TRY(zero_stream_index(zero, stream, &index));
    TSR_TRY(tsr_stream_record(stream, zero->streams[index].event));
    for (size_t g = 0; g < zero->graphs.count; g++) {
        TSR_TRY(unbind_all(zero, zero->graphs.data[g]));
        release_graph(zero->graphs.data[g]);
        zero->graphs.data[g] = NULL;
    }
    zero->graphs.count = 0;
    tsr_map_release(&zero->graph_index);
    return TSR_OK;
}

tsr_status tsr_zero_abort_step(tsr_zero *zero, tsr_stream *stream) {
    int index;
    TSR_TRY(zero_stream_index(zero, stream, &index));
    TSR_TRY(tsr_stream_record(stream, zero->streams[index].event));
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

tsr_status tsr_zero_synchronize(tsr_zero *zero) {
    tsr_stream *streams[] = {zero->gather_stream, zero->copy_stream,
                             zero->reduce_stream};
    tsr_status first = TSR_OK;
    char message[TSR_MESSAGE_BYTES] = "";
    for (size_t s = 0; s < sizeof streams / sizeof *streams; s++) {
        tsr_status status = tsr_stream_synchronize(streams[s]);
        if (status == TSR_OK || first != TSR_OK)
            continue;
        first = status;
        memcpy(message, tsr_last_error(), strlen(tsr_last_error()) + 1);
    }
    return first == TSR_OK ? TSR_OK : tsr_error(first, "%s", message);
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

tsr_status tsr_zero_end_backward(tsr_zero *zero, tsr_stream *stream) {
    if (zero->profiling)
        return TSR_OK;
    TSR_TRY(zero_flush(zero));
    if (zero->last_micro_step) {
        /* On the reduce stream, which the caller waits for below. */
        for (size_t p = 0; p < zero->params.count; p++) {
            if (zero->params.data[p]->reduced)
                continue;
            TSR_TRY(zero_grad(zero, zero->params.data[p], zero->reduce_stream));
            zero->params.data[p]->reduced = true; /* later reduces add to 0 */
        }
        zero->step_open = false;
    }
    for (int b = 0; b < 2; b++) /* records are in order: the later one counts */
        TSR_TRY(
            tsr_stream_record(zero->reduce_stream, zero->buckets[b].reduced));
    TSR_TRY(tsr_stream_wait(stream, zero->buckets[0].reduced));
    return tsr_stream_wait(stream, zero->buckets[1].reduced);
}
