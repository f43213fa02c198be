/* The backward of causal attention: probabilities are recomputed from lse, one
 * block of queries at a time (ref/attention.c has the formula). */
#include "ops/cpu/attention.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row.h"

#include <string.h>

typedef struct backward {
    tsr_attention_shape s;
    const float *qkv;          /* (B, T, H + 2G, D) */
    const float *y, *lse, *dy; /* (B, T, H, D), (B, H, T), (B, T, H, D) */
    float *dqkv;               /* (B, T, H + 2G, D) */
    char *workspace;           /* slots * 2 * score_bytes */
    int64_t slots;
    size_t score_bytes;
} backward;

/* A block of queries of one head. */
typedef struct block {
    int64_t rows, first, keys;
    const float *q, *k, *v;    /* rows `row` apart */
    const float *y, *dy, *lse; /* rows H * D apart; (rows) */
    float *dq, *dk, *dv;       /* rows `row` apart */
    float *p, *ds;             /* (rows, keys) */
} block;

/* p = exp(scores - lse), ds = p (dp - dy . y) scale, 0 above the diagonal. */
static void softmax_grad_block(const tsr_attention_shape *s, const block *b) {
    const float scale = (float)s->scale;
    for (int64_t i = 0; i < b->rows; i++) {
        float *p = b->p + i * b->keys, *ds = b->ds + i * b->keys;
        const int64_t seen = b->first + i + 1;
        const int64_t at = i * s->H * s->D;
        const float y_dy = tsr_row_dot(b->y + at, b->dy + at, s->D);
        const float lse = b->lse[i];
#pragma omp simd
        for (int64_t j = 0; j < seen; j++) {
            p[j] = tsr_exp(p[j] - lse);
            ds[j] = p[j] * (ds[j] - y_dy) * scale;
        }
        memset(p + seen, 0, (size_t)(b->keys - seen) * sizeof *p);
        memset(ds + seen, 0, (size_t)(b->keys - seen) * sizeof *ds);
    }
}

/* scores = scale q k^T; dp = dy v^T */
static void scores_block(const tsr_attention_shape *s, const block *b) {
    tsr_gemm gemm = {.trans_b = true,
                     .m = b->rows,
                     .n = b->keys,
                     .k = s->D,
                     .alpha = (float)s->scale,
                     .a = b->q,
                     .lda = s->row,
                     .b = b->k,
                     .ldb = s->row,
                     .c = b->p,
                     .ldc = b->keys};
    tsr_cpu_gemm(&gemm);
    gemm.alpha = 1;
    gemm.a = b->dy;
    gemm.lda = s->H * s->D;
    gemm.b = b->v;
    gemm.c = b->ds;
    tsr_cpu_gemm(&gemm);
}

/* dq = ds k; dk += ds^T q; dv += p^T dy */
static void products_block(const tsr_attention_shape *s, const block *b) {
    tsr_cpu_gemm(&(tsr_gemm){.m = b->rows,
                             .n = s->D,
                             .k = b->keys,
                             .alpha = 1,
                             .a = b->ds,
                             .lda = b->keys,
                             .b = b->k,
                             .ldb = s->row,
                             .c = b->dq,
                             .ldc = s->row});
    tsr_gemm gemm = {.trans_a = true,
                     .m = b->keys,
                     .n = s->D,
                     .k = b->rows,
                     .alpha = 1,
                     .beta = 1,
                     .a = b->ds,
                     .lda = b->keys,
                     .b = b->q,
                     .ldb = s->row,
                     .c = b->dk,
                     .ldc = s->row};
    tsr_cpu_gemm(&gemm);
    gemm.a = b->p;
    gemm.b = b->dy;
    gemm.ldb = s->H * s->D;
    gemm.c = b->dv;
    tsr_cpu_gemm(&gemm);
}

/* Query head h of sequence b, queries from `first`. */
static void backward_block(const backward *w, int64_t b, int64_t h,
                           int64_t first, float *scores) {
    const tsr_attention_shape *s = &w->s;
    const int64_t g = h / (s->H / s->G);
    const int64_t sequence = b * s->T * s->row;
    const int64_t q_at = sequence + first * s->row + h * s->D;
    const int64_t k_at = sequence + (s->k_head + g) * s->D;
    const int64_t v_at = sequence + (s->v_head + g) * s->D;
    const int64_t y_at = ((b * s->T + first) * s->H + h) * s->D;
    const int64_t rows = tsr_min(TSR_QUERIES, s->T - first);
    const block part = {
        .rows = rows,
        .first = first,
        .keys = first + rows,
        .q = w->qkv + q_at,
        .k = w->qkv + k_at,
        .v = w->qkv + v_at,
        .y = w->y + y_at,
        .dy = w->dy + y_at,
        .lse = w->lse + (b * s->H + h) * s->T + first,
        .dq = w->dqkv + q_at,
        .dk = w->dqkv + k_at,
        .dv = w->dqkv + v_at,
        .p = scores,
        .ds = scores + w->score_bytes / sizeof *scores,
    };
    scores_block(s, &part);
    softmax_grad_block(s, &part);
    products_block(s, &part);
}

/* Key/value head g of sequence b: its query heads add to dk and dv in order. */
static void backward_group(const backward *w, int64_t b, int64_t g,
                           float *scores) {
    const tsr_attention_shape *s = &w->s;
    const int64_t heads = s->H / s->G;
    for (int64_t t = 0; t < s->T; t++) {
        float *row = w->dqkv + (b * s->T + t) * s->row;
        memset(row + (s->k_head + g) * s->D, 0, (size_t)s->D * sizeof *row);
        memset(row + (s->v_head + g) * s->D, 0, (size_t)s->D * sizeof *row);
    }
    for (int64_t h = g * heads; h < (g + 1) * heads; h++)
        for (int64_t t = 0; t < s->T; t += TSR_QUERIES)
            backward_block(w, b, h, t, scores);
}

/* A unit is a slot, a task a key/value head of a sequence. */
static void backward_body(void *context, int64_t begin, int64_t end) {
    const backward *w = context;
    const int64_t tasks = w->s.B * w->s.G;
    for (int64_t slot = begin; slot < end; slot++) {
        float *scores =
            (float *)(void *)(w->workspace + (size_t)slot * 2 * w->score_bytes);
        const int64_t last = tasks * (slot + 1) / w->slots;
        for (int64_t task = tasks * slot / w->slots; task < last; task++)
            backward_group(w, task / w->s.G, task % w->s.G, scores);
    }
}

size_t TSR_CPU(attention_grad_workspace)(const tsr_op_view *view, int threads) {
    const tsr_attention_shape s = tsr_attention_shape_of(view);
    return (size_t)tsr_slots(s.B * s.G, threads) * 2 * tsr_score_bytes(&s);
}

tsr_status TSR_CPU(attention_grad)(const tsr_kernel_call *call) {
    backward w = {
        .s = tsr_attention_shape_of(&call->view),
        .qkv = call->in[0],
        .y = call->in[1],
        .lse = call->in[2],
        .dy = call->in[3],
        .dqkv = call->out[0],
        .workspace = call->workspace,
    };
    w.slots = tsr_slots(w.s.B * w.s.G, tsr_device_threads(call->device));
    w.score_bytes = tsr_score_bytes(&w.s);
    tsr_device_parallel(call->device, w.slots, backward_body, &w);
    return TSR_OK;
}
