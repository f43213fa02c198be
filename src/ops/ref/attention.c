/* Causal attention with grouped key/value heads. */
#include "ops/ref/ref.h"

#include <assert.h>
#include <math.h>

/* a[a_at + d] . b[b_at + d] */
static double dot(tsr_in a, int64_t a_at, tsr_in b, int64_t b_at,
                  int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += tsr_get(a, a_at + i) * tsr_get(b, b_at + i);
    return sum;
}

/* scores[0, count) become probabilities; returns log sum exp. */
static double softmax(tsr_real *scores, int64_t count) {
    double most = scores[0], sum = 0;
    for (int64_t j = 1; j < count; j++)
        most = scores[j] > most ? scores[j] : most;
    for (int64_t j = 0; j < count; j++)
        sum += exp(scores[j] - most);
    for (int64_t j = 0; j < count; j++)
        scores[j] = (tsr_real)(exp(scores[j] - most) / sum);
    return most + log(sum);
}

/* Rows of keys or values: those of token j begin at `at + j * stride`. */
typedef struct rows {
    tsr_in data;
    int64_t at, stride;
} rows;

/* y[y_at + d] = sum over j of p[j] * v_j[d] */
static void weighted_sum(const tsr_real *p, int64_t count, rows v, tsr_out y,
                         int64_t y_at, int64_t D) {
    for (int64_t d = 0; d < D; d++) {
        double sum = 0;
        for (int64_t j = 0; j < count; j++)
            sum += (double)p[j] * tsr_get(v.data, v.at + j * v.stride + d);
        tsr_put(y, y_at + d, sum);
    }
}

size_t TSR_REF(attention_workspace)(const tsr_op_view *view, int threads) {
    (void)threads;
    return (size_t)view->inputs[0].shape[1] * sizeof(tsr_real);
}

tsr_status TSR_REF(attention)(const tsr_kernel_call *call) {
    const tsr_in qkv = tsr_in_of(call, 0); /* (B, T, H + 2G, D) */
    const tsr_out y = tsr_out_of(call, 0); /* (B, T, H, D) */
    tsr_real *lse = call->out[1];          /* (B, H, T) */
    tsr_real *p = call->workspace;         /* (T) */
    const tsr_attention_shape s = tsr_attention_shape_of(&call->view);

    for (int64_t b = 0; b < s.B; b++)
        for (int64_t h = 0; h < s.H; h++) {
            const int64_t g = h / (s.H / s.G), first = b * s.T * s.row;
            const int64_t q_at = first + h * s.D;
            const rows k = {qkv, first + (s.k_head + g) * s.D, s.row};
            const rows v = {qkv, first + (s.v_head + g) * s.D, s.row};
            for (int64_t t = 0; t < s.T; t++) {
                for (int64_t j = 0; j <= t; j++)
                    p[j] = (tsr_real)(s.scale * dot(qkv, q_at + t * s.row, qkv,
                                                    k.at + j * s.row, s.D));
                lse[(b * s.H + h) * s.T + t] = (tsr_real)softmax(p, t + 1);
                weighted_sum(p, t + 1, v, y, ((b * s.T + t) * s.H + h) * s.D,
                             s.D);
            }
        }
    return TSR_OK;
}

typedef struct backward {
    tsr_attention_shape s;
    tsr_in qkv, y, dy;   /* (B, T, H + 2G, D), (B, T, H, D), (B, T, H, D) */
    const tsr_real *lse; /* (B, H, T) */
    tsr_out dqkv;        /* (B, T, H + 2G, D) */
    double *sums;        /* (T, row) of dqkv, of one sequence */
} backward;

/* One query row: with p the probabilities and dp = dy . v,
 *
 *   ds = p * (dp - dy . y) * scale,  dq += ds k,  dk += ds q,  dv += p dy
 *
 * (Dao et al. 2022, "FlashAttention", section B.4.) */
static void query_grad(const backward *w, int64_t b, int64_t h, int64_t t) {
    const tsr_attention_shape *s = &w->s;
    const int64_t first = b * s->T * s->row, g = h / (s->H / s->G);
    const int64_t y_at = ((b * s->T + t) * s->H + h) * s->D;
    const int64_t q = t * s->row + h * s->D;
    const double y_dy = dot(w->y, y_at, w->dy, y_at, s->D);

    for (int64_t j = 0; j <= t; j++) {
        const int64_t k = j * s->row + (s->k_head + g) * s->D;
        const int64_t v = j * s->row + (s->v_head + g) * s->D;
        const double p =
            exp(s->scale * dot(w->qkv, first + q, w->qkv, first + k, s->D) -
                w->lse[(b * s->H + h) * s->T + t]);
        const double ds =
            p * (dot(w->dy, y_at, w->qkv, first + v, s->D) - y_dy) * s->scale;
        for (int64_t d = 0; d < s->D; d++) {
            w->sums[q + d] += ds * tsr_get(w->qkv, first + k + d);
            w->sums[k + d] += ds * tsr_get(w->qkv, first + q + d);
            w->sums[v + d] += p * tsr_get(w->dy, y_at + d);
        }
    }
}

size_t TSR_REF(attention_grad_workspace)(const tsr_op_view *view, int threads) {
    (void)threads;
    return (size_t)(view->inputs[0].shape[1] * view->inputs[0].shape[2]) *
           sizeof(double);
}

tsr_status TSR_REF(attention_grad)(const tsr_kernel_call *call) {
    const backward w = {.s = tsr_attention_shape_of(&call->view),
                        .qkv = tsr_in_of(call, 0),
                        .y = tsr_in_of(call, 1),
                        .lse = call->in[2],
                        .dy = tsr_in_of(call, 3),
                        .dqkv = tsr_out_of(call, 0),
                        .sums = call->workspace};
    const int64_t count = w.s.T * w.s.row;

    for (int64_t b = 0; b < w.s.B; b++) {
        for (int64_t i = 0; i < count; i++)
            w.sums[i] = 0;
        for (int64_t h = 0; h < w.s.H; h++)
            for (int64_t t = 0; t < w.s.T; t++)
                query_grad(&w, b, h, t);
        for (int64_t i = 0; i < count; i++)
            tsr_put(w.dqkv, b * count + i, w.sums[i]);
    }
    return TSR_OK;
}

size_t TSR_REF(attention_cached_workspace)(const tsr_op_view *view,
                                           int threads) {
    (void)threads;
    return (size_t)view->inputs[1].shape[2] * sizeof(tsr_real);
}

/* Elements [from, from + count) of x become y's from `to` on. */
static void copy(tsr_in x, int64_t from, tsr_out y, int64_t to, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        tsr_put(y, to + i, tsr_get(x, from + i));
}

tsr_status TSR_REF(attention_cached)(const tsr_kernel_call *call) {
    const tsr_in qkv = tsr_in_of(call, 0); /* (B, 1, H + 2G, D) */
    const tsr_in keys = tsr_in_of(call, 1), values = tsr_in_of(call, 2);
    const int64_t at = *(const int32_t *)call->in[3];
    const tsr_out y = tsr_out_of(call, 0); /* (B, 1, H, D) */
    const tsr_out k = tsr_out_of(call, 1); /* (B, G, P, D), in place */
    const tsr_out v = tsr_out_of(call, 2); /* (B, G, P, D), in place */
    tsr_real *p = call->workspace;         /* (P) */
    const tsr_attention_shape s = tsr_attention_shape_of(&call->view);
    const int64_t P = call->view.inputs[1].shape[2];
    assert(keys.data == k.data && values.data == v.data);

    if (at < 0 || at >= P) {
        for (int64_t i = 0; i < s.B * s.H * s.D; i++)
            tsr_put(y, i, (double)NAN);
        return TSR_OK;
    }
    for (int64_t b = 0; b < s.B; b++)
        for (int64_t g = 0; g < s.G; g++) {
            const int64_t row = b * s.row, to = ((b * s.G + g) * P + at) * s.D;
            copy(qkv, row + (s.k_head + g) * s.D, k, to, s.D);
            copy(qkv, row + (s.v_head + g) * s.D, v, to, s.D);
        }
    for (int64_t b = 0; b < s.B; b++)
        for (int64_t h = 0; h < s.H; h++) {
            const int64_t cache = (b * s.G + h / (s.H / s.G)) * P * s.D;
            for (int64_t j = 0; j <= at; j++)
                p[j] = (tsr_real)(s.scale * dot(qkv, b * s.row + h * s.D, keys,
                                                cache + j * s.D, s.D));
            softmax(p, at + 1);
            weighted_sum(p, at + 1, (rows){values, cache, s.D}, y,
                         (b * s.H + h) * s.D, s.D);
        }
    return TSR_OK;
}
