/* Tensors of the caller's that go to the host and come back.
 *
 *   absent --[offload_tensor]--> leaving --[event left]--> on host
 *   on host --[reload_tensor]--> arriving --[event arrived]--> back
 *   back --[free_tensors]--> absent
 *   any --[offload_tensor]--> leaving; any --[graph ends]--> absent
 *
 * On host costs its bytes there; arriving and back cost them on the device: the
 * host's buffer is in the pool again as soon as the copy in is queued. */
#include "zero/eager.h"

/* ---- lookups ---- */

static zero_tensor *get_tensor(const zero_graph *graph, int64_t id) {
    int32_t at = tsr_map_get(&graph->tensor_index, id);
    return at < 0 ? NULL : graph->tensors.data[at];
}

/* One that was offloaded. */
static tsr_status find_tensor(const tsr_zero *zero, int64_t graph, int64_t id,
                              zero_graph **out_graph,
                              zero_tensor **out_tensor) {
    TSR_TRY(zero_find_graph(zero, graph, out_graph));
    *out_tensor = get_tensor(*out_graph, id);
    return *out_tensor && (*out_tensor)->bytes > 0
               ? TSR_OK
               : tsr_error(TSR_NOT_FOUND,
                           "graph %lld has not offloaded a tensor %lld",
                           (long long)graph, (long long)id);
}

static tsr_status add_tensor(tsr_zero *zero, zero_graph *graph, int64_t id,
                             zero_tensor **out_tensor) {
    tsr_status status = TSR_OK;
    zero_tensor *tensor = NULL;
    TSR_TRY_GOTO(TSR_ARRAY_RESERVE(&graph->tensors, 1));
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *tensor, (void **)&tensor));
    tensor->reload = -1;
    TSR_TRY_GOTO(zero_event_take(&zero->out, &tensor->left));
    TSR_TRY_GOTO(
        tsr_map_set(&graph->tensor_index, id, (int32_t)graph->tensors.count));
    TSR_ARRAY_PUSH(&graph->tensors, tensor);
    *out_tensor = tensor;
    tensor = NULL;
done:
    if (tensor)
        zero_event_give(&zero->out, tensor->left);
    tsr_free(tensor);
    return status;
}

/* ---- reloads ---- */

static void remove_reload(tsr_zero *zero, size_t at) {
    zero_reload *gone = &zero->reloads.data[at];
    const zero_reload *last = &zero->reloads.data[zero->reloads.count - 1];
    if (gone->tensor)
        gone->tensor->reload = -1;
    if (last != gone && last->tensor)
        last->tensor->reload = (int)at;
    zero_event_give(&zero->in, gone->arrived);
    zero->allocator.free(zero->allocator.context, gone->memory, gone->bytes,
                         zero->in.stream);
    zero->held.reloaded -= gone->bytes;
    *gone = *last;
    zero->reloads.count--;
}

/* The in stream goes on after everybody who waited for the tensor. */
static tsr_status wait_for_readers(tsr_zero *zero, const zero_reload *reload) {
    for (int i = 0; i < zero->stream_count; i++)
        if (reload->read_on >> i & 1)
            TSR_TRY(zero_after(zero, zero->in.stream, zero->streams[i].stream));
    return TSR_OK;
}

tsr_status zero_drop_tensors(tsr_zero *zero, zero_graph *graph) {
    for (size_t r = zero->reloads.count; r-- > 0;) {
        if (zero->reloads.data[r].graph != graph)
            continue;
        TSR_TRY(wait_for_readers(zero, &zero->reloads.data[r]));
        remove_reload(zero, r);
    }
    for (size_t t = 0; t < graph->tensors.count; t++) {
        zero_tensor *tensor = graph->tensors.data[t];
        zero_host_give(zero, tensor->host);
        zero_event_give(&zero->out, tensor->left);
        tsr_free(tensor);
    }
    graph->tensors.count = 0;
    tsr_map_release(&graph->tensor_index);
    return TSR_OK;
}

/* ---- calls ---- */

tsr_status tsr_zero_offload_tensor(tsr_zero *zero, int64_t graph, int64_t id,
                                   const void *tensor, size_t bytes,
                                   tsr_stream *stream, void **out_host) {
    zero_graph *of = NULL;
    if (out_host)
        *out_host = NULL;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_find_graph(zero, graph, &of));
    if (!tensor || bytes == 0)
        return tsr_error(TSR_INVALID_ARGUMENT, "graph %lld: tensor %lld is %s",
                         (long long)graph, (long long)id,
                         tensor ? "0 bytes long" : "NULL");
    zero_tensor *at = get_tensor(of, id);
    if (!at)
        TSR_TRY(add_tensor(zero, of, id, &at));
    TSR_TRY(zero_after(zero, zero->out.stream, stream));
    TSR_TRY(zero_host_take(zero, bytes, at->host, &at->host));
    if (at->reload >= 0) /* that one is the caller's until free_tensors */
        zero->reloads.data[at->reload].tensor = NULL;
    at->reload = -1;
    at->bytes = bytes;
    TSR_TRY(zero_copy_out(zero, at->host, tensor));
    if (out_host)
        *out_host = at->host->memory;
    return tsr_stream_record(zero->out.stream, at->left);
}

tsr_status tsr_zero_wait_offload(tsr_zero *zero, int64_t graph, int64_t id,
                                 tsr_stream *stream) {
    zero_graph *of = NULL;
    zero_tensor *tensor = NULL;
    int index; /* known: tsr_zero_release waits for what it waits for */
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(find_tensor(zero, graph, id, &of, &tensor));
    TSR_TRY(zero_stream_index(zero, stream, &index));
    return tsr_stream_wait(stream, tensor->left);
}

static tsr_status reload(tsr_zero *zero, zero_graph *graph,
                         zero_tensor *tensor) {
    zero_reload made = {
        .bytes = tensor->bytes, .graph = graph, .tensor = tensor};
    TSR_TRY(TSR_ARRAY_RESERVE(&zero->reloads, 1));
    TSR_TRY(zero_event_take(&zero->in, &made.arrived));
    tsr_status status = zero->allocator.alloc(
        zero->allocator.context, made.bytes, zero->in.stream, &made.memory);
    if (status != TSR_OK) {
        zero_event_give(&zero->in, made.arrived);
        return status;
    }
    zero->held.reloaded += made.bytes;
    tensor->reload = (int)zero->reloads.count;
    TSR_ARRAY_PUSH(&zero->reloads, made);
    TSR_TRY(tsr_stream_wait(zero->in.stream, tensor->left));
    TSR_TRY(zero_copy_in(zero, tensor->host, made.memory));
    zero_host_give(zero, tensor->host);
    tensor->host = NULL;
    return tsr_stream_record(zero->in.stream, made.arrived);
}

tsr_status tsr_zero_reload_tensor(tsr_zero *zero, int64_t graph, int64_t id,
                                  tsr_stream *stream, void **out_tensor) {
    zero_graph *of = NULL;
    zero_tensor *tensor = NULL;
    if (out_tensor)
        *out_tensor = NULL;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(find_tensor(zero, graph, id, &of, &tensor));
    if (tensor->reload < 0) {
        if (!tensor->host)
            return tsr_error(TSR_NOT_FOUND,
                             "graph %lld: tensor %lld was reloaded and freed",
                             (long long)graph, (long long)id);
        TSR_TRY(zero_after(zero, zero->in.stream, stream));
        TSR_TRY(reload(zero, of, tensor));
    }
    if (out_tensor)
        *out_tensor = zero->reloads.data[tensor->reload].memory;
    return TSR_OK;
}

tsr_status tsr_zero_wait_reload(tsr_zero *zero, int64_t graph, int64_t id,
                                void *input, tsr_stream *stream,
                                void **out_tensor) {
    zero_graph *of = NULL;
    int index;
    if (out_tensor)
        *out_tensor = NULL;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_find_graph(zero, graph, &of));
    const zero_tensor *tensor = get_tensor(of, id);
    if (tensor && tensor->reload >= 0) {
        zero_reload *from = &zero->reloads.data[tensor->reload];
        TSR_TRY(zero_stream_index(zero, stream, &index));
        from->read_on |= UINT64_C(1) << index;
        input = from->memory;
        TSR_TRY(tsr_stream_wait(stream, from->arrived));
    }
    if (out_tensor)
        *out_tensor = input;
    return TSR_OK;
}

static int find_reload(const tsr_zero *zero, const void *memory) {
    for (size_t r = 0; r < zero->reloads.count; r++)
        if (zero->reloads.data[r].memory == memory)
            return (int)r;
    return -1;
}

tsr_status tsr_zero_free_tensors(tsr_zero *zero, void *const *tensors,
                                 size_t count, tsr_stream *stream) {
    bool ordered = false;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_given(count == 0 || tensors, __func__, "tensors"));
    for (size_t i = 0; i < count && !zero->profiling; i++) {
        int at = find_reload(zero, tensors[i]);
        if (at < 0)
            continue;
        if (!ordered)
            TSR_TRY(zero_after(zero, zero->in.stream, stream));
        ordered = true;
        remove_reload(zero, (size_t)at);
    }
    return TSR_OK;
}
