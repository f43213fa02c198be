/* sum, clip_scale, cast and store are small or seldom: the reference serves. */
#include "ops/cpu/isa.h"
#include "ops/cpu/product.h"

/* The element is that of the activations, weights and gradients, which are
 * alike; the first operand that has it may be any. */
static bool is_bf16(const tsr_op_view *view) {
    for (size_t i = 0; i < view->input_count; i++)
        if (view->inputs[i].dtype == TSR_BF16)
            return true;
    return false;
}

#define RUN(name)                                                              \
    static tsr_status name(const tsr_kernel_call *call) {                      \
        return is_bf16(&call->view) ? TSR_CPU_OF(name, bf16)(call)             \
                                    : TSR_CPU_OF(name, f32)(call);             \
    }
#define WORKSPACE(name)                                                        \
    static size_t name##_workspace(const tsr_op_view *view, int threads) {     \
        return is_bf16(view)                                                   \
                   ? TSR_CPU_OF(name##_workspace, bf16)(view, threads)         \
                   : TSR_CPU_OF(name##_workspace, f32)(view, threads);         \
    }
#define PREPARE(name)                                                          \
    static tsr_status name##_prepare(const tsr_op_view *view, int threads,     \
                                     void **out_state) {                       \
        return is_bf16(view) ? TSR_CPU_OF(name##_prepare, bf16)(view, threads, \
                                                                out_state)     \
                             : TSR_CPU_OF(name##_prepare, f32)(view, threads,  \
                                                               out_state);     \
    }
TSR_CPU_KERNELS(RUN)
TSR_CPU_KERNELS_WITH_WORKSPACE(RUN)
TSR_CPU_KERNELS_WITH_WORKSPACE(WORKSPACE)
TSR_CPU_PRODUCTS(RUN)
TSR_CPU_PRODUCTS(WORKSPACE)
TSR_CPU_PRODUCTS(PREPARE)

#define ROW(name) {.op = #name, .run = name},
#define ROW_WITH_WORKSPACE(name)                                               \
    {.op = #name, .workspace = name##_workspace, .run = name},
#define PRODUCT_ROW(name)                                                      \
    {.op = #name,                                                              \
     .prepare = name##_prepare,                                                \
     .unprepare = TSR_CPU(product_release),                                    \
     .workspace = name##_workspace,                                            \
     .run = name},
#define NAME_(isa) #isa
#define NAME(isa) NAME_(isa)

static const tsr_kernel rows[] = {
    TSR_CPU_KERNELS(ROW) TSR_CPU_KERNELS_WITH_WORKSPACE(ROW_WITH_WORKSPACE)
        TSR_CPU_PRODUCTS(PRODUCT_ROW){.op = "adamw", .run = TSR_CPU(adamw)},
};

const tsr_cpu_kernel_set TSR_CPU(set) = {
    .isa = NAME(TSR_ISA),
    .rows = rows,
    .count = sizeof rows / sizeof rows[0],
    .gemm = TSR_CPU(gemm),
};
