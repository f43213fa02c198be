/* Linear layers. */
#include "ops/ref/ref.h"

static int64_t weight_at(const tsr_linear_shape *s, int64_t i, int64_t o) {
    return s->out_in ? o * s->I + i : i * s->O + o;
}

tsr_status TSR_REF(linear)(const tsr_kernel_call *call) {
    const tsr_in x = tsr_in_of(call, 0);      /* (N, I) */
    const tsr_in weight = tsr_in_of(call, 1); /* (I, O) or (O, I) */
    const tsr_in bias = tsr_in_of(call, 2);   /* (O), optional */
    const tsr_out y = tsr_out_of(call, 0);    /* (N, O) */
    const tsr_linear_shape s = tsr_linear_shape_of(
        &call->view, &call->view.inputs[0], &call->view.outputs[0]);

    for (int64_t n = 0; n < s.N; n++)
        for (int64_t o = 0; o < s.O; o++) {
            double sum = bias.data ? tsr_get(bias, o) : 0;
            for (int64_t i = 0; i < s.I; i++)
                sum += tsr_get(x, n * s.I + i) *
                       tsr_get(weight, weight_at(&s, i, o));
            tsr_put(y, n * s.O + o, sum);
        }
    return TSR_OK;
}

tsr_status TSR_REF(linear_grad_input)(const tsr_kernel_call *call) {
    const tsr_in dy = tsr_in_of(call, 0);     /* (N, O) */
    const tsr_in weight = tsr_in_of(call, 1); /* (I, O) or (O, I) */
    const tsr_in acc = tsr_in_of(call, 2);    /* (N, I), optional */
    const tsr_out dx = tsr_out_of(call, 0);   /* (N, I) */
    const tsr_linear_shape s = tsr_linear_shape_of(
        &call->view, &call->view.outputs[0], &call->view.inputs[0]);

    for (int64_t n = 0; n < s.N; n++)
        for (int64_t i = 0; i < s.I; i++) {
            double sum = acc.data ? tsr_get(acc, n * s.I + i) : 0;
            for (int64_t o = 0; o < s.O; o++)
                sum += tsr_get(dy, n * s.O + o) *
                       tsr_get(weight, weight_at(&s, i, o));
            tsr_put(dx, n * s.I + i, sum);
        }
    return TSR_OK;
}

tsr_status TSR_REF(linear_grad_weight)(const tsr_kernel_call *call) {
    const tsr_in x = tsr_in_of(call, 0);         /* (N, I) */
    const tsr_in dy = tsr_in_of(call, 1);        /* (N, O) */
    const tsr_in acc = tsr_in_of(call, 2);       /* as dweight, optional */
    const tsr_out dweight = tsr_out_of(call, 0); /* (I, O) or (O, I) */
    const tsr_linear_shape s = tsr_linear_shape_of(
        &call->view, &call->view.inputs[0], &call->view.inputs[1]);

    for (int64_t i = 0; i < s.I; i++)
        for (int64_t o = 0; o < s.O; o++) {
            double sum = acc.data ? tsr_get(acc, weight_at(&s, i, o)) : 0;
            for (int64_t n = 0; n < s.N; n++)
                sum += tsr_get(x, n * s.I + i) * tsr_get(dy, n * s.O + o);
            tsr_put(dweight, weight_at(&s, i, o), sum);
        }
    return TSR_OK;
}

tsr_status TSR_REF(bias_grad)(const tsr_kernel_call *call) {
    const tsr_in dy = tsr_in_of(call, 0);      /* (N, O) */
    const tsr_in acc = tsr_in_of(call, 1);     /* (O), optional */
    const tsr_out dbias = tsr_out_of(call, 0); /* (O) */
    const int64_t N = tsr_row_count(&call->view.inputs[0]);
    const int64_t O = tsr_last_dim(&call->view.inputs[0]);

    for (int64_t o = 0; o < O; o++) {
        double sum = acc.data ? tsr_get(acc, o) : 0;
        for (int64_t n = 0; n < N; n++)
            sum += tsr_get(dy, n * O + o);
        tsr_put(dbias, o, sum);
    }
    return TSR_OK;
}
