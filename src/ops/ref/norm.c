/* Layer normalisation. */
#include "ops/ref/ref.h"

#include <math.h>

tsr_status TSR_REF(layer_norm)(const tsr_kernel_call *call) {
    const tsr_in x = tsr_in_of(call, 0);      /* (N, C) */
    const tsr_in weight = tsr_in_of(call, 1); /* (C) */
    const tsr_in bias = tsr_in_of(call, 2);   /* (C) */
    const tsr_out y = tsr_out_of(call, 0);    /* (N, C) */
    tsr_real *mean = call->out[1];            /* (N) */
    tsr_real *rstd = call->out[2];            /* (N) */
    const int64_t N = tsr_row_count(&call->view.inputs[0]);
    const int64_t C = tsr_last_dim(&call->view.inputs[0]);
    const double eps = tsr_view_real(&call->view, "eps", 1e-5);

    for (int64_t n = 0; n < N; n++) {
        double sum = 0;
        for (int64_t c = 0; c < C; c++)
            sum += tsr_get(x, n * C + c);
        const double m = sum / (double)C;

        double squares = 0;
        for (int64_t c = 0; c < C; c++) {
            const double d = tsr_get(x, n * C + c) - m;
            squares += d * d;
        }
        const double r = 1.0 / sqrt(squares / (double)C + eps);

        for (int64_t c = 0; c < C; c++)
            tsr_put(y, n * C + c,
                    (tsr_get(x, n * C + c) - m) * r * tsr_get(weight, c) +
                        tsr_get(bias, c));
        mean[n] = (tsr_real)m;
        rstd[n] = (tsr_real)r;
    }
    return TSR_OK;
}

typedef struct backward {
    tsr_in x, weight, dy, acc;   /* (N, C), (C), (N, C), (N, C) or none */
    const tsr_real *mean, *rstd; /* (N) */
    tsr_out dx, dweight, dbias;  /* (N, C), (C), (C) */
    int64_t N, C;
} backward;

/* (x - mean) * rstd */
static double normalised(const backward *b, int64_t n, int64_t c) {
    return (tsr_get(b->x, n * b->C + c) - b->mean[n]) * b->rstd[n];
}

static void weight_grad(const backward *b, int64_t c) {
    double weight_sum = 0, bias_sum = 0;
    for (int64_t n = 0; n < b->N; n++) {
        const double dy = tsr_get(b->dy, n * b->C + c);
        weight_sum += dy * normalised(b, n, c);
        bias_sum += dy;
    }
    tsr_put(b->dweight, c, weight_sum);
    tsr_put(b->dbias, c, bias_sum);
}

static void row_grad(const backward *b, int64_t n) {
    double g_sum = 0, gh_sum = 0;
    for (int64_t c = 0; c < b->C; c++) {
        const double g = tsr_get(b->dy, n * b->C + c) * tsr_get(b->weight, c);
        g_sum += g;
        gh_sum += g * normalised(b, n, c);
    }
    for (int64_t c = 0; c < b->C; c++) {
        const int64_t i = n * b->C + c;
        const double g = tsr_get(b->dy, i) * tsr_get(b->weight, c);
        const double d =
            b->rstd[n] * (g - g_sum / (double)b->C -
                          normalised(b, n, c) * gh_sum / (double)b->C);
        tsr_put(b->dx, i, b->acc.data ? tsr_get(b->acc, i) + d : d);
    }
}

/* With h = (x - mean) * rstd and g = dy * weight:
 *
 *   dx      = rstd * (g - mean_c(g) - h * mean_c(g * h)) + acc
 *   dweight = sum_n dy * h
 *   dbias   = sum_n dy
 *
 * dx may lie over dy, so it comes last. */
tsr_status TSR_REF(layer_norm_grad)(const tsr_kernel_call *call) {
    const backward b = {
        .x = tsr_in_of(call, 0),
        .weight = tsr_in_of(call, 1),
        .mean = call->in[2],
        .rstd = call->in[3],
        .dy = tsr_in_of(call, 4),
        .acc = tsr_in_of(call, 5),
        .dx = tsr_out_of(call, 0),
        .dweight = tsr_out_of(call, 1),
        .dbias = tsr_out_of(call, 2),
        .N = tsr_row_count(&call->view.inputs[0]),
        .C = tsr_last_dim(&call->view.inputs[0]),
    };
    for (int64_t c = 0; c < b.C; c++)
        weight_grad(&b, c);
    for (int64_t n = 0; n < b.N; n++)
        row_grad(&b, n);
    return TSR_OK;
}
