/* Token and position embeddings. */
#include "ops/cpu/element.h"
#include "ops/cpu/parallel.h"

#include <math.h>
#include <string.h>

static void fill_row(tsr_element *y, int64_t C, float value) {
    for (int64_t c = 0; c < C; c++)
        y[c] = tsr_narrow(value);
}

/* ---- embedding: a unit is a token ---- */

typedef struct lookup {
    const int32_t *tokens;     /* (N) */
    const tsr_element *weight; /* (V, C) */
    tsr_element *y;            /* (N, C) */
    int64_t V, C;
} lookup;

static void lookup_body(void *context, int64_t begin, int64_t end) {
    const lookup *l = context;
    for (int64_t n = begin; n < end; n++) {
        const int64_t token = l->tokens[n];
        tsr_element *y = l->y + n * l->C;
        if (token < 0 || token >= l->V)
            fill_row(y, l->C, NAN);
        else
            memcpy(y, l->weight + token * l->C, (size_t)l->C * sizeof *y);
    }
}

tsr_status TSR_KERNEL(embedding)(const tsr_kernel_call *call) {
    lookup l = {call->in[0], call->in[1], call->out[0],
                call->view.inputs[1].shape[0], call->view.inputs[1].shape[1]};
    tsr_device_parallel(call->device, tsr_type_count(&call->view.inputs[0]),
                        lookup_body, &l);
    return TSR_OK;
}

/* ---- sums of rows, in f32, a block of channels at a time ---- */

#define CHANNELS 64 /* of a block: four cache lines of floats */

static void load_block(float *sum, const tsr_element *x, int64_t count) {
#pragma omp simd
    for (int64_t c = 0; c < count; c++)
        sum[c] = tsr_widen(x[c]);
}

static void add_block(float *sum, const tsr_element *x, int64_t count) {
#pragma omp simd
    for (int64_t c = 0; c < count; c++)
        sum[c] += tsr_widen(x[c]);
}

static void store_block(tsr_element *y, const float *sum, int64_t count) {
#pragma omp simd
    for (int64_t c = 0; c < count; c++)
        y[c] = tsr_narrow(sum[c]);
}

/* ---- embedding_grad: rows are prepared, then added to; there a unit is a
 * block of channels, since two threads may not add to one row. The places of a
 * token are chained, so that its sum is rounded once, after the last ---- */

typedef struct scatter {
    const int32_t *tokens;  /* (N) */
    const tsr_element *dy;  /* (N, C) */
    const tsr_element *acc; /* (V, C) or NULL */
    tsr_element *dweight;   /* (V, C) */
    int32_t *first;         /* (V) place of a token; -1: none */
    int32_t *next;          /* (N) place of the same token; -1: none */
    int64_t N, V, C;
} scatter;

static void start_body(void *context, int64_t begin, int64_t end) {
    const scatter *s = context;
    const size_t bytes = (size_t)((end - begin) * s->C) * sizeof *s->dweight;
    tsr_element *to = s->dweight + begin * s->C;
    if (s->acc == NULL)
        memset(to, 0, bytes);
    else
        memcpy(to, s->acc + begin * s->C, bytes);
}

static void chain_tokens(const scatter *s) {
    memset(s->first, 0xff, (size_t)s->V * sizeof *s->first);
    for (int64_t n = s->N - 1; n >= 0; n--) {
        const int64_t token = s->tokens[n];
        if (token < 0 || token >= s->V)
            continue;
        s->next[n] = s->first[token];
        s->first[token] = (int32_t)n;
    }
}

static void scatter_block(const scatter *s, int64_t channel) {
    const int64_t count = tsr_min(CHANNELS, s->C - channel);
    float sum[CHANNELS];
    for (int64_t n = 0; n < s->N; n++) {
        const int64_t token = s->tokens[n];
        if (token < 0 || token >= s->V || s->first[token] != n)
            continue;
        tsr_element *to = s->dweight + token * s->C + channel;
        load_block(sum, to, count);
        for (int64_t i = n; i >= 0; i = s->next[i])
            add_block(sum, s->dy + i * s->C + channel, count);
        store_block(to, sum, count);
    }
}

static void scatter_body(void *context, int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block++)
        scatter_block(context, block * CHANNELS);
}

size_t TSR_KERNEL(embedding_grad_workspace)(const tsr_op_view *view,
                                            int threads) {
    (void)threads;
    return (size_t)(view->outputs[0].shape[0] +
                    tsr_type_count(&view->inputs[0])) *
           sizeof(int32_t);
}

tsr_status TSR_KERNEL(embedding_grad)(const tsr_kernel_call *call) {
    scatter s = {
        .tokens = call->in[0],
        .dy = call->in[1],
        .acc = call->view.input_count > 2 ? call->in[2] : NULL,
        .dweight = call->out[0],
        .first = call->workspace,
        .N = tsr_type_count(&call->view.inputs[0]),
        .V = call->view.outputs[0].shape[0],
        .C = call->view.outputs[0].shape[1],
    };
    s.next = s.first + s.V;
    if (s.acc != s.dweight)
        tsr_device_parallel(call->device, s.V, start_body, &s);
    chain_tokens(&s);
    tsr_device_parallel(call->device, tsr_ceil_div(s.C, CHANNELS), scatter_body,
                        &s);
    return TSR_OK;
}

/* ---- position_add: a unit is a row of x ---- */

typedef struct shift {
    const tsr_element *x;      /* (B, T, C) */
    const tsr_element *weight; /* (P, C) */
    tsr_element *y;            /* (B, T, C), may be x */
    int64_t first, T, C, P;
} shift;

static void shift_body(void *context, int64_t begin, int64_t end) {
    const shift *s = context;
    for (int64_t n = begin; n < end; n++) {
        const int64_t p = s->first + n % s->T;
        const tsr_element *x = s->x + n * s->C;
        tsr_element *y = s->y + n * s->C;
        if (p < 0 || p >= s->P) {
            fill_row(y, s->C, NAN);
            continue;
        }
        const tsr_element *weight = s->weight + p * s->C;
#pragma omp simd
        for (int64_t c = 0; c < s->C; c++)
            y[c] = tsr_narrow(tsr_widen(x[c]) + tsr_widen(weight[c]));
    }
}

tsr_status TSR_KERNEL(position_add)(const tsr_kernel_call *call) {
    const int32_t *position = call->view.input_count > 2 ? call->in[2] : NULL;
    shift s = {
        .x = call->in[0],
        .weight = call->in[1],
        .y = call->out[0],
        .first = position ? *position : 0,
        .T = call->view.inputs[0].shape[1],
        .C = call->view.inputs[0].shape[2],
        .P = call->view.inputs[1].shape[0],
    };
    tsr_device_parallel(call->device, tsr_row_count(&call->view.inputs[0]),
                        shift_body, &s);
    return TSR_OK;
}

/* ---- position_grad: a unit is a row of dweight ---- */

typedef struct collect {
    const tsr_element *dy;  /* (B, T, C) */
    const tsr_element *acc; /* (P, C) or NULL */
    tsr_element *dweight;   /* (P, C) */
    int64_t B, T, C;
} collect;

static void collect_block(const collect *s, int64_t p, int64_t channel) {
    const int64_t count = tsr_min(CHANNELS, s->C - channel);
    float sum[CHANNELS] = {0};
    if (s->acc)
        load_block(sum, s->acc + p * s->C + channel, count);
    for (int64_t b = 0; p < s->T && b < s->B; b++)
        add_block(sum, s->dy + (b * s->T + p) * s->C + channel, count);
    store_block(s->dweight + p * s->C + channel, sum, count);
}

static void collect_body(void *context, int64_t begin, int64_t end) {
    const collect *s = context;
    for (int64_t p = begin; p < end; p++)
        for (int64_t channel = 0; channel < s->C; channel += CHANNELS)
            collect_block(s, p, channel);
}

tsr_status TSR_KERNEL(position_grad)(const tsr_kernel_call *call) {
    collect s = {
        .dy = call->in[0],
        .acc = call->view.input_count > 1 ? call->in[1] : NULL,
        .dweight = call->out[0],
        .B = call->view.inputs[0].shape[0],
        .T = call->view.inputs[0].shape[1],
        .C = call->view.inputs[0].shape[2],
    };
    tsr_device_parallel(call->device, call->view.outputs[0].shape[0],
                        collect_body, &s);
    return TSR_OK;
}
