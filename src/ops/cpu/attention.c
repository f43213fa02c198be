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
    const float *qkv; /* (B, T, H + 2G, D) */
    float *y, *lse;   /* (B, T, H, D), (B, H, T) */
    char *workspace;  /* slots * slot_bytes */
    int64_t slots;
    size_t slot_bytes;
} forward;

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

/* Queries [first, first + rows) of one head. */
static void forward_block(const forward *f, int64_t b, int64_t h, int64_t first,
                          float *p) {
    const tsr_attention_shape *s = &f->s;
    const int64_t rows = tsr_min(TSR_QUERIES, s->T - first);
    const int64_t keys = first + rows;
    const int64_t g = h / (s->H / s->G);
    const float *sequence = f->qkv + b * s->T * s->row;

    tsr_cpu_gemm(&(tsr_gemm){.trans_b = true,
                             .m = rows,
                             .n = keys,
                             .k = s->D,
                             .alpha = (float)s->scale,
                             .a = sequence + first * s->row + h * s->D,
                             .lda = s->row,
                             .b = sequence + (s->k_head + g) * s->D,
                             .ldb = s->row,
                             .c = p,
                             .ldc = keys});
    softmax_block(p, rows, first, keys, f->lse + (b * s->H + h) * s->T + first);
    tsr_cpu_gemm(&(tsr_gemm){.m = rows,
                             .n = s->D,
                             .k = keys,
                             .alpha = 1,
                             .a = p,
                             .lda = keys,
                             .b = sequence + (s->v_head + g) * s->D,
                             .ldb = s->row,
                             .c = f->y + ((b * s->T + first) * s->H + h) * s->D,
                             .ldc = s->H * s->D});
}

/* A unit is a slot, a task a head of a sequence. */
static void forward_body(void *context, int64_t begin, int64_t end) {
    const forward *f = context;
    const int64_t tasks = f->s.B * f->s.H;
    for (int64_t slot = begin; slot < end; slot++) {
        float *p =
            (float *)(void *)(f->workspace + (size_t)slot * f->slot_bytes);
        const int64_t last = tasks * (slot + 1) / f->slots;
        for (int64_t task = tasks * slot / f->slots; task < last; task++)
            for (int64_t t = 0; t < f->s.T; t += TSR_QUERIES)
                forward_block(f, task / f->s.H, task % f->s.H, t, p);
    }
}

size_t TSR_CPU(attention_workspace)(const tsr_op_view *view, int threads) {
    const tsr_attention_shape s = tsr_attention_shape_of(view);
    return (size_t)tsr_slots(s.B * s.H, threads) * tsr_score_bytes(&s);
}

tsr_status TSR_CPU(attention)(const tsr_kernel_call *call) {
    forward f = {
        .s = tsr_attention_shape_of(&call->view),
        .qkv = call->in[0],
        .y = call->out[0],
        .lse = call->out[1],
        .workspace = call->workspace,
    };
    f.slots = tsr_slots(f.s.B * f.s.H, tsr_device_threads(call->device));
    f.slot_bytes = tsr_score_bytes(&f.s);
    tsr_device_parallel(call->device, f.slots, forward_body, &f);
    return TSR_OK;
}
