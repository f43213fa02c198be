/* The model's host: tensors and shards that are there, and the budget. */
#ifndef TSR_TESTS_ZERO_EAGER_MODEL_HOST_H
#define TSR_TESTS_ZERO_EAGER_MODEL_HOST_H

#include "zero/eager_model.h"

/* ---- the budget ---- */

static inline bool model_keeps_copy(const model_param *param) {
    return param->registered && !param->away && param->on_host;
}

static inline size_t model_shard_bytes(const model_param *param) {
    return (size_t)param->shard * tsr_dtype_bytes(param->stored);
}

/* Kept copies go in the order of registration until `bytes` fit, where so many
 * could fit at all; `given` bytes in use are given back for them. */
static inline tsr_status model_take_host(model *m, size_t bytes, size_t given) {
    size_t budget = m->settings->host_bytes;
    if (bytes == given)
        return TSR_OK;
    for (int order = 0; order < m->registered && bytes <= budget; order++)
        for (int p = 0; p < PROGRAM_PARAMS; p++) {
            model_param *param = &m->params[p];
            if (model_keeps_copy(param) && param->order == order &&
                model_host_bytes(m) - given + bytes > budget)
                param->on_host = false;
        }
    return model_host_bytes(m) - given + bytes <= budget ? TSR_OK
                                                         : TSR_OUT_OF_MEMORY;
}

/* ---- shards ---- */

static inline tsr_status model_offload_param(model *m, int id) {
    TSR_TRY(model_find_param(m, id));
    model_param *param = &m->params[id];
    if (m->settings->stage < 3)
        return TSR_INVALID_ARGUMENT;
    if (param->away)
        return TSR_OK;
    if (!param->on_host && param->shard > 0)
        TSR_TRY(model_take_host(m, model_shard_bytes(param), 0));
    param->on_host = param->away = true;
    return TSR_OK;
}

static inline tsr_status model_reload_param(model *m, int id) {
    TSR_TRY(model_find_param(m, id));
    if (m->settings->stage < 3)
        return TSR_INVALID_ARGUMENT;
    m->params[id].away = false;
    return TSR_OK;
}

/* ---- tensors ---- */

static inline tsr_status model_find_tensor(model *m, const op *at,
                                           model_tensor **out_tensor) {
    *out_tensor = &m->tensors[at->graph][at->id];
    return m->graphs[at->graph] && (*out_tensor)->offloaded ? TSR_OK
                                                            : TSR_NOT_FOUND;
}

static inline tsr_status model_offload_tensor(model *m, const op *at,
                                              size_t bytes) {
    model_tensor *tensor = &m->tensors[at->graph][at->id];
    if (!m->graphs[at->graph])
        return TSR_NOT_FOUND;
    TSR_TRY(model_take_host(m, bytes, tensor->host_bytes));
    tensor->offloaded = true;
    tensor->back = false;
    tensor->bytes = tensor->host_bytes = bytes;
    return TSR_OK;
}

static inline tsr_status model_reload_tensor(model *m, const op *at) {
    model_tensor *tensor;
    TSR_TRY(model_find_tensor(m, at, &tensor));
    if (!tensor->back && tensor->host_bytes == 0) /* freed */
        return TSR_NOT_FOUND;
    tensor->back = true;
    tensor->host_bytes = 0;
    return TSR_OK;
}

static inline void model_drop_tensors(model *m, int graph) {
    memset(m->tensors[graph], 0, sizeof m->tensors[graph]);
}

#endif
