/* AdamW: one pass over param, grad, m and v; 28 bytes of traffic an element,
 * and 2 for a bf16 twin. */
#include "base/half.h"
#include "ops/cpu/isa.h"
#include "ops/cpu/parallel.h"

#include <assert.h>
#include <math.h>

typedef struct update {
    const float *grad;
    float *param, *m, *v;
    uint16_t *twin; /* NULL: none */
    int64_t count;
    float clip, eps;
    float beta1, rest1, beta2, rest2; /* rest = 1 - beta, rounded once */
    float shrink;                     /* learning rate * weight decay */
    float rate;                       /* learning rate / bias correction of m */
    float inverse_root_correction2;   /* 1 / sqrt(bias correction of v) */
} update;

static void update_unit(const update *all, int64_t first) {
    const update u = *all;
    const float *grad = u.grad;
    float *param = u.param, *m = u.m, *v = u.v;
    const int64_t last = tsr_min(first + TSR_ELEMENTS, u.count);

#pragma omp simd
    for (int64_t i = first; i < last; i++) {
        const float g = grad[i] * u.clip;
        const float m_new = u.beta1 * m[i] + u.rest1 * g;
        const float v_new = u.beta2 * v[i] + u.rest2 * (g * g);
        const float root = sqrtf(v_new) * u.inverse_root_correction2;
        param[i] -= u.shrink * param[i] + u.rate * m_new / (root + u.eps);
        m[i] = m_new;
        v[i] = v_new;
    }
    if (!u.twin)
        return;
#pragma omp simd
    for (int64_t i = first; i < last; i++)
        u.twin[i] = tsr_to_bf16(param[i]);
}

static void update_body(void *context, int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; unit++)
        update_unit(context, unit * TSR_ELEMENTS);
}

tsr_status TSR_CPU(adamw)(const tsr_kernel_call *call) {
    const float *schedule = call->in[4];
    const double rate = schedule[0], step = schedule[1];
    const double beta1 = tsr_view_real(&call->view, "beta1", 0.9);
    const double beta2 = tsr_view_real(&call->view, "beta2", 0.999);
    update u = {
        .grad = call->in[1],
        .param = call->out[0],
        .m = call->out[1],
        .v = call->out[2],
        .twin = call->view.output_count > 3 ? call->out[3] : NULL,
        .count = tsr_type_count(&call->view.inputs[0]),
        .clip = *(const float *)call->in[5],
        .beta1 = (float)beta1,
        .rest1 = (float)(1 - beta1),
        .beta2 = (float)beta2,
        .rest2 = (float)(1 - beta2),
        .eps = (float)tsr_view_real(&call->view, "eps", 1e-8),
        .shrink = (float)(rate * tsr_view_real(&call->view, "weight_decay", 0)),
        .rate = (float)(rate / (1 - pow(beta1, step))),
        .inverse_root_correction2 = (float)(1 / sqrt(1 - pow(beta2, step))),
    };
    assert(call->in[0] == u.param && call->in[2] == u.m && call->in[3] == u.v);

    if (isfinite(u.clip))
        tsr_device_parallel(call->device, tsr_ceil_div(u.count, TSR_ELEMENTS),
                            update_body, &u);
    return TSR_OK;
}
