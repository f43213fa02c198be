/* bf16 products by oneDNN: transposes, biases, sums, sizes around tiles, rows
 * further apart than they are long; how they are chosen; how they fail. */
#include "ops/cpu_matmul.h"

#include <stdlib.h>

#include "base/memory.h"
#include "op_run.h"
#include "ops/cpu_bf16.h"

#define GAP 3 /* elements between rows that no product may read or write */
#define NOTHING 0x7fc0 /* NaN */

/* (rows, columns) of bf16 with NaN in the gaps. */
typedef struct matrix {
    uint16_t *data; /* owned */
    int64_t rows, columns, stride;
} matrix;

static matrix matrix_create(int64_t rows, int64_t columns) {
    matrix a = {NULL, rows, columns, columns + GAP};
    a.data = malloc((size_t)(rows * a.stride) * sizeof *a.data);
    CHECK(a.data != NULL);
    for (int64_t i = 0; i < rows * a.stride; i++)
        a.data[i] = i % a.stride < columns ? tsr_to_bf16((float)random_real())
                                           : NOTHING;
    return a;
}

static double at(const matrix *a, bool transposed, int64_t i, int64_t j) {
    return (double)tsr_from_bf16(transposed ? a->data[j * a->stride + i]
                                            : a->data[i * a->stride + j]);
}

static void check_product(const tsr_matmul_shape *s, const matrix *a,
                          const matrix *b, const matrix *bias, const matrix *c,
                          const matrix *before) {
    for (int64_t i = 0; i < s->m; i++) {
        for (int64_t j = 0; j < s->n; j++) {
            double sum = s->has_bias ? at(bias, false, 0, j) : 0, size;
            if (s->accumulate)
                sum += at(before, false, i, j);
            size = fabs(sum);
            for (int64_t p = 0; p < s->k; p++) {
                const double term =
                    at(a, s->trans_a, i, p) * at(b, s->trans_b, p, j);
                sum += term;
                size += fabs(term);
            }
            const double got = at(c, false, i, j);
            /* One rounding to bf16, and f32 sums before. */
            CHECK_MESSAGE(fabs(got - sum) <= 0x1p-8 * fabs(sum) + 2e-6 * size,
                          "%lld x %lld x %lld, trans %d %d, bias %d, "
                          "accumulate %d: (%lld, %lld) is %.9g, not %.9g",
                          (long long)s->m, (long long)s->n, (long long)s->k,
                          s->trans_a, s->trans_b, s->has_bias, s->accumulate,
                          (long long)i, (long long)j, got, sum);
        }
        for (int64_t j = s->n; j < s->ldc; j++)
            CHECK(c->data[i * c->stride + j] == NOTHING);
    }
}

/* Bits of `kind`: a transposed, b transposed, bias, accumulate. */
static void check_shape(int64_t m, int64_t n, int64_t k, unsigned kind) {
    const bool trans_a = kind & 1, trans_b = kind & 2;
    matrix a = trans_a ? matrix_create(k, m) : matrix_create(m, k);
    matrix b = trans_b ? matrix_create(n, k) : matrix_create(k, n);
    matrix c = matrix_create(m, n), bias = matrix_create(1, n);
    matrix before = matrix_create(m, n);
    const size_t bytes = (size_t)(m * c.stride) * sizeof *c.data;
    const tsr_matmul_shape shape = {.trans_a = trans_a,
                                    .trans_b = trans_b,
                                    .has_bias = kind & 4,
                                    .accumulate = kind & 8,
                                    .m = m,
                                    .n = n,
                                    .k = k,
                                    .lda = a.stride,
                                    .ldb = b.stride,
                                    .ldc = c.stride};
    tsr_matmul *matmul;
    memcpy(c.data, before.data, bytes);
    buffer scratch = buffer_create(tsr_matmul_scratch_bytes(&shape), 0);
    CHECK_OK(tsr_matmul_create(&shape, &matmul));
    CHECK_OK(tsr_matmul_run(
        matmul, &(tsr_matmul_operands){.a = a.data,
                                       .b = b.data,
                                       .bias = kind & 4 ? bias.data : NULL,
                                       .c = c.data,
                                       .scratch = scratch.data}));
    tsr_matmul_release(matmul);
    check_product(&shape, &a, &b, &bias, &c, &before);
    buffer_release(&scratch, "a product's scratch");
    free(a.data);
    free(b.data);
    free(c.data);
    free(bias.data);
    free(before.data);
}

static void check_shapes(void) {
    static const int64_t sizes[][3] = {{1, 1, 1},    {3, 5, 7},
                                       {37, 65, 33}, {256, 128, 64},
                                       {64, 1, 257}, {1, 130, 300}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (unsigned kind = 0; kind < 16; kind++)
            check_shape(sizes[i][0], sizes[i][1], sizes[i][2], kind);
}

/* Our allocations fail in turn; nothing leaks (ASan). */
static void check_out_of_memory(void) {
    const tsr_matmul_shape shape = {
        .m = 8, .n = 8, .k = 8, .lda = 8, .ldb = 8, .ldc = 8};
    tsr_matmul *matmul = (tsr_matmul *)&matmul;
    tsr_alloc_fail_at(1);
    CHECK_FAILS(tsr_matmul_create(&shape, &matmul), TSR_OUT_OF_MEMORY, "");
    tsr_alloc_fail_at(0);
    CHECK(matmul == NULL);
    tsr_matmul_release(NULL);
}

/* ---- the choice ---- */

static void set_environment(const char *value) {
    if (value)
        CHECK(setenv("TESSERA_BF16", value, 1) == 0);
    else
        CHECK(unsetenv("TESSERA_BF16") == 0);
}

static void check_table(const char *setting, const char *products) {
    tsr_kernel_table *table;
    set_environment(setting);
    CHECK_OK(tsr_kernel_table_create(TSR_KERNELS_CPU, &table));
    CHECK(strncmp(tsr_kernel_table_products(table, TSR_F32), "f32: ", 5) == 0);
    CHECK_MESSAGE(strncmp(tsr_kernel_table_products(table, TSR_BF16), products,
                          strlen(products)) == 0,
                  "%s: %s", setting ? setting : "unset",
                  tsr_kernel_table_products(table, TSR_BF16));
    tsr_kernel_table_release(table);
}

static void check_choice(void) {
    tsr_kernel_table *table;
    const bool native = tsr_cpu_bf16_native();
    printf("bf16 products are %s here\n", native ? "faster" : "not faster");
    for (int i = 0; i < 3; i++)
        CHECK(tsr_cpu_bf16_native() == native); /* timed once */
    CHECK(!native || tsr_matmul_possible());
    check_table(NULL, native ? "bf16: " : "f32 over bf16: ");
    check_table("f32", "f32 over bf16: ");
    if (tsr_matmul_possible()) {
        check_table("native", "bf16: ");
    } else {
        set_environment("native");
        CHECK_FAILS(tsr_kernel_table_create(TSR_KERNELS_CPU, &table),
                    TSR_UNSUPPORTED, "oneDNN");
    }
    set_environment("fast");
    CHECK_FAILS(tsr_kernel_table_create(TSR_KERNELS_CPU, &table),
                TSR_INVALID_ARGUMENT, "is 'fast', must be native or f32");
    set_environment(NULL);
    CHECK_OK(tsr_kernel_table_create(TSR_KERNELS_REF, &table));
    CHECK(strcmp(tsr_kernel_table_products(table, TSR_BF16), "reference C") ==
          0);
    tsr_kernel_table_release(table);
}

int main(void) {
    check_choice();
    if (!tsr_matmul_possible())
        SKIP("bf16 products need oneDNN 2");
    check_shapes();
    check_out_of_memory();
    return 0;
}
