/* Kernel tables: the newest row of an op wins. */
#include "base/array.h"
#include "ops/cpu.h"
#include "ops/cpu_bf16.h"
#include "ops/ref/ref.h"

#include <stdio.h>
#include <string.h>

#define DESCRIPTION_BYTES 96

enum { PRODUCTS_F32, PRODUCTS_BF16, PRODUCTS_F32_OVER_BF16, PRODUCTS };

struct tsr_kernel_table {
    TSR_ARRAY(const tsr_kernel *) rows; /* array owned, kernels borrowed */
    char description[DESCRIPTION_BYTES];
    char products[PRODUCTS][DESCRIPTION_BYTES]; /* "": by the reference */
};

static tsr_status add_rows(tsr_kernel_table *table, const tsr_kernel *rows,
                           size_t count) {
    TSR_TRY(TSR_ARRAY_RESERVE(&table->rows, count));
    for (size_t i = 0; i < count; i++)
        TSR_ARRAY_PUSH(&table->rows, &rows[i]);
    return TSR_OK;
}

/* The rows of `set`; ops without a fast kernel keep the reference. */
static tsr_status fill(tsr_kernel_table *table, tsr_kernel_set set) {
    TSR_TRY(add_rows(table, tsr_ref_kernels, tsr_ref_kernel_count));
    switch (set) {
    case TSR_KERNELS_REF:
        snprintf(table->description, DESCRIPTION_BYTES, "reference C");
        return TSR_OK;
    case TSR_KERNELS_CPU: {
        const tsr_cpu_kernel_set *cpu = tsr_cpu_kernels_best();
        char products[TSR_GEMM_DESCRIPTION_BYTES];
        TSR_TRY(tsr_cpu_bf16_check());
        tsr_cpu_gemm_load();
        tsr_cpu_gemm_describe(products);
        snprintf(table->description, DESCRIPTION_BYTES, "%s, %s", cpu->isa,
                 products);
        snprintf(table->products[PRODUCTS_F32], DESCRIPTION_BYTES, "f32: %s",
                 products);
        snprintf(table->products[PRODUCTS_BF16], DESCRIPTION_BYTES, "bf16: %s",
                 products);
        snprintf(table->products[PRODUCTS_F32_OVER_BF16], DESCRIPTION_BYTES,
                 "f32 over bf16: %s", products);
        return add_rows(table, cpu->rows, cpu->count);
    }
    }
    return tsr_error(TSR_INVALID_ARGUMENT, "no kernel set %d", (int)set);
}

tsr_status tsr_kernel_table_create(tsr_kernel_set set,
                                   tsr_kernel_table **out_table) {
    tsr_status status = TSR_OK;
    tsr_kernel_table *table = NULL;

    *out_table = NULL;
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *table, (void **)&table));
    TSR_TRY_GOTO(fill(table, set));

    *out_table = table;
    table = NULL; /* now the caller's */
done:
    tsr_kernel_table_release(table);
    return status;
}

void tsr_kernel_table_release(tsr_kernel_table *table) {
    if (table == NULL)
        return;
    TSR_ARRAY_FREE(&table->rows);
    tsr_free(table);
}

tsr_status tsr_kernel_table_add(tsr_kernel_table *table,
                                const tsr_kernel *kernel) {
    if (kernel->op == NULL || kernel->run == NULL)
        return tsr_error(TSR_INVALID_ARGUMENT, "a kernel for %s has no %s",
                         kernel->op ? kernel->op : "?",
                         kernel->op ? "run function" : "op name");
    return add_rows(table, kernel, 1);
}

const tsr_kernel *tsr_kernel_table_find(const tsr_kernel_table *table,
                                        const char *op) {
    for (size_t i = table->rows.count; i-- > 0;)
        if (strcmp(table->rows.data[i]->op, op) == 0)
            return table->rows.data[i];
    return NULL;
}

const char *tsr_kernel_table_describe(const tsr_kernel_table *table) {
    return table->description;
}

const char *tsr_kernel_table_products(const tsr_kernel_table *table,
                                      tsr_dtype dtype) {
    if (table->products[PRODUCTS_F32][0] == '\0')
        return table->description;
    if (dtype != TSR_BF16)
        return table->products[PRODUCTS_F32];
    return table->products[tsr_cpu_bf16_native() ? PRODUCTS_BF16
                                                 : PRODUCTS_F32_OVER_BF16];
}

size_t tsr_kernel_workspace(const void *query, const tsr_op_view *view) {
    const tsr_workspace_query *self = query;
    const tsr_kernel *kernel =
        tsr_kernel_table_find(self->kernels, view->op->name);
    return kernel && kernel->workspace ? kernel->workspace(view, self->threads)
                                       : 0;
}
