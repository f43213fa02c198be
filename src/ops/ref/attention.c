/* Causal attention with grouped key/value heads. */
#include "ops/ref/ref.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static double dot(const tsr_real *a, const tsr_real *b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += (double)a[i] * b[i];
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

/* y = sum over j of p[j] * v[j], the v `stride` elements apart. */
static void weighted_sum(const tsr_real *p, int64_t count, const tsr_real *v,
                         int64_t stride, tsr_real *y, int64_t D) {
    for (int64_t d = 0; d < D; d++) {
        double sum = 0;
        for (int64_t j = 0; j < count; j++)
            sum += (double)p[j] * v[j * stride + d];
        y[d] = (tsr_real)sum;
    }
}

size_t TSR_REF(attention_workspace)(const tsr_op_view *view, int threads) {
    (void)threads;
    return (size_t)view->inputs[0].shape[1] * sizeof(tsr_real);
}

tsr_status TSR_REF(attention)(const tsr_kernel_call *call) {
    const tsr_real *qkv = call->in[0]; /* (B, T, H + 2G, D) */
    tsr_real *y = call->out[0];        /* (B, T, H, D) */
    tsr_real *lse = call->out[1];      /* (B, H, T) */
    tsr_real *p = call->workspace;     /* (T) */
    const tsr_attention_shape s = tsr_attention_shape_of(&call->view);

    for (int64_t b = 0; b < s.B; b++)
        for (int64_t h = 0; h < s.H; h++) {
            const int64_t g = h / (s.H / s.G);
            const tsr_real *q = qkv + b * s.T * s.row + h * s.D;
            const tsr_real *k = qkv + b * s.T * s.row + (s.k_head + g) * s.D;
            const tsr_real *v = qkv + b * s.T * s.row + (s.v_head + g) * s.D;
            for (int64_t t = 0; t < s.T; t++) {
                for (int64_t j = 0; j <= t; j++)
                    p[j] = (tsr_real)(s.scale *
                                      dot(q + t * s.row, k + j * s.row, s.D));
                lse[(b * s.H + h) * s.T + t] = (tsr_real)softmax(p, t + 1);
                weighted_sum(p, t + 1, v, s.row,
                             y + ((b * s.T + t) * s.H + h) * s.D, s.D);
            }
        }
    return TSR_OK;
}

/* One query row: with p the probabilities and dp = dy . v,
 *
 *   ds = p * (dp - dy . y) * scale,  dq += ds k,  dk += ds q,  dv += p dy
 *
 * (Dao et al. 2022, "FlashAttention", section B.4.) */
static void query_grad(const tsr_attention_shape *s, const tsr_real *row[5],
                       double lse, int64_t keys, tsr_real *grad[3]) {
    const tsr_real *q = row[0], *k = row[1], *v = row[2];
    const tsr_real *y = row[3], *dy = row[4];
    tsr_real *dq = grad[0], *dk = grad[1], *dv = grad[2];
    const double y_dy = dot(y, dy, s->D);

    for (int64_t j = 0; j < keys; j++) {
        const int64_t at = j * s->row;
        const double p = exp(s->scale * dot(q, k + at, s->D) - lse);
        const double ds = p * (dot(dy, v + at, s->D) - y_dy) * s->scale;
        for (int64_t d = 0; d < s->D; d++) {
            dq[d] += (tsr_real)(ds * k[at + d]);
            dk[at + d] += (tsr_real)(ds * q[d]);
            dv[at + d] += (tsr_real)(p * dy[d]);
        }
    }
}

tsr_status TSR_REF(attention_grad)(const tsr_kernel_call *call) {
    const tsr_real *qkv = call->in[0]; /* (B, T, H + 2G, D) */
    const tsr_real *y = call->in[1];   /* (B, T, H, D) */
    const tsr_real *lse = call->in[2]; /* (B, H, T) */
    const tsr_real *dy = call->in[3];  /* (B, T, H, D) */
    tsr_real *dqkv = call->out[0];     /* (B, T, H + 2G, D) */
    const tsr_attention_shape s = tsr_attention_shape_of(&call->view);

    for (int64_t i = 0; i < s.B * s.T * s.row; i++)
        dqkv[i] = 0;
    for (int64_t b = 0; b < s.B; b++)
        for (int64_t h = 0; h < s.H; h++)
            for (int64_t t = 0; t < s.T; t++) {
                const int64_t g = h / (s.H / s.G);
                const int64_t q_at = (b * s.T + t) * s.row + h * s.D;
                const int64_t k_at = b * s.T * s.row + (s.k_head + g) * s.D;
                const int64_t v_at = b * s.T * s.row + (s.v_head + g) * s.D;
                const int64_t y_at = ((b * s.T + t) * s.H + h) * s.D;
                const tsr_real *row[5] = {qkv + q_at, qkv + k_at, qkv + v_at,
                                          y + y_at, dy + y_at};
                tsr_real *grad[3] = {dqkv + q_at, dqkv + k_at, dqkv + v_at};
                query_grad(&s, row, lse[(b * s.H + h) * s.T + t], t + 1, grad);
            }
    return TSR_OK;
}

size_t TSR_REF(attention_cached_workspace)(const tsr_op_view *view,
                                           int threads) {
    (void)threads;
    return (size_t)view->inputs[1].shape[2] * sizeof(tsr_real);
}

tsr_status TSR_REF(attention_cached)(const tsr_kernel_call *call) {
    const tsr_real *qkv = call->in[0];     /* (B, 1, H + 2G, D) */
    const int32_t *position = call->in[3]; /* (1) */
    tsr_real *y = call->out[0];            /* (B, 1, H, D) */
    tsr_real *k = call->out[1];            /* (B, G, P, D), in place */
    tsr_real *v = call->out[2];            /* (B, G, P, D), in place */
    tsr_real *p = call->workspace;         /* (P) */
    const tsr_attention_shape s = tsr_attention_shape_of(&call->view);
    const int64_t P = call->view.inputs[1].shape[2];
    const int64_t at = *position;
    const size_t bytes = (size_t)s.D * sizeof(tsr_real);
    assert(call->in[1] == k && call->in[2] == v);

    if (at < 0 || at >= P) {
        for (int64_t i = 0; i < s.B * s.H * s.D; i++)
            y[i] = (tsr_real)NAN;
        return TSR_OK;
    }
    for (int64_t b = 0; b < s.B; b++)
        for (int64_t g = 0; g < s.G; g++) {
            const tsr_real *row = qkv + b * s.row;
            const int64_t to = ((b * s.G + g) * P + at) * s.D;
            memcpy(k + to, row + (s.k_head + g) * s.D, bytes);
            memcpy(v + to, row + (s.v_head + g) * s.D, bytes);
        }
    for (int64_t b = 0; b < s.B; b++)
        for (int64_t h = 0; h < s.H; h++) {
            const tsr_real *q = qkv + b * s.row + h * s.D;
            const int64_t cache = (b * s.G + h / (s.H / s.G)) * P * s.D;
            for (int64_t j = 0; j <= at; j++)
                p[j] = (tsr_real)(s.scale * dot(q, k + cache + j * s.D, s.D));
            softmax(p, at + 1);
            weighted_sum(p, at + 1, v + cache, s.D, y + (b * s.H + h) * s.D,
                         s.D);
        }
    return TSR_OK;
}
