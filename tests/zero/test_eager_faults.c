/* The eager front when a rank fails: at every call of its communicators, and in
 * a kernel. Each rank ends with a status, nobody hangs, nothing leaks. */
#include <stdatomic.h>

#include "base/status.h"
#include "zero/eager_faulty.h"

typedef struct fault_case {
    int stage, culprit;
    bool symmetric;
    faulty_kind kind;
    int n;
    atomic_bool reached;        /* out */
    tsr_status ends[RANKS_MAX]; /* out */
    char messages[RANKS_MAX][512];
} fault_case;

static tsr_status gathers(eager_rank *rank, const int64_t ids[2]) {
    tsr_view view;
    TSR_TRY(tsr_zero_prefetch_params_fused(
        rank->zero, ids, (tsr_dtype[]){TSR_BF16, TSR_F32}, 2, rank->stream));
    for (int p = 0; p < 2; p++) {
        TSR_TRY(tsr_zero_allgather_param(rank->zero, 1, ids[p], TSR_BF16,
                                         rank->stream, &view));
        TSR_TRY(tsr_zero_wait_allgather(rank->zero, 1, ids[p], rank->stream));
        TSR_TRY(tsr_zero_release_param(rank->zero, 1, ids[p], 1, rank->stream));
        TSR_TRY(tsr_zero_offload_parameter(rank->zero, ids[p], rank->stream));
        TSR_TRY(tsr_zero_reload_parameter(rank->zero, ids[p], rank->stream));
    }
    return TSR_OK;
}

static tsr_status step(eager_rank *rank, test_param *two) {
    int64_t ids[2] = {4, 5};
    void *back = NULL, *slot;
    for (int p = 0; p < 2; p++)
        TSR_TRY(
            tsr_zero_register_param(rank->zero, &two[p].desc, rank->stream));
    TSR_TRY(tsr_zero_register_graph(rank->zero, 1, ids, 2));
    if (rank->stage == 3)
        TSR_TRY(gathers(rank, ids));
    TSR_TRY(tsr_zero_offload_tensor(rank->zero, 1, 1, two[0].gradient, 60,
                                    rank->stream, NULL));
    for (int micro = 0; micro < 2; micro++) {
        TSR_TRY(tsr_zero_start_backward(rank->zero, micro == 1));
        for (int p = 0; p < 2; p++)
            TSR_TRY(tsr_zero_reduce_grad(rank->zero, 1, ids[p], two[p].gradient,
                                         rank->stream));
        TSR_TRY(tsr_zero_grad_slot(rank->zero, 1, 4, rank->stream, &slot));
        TSR_TRY(tsr_zero_reduce_grad(rank->zero, 1, 4, slot, rank->stream));
        TSR_TRY(tsr_zero_end_backward(rank->zero, rank->stream));
    }
    TSR_TRY(tsr_zero_reload_tensor(rank->zero, 1, 1, rank->stream, &back));
    TSR_TRY(tsr_zero_weights_changed(rank->zero, ids, 2, rank->stream));
    return TSR_OK;
}

static void fail_nth_call(rank_context *context) {
    fault_case *at = context->argument;
    bool culprit = context->rank == at->culprit;
    faulty_plan plan = {.kind = at->kind, .n = culprit ? at->n : 0};
    eager_rank rank;
    test_param two[2] = {param_of(4, 5, 3), param_of(5, 70, 3)};
    rank_open(&rank, context,
              &(rank_options){.settings = {.stage = at->stage,
                                           .bucket_bytes = 128,
                                           .host_bytes = 1 << 20,
                                           .symmetric_memory = at->symmetric,
                                           .double_buffer = true},
                              .kind = TSR_STREAM_QUEUED,
                              .delay_seed = (uint64_t)at->n,
                              .max_delay_us = 30,
                              .wrap = faulty_wrap,
                              .wrapping = &plan});
    two[0].desc.persistent = at->stage == 3;
    for (int p = 0; p < 2; p++)
        param_fill(&rank, &two[p]);
    tsr_status status = step(&rank, two);
    if (status == TSR_OK)
        status = tsr_zero_synchronize(rank.zero);
    at->ends[context->rank] = status;
    snprintf(at->messages[context->rank], sizeof at->messages[0], "%s",
             status == TSR_OK ? "" : tsr_last_error());
    if (culprit)
        atomic_store(&at->reached, plan.calls >= at->n);
    CHECK(tsr_stream_synchronize(rank.stream) == TSR_OK);
    tsr_view view; /* the group stays down */
    if (status != TSR_OK && at->stage == 3)
        CHECK_FAILS(tsr_zero_allgather_param(rank.zero, 1, 5, TSR_F16,
                                             rank.stream, &view),
                    TSR_UNAVAILABLE, "gave up");
    rank_close(&rank);
    param_release(&two[0]);
    param_release(&two[1]);
}

static void check_ends(const fault_case *at, int world) {
    char who[64];
    snprintf(who, sizeof who, "rank %d gave up", at->culprit);
    for (int r = 0; r < world; r++) {
        bool named = strstr(at->messages[r], who) &&
                     strstr(at->messages[r], FAULTY_TEXT);
        bool good = at->ends[r] == TSR_UNAVAILABLE && named;
        if (r == at->culprit) /* or it hears of its own abort first */
            good = good || (at->ends[r] == TSR_IO &&
                            strstr(at->messages[r], FAULTY_TEXT));
        CHECK_MESSAGE(good, "call %d, rank %d of %d (culprit %d): %s: %s",
                      at->n, r, world, at->culprit,
                      tsr_status_name(at->ends[r]), at->messages[r]);
    }
}

static int all_calls(int world, int stage, bool symmetric, faulty_kind kind) {
    for (int n = 1;; n++) {
        fault_case at = {.stage = stage,
                         .culprit = n % world,
                         .symmetric = symmetric,
                         .kind = kind,
                         .n = n};
        run_threads(world, fail_nth_call, &at);
        if (!atomic_load(&at.reached)) {
            for (int r = 0; r < world; r++)
                CHECK_MESSAGE(at.ends[r] == TSR_OK, "rank %d: %s", r,
                              at.messages[r]);
            return n - 1;
        }
        check_ends(&at, world);
    }
}

/* ---- a kernel ---- */

static tsr_status no_cast(const tsr_kernel_call *call) {
    (void)call;
    return tsr_fail(TSR_INVALID_DATA, "the test's cast breaks");
}

/* The gather behind it does not happen on this rank: nobody waits for it. */
static void cast_fails(rank_context *context) {
    static const tsr_kernel broken = {.op = "cast", .run = no_cast};
    bool culprit = context->rank == context->world - 1;
    eager_rank rank;
    test_param param = param_of(4, 5, 3);
    tsr_view view;
    rank_open(&rank, context, &(rank_options){.kind = TSR_STREAM_QUEUED});
    param_register(&rank, &param);
    CHECK_OK(tsr_zero_register_graph(rank.zero, 1, (int64_t[]){4}, 1));
    CHECK_OK(tsr_zero_seal(rank.zero, rank.stream));
    if (culprit)
        CHECK_OK(tsr_kernel_table_add(rank.kernels, &broken));
    tsr_status status =
        tsr_zero_allgather_param(rank.zero, 1, 4, TSR_F16, rank.stream, &view);
    if (status == TSR_OK)
        status = tsr_zero_synchronize(rank.zero);
    bool own = culprit && status == TSR_INVALID_DATA;
    CHECK_MESSAGE(own || status == TSR_UNAVAILABLE, "%s", /* of its abort */
                  tsr_last_error());
    CHECK(strstr(tsr_last_error(), "the test's cast breaks"));
    CHECK(own || strstr(tsr_last_error(), "gave up"));
    rank_close(&rank);
    param_release(&param);
}

int main(void) {
    int calls = 0;
    for (int world = 2; world <= 3; world++)
        for (int kind = FAULTY_CALL; kind <= FAULTY_STREAM; kind++) {
            calls += all_calls(world, 2, false, (faulty_kind)kind);
            calls += all_calls(world, 3, world == 3, (faulty_kind)kind);
        }
    printf("a rank failed at %d calls\n", calls);
    CHECK(calls > 40);
    run_threads(1, cast_fails, NULL);
    run_threads(3, cast_fails, NULL);
    return 0;
}
