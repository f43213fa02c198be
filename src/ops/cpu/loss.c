/* Cross entropy: logits are read once forward, and once backward. */
#include "ops/cpu/element.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row.h"

#include <math.h>
#include <string.h>

/* Columns that stay in L1 between maximum and sum: 8 KiB. */
#define CHUNK 2048

/* Milakov and Gimelshein 2018, "Online normalizer calculation for softmax". */
static float log_sum_exp(const tsr_element *x, int64_t count) {
    float most = -INFINITY, sum = 0, scratch[CHUNK];
    for (int64_t first = 0; first < count; first += CHUNK) {
        const int64_t length = tsr_min(CHUNK, count - first);
        const float *chunk =
            tsr_panel_read(x + first, length, 1, length, scratch).data;
        const float before = most;
        most = tsr_row_max(chunk, length, before);
        if (most > before)
            sum *= tsr_exp(before - most);
        sum += tsr_row_exp_sum(chunk, length, most);
    }
    return most + logf(sum);
}

typedef struct rows {
    const tsr_element *logits; /* (N, V) */
    const int32_t *targets;    /* (N) */
    float *lse_out;            /* (N), forward */
    const float *lse;          /* (N), backward */
    tsr_element *dlogits;      /* (N, V), backward; may be logits */
    int64_t V, vocab;
    float scale;
} rows;

static void lse_body(void *context, int64_t begin, int64_t end) {
    const rows *r = context;
    for (int64_t n = begin; n < end; n++)
        r->lse_out[n] = log_sum_exp(r->logits + n * r->V, r->vocab);
}

tsr_status TSR_KERNEL(cross_entropy)(const tsr_kernel_call *call) {
    const int64_t N = tsr_row_count(&call->view.inputs[0]);
    const int64_t V = tsr_last_dim(&call->view.inputs[0]);
    rows r = {
        .logits = call->in[0],
        .targets = call->in[1],
        .lse_out = call->out[1],
        .V = V,
        .vocab = tsr_view_int(&call->view, "vocab", V),
    };
    tsr_device_parallel(call->device, N, lse_body, &r);

    double sum = 0;
    for (int64_t n = 0; n < N; n++) {
        if (r.targets[n] >= r.vocab)
            sum = NAN;
        else if (r.targets[n] >= 0)
            sum += (double)r.lse_out[n] -
                   (double)tsr_widen(r.logits[n * V + r.targets[n]]);
    }
    const bool accumulate = tsr_view_int(&call->view, "accumulate", 0) != 0;
    const float before = accumulate ? *(const float *)call->in[2] : 0;
    *(float *)call->out[0] =
        (float)(before + tsr_view_real(&call->view, "scale", 1) * sum);
    return TSR_OK;
}

static void grad_row(const rows *r, int64_t n) {
    const tsr_element *logits = r->logits + n * r->V;
    tsr_element *dlogits = r->dlogits + n * r->V;
    const float scale = r->scale, lse = r->lse[n];
    const int64_t target = r->targets[n], vocab = r->vocab;
    const bool known = target >= 0 && target < vocab;
    /* dlogits may lie over it. */
    const float logit = known ? tsr_widen(logits[target]) : 0;

    if (target < 0) {
        memset(dlogits, 0, (size_t)r->V * sizeof *dlogits);
        return;
    }
#pragma omp simd
    for (int64_t v = 0; v < vocab; v++)
        dlogits[v] = tsr_narrow(scale * tsr_exp(tsr_widen(logits[v]) - lse));
    if (known)
        dlogits[target] = tsr_narrow(scale * tsr_exp(logit - lse) - scale);
    else
        for (int64_t v = 0; v < vocab; v++)
            dlogits[v] = tsr_narrow(NAN);
    memset(dlogits + vocab, 0, (size_t)(r->V - vocab) * sizeof *dlogits);
}

static void grad_body(void *context, int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; n++)
        grad_row(context, n);
}

tsr_status TSR_KERNEL(cross_entropy_grad)(const tsr_kernel_call *call) {
    const int64_t V = tsr_last_dim(&call->view.inputs[0]);
    rows r = {
        .logits = call->in[0],
        .targets = call->in[1],
        .lse = call->in[2],
        .dlogits = call->out[0],
        .V = V,
        .vocab = tsr_view_int(&call->view, "vocab", V),
        .scale = (float)tsr_view_real(&call->view, "scale", 1),
    };
    tsr_device_parallel(call->device, tsr_row_count(&call->view.inputs[0]),
                        grad_body, &r);
    return TSR_OK;
}
