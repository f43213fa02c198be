/* Linear layers: matrix products whose result is cut among the threads. */
#include "ops/cpu/isa.h"
#include "ops/cpu/parallel.h"

#include <string.h>

/* Rows or columns of a unit: wide enough for the products' register blocks. */
#define TILE 64

typedef struct product {
    tsr_gemm gemm;     /* c = op(a) op(b) + start */
    const float *bias; /* (n): every row of c starts as this; or NULL */
    const float *acc;  /* (m, n): c starts as this; may be c; or NULL */
    bool by_rows;      /* a unit is TILE rows of c, else TILE columns */
} product;

/* The part of `p` that ends up in rows or columns [first, last) of c. */
static product part_of(const product *p, int64_t first, int64_t last) {
    product part = *p;
    tsr_gemm *g = &part.gemm;
    if (p->by_rows) {
        g->m = last - first;
        g->a += first * (g->trans_a ? 1 : g->lda);
        g->c += first * g->ldc;
        part.acc = p->acc ? p->acc + first * g->ldc : NULL;
    } else {
        g->n = last - first;
        g->b += first * (g->trans_b ? g->ldb : 1);
        g->c += first;
        part.acc = p->acc ? p->acc + first : NULL;
        part.bias = p->bias ? p->bias + first : NULL;
    }
    return part;
}

/* Writes what the product is added to; the result is c's factor. */
static float start(const product *p) {
    const tsr_gemm *g = &p->gemm;
    if (p->bias == NULL && p->acc == NULL)
        return 0;
    if (p->acc == g->c)
        return 1;
    for (int64_t i = 0; i < g->m; i++)
        memcpy(g->c + i * g->ldc, p->acc ? p->acc + i * g->ldc : p->bias,
               (size_t)g->n * sizeof(float));
    return 1;
}

static void product_body(void *context, int64_t begin, int64_t end) {
    const product *p = context;
    const int64_t side = p->by_rows ? p->gemm.m : p->gemm.n;
    product part = part_of(p, begin * TILE, tsr_min(end * TILE, side));
    part.gemm.beta = start(&part);
    tsr_cpu_gemm(&part.gemm);
}

/* Cuts the longer side of c. */
static void run_product(tsr_device *device, product p) {
    p.gemm.alpha = 1;
    p.by_rows = p.gemm.m > p.gemm.n;
    tsr_device_parallel(device,
                        tsr_ceil_div(p.by_rows ? p.gemm.m : p.gemm.n, TILE),
                        product_body, &p);
}

/* y = x W + bias */
tsr_status TSR_CPU(linear)(const tsr_kernel_call *call) {
    const tsr_linear_shape s = tsr_linear_shape_of(
        &call->view, &call->view.inputs[0], &call->view.outputs[0]);
    run_product(call->device,
                (product){
                    .gemm = {.trans_b = s.out_in,
                             .m = s.N,
                             .n = s.O,
                             .k = s.I,
                             .a = call->in[0],
                             .lda = s.I,
                             .b = call->in[1],
                             .ldb = s.out_in ? s.I : s.O,
                             .c = call->out[0],
                             .ldc = s.O},
                    .bias = call->view.input_count > 2 ? call->in[2] : NULL,
                });
    return TSR_OK;
}

/* dx = dy W^T + acc */
tsr_status TSR_CPU(linear_grad_input)(const tsr_kernel_call *call) {
    const tsr_linear_shape s = tsr_linear_shape_of(
        &call->view, &call->view.outputs[0], &call->view.inputs[0]);
    run_product(call->device,
                (product){
                    .gemm = {.trans_b = !s.out_in,
                             .m = s.N,
                             .n = s.I,
                             .k = s.O,
                             .a = call->in[0],
                             .lda = s.O,
                             .b = call->in[1],
                             .ldb = s.out_in ? s.I : s.O,
                             .c = call->out[0],
                             .ldc = s.I},
                    .acc = call->view.input_count > 2 ? call->in[2] : NULL,
                });
    return TSR_OK;
}

/* dW = x^T dy + acc, or its transpose dy^T x + acc */
tsr_status TSR_CPU(linear_grad_weight)(const tsr_kernel_call *call) {
    const tsr_linear_shape s = tsr_linear_shape_of(
        &call->view, &call->view.inputs[0], &call->view.inputs[1]);
    run_product(call->device,
                (product){
                    .gemm = {.trans_a = true,
                             .m = s.out_in ? s.O : s.I,
                             .n = s.out_in ? s.I : s.O,
                             .k = s.N,
                             .a = call->in[s.out_in ? 1 : 0],
                             .lda = s.out_in ? s.O : s.I,
                             .b = call->in[s.out_in ? 0 : 1],
                             .ldb = s.out_in ? s.I : s.O,
                             .c = call->out[0],
                             .ldc = s.out_in ? s.I : s.O},
                    .acc = call->view.input_count > 2 ? call->in[2] : NULL,
                });
    return TSR_OK;
}

/* ---- bias_grad: a unit is a block of columns; rows are summed in chunks, as
 * one long f32 sum would round away small parts ---- */

#define COLUMNS 256
#define CHUNK_ROWS 64

typedef struct columns {
    const float *dy;  /* (N, O) */
    const float *acc; /* (O) or NULL */
    float *dbias;     /* (O) */
    int64_t N, O;
} columns;

static void sum_columns(const columns *s, int64_t first, int64_t count) {
    float total[COLUMNS], chunk[COLUMNS];
    for (int64_t i = 0; i < count; i++)
        total[i] = s->acc ? s->acc[first + i] : 0;
    for (int64_t n = 0; n < s->N;) {
        const int64_t last = tsr_min(n + CHUNK_ROWS, s->N);
        memset(chunk, 0, sizeof chunk);
        for (; n < last; n++) {
            const float *dy = s->dy + n * s->O + first;
#pragma omp simd
            for (int64_t i = 0; i < count; i++)
                chunk[i] += dy[i];
        }
        for (int64_t i = 0; i < count; i++)
            total[i] += chunk[i];
    }
    memcpy(s->dbias + first, total, (size_t)count * sizeof *total);
}

static void columns_body(void *context, int64_t begin, int64_t end) {
    const columns *s = context;
    for (int64_t block = begin; block < end; block++)
        sum_columns(s, block * COLUMNS,
                    tsr_min(COLUMNS, s->O - block * COLUMNS));
}

tsr_status TSR_CPU(bias_grad)(const tsr_kernel_call *call) {
    columns s = {
        .dy = call->in[0],
        .acc = call->view.input_count > 1 ? call->in[1] : NULL,
        .dbias = call->out[0],
        .N = tsr_row_count(&call->view.inputs[0]),
        .O = tsr_last_dim(&call->view.inputs[0]),
    };
    tsr_device_parallel(call->device, tsr_ceil_div(s.O, COLUMNS), columns_body,
                        &s);
    return TSR_OK;
}
