/* Gathered copies: made, shared, waited for, released. */
#include <string.h>

#include "graph/graph.h"
#include "zero/eager.h"

zero_copy *zero_valid_copy(const zero_param *param, tsr_dtype dtype) {
    for (zero_copy *copy = param->copies; copy; copy = copy->next)
        if (copy->version == param->version && copy->dtype == dtype)
            return copy;
    return NULL;
}

/* ---- end of a copy ---- */

/* The storage goes back when the gather stream has passed everybody who
 * released it: what is gathered next into these bytes comes after them. */
tsr_status zero_copy_drop(tsr_zero *zero, zero_copy *copy) {
    tsr_status status = TSR_OK;
    zero_copy **link = &copy->param->copies;
    while (*link != copy)
        link = &(*link)->next;
    *link = copy->next;
    for (int i = 0; i < zero->stream_count; i++)
        if (copy->released_on >> i & 1 && status == TSR_OK)
            status =
                tsr_stream_wait(zero->gather_stream, zero->streams[i].event);
    if (status != TSR_OK) /* unordered: wait for everything instead */
        for (int i = 0; i < zero->stream_count; i++)
            tsr_event_synchronize(zero->streams[i].event);
    if (copy->memory) {
        zero->allocator.free(zero->allocator.context, copy->memory, copy->bytes,
                             zero->gather_stream);
        zero->held.gathered -= copy->bytes;
    }
    /* Not released: a stream of the caller may still have a wait for it queued.
     * Recorded again, on the same stream, it only passes later. */
    TSR_ARRAY_PUSH(&zero->gather_events, copy->gathered);
    zero->copies_alive--;
    tsr_free(copy);
    return status;
}

static bool wanted(const zero_copy *copy) {
    return copy->bindings > 0 ||
           (copy->param->persistent && copy->version == copy->param->version);
}

static tsr_status drop_unless_wanted(tsr_zero *zero, zero_copy *copy) {
    return wanted(copy) ? TSR_OK : zero_copy_drop(zero, copy);
}

tsr_status zero_unbind(tsr_zero *zero, zero_binding *binding) {
    zero_copy *copy = binding->copy;
    *binding = (zero_binding){0};
    if (!copy)
        return TSR_OK;
    copy->bindings--;
    return drop_unless_wanted(zero, copy);
}

/* ---- gathering ---- */

/* A cast of the own shard, before the wire. */
typedef struct cast_task {
    const tsr_kernel *kernel;
    tsr_kernel_call call;
    tsr_type types[2];
    tsr_attr attr;
    const void *in[1];
    void *out[1];
} cast_task;

static tsr_status run_cast(void *context) {
    cast_task *task = context;
    return task->kernel->run(&task->call);
}

static tsr_status enqueue_cast(tsr_zero *zero, const zero_param *param,
                               tsr_dtype dtype, void *to) {
    cast_task *task;
    const tsr_kernel *kernel =
        tsr_kernel_table_find(zero->options.kernels, "cast");
    if (!kernel)
        return tsr_error(TSR_NOT_FOUND, "op 'cast' has no kernel");
    TSR_TRY(tsr_alloc(1, sizeof *task, (void **)&task));
    task->kernel = kernel;
    task->types[0] = (tsr_type){
        .dtype = param->desc.type.dtype, .dims = 1, .shape = {param->shard}};
    task->types[1] = task->types[0];
    task->types[1].dtype = dtype;
    task->attr = TSR_ATTR_INT("dtype", dtype);
    task->in[0] = zero_address(&param->desc.shard);
    task->out[0] = to;
    task->call = (tsr_kernel_call){.view = {.inputs = &task->types[0],
                                            .input_count = 1,
                                            .outputs = &task->types[1],
                                            .output_count = 1,
                                            .attrs = &task->attr,
                                            .attr_count = 1},
                                   .in = task->in,
                                   .out = task->out,
                                   .device = zero->options.device};
    return zero_enqueue_owned(zero->gather_stream, run_cast, task);
}

/* Room for it in gather_events is reserved, so that giving it back succeeds. */
static tsr_status take_event(tsr_zero *zero, tsr_event **out_event) {
    TSR_TRY(TSR_ARRAY_RESERVE(&zero->gather_events, zero->copies_alive + 1));
    if (zero->gather_events.count > 0) {
        *out_event = zero->gather_events.data[--zero->gather_events.count];
        return TSR_OK;
    }
    return tsr_event_create(zero->options.device, out_event);
}

static tsr_status new_copy(tsr_zero *zero, zero_param *param, tsr_dtype dtype,
                           zero_copy **out_copy) {
    zero_copy *copy = NULL;
    TSR_TRY(tsr_alloc(1, sizeof *copy, (void **)&copy));
    *copy = (zero_copy){.param = param,
                        .dtype = dtype,
                        .version = param->version,
                        .bytes = (size_t)(param->shard * zero->world) *
                                 tsr_dtype_bytes(dtype)};
    tsr_status status = take_event(zero, &copy->gathered);
    if (status != TSR_OK) {
        tsr_free(copy);
        return status;
    }
    if (copy->bytes > 0)
        status = zero->allocator.alloc(zero->allocator.context, copy->bytes,
                                       zero->gather_stream, &copy->memory);
    if (status != TSR_OK) {
        TSR_ARRAY_PUSH(&zero->gather_events, copy->gathered);
        tsr_free(copy);
        return status;
    }
    zero->held.gathered += copy->bytes;
    zero->copies_alive++;
    copy->next = param->copies;
    param->copies = copy;
    *out_copy = copy;
    return TSR_OK;
}

/* One group on its way: what must live until it has been enqueued. */
typedef struct group {
    size_t count;
    zero_copy **copies; /* (count) */
    void **casts; /* (count) own shards in the gathered dtype; NULL: the shard
                     itself */
    tsr_gather
        *gathers; /* (count) borrowed by the communicator: freed behind it */
} group;

static tsr_status prepare(tsr_zero *zero, zero_param *const *params,
                          const tsr_dtype *dtypes, group *made) {
    for (size_t i = 0; i < made->count; i++) {
        const zero_param *param = params[i];
        size_t bytes = (size_t)param->shard * tsr_dtype_bytes(dtypes[i]);
        TSR_TRY(new_copy(zero, params[i], dtypes[i], &made->copies[i]));
        void *shard = zero_address(&param->desc.shard);
        if (dtypes[i] != param->desc.type.dtype && bytes > 0) {
            TSR_TRY(zero->allocator.alloc(zero->allocator.context, bytes,
                                          zero->gather_stream,
                                          &made->casts[i]));
            zero->held.gathered += bytes;
            TSR_TRY(enqueue_cast(zero, param, dtypes[i], made->casts[i]));
            shard = made->casts[i];
        }
        made->gathers[i] = (tsr_gather){.shard = shard,
                                        .full = made->copies[i]->memory,
                                        .count = (size_t)param->shard,
                                        .dtype = dtypes[i]};
    }
    return TSR_OK;
}

static void free_casts(tsr_zero *zero, const group *made) {
    for (size_t i = 0; i < made->count; i++) {
        size_t bytes =
            made->gathers[i].count * tsr_dtype_bytes(made->gathers[i].dtype);
        if (!made->casts[i])
            continue;
        zero->allocator.free(zero->allocator.context, made->casts[i], bytes,
                             zero->gather_stream);
        zero->held.gathered -= bytes;
    }
}

static tsr_status launch(tsr_zero *zero, group *made) {
    TSR_TRY(tsr_comm_gather(zero->options.gather_comm, made->gathers,
                            made->count, zero->gather_stream));
    for (size_t i = 0; i < made->count; i++)
        TSR_TRY(
            tsr_stream_record(zero->gather_stream, made->copies[i]->gathered));
    return TSR_OK;
}

tsr_status zero_gather(tsr_zero *zero, zero_param *const *params,
                       const tsr_dtype *dtypes, size_t count,
                       tsr_stream *stream) {
    tsr_status status = TSR_OK;
    const tsr_zero_settings *settings = &zero->options.settings;
    group made = {.count = count};
    if (settings->sync_before_allgather)
        TSR_TRY(tsr_stream_synchronize(stream));
    TSR_TRY_GOTO(tsr_alloc(count, sizeof *made.copies, (void **)&made.copies));
    TSR_TRY_GOTO(tsr_alloc(count, sizeof *made.casts, (void **)&made.casts));
    TSR_TRY_GOTO(
        tsr_alloc(count, sizeof *made.gathers, (void **)&made.gathers));
    TSR_TRY_GOTO(zero_after(zero, zero->gather_stream,
                            stream)); /* the shards' last writer */
    TSR_TRY_GOTO(prepare(zero, params, dtypes, &made));
    TSR_TRY_GOTO(launch(zero, &made));
    if (settings->sync_after_allgather)
        status = tsr_stream_synchronize(zero->gather_stream);
done:
    if (made.gathers && made.casts)
        free_casts(zero, &made);
    for (size_t i = 0; status != TSR_OK && made.copies && i < count; i++)
        if (made.copies[i])
            (void)zero_copy_drop(zero, made.copies[i]);
    if (made.gathers)
        (void)zero_enqueue_owned(zero->gather_stream, NULL, made.gathers);
    tsr_free(made.casts);
    tsr_free(made.copies);
    return status;
}

/* ---- calls ---- */

tsr_status tsr_zero_allgather_param(tsr_zero *zero, int64_t graph, int64_t id,
                                    tsr_dtype dtype, tsr_stream *stream,
                                    tsr_view *out_view) {
    zero_param *param = NULL;
    zero_binding *binding = NULL;
    TSR_TRY(zero_find_param(zero, id, &param));
    TSR_TRY(zero_find_binding(zero, graph, id, &binding));
    TSR_TRY(tsr_zero_seal(zero, stream));
    if (!zero_valid_copy(param, dtype))
        TSR_TRY(zero_gather(zero, &param, &dtype, 1, stream));
    zero_copy *copy = zero_valid_copy(param, dtype), *before = binding->copy;
    copy->bindings++;
    *binding = (zero_binding){copy, -1};
    if (before) { /* the graph's earlier hold ends here */
        int index;
        TSR_TRY(zero_stream_index(zero, stream, &index));
        TSR_TRY(tsr_stream_record(stream, zero->streams[index].event));
        before->released_on |= UINT64_C(1) << index;
        before->bindings--;
        TSR_TRY(drop_unless_wanted(zero, before));
    }
    *out_view = (tsr_view){copy->memory, param->desc.type};
    out_view->type.dtype = dtype;
    return TSR_OK;
}

tsr_status tsr_zero_prefetch_params_fused(tsr_zero *zero, const int64_t *ids,
                                          const tsr_dtype *dtypes, size_t count,
                                          tsr_stream *stream) {
    tsr_status status = TSR_OK;
    zero_param **params = NULL;
    tsr_dtype *wanted_dtypes = NULL;
    size_t missing = 0;
    TSR_TRY(tsr_zero_seal(zero, stream));
    TSR_TRY_GOTO(tsr_alloc(count + 1, sizeof(zero_param *), (void **)&params));
    TSR_TRY_GOTO(
        tsr_alloc(count + 1, sizeof *wanted_dtypes, (void **)&wanted_dtypes));
    for (size_t i = 0; i < count; i++) {
        zero_param *param = NULL;
        bool listed = false;
        TSR_TRY_GOTO(zero_find_param(zero, ids[i], &param));
        tsr_dtype dtype = dtypes ? dtypes[i] : param->desc.gathered_dtype;
        for (size_t j = 0; j < missing; j++)
            listed =
                listed || (params[j] == param && wanted_dtypes[j] == dtype);
        if (listed || zero_valid_copy(param, dtype))
            continue;
        wanted_dtypes[missing] = dtype;
        params[missing++] = param;
    }
    if (missing > 0)
        status = zero_gather(zero, params, wanted_dtypes, missing, stream);
done:
    tsr_free(wanted_dtypes);
    tsr_free(params);
    return status;
}

tsr_status tsr_zero_wait_allgather(tsr_zero *zero, int64_t graph, int64_t id,
                                   tsr_stream *stream) {
    zero_binding *binding = NULL;
    TSR_TRY(zero_find_binding(zero, graph, id, &binding));
    if (!binding->copy)
        return tsr_error(
            TSR_FAILED_PRECONDITION,
            "graph %lld waits for parameter %lld, which it has not gathered",
            (long long)graph, (long long)id);
    return tsr_stream_wait(stream, binding->copy->gathered);
}

tsr_status tsr_zero_release_param(tsr_zero *zero, int64_t graph, int64_t id,
                                  int users, tsr_stream *stream) {
    zero_binding *binding = NULL;
    int index;
    TSR_TRY(zero_find_binding(zero, graph, id, &binding));
    if (users < 1)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "parameter %lld: %d users; at least 1 is needed",
                         (long long)id, users);
    if (!binding->copy)
        return zero->profiling ? TSR_OK
                               : tsr_error(TSR_FAILED_PRECONDITION,
                                           "graph %lld releases parameter "
                                           "%lld, which it has not gathered",
                                           (long long)graph, (long long)id);
    TSR_TRY(zero_stream_index(zero, stream, &index));
    TSR_TRY(tsr_stream_record(stream, zero->streams[index].event));
    binding->copy->released_on |= UINT64_C(1) << index;
    if (binding->remaining < 0)
        binding->remaining = users;
    return --binding->remaining > 0 ? TSR_OK : zero_unbind(zero, binding);
}

/* ---- versions ---- */

/* Copies that nobody is bound to any more and that are of no use. */
static tsr_status sweep(tsr_zero *zero, zero_param *param) {
    for (zero_copy *copy = param->copies, *next; copy; copy = next) {
        next = copy->next;
        TSR_TRY(drop_unless_wanted(zero, copy));
    }
    return TSR_OK;
}

tsr_status tsr_zero_weights_changed(tsr_zero *zero, const int64_t *ids,
                                    size_t count, tsr_stream *stream) {
    TSR_TRY(zero_after(zero, zero->gather_stream, stream));
    for (size_t i = 0; i < count; i++) {
        zero_param *param = NULL;
        TSR_TRY(zero_find_param(zero, ids[i], &param));
        param->version++;
        TSR_TRY(sweep(zero, param));
    }
    return TSR_OK;
}

tsr_status tsr_zero_set_persistent(tsr_zero *zero, int64_t id,
                                   tsr_stream *stream) {
    zero_param *param = NULL;
    TSR_TRY(zero_find_param(zero, id, &param));
    TSR_TRY(tsr_zero_seal(zero, stream));
    param->persistent = true;
    tsr_dtype dtype = param->desc.gathered_dtype;
    return zero_valid_copy(param, dtype)
               ? TSR_OK
               : zero_gather(zero, &param, &dtype, 1, stream);
}

tsr_status tsr_zero_invalidate_gathered_param(tsr_zero *zero, int64_t id) {
    zero_param *param = NULL;
    TSR_TRY(zero_find_param(zero, id, &param));
    if (param->persistent)
        return TSR_OK;
    param->version++;
    return sweep(zero, param);
}

tsr_status tsr_zero_clear_all_gathered_params(tsr_zero *zero) {
    for (size_t p = 0; p < zero->params.count; p++)
        TSR_TRY(tsr_zero_invalidate_gathered_param(
            zero, zero->params.data[p]->desc.id));
    return TSR_OK;
}
