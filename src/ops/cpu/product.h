/* The matrix products of linear layers.
 *
 *   c (m, n) = op(a) (m, k) op(b) (k, n) + bias or accumulator
 *
 * The operands are the call's: in[0] and in[1] are a and b (swapped: b and a),
 * in[2] is the bias (n) or the accumulator (m, n), which may be out[0]; out[0]
 * is c. */
#ifndef TSR_OPS_CPU_PRODUCT_H
#define TSR_OPS_CPU_PRODUCT_H

#include "ops/cpu/isa.h"

typedef struct tsr_product {
    bool trans_a, trans_b; /* a is (k, m), b is (n, k) */
    bool swapped;
    bool has_bias, has_acc; /* not both */
    int64_t m, n, k;
    int64_t lda, ldb; /* from row to row of a and b; of c it is n */
} tsr_product;

/* f32: by tsr_cpu_gemm. bf16: by oneDNN's bf16 products where they are faster,
 * else in f32 over converted panels; sums are in f32 either way, and rounded
 * once. */
#define TSR_PRODUCT_DECLARE(element)                                           \
    size_t TSR_CPU_OF(product_workspace, element)(const tsr_product *product,  \
                                                  int threads);                \
    tsr_status TSR_CPU_OF(product_prepare, element)(                           \
        const tsr_product *product, int threads, void **out_state);            \
    tsr_status TSR_CPU_OF(product_run, element)(const tsr_product *product,    \
                                                const tsr_kernel_call *call);
TSR_PRODUCT_DECLARE(f32)
TSR_PRODUCT_DECLARE(bf16)

/* What either of them prepared; takes NULL. */
void TSR_CPU(product_release)(void *state);

static inline const void *tsr_product_a(const tsr_product *product,
                                        const tsr_kernel_call *call) {
    return call->in[product->swapped ? 1 : 0];
}
static inline const void *tsr_product_b(const tsr_product *product,
                                        const tsr_kernel_call *call) {
    return call->in[product->swapped ? 0 : 1];
}

#endif
