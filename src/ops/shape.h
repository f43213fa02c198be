/* Sizes that kernels read off a node's types; letters as in tessera/ops.h. */
#ifndef TSR_OPS_SHAPE_H
#define TSR_OPS_SHAPE_H

#include "tessera/ops.h"

static inline int64_t tsr_last_dim(const tsr_type *type) {
    return type->dims == 0 ? 1 : type->shape[type->dims - 1];
}

/* Rows of [..., C]. */
static inline int64_t tsr_row_count(const tsr_type *type) {
    return tsr_type_count(type) / tsr_last_dim(type);
}

typedef struct tsr_linear_shape {
    int64_t N, I, O;
    bool out_in; /* weight[O, I] instead of weight[I, O] */
} tsr_linear_shape;

/* From any values [..., I] and [..., O] of one node. */
static inline tsr_linear_shape tsr_linear_shape_of(const tsr_op_view *view,
                                                   const tsr_type *x,
                                                   const tsr_type *y) {
    return (tsr_linear_shape){
        .N = tsr_row_count(x),
        .I = tsr_last_dim(x),
        .O = tsr_last_dim(y),
        .out_in = tsr_view_int(view, "weight_layout", TSR_WEIGHT_IN_OUT) ==
                  TSR_WEIGHT_OUT_IN,
    };
}

/* A row of qkv: H query heads, G key heads, G value heads, of D each. */
typedef struct tsr_attention_shape {
    int64_t B, T, H, G, D;
    int64_t row;            /* (H + 2G) * D, elements from token to token */
    int64_t k_head, v_head; /* the first key head and value head of a row */
    double scale;           /* of the scores: 1 / sqrt(D) */
} tsr_attention_shape;

/* From inputs[0], qkv[B, T, (H + 2G) * D]. */
tsr_attention_shape tsr_attention_shape_of(const tsr_op_view *view);

#endif
