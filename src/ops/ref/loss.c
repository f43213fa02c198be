/* Cross entropy over a vocabulary that may be padded. */
#include "ops/ref/ref.h"

#include <math.h>

/* Of logits[first, first + count). */
static double log_sum_exp(tsr_in logits, int64_t first, int64_t count) {
    double most = tsr_get(logits, first), sum = 0;
    for (int64_t v = 1; v < count; v++) {
        const double logit = tsr_get(logits, first + v);
        most = logit > most ? logit : most;
    }
    for (int64_t v = 0; v < count; v++)
        sum += exp(tsr_get(logits, first + v) - most);
    return most + log(sum);
}

tsr_status TSR_REF(cross_entropy)(const tsr_kernel_call *call) {
    const tsr_in logits = tsr_in_of(call, 0); /* (N, V) */
    const int32_t *targets = call->in[1];     /* (N) */
    const tsr_real *before = call->in[2];     /* (1) */
    tsr_real *loss = call->out[0];            /* (1), over before */
    tsr_real *lse = call->out[1];             /* (N) */
    const int64_t N = tsr_row_count(&call->view.inputs[0]);
    const int64_t V = tsr_last_dim(&call->view.inputs[0]);
    const int64_t vocab = tsr_view_int(&call->view, "vocab", V);
    const double scale = tsr_view_real(&call->view, "scale", 1);
    double sum = 0;

    for (int64_t n = 0; n < N; n++) {
        lse[n] = (tsr_real)log_sum_exp(logits, n * V, vocab);
        if (targets[n] >= vocab)
            sum = NAN;
        else if (targets[n] >= 0)
            sum += (double)lse[n] - tsr_get(logits, n * V + targets[n]);
    }
    const bool accumulate = tsr_view_int(&call->view, "accumulate", 0) != 0;
    *loss = (tsr_real)((accumulate ? *before : 0) + scale * sum);
    return TSR_OK;
}

/* A row whose target is past the vocabulary becomes NaN, like its loss. */
tsr_status TSR_REF(cross_entropy_grad)(const tsr_kernel_call *call) {
    const tsr_in logits = tsr_in_of(call, 0);    /* (N, V) */
    const int32_t *targets = call->in[1];        /* (N) */
    const tsr_real *lse = call->in[2];           /* (N) */
    const tsr_out dlogits = tsr_out_of(call, 0); /* (N, V), may be logits */
    const int64_t N = tsr_row_count(&call->view.inputs[0]);
    const int64_t V = tsr_last_dim(&call->view.inputs[0]);
    const int64_t vocab = tsr_view_int(&call->view, "vocab", V);
    const double scale = tsr_view_real(&call->view, "scale", 1);

    for (int64_t n = 0; n < N; n++)
        for (int64_t v = 0; v < V; v++) {
            const int64_t i = n * V + v;
            const double p = exp(tsr_get(logits, i) - lse[n]);
            const double onehot = v == targets[n];
            if (v >= vocab || targets[n] < 0)
                tsr_put(dlogits, i, 0);
            else if (targets[n] >= vocab)
                tsr_put(dlogits, i, (double)NAN);
            else
                tsr_put(dlogits, i, scale * (p - onehot));
        }
    return TSR_OK;
}
