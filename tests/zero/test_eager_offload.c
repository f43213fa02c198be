/* The eager front, offload: tensors to the host and back. */
#include "zero/eager_offload.h"

/* Out, the source spoilt, back, read, freed: bytes held follow each call. */
static void there_and_back(rank_context *context) {
    static const size_t sizes[] = {1, 63, 64, 4097, 100001};
    eager_rank rank;
    chunk_list list = {0};
    open_graphs(&rank, context, *(const rank_options *)context->argument);
    for (unsigned seed = 0; seed < 15; seed++) {
        size_t bytes = sizes[seed % 5];
        chunk *at = make_tensor(&list, rank.stream, bytes, seed, seed % 2 == 1);
        void *host = NULL;
        CHECK_OK(tsr_zero_offload_tensor(rank.zero, 1, 7, at->memory, bytes,
                                         rank.stream, &host));
        check_host(&rank, bytes, 0);
        wait_offload(&rank, 1, 7);
        wait_offload(&rank, 1, 7);
        spoil(rank.stream, at);
        chunk *kept = see(&list, rank.stream, host, bytes, seed);
        CHECK_OK(tsr_stream_synchronize(rank.stream)); /* has read `host` */
        check_seen(kept);
        void *back = reload(&rank, 1, 7);
        CHECK(back && back != at->memory && back != host);
        check_host(&rank, 0, bytes);
        CHECK(reload(&rank, 1, 7) == back);
        CHECK(wait_reload(&rank, 1, 7, NULL) == back);
        chunk *seen = see(&list, rank.stream, back, bytes, seed);
        free_one(&rank, back);
        check_host(&rank, 0, 0);
        CHECK_OK(tsr_stream_synchronize(rank.stream));
        check_seen(seen);
    }
    CHECK(tsr_zero_memory_held(rank.zero).host_pool ==
          1 + 63 + 64 + 4097 + 100001); /* one of each, used again */
    rank_close(&rank);
    chunks_free(&list);
}

/* Many at once, all in flight, two graphs with the same ids; no host waits. */
static void many_in_flight(rank_context *context) {
    enum { TENSORS = 12, ROUNDS = 6, BYTES = 3000 };
    eager_rank rank;
    chunk_list list = {0};
    chunk *seen[ROUNDS][TENSORS];
    open_graphs(&rank, context, *(const rank_options *)context->argument);
    for (int round = 0; round < ROUNDS; round++) {
        for (int t = 0; t < TENSORS; t++) {
            chunk *at = make_tensor(&list, rank.stream, BYTES + (size_t)(t % 3),
                                    (unsigned)(round * TENSORS + t), t == 5);
            offload(&rank, 1 + t % 2, t / 2, at);
            wait_offload(&rank, 1 + t % 2, t / 2);
            spoil(rank.stream, at);
        }
        check_host(&rank, TENSORS * (BYTES + 1), 0);
        for (int t = TENSORS; t-- > 0;) { /* as backward would */
            unsigned seed = (unsigned)(round * TENSORS + t);
            reload(&rank, 1 + t % 2, t / 2);
            void *back = wait_reload(&rank, 1 + t % 2, t / 2, NULL);
            seen[round][t] =
                see(&list, rank.stream, back, BYTES + (size_t)(t % 3), seed);
            free_one(&rank, back);
        }
        check_host(&rank, 0, 0);
    }
    rank_sync(&rank);
    for (int i = 0; i < ROUNDS * TENSORS; i++)
        check_seen(seen[i / TENSORS][i % TENSORS]);
    CHECK(tsr_zero_memory_held(rank.zero).host_pool == TENSORS * (BYTES + 1));
    rank_close(&rank);
    chunks_free(&list);
}

/* What is waited for that never went, or is gone; NULL for what nobody wants.
 */
static void odd_orders(rank_context *context) {
    eager_rank rank;
    chunk_list list = {0};
    open_graphs(&rank, context, *(const rank_options *)context->argument);
    chunk *at = make_tensor(&list, rank.stream, 500, 1, false);
    void *input = at->memory, *back;
#define MISSING(call, text) CHECK_FAILS(call, TSR_NOT_FOUND, text)
    MISSING(
        tsr_zero_offload_tensor(rank.zero, 9, 7, input, 500, rank.stream, NULL),
        "graph 9");
    MISSING(tsr_zero_wait_offload(rank.zero, 1, 7, rank.stream),
            "graph 1 has not offloaded a tensor 7");
    MISSING(tsr_zero_reload_tensor(rank.zero, 1, 7, rank.stream, &back),
            "graph 1 has not offloaded a tensor 7");
    CHECK(!back);
    MISSING(tsr_zero_wait_reload(rank.zero, 9, 7, input, rank.stream, &back),
            "graph 9");
    CHECK_FAILS(
        tsr_zero_offload_tensor(rank.zero, 1, 7, NULL, 5, rank.stream, NULL),
        TSR_INVALID_ARGUMENT, "tensor 7 is NULL");
    CHECK_FAILS(
        tsr_zero_offload_tensor(rank.zero, 1, 7, input, 0, rank.stream, NULL),
        TSR_INVALID_ARGUMENT, "tensor 7 is 0 bytes long");
    CHECK(wait_reload(&rank, 1, 7, input) == input);
    offload(&rank, 1, 7, at);
    CHECK(wait_reload(&rank, 1, 7, input) == input);
    MISSING(tsr_zero_wait_offload(rank.zero, 2, 7, rank.stream),
            "graph 2"); /* the other graph's 7 is another */
    CHECK_OK(tsr_zero_reload_tensor(rank.zero, 1, 7, rank.stream, NULL));
    CHECK_OK(tsr_zero_wait_reload(rank.zero, 1, 7, input, rank.stream, NULL));
    back = wait_reload(&rank, 1, 7, input);
    CHECK(back != input);
    free_one(&rank, input); /* the caller's: left alone */
    free_one(&rank, NULL);
    CHECK_OK(tsr_zero_free_tensors(rank.zero, NULL, 0, rank.stream));
    tsr_zero_enable_profiling(rank.zero, true);
    free_one(&rank, back);
    check_host(&rank, 0, 500);
    tsr_zero_enable_profiling(rank.zero, false);
    chunk *seen = see(&list, rank.stream, back, 500, 1);
    CHECK_OK(tsr_zero_free_tensors(rank.zero, (void *[]){input, back, back}, 3,
                                   rank.stream));
    check_host(&rank, 0, 0);
    CHECK(wait_reload(&rank, 1, 7, input) == input);
    wait_offload(&rank, 1, 7);
    MISSING(tsr_zero_reload_tensor(rank.zero, 1, 7, rank.stream, NULL),
            "tensor 7 was reloaded and freed");
#undef MISSING
    rank_sync(&rank);
    check_seen(seen);
    rank_close(&rank);
    chunks_free(&list);
}

/* An id again, while its tensor is on the host, while it is back, and as the
 * very tensor that came back. */
static void replaced(rank_context *context) {
    eager_rank rank;
    chunk_list list = {0};
    open_graphs(&rank, context, *(const rank_options *)context->argument);
    chunk *seen[4];
    for (unsigned seed = 0; seed < 4; seed++) { /* same size, then another */
        chunk *at = make_tensor(&list, rank.stream, 900 + seed / 2, seed, true);
        offload(&rank, 1, 7, at);
        wait_offload(&rank, 1, 7);
        spoil(rank.stream, at);
    }
    check_host(&rank, 901, 0);
    void *first = reload(&rank, 1, 7);
    seen[0] = see(&list, rank.stream, wait_reload(&rank, 1, 7, NULL), 901, 3);
    CHECK_OK(tsr_zero_offload_tensor(rank.zero, 1, 7, first, 901, rank.stream,
                                     NULL));
    check_host(&rank, 901, 901);
    void *second = reload(&rank, 1, 7);
    CHECK(second != first);
    check_host(&rank, 0, 1802);
    wait_offload(&rank, 1, 7);
    free_one(&rank, first);
    check_host(&rank, 0, 901);
    seen[1] = see(&list, rank.stream, wait_reload(&rank, 1, 7, NULL), 901, 3);
    chunk *other = make_tensor(&list, rank.stream, 901, 8, true);
    offload(&rank, 1, 7, other); /* into the buffer just read from */
    check_host(&rank, 901, 901);
    seen[2] = see(&list, rank.stream, second, 901, 3);
    free_one(&rank, second);
    reload(&rank, 1, 7);
    seen[3] = see(&list, rank.stream, wait_reload(&rank, 1, 7, NULL), 901, 8);
    rank_sync(&rank);
    for (int i = 0; i < 4; i++)
        check_seen(seen[i]);
    rank_close(&rank); /* the last one is not freed */
    chunks_free(&list);
}

/* A graph ends while its tensors are on their way out, on the host, on their
 * way back, and being read; the other graph's stay. */
static void graphs_end(rank_context *context) {
    for (int how = 0; how < 3; how++) {
        eager_rank rank;
        chunk_list list = {0};
        open_graphs(&rank, context, *(const rank_options *)context->argument);
        chunk *other = make_tensor(&list, rank.stream, 700, 99, false);
        offload(&rank, 2, 1, other);
        chunk *at = make_tensor(&list, rank.stream, 700, 1, false);
        offload(&rank, 1, 1, at);
        reload(&rank, 1, 1);
        void *back = wait_reload(&rank, 1, 1, NULL);
        CHECK_OK(tsr_stream_enqueue(rank.stream, dawdle, NULL));
        chunk *seen = see(&list, rank.stream, back, 700, 1);
        chunk *out = make_tensor(&list, rank.stream, 800, 2, true);
        offload(&rank, 1, 2, out);
        offload(&rank, 1, 3, out);
        reload(&rank, 1, 3);
        check_host(&rank, 1500, 1500);
        if (how == 0)
            CHECK_OK(tsr_zero_register_graph(rank.zero, 1, NULL, 0));
        else if (how == 1)
            CHECK_OK(tsr_zero_reset(rank.zero, rank.stream));
        else
            tsr_zero_release(rank.zero);
        if (how == 0) {
            check_host(&rank, 700, 0);
            CHECK_FAILS(tsr_zero_wait_offload(rank.zero, 1, 2, rank.stream),
                        TSR_NOT_FOUND, "tensor 2");
            offload(&rank, 1, 2, out);
            reload(&rank, 2, 1);
            check_host(&rank, 800, 700);
        } else if (how == 1) {
            check_host(&rank, 0, 0);
        } else {
            CHECK(rank.heap.live == 0);
            rank.zero = NULL;
        }
        CHECK_OK(tsr_stream_synchronize(rank.stream));
        check_seen(seen);
        rank_close(&rank);
        chunks_free(&list);
    }
}

/* Two streams: what one holds up must not be overtaken by the other. */
static void two_streams(rank_context *context) {
    eager_rank rank;
    chunk_list list = {0};
    tsr_stream *other;
    void *back;
    open_graphs(&rank, context, *(const rank_options *)context->argument);
    CHECK_OK(
        tsr_stream_create(rank.device, TSR_STREAM_QUEUED, "other", 0, &other));
    chunk *one = make_tensor(&list, other, 900, 1, false);
    chunk *two = make_tensor(&list, other, 900, 2, false);
    CHECK_OK(tsr_zero_offload_tensor(rank.zero, 1, 1, one->memory, 900, other,
                                     NULL));
    CHECK_OK(tsr_stream_enqueue(rank.stream, dawdle, NULL));
    reload(&rank, 1, 1); /* after the dawdling; its buffer is free again */
    CHECK_OK(tsr_zero_offload_tensor(rank.zero, 1, 2, two->memory, 900, other,
                                     NULL));
    CHECK(tsr_zero_memory_held(rank.zero).host_pool == 0);
    CHECK_OK(tsr_zero_wait_reload(rank.zero, 1, 1, NULL, other, &back));
    CHECK_OK(tsr_stream_enqueue(other, dawdle, NULL));
    chunk *seen = see(&list, other, back, 900, 1);
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, NULL, 0)); /* frees it */
    check_host(&rank, 0, 0);
    rank_sync(&rank);
    CHECK_OK(tsr_stream_synchronize(other));
    check_seen(seen);
    tsr_zero_release(rank.zero);
    rank.zero = NULL;
    tsr_stream_release(other);
    rank_close(&rank);
    chunks_free(&list);
}

/* ---- the budget ---- */

static void no_budget(rank_context *context) {
    eager_rank rank;
    char bytes[8];
    rank_open(&rank, context, &kinds[0]);
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, NULL, 0));
    CHECK_FAILS(
        tsr_zero_offload_tensor(rank.zero, 1, 7, bytes, 8, rank.stream, NULL),
        TSR_OUT_OF_MEMORY,
        "8 bytes do not fit on the host: it holds 0 of its budget of "
        "0 (host_bytes)");
    rank_close(&rank);
}

static void budget(rank_context *context) {
    eager_rank rank;
    chunk_list list = {0};
    rank_options options = *(const rank_options *)context->argument;
    options.settings.host_bytes = 1000;
    open_graphs(&rank, context, options);
    chunk *at = make_tensor(&list, rank.stream, 1001, 1, false);
    tsr_stream *stream = rank.stream;
    offload(&rank, 1, 1, &(chunk){at->memory, 600, 0});
    CHECK_FAILS(
        tsr_zero_offload_tensor(rank.zero, 1, 2, at->memory, 401, stream, NULL),
        TSR_OUT_OF_MEMORY,
        "401 bytes do not fit on the host: it holds "
        "600 of its budget of 1000");
    CHECK_FAILS(tsr_zero_wait_offload(rank.zero, 1, 2, stream), TSR_NOT_FOUND,
                "tensor 2");
    CHECK_FAILS(tsr_zero_offload_tensor(rank.zero, 1, 1, at->memory, 1001,
                                        stream, NULL),
                TSR_OUT_OF_MEMORY, "it holds 0 of its budget of 1000");
    check_host(&rank, 600, 0); /* the earlier one is there */
    reload(&rank, 1, 1);
    chunk *seen =
        see(&list, stream, wait_reload(&rank, 1, 1, NULL), 600, at->seed);
    CHECK(tsr_zero_memory_held(rank.zero).host_pool == 600);
    offload(&rank, 1, 2, &(chunk){at->memory, 400, 0});
    CHECK(tsr_zero_memory_held(rank.zero).host_pool == 600); /* fits beside */
    offload(&rank, 1, 3, &(chunk){at->memory, 500, 0});      /* instead of it */
    CHECK(tsr_zero_memory_held(rank.zero).host_pool == 0);
    check_host(&rank, 900, 600);
    offload(&rank, 1, 3, &(chunk){at->memory, 501, 0}); /* replaces 500 */
    check_host(&rank, 901, 600);
    CHECK(tsr_zero_memory_held(rank.zero).host_pool == 0);
    rank_sync(&rank);
    check_seen(seen);
    rank_close(&rank);
    chunks_free(&list);
}

/* The host has no more pages, whatever the budget says. */
static void no_host_memory(rank_context *context) {
    eager_rank rank;
    char byte[1];
    rank_options options = kinds[0];
    options.settings.host_bytes = SIZE_MAX;
    open_graphs(&rank, context, options);
    CHECK_FAILS(tsr_zero_offload_tensor(rank.zero, 1, 1, byte, SIZE_MAX / 4,
                                        rank.stream, NULL),
                TSR_OUT_OF_MEMORY, "could not map");
    check_host(&rank, 0, 0);
    rank_close(&rank);
}

int main(void) {
    rank_body tensors[] = {there_and_back, many_in_flight, odd_orders, replaced,
                           graphs_end,     two_streams,    budget};
    for (int k = 0; k < KINDS; k++) {
        rank_options kind = kinds[k];
        for (size_t t = 0; t < sizeof tensors / sizeof *tensors; t++)
            run_threads(1, tensors[t], &kind);
    }
    run_threads(1, no_budget, NULL);
    run_threads(1, no_host_memory, NULL);
    return 0;
}
