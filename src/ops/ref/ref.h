/* The reference kernels: naive C, one thread, the definition of every op.
 *
 * Sums and functions are computed in double and rounded to tsr_real where they
 * are stored. Tests build these sources a second time with TSR_REF_DOUBLE:
 * tsr_real is then double, so that backward kernels can be checked against
 * differences of forward ones. */
#ifndef TSR_OPS_REF_H
#define TSR_OPS_REF_H

#include "ops/shape.h"

#ifdef TSR_REF_DOUBLE
typedef double tsr_real;
#define TSR_REF(name) tsr_ref_##name##_double
#else
typedef float tsr_real;
#define TSR_REF(name) tsr_ref_##name
#endif

extern const tsr_kernel TSR_REF(kernels)[];
extern const size_t TSR_REF(kernel_count);

tsr_status TSR_REF(embedding)(const tsr_kernel_call *call);
tsr_status TSR_REF(embedding_grad)(const tsr_kernel_call *call);
tsr_status TSR_REF(position_add)(const tsr_kernel_call *call);
tsr_status TSR_REF(position_grad)(const tsr_kernel_call *call);
tsr_status TSR_REF(layer_norm)(const tsr_kernel_call *call);
tsr_status TSR_REF(layer_norm_grad)(const tsr_kernel_call *call);
tsr_status TSR_REF(linear)(const tsr_kernel_call *call);
tsr_status TSR_REF(linear_grad_input)(const tsr_kernel_call *call);
tsr_status TSR_REF(linear_grad_weight)(const tsr_kernel_call *call);
tsr_status TSR_REF(bias_grad)(const tsr_kernel_call *call);
size_t TSR_REF(attention_workspace)(const tsr_op_view *view, int threads);
tsr_status TSR_REF(attention)(const tsr_kernel_call *call);
tsr_status TSR_REF(attention_grad)(const tsr_kernel_call *call);
size_t TSR_REF(attention_cached_workspace)(const tsr_op_view *view,
                                           int threads);
tsr_status TSR_REF(attention_cached)(const tsr_kernel_call *call);
tsr_status TSR_REF(gelu)(const tsr_kernel_call *call);
tsr_status TSR_REF(gelu_grad)(const tsr_kernel_call *call);
tsr_status TSR_REF(add)(const tsr_kernel_call *call);
tsr_status TSR_REF(store)(const tsr_kernel_call *call);
tsr_status TSR_REF(cast)(const tsr_kernel_call *call);
tsr_status TSR_REF(cross_entropy)(const tsr_kernel_call *call);
tsr_status TSR_REF(cross_entropy_grad)(const tsr_kernel_call *call);
tsr_status TSR_REF(adamw)(const tsr_kernel_call *call);
tsr_status TSR_REF(sum)(const tsr_kernel_call *call);
tsr_status TSR_REF(clip_scale)(const tsr_kernel_call *call);

#endif
