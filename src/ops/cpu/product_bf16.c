/* Products of bf16, tile by tile of c: each tile is computed alike, whoever has
 * how many threads.
 *
 * Where oneDNN's bf16 products are faster, a tile is one of them, made before
 * for each slot; the slot's workspace is its scratch. Elsewhere panels of a and
 * b are converted to f32 and multiplied there:
 *
 *   slot's workspace: a (TILE_M, DEPTH) | b (DEPTH, TILE_N) | c (TILE_M,
 * TILE_N)
 *
 * which costs a conversion for every TILE multiply-adds, about a tenth of the
 * product's time. */
#include "ops/cpu/element.h"
#include "ops/cpu/parallel.h"
#include "ops/cpu/product.h"

#include <stdatomic.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"
#include "ops/cpu_bf16.h"
#include "ops/cpu_matmul.h"

/* Sides of a tile. Narrower ones share work better, and oneDNN does not mind
 * (430-470 of 490 GFLOP/s on Zen 5); conversions do. */
#define TILE_M 256
#define TILE_N 256
#define NATIVE_N 128
#define DEPTH 256 /* a, b and c of a slot fit 1 MiB of second-level cache */

#define A_FLOATS (TILE_M * DEPTH)
#define B_FLOATS (DEPTH * TILE_N)
#define C_FLOATS (TILE_M * TILE_N)
#define SLOT_FLOATS (A_FLOATS + B_FLOATS + C_FLOATS)

/* The tiles of c, and who does which. */
typedef struct grid {
    int64_t side_m, side_n; /* of a tile; less at the lower and right edge */
    int64_t across, count;  /* tiles in a row of them, in all */
    int64_t slots;
} grid;

static grid grid_of(const tsr_product *p, bool native, int threads) {
    grid g = {.side_m = TILE_M, .side_n = native ? NATIVE_N : TILE_N};
    g.across = tsr_ceil_div(p->n, g.side_n);
    g.count = tsr_ceil_div(p->m, g.side_m) * g.across;
    g.slots = tsr_slots(g.count, threads);
    return g;
}

/* Where a tile lies in c. */
typedef struct tile {
    int64_t row, column, m, n;
} tile;

static tile tile_at(const tsr_product *p, const grid *g, int64_t index) {
    const int64_t row = index / g->across * g->side_m;
    const int64_t column = index % g->across * g->side_n;
    return (tile){row, column, tsr_min(g->side_m, p->m - row),
                  tsr_min(g->side_n, p->n - column)};
}

/* ---- prepared ---- */

/* Whole tiles, those at the right edge, at the lower edge, in the corner. */
enum { KINDS = 4 };

typedef struct native {
    int64_t slots;
    size_t scratch_bytes;  /* of a slot */
    tsr_matmul *matmuls[]; /* (slots, KINDS) owned; NULL: no such tile */
} native;

static int kind_of(const grid *g, const tile *t) {
    return (t->n < g->side_n ? 1 : 0) + (t->m < g->side_m ? 2 : 0);
}

/* The shape of one kind; false: no tile is of it. */
static bool kind_shape(const tsr_product *p, const grid *g, int kind,
                       tsr_matmul_shape *out_shape) {
    const int64_t last = g->count - 1;
    const int64_t corners[KINDS] = {0, g->across - 1, last - (g->across - 1),
                                    last};
    const tile t = tile_at(p, g, corners[kind]);
    *out_shape = (tsr_matmul_shape){.trans_a = p->trans_a,
                                    .trans_b = p->trans_b,
                                    .has_bias = p->has_bias,
                                    .accumulate = p->has_acc,
                                    .m = t.m,
                                    .n = t.n,
                                    .k = p->k,
                                    .lda = p->lda,
                                    .ldb = p->ldb,
                                    .ldc = p->n};
    return kind_of(g, &t) == kind;
}

static size_t native_bytes(const tsr_product *p, const grid *g) {
    size_t most = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        tsr_matmul_shape shape;
        if (!kind_shape(p, g, kind, &shape))
            continue;
        const size_t bytes = tsr_round_up(tsr_matmul_scratch_bytes(&shape), 64);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static tsr_status create_matmuls(const tsr_product *p, const grid *g,
                                 native *self) {
    for (int64_t slot = 0; slot < g->slots; slot++)
        for (int kind = 0; kind < KINDS; kind++) {
            tsr_matmul_shape shape;
            if (kind_shape(p, g, kind, &shape))
                TSR_TRY(tsr_matmul_create(&shape,
                                          &self->matmuls[slot * KINDS + kind]));
        }
    return TSR_OK;
}

tsr_status TSR_KERNEL(product_prepare)(const tsr_product *product, int threads,
                                       void **out_state) {
    *out_state = NULL;
    if (!tsr_cpu_bf16_native())
        return TSR_OK;
    const grid g = grid_of(product, true, threads);
    native *self = NULL;
    TSR_TRY(tsr_alloc(
        1, sizeof *self + (size_t)(g.slots * KINDS) * sizeof self->matmuls[0],
        (void **)&self));
    self->slots = g.slots;
    self->scratch_bytes = native_bytes(product, &g);
    tsr_status status = create_matmuls(product, &g, self);
    if (status == TSR_OK)
        *out_state = self;
    else
        TSR_CPU(product_release)(self);
    return status;
}

void TSR_CPU(product_release)(void *state) {
    native *self = state;
    for (int64_t i = 0; self && i < self->slots * KINDS; i++)
        tsr_matmul_release(self->matmuls[i]);
    tsr_free(self);
}

size_t TSR_KERNEL(product_workspace)(const tsr_product *product, int threads) {
    const bool is_native = tsr_cpu_bf16_native();
    const grid g = grid_of(product, is_native, threads);
    return (size_t)g.slots * (is_native ? native_bytes(product, &g)
                                        : SLOT_FLOATS * sizeof(float));
}

/* ---- running ---- */

typedef struct work {
    const tsr_product *p;
    const native *native;               /* NULL: in f32 */
    const uint16_t *a, *b, *bias, *acc; /* bias (n), acc (m, n), or NULL */
    uint16_t *c;
    grid grid;
    char *workspace;    /* (slots) */
    atomic_int *status; /* the first failure of a slot */
} work;

static const uint16_t *a_at(const work *w, int64_t row, int64_t depth) {
    const tsr_product *p = w->p;
    return w->a + (p->trans_a ? depth * p->lda + row : row * p->lda + depth);
}

static const uint16_t *b_at(const work *w, int64_t depth, int64_t column) {
    const tsr_product *p = w->p;
    return w->b +
           (p->trans_b ? column * p->ldb + depth : depth * p->ldb + column);
}

static tsr_status run_native(const work *w, const tile *t, int64_t slot) {
    const int64_t n = w->p->n, at = t->row * n + t->column;
    for (int64_t r = 0; w->acc && w->acc != w->c && r < t->m; r++)
        memcpy(w->c + at + r * n, w->acc + at + r * n,
               (size_t)t->n * sizeof *w->c);
    return tsr_matmul_run(
        w->native->matmuls[slot * KINDS + kind_of(&w->grid, t)],
        &(tsr_matmul_operands){
            .a = a_at(w, t->row, 0),
            .b = b_at(w, 0, t->column),
            .bias = w->bias ? w->bias + t->column : NULL,
            .c = w->c + at,
            .scratch = w->workspace + (size_t)slot * w->native->scratch_bytes});
}

/* Depths [depth, depth + DEPTH) of the tile, added to c. */
static void add_panels(const work *w, const tile *t, int64_t depth, float *slot,
                       tsr_gemm *g) {
    const tsr_product *p = w->p;
    const int64_t k = tsr_min(DEPTH, p->k - depth);
    const tsr_panel a =
        tsr_panel_read(a_at(w, t->row, depth), p->lda, p->trans_a ? k : t->m,
                       p->trans_a ? t->m : k, slot);
    const tsr_panel b =
        tsr_panel_read(b_at(w, depth, t->column), p->ldb, p->trans_b ? t->n : k,
                       p->trans_b ? k : t->n, slot + A_FLOATS);
    g->k = k;
    g->a = a.data;
    g->lda = a.ld;
    g->b = b.data;
    g->ldb = b.ld;
    tsr_cpu_gemm(g);
    g->beta = 1;
}

static void run_f32(const work *w, const tile *t, float *slot) {
    const tsr_product *p = w->p;
    const int64_t at = t->row * p->n + t->column;
    float *c = slot + A_FLOATS + B_FLOATS;
    tsr_gemm g = {.trans_a = p->trans_a,
                  .trans_b = p->trans_b,
                  .m = t->m,
                  .n = t->n,
                  .alpha = 1,
                  .beta = w->bias || w->acc ? 1 : 0,
                  .c = c,
                  .ldc = t->n};
    if (w->acc)
        tsr_panel_read(w->acc + at, p->n, t->m, t->n, c);
    else if (w->bias) /* every row anew: rows 0 apart */
        tsr_panel_read(w->bias + t->column, 0, t->m, t->n, c);
    for (int64_t depth = 0; depth < p->k; depth += DEPTH)
        add_panels(w, t, depth, slot, &g);
    tsr_panel_end((tsr_panel){c, t->n}, t->m, t->n, w->c + at, p->n);
}

static void run_slot(const work *w, int64_t slot) {
    const grid *g = &w->grid;
    const int64_t last = g->count * (slot + 1) / g->slots;
    for (int64_t i = g->count * slot / g->slots; i < last; i++) {
        const tile t = tile_at(w->p, g, i);
        if (!w->native)
            run_f32(w, &t, (float *)(void *)w->workspace + slot * SLOT_FLOATS);
        else if (run_native(w, &t, slot) != TSR_OK)
            atomic_store(w->status, TSR_OUT_OF_MEMORY);
    }
}

/* A unit is a slot. */
static void work_body(void *context, int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; slot++)
        run_slot(context, slot);
}

tsr_status TSR_KERNEL(product_run)(const tsr_product *product,
                                   const tsr_kernel_call *call) {
    const native *state = call->state;
    atomic_int status = TSR_OK;
    work w = {.p = product,
              .native = state,
              .a = tsr_product_a(product, call),
              .b = tsr_product_b(product, call),
              .bias = product->has_bias ? call->in[2] : NULL,
              .acc = product->has_acc ? call->in[2] : NULL,
              .c = call->out[0],
              .grid = grid_of(product, state != NULL,
                              tsr_device_threads(call->device)),
              .workspace = call->workspace,
              .status = &status};
    tsr_device_parallel(call->device, w.grid.slots, work_body, &w);
    return atomic_load(&status) == TSR_OK
               ? TSR_OK
               : tsr_error(TSR_OUT_OF_MEMORY,
                           "oneDNN found no memory to pack a bf16 product; "
                           "TESSERA_BF16=f32 does without");
}
