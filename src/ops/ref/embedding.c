/* Token and position embeddings. */
#include "ops/ref/ref.h"

#include <math.h>

tsr_status TSR_REF(embedding)(const tsr_kernel_call *call) {
    const int32_t *tokens = call->in[0];  /* (N) */
    const tsr_real *weight = call->in[1]; /* (V, C) */
    tsr_real *y = call->out[0];           /* (N, C) */
    const int64_t N = tsr_type_count(&call->view.inputs[0]);
    const int64_t V = call->view.inputs[1].shape[0];
    const int64_t C = call->view.inputs[1].shape[1];

    for (int64_t n = 0; n < N; n++) {
        const int64_t token = tokens[n];
        const bool known = token >= 0 && token < V;
        for (int64_t c = 0; c < C; c++)
            y[n * C + c] = known ? weight[token * C + c] : (tsr_real)NAN;
    }
    return TSR_OK;
}

tsr_status TSR_REF(embedding_grad)(const tsr_kernel_call *call) {
    const int32_t *tokens = call->in[0]; /* (N) */
    const tsr_real *dy = call->in[1];    /* (N, C) */
    const tsr_real *acc =
        call->view.input_count > 2 ? call->in[2] : NULL; /* (V, C) */
    tsr_real *dweight = call->out[0];                    /* (V, C) */
    const int64_t N = tsr_type_count(&call->view.inputs[0]);
    const int64_t V = call->view.outputs[0].shape[0];
    const int64_t C = call->view.outputs[0].shape[1];

    for (int64_t i = 0; i < V * C; i++)
        dweight[i] = acc ? acc[i] : 0;
    for (int64_t n = 0; n < N; n++) {
        const int64_t token = tokens[n];
        if (token < 0 || token >= V)
            continue;
        for (int64_t c = 0; c < C; c++)
            dweight[token * C + c] += dy[n * C + c];
    }
    return TSR_OK;
}

tsr_status TSR_REF(position_add)(const tsr_kernel_call *call) {
    const tsr_real *x = call->in[0];      /* (B, T, C) */
    const tsr_real *weight = call->in[1]; /* (P, C) */
    const int32_t *position =
        call->view.input_count > 2 ? call->in[2] : NULL; /* (1) */
    tsr_real *y = call->out[0];                          /* (B, T, C) */
    const int64_t B = call->view.inputs[0].shape[0];
    const int64_t T = call->view.inputs[0].shape[1];
    const int64_t C = call->view.inputs[0].shape[2];
    const int64_t P = call->view.inputs[1].shape[0];
    const int64_t first = position ? *position : 0;

    for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T; t++)
            for (int64_t c = 0; c < C; c++) {
                const int64_t p = first + t;
                const int64_t i = (b * T + t) * C + c;
                const bool known = p >= 0 && p < P;
                y[i] = known ? x[i] + weight[p * C + c] : (tsr_real)NAN;
            }
    return TSR_OK;
}

tsr_status TSR_REF(position_grad)(const tsr_kernel_call *call) {
    const tsr_real *dy = call->in[0]; /* (B, T, C) */
    const tsr_real *acc =
        call->view.input_count > 1 ? call->in[1] : NULL; /* (P, C) */
    tsr_real *dweight = call->out[0];                    /* (P, C) */
    const int64_t B = call->view.inputs[0].shape[0];
    const int64_t T = call->view.inputs[0].shape[1];
    const int64_t C = call->view.inputs[0].shape[2];
    const int64_t P = call->view.outputs[0].shape[0];

    for (int64_t p = 0; p < P; p++)
        for (int64_t c = 0; c < C; c++) {
            double sum = acc ? acc[p * C + c] : 0;
            for (int64_t b = 0; p < T && b < B; b++)
                sum += dy[(b * T + p) * C + c];
            dweight[p * C + c] = (tsr_real)sum;
        }
    return TSR_OK;
}
