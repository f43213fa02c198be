/* Bootstraps: exchanges of all sizes, and what happens when a rank is missing,
 * late, dead, or brings something else. */
#include <signal.h>

#include "ranks.h"

enum { LARGE = 300000 }; /* more than a socket buffer holds */

static void exchange_body(rank_context *rank) {
    CHECK(tsr_bootstrap_rank(rank->bootstrap) == rank->rank);
    CHECK(tsr_bootstrap_world(rank->bootstrap) == rank->world);
    check_exchanges(rank, LARGE, 50);
}

/* Which rank misbehaves, and how the others must learn of it. */
typedef struct bad_rank {
    int victim;
    bool killed;
    char text[64];
} bad_rank;

static tsr_status exchange_int(rank_context *rank, int timeout_ms) {
    int all[RANKS_MAX];
    return tsr_bootstrap_exchange(rank->bootstrap, &rank->rank, sizeof(int),
                                  all, timeout_ms);
}

static void missing_body(rank_context *rank) {
    const bad_rank *fault = rank->argument;
    CHECK_OK(exchange_int(rank, 20000));
    if (rank->rank == fault->victim) {
        if (fault->killed)
            raise(SIGKILL);
        return; /* releases its bootstrap */
    }
    int64_t start = tsr_os_now_ns();
    CHECK_FAILS(exchange_int(rank, 20000), TSR_UNAVAILABLE, fault->text);
    CHECK_FAILS(exchange_int(rank, 20000), TSR_UNAVAILABLE, fault->text);
    CHECK(tsr_os_now_ns() - start < (int64_t)5000000000);
}

static void late_body(rank_context *rank) {
    const bad_rank *fault = rank->argument;
    if (rank->rank == fault->victim) {
        sleep_ms(1700);
        CHECK(exchange_int(rank, 20000) == TSR_UNAVAILABLE);
        return;
    }
    CHECK_FAILS(exchange_int(rank, rank->rank == 0 ? 700 : 20000),
                TSR_UNAVAILABLE, fault->text);
}

static void mismatch_body(rank_context *rank) {
    char mine[8] = {0}, all[8 * RANKS_MAX];
    CHECK_FAILS(tsr_bootstrap_exchange(rank->bootstrap, mine,
                                       rank->rank == 1 ? 5 : 8, all, 20000),
                TSR_FAILED_PRECONDITION, "rank 0 brings 8 bytes, rank 1 5");
}

static void check_missing(int world) {
    for (int victim = 0; victim < world; victim++) {
        bad_rank *fault = shared_memory(sizeof *fault);
        fault->victim = victim;
        snprintf(fault->text, sizeof fault->text, "rank %d is gone", victim);
        run_threads(world, missing_body, fault);
        run_processes(world, missing_body, fault);
        fault->killed = true;
        pid_t pids[RANKS_MAX];
        start_processes(world, missing_body, fault, pids);
        join_processes(world, pids, victim);
    }
}

int main(void) {
    alarm(RANKS_ALARM);
    tsr_bootstrap *solo;
    CHECK_OK(tsr_bootstrap_create_solo(&solo));
    rank_context alone = {0, 1, true, solo, NULL};
    exchange_body(&alone);
    tsr_bootstrap_release(solo);
    tsr_bootstrap_release(NULL);
    tsr_fork_group_release(NULL);
    for (int world = 1; world <= 5; world++) {
        run_threads(world, exchange_body, NULL);
        run_processes(world, exchange_body, NULL);
    }
    check_missing(2);
    check_missing(4);
    bad_rank late = {.victim = 2, .text = "rank 2 "};
    run_threads(3, late_body, &late);
    run_processes(3, late_body, &late);
    run_threads(3, mismatch_body, NULL);
    run_processes(3, mismatch_body, NULL);
    return 0;
}
