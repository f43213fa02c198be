/* Slots of gradients, in the bucket that is being filled.
 *
 *   none --[grad_slot]--> taken --[reduce_grad]--> filled
 *   none --[reduce_grad]--> filled
 *   filled --[its bucket leaves]--> none;  any --[abort_step]--> none
 *
 * A bucket leaves when all its slots are filled, not before. One whose filling
 * failed counts as taken. */
#include "base/half.h"
#include "zero/eager.h"

#include <string.h>

/* ---- filling ---- */

/* One gradient into its slot, with a zeroed tail. Stage 1: into the sum that
 * is kept of the step's micro-steps, or that sum and the last one into a slot.
 */
typedef struct fill_task {
    const void *from;     /* == to: the gradient was made in its slot */
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
    else if (task->count > 0 && task->to != task->from)
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

/* ---- slots ---- */

/* In the bucket that is being filled; NULL: none. */
static zero_entry *find_entry(const tsr_zero *zero, const zero_param *param) {
    const zero_bucket *bucket = &zero->buckets[zero->filling];
    return param->entry ? &bucket->entries.data[param->entry - 1] : NULL;
}

static const zero_entry *first_unfilled(const tsr_zero *zero) {
    const zero_bucket *bucket = &zero->buckets[zero->filling];
    for (size_t i = 0; i < bucket->entries.count; i++)
        if (!bucket->entries.data[i].filled)
            return &bucket->entries.data[i];
    return NULL;
}

tsr_status zero_check_filled(const tsr_zero *zero) {
    const zero_entry *entry = first_unfilled(zero);
    return entry ? tsr_error(TSR_FAILED_PRECONDITION,
                             "parameter %lld: the bucket would be reduced, but "
                             "its slot there was taken and not reduced yet: "
                             "reduce_grad or abort_step first",
                             (long long)entry->param->desc.id)
                 : TSR_OK;
}

/* entry  the parameter's, or NULL */
static bool must_flush(const tsr_zero *zero, const zero_param *param,
                       const zero_entry *entry) {
    if (entry)
        return entry->filled;
    return zero->buckets[zero->filling].used + slot_bytes(zero, param) >
           zero->options.settings.bucket_bytes;
}

/* The parameter's slot, which it is to be given or to fill. */
static tsr_status take_entry(tsr_zero *zero, zero_param *param,
                             zero_entry **out_entry) {
    size_t bytes = slot_bytes(zero, param);
    zero_entry *entry = find_entry(zero, param);
    *out_entry = entry;
    if (entry && !entry->filled)
        return TSR_OK;
    if (must_flush(zero, param, entry))
        TSR_TRY(zero_flush(zero));
    zero_bucket *bucket = &zero->buckets[zero->filling];
    TSR_TRY(TSR_ARRAY_RESERVE(&bucket->entries, 1));
    if (bucket->entries.count == 0) { /* the copy waits, not the caller */
        TSR_TRY(zero_bucket_reserve(zero, bucket, bytes));
        TSR_TRY(tsr_stream_wait(zero->fill.stream, bucket->reduced));
    }
    TSR_ARRAY_PUSH(&bucket->entries,
                   ((zero_entry){.param = param, .offset = bucket->used}));
    bucket->used += bytes;
    param->entry = bucket->entries.count;
    *out_entry = find_entry(zero, param);
    return TSR_OK;
}

/* grad NULL: what was kept of it. A full bucket leaves. */
static tsr_status fill_entry(tsr_zero *zero, zero_entry *entry,
                             const void *grad) {
    const zero_bucket *bucket = &zero->buckets[zero->filling];
    TSR_TRY(
        fill_slot(zero, entry->param, grad, bucket->memory + entry->offset));
    entry->filled = true;
    entry->accumulate = entry->param->reduced;
    entry->param->reduced = true;
    bool full = bucket->used >= zero->options.settings.bucket_bytes;
    return full && !first_unfilled(zero) ? zero_flush(zero) : TSR_OK;
}

tsr_status zero_flush_kept(tsr_zero *zero) {
    zero_entry *entry = NULL;
    for (size_t p = 0; p < zero->params.count; p++) {
        if (!zero->params.data[p]->kept_valid)
            continue;
        TSR_TRY(take_entry(zero, zero->params.data[p], &entry));
        TSR_TRY(fill_entry(zero, entry, NULL));
    }
    return TSR_OK;
}

/* ---- calls ---- */

static bool in_bucket(const tsr_zero *zero, const void *address) {
    uintptr_t at = (uintptr_t)address;
    for (int b = 0; b < 2; b++) {
        const zero_bucket *bucket = &zero->buckets[b];
        uintptr_t shared = (uintptr_t)bucket->shared,
                  own = (uintptr_t)bucket->own;
        if ((shared && at - shared < zero_bucket_bytes(zero)) ||
            (own && at - own < bucket->own_bytes))
            return true;
    }
    return false;
}

/* Refused on all ranks alike. */
static tsr_status find_trained(const tsr_zero *zero, int64_t graph, int64_t id,
                               zero_param **out_param) {
    tsr_zero_binding *binding = NULL;
    TSR_TRY(zero_find_param(zero, id, out_param));
    TSR_TRY(zero_find_binding(zero, graph, id, &binding));
    return (*out_param)->desc.frozen && !zero->profiling
               ? tsr_error(TSR_INVALID_ARGUMENT,
                           "parameter %lld is frozen and has no gradient",
                           (long long)id)
               : TSR_OK;
}

static tsr_status check_source(const tsr_zero *zero, const zero_param *param,
                               const zero_entry *taken, const void *grad) {
    long long id = param->desc.id;
    if (param->numel == 0)
        return TSR_OK;
    if (!grad)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "parameter %lld: its gradient is NULL", id);
    bool own =
        taken && grad == zero->buckets[zero->filling].memory + taken->offset;
    return own || !in_bucket(zero, grad)
               ? TSR_OK
               : tsr_error(TSR_INVALID_ARGUMENT,
                           "parameter %lld: its gradient lies in a bucket, but "
                           "not in a slot that is taken for it",
                           id);
}

/* NULL: none, or filled. */
static zero_entry *find_taken(const tsr_zero *zero, const zero_param *param) {
    zero_entry *entry = find_entry(zero, param);
    return entry && !entry->filled ? entry : NULL;
}

/* A slot will not be needed now: stage 1 keeps the gradient. */
static bool keeps(const tsr_zero *zero) {
    return zero->options.settings.stage == 1 && !zero->last_micro_step;
}

static tsr_status check_room(const tsr_zero *zero, const zero_param *param) {
    return must_flush(zero, param, find_entry(zero, param))
               ? zero_check_filled(zero)
               : TSR_OK;
}

static tsr_status add_grad(tsr_zero *zero, zero_param *param, const void *grad,
                           tsr_stream *stream) {
    zero_entry *entry = find_taken(zero, param);
    bool keep = !entry && keeps(zero);
    int index;
    TSR_TRY(zero_stream_index(zero, stream, &index));
    if (!keep)
        TSR_TRY(take_entry(zero, param, &entry));
    uint64_t made_on = UINT64_C(1) << index | (keep ? 0 : entry->taken_on);
    TSR_TRY(zero_after_all(zero, zero->fill.stream, made_on));
    return keep ? fill_slot(zero, param, grad, NULL)
                : fill_entry(zero, entry, grad);
}

tsr_status tsr_zero_reduce_grad(tsr_zero *zero, int64_t graph, int64_t id,
                                const void *grad, tsr_stream *stream) {
    zero_param *param = NULL;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(find_trained(zero, graph, id, &param));
    if (zero->profiling)
        return TSR_OK;
    const zero_entry *taken = find_taken(zero, param);
    TSR_TRY(check_source(zero, param, taken, grad));
    if (!taken && !keeps(zero))
        TSR_TRY(check_room(zero, param));
    TSR_TRY(tsr_zero_seal(zero, stream));
    zero_remember(zero, ZERO_REDUCE, id);
    return zero_give_up(zero, add_grad(zero, param, grad, stream));
}

static tsr_status take_slot(tsr_zero *zero, zero_param *param,
                            tsr_stream *stream, void **out_slot) {
    zero_entry *entry = NULL;
    int index;
    TSR_TRY(zero_stream_index(zero, stream, &index));
    TSR_TRY(take_entry(zero, param, &entry));
    const zero_bucket *bucket = &zero->buckets[zero->filling];
    TSR_TRY(tsr_stream_wait(stream, bucket->reduced));
    entry->taken_on |= UINT64_C(1) << index;
    *out_slot = bucket->memory + entry->offset;
    return TSR_OK;
}

tsr_status tsr_zero_grad_slot(tsr_zero *zero, int64_t graph, int64_t id,
                              tsr_stream *stream, void **out_slot) {
    zero_param *param = NULL;
    TSR_TRY(zero_given(out_slot, __func__, "out_slot"));
    *out_slot = NULL;
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(find_trained(zero, graph, id, &param));
    if (zero->profiling)
        return TSR_OK;
    if (!find_taken(zero, param)) {
        if (keeps(zero))
            return TSR_OK;
        TSR_TRY(check_room(zero, param));
    }
    TSR_TRY(tsr_zero_seal(zero, stream));
    zero_remember(zero, ZERO_SLOT, id);
    return zero_give_up(zero, take_slot(zero, param, stream, out_slot));
}
