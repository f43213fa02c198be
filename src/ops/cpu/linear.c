/* Linear layers: matrix products, and sums of columns. */
#include "ops/cpu/element.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/product.h"

#include <string.h>

/* y = x W + bias */
static tsr_product linear_product(const tsr_op_view *view) {
    const tsr_linear_shape s =
        tsr_linear_shape_of(view, &view->inputs[0], &view->outputs[0]);
    return (tsr_product){.trans_b = s.out_in,
                         .has_bias = view->input_count > 2,
                         .m = s.N,
                         .n = s.O,
                         .k = s.I,
                         .lda = s.I,
                         .ldb = s.out_in ? s.I : s.O};
}

/* dx = dy W^T + acc */
static tsr_product linear_grad_input_product(const tsr_op_view *view) {
    const tsr_linear_shape s =
        tsr_linear_shape_of(view, &view->outputs[0], &view->inputs[0]);
    return (tsr_product){.trans_b = !s.out_in,
                         .has_acc = view->input_count > 2,
                         .m = s.N,
                         .n = s.I,
                         .k = s.O,
                         .lda = s.O,
                         .ldb = s.out_in ? s.I : s.O};
}

/* dW = x^T dy + acc, or its transpose dy^T x + acc */
static tsr_product linear_grad_weight_product(const tsr_op_view *view) {
    const tsr_linear_shape s =
        tsr_linear_shape_of(view, &view->inputs[0], &view->inputs[1]);
    return (tsr_product){.trans_a = true,
                         .swapped = s.out_in,
                         .has_acc = view->input_count > 2,
                         .m = s.out_in ? s.O : s.I,
                         .n = s.out_in ? s.I : s.O,
                         .k = s.N,
                         .lda = s.out_in ? s.O : s.I,
                         .ldb = s.out_in ? s.I : s.O};
}

#define PRODUCT(op)                                                            \
    size_t TSR_KERNEL(op##_workspace)(const tsr_op_view *view, int threads) {  \
        const tsr_product product = op##_product(view);                        \
        return TSR_KERNEL(product_workspace)(&product, threads);               \
    }                                                                          \
    tsr_status TSR_KERNEL(op##_prepare)(const tsr_op_view *view, int threads,  \
                                        void **out_state) {                    \
        const tsr_product product = op##_product(view);                        \
        return TSR_KERNEL(product_prepare)(&product, threads, out_state);      \
    }                                                                          \
    tsr_status TSR_KERNEL(op)(const tsr_kernel_call *call) {                   \
        const tsr_product product = op##_product(&call->view);                 \
        return TSR_KERNEL(product_run)(&product, call);                        \
    }
PRODUCT(linear)
PRODUCT(linear_grad_input)
PRODUCT(linear_grad_weight)
#undef PRODUCT

/* ---- bias_grad: a unit is a block of columns; rows are summed in chunks, as
 * one long f32 sum would round away small parts ---- */

#define COLUMNS 256
#define CHUNK_ROWS 64

typedef struct columns {
    const tsr_element *dy;  /* (N, O) */
    const tsr_element *acc; /* (O) or NULL */
    tsr_element *dbias;     /* (O) */
    int64_t N, O;
} columns;

static void sum_columns(const columns *s, int64_t first, int64_t count) {
    float total[COLUMNS], chunk[COLUMNS];
    for (int64_t i = 0; i < count; i++)
        total[i] = s->acc ? tsr_widen(s->acc[first + i]) : 0;
    for (int64_t n = 0; n < s->N;) {
        const int64_t last = tsr_min(n + CHUNK_ROWS, s->N);
        memset(chunk, 0, sizeof chunk);
        for (; n < last; n++) {
            const tsr_element *dy = s->dy + n * s->O + first;
#pragma omp simd
            for (int64_t i = 0; i < count; i++)
                chunk[i] += tsr_widen(dy[i]);
        }
        for (int64_t i = 0; i < count; i++)
            total[i] += chunk[i];
    }
    for (int64_t i = 0; i < count; i++)
        s->dbias[first + i] = tsr_narrow(total[i]);
}

static void columns_body(void *context, int64_t begin, int64_t end) {
    const columns *s = context;
    for (int64_t block = begin; block < end; block++)
        sum_columns(s, block * COLUMNS,
                    tsr_min(COLUMNS, s->O - block * COLUMNS));
}

tsr_status TSR_KERNEL(bias_grad)(const tsr_kernel_call *call) {
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
