#include "base/map.h"

#include <string.h>

#include "base/memory.h"

static size_t slot_of(const tsr_map *map, int64_t key) {
    uint64_t hash =
        (uint64_t)key * 0x9e3779b97f4a7c15u; /* Knuth 6.4: the golden ratio */
    size_t at = (size_t)(hash >> 32) & (map->capacity - 1);
    while (map->slots[at].used && map->slots[at].key != key)
        at = (at + 1) & (map->capacity - 1);
    return at;
}

int32_t tsr_map_get(const tsr_map *map, int64_t key) {
    if (map->capacity == 0)
        return -1;
    size_t at = slot_of(map, key);
    return map->slots[at].used ? map->slots[at].value : -1;
}

static tsr_status grow(tsr_map *map) {
    tsr_map grown = {.capacity = map->capacity ? 2 * map->capacity : 16,
                     .count = map->count};
    TSR_TRY(
        tsr_alloc(grown.capacity, sizeof *grown.slots, (void **)&grown.slots));
    for (size_t i = 0; i < map->capacity; i++)
        if (map->slots[i].used)
            grown.slots[slot_of(&grown, map->slots[i].key)] = map->slots[i];
    tsr_free(map->slots);
    *map = grown;
    return TSR_OK;
}

tsr_status tsr_map_set(tsr_map *map, int64_t key, int32_t value) {
    if (2 * (map->count + 1) > map->capacity)
        TSR_TRY(grow(map));
    struct tsr_map_slot *slot = &map->slots[slot_of(map, key)];
    map->count += !slot->used;
    slot->key = key;
    slot->value = value;
    slot->used = 1;
    return TSR_OK;
}

void tsr_map_release(tsr_map *map) {
    tsr_free(map->slots);
    memset(map, 0, sizeof *map);
}
