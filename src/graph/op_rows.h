/* What rows share: checks of inputs, nodes of the backward, aliases. */
#ifndef TSR_GRAPH_OP_ROWS_H
#define TSR_GRAPH_OP_ROWS_H

#include "base/status.h"
#include "graph/graph.h"
#include "graph/op_table.h"

#define TSR_ROWS(array) ((tsr_op_rows){array, sizeof(array) / sizeof *(array)})

/* Fails an inference with what does not fit. */
#define TSR_REQUIRE(condition, ...)                                            \
    do {                                                                       \
        if (!(condition))                                                      \
            return tsr_error(TSR_INVALID_ARGUMENT, __VA_ARGS__);               \
    } while (0)

static inline tsr_type tsr_vector(tsr_dtype dtype, int64_t count) {
    return (tsr_type){.dtype = dtype, .dims = 1, .shape = {count}};
}

/* `type` without its last dimension ([1] when nothing is left), in `dtype`. */
static inline tsr_type tsr_rows_of(const tsr_type *type, tsr_dtype dtype) {
    tsr_type rows = *type;
    rows.dtype = dtype;
    if (rows.dims > 1)
        rows.shape[--rows.dims] = 0;
    else
        rows = tsr_vector(dtype, 1);
    return rows;
}

static inline int64_t tsr_last_dim(const tsr_type *type) {
    return type->dims > 0 ? type->shape[type->dims - 1] : 1;
}
static inline int64_t tsr_row_count(const tsr_type *type) {
    return tsr_type_count(type) / tsr_last_dim(type);
}

static inline bool tsr_is_float(const tsr_type *type) {
    return type->dtype == TSR_F32;
}
/* What activations, weights and their gradients may be: all of one node are
 * alike. Statistics, losses and what the optimizer keeps are f32. */
static inline bool tsr_is_real(const tsr_type *type) {
    return type->dtype == TSR_F32 || type->dtype == TSR_BF16;
}
static inline bool tsr_is_vector(const tsr_type *type, int64_t count) {
    return type->dims == 1 && type->shape[0] == count;
}

/* A node of the backward with this node's attributes; first output. */
static inline tsr_value_id tsr_vjp_node(const tsr_vjp *vjp, const char *op,
                                        const tsr_value_id *inputs,
                                        size_t count, tsr_value_id *outputs) {
    return tsr_graph_node(vjp->graph, op, inputs, count, vjp->view.attrs,
                          vjp->view.attr_count, outputs);
}

/* Adds `part` to the gradient of input i by an add node where there is one
 * already. */
static inline void tsr_vjp_add(const tsr_vjp *vjp, int i, tsr_value_id part) {
    tsr_value_id pair[2] = {part, vjp->in_grads[i]};
    vjp->in_grads[i] =
        tsr_has_value(pair[1])
            ? tsr_graph_node(vjp->graph, "add", pair, 2, NULL, 0, NULL)
            : part;
}

static inline int tsr_alias_first(const tsr_op_view *view, int output) {
    (void)view;
    return output == 0 ? 0 : -1;
}

static inline int tsr_alias_same(const tsr_op_view *view, int output) {
    (void)view;
    return output;
}

#endif
