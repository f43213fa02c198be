/* Shards of parameters that go to the host and come back.
 *
 *   resident --[offload_parameter]--> away (leaving, then on host)
 *   away --[reload_parameter]--> resident (arriving at first)
 *
 * The host's copy, which costs the shard's bytes there, stays after the reload
 * until the weights change or room is short. So a parameter that is resident
 * has none or one of its present weights, and leaves again without a copy. */
#include "zero/eager.h"

static size_t shard_bytes(const zero_param *param) {
    return (size_t)param->shard * tsr_dtype_bytes(param->desc.type.dtype);
}

tsr_status zero_check_resident(const zero_param *param) {
    return param->away ? tsr_error(TSR_FAILED_PRECONDITION,
                                   "parameter %lld: its shard is on the host: "
                                   "reload_parameter first",
                                   (long long)param->desc.id)
                       : TSR_OK;
}

void zero_host_drop(tsr_zero *zero, zero_param *param) {
    zero_host_give(zero, param->host);
    param->host = NULL;
}

void zero_param_release(tsr_zero *zero, zero_param *param) {
    zero_host_drop(zero, param);
    zero_event_give(&zero->out, param->left);
    zero_event_give(&zero->in, param->arrived);
    tsr_free(param);
}

static tsr_status find_shard(const tsr_zero *zero, int64_t id,
                             zero_param **out_param) {
    TSR_TRY(zero_find_param(zero, id, out_param));
    return zero->options.settings.stage == 3
               ? TSR_OK
               : tsr_error(TSR_INVALID_ARGUMENT,
                           "parameter %lld: stage %d has no shards",
                           (long long)id, zero->options.settings.stage);
}

static tsr_status address_of(const zero_param *param, void **out_shard) {
    *out_shard = zero_address(&param->desc.shard);
    return *out_shard || param->shard == 0
               ? TSR_OK
               : tsr_error(TSR_INVALID_ARGUMENT,
                           "parameter %lld: shard is NULL",
                           (long long)param->desc.id);
}

/* ---- out ---- */

/* What may fail comes before anything changes. */
static tsr_status prepare(tsr_zero *zero, zero_param *param,
                          tsr_stream *stream) {
    if (!param->left)
        TSR_TRY(zero_event_take(&zero->out, &param->left));
    if (!param->arrived)
        TSR_TRY(zero_event_take(&zero->in, &param->arrived));
    return zero_after(zero, zero->out.stream, stream);
}

static tsr_status copy_shard(tsr_zero *zero, zero_param *param,
                             const void *shard) {
    TSR_TRY(zero_host_take(zero, shard_bytes(param), NULL, &param->host));
    tsr_status status = zero_copy_out(zero, param->host, shard);
    if (status != TSR_OK)
        zero_host_drop(zero, param);
    return status;
}

tsr_status tsr_zero_offload_parameter(tsr_zero *zero, int64_t id,
                                      tsr_stream *stream) {
    zero_param *param = NULL;
    void *shard;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(find_shard(zero, id, &param));
    if (param->away)
        return TSR_OK;
    TSR_TRY(address_of(param, &shard));
    TSR_TRY(prepare(zero, param, stream));
    if (!param->host && param->shard > 0)
        TSR_TRY(copy_shard(zero, param, shard));
    param->away = true;
    /* Casts and peers read the shard on the gather stream. */
    TSR_TRY(zero_after_queue(zero->out.stream, &zero->gather));
    TSR_TRY(tsr_stream_record(zero->out.stream, param->left));
    if (param->desc.shard.vacate)
        param->desc.shard.vacate(param->desc.shard.context, zero->out.stream);
    return TSR_OK;
}

/* ---- in ---- */

static tsr_status occupy(tsr_zero *zero, const zero_param *param,
                         void **out_shard) {
    const tsr_tensor *tensor = &param->desc.shard;
    if (tensor->occupy)
        TSR_TRY(tensor->occupy(tensor->context, zero->in.stream));
    tsr_status status = address_of(param, out_shard);
    if (status != TSR_OK && tensor->vacate)
        tensor->vacate(tensor->context, zero->in.stream);
    return status;
}

tsr_status tsr_zero_reload_parameter(tsr_zero *zero, int64_t id,
                                     tsr_stream *stream) {
    zero_param *param = NULL;
    void *shard;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(find_shard(zero, id, &param));
    if (!param->away)
        return TSR_OK;
    TSR_TRY(zero_after(zero, zero->in.stream, stream));
    TSR_TRY(tsr_stream_wait(zero->in.stream, param->left));
    TSR_TRY(occupy(zero, param, &shard));
    if (param->host)
        TSR_TRY(zero_copy_in(zero, param->host, shard));
    TSR_TRY(tsr_stream_record(zero->in.stream, param->arrived));
    TSR_TRY(tsr_stream_wait(zero->gather.stream, param->arrived));
    param->away = false;
    return tsr_stream_wait(stream, param->arrived);
}
