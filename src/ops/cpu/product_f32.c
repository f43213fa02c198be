/* Products in f32, the result cut among the threads. */
#include "ops/cpu/parallel.h"
#include "ops/cpu/product.h"

#include <string.h>

/* Rows or columns of a unit: wide enough for the products' register blocks. */
#define TILE 64

typedef struct cut {
    tsr_gemm gemm;     /* c = op(a) op(b) + start */
    const float *bias; /* (n): every row of c starts as this; or NULL */
    const float *acc;  /* (m, n): c starts as this; may be c; or NULL */
    bool by_rows;      /* a unit is TILE rows of c, else TILE columns */
} cut;

/* The part of `p` that ends up in rows or columns [first, last) of c. */
static cut part_of(const cut *p, int64_t first, int64_t last) {
    cut part = *p;
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
static float start(const cut *p) {
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

static void cut_body(void *context, int64_t begin, int64_t end) {
    const cut *p = context;
    const int64_t side = p->by_rows ? p->gemm.m : p->gemm.n;
    cut part = part_of(p, begin * TILE, tsr_min(end * TILE, side));
    part.gemm.beta = start(&part);
    tsr_cpu_gemm(&part.gemm);
}

size_t TSR_CPU_OF(product_workspace, f32)(const tsr_product *product,
                                          int threads) {
    (void)product;
    (void)threads;
    return 0;
}

tsr_status TSR_CPU_OF(product_prepare, f32)(const tsr_product *product,
                                            int threads, void **out_state) {
    (void)product;
    (void)threads;
    *out_state = NULL;
    return TSR_OK;
}

/* Cuts the longer side of c. */
tsr_status TSR_CPU_OF(product_run, f32)(const tsr_product *product,
                                        const tsr_kernel_call *call) {
    cut p = {.gemm = {.trans_a = product->trans_a,
                      .trans_b = product->trans_b,
                      .m = product->m,
                      .n = product->n,
                      .k = product->k,
                      .alpha = 1,
                      .a = tsr_product_a(product, call),
                      .lda = product->lda,
                      .b = tsr_product_b(product, call),
                      .ldb = product->ldb,
                      .c = call->out[0],
                      .ldc = product->n},
             .bias = product->has_bias ? call->in[2] : NULL,
             .acc = product->has_acc ? call->in[2] : NULL,
             .by_rows = product->m > product->n};
    tsr_device_parallel(call->device,
                        tsr_ceil_div(p.by_rows ? product->m : product->n, TILE),
                        cut_body, &p);
    return TSR_OK;
}
