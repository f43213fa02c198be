/* sum and clip_scale are a few numbers: the reference serves. */
#include "ops/cpu/isa.h"

#define ROW(name)                                                              \
    { .op = #name, .run = TSR_CPU(name) }
#define ROW_WITH_WORKSPACE(name)                                               \
    {                                                                          \
        .op = #name, .workspace = TSR_CPU(name##_workspace),                   \
        .run = TSR_CPU(name)                                                   \
    }
#define NAME_(isa) #isa
#define NAME(isa) NAME_(isa)

static const tsr_kernel rows[] = {
    ROW(embedding),
    ROW(embedding_grad),
    ROW(position_add),
    ROW(position_grad),
    ROW(layer_norm),
    ROW_WITH_WORKSPACE(layer_norm_grad),
    ROW(linear),
    ROW(linear_grad_input),
    ROW(linear_grad_weight),
    ROW(bias_grad),
    ROW_WITH_WORKSPACE(attention),
    ROW_WITH_WORKSPACE(attention_grad),
    ROW_WITH_WORKSPACE(attention_cached),
    ROW(gelu),
    ROW(gelu_grad),
    ROW(add),
    ROW(cross_entropy),
    ROW(cross_entropy_grad),
    ROW(adamw),
};

const tsr_cpu_kernel_set TSR_CPU(set) = {
    .isa = NAME(TSR_ISA),
    .rows = rows,
    .count = sizeof rows / sizeof rows[0],
    .gemm = TSR_CPU(gemm),
};
