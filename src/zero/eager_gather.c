/* The calls that gather, wait and release. */
#include "zero/eager.h"

/* ---- several at once ---- */

/* Copies to be made: none is valid, none comes twice. */
typedef struct wanted_list {
    zero_param **params;
    tsr_dtype *dtypes;
    size_t count;
} wanted_list;

static tsr_status list_create(size_t room, wanted_list *list) {
    TSR_TRY(tsr_alloc(room, sizeof(zero_param *), (void **)&list->params));
    return tsr_alloc(room, sizeof *list->dtypes, (void **)&list->dtypes);
}

static void list_release(wanted_list *list) {
    tsr_free(list->params);
    tsr_free(list->dtypes);
}

static void list_add(wanted_list *list, zero_param *param, tsr_dtype dtype) {
    if (zero_valid_copy(param, dtype))
        return;
    for (size_t i = 0; i < list->count; i++)
        if (list->params[i] == param && list->dtypes[i] == dtype)
            return;
    list->dtypes[list->count] = dtype;
    list->params[list->count++] = param;
}

static tsr_status gather_list(tsr_zero *zero, const wanted_list *list,
                              tsr_stream *stream) {
    return list->count == 0 ? TSR_OK
                            : zero_gather(zero, list->params, list->dtypes,
                                          list->count, stream);
}

/* Refused alike on all ranks, hence not a reason to give up. */
static tsr_status check_persistent(const tsr_zero *zero) {
    for (size_t p = 0; p < zero->params.count; p++) {
        const zero_param *param = zero->params.data[p];
        if (param->persistent &&
            !zero_valid_copy(param, param->desc.gathered_dtype))
            TSR_TRY(zero_check_resident(param));
    }
    return TSR_OK;
}

tsr_status zero_gather_persistent(tsr_zero *zero, tsr_stream *stream) {
    tsr_status status = TSR_OK;
    wanted_list list = {0};
    TSR_TRY(check_persistent(zero));
    TSR_TRY_GOTO(list_create(zero->params.count, &list));
    for (size_t p = 0; p < zero->params.count; p++)
        if (zero->params.data[p]->persistent)
            list_add(&list, zero->params.data[p],
                     zero->params.data[p]->desc.gathered_dtype);
    TSR_TRY_GOTO(gather_list(zero, &list, stream));
done:
    list_release(&list);
    return zero_give_up(zero, status);
}

/* ---- calls ---- */

/* What all ranks refuse alike. */
static tsr_status check_gather(const tsr_zero *zero, const zero_param *param,
                               tsr_dtype dtype) {
    if (zero->options.settings.stage < 3)
        return tsr_error(TSR_FAILED_PRECONDITION,
                         "parameter %lld: stage %d gathers nothing, its "
                         "parameters are whole",
                         (long long)param->desc.id,
                         zero->options.settings.stage);
    if (dtype != TSR_F32 && dtype != TSR_BF16 && dtype != TSR_F16)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "parameter %lld: gathered as %s; f32, bf16 and f16 "
                         "are possible",
                         (long long)param->desc.id, tsr_dtype_name(dtype));
    return zero_valid_copy(param, dtype) ? TSR_OK : zero_check_resident(param);
}

/* Binds the latest version's copy, gathered if there is none. */
static tsr_status bind(tsr_zero *zero, tsr_zero_binding *binding,
                       zero_param *param, tsr_dtype dtype, tsr_stream *stream) {
    int index;
    TSR_TRY(zero_stream_index(zero, stream, &index));
    if (!zero_valid_copy(param, dtype))
        TSR_TRY(zero_gather(zero, &param, &dtype, 1, stream));
    zero_copy *copy = zero_valid_copy(param, dtype);
    copy->bindings++; /* first: the earlier hold may be on this very copy */
    if (binding->copy) {
        TSR_TRY(zero_released_on(zero, binding->copy, index));
        TSR_TRY(zero_unbind(zero, binding));
    }
    binding->copy = copy;
    binding->remaining = -1;
    return TSR_OK;
}

tsr_status tsr_zero_allgather_param(tsr_zero *zero, int64_t graph, int64_t id,
                                    tsr_dtype dtype, tsr_stream *stream,
                                    tsr_view *out_view) {
    zero_param *param = NULL;
    tsr_zero_binding *binding = NULL;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_given(out_view, __func__, "out_view"));
    TSR_TRY(zero_find_param(zero, id, &param));
    TSR_TRY(zero_find_binding(zero, graph, id, &binding));
    TSR_TRY(check_gather(zero, param, dtype));
    TSR_TRY(tsr_zero_seal(zero, stream));
    TSR_TRY(zero_give_up(zero, bind(zero, binding, param, dtype, stream)));
    *out_view = (tsr_view){binding->copy->memory, param->desc.type, binding};
    out_view->type.dtype = dtype;
    return TSR_OK;
}

tsr_status tsr_zero_prefetch_params_fused(tsr_zero *zero, const int64_t *ids,
                                          const tsr_dtype *dtypes, size_t count,
                                          tsr_stream *stream) {
    tsr_status status = TSR_OK;
    wanted_list list = {0};
    zero_param *param = NULL;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_given(count == 0 || ids, __func__, "ids"));
    for (size_t i = 0; i < count; i++) {
        TSR_TRY(zero_find_param(zero, ids[i], &param));
        TSR_TRY(check_gather(zero, param,
                             dtypes ? dtypes[i] : param->desc.gathered_dtype));
    }
    TSR_TRY(tsr_zero_seal(zero, stream));
    TSR_TRY_GOTO(list_create(count, &list));
    for (size_t i = 0; i < count; i++) {
        TSR_TRY_GOTO(zero_find_param(zero, ids[i], &param));
        list_add(&list, param, dtypes ? dtypes[i] : param->desc.gathered_dtype);
    }
    TSR_TRY_GOTO(gather_list(zero, &list, stream));
done:
    list_release(&list);
    return zero_give_up(zero, status);
}

tsr_status tsr_zero_wait_binding(tsr_zero *zero, tsr_zero_binding *binding,
                                 tsr_stream *stream) {
    int index;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_given(binding, __func__, "binding"));
    if (!binding->copy)
        return tsr_error(
            TSR_FAILED_PRECONDITION,
            "graph %lld waits for parameter %lld, which it has not gathered",
            (long long)binding->graph, (long long)binding->id);
    TSR_TRY(zero_stream_index(zero, stream, &index));
    binding->copy->read_on |= UINT64_C(1) << index;
    TSR_TRY(tsr_stream_wait(stream, binding->copy->gathered));
    return tsr_comm_poll(zero->options.gather_comm, NULL);
}

tsr_status tsr_zero_wait_allgather(tsr_zero *zero, int64_t graph, int64_t id,
                                   tsr_stream *stream) {
    tsr_zero_binding *binding = NULL;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_find_binding(zero, graph, id, &binding));
    return tsr_zero_wait_binding(zero, binding, stream);
}

tsr_status tsr_zero_release_binding(tsr_zero *zero, tsr_zero_binding *binding,
                                    int users, tsr_stream *stream) {
    int index;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_given(binding, __func__, "binding"));
    if (users < 1)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "parameter %lld: %d users; at least 1 is needed",
                         (long long)binding->id, users);
    if (!binding->copy)
        return zero->profiling
                   ? TSR_OK
                   : tsr_error(TSR_FAILED_PRECONDITION,
                               "graph %lld releases parameter %lld, which it "
                               "has not gathered",
                               (long long)binding->graph,
                               (long long)binding->id);
    TSR_TRY(zero_stream_index(zero, stream, &index));
    TSR_TRY(zero_released_on(zero, binding->copy, index));
    if (binding->remaining < 0)
        binding->remaining = users;
    return --binding->remaining > 0 ? TSR_OK : zero_end_binding(zero, binding);
}

tsr_status tsr_zero_release_param(tsr_zero *zero, int64_t graph, int64_t id,
                                  int users, tsr_stream *stream) {
    tsr_zero_binding *binding = NULL;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_find_binding(zero, graph, id, &binding));
    return tsr_zero_release_binding(zero, binding, users, stream);
}

/* ---- versions ---- */

tsr_status tsr_zero_weights_changed(tsr_zero *zero, const int64_t *ids,
                                    size_t count, tsr_stream *stream) {
    zero_param *param = NULL;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_given(count == 0 || ids, __func__, "ids"));
    for (size_t i = 0; i < count; i++) {
        TSR_TRY(zero_find_param(zero, ids[i], &param));
        TSR_TRY(zero_check_resident(param));
    }
    TSR_TRY(zero_after(zero, zero->gather.stream, stream));
    for (size_t i = 0; i < count; i++) {
        TSR_TRY(zero_find_param(zero, ids[i], &param));
        param->version++;
        zero_host_drop(zero, param);
        TSR_TRY(zero_sweep(zero, param));
    }
    return TSR_OK;
}

tsr_status tsr_zero_set_persistent(tsr_zero *zero, int64_t id,
                                   tsr_stream *stream) {
    zero_param *param = NULL;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_find_param(zero, id, &param));
    tsr_dtype dtype = param->desc.gathered_dtype;
    TSR_TRY(check_gather(zero, param, dtype));
    TSR_TRY(tsr_zero_seal(zero, stream));
    param->persistent = true;
    return zero_valid_copy(param, dtype)
               ? TSR_OK
               : zero_gather(zero, &param, &dtype, 1, stream);
}

tsr_status tsr_zero_invalidate_gathered_param(tsr_zero *zero, int64_t id) {
    zero_param *param = NULL;
    TSR_TRY(zero_given(zero, __func__, "zero"));
    TSR_TRY(zero_find_param(zero, id, &param));
    if (param->persistent)
        return TSR_OK;
    param->version++;
    return zero_sweep(zero, param);
}

tsr_status tsr_zero_clear_all_gathered_params(tsr_zero *zero) {
    TSR_TRY(zero_given(zero, __func__, "zero"));
    for (size_t p = 0; p < zero->params.count; p++)
        TSR_TRY(tsr_zero_invalidate_gathered_param(
            zero, zero->params.data[p]->desc.id));
    return TSR_OK;
}
