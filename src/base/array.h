/* Growing arrays:  struct { T *data; size_t count, capacity; } name; */
#ifndef TSR_BASE_ARRAY_H
#define TSR_BASE_ARRAY_H

#include "base/memory.h"

#define TSR_ARRAY(type)                                                        \
    struct {                                                                   \
        type *data;                                                            \
        size_t count, capacity;                                                \
    }

/* Room for `extra` more elements; an expression of tsr_status. */
#define TSR_ARRAY_RESERVE(array, extra)                                        \
    tsr_array_reserve((void **)&(array)->data, (array)->count + (extra),       \
                      &(array)->capacity, sizeof *(array)->data)

/* After a successful TSR_ARRAY_RESERVE. */
#define TSR_ARRAY_PUSH(array, value) ((array)->data[(array)->count++] = (value))

#define TSR_ARRAY_FREE(array)                                                  \
    do {                                                                       \
        tsr_free((array)->data);                                               \
        (array)->data = NULL;                                                  \
        (array)->count = (array)->capacity = 0;                                \
    } while (0)

static inline tsr_status tsr_array_reserve(void **data, size_t needed,
                                           size_t *capacity, size_t bytes) {
    if (needed <= *capacity)
        return TSR_OK;
    size_t grown = *capacity < 8 ? 8 : *capacity + *capacity / 2;
    if (grown < needed)
        grown = needed;
    TSR_TRY(tsr_realloc(data, grown, bytes));
    *capacity = grown;
    return TSR_OK;
}

#endif
