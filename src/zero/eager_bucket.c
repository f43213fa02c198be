/* Gradient buckets: their memory, and their way over the wire.
 *
 *   empty --[reduce_grad, grad_slot]--> filling
 *   filling --[full, or end_backward]--> on the wire
 *   on the wire --[event reduced]--> empty
 *   filling --[abort_step]--> dropped --[event reduced]--> empty
 *
 * A bucket costs bucket_bytes, or a larger gradient's slot; it is allocated
 * when first used and kept. A symmetric one costs bucket_bytes from the first
 * seal on, and the largest slot beyond that once there was one. */
#include "base/half.h"
#include "zero/eager.h"

/* ---- memory ---- */

size_t zero_bucket_bytes(const tsr_zero *zero) {
    return tsr_round_up(zero->options.settings.bucket_bytes, 64);
}

/* Each rank's buckets begin on a page of their own. */
tsr_status zero_share_buckets(tsr_zero *zero) {
    const tsr_zero_settings *settings = &zero->options.settings;
    size_t count = settings->double_buffer ? 2 : 1,
           one = zero_bucket_bytes(zero);
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

/* What the shared memory has no room for lies in private memory, on all ranks
 * alike. */
tsr_status zero_bucket_reserve(tsr_zero *zero, zero_bucket *bucket,
                               size_t bytes) {
    size_t one = zero_bucket_bytes(zero);
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

static void clear(zero_bucket *bucket) {
    for (size_t i = 0; i < bucket->entries.count; i++)
        bucket->entries.data[i].param->entry = 0;
    bucket->entries.count = 0;
    bucket->used = 0;
}

static tsr_status flush(tsr_zero *zero, zero_bucket *bucket) {
    const tsr_zero_settings *settings = &zero->options.settings;
    if (settings->sync_before_reduce)
        TSR_TRY(zero_queue_synchronize(&zero->fill));
    TSR_TRY(zero_after_queue(zero->reduce.stream, &zero->fill));
    TSR_TRY(settings->stage == 3 ? reduce_shards(zero, bucket)
                                 : reduce_slices(zero, bucket));
    TSR_TRY(tsr_stream_record(zero->reduce.stream, bucket->reduced));
    clear(bucket);
    if (settings->double_buffer)
        zero->filling ^= 1;
    return settings->sync_after_reduce ? zero_queue_synchronize(&zero->reduce)
                                       : TSR_OK;
}

tsr_status zero_flush(tsr_zero *zero) {
    zero_bucket *bucket = &zero->buckets[zero->filling];
    return bucket->entries.count == 0 ? TSR_OK : flush(zero, bucket);
}

tsr_status zero_drop_waiting(tsr_zero *zero) {
    zero_bucket *bucket = &zero->buckets[zero->filling];
    uint64_t writers = 0;
    for (size_t i = 0; i < bucket->entries.count; i++)
        writers |= bucket->entries.data[i].taken_on;
    clear(bucket);
    TSR_TRY(zero_after_all(zero, zero->reduce.stream, writers));
    TSR_TRY(zero_after_queue(zero->reduce.stream, &zero->fill));
    return tsr_stream_record(zero->reduce.stream, bucket->reduced);
}
