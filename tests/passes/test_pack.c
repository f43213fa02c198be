/* Interval packing against brute force: blocks alive together never overlap,
 * the bounds are right, the result is the same each time. */
#include <stdbool.h>

#include "base/memory.h"
#include "check.h"
#include "passes/pack.h"

#define MOST_BLOCKS 200
#define MOST_NODES 120

/* xorshift64* (Vigna 2016): the same blocks on every machine. */
static uint64_t state;
static uint32_t draw(uint32_t below) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)((state * UINT64_C(2685821657736338717)) >> 33) % below;
}

static bool alive_together(const tsr_block *a, const tsr_block *b) {
    return a->first <= b->last && b->first <= a->last;
}

static size_t most_alive(const tsr_block *blocks, size_t count) {
    size_t most = 0;
    for (int32_t n = 0; n < MOST_NODES; n++) {
        size_t alive = 0;
        for (size_t i = 0; i < count; i++)
            if (blocks[i].first <= n && n <= blocks[i].last)
                alive += blocks[i].bytes;
        most = alive > most ? alive : most;
    }
    return most;
}

/* Packs and checks; returns the bytes above the bound in percent. */
static double check_pack(tsr_block *blocks, size_t count) {
    size_t bytes = 1, live = 1, end = 0;
    for (size_t i = 0; i < count; i++)
        blocks[i].offset = 0;
    CHECK_OK(tsr_pack(blocks, count, &bytes, &live));
    for (size_t i = 0; i < count; i++) {
        const tsr_block *a = &blocks[i];
        if (a->bytes == 0)
            continue;
        end = a->offset + a->bytes > end ? a->offset + a->bytes : end;
        CHECK(a->offset % 64 == 0);
        for (size_t j = 0; j < i; j++) {
            const tsr_block *b = &blocks[j];
            CHECK_MESSAGE(!alive_together(a, b) || b->bytes == 0 ||
                              a->offset >= b->offset + b->bytes ||
                              b->offset >= a->offset + a->bytes,
                          "blocks %zu and %zu overlap", i, j);
        }
    }
    CHECK(bytes == end);
    CHECK(live == most_alive(blocks, count) && bytes >= live);
    return live ? 100.0 * (double)(bytes - live) / (double)live : 0;
}

static size_t random_blocks(tsr_block *blocks, bool long_lived, bool zeros) {
    size_t count = 1 + draw(MOST_BLOCKS);
    for (size_t i = 0; i < count; i++) {
        int32_t first = (int32_t)draw(MOST_NODES),
                span = (int32_t)draw(long_lived ? MOST_NODES : 8);
        int32_t last =
            first + span < MOST_NODES ? first + span : MOST_NODES - 1;
        blocks[i] = (tsr_block){first, last, 64 * (size_t)(1 + draw(40)), 0};
        if (zeros && draw(3) == 0)
            blocks[i].bytes = 0;
    }
    return count;
}

static void test_random(void) {
    static tsr_block blocks[MOST_BLOCKS], again[MOST_BLOCKS];
    double worst = 0, sum = 0;
    int rounds = 400;
    state = 88172645463325252u;
    for (int round = 0; round < rounds; round++) {
        size_t count = random_blocks(blocks, round & 1, round & 2);
        memcpy(again, blocks, sizeof blocks);
        double waste = check_pack(blocks, count);
        CHECK(check_pack(again, count) == waste);
        for (size_t i = 0; i < count; i++)
            CHECK(again[i].offset == blocks[i].offset);
        worst = waste > worst ? waste : worst;
        sum += waste;
    }
    printf("waste of random blocks: %.1f %% in the mean, %.1f %% at worst\n",
           sum / rounds, worst);
    CHECK(sum / rounds < 5);
}

/* Like a network: layer i lives until the backward of layer i. Needs no more
 * than the bound. */
static void test_nested(void) {
    tsr_block blocks[60];
    for (int32_t i = 0; i < 60; i++)
        blocks[i] = (tsr_block){i, 119 - i, 64 * (size_t)(1 + i % 7), 0};
    CHECK(check_pack(blocks, 60) == 0);
}

static void test_edges(void) {
    size_t bytes = 1, live = 1;
    CHECK_OK(tsr_pack(NULL, 0, &bytes, &live));
    CHECK(bytes == 0 && live == 0);
    tsr_block one[] = {{3, 3, 64, 99}};
    check_pack(one, 1);
    CHECK(one[0].offset == 0);
    tsr_block empty[] = {{0, 5, 0, 0}, {2, 3, 0, 0}};
    check_pack(empty, 2);
    /* Touching at a node is together; following each other is not. */
    tsr_block touching[] = {{0, 3, 128, 0}, {3, 5, 128, 0}, {6, 9, 128, 0}};
    CHECK(check_pack(touching, 3) == 0);
    CHECK(touching[0].offset != touching[1].offset);
    /* Of the gaps that two short-lived blocks leave, the smaller, though it is
     * the higher. */
    tsr_block gaps[] = {{0, 9, 640, 0}, {0, 1, 512, 0}, {0, 9, 384, 0},
                        {0, 1, 128, 0}, {0, 9, 64, 0},  {2, 9, 64, 0}};
    check_pack(gaps, 6);
    CHECK(gaps[1].offset == 640 && gaps[3].offset == 640 + 512 + 384);
    CHECK(gaps[5].offset == gaps[3].offset);
}

static void test_allocation_failures(void) {
    for (long n = 1;; n++) {
        tsr_block blocks[] = {{0, 3, 128, 0}, {3, 5, 128, 0}};
        size_t bytes, live;
        tsr_alloc_fail_at(n);
        tsr_status status = tsr_pack(blocks, 2, &bytes, &live);
        tsr_alloc_fail_at(0);
        if (status == TSR_OK) {
            CHECK(n > 1);
            return;
        }
        CHECK(status == TSR_OUT_OF_MEMORY);
    }
}

int main(void) {
    test_edges();
    test_nested();
    test_random();
    test_allocation_failures();
    return 0;
}
