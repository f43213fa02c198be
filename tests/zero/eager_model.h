/* What tessera/eager.h promises, as one rank would tell it that knew no memory,
 * streams or peers: which copies there are and of which values, what is in
 * gradient buffers, what is on the host, and how many bytes all that costs.
 * Written from the header, not from the code. */
#ifndef TSR_TESTS_ZERO_EAGER_MODEL_H
#define TSR_TESTS_ZERO_EAGER_MODEL_H

#include "base/status.h"
#include "zero/eager_program.h"
#include "zero/eager_rank.h"

enum { MODEL_COPIES = 32 /* of one parameter */ };

typedef struct model_copy {
    bool alive;
    tsr_dtype stored, dtype;
    int version, value; /* value: which weights it holds */
    int64_t numel;
    size_t bytes;
    int bindings;
} model_copy;

typedef struct model_param {
    bool registered, persistent, frozen;
    int64_t numel, shard;
    int64_t grad_begin, grad_count; /* of the whole, this rank's */
    tsr_dtype stored, gathered, communicated, accumulated;
    int version, value;
    model_copy copies[MODEL_COPIES];

    bool reduced; /* in this step: later gradients add */
    bool known;   /* what its buffer holds */
    bool waiting; /* `pending` waits in a bucket */
    bool taken;   /* its slot is, and was not filled */
    bool adds;    /* `pending` will add to the buffer */
    bool kept;    /* stage 1: a sum waits for the last micro-step */
    bool keeps;   /* that sum has memory */
    float sum[PROGRAM_NUMEL], pending[PROGRAM_NUMEL], earlier[PROGRAM_NUMEL];
    float slack;         /* of `sum`: roundings on the way */
    unsigned readable;   /* bit s: stream s is past all writes of its buffer */
    unsigned micro_step; /* of its latest gradient */

    bool away;    /* its shard is on the host only */
    bool on_host; /* the host has a copy of it, as it is */
    int order;    /* of its first registration */
} model_param;

typedef struct model_binding {
    int copy;        /* -1: none */
    int remaining;   /* -1: not said yet */
    unsigned waited; /* bit s: stream s may read it */
    unsigned read;   /* bit s: read there since its latest release there */
    unsigned behind; /* bit s: read there, behind a stream that waited */
} model_binding;

typedef struct model_tensor {
    bool offloaded, back; /* ever; and its latest copy is on the device */
    size_t bytes, host_bytes;
} model_tensor;

/* Slots of whole gradients, each at a multiple of 64 bytes. */
typedef struct model_bucket {
    size_t bytes, used;
    int params[PROGRAM_PARAMS], count;
} model_bucket;

typedef struct model {
    const tsr_zero_settings *settings;
    int rank, world,
        key; /* key: tells the values of one tsr_zero from another's
              */
    model_param params[PROGRAM_PARAMS];
    bool graphs[PROGRAM_GRAPHS], named[PROGRAM_GRAPHS][PROGRAM_PARAMS];
    model_binding bindings[PROGRAM_GRAPHS][PROGRAM_PARAMS];
    model_tensor tensors[PROGRAM_GRAPHS][PROGRAM_TENSORS];
    int registered; /* parameters so far */
    bool shared;    /* there are buckets that all ranks map */
    model_bucket buckets[2];
    int filling;
    bool sealed, profiling, open, last;
    unsigned micro_step;
    unsigned shards_free; /* bit s: stream s is past all readers of shards */
} model;

#define MODEL_ALL_STREAMS ((1u << PROGRAM_STREAMS) - 1)

static inline void model_open(model *m, const tsr_zero_settings *settings,
                              int rank, int world, int key) {
    *m = (model){.settings = settings,
                 .rank = rank,
                 .world = world,
                 .key = key,
                 .sealed = true,
                 .shards_free = MODEL_ALL_STREAMS};
    for (int g = 0; g < PROGRAM_GRAPHS; g++)
        for (int p = 0; p < PROGRAM_PARAMS; p++)
            m->bindings[g][p].copy = -1;
}

/* ---- values ---- */

/* Multiples of the world size: averages, and sums in any dtype, are exact. */
static inline float model_grad(const model *m, int rank, int id, int call,
                               int64_t i) {
    int64_t mixed = rank * 5 + (id + m->key) * 3 + call * 11 + i;
    return (float)(m->world * (int)(mixed % 7 - 3));
}

static inline float model_weight(const model *m, int id, int value,
                                 tsr_dtype stored, int64_t i) {
    return rounded(weight_value(id + m->key, value, i), stored);
}

/* Integers up to this are exact. */
static inline float exact_limit(tsr_dtype dtype) {
    return dtype == TSR_BF16 ? 256 : dtype == TSR_F16 ? 2048 : 16777216;
}

static inline float model_rounding(float value, tsr_dtype dtype) {
    return fabsf(value) <= exact_limit(dtype) ? 0 : fabsf(value) / 128;
}

/* ---- finding ---- */

static inline bool model_registered(const model *m, int id) {
    return id < PROGRAM_PARAMS && m->params[id].registered;
}

static inline tsr_status model_find_param(const model *m, int id) {
    return model_registered(m, id) ? TSR_OK : TSR_NOT_FOUND;
}

static inline tsr_status model_find(const model *m, int graph, int id) {
    if (!model_registered(m, id) || !m->graphs[graph] || !m->named[graph][id])
        return TSR_NOT_FOUND;
    return TSR_OK;
}

/* ---- bytes ---- */

static inline size_t model_gathered_bytes(const model *m) {
    size_t bytes = 0;
    for (int p = 0; p < PROGRAM_PARAMS; p++)
        for (int c = 0; c < MODEL_COPIES; c++)
            if (m->params[p].copies[c].alive)
                bytes += m->params[p].copies[c].bytes;
    return bytes;
}

static inline size_t model_round_up(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

/* Those that all ranks map: of bucket_bytes, from the first seal on. */
static inline size_t model_shared_bytes(const model *m) {
    size_t one = model_round_up(m->settings->bucket_bytes);
    return !m->shared ? 0 : m->settings->double_buffer ? 2 * one : one;
}

/* Of the allocator's. */
static inline size_t model_bucket_bytes(const model *m) {
    size_t bytes = m->buckets[0].bytes + m->buckets[1].bytes;
    for (int p = 0; p < PROGRAM_PARAMS; p++)
        if (m->params[p].keeps)
            bytes += (size_t)m->params[p].numel * sizeof(float);
    return bytes;
}

/* On the host, in use: kept copies of resident shards, too. */
static inline size_t model_host_bytes(const model *m) {
    size_t bytes = 0;
    for (int p = 0; p < PROGRAM_PARAMS; p++)
        if (m->params[p].on_host)
            bytes += (size_t)m->params[p].shard *
                     tsr_dtype_bytes(m->params[p].stored);
    for (int g = 0; g < PROGRAM_GRAPHS; g++)
        for (int t = 0; t < PROGRAM_TENSORS; t++)
            bytes += m->tensors[g][t].host_bytes;
    return bytes;
}

/* ---- copies ---- */

static inline bool model_wanted(const model_param *param,
                                const model_copy *copy) {
    return copy->bindings > 0 ||
           (param->persistent && copy->version == param->version);
}

static inline void model_stale(model *m, int id) {
    model_param *param = &m->params[id];
    param->version++;
    for (int c = 0; c < MODEL_COPIES; c++)
        if (!model_wanted(param, &param->copies[c]))
            param->copies[c].alive = false;
}

static inline int model_valid(const model_param *param, tsr_dtype dtype) {
    for (int c = 0; c < MODEL_COPIES; c++)
        if (param->copies[c].alive && param->copies[c].dtype == dtype &&
            param->copies[c].version == param->version)
            return c;
    return -1;
}

/* The valid copy, gathered if there was none. */
static inline int model_make(model *m, int id, tsr_dtype dtype) {
    model_param *param = &m->params[id];
    int made = model_valid(param, dtype);
    if (made >= 0)
        return made;
    m->shards_free = 0;
    for (made = 0; made < MODEL_COPIES && param->copies[made].alive; made++)
        ;
    CHECK(made < MODEL_COPIES);
    param->copies[made] = (model_copy){
        .alive = true,
        .stored = param->stored,
        .dtype = dtype,
        .version = param->version,
        .value = param->value,
        .numel = param->numel,
        .bytes = (size_t)(param->shard * m->world) * tsr_dtype_bytes(dtype)};
    return made;
}

/* A gather needs the shard, unless a copy is valid. */
static inline tsr_status model_can_make(const model *m, int id,
                                        tsr_dtype dtype) {
    const model_param *param = &m->params[id];
    return !param->away || model_valid(param, dtype) >= 0
               ? TSR_OK
               : TSR_FAILED_PRECONDITION;
}

static inline tsr_status model_seal(model *m) {
    if (m->sealed)
        return TSR_OK;
    m->shared = m->settings->symmetric_memory && m->settings->stage == 3;
    for (int p = 0; m->settings->stage == 3 && p < PROGRAM_PARAMS; p++)
        if (m->params[p].registered && m->params[p].persistent)
            TSR_TRY(model_can_make(m, p, m->params[p].gathered));
    for (int p = 0; m->settings->stage == 3 && p < PROGRAM_PARAMS; p++)
        if (m->params[p].registered && m->params[p].persistent)
            model_make(m, p, m->params[p].gathered);
    m->sealed = true;
    return TSR_OK;
}

static inline void model_unbind(model *m, int graph, int id) {
    model_binding *binding = &m->bindings[graph][id];
    if (binding->copy < 0)
        return;
    model_copy *copy = &m->params[id].copies[binding->copy];
    copy->bindings--;
    copy->alive = model_wanted(&m->params[id], copy);
    *binding = (model_binding){.copy = -1};
}

static inline void model_unbind_graph(model *m, int graph) {
    for (int p = 0; p < PROGRAM_PARAMS; p++)
        model_unbind(m, graph, p);
}

/* ---- calls about copies ---- */

static inline tsr_status model_gather(model *m, int graph, int id,
                                      tsr_dtype dtype) {
    TSR_TRY(model_find(m, graph, id));
    if (m->settings->stage < 3)
        return TSR_FAILED_PRECONDITION;
    TSR_TRY(model_can_make(m, id, dtype));
    TSR_TRY(model_seal(m));
    int copy = model_make(m, id, dtype);
    m->params[id].copies[copy].bindings++;
    model_unbind(m, graph, id);
    m->bindings[graph][id] = (model_binding){.copy = copy, .remaining = -1};
    return TSR_OK;
}

/* n == 0: in the dtype that its parameter is gathered in by default. */
static inline tsr_dtype model_list_dtype(const model *m, const op *at, int i) {
    return at->n ? at->dtypes[i] : m->params[at->list[i]].gathered;
}

static inline tsr_status model_prefetch(model *m, const op *at) {
    for (int i = 0; i < at->list_count; i++) {
        TSR_TRY(model_find_param(m, at->list[i]));
        if (m->settings->stage < 3)
            return TSR_FAILED_PRECONDITION;
        TSR_TRY(model_can_make(m, at->list[i], model_list_dtype(m, at, i)));
    }
    TSR_TRY(model_seal(m));
    for (int i = 0; i < at->list_count; i++)
        model_make(m, at->list[i], model_list_dtype(m, at, i));
    return TSR_OK;
}

static inline tsr_status model_wait(model *m, const op *at) {
    TSR_TRY(model_find(m, at->graph, at->id));
    model_binding *binding = &m->bindings[at->graph][at->id];
    if (binding->copy < 0)
        return TSR_FAILED_PRECONDITION;
    binding->waited |= 1u << at->stream;
    return TSR_OK;
}

static inline tsr_status model_release(model *m, const op *at) {
    TSR_TRY(model_find(m, at->graph, at->id));
    model_binding *binding = &m->bindings[at->graph][at->id];
    if (at->n < 1)
        return TSR_INVALID_ARGUMENT;
    if (binding->copy < 0)
        return m->profiling ? TSR_OK : TSR_FAILED_PRECONDITION;
    binding->read &= ~(1u << at->stream);
    if (binding->remaining < 0)
        binding->remaining = at->n;
    if (--binding->remaining == 0)
        model_unbind(m, at->graph, at->id);
    return TSR_OK;
}

static inline tsr_status model_set_persistent(model *m, int id) {
    TSR_TRY(model_find_param(m, id));
    if (m->settings->stage < 3)
        return TSR_FAILED_PRECONDITION;
    TSR_TRY(model_can_make(m, id, m->params[id].gathered));
    TSR_TRY(model_seal(m));
    m->params[id].persistent = true;
    model_make(m, id, m->params[id].gathered);
    return TSR_OK;
}

static inline tsr_status model_invalidate(model *m, int id) {
    TSR_TRY(model_find_param(m, id));
    if (!m->params[id].persistent)
        model_stale(m, id);
    return TSR_OK;
}

#endif
