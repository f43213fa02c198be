/* Our own matrix product, for machines without oneDNN.
 *
 * Goto and van de Geijn 2008: a block of op(a) is packed for the second-level
 * cache, a panel of op(b) for the first, and a micro-kernel keeps ROWS x
 * COLUMNS sums in registers. Packing also turns transposed operands and ragged
 * edges (padded with zeros) into one case. */
#include "ops/cpu/isa.h"
#include "ops/cpu/parallel.h"

#include <stdalign.h>
#include <string.h>

/* Bytes of a vector register, and rows of sums: 2 * ROWS of them, two of op(b)
 * and one of op(a) fit the 32 or 16 registers. */
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define ROWS 12
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define ROWS 6
#else
#define VECTOR_BYTES 16
#define ROWS 6
#endif
typedef float vector __attribute__((vector_size(VECTOR_BYTES)));

#define LANES ((int64_t)(VECTOR_BYTES / sizeof(float)))
#define COLUMNS (2 * VECTOR_BYTES / (int)sizeof(float))
#define DEPTH 256     /* k of a block: the panel of b, 32 KiB at most, in L1 */
#define BLOCK_ROWS 96 /* m of a block: 96 KiB of a, in L2 and on the stack */

typedef struct packed {
    alignas(64) float a[BLOCK_ROWS * DEPTH]; /* (m / ROWS, k, ROWS) */
    alignas(64) float b[DEPTH * COLUMNS];    /* (k, COLUMNS) */
} packed;

/* to[(i / ROWS), p, i % ROWS] = op(a)[row + i, depth + p] */
static void pack_a(const tsr_gemm *g, int64_t row, int64_t rows, int64_t depth,
                   int64_t k, float *to) {
    const int64_t row_stride = g->trans_a ? 1 : g->lda;
    const int64_t depth_stride = g->trans_a ? g->lda : 1;
    const float *a = g->a + row * row_stride + depth * depth_stride;
    for (int64_t first = 0; first < rows; first += ROWS, to += k * ROWS)
        for (int64_t r = 0; r < ROWS; r++) {
            const float *from = a + (first + r) * row_stride;
            const bool inside = first + r < rows;
            for (int64_t p = 0; p < k; p++)
                to[p * ROWS + r] = inside ? from[p * depth_stride] : 0.0f;
        }
}

/* to[p, j] = op(b)[depth + p, column + j] */
static void pack_b(const tsr_gemm *g, int64_t column, int64_t columns,
                   int64_t depth, int64_t k, float *to) {
    const int64_t column_stride = g->trans_b ? g->ldb : 1;
    const int64_t depth_stride = g->trans_b ? 1 : g->ldb;
    const float *b = g->b + column * column_stride + depth * depth_stride;
    if (columns < COLUMNS)
        memset(to, 0, (size_t)(k * COLUMNS) * sizeof *to);
    if (g->trans_b) {
        for (int64_t j = 0; j < columns; j++)
            for (int64_t p = 0; p < k; p++)
                to[p * COLUMNS + j] = b[j * column_stride + p];
    } else {
        for (int64_t p = 0; p < k; p++)
            memcpy(to + p * COLUMNS, b + p * depth_stride,
                   (size_t)columns * sizeof *to);
    }
}

/* tile = a b over k, a (k, ROWS), b (k, COLUMNS), tile (ROWS, COLUMNS). */
static void micro_kernel(const float *a, const float *b, int64_t k,
                         vector tile[ROWS][2]) {
    vector sum[ROWS][2] = {{{0}}};
    for (int64_t p = 0; p < k; p++, a += ROWS, b += COLUMNS) {
        const vector b0 = *(const vector *)(const void *)b;
        const vector b1 = *(const vector *)(const void *)(b + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            sum[r][0] += a[r] * b0;
            sum[r][1] += a[r] * b1;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) {
        tile[r][0] = sum[r][0];
        tile[r][1] = sum[r][1];
    }
}

/* c = alpha tile + beta c for the part of the tile that exists. */
static void store_tile(const tsr_gemm *g, const float *tile, int64_t row,
                       int64_t column, float beta) {
    const int64_t rows = tsr_min(ROWS, g->m - row);
    const int64_t columns = tsr_min(COLUMNS, g->n - column);
    for (int64_t r = 0; r < rows; r++, tile += COLUMNS) {
        float *c = g->c + (row + r) * g->ldc + column;
        if (beta == 0)
            for (int64_t j = 0; j < columns; j++)
                c[j] = g->alpha * tile[j];
        else
            for (int64_t j = 0; j < columns; j++)
                c[j] = g->alpha * tile[j] + beta * c[j];
    }
}

/* Rows [row, row + BLOCK_ROWS) of c, depths [depth, depth + DEPTH). */
static void run_block(const tsr_gemm *g, int64_t row, int64_t depth,
                      packed *to) {
    const int64_t rows = tsr_min(BLOCK_ROWS, g->m - row);
    const int64_t k = tsr_min(DEPTH, g->k - depth);
    const float beta = depth == 0 ? g->beta : 1;
    pack_a(g, row, rows, depth, k, to->a);
    for (int64_t column = 0; column < g->n; column += COLUMNS) {
        pack_b(g, column, tsr_min(COLUMNS, g->n - column), depth, k, to->b);
        for (int64_t r = 0; r < rows; r += ROWS) {
            vector tile[ROWS][2];
            micro_kernel(to->a + r * k, to->b, k, tile);
            store_tile(g, (const float *)tile, row + r, column, beta);
        }
    }
}

void TSR_CPU(gemm)(const tsr_gemm *gemm) {
    packed to;
    for (int64_t depth = 0; depth < gemm->k; depth += DEPTH)
        for (int64_t row = 0; row < gemm->m; row += BLOCK_ROWS)
            run_block(gemm, row, depth, &to);
}
