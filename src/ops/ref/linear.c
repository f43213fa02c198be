/* Linear layers. */
#include "ops/ref/ref.h"

static int64_t weight_at(const tsr_linear_shape *s, int64_t i, int64_t o) {
    return s->out_in ? o * s->I + i : i * s->O + o;
}

tsr_status TSR_REF(linear)(const tsr_kernel_call *call) {
    const tsr_real *x = call->in[0];      /* (N, I) */
    const tsr_real *weight = call->in[1]; /* (I, O) or (O, I) */
    const tsr_real *bias =
        call->view.input_count > 2 ? call->in[2] : NULL; /* (O) */
    tsr_real *y = call->out[0];                          /* (N, O) */
    const tsr_linear_shape s = tsr_linear_shape_of(
        &call->view, &call->view.inputs[0], &call->view.outputs[0]);

    for (int64_t n = 0; n < s.N; n++)
        for (int64_t o = 0; o < s.O; o++) {
            double sum = bias ? bias[o] : 0;
            for (int64_t i = 0; i < s.I; i++)
                sum += (double)x[n * s.I + i] * weight[weight_at(&s, i, o)];
            y[n * s.O + o] = (tsr_real)sum;
        }
    return TSR_OK;
}

tsr_status TSR_REF(linear_grad_input)(const tsr_kernel_call *call) {
    const tsr_real *dy = call->in[0];     /* (N, O) */
    const tsr_real *weight = call->in[1]; /* (I, O) or (O, I) */
    const tsr_real *acc =
        call->view.input_count > 2 ? call->in[2] : NULL; /* (N, I) */
    tsr_real *dx = call->out[0];                         /* (N, I) */
    const tsr_linear_shape s = tsr_linear_shape_of(
        &call->view, &call->view.outputs[0], &call->view.inputs[0]);

    for (int64_t n = 0; n < s.N; n++)
        for (int64_t i = 0; i < s.I; i++) {
            double sum = acc ? acc[n * s.I + i] : 0;
            for (int64_t o = 0; o < s.O; o++)
                sum += (double)dy[n * s.O + o] * weight[weight_at(&s, i, o)];
            dx[n * s.I + i] = (tsr_real)sum;
        }
    return TSR_OK;
}

tsr_status TSR_REF(linear_grad_weight)(const tsr_kernel_call *call) {
    const tsr_real *x = call->in[0];  /* (N, I) */
    const tsr_real *dy = call->in[1]; /* (N, O) */
    const tsr_real *acc =
        call->view.input_count > 2 ? call->in[2] : NULL; /* as dweight */
    tsr_real *dweight = call->out[0];                    /* (I, O) or (O, I) */
    const tsr_linear_shape s = tsr_linear_shape_of(
        &call->view, &call->view.inputs[0], &call->view.inputs[1]);

    for (int64_t i = 0; i < s.I; i++)
        for (int64_t o = 0; o < s.O; o++) {
            double sum = acc ? acc[weight_at(&s, i, o)] : 0;
            for (int64_t n = 0; n < s.N; n++)
                sum += (double)x[n * s.I + i] * dy[n * s.O + o];
            dweight[weight_at(&s, i, o)] = (tsr_real)sum;
        }
    return TSR_OK;
}

tsr_status TSR_REF(bias_grad)(const tsr_kernel_call *call) {
    const tsr_real *dy = call->in[0]; /* (N, O) */
    const tsr_real *acc =
        call->view.input_count > 1 ? call->in[1] : NULL; /* (O) */
    tsr_real *dbias = call->out[0];                      /* (O) */
    const int64_t N = tsr_row_count(&call->view.inputs[0]);
    const int64_t O = tsr_last_dim(&call->view.inputs[0]);

    for (int64_t o = 0; o < O; o++) {
        double sum = acc ? acc[o] : 0;
        for (int64_t n = 0; n < N; n++)
            sum += dy[n * O + o];
        dbias[o] = (tsr_real)sum;
    }
    return TSR_OK;
}
