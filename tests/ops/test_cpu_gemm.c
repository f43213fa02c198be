/* Our own matrix product in every instruction set, and oneDNN through the same
 * door: transposes, factors, sizes around the register and cache blocks, rows
 * further apart than they are long. */
#include "op_run.h"

#define TOLERANCE 2e-6
#define GAP 5 /* columns between rows that no product may read or write */

/* A (rows, columns) matrix with NaN in the gaps. */
typedef struct matrix {
    float *data; /* owned */
    int64_t rows, columns, stride;
} matrix;

static matrix matrix_create(int64_t rows, int64_t columns) {
    matrix a = {NULL, rows, columns, columns + GAP};
    a.data = malloc((size_t)(rows * a.stride) * sizeof *a.data);
    CHECK(a.data != NULL);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < a.stride; j++)
            a.data[i * a.stride + j] = j < columns ? (float)random_real() : NAN;
    return a;
}

static double at(const matrix *a, bool transposed, int64_t i, int64_t j) {
    return transposed ? a->data[j * a->stride + i] : a->data[i * a->stride + j];
}

static void check_product(const char *what, const tsr_gemm *g, const matrix *a,
                          const matrix *b, const matrix *before) {
    for (int64_t i = 0; i < g->m; i++) {
        for (int64_t j = 0; j < g->n; j++) {
            double sum = 0, size = 1;
            for (int64_t p = 0; p < g->k; p++) {
                const double term =
                    at(a, g->trans_a, i, p) * at(b, g->trans_b, p, j);
                sum += term;
                size += fabs(term);
            }
            double expected = g->alpha * sum;
            if (g->beta != 0)
                expected += g->beta * at(before, false, i, j);
            const double got = g->c[i * g->ldc + j];
            CHECK_MESSAGE(fabs(got - expected) <= TOLERANCE * size,
                          "%s: %lld x %lld x %lld, trans %d %d, beta %g: "
                          "(%lld, %lld) is %.9g, not %.9g",
                          what, (long long)g->m, (long long)g->n,
                          (long long)g->k, g->trans_a, g->trans_b,
                          (double)g->beta, (long long)i, (long long)j, got,
                          expected);
        }
        for (int64_t j = g->n; j < g->ldc; j++)
            CHECK_MESSAGE(isnan(g->c[i * g->ldc + j]), "%s wrote a gap", what);
    }
}

static void check_size(const char *what, tsr_gemm_run run,
                       const int64_t size[3], int transposes) {
    static const float betas[] = {0, 1, 0.5f};
    const bool trans_a = transposes & 1, trans_b = transposes & 2;
    const int64_t m = size[0], n = size[1], k = size[2];
    matrix a = trans_a ? matrix_create(k, m) : matrix_create(m, k);
    matrix b = trans_b ? matrix_create(n, k) : matrix_create(k, n);
    for (size_t i = 0; i < sizeof betas / sizeof *betas; i++) {
        matrix before = matrix_create(m, n), c = matrix_create(m, n);
        const size_t bytes = (size_t)(m * c.stride) * sizeof *c.data;
        if (betas[i] == 0)
            memset(c.data, 0xff, bytes); /* NaN: must not be read */
        else
            memcpy(c.data, before.data, bytes);
        const tsr_gemm gemm = {.trans_a = trans_a,
                               .trans_b = trans_b,
                               .m = m,
                               .n = n,
                               .k = k,
                               .alpha = i == 2 ? 0.75f : 1,
                               .beta = betas[i],
                               .a = a.data,
                               .lda = a.stride,
                               .b = b.data,
                               .ldb = b.stride,
                               .c = c.data,
                               .ldc = c.stride};
        run(&gemm);
        check_product(what, &gemm, &a, &b, &before);
        free(before.data);
        free(c.data);
    }
    free(a.data);
    free(b.data);
}

static void check_sizes(const char *what, tsr_gemm_run run) {
    static const int64_t sizes[][3] = {
        {1, 1, 1},    {3, 1, 5},     {1, 37, 3},     {12, 32, 8},
        {13, 33, 17}, {6, 16, 256},  {7, 17, 257},   {97, 31, 300},
        {37, 65, 35}, {200, 40, 20}, {100, 100, 600}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int transposes = 0; transposes < 4; transposes++)
            check_size(what, run, sizes[i], transposes);
}

/* A NaN or infinity in a or b reaches every product it takes part in. */
static void check_nan(const char *what, tsr_gemm_run run) {
    enum { SIDE = 40 };
    static float a[SIDE * SIDE], b[SIDE * SIDE], c[SIDE * SIDE];
    for (int i = 0; i < SIDE * SIDE; i++)
        a[i] = b[i] = (float)random_real();
    a[5 * SIDE + 7] = NAN;
    b[3 * SIDE + 11] = INFINITY;
    run(&(tsr_gemm){.m = SIDE,
                    .n = SIDE,
                    .k = SIDE,
                    .alpha = 1,
                    .a = a,
                    .lda = SIDE,
                    .b = b,
                    .ldb = SIDE,
                    .c = c,
                    .ldc = SIDE});
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++)
            CHECK_MESSAGE(isfinite(c[i * SIDE + j]) == (i != 5 && j != 11),
                          "%s: (%d, %d) is %g", what, i, j,
                          (double)c[i * SIDE + j]);
}

int main(void) {
    const tsr_cpu_kernel_set *const *sets;
    const size_t count = tsr_cpu_kernel_sets(&sets);
    char library[TSR_GEMM_DESCRIPTION_BYTES];
    for (size_t i = 0; i < count; i++) {
        check_sizes(sets[i]->isa, sets[i]->gemm);
        check_nan(sets[i]->isa, sets[i]->gemm);
    }
    tsr_cpu_gemm_load();
    tsr_cpu_gemm_describe(library);
    printf("%s\n", library);
    check_sizes(library, tsr_cpu_gemm);
    check_nan(library, tsr_cpu_gemm);
    return 0;
}
