#include "ops/shape.h"

#include <math.h>

tsr_attention_shape tsr_attention_shape_of(const tsr_op_view *view) {
    const tsr_type *qkv = &view->inputs[0];
    tsr_attention_shape shape = {
        .B = qkv->shape[0],
        .T = qkv->shape[1],
        .H = tsr_view_int(view, "heads", 1),
        .row = qkv->shape[2],
    };
    shape.G = tsr_view_int(view, "kv_heads", shape.H);
    shape.D = shape.row / (shape.H + 2 * shape.G);
    shape.k_head = shape.H;
    shape.v_head = shape.H + shape.G;
    shape.scale = 1.0 / sqrt((double)shape.D);
    return shape;
}
