/* Names of what is compiled once an instruction set. Everything in ops/cpu is
 * either static or named by TSR_CPU, so that the linker cannot mix two sets. */
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

extern const tsr_cpu_kernel_set TSR_CPU(set);

tsr_status TSR_CPU(embedding)(const tsr_kernel_call *call);
tsr_status TSR_CPU(embedding_grad)(const tsr_kernel_call *call);
tsr_status TSR_CPU(position_add)(const tsr_kernel_call *call);
tsr_status TSR_CPU(position_grad)(const tsr_kernel_call *call);
tsr_status TSR_CPU(layer_norm)(const tsr_kernel_call *call);
size_t TSR_CPU(layer_norm_grad_workspace)(const tsr_op_view *view, int threads);
tsr_status TSR_CPU(layer_norm_grad)(const tsr_kernel_call *call);
tsr_status TSR_CPU(linear)(const tsr_kernel_call *call);
tsr_status TSR_CPU(linear_grad_input)(const tsr_kernel_call *call);
tsr_status TSR_CPU(linear_grad_weight)(const tsr_kernel_call *call);
tsr_status TSR_CPU(bias_grad)(const tsr_kernel_call *call);
size_t TSR_CPU(attention_workspace)(const tsr_op_view *view, int threads);
tsr_status TSR_CPU(attention)(const tsr_kernel_call *call);
size_t TSR_CPU(attention_grad_workspace)(const tsr_op_view *view, int threads);
tsr_status TSR_CPU(attention_grad)(const tsr_kernel_call *call);
size_t TSR_CPU(attention_cached_workspace)(const tsr_op_view *view,
                                           int threads);
tsr_status TSR_CPU(attention_cached)(const tsr_kernel_call *call);
tsr_status TSR_CPU(gelu)(const tsr_kernel_call *call);
tsr_status TSR_CPU(gelu_grad)(const tsr_kernel_call *call);
tsr_status TSR_CPU(add)(const tsr_kernel_call *call);
tsr_status TSR_CPU(cross_entropy)(const tsr_kernel_call *call);
tsr_status TSR_CPU(cross_entropy_grad)(const tsr_kernel_call *call);
tsr_status TSR_CPU(adamw)(const tsr_kernel_call *call);
void TSR_CPU(gemm)(const tsr_gemm *gemm);

#endif
