/* The update section: AdamW, sums and the clipping factor. */
#include "ops/ref/ref.h"

#include <assert.h>
#include <math.h>

/* The formula of torch.optim.AdamW (Loshchilov and Hutter 2019). */
tsr_status TSR_REF(adamw)(const tsr_kernel_call *call) {
    const tsr_real *grad = call->in[1];     /* (n) */
    const tsr_real *schedule = call->in[4]; /* (2) learning rate, step */
    const double clip = *(const tsr_real *)call->in[5];
    tsr_real *param = call->out[0]; /* (n), in place */
    tsr_real *m = call->out[1];     /* (n), in place */
    tsr_real *v = call->out[2];     /* (n), in place */
    const tsr_out twin =
        call->view.output_count > 3 ? tsr_out_of(call, 3) : (tsr_out){0};
    const int64_t count = tsr_type_count(&call->view.inputs[0]);
    const double beta1 = tsr_view_real(&call->view, "beta1", 0.9);
    const double beta2 = tsr_view_real(&call->view, "beta2", 0.999);
    const double eps = tsr_view_real(&call->view, "eps", 1e-8);
    const double decay = tsr_view_real(&call->view, "weight_decay", 0);
    const double rate = schedule[0], step = schedule[1];
    const double correction1 = 1 - pow(beta1, step);
    const double correction2 = 1 - pow(beta2, step);
    assert(call->in[0] == param && call->in[2] == m && call->in[3] == v);

    if (!isfinite(clip))
        return TSR_OK;
    for (int64_t i = 0; i < count; i++) {
        const double g = grad[i] * clip;
        const double m_new = beta1 * m[i] + (1 - beta1) * g;
        const double v_new = beta2 * v[i] + (1 - beta2) * g * g;
        const double m_hat = m_new / correction1;
        const double v_hat = v_new / correction2;
        param[i] = (tsr_real)(param[i] * (1 - rate * decay) -
                              rate * m_hat / (sqrt(v_hat) + eps));
        m[i] = (tsr_real)m_new;
        v[i] = (tsr_real)v_new;
        if (twin.data)
            tsr_put(twin, i, (double)param[i]);
    }
    return TSR_OK;
}

tsr_status TSR_REF(sum)(const tsr_kernel_call *call) {
    tsr_real *y = call->out[0]; /* (1) */
    double sum = 0;

    for (size_t i = 0; i < call->view.input_count; i++) {
        const tsr_real *x = call->in[i];
        const int64_t count = tsr_type_count(&call->view.inputs[i]);
        for (int64_t j = 0; j < count; j++)
            sum += x[j];
    }
    *y = (tsr_real)sum;
    return TSR_OK;
}

/* The 1e-6 is that of torch.nn.utils.clip_grad_norm_. */
tsr_status TSR_REF(clip_scale)(const tsr_kernel_call *call) {
    const tsr_real *square_sum = call->in[0]; /* (1) */
    tsr_real *norm = call->out[0];            /* (1) */
    tsr_real *clip = call->out[1];            /* (1) */
    const double max_norm = tsr_view_real(&call->view, "max_norm", 0);
    const double n = sqrt((double)*square_sum);
    const double ratio = max_norm / (n + 1e-6);

    *norm = (tsr_real)n;
    if (!isfinite(n))
        *clip = (tsr_real)NAN;
    else
        *clip = (tsr_real)(max_norm > 0 && ratio < 1 ? ratio : 1);
    return TSR_OK;
}
