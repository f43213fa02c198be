/* Products of bf16, tile by tile of c.
 *
 * Where the processor's bf16 products are not faster, and oneDNN is absent,
 * panels of a and b are converted to f32 and multiplied there:
 *
 *   slot's workspace: a (TILE_M, DEPTH) | b (DEPTH, TILE_N) | c (TILE_M, TILE_N)
 *
 * A panel is converted once for DEPTH * TILE multiply-adds an element, about a
 * tenth of the product's time. */
#include "ops/cpu/element.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/product.h"

#define TILE_M 256
#define TILE_N 256
#define DEPTH 512

#define A_FLOATS (TILE_M * DEPTH)
#define B_FLOATS (DEPTH * TILE_N)
#define C_FLOATS (TILE_M * TILE_N)
#define SLOT_FLOATS (A_FLOATS + B_FLOATS + C_FLOATS)

typedef struct tiles {
    const tsr_product *p;
    const uint16_t *a, *b, *bias, *acc; /* bias (n), acc (m, n), or NULL */
    uint16_t *c;
    int64_t across, count, slots; /* tiles in a row of them, in all */
    float *workspace;             /* (slots, SLOT_FLOATS) */
} tiles;

static int64_t tile_count(const tsr_product *p) {
    return tsr_ceil_div(p->m, TILE_M) * tsr_ceil_div(p->n, TILE_N);
}

/* Depths [depth, depth + k) of the tile at (row, column), added to c. */
static void add_panels(const tiles *t, tsr_gemm *g, int64_t row, int64_t column,
                       int64_t depth, float *slot) {
    const tsr_product *p = t->p;
    float *a = slot, *b = slot + A_FLOATS;
    g->k = tsr_min(DEPTH, p->k - depth);
    const tsr_panel from_a =
        p->trans_a
            ? tsr_panel_read(t->a + depth * p->lda + row, p->lda, g->k, g->m, a)
            : tsr_panel_read(t->a + row * p->lda + depth, p->lda, g->m, g->k,
                             a);
    const tsr_panel from_b =
        p->trans_b ? tsr_panel_read(t->b + column * p->ldb + depth, p->ldb,
                                    g->n, g->k, b)
                   : tsr_panel_read(t->b + depth * p->ldb + column, p->ldb,
                                    g->k, g->n, b);
    g->a = from_a.data;
    g->lda = from_a.ld;
    g->b = from_b.data;
    g->ldb = from_b.ld;
    tsr_cpu_gemm(g);
    g->beta = 1;
}

static void run_tile(const tiles *t, int64_t tile, float *slot) {
    const tsr_product *p = t->p;
    const int64_t row = tile / t->across * TILE_M;
    const int64_t column = tile % t->across * TILE_N;
    float *c = slot + A_FLOATS + B_FLOATS;
    tsr_gemm g = {.trans_a = p->trans_a,
                  .trans_b = p->trans_b,
                  .m = tsr_min(TILE_M, p->m - row),
                  .n = tsr_min(TILE_N, p->n - column),
                  .alpha = 1,
                  .c = c};
    g.ldc = g.n;
    g.beta = t->bias || t->acc ? 1 : 0;
    if (t->acc)
        tsr_panel_read(t->acc + row * p->n + column, p->n, g.m, g.n, c);
    else if (t->bias) /* every row anew: rows 0 apart */
        tsr_panel_read(t->bias + column, 0, g.m, g.n, c);
    for (int64_t depth = 0; depth < p->k; depth += DEPTH)
        add_panels(t, &g, row, column, depth, slot);
    tsr_panel_end((tsr_panel){c, g.n}, g.m, g.n, t->c + row * p->n + column,
                  p->n);
}

/* A unit is a slot. */
static void tiles_body(void *context, int64_t begin, int64_t end) {
    const tiles *t = context;
    for (int64_t slot = begin; slot < end; slot++) {
        const int64_t last = t->count * (slot + 1) / t->slots;
        for (int64_t i = t->count * slot / t->slots; i < last; i++)
            run_tile(t, i, t->workspace + slot * SLOT_FLOATS);
    }
}

size_t TSR_KERNEL(product_workspace)(const tsr_product *product, int threads) {
    return (size_t)(tsr_slots(tile_count(product), threads) * SLOT_FLOATS) *
           sizeof(float);
}

tsr_status TSR_KERNEL(product_prepare)(const tsr_product *product,
                                       void **out_state) {
    (void)product;
    *out_state = NULL;
    return TSR_OK;
}

tsr_status TSR_KERNEL(product_run)(const tsr_product *product,
                                   const tsr_kernel_call *call) {
    tiles t = {.p = product,
               .a = tsr_product_a(product, call),
               .b = tsr_product_b(product, call),
               .bias = product->has_bias ? call->in[2] : NULL,
               .acc = product->has_acc ? call->in[2] : NULL,
               .c = call->out[0],
               .across = tsr_ceil_div(product->n, TILE_N),
               .count = tile_count(product),
               .workspace = call->workspace};
    t.slots = tsr_slots(t.count, tsr_device_threads(call->device));
    tsr_device_parallel(call->device, t.slots, tiles_body, &t);
    return TSR_OK;
}
