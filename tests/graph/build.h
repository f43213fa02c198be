/* Small graphs for tests: types from text, declarations in one line. */
#ifndef TSR_TESTS_BUILD_H
#define TSR_TESTS_BUILD_H

#include "check.h"
#include "graph/graph.h"

static inline tsr_graph *new_graph(const tsr_op_table *table) {
    tsr_graph *graph;
    CHECK_OK(tsr_graph_create(table, &graph));
    return graph;
}

/* The type that "f32[2,4]" describes. */
static inline tsr_type type_of(const char *text) {
    tsr_type type = {.dtype = TSR_F32};
    size_t length = strcspn(text, "[");
    for (int i = 0; i < TSR_DTYPE_COUNT; i++)
        if (strlen(tsr_dtype_name((tsr_dtype)i)) == length &&
            strncmp(tsr_dtype_name((tsr_dtype)i), text, length) == 0)
            type.dtype = (tsr_dtype)i;
    for (const char *at = text + length; at[1] && at[1] != ']';) {
        char *end;
        type.shape[type.dims++] = strtoll(at + 1, &end, 10);
        at = end;
    }
    return type;
}

static inline tsr_value_id declare(tsr_graph *graph, const char *name,
                                   const char *type_text) {
    tsr_type type = type_of(type_text);
    return tsr_graph_declare(graph, name, TSR_ROLE_STATE, &type);
}

static inline tsr_value_id param(tsr_graph *graph, const char *name,
                                 const char *type_text) {
    return tsr_graph_param(
        graph, &(tsr_param){.name = name, .type = type_of(type_text)});
}

#endif
