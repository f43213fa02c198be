/* An allocator that spoils memory when the free is reached in stream order, and
 * keeps it: whoever reads it later reads NaN, whoever writes it is found when
 * the heap is closed. */
#ifndef TSR_TESTS_ZERO_EAGER_HEAP_H
#define TSR_TESTS_ZERO_EAGER_HEAP_H

#include <stdbool.h>
#include <stdlib.h>

#include "check.h"
#include "tessera/eager.h"

enum { SPOILED = 0xFF }; /* NaN in f32, bf16 and f16 */

typedef struct heap_block {
    struct heap_block *next;
    size_t bytes, room;
    bool freed, spoiled;
    unsigned char *memory;
} heap_block;

/* Of one rank; its lists belong to the thread that calls the tsr_zero. */
typedef struct eager_heap {
    heap_block *blocks;
    size_t live; /* bytes */
    int allocs;
    int fail_at; /* that alloc fails, counted from 1; 0: none */
} eager_heap;

static inline tsr_status heap_alloc(void *context, size_t bytes,
                                    tsr_stream *stream, void **out_memory) {
    eager_heap *heap = context;
    (void)stream;
    CHECK(bytes > 0);
    *out_memory = NULL;
    if (++heap->allocs == heap->fail_at)
        return tsr_fail(TSR_OUT_OF_MEMORY, "the test's heap is empty");
    heap_block *block = calloc(1, sizeof *block);
    CHECK(block);
    block->room = (bytes + 63) / 64 * 64;
    block->bytes = bytes;
    block->memory = aligned_alloc(64, block->room);
    CHECK(block->memory);
    memset(block->memory, SPOILED, block->room);
    block->next = heap->blocks;
    heap->blocks = block;
    heap->live += bytes;
    *out_memory = block->memory;
    return TSR_OK;
}

static inline tsr_status heap_spoil(void *context) {
    heap_block *block = context;
    memset(block->memory, SPOILED, block->room);
    block->spoiled = true;
    return TSR_OK;
}

static inline void heap_free(void *context, void *memory, size_t bytes,
                             tsr_stream *stream) {
    eager_heap *heap = context;
    heap_block *block = heap->blocks;
    while (block && block->memory != memory)
        block = block->next;
    CHECK(block && !block->freed && block->bytes == bytes);
    block->freed = true;
    heap->live -= bytes;
    (void)tsr_stream_enqueue(stream, heap_spoil, block);
}

/* After the tsr_zero was released. */
static inline void heap_close(eager_heap *heap) {
    CHECK_MESSAGE(heap->live == 0, "%zu bytes were not freed", heap->live);
    while (heap->blocks) {
        heap_block *block = heap->blocks;
        CHECK(block->freed);
        for (size_t i = 0; block->spoiled && i < block->room; i++)
            CHECK_MESSAGE(block->memory[i] == SPOILED,
                          "byte %zu of %zu was written after its free", i,
                          block->bytes);
        heap->blocks = block->next;
        free(block->memory);
        free(block);
    }
}

#endif
