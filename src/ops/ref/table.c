#include "ops/ref/ref.h"

#define ROW(name)                                                              \
    { .op = #name, .run = TSR_REF(name) }

const tsr_kernel TSR_REF(kernels)[] = {
    ROW(embedding),
    ROW(embedding_grad),
    ROW(position_add),
    ROW(position_grad),
    ROW(layer_norm),
    ROW(layer_norm_grad),
    ROW(linear),
    ROW(linear_grad_input),
    ROW(linear_grad_weight),
    ROW(bias_grad),
    {.op = "attention",
     .workspace = TSR_REF(attention_workspace),
     .run = TSR_REF(attention)},
    {.op = "attention_grad",
     .workspace = TSR_REF(attention_grad_workspace),
     .run = TSR_REF(attention_grad)},
    {.op = "attention_cached",
     .workspace = TSR_REF(attention_cached_workspace),
     .run = TSR_REF(attention_cached)},
    ROW(gelu),
    ROW(gelu_grad),
    ROW(add),
    ROW(store),
    ROW(cast),
    ROW(cross_entropy),
    ROW(cross_entropy_grad),
    ROW(adamw),
    ROW(sum),
    ROW(clip_scale),
};

const size_t TSR_REF(kernel_count) = sizeof TSR_REF(kernels) /
                                     sizeof TSR_REF(kernels)[0];
