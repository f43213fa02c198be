/* The map against a plain table. */
#include "base/map.h"

#include "base/memory.h"
#include "check.h"

#define KEYS 4096

static int64_t key_of(int i) {
    static const int64_t odd[] = {0, -1, INT64_MIN, INT64_MAX};
    return i < 4 ? odd[i] : (int64_t)i * 64 - 100000; /* same low bits */
}

int main(void) {
    tsr_map map = {0};
    int32_t *plain;
    uint32_t state = 1;
    CHECK_OK(tsr_alloc(KEYS, sizeof *plain, (void **)&plain));
    for (int i = 0; i < KEYS; i++) {
        plain[i] = -1;
        CHECK(tsr_map_get(&map, key_of(i)) == -1);
    }
    for (int step = 0; step < 20000; step++) {
        state = state * 1664525u + 1013904223u; /* Numerical Recipes */
        int i = (int)(state >> 8) % KEYS;
        if (state >> 31) {
            CHECK_OK(tsr_map_set(&map, key_of(i), step));
            plain[i] = step;
        }
        CHECK(tsr_map_get(&map, key_of(i)) == plain[i]);
    }
    for (int i = 0; i < KEYS; i++)
        CHECK(tsr_map_get(&map, key_of(i)) == plain[i]);
    tsr_map_release(&map);
    CHECK(tsr_map_get(&map, 0) == -1);
    tsr_alloc_fail_at(1);
    CHECK(tsr_map_set(&map, 0, 1) == TSR_OUT_OF_MEMORY);
    tsr_alloc_fail_at(0);
    CHECK(tsr_map_get(&map, 0) == -1);
    tsr_map_release(&map);
    tsr_free(plain);
    return 0;
}
