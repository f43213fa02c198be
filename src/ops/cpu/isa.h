/* Names of what is compiled once an instruction set, some of it also once an
 * element (element.h). Everything in ops/cpu is either static or named by
 * TSR_CPU or TSR_CPU_OF, so that the linker cannot mix two sets. */
#ifndef TSR_OPS_CPU_ISA_H
#define TSR_OPS_CPU_ISA_H

#include "ops/cpu.h"
#include "ops/shape.h"

#ifndef TSR_ISA
#define TSR_ISA baseline /* for editors; the build always says */
#endif
#define TSR_CPU_JOIN_(name, isa) tsr_cpu_##name##_##isa
#define TSR_CPU_JOIN(name, isa) TSR_CPU_JOIN_(name, isa)
#define TSR_CPU(name) TSR_CPU_JOIN(name, TSR_ISA)

#define TSR_CPU_JOIN_OF_(name, isa, element) tsr_cpu_##name##_##isa##_##element
#define TSR_CPU_JOIN_OF(name, isa, element) TSR_CPU_JOIN_OF_(name, isa, element)
#define TSR_CPU_OF(name, element) TSR_CPU_JOIN_OF(name, TSR_ISA, element)

extern const tsr_cpu_kernel_set TSR_CPU(set);

/* Kernels of both elements. */
#define TSR_CPU_KERNELS(X)                                                     \
    X(embedding)                                                               \
    X(position_add)                                                            \
    X(position_grad)                                                           \
    X(layer_norm)                                                              \
    X(bias_grad)                                                               \
    X(gelu)                                                                    \
    X(gelu_grad)                                                               \
    X(add)                                                                     \
    X(cross_entropy)                                                           \
    X(cross_entropy_grad)

/* Those with a workspace. */
#define TSR_CPU_KERNELS_WITH_WORKSPACE(X)                                      \
    X(embedding_grad)                                                          \
    X(layer_norm_grad)                                                         \
    X(attention)                                                               \
    X(attention_grad)                                                          \
    X(attention_cached)

/* Matrix products: with a workspace, and prepared. */
#define TSR_CPU_PRODUCTS(X)                                                    \
    X(linear)                                                                  \
    X(linear_grad_input)                                                       \
    X(linear_grad_weight)

#define TSR_CPU_DECLARE(name)                                                  \
    tsr_status TSR_CPU_OF(name, f32)(const tsr_kernel_call *call);             \
    tsr_status TSR_CPU_OF(name, bf16)(const tsr_kernel_call *call);
#define TSR_CPU_DECLARE_WORKSPACE(name)                                        \
    size_t TSR_CPU_OF(name##_workspace, f32)(const tsr_op_view *view,          \
                                             int threads);                     \
    size_t TSR_CPU_OF(name##_workspace, bf16)(const tsr_op_view *view,         \
                                              int threads);
#define TSR_CPU_DECLARE_PREPARE(name)                                          \
    tsr_status TSR_CPU_OF(name##_prepare, f32)(const tsr_op_view *view,        \
                                               int threads, void **out_state); \
    tsr_status TSR_CPU_OF(name##_prepare, bf16)(                               \
        const tsr_op_view *view, int threads, void **out_state);

TSR_CPU_KERNELS(TSR_CPU_DECLARE)
TSR_CPU_KERNELS_WITH_WORKSPACE(TSR_CPU_DECLARE)
TSR_CPU_KERNELS_WITH_WORKSPACE(TSR_CPU_DECLARE_WORKSPACE)
TSR_CPU_PRODUCTS(TSR_CPU_DECLARE)
TSR_CPU_PRODUCTS(TSR_CPU_DECLARE_WORKSPACE)
TSR_CPU_PRODUCTS(TSR_CPU_DECLARE_PREPARE)

tsr_status TSR_CPU(adamw)(const tsr_kernel_call *call);
void TSR_CPU(gemm)(const tsr_gemm *gemm);

#endif
