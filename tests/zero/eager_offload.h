/* Ranks whose tensors and shards go to the host and back. */
#ifndef TSR_TESTS_ZERO_EAGER_OFFLOAD_H
#define TSR_TESTS_ZERO_EAGER_OFFLOAD_H

#include "zero/eager_host.h"

enum { MANY = 1 << 20 };

static inline void open_graphs(eager_rank *rank, const rank_context *context,
                               rank_options options) {
    if (options.settings.host_bytes == 0)
        options.settings.host_bytes = MANY;
    rank_open(rank, context, &options);
    for (int graph = 1; graph <= 2; graph++)
        CHECK_OK(tsr_zero_register_graph(rank->zero, graph, NULL, 0));
}

static inline void check_host(const eager_rank *rank, size_t host,
                              size_t reloaded) {
    tsr_zero_memory held = tsr_zero_memory_held(rank->zero);
    CHECK_MESSAGE(held.host == host, "%zu on the host, expected %zu", held.host,
                  host);
    CHECK_MESSAGE(held.reloaded == reloaded, "%zu reloaded, expected %zu",
                  held.reloaded, reloaded);
    check_held(rank, held.gathered);
}

static inline void offload(eager_rank *rank, int graph, int id,
                           const chunk *at) {
    CHECK_OK(tsr_zero_offload_tensor(rank->zero, graph, id, at->memory,
                                     at->bytes, rank->stream, NULL));
}

static inline void wait_offload(eager_rank *rank, int graph, int id) {
    CHECK_OK(tsr_zero_wait_offload(rank->zero, graph, id, rank->stream));
}

static inline void *reload(eager_rank *rank, int graph, int id) {
    void *memory;
    CHECK_OK(
        tsr_zero_reload_tensor(rank->zero, graph, id, rank->stream, &memory));
    return memory;
}

static inline void *wait_reload(eager_rank *rank, int graph, int id,
                                void *input) {
    void *memory;
    CHECK_OK(tsr_zero_wait_reload(rank->zero, graph, id, input, rank->stream,
                                  &memory));
    return memory;
}

static inline void free_one(eager_rank *rank, void *memory) {
    CHECK_OK(tsr_zero_free_tensors(rank->zero, &memory, 1, rank->stream));
}

static const rank_options kinds[] = {
    {.kind = TSR_STREAM_QUEUED},
    {.kind = TSR_STREAM_INLINE, .device_memory = true},
    {.kind = TSR_STREAM_QUEUED, .delay_seed = 3, .max_delay_us = 200},
    {.kind = TSR_STREAM_INLINE, .delay_seed = 4, .max_delay_us = 200},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

#endif
