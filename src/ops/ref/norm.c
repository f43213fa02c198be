/* Layer normalisation. */
#include "ops/ref/ref.h"

#include <math.h>

tsr_status TSR_REF(layer_norm)(const tsr_kernel_call *call) {
    const tsr_real *x = call->in[0];      /* (N, C) */
    const tsr_real *weight = call->in[1]; /* (C) */
    const tsr_real *bias = call->in[2];   /* (C) */
    tsr_real *y = call->out[0];           /* (N, C) */
    tsr_real *mean = call->out[1];        /* (N) */
    tsr_real *rstd = call->out[2];        /* (N) */
    const int64_t N = tsr_row_count(&call->view.inputs[0]);
    const int64_t C = tsr_last_dim(&call->view.inputs[0]);
    const double eps = tsr_view_real(&call->view, "eps", 1e-5);

    for (int64_t n = 0; n < N; n++, x += C, y += C) {
        double sum = 0;
        for (int64_t c = 0; c < C; c++)
            sum += x[c];
        const double m = sum / (double)C;

        double squares = 0;
        for (int64_t c = 0; c < C; c++)
            squares += (x[c] - m) * (x[c] - m);
        const double r = 1.0 / sqrt(squares / (double)C + eps);

        for (int64_t c = 0; c < C; c++)
            y[c] = (tsr_real)((x[c] - m) * r * weight[c] + bias[c]);
        mean[n] = (tsr_real)m;
        rstd[n] = (tsr_real)r;
    }
    return TSR_OK;
}

/* With h = (x - mean) * rstd and g = dy * weight:
 *
 *   dx      = rstd * (g - mean_c(g) - h * mean_c(g * h)) + acc
 *   dweight = sum_n dy * h
 *   dbias   = sum_n dy
 *
 * dx may lie over dy, so it comes last. */
tsr_status TSR_REF(layer_norm_grad)(const tsr_kernel_call *call) {
    const tsr_real *x = call->in[0];      /* (N, C) */
    const tsr_real *weight = call->in[1]; /* (C) */
    const tsr_real *mean = call->in[2];   /* (N) */
    const tsr_real *rstd = call->in[3];   /* (N) */
    const tsr_real *dy = call->in[4];     /* (N, C) */
    const tsr_real *acc =
        call->view.input_count > 5 ? call->in[5] : NULL; /* (N, C) */
    tsr_real *dx = call->out[0];                         /* (N, C) */
    tsr_real *dweight = call->out[1];                    /* (C) */
    tsr_real *dbias = call->out[2];                      /* (C) */
    const int64_t N = tsr_row_count(&call->view.inputs[0]);
    const int64_t C = tsr_last_dim(&call->view.inputs[0]);

    for (int64_t c = 0; c < C; c++) {
        double weight_sum = 0, bias_sum = 0;
        for (int64_t n = 0; n < N; n++) {
            const double h = ((double)x[n * C + c] - mean[n]) * rstd[n];
            weight_sum += dy[n * C + c] * h;
            bias_sum += dy[n * C + c];
        }
        dweight[c] = (tsr_real)weight_sum;
        dbias[c] = (tsr_real)bias_sum;
    }
    for (int64_t n = 0; n < N; n++) {
        double g_sum = 0, gh_sum = 0;
        for (int64_t c = 0; c < C; c++) {
            const double h = ((double)x[n * C + c] - mean[n]) * rstd[n];
            const double g = (double)dy[n * C + c] * weight[c];
            g_sum += g;
            gh_sum += g * h;
        }
        for (int64_t c = 0; c < C; c++) {
            const int64_t i = n * C + c;
            const double h = ((double)x[i] - mean[n]) * rstd[n];
            const double g = (double)dy[i] * weight[c];
            const double d =
                rstd[n] * (g - g_sum / (double)C - h * gh_sum / (double)C);
            dx[i] = (tsr_real)(acc ? acc[i] + d : d);
        }
    }
    return TSR_OK;
}
