#include "graph/op_table.h"

#include <string.h>

#include "base/array.h"

struct tsr_op_table {
    TSR_ARRAY(tsr_op) rows;
};

static tsr_status add_family(tsr_op_table *table, tsr_op_rows family) {
    for (size_t i = 0; i < family.count; i++)
        TSR_TRY(tsr_op_table_add(table, &family.rows[i]));
    return TSR_OK;
}

tsr_status tsr_op_table_create(tsr_op_table **out_table) {
    tsr_status status = TSR_OK;
    tsr_op_table *table = NULL;
    *out_table = NULL;
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *table, (void **)&table));
    TSR_TRY_GOTO(add_family(table, tsr_token_ops()));
    TSR_TRY_GOTO(add_family(table, tsr_dense_ops()));
    TSR_TRY_GOTO(add_family(table, tsr_attention_ops()));
    TSR_TRY_GOTO(add_family(table, tsr_optimizer_ops()));
    TSR_TRY_GOTO(add_family(table, tsr_zero_ops()));
    *out_table = table;
    table = NULL;
done:
    tsr_op_table_release(table);
    return status;
}

void tsr_op_table_release(tsr_op_table *table) {
    if (!table)
        return;
    TSR_ARRAY_FREE(&table->rows);
    tsr_free(table);
}

tsr_status tsr_op_table_add(tsr_op_table *table, const tsr_op *row) {
    if (!row->name || !row->name[0] || !row->infer)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "an op row needs a name and an infer function");
    if (tsr_op_table_find(table, row->name, strlen(row->name)) >= 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "op '%s' is in the table already", row->name);
    if (row->outputs > TSR_MAX_OUTPUTS)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "op '%s' has %d outputs, at most %d are possible",
                         row->name, row->outputs, TSR_MAX_OUTPUTS);
    TSR_TRY(TSR_ARRAY_RESERVE(&table->rows, 1));
    TSR_ARRAY_PUSH(&table->rows, *row);
    return TSR_OK;
}

int tsr_op_table_find(const tsr_op_table *table, const char *name,
                      size_t length) {
    for (size_t i = 0; i < table->rows.count; i++) {
        const char *known = table->rows.data[i].name;
        if (strncmp(known, name, length) == 0 && known[length] == '\0')
            return (int)i;
    }
    return -1;
}

const tsr_op *tsr_op_table_row(const tsr_op_table *table, int row) {
    return &table->rows.data[row];
}

int tsr_op_table_count(const tsr_op_table *table) {
    return (int)table->rows.count;
}
