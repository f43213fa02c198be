/* Attention of one token over cached keys and values: each is read once. */
#include "ops/cpu/element.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row.h"

#include <assert.h>
#include <math.h>
#include <string.h>

typedef struct cached {
    tsr_attention_shape s;
    const tsr_element *qkv; /* (B, 1, H + 2G, D) */
    tsr_element *y;         /* (B, 1, H, D) */
    tsr_element *k, *v;     /* (B, G, P, D) */
    float *scores;          /* (B, H, P) */
    float *sums;            /* (B, H, D) of y */
    int64_t P, position;
} cached;

static void write_token(const cached *c) {
    const tsr_attention_shape *s = &c->s;
    const size_t bytes = (size_t)s->D * sizeof(tsr_element);
    for (int64_t b = 0; b < s->B; b++)
        for (int64_t g = 0; g < s->G; g++) {
            const tsr_element *row = c->qkv + b * s->row;
            const int64_t to = ((b * s->G + g) * c->P + c->position) * s->D;
            memcpy(c->k + to, row + (s->k_head + g) * s->D, bytes);
            memcpy(c->v + to, row + (s->v_head + g) * s->D, bytes);
        }
}

static float dot(const tsr_element *a, const tsr_element *b, int64_t count) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++)
        sum += tsr_widen(a[i]) * tsr_widen(b[i]);
    return sum;
}

/* A unit is a query head of a sequence. */
static void head_body(void *context, int64_t begin, int64_t end) {
    const cached *c = context;
    const int64_t D = c->s.D, keys = c->position + 1;
    for (int64_t unit = begin; unit < end; unit++) {
        const int64_t b = unit / c->s.H, h = unit % c->s.H;
        const tsr_element *q = c->qkv + b * c->s.row + h * D;
        const int64_t cache = (b * c->s.G + h / (c->s.H / c->s.G)) * c->P * D;
        float *p = c->scores + unit * c->P, *y = c->sums + unit * D;

        for (int64_t j = 0; j < keys; j++)
            p[j] = (float)c->s.scale * dot(q, c->k + cache + j * D, D);
        const float sum = tsr_row_exp(p, keys, tsr_row_max(p, keys, -INFINITY));
        memset(y, 0, (size_t)D * sizeof *y);
        for (int64_t j = 0; j < keys; j++) {
            const tsr_element *v = c->v + cache + j * D;
            const float weight = p[j];
#pragma omp simd
            for (int64_t d = 0; d < D; d++)
                y[d] += weight * tsr_widen(v[d]);
        }
#pragma omp simd
        for (int64_t d = 0; d < D; d++)
            c->y[unit * D + d] = tsr_narrow(y[d] * (1.0f / sum));
    }
}

size_t TSR_KERNEL(attention_cached_workspace)(const tsr_op_view *view,
                                              int threads) {
    const tsr_attention_shape s = tsr_attention_shape_of(view);
    (void)threads;
    return (size_t)(s.B * s.H * (view->inputs[1].shape[2] + s.D)) *
           sizeof(float);
}

tsr_status TSR_KERNEL(attention_cached)(const tsr_kernel_call *call) {
    cached c = {
        .s = tsr_attention_shape_of(&call->view),
        .qkv = call->in[0],
        .y = call->out[0],
        .k = call->out[1],
        .v = call->out[2],
        .scores = call->workspace,
        .P = call->view.inputs[1].shape[2],
        .position = *(const int32_t *)call->in[3],
    };
    c.sums = c.scores + c.s.B * c.s.H * c.P;
    assert(call->in[1] == c.k && call->in[2] == c.v);

    if (c.position < 0 || c.position >= c.P) {
        for (int64_t i = 0; i < c.s.B * c.s.H * c.s.D; i++)
            c.y[i] = tsr_narrow(NAN);
        return TSR_OK;
    }
    write_token(&c);
    tsr_device_parallel(call->device, c.s.B * c.s.H, head_body, &c);
    return TSR_OK;
}
