#include "base/memory.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static atomic_long calls;
static atomic_long fail_at;

long tsr_alloc_fail_at(long n) {
    atomic_store(&fail_at, n);
    return atomic_exchange(&calls, 0);
}

static int must_fail(void) {
    long target = atomic_load_explicit(&fail_at, memory_order_relaxed);
    return target != 0 && atomic_fetch_add(&calls, 1) + 1 == target;
}

static tsr_status total_bytes(size_t count, size_t bytes, size_t *out_total) {
    if (bytes != 0 && count > SIZE_MAX / bytes)
        return tsr_error(
            TSR_OUT_OF_MEMORY,
            "%zu elements of %zu bytes are more than memory can hold", count,
            bytes);
    *out_total = count * bytes;
    return TSR_OK;
}

tsr_status tsr_alloc(size_t count, size_t bytes, void **out) {
    size_t total = 0;
    *out = NULL;
    TSR_TRY(total_bytes(count, bytes, &total));
    if (total == 0)
        return TSR_OK;
    void *memory = must_fail() ? NULL : calloc(1, total);
    if (!memory)
        return tsr_error(TSR_OUT_OF_MEMORY, "could not allocate %zu bytes",
                         total);
    *out = memory;
    return TSR_OK;
}

tsr_status tsr_realloc(void **memory, size_t count, size_t bytes) {
    size_t total = 0;
    TSR_TRY(total_bytes(count, bytes, &total));
    if (total == 0)
        total = 1;
    void *grown = must_fail() ? NULL : realloc(*memory, total);
    if (!grown)
        return tsr_error(TSR_OUT_OF_MEMORY, "could not allocate %zu bytes",
                         total);
    *memory = grown;
    return TSR_OK;
}

tsr_status tsr_strdup(const char *text, size_t length, char **out) {
    TSR_TRY(tsr_alloc(length + 1, 1, (void **)out));
    memcpy(*out, text, length);
    return TSR_OK;
}

void tsr_free(void *memory) { free(memory); }
