/* The backward of causal attention: probabilities are recomputed from lse, one
 * block of queries at a time (ref/attention.c has the formula). */
#include "ops/cpu/attention.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row.h"

#include <string.h>

typedef struct backward {
    tsr_attention_shape s;
    const tsr_element *qkv;    /* (B, T, H + 2G, D) */
    const tsr_element *y, *dy; /* (B, T, H, D) */
    const float *lse;          /* (B, H, T) */
    tsr_element *dqkv;         /* (B, T, H + 2G, D) */
    char *workspace;           /* slots * slot_bytes: scores, then panels */
    int64_t slots;
    size_t slot_bytes;
} backward;

/* A key/value head of a sequence, and memory for it. */
typedef struct group {
    tsr_panel k, v, dk, dv; /* (T, D) */
    float *p, *ds;          /* (QUERIES, T) */
    float *scratch;         /* of a block's panels */
} group;

/* A block of queries of one head. */
typedef struct block {
    int64_t rows, first, keys;
    tsr_panel q, y, dy, dq; /* (rows, D) */
    const float *lse;       /* (rows) */
} block;

/* p = exp(scores - lse), ds = p (dp - dy . y) scale, 0 above the diagonal. */
static void softmax_grad_block(const tsr_attention_shape *s, const group *g,
                               const block *b) {
    const float scale = (float)s->scale;
    for (int64_t i = 0; i < b->rows; i++) {
        float *p = g->p + i * b->keys, *ds = g->ds + i * b->keys;
        const int64_t seen = b->first + i + 1;
        const float y_dy = tsr_row_dot(b->y.data + i * b->y.ld,
                                       b->dy.data + i * b->dy.ld, s->D);
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
static void scores_block(const tsr_attention_shape *s, const group *g,
                         const block *b) {
    tsr_gemm gemm = {.trans_b = true,
                     .m = b->rows,
                     .n = b->keys,
                     .k = s->D,
                     .alpha = (float)s->scale,
                     .a = b->q.data,
                     .lda = b->q.ld,
                     .b = g->k.data,
                     .ldb = g->k.ld,
                     .c = g->p,
                     .ldc = b->keys};
    tsr_cpu_gemm(&gemm);
    gemm.alpha = 1;
    gemm.a = b->dy.data;
    gemm.lda = b->dy.ld;
    gemm.b = g->v.data;
    gemm.ldb = g->v.ld;
    gemm.c = g->ds;
    tsr_cpu_gemm(&gemm);
}

/* dq = ds k; dk += ds^T q; dv += p^T dy */
static void products_block(const tsr_attention_shape *s, const group *g,
                           const block *b) {
    tsr_cpu_gemm(&(tsr_gemm){.m = b->rows,
                             .n = s->D,
                             .k = b->keys,
                             .alpha = 1,
                             .a = g->ds,
                             .lda = b->keys,
                             .b = g->k.data,
                             .ldb = g->k.ld,
                             .c = b->dq.data,
                             .ldc = b->dq.ld});
    tsr_gemm gemm = {.trans_a = true,
                     .m = b->keys,
                     .n = s->D,
                     .k = b->rows,
                     .alpha = 1,
                     .beta = 1,
                     .a = g->ds,
                     .lda = b->keys,
                     .b = b->q.data,
                     .ldb = b->q.ld,
                     .c = g->dk.data,
                     .ldc = g->dk.ld};
    tsr_cpu_gemm(&gemm);
    gemm.a = g->p;
    gemm.b = b->dy.data;
    gemm.ldb = b->dy.ld;
    gemm.c = g->dv.data;
    gemm.ldc = g->dv.ld;
    tsr_cpu_gemm(&gemm);
}

/* Query head h of sequence b, queries from `first`. */
static void backward_block(const backward *w, const group *g, int64_t b,
                           int64_t h, int64_t first) {
    const tsr_attention_shape *s = &w->s;
    const int64_t rows = tsr_min(TSR_QUERIES, s->T - first);
    const int64_t q_at = (b * s->T + first) * s->row + h * s->D;
    const int64_t y_at = ((b * s->T + first) * s->H + h) * s->D;
    const int64_t panel = tsr_panel_floats(rows * s->D), y_ld = s->H * s->D;
    float *to = g->scratch;
    const block part = {
        .rows = rows,
        .first = first,
        .keys = first + rows,
        .q = tsr_panel_read(w->qkv + q_at, s->row, rows, s->D, to),
        .y = tsr_panel_read(w->y + y_at, y_ld, rows, s->D, to + panel),
        .dy = tsr_panel_read(w->dy + y_at, y_ld, rows, s->D, to + 2 * panel),
        .dq = tsr_panel_begin(w->dqkv + q_at, s->row, s->D, to + 3 * panel),
        .lse = w->lse + (b * s->H + h) * s->T + first,
    };
    scores_block(s, g, &part);
    softmax_grad_block(s, g, &part);
    products_block(s, g, &part);
    tsr_panel_end(part.dq, rows, s->D, w->dqkv + q_at, s->row);
}

static void clear(tsr_panel panel, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r++)
        memset(panel.data + r * panel.ld, 0,
               (size_t)columns * sizeof *panel.data);
}

/* A task: key/value head `task % G` of sequence `task / G`; its query heads add
 * to dk and dv in order. */
static void backward_group(const backward *w, int64_t task, char *slot) {
    const tsr_attention_shape *s = &w->s;
    const int64_t b = task / s->G, head = task % s->G, heads = s->H / s->G;
    const int64_t sequence = b * s->T * s->row;
    const int64_t k_at = sequence + (s->k_head + head) * s->D;
    const int64_t v_at = sequence + (s->v_head + head) * s->D;
    const int64_t panel = tsr_panel_floats(s->T * s->D);
    float *to = (float *)(void *)(slot + 2 * tsr_score_bytes(s));
    const group g = {
        .k = tsr_panel_read(w->qkv + k_at, s->row, s->T, s->D, to),
        .v = tsr_panel_read(w->qkv + v_at, s->row, s->T, s->D, to + panel),
        .dk = tsr_panel_begin(w->dqkv + k_at, s->row, s->D, to + 2 * panel),
        .dv = tsr_panel_begin(w->dqkv + v_at, s->row, s->D, to + 3 * panel),
        .p = (float *)(void *)slot,
        .ds = (float *)(void *)(slot + tsr_score_bytes(s)),
        .scratch = to + 4 * panel,
    };
    clear(g.dk, s->T, s->D);
    clear(g.dv, s->T, s->D);
    for (int64_t h = head * heads; h < (head + 1) * heads; h++)
        for (int64_t t = 0; t < s->T; t += TSR_QUERIES)
            backward_block(w, &g, b, h, t);
    tsr_panel_end(g.dk, s->T, s->D, w->dqkv + k_at, s->row);
    tsr_panel_end(g.dv, s->T, s->D, w->dqkv + v_at, s->row);
}

/* A unit is a slot. */
static void backward_body(void *context, int64_t begin, int64_t end) {
    const backward *w = context;
    const int64_t tasks = w->s.B * w->s.G;
    for (int64_t slot = begin; slot < end; slot++) {
        const int64_t last = tasks * (slot + 1) / w->slots;
        for (int64_t task = tasks * slot / w->slots; task < last; task++)
            backward_group(w, task,
                           w->workspace + (size_t)slot * w->slot_bytes);
    }
}

static size_t backward_bytes(const tsr_attention_shape *s) {
    return 2 * tsr_score_bytes(s) + tsr_head_panels_bytes(s, 4, 4);
}

size_t TSR_KERNEL(attention_grad_workspace)(const tsr_op_view *view,
                                            int threads) {
    const tsr_attention_shape s = tsr_attention_shape_of(view);
    return (size_t)tsr_slots(s.B * s.G, threads) * backward_bytes(&s);
}

tsr_status TSR_KERNEL(attention_grad)(const tsr_kernel_call *call) {
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
    w.slot_bytes = backward_bytes(&w.s);
    tsr_device_parallel(call->device, w.slots, backward_body, &w);
    return TSR_OK;
}
