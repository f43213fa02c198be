#include <string.h>

#include "tessera/graph.h"

int64_t tsr_type_count(const tsr_type *type) {
    int64_t count = 1;
    for (int i = 0; i < type->dims; i++)
        count *= type->shape[i];
    return count;
}

size_t tsr_type_bytes(const tsr_type *type) {
    return (size_t)tsr_type_count(type) * tsr_dtype_bytes(type->dtype);
}

bool tsr_type_equal(const tsr_type *a, const tsr_type *b) {
    return a->dtype == b->dtype && a->dims == b->dims &&
           memcmp(a->shape, b->shape, (size_t)a->dims * sizeof a->shape[0]) ==
               0;
}

static const tsr_attr *find_attr(const tsr_op_view *view, const char *name) {
    for (size_t i = 0; i < view->attr_count; i++)
        if (strcmp(view->attrs[i].name, name) == 0)
            return &view->attrs[i];
    return NULL;
}

int64_t tsr_view_int(const tsr_op_view *view, const char *name,
                     int64_t fallback) {
    const tsr_attr *attr = find_attr(view, name);
    return attr && !attr->is_real ? attr->integer : fallback;
}

double tsr_view_real(const tsr_op_view *view, const char *name,
                     double fallback) {
    const tsr_attr *attr = find_attr(view, name);
    if (!attr)
        return fallback;
    return attr->is_real ? attr->real : (double)attr->integer;
}
