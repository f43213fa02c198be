/* For tests of offload: bytes that are known, made and spoilt in the order of a
 * stream, and a shard whose memory is given up and taken again. */
#ifndef TSR_TESTS_ZERO_EAGER_HOST_H
#define TSR_TESTS_ZERO_EAGER_HOST_H

#include "zero/eager_rank.h"

enum { CHUNKS = 4096 };

/* What queued work reads and writes, until the end of a test. */
typedef struct chunk {
    unsigned char *memory;
    size_t bytes;
    unsigned seed;
} chunk;

typedef struct chunk_list {
    chunk *data[CHUNKS];
    int count;
} chunk_list;

static inline chunk *chunk_of(chunk_list *list, size_t bytes, unsigned seed) {
    chunk *made = calloc(1, sizeof *made);
    CHECK(made && list->count < CHUNKS);
    *made = (chunk){malloc(bytes), bytes, seed};
    CHECK(made->memory);
    memset(made->memory, SPOILED, bytes);
    return list->data[list->count++] = made;
}

static inline void chunks_free(chunk_list *list) {
    for (int i = 0; i < list->count; i++) {
        free(list->data[i]->memory);
        free(list->data[i]);
    }
    list->count = 0;
}

static inline unsigned char byte_of(unsigned seed, size_t i) {
    return (unsigned char)((seed * 131 + i * 7 + i / 251) % 253);
}

/* ---- tasks ---- */

static inline tsr_status run_make(void *context) {
    const chunk *at = context;
    for (size_t i = 0; i < at->bytes; i++)
        at->memory[i] = byte_of(at->seed, i);
    return TSR_OK;
}

static inline tsr_status run_spoil(void *context) {
    const chunk *at = context;
    memset(at->memory, SPOILED, at->bytes);
    return TSR_OK;
}

/* A tensor made on the stream, slowly if told so. */
static inline chunk *make_tensor(chunk_list *list, tsr_stream *stream,
                                 size_t bytes, unsigned seed, bool slowly) {
    chunk *at = chunk_of(list, bytes, seed);
    if (slowly)
        CHECK_OK(tsr_stream_enqueue(stream, dawdle, NULL));
    CHECK_OK(tsr_stream_enqueue(stream, run_make, at));
    return at;
}

static inline void spoil(tsr_stream *stream, chunk *at) {
    CHECK_OK(tsr_stream_enqueue(stream, run_spoil, at));
}

/* A copy of `memory` as the stream sees it; check_seen after synchronizing. */
static inline chunk *see(chunk_list *list, tsr_stream *stream,
                         const void *memory, size_t bytes, unsigned seed) {
    chunk *at = chunk_of(list, bytes, seed);
    CHECK_OK(tsr_stream_copy(stream, at->memory, memory, bytes));
    return at;
}

static inline void check_seen(const chunk *at) {
    for (size_t i = 0; i < at->bytes; i++)
        CHECK_MESSAGE(at->memory[i] == byte_of(at->seed, i),
                      "byte %zu of %zu of tensor %u: %d, not %d", i, at->bytes,
                      at->seed, at->memory[i], byte_of(at->seed, i));
}

/* ---- a shard that moves ---- */

typedef struct moving {
    chunk_list *list;
    chunk *now; /* NULL: given up */
    size_t bytes;
    int vacated, occupied;
    bool refuses; /* occupy fails */
} moving;

static inline void *moving_address(void *context) {
    const moving *self = context;
    return self->now ? self->now->memory : NULL;
}

/* The memory is spoilt as soon as it may be. */
static inline void moving_vacate(void *context, tsr_stream *stream) {
    moving *self = context;
    CHECK(self->now);
    spoil(stream, self->now);
    self->now = NULL;
    self->vacated++;
}

static inline tsr_status moving_occupy(void *context, tsr_stream *stream) {
    moving *self = context;
    CHECK(!self->now && stream);
    if (self->refuses)
        return tsr_fail(TSR_OUT_OF_MEMORY, "the test gives no memory");
    self->now = chunk_of(self->list, self->bytes, 0);
    self->occupied++;
    return TSR_OK;
}

/* The parameter's shard moves from now on; before it is registered. */
static inline void param_moves(test_param *param, moving *self,
                               chunk_list *list) {
    size_t bytes =
        (size_t)param->shard * tsr_dtype_bytes(param->desc.type.dtype);
    *self = (moving){.list = list, .bytes = bytes};
    self->now = chunk_of(list, bytes + 1, 0);
    memcpy(self->now->memory, param->shard_memory, bytes);
    param->desc.shard = (tsr_tensor){.address = moving_address,
                                     .context = self,
                                     .vacate = moving_vacate,
                                     .occupy = moving_occupy};
}

/* The weights of `version` into where the shard is. */
static inline void moving_write(const eager_rank *rank, test_param *param,
                                moving *self, int version) {
    param_write(rank, param, version);
    memcpy(self->now->memory, param->shard_memory, self->bytes);
}

#endif
