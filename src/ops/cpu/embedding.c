/* Token and position embeddings. */
#include "ops/cpu/isa.h"
#include "ops/cpu/parallel.h"

#include <math.h>
#include <string.h>

static void fill_row(float *y, int64_t C, float value) {
    for (int64_t c = 0; c < C; c++)
        y[c] = value;
}

static void add_row(float *y, const float *x, int64_t C) {
#pragma omp simd
    for (int64_t c = 0; c < C; c++)
        y[c] += x[c];
}

/* ---- embedding: a unit is a token ---- */

typedef struct lookup {
    const int32_t *tokens; /* (N) */
    const float *weight;   /* (V, C) */
    float *y;              /* (N, C) */
    int64_t V, C;
} lookup;

static void lookup_body(void *context, int64_t begin, int64_t end) {
    const lookup *l = context;
    for (int64_t n = begin; n < end; n++) {
        const int64_t token = l->tokens[n];
        float *y = l->y + n * l->C;
        if (token < 0 || token >= l->V)
            fill_row(y, l->C, NAN);
        else
            memcpy(y, l->weight + token * l->C, (size_t)l->C * sizeof *y);
    }
}

tsr_status TSR_CPU(embedding)(const tsr_kernel_call *call) {
    lookup l = {call->in[0], call->in[1], call->out[0],
                call->view.inputs[1].shape[0], call->view.inputs[1].shape[1]};
    tsr_device_parallel(call->device, tsr_type_count(&call->view.inputs[0]),
                        lookup_body, &l);
    return TSR_OK;
}

/* ---- embedding_grad: rows are prepared, then added to; there a unit is a
 * block of channels, since two threads may not add to one row ---- */

#define CHANNELS 64 /* four cache lines */

typedef struct scatter {
    const int32_t *tokens; /* (N) */
    const float *dy;       /* (N, C) */
    const float *acc;      /* (V, C) or NULL */
    float *dweight;        /* (V, C) */
    int64_t N, V, C;
} scatter;

static void start_body(void *context, int64_t begin, int64_t end) {
    const scatter *s = context;
    const size_t bytes = (size_t)((end - begin) * s->C) * sizeof *s->dweight;
    float *to = s->dweight + begin * s->C;
    if (s->acc == NULL)
        memset(to, 0, bytes);
    else
        memcpy(to, s->acc + begin * s->C, bytes);
}

static void scatter_body(void *context, int64_t begin, int64_t end) {
    const scatter *s = context;
    const int64_t first = begin * CHANNELS;
    const int64_t count = tsr_min(end * CHANNELS, s->C) - first;
    for (int64_t n = 0; n < s->N; n++) {
        const int64_t token = s->tokens[n];
        if (token >= 0 && token < s->V)
            add_row(s->dweight + token * s->C + first, s->dy + n * s->C + first,
                    count);
    }
}

tsr_status TSR_CPU(embedding_grad)(const tsr_kernel_call *call) {
    scatter s = {
        .tokens = call->in[0],
        .dy = call->in[1],
        .acc = call->view.input_count > 2 ? call->in[2] : NULL,
        .dweight = call->out[0],
        .N = tsr_type_count(&call->view.inputs[0]),
        .V = call->view.outputs[0].shape[0],
        .C = call->view.outputs[0].shape[1],
    };
    if (s.acc != s.dweight)
        tsr_device_parallel(call->device, s.V, start_body, &s);
    tsr_device_parallel(call->device, tsr_ceil_div(s.C, CHANNELS), scatter_body,
                        &s);
    return TSR_OK;
}

/* ---- position_add: a unit is a row of x ---- */

typedef struct shift {
    const float *x;      /* (B, T, C) */
    const float *weight; /* (P, C) */
    float *y;            /* (B, T, C), may be x */
    int64_t first, T, C, P;
} shift;

static void shift_body(void *context, int64_t begin, int64_t end) {
    const shift *s = context;
    for (int64_t n = begin; n < end; n++) {
        const int64_t p = s->first + n % s->T;
        const float *x = s->x + n * s->C;
        float *y = s->y + n * s->C;
        if (p < 0 || p >= s->P) {
            fill_row(y, s->C, NAN);
            continue;
        }
        const float *weight = s->weight + p * s->C;
#pragma omp simd
        for (int64_t c = 0; c < s->C; c++)
            y[c] = x[c] + weight[c];
    }
}

tsr_status TSR_CPU(position_add)(const tsr_kernel_call *call) {
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
    const float *dy;  /* (B, T, C) */
    const float *acc; /* (P, C) or NULL */
    float *dweight;   /* (P, C) */
    int64_t B, T, C;
} collect;

static void collect_body(void *context, int64_t begin, int64_t end) {
    const collect *s = context;
    for (int64_t p = begin; p < end; p++) {
        float *to = s->dweight + p * s->C;
        if (s->acc == NULL)
            fill_row(to, s->C, 0);
        else if (s->acc != s->dweight)
            memcpy(to, s->acc + p * s->C, (size_t)s->C * sizeof *to);
        for (int64_t b = 0; p < s->T && b < s->B; b++)
            add_row(to, s->dy + (b * s->T + p) * s->C, s->C);
    }
}

tsr_status TSR_CPU(position_grad)(const tsr_kernel_call *call) {
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
