/* The reference kernels: naive C, one thread, the definition of every op.
 *
 * Sums and functions are computed in double and rounded to the operand's dtype
 * where they are stored (bf16: by way of f32). Tests build these sources a
 * second time with TSR_REF_DOUBLE: what is f32 then is double, so that backward
 * kernels can be checked against differences of forward ones. */
#ifndef TSR_OPS_REF_H
#define TSR_OPS_REF_H

#include "base/half.h"
#include "ops/shape.h"

#ifdef TSR_REF_DOUBLE
typedef double tsr_real;
#define TSR_REF(name) tsr_ref_##name##_double
#else
typedef float tsr_real;
#define TSR_REF(name) tsr_ref_##name
#endif

/* An operand: elements of any real dtype. */
typedef struct tsr_in {
    const void *data; /* NULL: an optional input that is not there */
    tsr_dtype dtype;
} tsr_in;
typedef struct tsr_out {
    void *data;
    tsr_dtype dtype;
} tsr_out;

static inline tsr_in tsr_in_of(const tsr_kernel_call *call, size_t i) {
    if (i >= call->view.input_count)
        return (tsr_in){0};
    return (tsr_in){call->in[i], call->view.inputs[i].dtype};
}

static inline tsr_out tsr_out_of(const tsr_kernel_call *call, size_t i) {
    return (tsr_out){call->out[i], call->view.outputs[i].dtype};
}

static inline double tsr_get(tsr_in x, int64_t i) {
    if (x.dtype == TSR_F32)
        return (double)((const tsr_real *)x.data)[i];
    return (double)tsr_load_real(x.data, x.dtype, (size_t)i);
}

static inline void tsr_put(tsr_out y, int64_t i, double value) {
    if (y.dtype == TSR_F32)
        ((tsr_real *)y.data)[i] = (tsr_real)value;
    else
        tsr_store_real(y.data, y.dtype, (size_t)i, (float)value);
}

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
size_t TSR_REF(attention_grad_workspace)(const tsr_op_view *view, int threads);
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
