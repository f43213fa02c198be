/* Token and position embeddings. */
#include "ops/ref/ref.h"

#include <math.h>

tsr_status TSR_REF(embedding)(const tsr_kernel_call *call) {
    const int32_t *tokens = call->in[0];      /* (N) */
    const tsr_in weight = tsr_in_of(call, 1); /* (V, C) */
    const tsr_out y = tsr_out_of(call, 0);    /* (N, C) */
    const int64_t N = tsr_type_count(&call->view.inputs[0]);
    const int64_t V = call->view.inputs[1].shape[0];
    const int64_t C = call->view.inputs[1].shape[1];

    for (int64_t n = 0; n < N; n++) {
        const int64_t token = tokens[n];
        const bool known = token >= 0 && token < V;
        for (int64_t c = 0; c < C; c++)
            tsr_put(y, n * C + c,
                    known ? tsr_get(weight, token * C + c) : (double)NAN);
    }
    return TSR_OK;
}

tsr_status TSR_REF(embedding_grad)(const tsr_kernel_call *call) {
    const int32_t *tokens = call->in[0];         /* (N) */
    const tsr_in dy = tsr_in_of(call, 1);        /* (N, C) */
    const tsr_in acc = tsr_in_of(call, 2);       /* (V, C), optional */
    const tsr_out dweight = tsr_out_of(call, 0); /* (V, C) */
    const int64_t N = tsr_type_count(&call->view.inputs[0]);
    const int64_t V = call->view.outputs[0].shape[0];
    const int64_t C = call->view.outputs[0].shape[1];

    for (int64_t v = 0; v < V; v++)
        for (int64_t c = 0; c < C; c++) {
            double sum = acc.data ? tsr_get(acc, v * C + c) : 0;
            for (int64_t n = 0; n < N; n++)
                if (tokens[n] == v)
                    sum += tsr_get(dy, n * C + c);
            tsr_put(dweight, v * C + c, sum);
        }
    return TSR_OK;
}

tsr_status TSR_REF(position_add)(const tsr_kernel_call *call) {
    const tsr_in x = tsr_in_of(call, 0);      /* (B, T, C) */
    const tsr_in weight = tsr_in_of(call, 1); /* (P, C) */
    const int32_t *position =
        call->view.input_count > 2 ? call->in[2] : NULL; /* (1) */
    const tsr_out y = tsr_out_of(call, 0);               /* (B, T, C) */
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
                tsr_put(y, i,
                        known ? tsr_get(x, i) + tsr_get(weight, p * C + c)
                              : (double)NAN);
            }
    return TSR_OK;
}

tsr_status TSR_REF(position_grad)(const tsr_kernel_call *call) {
    const tsr_in dy = tsr_in_of(call, 0);        /* (B, T, C) */
    const tsr_in acc = tsr_in_of(call, 1);       /* (P, C), optional */
    const tsr_out dweight = tsr_out_of(call, 0); /* (P, C) */
    const int64_t B = call->view.inputs[0].shape[0];
    const int64_t T = call->view.inputs[0].shape[1];
    const int64_t C = call->view.inputs[0].shape[2];
    const int64_t P = call->view.outputs[0].shape[0];

    for (int64_t p = 0; p < P; p++)
        for (int64_t c = 0; c < C; c++) {
            double sum = acc.data ? tsr_get(acc, p * C + c) : 0;
            for (int64_t b = 0; p < T && b < B; b++)
                sum += tsr_get(dy, (b * T + p) * C + c);
            tsr_put(dweight, p * C + c, sum);
        }
    return TSR_OK;
}
