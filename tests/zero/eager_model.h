/* What tessera/eager.h promises, as one rank would tell it that knew no memory,
 * streams or peers: which copies there are and of which values, and what is in
 * gradient buffers. Written from the header, not from the code. */
#ifndef TSR_TESTS_ZERO_EAGER_MODEL_H
#define TSR_TESTS_ZERO_EAGER_MODEL_H

#include "base/status.h"
#include "zero/eager_rank.h"

enum {
    MODEL_PARAMS = 6,
    MODEL_GRAPHS = 4,
    MODEL_COPIES = 64,
    MODEL_NUMEL = 64
};

typedef struct model_copy {
    bool alive;
    tsr_dtype dtype;
    int version, value; /* value: which weights it holds */
    int bindings;
} model_copy;

typedef struct model_param {
    bool persistent, frozen;
    int version, value;
    model_copy copies[MODEL_COPIES];
    bool written; /* its buffer, in this step */
    bool waiting; /* a gradient of it may wait in a bucket */
    bool known;   /* what its buffer holds */
    bool kept;    /* stage 1: a sum waits for the last micro-step */
    float sum[MODEL_NUMEL], kept_sum[MODEL_NUMEL]; /* whole parameter */
} model_param;

typedef struct model_binding {
    int copy; /* -1: none */
    int remaining;
    bool waited;
} model_binding;

typedef struct model {
    const eager_rank *rank;
    const test_param *tests; /* (MODEL_PARAMS) */
    float scale;
    model_param params[MODEL_PARAMS];
    bool graphs[MODEL_GRAPHS], named[MODEL_GRAPHS][MODEL_PARAMS];
    model_binding bindings[MODEL_GRAPHS][MODEL_PARAMS];
    bool sealed, profiling, open, last;
    bool waiting; /* a gradient may wait in a bucket */
} model;

static inline tsr_status model_find(const model *m, int graph, int id) {
    if (id >= MODEL_PARAMS || !m->graphs[graph] || !m->named[graph][id])
        return TSR_NOT_FOUND;
    return TSR_OK;
}

static inline size_t model_held(const model *m) {
    size_t bytes = 0;
    for (int p = 0; p < MODEL_PARAMS; p++)
        for (int c = 0; c < MODEL_COPIES; c++)
            if (m->params[p].copies[c].alive)
                bytes += copy_bytes(m->rank, &m->tests[p],
                                    m->params[p].copies[c].dtype);
    return bytes;
}

/* ---- copies ---- */

static inline void model_sweep(model_param *param) {
    for (int c = 0; c < MODEL_COPIES; c++) {
        model_copy *copy = &param->copies[c];
        if (copy->bindings == 0 &&
            !(param->persistent && copy->version == param->version))
            copy->alive = false;
    }
}

static inline int model_valid(const model_param *param, tsr_dtype dtype) {
    for (int c = 0; c < MODEL_COPIES; c++)
        if (param->copies[c].alive && param->copies[c].dtype == dtype &&
            param->copies[c].version == param->version)
            return c;
    return -1;
}

static inline int model_make(model_param *param, tsr_dtype dtype) {
    int valid = model_valid(param, dtype);
    for (int c = 0; valid < 0 && c < MODEL_COPIES; c++)
        if (!param->copies[c].alive) {
            param->copies[c] = (model_copy){.alive = true,
                                            .dtype = dtype,
                                            .version = param->version,
                                            .value = param->value};
            valid = c;
        }
    CHECK(valid >= 0);
    return valid;
}

static inline void model_seal(model *m) {
    for (int p = 0; !m->sealed && p < MODEL_PARAMS; p++)
        if (m->params[p].persistent && m->rank->stage == 3)
            model_make(&m->params[p], m->tests[p].desc.gathered_dtype);
    m->sealed = true;
}

static inline void model_unbind(model *m, int graph, int id) {
    model_binding *binding = &m->bindings[graph][id];
    if (binding->copy < 0)
        return;
    model_copy *copy = &m->params[id].copies[binding->copy];
    binding->copy = -1;
    if (--copy->bindings == 0 &&
        !(m->params[id].persistent && copy->version == m->params[id].version))
        copy->alive = false;
}

static inline void model_unbind_graph(model *m, int graph) {
    for (int p = 0; p < MODEL_PARAMS; p++)
        model_unbind(m, graph, p);
}

static inline tsr_status model_gather(model *m, int graph, int id,
                                      tsr_dtype dtype) {
    TSR_TRY(model_find(m, graph, id));
    if (m->rank->stage < 3)
        return TSR_FAILED_PRECONDITION;
    model_seal(m);
    int copy = model_make(&m->params[id], dtype);
    m->params[id].copies[copy].bindings++;
    model_unbind(m, graph, id);
    m->bindings[graph][id] = (model_binding){copy, -1, false};
    return TSR_OK;
}

static inline tsr_status model_prefetch(model *m, const int64_t *ids,
                                        const tsr_dtype *dtypes, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (ids[i] >= MODEL_PARAMS)
            return TSR_NOT_FOUND;
        if (m->rank->stage < 3)
            return TSR_FAILED_PRECONDITION;
    }
    model_seal(m);
    for (size_t i = 0; i < count; i++)
        model_make(&m->params[ids[i]], dtypes[i]);
    return TSR_OK;
}

static inline tsr_status model_wait(model *m, int graph, int id) {
    TSR_TRY(model_find(m, graph, id));
    if (m->bindings[graph][id].copy < 0)
        return TSR_FAILED_PRECONDITION;
    m->bindings[graph][id].waited = true;
    return TSR_OK;
}

static inline tsr_status model_release(model *m, int graph, int id, int users) {
    TSR_TRY(model_find(m, graph, id));
    model_binding *binding = &m->bindings[graph][id];
    if (users < 1)
        return TSR_INVALID_ARGUMENT;
    if (binding->copy < 0)
        return m->profiling ? TSR_OK : TSR_FAILED_PRECONDITION;
    if (binding->remaining < 0)
        binding->remaining = users;
    if (--binding->remaining == 0)
        model_unbind(m, graph, id);
    return TSR_OK;
}

static inline void model_stale(model *m, int id) {
    m->params[id].version++;
    model_sweep(&m->params[id]);
}

/* ---- gradients ---- */

static inline void model_add(const model *m, int id, const float *values) {
    model_param *param = &((model *)m)->params[id];
    for (int64_t i = 0; i < m->tests[id].numel; i++)
        param->sum[i] = (param->written ? param->sum[i] : 0) + values[i];
    param->known = param->known || !param->written;
    param->written = true;
}

static inline tsr_status model_reduce(model *m, int graph, int id, int call) {
    float values[MODEL_NUMEL];
    TSR_TRY(model_find(m, graph, id));
    model_param *param = &m->params[id];
    if (m->profiling)
        return TSR_OK;
    if (param->frozen)
        return TSR_INVALID_ARGUMENT;
    model_seal(m);
    m->waiting = true;
    bool keep = m->rank->stage == 1 && !m->last;
    for (int64_t i = 0; i < m->tests[id].numel; i++) {
        values[i] = grad_sum(m->rank->world, id, call, i) * m->scale +
                    (param->kept ? param->kept_sum[i] : 0);
        if (keep)
            param->kept_sum[i] = values[i];
    }
    param->kept = keep;
    param->waiting = !keep;
    if (!keep)
        model_add(m, id, values);
    return TSR_OK;
}

static inline void model_start_backward(model *m, bool update) {
    for (int p = 0; p < MODEL_PARAMS; p++)
        m->params[p].written = m->params[p].written && m->open;
    m->open = true;
    m->last = update;
}

static inline void model_end_backward(model *m) {
    static const float zeros[MODEL_NUMEL];
    if (m->profiling)
        return;
    for (int p = 0; m->last && p < MODEL_PARAMS; p++) {
        model_param *param = &m->params[p];
        if (param->kept)
            model_add(m, p, param->kept_sum);
        param->kept = false;
        if (!param->written)
            model_add(m, p, zeros);
    }
    for (int p = 0; p < MODEL_PARAMS; p++)
        m->params[p].waiting = false;
    m->open = m->open && !m->last;
    m->waiting = false;
}

static inline void model_abort(model *m) {
    for (int g = 0; g < MODEL_GRAPHS; g++)
        model_unbind_graph(m, g);
    for (int p = 0; p < MODEL_PARAMS; p++) {
        model_param *param = &m->params[p];
        param->known = param->known && !param->written && !param->waiting;
        param->written = param->kept = param->waiting = false;
    }
    m->open = m->last = m->waiting = false;
}

/* Newly registered, or another buffer for gradients. */
static inline void model_zero(model *m, int id) {
    memset(m->params[id].sum, 0, sizeof m->params[id].sum);
    m->params[id].known = true;
}

static inline void model_register(model *m, int id, bool persistent) {
    model_zero(m, id);
    m->params[id].written = m->params[id].kept = false;
    m->params[id].persistent = persistent;
    m->sealed = false;
    model_stale(m, id);
}

#endif
