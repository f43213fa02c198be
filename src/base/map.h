/* From 64-bit keys to small numbers. */
#ifndef TSR_BASE_MAP_H
#define TSR_BASE_MAP_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Open addressing, at most half full; zero-initialise. */
typedef struct tsr_map {
    struct tsr_map_slot {
        int64_t key;
        int32_t value;
        int32_t used; /* 0: free */
    } * slots;
    size_t capacity, count; /* capacity: a power of two, or 0 */
} tsr_map;

/* The value of a key; -1: none. */
int32_t tsr_map_get(const tsr_map *map, int64_t key);
/* Sets or replaces. value >= 0. Errors: OUT_OF_MEMORY. */
tsr_status tsr_map_set(tsr_map *map, int64_t key, int32_t value);
void tsr_map_release(tsr_map *map);

#endif
