/* Causal attention by matrix products over the strided heads of qkv.
 *
 * Queries go in blocks; a block sees only the keys up to its own end, so about
 * half the work is skipped, and a slot's workspace is (QUERIES, T) scores.
 * Within a block masked probabilities are zeros that take part in the product:
 * a NaN in v also reaches earlier queries of its block, unlike in ref. */
#include "ops/cpu/attention.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/row.h"

#include <math.h>
#include <string.h>

typedef struct forward {
    tsr_attention_shape s;
    const tsr_element *qkv; /* (B, T, H + 2G, D) */
    tsr_element *y;         /* (B, T, H, D) */
    float *lse;             /* (B, H, T) */
    char *workspace;        /* slots * slot_bytes: scores, then panels */
    int64_t slots;
    size_t slot_bytes;
} forward;

/* A query head of a sequence, and memory for it. */
typedef struct head {
    const tsr_element *q; /* rows `row` apart */
    tsr_element *y;       /* rows H * D apart */
    float *lse;           /* (T) */
    tsr_panel k, v;
    float *p;       /* (QUERIES, T) */
    float *scratch; /* of a block's panels */
} head;

/* Row i of the block sees keys [0, first + i]; `keys` is the row length. */
static void softmax_block(float *p, int64_t rows, int64_t first, int64_t keys,
                          float *lse) {
    for (int64_t i = 0; i < rows; i++, p += keys) {
        const int64_t seen = first + i + 1;
        const float most = tsr_row_max(p, seen, -INFINITY);
        const float sum = tsr_row_exp(p, seen, most);
        tsr_row_scale(p, seen, 1.0f / sum);
        memset(p + seen, 0, (size_t)(keys - seen) * sizeof *p);
        lse[i] = most + logf(sum);
    }
}

/* Queries from `first` of one head. */
static void forward_block(const tsr_attention_shape *s, const head *h,
                          int64_t first) {
    const int64_t rows = tsr_min(TSR_QUERIES, s->T - first);
    const int64_t keys = first + rows;
    tsr_element *y_to = h->y + first * s->H * s->D;
    const tsr_panel q =
        tsr_panel_read(h->q + first * s->row, s->row, rows, s->D, h->scratch);
    const tsr_panel y = tsr_panel_begin(
        y_to, s->H * s->D, s->D, h->scratch + tsr_panel_floats(rows * s->D));

    tsr_cpu_gemm(&(tsr_gemm){.trans_b = true,
                             .m = rows,
                             .n = keys,
                             .k = s->D,
                             .alpha = (float)s->scale,
                             .a = q.data,
                             .lda = q.ld,
                             .b = h->k.data,
                             .ldb = h->k.ld,
                             .c = h->p,
                             .ldc = keys});
    softmax_block(h->p, rows, first, keys, h->lse + first);
    tsr_cpu_gemm(&(tsr_gemm){.m = rows,
                             .n = s->D,
                             .k = keys,
                             .alpha = 1,
                             .a = h->p,
                             .lda = keys,
                             .b = h->v.data,
                             .ldb = h->v.ld,
                             .c = y.data,
                             .ldc = y.ld});
    tsr_panel_end(y, rows, s->D, y_to, s->H * s->D);
}

/* A task: query head `task % H` of sequence `task / H`. */
static void forward_head(const forward *f, int64_t task, char *slot) {
    const tsr_attention_shape *s = &f->s;
    const int64_t b = task / s->H, h = task % s->H, g = h / (s->H / s->G);
    const tsr_element *sequence = f->qkv + b * s->T * s->row;
    const int64_t panel = tsr_panel_floats(s->T * s->D);
    float *panels = (float *)(void *)(slot + tsr_score_bytes(s));
    const head one = {
        .q = sequence + h * s->D,
        .y = f->y + (b * s->T * s->H + h) * s->D,
        .lse = f->lse + task * s->T,
        .k = tsr_panel_read(sequence + (s->k_head + g) * s->D, s->row, s->T,
                            s->D, panels),
        .v = tsr_panel_read(sequence + (s->v_head + g) * s->D, s->row, s->T,
                            s->D, panels + panel),
        .p = (float *)(void *)slot,
        .scratch = panels + 2 * panel,
    };
    for (int64_t t = 0; t < s->T; t += TSR_QUERIES)
        forward_block(s, &one, t);
}

/* A unit is a slot. */
static void forward_body(void *context, int64_t begin, int64_t end) {
    const forward *f = context;
    const int64_t tasks = f->s.B * f->s.H;
    for (int64_t slot = begin; slot < end; slot++) {
        const int64_t last = tasks * (slot + 1) / f->slots;
        for (int64_t task = tasks * slot / f->slots; task < last; task++)
            forward_head(f, task, f->workspace + (size_t)slot * f->slot_bytes);
    }
}

static size_t forward_bytes(const tsr_attention_shape *s) {
    return tsr_score_bytes(s) + tsr_head_panels_bytes(s, 2, 2);
}

size_t TSR_KERNEL(attention_workspace)(const tsr_op_view *view, int threads) {
    const tsr_attention_shape s = tsr_attention_shape_of(view);
    return (size_t)tsr_slots(s.B * s.H, threads) * forward_bytes(&s);
}

tsr_status TSR_KERNEL(attention)(const tsr_kernel_call *call) {
    forward f = {
        .s = tsr_attention_shape_of(&call->view),
        .qkv = call->in[0],
        .y = call->out[0],
        .lse = call->out[1],
        .workspace = call->workspace,
    };
    f.slots = tsr_slots(f.s.B * f.s.H, tsr_device_threads(call->device));
    f.slot_bytes = forward_bytes(&f.s);
    tsr_device_parallel(call->device, f.slots, forward_body, &f);
    return TSR_OK;
}
