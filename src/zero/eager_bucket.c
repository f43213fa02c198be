/* Gradient buckets: slots filled on the fill stream, reduced together.
 *
 *   empty --[reduce_grad]--> filling --[full, or end_backward]--> on the wire
 *   on the wire --[event reduced]--> empty
 *
 * A bucket costs bucket_bytes, or a larger gradient's slot; it is allocated
 * when first used and kept. A symmetric one costs bucket_bytes from the first
 * seal on, and the largest slot beyond that once there was one. */
#include "base/half.h"
#include "zero/eager.h"

#include <string.h>

/* ---- filling ---- */

/* One gradient into its slot, with a zeroed tail. Stage 1: into the sum that
 * is kept of the step's micro-steps, or that sum and the last one into a slot.
 */
typedef struct fill_task {
    const void *from;
    float *kept;          /* (count) NULL: no earlier micro-steps */
    bool kept_valid;      /* kept holds a sum */
    void *to;             /* NULL: add to kept only */
    size_t count, padded; /* elements */
    tsr_dtype dtype;
    float scale; /* before the sum; 1: none */
} fill_task;

/* `from` NULL: nothing but kept. */
static void add_to_kept(const fill_task *task) {
    for (size_t i = 0; i < task->count; i++) {
        float value =
            task->from ? tsr_load_real(task->from, task->dtype, i) * task->scale
                       : 0.0f;
        if (task->kept && task->kept_valid)
            value += task->kept[i];
        if (task->to)
            tsr_store_real(task->to, task->dtype, i, value);
        else
            task->kept[i] = value;
    }
}

static tsr_status run_fill(void *context) {
    const fill_task *task = context;
    size_t size = tsr_dtype_bytes(task->dtype);
    if (task->kept || task->scale < 1.0f)
        add_to_kept(task);
    else if (task->count > 0)
        memcpy(task->to, task->from, task->count * size);
    if (task->to)
        memset((char *)task->to + task->count * size, 0,
               (task->padded - task->count) * size);
    return TSR_OK;
}

/* Elements of a parameter's slot. */
static size_t slot_count(const tsr_zero *zero, const zero_param *param) {
    return zero->options.settings.stage == 3
               ? (size_t)(param->shard * zero->world)
               : (size_t)param->numel;
}

static size_t slot_bytes(const tsr_zero *zero, const zero_param *param) {
    return tsr_round_up(slot_count(zero, param) *
                            tsr_dtype_bytes(param->desc.communicated_dtype),
                        64);
}

/* slot NULL: keeps the gradient for the step's last micro-step. */
static tsr_status fill_slot(tsr_zero *zero, zero_param *param, const void *grad,
                            char *slot) {
    fill_task *task;
    size_t kept_bytes = (size_t)param->numel * sizeof(float);
    bool before = zero->options.settings.average == TSR_AVERAGE_BEFORE;
    if (!slot && !param->kept && kept_bytes > 0) {
        TSR_TRY(zero->allocator.alloc(zero->allocator.context, kept_bytes,
                                      zero->fill.stream,
                                      (void **)&param->kept));
        zero->held.buckets += kept_bytes;
    }
    TSR_TRY(zero_own(&zero->fill, 1, sizeof *task, (void **)&task));
    *task = (fill_task){.from = grad,
                        .kept = slot && !param->kept_valid ? NULL : param->kept,
                        .kept_valid = param->kept_valid,
                        .to = slot,
                        .count = (size_t)param->numel,
                        .padded = slot_count(zero, param),
                        .dtype = param->desc.communicated_dtype,
                        .scale = before ? 1.0f / (float)zero->world : 1.0f};
    param->kept_valid = !slot;
    TSR_TRY(zero_enqueue_owned(run_fill, task));
    return tsr_stream_record(zero->fill.stream, zero->fill.end);
}

/* ---- memory ---- */

static size_t bucket_bytes(const tsr_zero *zero) {
    return tsr_round_up(zero->options.settings.bucket_bytes, 64);
}

/* Each rank's buckets begin on a page of their own. */
tsr_status zero_share_buckets(tsr_zero *zero) {
    const tsr_zero_settings *settings = &zero->options.settings;
    size_t count = settings->double_buffer ? 2 : 1, one = bucket_bytes(zero);
    if (!settings->symmetric_memory || settings->stage < 3 || zero->shared)
        return TSR_OK;
    if (one > SIZE_MAX / 4 / (size_t)zero->world)
        return tsr_error(TSR_OUT_OF_MEMORY, "buckets of %zu bytes on %d ranks",
                         one, zero->world);
    size_t part = tsr_round_up(count * one, 4096);
    TSR_TRY(tsr_comm_shared_alloc(zero->options.reduce_comm,
                                  part * (size_t)zero->world, &zero->shared));
    for (size_t b = 0; b < count; b++)
        zero->buckets[b].shared =
            (char *)zero->shared + part * (size_t)zero->rank + b * one;
    zero->held.buckets += count * one;
    return TSR_OK;
}

static tsr_status grow_own(tsr_zero *zero, zero_bucket *bucket, size_t bytes) {
    if (bucket->own) {
        zero->allocator.free(zero->allocator.context, bucket->own,
                             bucket->own_bytes, zero->reduce.stream);
        zero->held.buckets -= bucket->own_bytes;
        bucket->own = bucket->memory = NULL;
    }
    TSR_TRY(zero->allocator.alloc(zero->allocator.context, bytes,
                                  zero->reduce.stream, (void **)&bucket->own));
    bucket->own_bytes = bytes;
    zero->held.buckets += bytes;
    /* The memory is ours from here on in the reduce stream's order. */
    return tsr_stream_record(zero->reduce.stream, bucket->reduced);
}

/* Room for `bytes`, all of the bucket being free. What the shared memory has no
 * room for lies in private memory, on all ranks alike. */
static tsr_status reserve(tsr_zero *zero, zero_bucket *bucket, size_t bytes) {
    size_t one = bucket_bytes(zero);
    if (bucket->shared && bytes <= one) {
        bucket->memory = bucket->shared;
        return TSR_OK;
    }
    if (!bucket->own || bucket->own_bytes < one || bucket->own_bytes < bytes)
        TSR_TRY(grow_own(zero, bucket,
                         tsr_round_up(one > bytes ? one : bytes, 64)));
    bucket->memory = bucket->own;
    return TSR_OK;
}

void zero_kept_release(tsr_zero *zero, zero_param *param) {
    size_t bytes = (size_t)param->numel * sizeof(float);
    if (param->kept) {
        zero->allocator.free(zero->allocator.context, param->kept, bytes,
                             zero->fill.stream);
        zero->held.buckets -= bytes;
    }
    param->kept = NULL;
    param->kept_valid = false;
}

void zero_bucket_release(tsr_zero *zero, zero_bucket *bucket) {
    if (bucket->own)
        zero->allocator.free(zero->allocator.context, bucket->own,
                             bucket->own_bytes, zero->reduce.stream);
    bucket->memory = bucket->own = bucket->shared = NULL;
    TSR_ARRAY_FREE(&bucket->entries);
}

/* ---- the wire ---- */

static float scale_after(const tsr_zero *zero) {
    return zero->options.settings.average == TSR_AVERAGE_AFTER
               ? 1.0f / (float)zero->world
               : 1.0f;
}

/* Stage 3: one grouped reduce-scatter, into the gradient shards. */
static tsr_status reduce_shards(tsr_zero *zero, zero_bucket *bucket) {
    tsr_reduce *reduces;
    size_t count = bucket->entries.count;
    TSR_TRY(zero_own(&zero->reduce, count, sizeof *reduces, (void **)&reduces));
    for (size_t i = 0; i < count; i++) {
        zero_param *param = bucket->entries.data[i].param;
        reduces[i] = (tsr_reduce){
            .full = bucket->memory + bucket->entries.data[i].offset,
            .shard = zero_address(&param->desc.grad),
            .count = (size_t)param->shard,
            .valid = (size_t)(param->shard * zero->world),
            .wire_dtype = param->desc.communicated_dtype,
            .out_dtype = param->desc.accumulated_dtype,
            .scale = scale_after(zero),
            .accumulate = bucket->entries.data[i].accumulate};
    }
    tsr_status status = tsr_comm_reduce_scatter(
        zero->options.reduce_comm, reduces, count, zero->reduce.stream);
    tsr_status freed = zero_enqueue_owned(NULL, reduces);
    return status != TSR_OK ? status : freed;
}

/* Stages 1 and 2: this rank's slice of a slot that was all-reduced. */
typedef struct slice {
    const void *slot;
    void *grad;
    size_t offset, count;
    tsr_dtype wire, accumulated;
    float scale;
    bool accumulate;
} slice;

typedef struct slices_task {
    size_t count;
    slice slices[];
} slices_task;

static void copy_slice(const slice *at) {
    for (size_t i = 0; i < at->count; i++) {
        float value =
            tsr_load_real(at->slot, at->wire, at->offset + i) * at->scale;
        if (at->accumulate)
            value += tsr_load_real(at->grad, at->accumulated, i);
        tsr_store_real(at->grad, at->accumulated, i, value);
    }
}

static tsr_status run_slices(void *context) {
    const slices_task *task = context;
    for (size_t i = 0; i < task->count; i++)
        copy_slice(&task->slices[i]);
    return TSR_OK;
}

static void fill_slices(const tsr_zero *zero, const zero_bucket *bucket,
                        slices_task *task) {
    task->count = bucket->entries.count;
    for (size_t i = 0; i < task->count; i++) {
        const zero_param *param = bucket->entries.data[i].param;
        task->slices[i] =
            (slice){.slot = bucket->memory + bucket->entries.data[i].offset,
                    .grad = zero_address(&param->desc.grad),
                    .offset = (size_t)param->desc.slice_offset,
                    .count = (size_t)param->desc.slice_count,
                    .wire = param->desc.communicated_dtype,
                    .accumulated = param->desc.accumulated_dtype,
                    .scale = scale_after(zero),
                    .accumulate = bucket->entries.data[i].accumulate};
    }
}

static tsr_status reduce_slices(tsr_zero *zero, zero_bucket *bucket) {
    slices_task *task;
    size_t count = bucket->entries.count;
    TSR_TRY(zero_own(&zero->reduce, 1, sizeof *task + count * sizeof(slice),
                     (void **)&task));
    fill_slices(zero, bucket, task);
    tsr_status status = TSR_OK;
    for (size_t i = 0; i < count && status == TSR_OK; i++) {
        zero_param *param = bucket->entries.data[i].param;
        status = tsr_comm_all_reduce(
            zero->options.reduce_comm,
            bucket->memory + bucket->entries.data[i].offset,
            (size_t)param->numel, param->desc.communicated_dtype,
            zero->reduce.stream);
    }
    if (status != TSR_OK) {
        zero_disown(task);
        return status;
    }
    return zero_enqueue_owned(run_slices, task);
}

static tsr_status flush(tsr_zero *zero, zero_bucket *bucket) {
    const tsr_zero_settings *settings = &zero->options.settings;
    if (settings->sync_before_reduce)
        TSR_TRY(zero_queue_synchronize(&zero->fill));
    TSR_TRY(zero_after_queue(zero->reduce.stream, &zero->fill));
    TSR_TRY(settings->stage == 3 ? reduce_shards(zero, bucket)
                                 : reduce_slices(zero, bucket));
    TSR_TRY(tsr_stream_record(zero->reduce.stream, bucket->reduced));
    bucket->entries.count = 0;
    bucket->used = 0;
    if (settings->double_buffer)
        zero->filling ^= 1;
    return settings->sync_after_reduce ? zero_queue_synchronize(&zero->reduce)
                                       : TSR_OK;
}

tsr_status zero_flush(tsr_zero *zero) {
    zero_bucket *bucket = &zero->buckets[zero->filling];
    return bucket->entries.count == 0 ? TSR_OK : flush(zero, bucket);
}

/* ---- the call ---- */

bool zero_waits(const tsr_zero *zero, const zero_param *param) {
    const zero_bucket *bucket = &zero->buckets[zero->filling];
    for (size_t i = 0; i < bucket->entries.count; i++)
        if (bucket->entries.data[i].param == param)
            return true;
    return false;
}

/* Into a slot of a bucket with room. grad NULL: what was kept of it. */
static tsr_status put_in_bucket(tsr_zero *zero, zero_param *param,
                                const void *grad) {
    size_t bytes = slot_bytes(zero, param);
    if (zero_waits(zero, param) || zero->buckets[zero->filling].used + bytes >
                                       zero->options.settings.bucket_bytes)
        TSR_TRY(zero_flush(zero));
    zero_bucket *bucket = &zero->buckets[zero->filling];
    TSR_TRY(TSR_ARRAY_RESERVE(&bucket->entries, 1));
    if (bucket->entries.count == 0) { /* the copy waits, not the caller */
        TSR_TRY(reserve(zero, bucket, bytes));
        TSR_TRY(tsr_stream_wait(zero->fill.stream, bucket->reduced));
    }
    TSR_TRY(fill_slot(zero, param, grad, bucket->memory + bucket->used));
    TSR_ARRAY_PUSH(&bucket->entries,
                   ((zero_entry){param, bucket->used, param->reduced}));
    param->reduced = true;
    bucket->used += bytes;
    return TSR_OK;
}

tsr_status zero_flush_kept(tsr_zero *zero) {
    for (size_t p = 0; p < zero->params.count; p++)
        if (zero->params.data[p]->kept_valid)
            TSR_TRY(put_in_bucket(zero, zero->params.data[p], NULL));
    return TSR_OK;
}

static tsr_status add_grad(tsr_zero *zero, zero_param *param, const void *grad,
                           tsr_stream *stream) {
    bool keep = zero->options.settings.stage == 1 && !zero->last_micro_step;
    TSR_TRY(zero_after(zero, zero->fill.stream, stream));
    return keep ? fill_slot(zero, param, grad, NULL)
                : put_in_bucket(zero, param, grad);
}

tsr_status tsr_zero_reduce_grad(tsr_zero *zero, int64_t graph, int64_t id,
                                const void *grad, tsr_stream *stream) {
    zero_param *param = NULL;
    zero_binding *binding = NULL;
    TSR_TRY(zero_find_param(zero, id, &param));
    TSR_TRY(zero_find_binding(zero, graph, id, &binding));
    if (zero->profiling)
        return TSR_OK;
    if (param->desc.frozen)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "parameter %lld is frozen and has no gradient",
                         (long long)id);
    if (!grad && param->numel > 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "parameter %lld: its gradient is NULL", (long long)id);
    TSR_TRY(tsr_zero_seal(zero, stream));
    return zero_give_up(zero, add_grad(zero, param, grad, stream));
}
