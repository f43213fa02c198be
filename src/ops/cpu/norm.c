/* Layer normalisation. */
#include "ops/cpu/element.h"
#include "ops/cpu/parallel.h"

#include <math.h>
#include <string.h>

/* ---- forward: a unit is a row ---- */

typedef struct forward {
    const tsr_element *x, *weight, *bias; /* (N, C), (C), (C) */
    tsr_element *y;                       /* (N, C) */
    float *mean, *rstd;                   /* (N), (N) */
    int64_t C;
    float eps;
} forward;

static void forward_row(const forward *f, int64_t n) {
    const tsr_element *x = f->x + n * f->C;
    const tsr_element *weight = f->weight, *bias = f->bias;
    tsr_element *y = f->y + n * f->C;
    const int64_t C = f->C;

    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < C; c++)
        sum += tsr_widen(x[c]);
    const float mean = sum / (float)C;

    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t c = 0; c < C; c++) {
        const float d = tsr_widen(x[c]) - mean;
        squares += d * d;
    }
    const float rstd = 1.0f / sqrtf(squares / (float)C + f->eps);

#pragma omp simd
    for (int64_t c = 0; c < C; c++)
        y[c] =
            tsr_narrow((tsr_widen(x[c]) - mean) * rstd * tsr_widen(weight[c]) +
                       tsr_widen(bias[c]));
    f->mean[n] = mean;
    f->rstd[n] = rstd;
}

static void forward_body(void *context, int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n++)
        forward_row(context, n);
}

tsr_status TSR_KERNEL(layer_norm)(const tsr_kernel_call *call) {
    forward f = {
        .x = call->in[0],
        .weight = call->in[1],
        .bias = call->in[2],
        .y = call->out[0],
        .mean = call->out[1],
        .rstd = call->out[2],
        .C = tsr_last_dim(&call->view.inputs[0]),
        .eps = (float)tsr_view_real(&call->view, "eps", 1e-5),
    };
    tsr_device_parallel(call->device, tsr_row_count(&call->view.inputs[0]),
                        forward_body, &f);
    return TSR_OK;
}

/* ---- backward: a unit is a chunk of rows with its own partial sums of dweight
 * and dbias in the workspace, added in the order of the chunks ---- */

#define CHUNK_ROWS 32    /* enough threads at 128 rows; partials stay in L1 */
#define CHANNEL_BLOCK 64 /* of the final sum: four cache lines */

typedef struct backward {
    const tsr_element *x, *weight, *dy; /* as in forward */
    const float *mean, *rstd;
    const tsr_element *acc;            /* (N, C) or NULL */
    tsr_element *dx, *dweight, *dbias; /* (N, C), (C), (C); dx may be acc or
                                          dy */
    float *partial;                    /* (chunks, 2, C): dweight, dbias */
    int64_t N, C, chunks;
} backward;

/* Adds the row's part to (2, C) sums, then writes its dx (ref/norm.c has the
 * formula). */
static void backward_row(const backward *b, int64_t n, float *sums) {
    const int64_t C = b->C;
    const tsr_element *x = b->x + n * C, *dy = b->dy + n * C;
    const tsr_element *weight = b->weight,
                      *acc = b->acc ? b->acc + n * C : NULL;
    tsr_element *dx = b->dx + n * C;
    float *dweight = sums, *dbias = sums + C;
    const float mean = b->mean[n], rstd = b->rstd[n];

    float g_sum = 0, gh_sum = 0;
#pragma omp simd reduction(+ : g_sum, gh_sum)
    for (int64_t c = 0; c < C; c++) {
        const float h = (tsr_widen(x[c]) - mean) * rstd;
        const float d = tsr_widen(dy[c]);
        const float g = d * tsr_widen(weight[c]);
        g_sum += g;
        gh_sum += g * h;
        dweight[c] += d * h;
        dbias[c] += d;
    }
    const float g_mean = g_sum / (float)C, gh_mean = gh_sum / (float)C;

    if (acc) {
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            const float h = (tsr_widen(x[c]) - mean) * rstd;
            const float g = tsr_widen(dy[c]) * tsr_widen(weight[c]);
            dx[c] = tsr_narrow(tsr_widen(acc[c]) +
                               rstd * (g - g_mean - h * gh_mean));
        }
    } else {
#pragma omp simd
        for (int64_t c = 0; c < C; c++) {
            const float h = (tsr_widen(x[c]) - mean) * rstd;
            const float g = tsr_widen(dy[c]) * tsr_widen(weight[c]);
            dx[c] = tsr_narrow(rstd * (g - g_mean - h * gh_mean));
        }
    }
}

static void backward_body(void *context, int64_t begin, int64_t end) {
    const backward *b = context;
    for (int64_t chunk = begin; chunk < end; chunk++) {
        float *sums = b->partial + chunk * 2 * b->C;
        const int64_t last = tsr_min((chunk + 1) * CHUNK_ROWS, b->N);
        memset(sums, 0, (size_t)(2 * b->C) * sizeof *sums);
        for (int64_t n = chunk * CHUNK_ROWS; n < last; n++)
            backward_row(b, n, sums);
    }
}

static void sum_block(const backward *b, int64_t first, int64_t count) {
    float dweight[CHANNEL_BLOCK] = {0}, dbias[CHANNEL_BLOCK] = {0};
    for (int64_t chunk = 0; chunk < b->chunks; chunk++) {
        const float *sums = b->partial + chunk * 2 * b->C + first;
#pragma omp simd
        for (int64_t c = 0; c < count; c++) {
            dweight[c] += sums[c];
            dbias[c] += sums[b->C + c];
        }
    }
    for (int64_t c = 0; c < count; c++) {
        b->dweight[first + c] = tsr_narrow(dweight[c]);
        b->dbias[first + c] = tsr_narrow(dbias[c]);
    }
}

static void sum_body(void *context, int64_t begin, int64_t end) {
    const backward *b = context;
    for (int64_t block = begin; block < end; block++)
        sum_block(b, block * CHANNEL_BLOCK,
                  tsr_min(CHANNEL_BLOCK, b->C - block * CHANNEL_BLOCK));
}

size_t TSR_KERNEL(layer_norm_grad_workspace)(const tsr_op_view *view,
                                             int threads) {
    const tsr_type *x = &view->inputs[0];
    (void)threads;
    return (size_t)(tsr_ceil_div(tsr_row_count(x), CHUNK_ROWS) * 2 *
                    tsr_last_dim(x)) *
           sizeof(float);
}

tsr_status TSR_KERNEL(layer_norm_grad)(const tsr_kernel_call *call) {
    backward b = {
        .x = call->in[0],
        .weight = call->in[1],
        .mean = call->in[2],
        .rstd = call->in[3],
        .dy = call->in[4],
        .acc = call->view.input_count > 5 ? call->in[5] : NULL,
        .dx = call->out[0],
        .dweight = call->out[1],
        .dbias = call->out[2],
        .partial = call->workspace,
        .N = tsr_row_count(&call->view.inputs[0]),
        .C = tsr_last_dim(&call->view.inputs[0]),
    };
    b.chunks = tsr_ceil_div(b.N, CHUNK_ROWS);
    tsr_device_parallel(call->device, b.chunks, backward_body, &b);
    tsr_device_parallel(call->device, tsr_ceil_div(b.C, CHANNEL_BLOCK),
                        sum_body, &b);
    return TSR_OK;
}
