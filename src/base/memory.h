/* The library's only door to the heap; tests make its n-th call fail. */
#ifndef TSR_BASE_MEMORY_H
#define TSR_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* `count * bytes` zeroed bytes; NULL for 0. *out is NULL on failure. Errors:
 * OUT_OF_MEMORY, overflow included. */
tsr_status tsr_alloc(size_t count, size_t bytes, void **out);

/* Resizes what tsr_alloc gave (or NULL); new bytes are not zeroed; *memory is
 * unchanged on failure. */
tsr_status tsr_realloc(void **memory, size_t count, size_t bytes);

/* A copy of `length` bytes of `text` with a terminator. */
tsr_status tsr_strdup(const char *text, size_t length, char **out);

void tsr_free(void *memory); /* takes NULL */

/* Tests: the n-th call from now on (1 = next), counted over all threads, fails;
 * 0 turns it off. Returns calls counted. */
long tsr_alloc_fail_at(long n);

static inline size_t tsr_round_up(size_t value, size_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

#endif
