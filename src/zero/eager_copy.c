/* Gathered copies: made, held by bindings, dropped. */
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
                tsr_stream_wait(zero->gather.stream, zero->streams[i].event);
    if (status != TSR_OK) /* unordered: wait for everything instead */
        for (int i = 0; i < zero->stream_count; i++)
            tsr_event_synchronize(zero->streams[i].event);
    if (copy->memory) {
        zero->allocator.free(zero->allocator.context, copy->memory, copy->bytes,
                             zero->gather.stream);
        zero->held.gathered -= copy->bytes;
    }
    zero_event_give(&zero->gather, copy->gathered);
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

tsr_status zero_released_on(tsr_zero *zero, zero_copy *copy, int index) {
    copy->released_on |= UINT64_C(1) << index;
    return tsr_stream_record(zero->streams[index].stream,
                             zero->streams[index].event);
}

tsr_status zero_end_binding(tsr_zero *zero, tsr_zero_binding *binding) {
    zero_copy *copy = binding->copy;
    binding->copy = NULL;
    copy->bindings--;
    return drop_unless_wanted(zero, copy);
}

tsr_status zero_unbind(tsr_zero *zero, tsr_zero_binding *binding) {
    zero_copy *copy = binding->copy;
    if (!copy)
        return TSR_OK;
    for (int i = 0; i < zero->stream_count; i++)
        if (copy->read_on >> i & 1)
            TSR_TRY(zero_released_on(zero, copy, i));
    return zero_end_binding(zero, binding);
}

tsr_status zero_sweep(tsr_zero *zero, zero_param *param) {
    for (zero_copy *copy = param->copies, *next; copy; copy = next) {
        next = copy->next;
        TSR_TRY(drop_unless_wanted(zero, copy));
    }
    return TSR_OK;
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
    TSR_TRY(zero_own(&zero->gather, 1, sizeof *task, (void **)&task));
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
    return zero_enqueue_owned(run_cast, task);
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
    tsr_status status = zero_event_take(&zero->gather, &copy->gathered);
    if (status != TSR_OK) {
        tsr_free(copy);
        return status;
    }
    if (copy->bytes > 0)
        status = zero->allocator.alloc(zero->allocator.context, copy->bytes,
                                       zero->gather.stream, &copy->memory);
    if (status != TSR_OK) {
        zero_event_give(&zero->gather, copy->gathered);
        tsr_free(copy);
        return status;
    }
    zero->held.gathered += copy->bytes;
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
        made->gathers[i] = (tsr_gather){.shard = shard,
                                        .full = made->copies[i]->memory,
                                        .count = (size_t)param->shard,
                                        .dtype = dtypes[i]};
        if (!shard && bytes > 0)
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "parameter %lld: shard is NULL",
                             (long long)param->desc.id);
        if (bytes > 0)
            TSR_TRY(zero_check_aligned(param, "shard", shard,
                                       param->desc.type.dtype));
        if (dtypes[i] != param->desc.type.dtype && bytes > 0) {
            TSR_TRY(zero->allocator.alloc(zero->allocator.context, bytes,
                                          zero->gather.stream,
                                          &made->casts[i]));
            zero->held.gathered += bytes;
            TSR_TRY(enqueue_cast(zero, param, dtypes[i], made->casts[i]));
            made->gathers[i].shard = made->casts[i];
        }
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
                             zero->gather.stream);
        zero->held.gathered -= bytes;
    }
}

static tsr_status launch(tsr_zero *zero, zero_param *const *params,
                         group *made) {
    for (size_t i = 0; i < made->count; i++)
        zero_remember(zero, ZERO_GATHER, params[i]->desc.id);
    TSR_TRY(tsr_comm_gather(zero->options.gather_comm, made->gathers,
                            made->count, zero->gather.stream));
    for (size_t i = 0; i < made->count; i++)
        TSR_TRY(
            tsr_stream_record(zero->gather.stream, made->copies[i]->gathered));
    return TSR_OK;
}

tsr_status zero_gather(tsr_zero *zero, zero_param *const *params,
                       const tsr_dtype *dtypes, size_t count,
                       tsr_stream *stream) {
    tsr_status status = TSR_OK;
    const tsr_zero_settings *settings = &zero->options.settings;
    group made = {.count = count};
    TSR_TRY(tsr_comm_poll(zero->options.gather_comm, NULL));
    if (settings->sync_before_allgather)
        TSR_TRY_GOTO(tsr_stream_synchronize(stream));
    TSR_TRY_GOTO(tsr_alloc(count, sizeof *made.copies, (void **)&made.copies));
    TSR_TRY_GOTO(tsr_alloc(count, sizeof *made.casts, (void **)&made.casts));
    TSR_TRY_GOTO(zero_own(&zero->gather, count, sizeof *made.gathers,
                          (void **)&made.gathers));
    TSR_TRY_GOTO(zero_after(zero, zero->gather.stream,
                            stream)); /* the shards' last writer */
    TSR_TRY_GOTO(prepare(zero, params, dtypes, &made));
    TSR_TRY_GOTO(launch(zero, params, &made));
    if (settings->sync_after_allgather)
        status = zero_queue_synchronize(&zero->gather);
done:
    if (made.gathers && made.casts)
        free_casts(zero, &made);
    for (size_t i = 0; status != TSR_OK && made.copies && i < count; i++)
        if (made.copies[i])
            (void)zero_copy_drop(zero, made.copies[i]);
    if (made.gathers)
        (void)zero_enqueue_owned(NULL, made.gathers);
    tsr_free(made.casts);
    tsr_free(made.copies);
    return zero_give_up(zero, status);
}
