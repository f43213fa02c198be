/* Parameters: registered, and checked to be alike on all ranks. */
#include "zero/eager.h"

#include <string.h>

#include <xxhash.h>

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

/* Sizes stay far from where their sums and products could overflow. */
#define MOST_ELEMENTS (INT64_MAX / 64)

static tsr_status count_elements(const tsr_zero_param *desc,
                                 int64_t *out_numel) {
    const tsr_type *type = &desc->type;
    int64_t numel = 1;
    bool good = type->dims >= 0 && type->dims <= TSR_MAX_DIMS;
    for (int d = 0; good && d < type->dims; d++) {
        int64_t size = type->shape[d];
        good = size >= 0 && (size == 0 || numel <= MOST_ELEMENTS / size);
        numel *= good ? size : 1;
    }
    *out_numel = numel;
    return good ? TSR_OK
                : tsr_error(TSR_INVALID_ARGUMENT, "parameter %lld: bad shape",
                            (long long)desc->id);
}

static tsr_status check_dtypes(const tsr_zero_param *desc) {
    static const char *const names[] = {"stored", "gathered", "communicated",
                                        "accumulated"};
    tsr_dtype dtypes[] = {desc->type.dtype, desc->gathered_dtype,
                          desc->communicated_dtype, desc->accumulated_dtype};
    for (int i = 0; i < 4; i++)
        if (dtypes[i] != TSR_F32 && dtypes[i] != TSR_BF16 &&
            dtypes[i] != TSR_F16)
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "parameter %lld: the %s dtype must be f32, bf16 "
                             "or f16",
                             (long long)desc->id, names[i]);
    return TSR_OK;
}

tsr_status zero_check_aligned(const zero_param *param, const char *what,
                              const void *memory, tsr_dtype dtype) {
    size_t bytes = tsr_dtype_bytes(dtype);
    return (uintptr_t)memory % bytes == 0
               ? TSR_OK
               : tsr_error(TSR_INVALID_ARGUMENT,
                           "parameter %lld: %s is at %p: %s needs an address "
                           "that is a multiple of %zu",
                           (long long)param->desc.id, what, memory,
                           tsr_dtype_name(dtype), bytes);
}

static tsr_status check_grad(const zero_param *param, const tsr_tensor *grad,
                             int64_t count) {
    if (param->desc.frozen || count == 0)
        return TSR_OK;
    const void *memory = zero_address(grad);
    return memory
               ? zero_check_aligned(param, "grad", memory,
                                    param->desc.accumulated_dtype)
               : tsr_error(TSR_INVALID_ARGUMENT, "parameter %lld: grad is NULL",
                           (long long)param->desc.id);
}

/* It may have no memory yet. */
static tsr_status check_shard(const tsr_zero *zero, const zero_param *param,
                              const tsr_tensor *shard) {
    return zero->options.settings.stage < 3 || param->shard == 0
               ? TSR_OK
               : zero_check_aligned(param, "shard", zero_address(shard),
                                    param->desc.type.dtype);
}

static tsr_status check_slice(const zero_param *param) {
    const tsr_zero_param *desc = &param->desc;
    if (desc->slice_offset < 0 || desc->slice_count < 0 ||
        desc->slice_offset > param->numel - desc->slice_count)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "parameter %lld: the slice [%lld, +%lld) is not "
                         "within its %lld elements",
                         (long long)desc->id, (long long)desc->slice_offset,
                         (long long)desc->slice_count, (long long)param->numel);
    return TSR_OK;
}

/* Elements of the gradient buffer. */
static int64_t grad_count(const tsr_zero *zero, const zero_param *param) {
    return zero->options.settings.stage == 3 ? param->shard
                                             : param->desc.slice_count;
}

/* What a registration says of a parameter, checked. */
static tsr_status describe(const tsr_zero *zero, const tsr_zero_param *desc,
                           zero_param *out) {
    int64_t granule = desc->granule ? desc->granule : 1;
    *out = (zero_param){.desc = *desc, .persistent = desc->persistent};
    TSR_TRY(count_elements(desc, &out->numel));
    TSR_TRY(check_dtypes(desc));
    if (granule < 0 || granule > MOST_ELEMENTS / zero->world)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "parameter %lld: granule %lld is negative or too "
                         "large",
                         (long long)desc->id, (long long)granule);
    int64_t part = granule * zero->world;
    out->desc.granule = granule;
    out->shard = (out->numel + part - 1) / part * granule;
    if (zero->options.settings.stage < 3)
        TSR_TRY(check_slice(out));
    TSR_TRY(check_shard(zero, out, &desc->shard));
    return check_grad(out, &desc->grad, grad_count(zero, out));
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

tsr_status zero_grad(tsr_zero *zero, const zero_param *param) {
    zeroing *at;
    size_t bytes = (size_t)grad_count(zero, param) *
                   tsr_dtype_bytes(param->desc.accumulated_dtype);
    if (param->desc.frozen || bytes == 0)
        return TSR_OK;
    TSR_TRY(zero_own(&zero->reduce, 1, sizeof *at, (void **)&at));
    *at = (zeroing){zero_address(&param->desc.grad), bytes};
    return zero_enqueue_owned(run_zeroing, at);
}

/* Between what `stream` holds now and what comes there later. */
static tsr_status zero_grad_within(tsr_zero *zero, const zero_param *param,
                                   tsr_stream *stream) {
    TSR_TRY(zero_after(zero, zero->reduce.stream, stream));
    TSR_TRY(zero_grad(zero, param));
    return zero_join(zero, stream, &zero->reduce);
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

/* A new description for a parameter that is there. */
static tsr_status replace_param(tsr_zero *zero, zero_param *param,
                                const zero_param *described) {
    if (param->entry)
        return tsr_error(TSR_FAILED_PRECONDITION,
                         "parameter %lld is registered anew while a gradient "
                         "of it waits to be reduced, or its slot is taken",
                         (long long)param->desc.id);
    TSR_TRY(zero_check_resident(param));
    zero->sealed = false;
    zero_kept_release(zero, param);
    zero_host_drop(zero, param);
    param->desc = described->desc;
    param->numel = described->numel;
    param->shard = described->shard;
    param->persistent = described->persistent;
    param->reduced = false;
    param->version++;
    return zero_sweep(zero, param);
}

tsr_status tsr_zero_register_param(tsr_zero *zero, const tsr_zero_param *desc,
                                   tsr_stream *stream) {
    zero_param *param = NULL, described;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_given(desc, __func__, "param"));
    int32_t index = tsr_map_get(&zero->param_index, desc->id);
    TSR_TRY(describe(zero, desc, &described));
    if (index >= 0)
        param = zero->params.data[index];
    else
        TSR_TRY(add_param(zero, desc->id, &param));
    TSR_TRY(replace_param(zero, param, &described));
    return zero_grad_within(zero, param, stream);
}

tsr_status tsr_zero_update_param_grad_buffer(tsr_zero *zero, int64_t id,
                                             tsr_tensor grad,
                                             tsr_stream *stream) {
    zero_param *param = NULL;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_find_param(zero, id, &param));
    TSR_TRY(check_grad(param, &grad, grad_count(zero, param)));
    param->desc.grad = grad;
    return zero_grad_within(zero, param, stream);
}

tsr_status tsr_zero_update_param_grad_slice(tsr_zero *zero, int64_t id,
                                            tsr_tensor grad,
                                            int64_t slice_offset,
                                            int64_t slice_count,
                                            tsr_stream *stream) {
    zero_param *param = NULL;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_find_param(zero, id, &param));
    if (zero->options.settings.stage == 3)
        return tsr_error(TSR_FAILED_PRECONDITION,
                         "parameter %lld: stage 3 has shards of its own, no "
                         "slices",
                         (long long)id);
    zero_param changed = *param;
    changed.desc.slice_offset = slice_offset;
    changed.desc.slice_count = slice_count;
    TSR_TRY(check_slice(&changed));
    TSR_TRY(check_grad(param, &grad, slice_count));
    param->desc.slice_offset = slice_offset;
    param->desc.slice_count = slice_count;
    param->desc.grad = grad;
    return zero_grad_within(zero, param, stream);
}

tsr_status tsr_zero_update_param_shard(tsr_zero *zero, int64_t id,
                                       tsr_tensor shard) {
    zero_param *param = NULL;
    TSR_TRY(zero_given(zero, __func__, "zero"));
    TSR_TRY(zero_find_param(zero, id, &param));
    TSR_TRY(zero_check_resident(param));
    TSR_TRY(check_shard(zero, param, &shard));
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

/* Settings that decide which collectives are called, and when. */
static uint64_t hash_settings(const tsr_zero_settings *settings) {
    uint64_t words[] = {(uint64_t)settings->stage, settings->bucket_bytes,
                        settings->double_buffer, (uint64_t)settings->average,
                        settings->symmetric_memory};
    return XXH3_64bits(words, sizeof words);
}

/* Gathers `count` words of every rank and waits for them. */
static tsr_status exchange(tsr_zero *zero, const uint64_t *mine, size_t count,
                           uint64_t *all) {
    tsr_gather gather = {.shard = mine,
                         .full = all,
                         .count = count * sizeof *mine,
                         .dtype = TSR_U8};
    TSR_TRY(tsr_comm_gather(zero->options.gather_comm, &gather, 1,
                            zero->gather.stream));
    return zero_queue_synchronize(&zero->gather);
}

/* all  (world, 2): settings, parameters */
static tsr_status compare_heads(tsr_zero *zero, uint64_t *all) {
    uint64_t head[] = {hash_settings(&zero->options.settings),
                       zero->params.count};
    TSR_TRY(exchange(zero, head, 2, all));
    for (int r = 1; r < zero->world; r++) {
        const uint64_t *other = all + (size_t)r * 2;
        if (other[0] != all[0])
            return tsr_error(TSR_FAILED_PRECONDITION,
                             "ranks 0 and %d differ in stage, bucket_bytes, "
                             "double_buffer, average or symmetric_memory",
                             r);
        if (other[1] != all[1])
            return tsr_error(TSR_FAILED_PRECONDITION,
                             "rank 0 registered %llu parameters, rank %d %llu",
                             (unsigned long long)all[1], r,
                             (unsigned long long)other[1]);
    }
    return TSR_OK;
}

/* mine, all  (count), (world, count) */
static tsr_status compare_params(tsr_zero *zero, uint64_t *mine,
                                 uint64_t *all) {
    size_t count = zero->params.count;
    for (size_t p = 0; p < count; p++)
        mine[p] = hash_param(zero->params.data[p]);
    TSR_TRY(exchange(zero, mine, count, all));
    for (size_t p = 0; p < count; p++)
        for (int r = 1; r < zero->world; r++)
            if (all[(size_t)r * count + p] != all[p])
                return tsr_error(
                    TSR_FAILED_PRECONDITION,
                    "ranks 0 and %d registered parameter %lld (number %zu, "
                    "from 0) differently",
                    r, (long long)zero->params.data[p]->desc.id, p);
    return TSR_OK;
}

static tsr_status check_alike(tsr_zero *zero) {
    tsr_status status = TSR_OK;
    size_t words = zero->params.count > 2 ? zero->params.count : 2;
    uint64_t *mine = NULL, *all = NULL;
    TSR_TRY_GOTO(tsr_alloc(words, sizeof *mine, (void **)&mine));
    TSR_TRY_GOTO(
        tsr_alloc(words * (size_t)zero->world, sizeof *all, (void **)&all));
    TSR_TRY_GOTO(compare_heads(zero, all));
    status = compare_params(zero, mine, all);
done:
    tsr_free(all);
    tsr_free(mine);
    return status;
}

tsr_status tsr_zero_seal(tsr_zero *zero, tsr_stream *stream) {
    TSR_TRY(zero_check_call(zero, stream, __func__));
    if (zero->sealed)
        return TSR_OK;
    tsr_status status = check_alike(zero);
    if (status == TSR_FAILED_PRECONDITION)
        return status; /* on all ranks */
    TSR_TRY(zero_give_up(zero, status));
    TSR_TRY(zero_share_buckets(zero));
    if (zero->options.settings.stage == 3)
        TSR_TRY(zero_gather_persistent(zero, stream));
    zero->sealed = true;
    return TSR_OK;
}
