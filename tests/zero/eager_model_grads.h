/* The model's gradients: buckets, steps, buffers. */
#ifndef TSR_TESTS_ZERO_EAGER_MODEL_GRADS_H
#define TSR_TESTS_ZERO_EAGER_MODEL_GRADS_H

#include "zero/eager_model.h"

/* ---- buckets ---- */

static inline size_t model_slot_bytes(const model *m,
                                      const model_param *param) {
    int64_t count =
        m->settings->stage == 3 ? param->shard * m->world : param->numel;
    return model_round_up((size_t)count * tsr_dtype_bytes(param->communicated));
}

/* Into the buffer. */
static inline void model_write(model_param *param, const float *values,
                               bool adds) {
    float error = adds ? param->slack : 0;
    for (int64_t i = 0; i < param->numel; i++) {
        param->sum[i] = (adds ? param->sum[i] : 0) + values[i];
        error =
            fmaxf(error, (adds ? param->slack : 0) +
                             model_rounding(param->sum[i], param->accumulated));
    }
    param->slack = error;
    param->known = param->known || !adds;
    param->readable = 0;
}

static inline void model_flush(model *m) {
    model_bucket *bucket = &m->buckets[m->filling];
    if (bucket->count == 0)
        return;
    for (int i = 0; i < bucket->count; i++) {
        model_param *param = &m->params[bucket->params[i]];
        model_write(param, param->pending, param->adds);
        param->waiting = false;
    }
    bucket->count = 0;
    bucket->used = 0;
    m->filling ^= m->settings->double_buffer;
}

/* A slot of a bucket with room, of another parameter each. One beyond what is
 * shared lies in memory of the bucket's own. */
static inline void model_take(model *m, int id) {
    model_param *param = &m->params[id];
    size_t bytes = model_slot_bytes(m, param);
    size_t room = model_round_up(m->settings->bucket_bytes);
    model_bucket *bucket = &m->buckets[m->filling];
    bucket->params[bucket->count++] = id;
    bucket->used += bytes;
    if (bucket->count == 1 && !(m->shared && bytes <= room)) {
        size_t own = bytes > room ? bytes : room;
        bucket->bytes = bucket->bytes > own ? bucket->bytes : own;
    }
    param->taken = true;
}

/* A slot in the bucket that is being filled was taken and not filled. */
static inline bool model_holds_up(const model *m) {
    const model_bucket *bucket = &m->buckets[m->filling];
    for (int i = 0; i < bucket->count; i++)
        if (m->params[bucket->params[i]].taken)
            return true;
    return false;
}

static inline bool model_full(const model *m) {
    return m->buckets[m->filling].used >= m->settings->bucket_bytes;
}

/* `pending` is in its slot. */
static inline void model_fill(model *m, int id) {
    model_param *param = &m->params[id];
    param->taken = false;
    param->waiting = true;
    param->adds = param->reduced;
    param->reduced = true;
    if (model_full(m) && !model_holds_up(m))
        model_flush(m);
}

static inline bool model_no_room(const model *m, int id) {
    const model_param *param = &m->params[id];
    return !param->taken &&
           (param->waiting ||
            m->buckets[m->filling].used + model_slot_bytes(m, param) >
                m->settings->bucket_bytes);
}

/* Before `pending` changes. */
static inline void model_make_room(model *m, int id) {
    if (model_no_room(m, id))
        model_flush(m);
    if (!m->params[id].taken)
        model_take(m, id);
}

/* Stage 1: in memory of its own until the last micro-step. */
static inline bool model_keeps(const model *m, int id) {
    return m->settings->stage == 1 && !m->last && !m->params[id].taken;
}

/* What reduce_grad and grad_slot refuse. */
static inline tsr_status model_can_reduce(const model *m, const op *at) {
    if (m->params[at->id].frozen)
        return TSR_INVALID_ARGUMENT;
    if (model_keeps(m, at->id) || !model_no_room(m, at->id))
        return TSR_OK;
    return model_holds_up(m) ? TSR_FAILED_PRECONDITION : TSR_OK;
}

/* ---- calls ---- */

/* This rank's part of the buffer is of the whole gradient. */
static inline tsr_status model_reduce(model *m, const op *at) {
    TSR_TRY(model_find(m, at->graph, at->id));
    model_param *param = &m->params[at->id];
    if (m->profiling)
        return TSR_OK;
    TSR_TRY(model_can_reduce(m, at));
    TSR_TRY(model_seal(m));
    bool keep = model_keeps(m, at->id);
    float *to = keep ? param->earlier : param->pending, biggest = 0;
    float scale =
        m->settings->average == TSR_AVERAGE_NONE ? 1 : 1 / (float)m->world;
    if (!keep)
        model_make_room(m, at->id);
    for (int64_t i = 0; i < param->numel; i++) {
        float sum = param->kept ? param->earlier[i] / scale : 0;
        for (int r = 0; r < m->world; r++)
            sum += model_grad(m, r, at->id, at->n, i);
        biggest = fmaxf(biggest, model_rounding(sum, param->communicated));
        to[i] = sum * scale;
    }
    param->slack += biggest;
    param->kept = keep;
    param->keeps = param->keeps || (keep && param->numel > 0);
    param->micro_step = m->micro_step;
    if (!keep)
        model_fill(m, at->id);
    return TSR_OK;
}

/* *out_there: a slot is given, else NULL. */
static inline tsr_status model_grad_slot(model *m, const op *at,
                                         bool *out_there) {
    *out_there = false;
    TSR_TRY(model_find(m, at->graph, at->id));
    if (m->profiling)
        return TSR_OK;
    TSR_TRY(model_can_reduce(m, at));
    if (model_keeps(m, at->id))
        return TSR_OK;
    TSR_TRY(model_seal(m));
    model_make_room(m, at->id);
    *out_there = true;
    return TSR_OK;
}

static inline void model_start_backward(model *m, bool update) {
    for (int p = 0; p < PROGRAM_PARAMS && !m->open; p++)
        m->params[p].reduced = false;
    m->open = true;
    m->last = update;
    m->micro_step++;
}

static inline void model_zero(model_param *param) {
    memset(param->sum, 0, sizeof param->sum);
    param->slack = 0;
    param->known = true;
}

static inline tsr_status model_end_backward(model *m, int stream) {
    if (m->profiling)
        return TSR_OK;
    if (model_holds_up(m))
        return TSR_FAILED_PRECONDITION;
    for (int p = 0; m->last && p < PROGRAM_PARAMS; p++) {
        model_param *param = &m->params[p];
        if (!param->registered || !param->kept)
            continue;
        model_make_room(m, p);
        memcpy(param->pending, param->earlier, sizeof param->pending);
        param->kept = false;
        model_fill(m, p);
    }
    model_flush(m);
    for (int p = 0; p < PROGRAM_PARAMS; p++) {
        model_param *param = &m->params[p];
        if (m->last && !param->reduced && param->registered) {
            model_zero(param);
            param->readable = 0;
            param->reduced = true;
        }
        param->readable |= 1u << stream;
    }
    if (m->last) {
        m->shards_free |= 1u << stream;
        m->open = false;
    }
    return TSR_OK;
}

static inline void model_abort(model *m, int stream) {
    for (int g = 0; g < PROGRAM_GRAPHS; g++)
        model_unbind_graph(m, g);
    for (int p = 0; p < PROGRAM_PARAMS; p++) {
        model_param *param = &m->params[p];
        param->known = param->known && !param->reduced;
        param->reduced = param->kept = param->waiting = param->taken = false;
        param->readable |= 1u << stream;
    }
    for (int b = 0; b < 2; b++) {
        m->buckets[b].count = 0;
        m->buckets[b].used = 0;
    }
    m->open = m->last = false;
}

/* ---- registered, moved ---- */

static inline tsr_status model_register(model *m, const op *at,
                                        const tsr_zero_param *desc) {
    model_param *param = &m->params[at->id];
    if (param->waiting || param->taken || param->away)
        return TSR_FAILED_PRECONDITION;
    if (!param->registered)
        param->order = m->registered++;
    int64_t granule = at->k ? at->k : 1, part = granule * m->world;
    model_stale(m, at->id);
    param->registered = true;
    param->persistent = at->mask & PARAM_PERSISTENT;
    param->frozen = at->mask & PARAM_FROZEN;
    param->numel = at->n;
    param->shard = (at->n + part - 1) / part * granule;
    param->grad_begin =
        m->settings->stage == 3 ? m->rank * param->shard : desc->slice_offset;
    param->grad_count =
        m->settings->stage == 3 ? param->shard : desc->slice_count;
    param->stored = at->dtypes[0];
    param->gathered = at->dtypes[1];
    param->communicated = at->dtypes[2];
    param->accumulated = at->dtypes[3];
    for (int c = 0; c < MODEL_COPIES; c++)
        if (!model_wanted(param, &param->copies[c]))
            param->copies[c].alive = false;
    param->reduced = param->kept = param->keeps = false;
    model_zero(param);
    param->readable = 1u << at->stream;
    param->on_host = false;
    m->sealed = false;
    return TSR_OK;
}

static inline void model_move_grad(model *m, int id, int stream) {
    model_zero(&m->params[id]);
    m->params[id].readable = 1u << stream;
}

static inline void model_synchronized(model *m) {
    m->shards_free = MODEL_ALL_STREAMS;
    for (int p = 0; p < PROGRAM_PARAMS; p++)
        m->params[p].readable = MODEL_ALL_STREAMS;
}

#endif
