/* Bootstraps over an exchange of the caller's: what it moves arrives, what it
 * says in failing is what the rank sees, and a communicator starts over it. */
#include "base/status.h"
#include "ranks.h"
#include "tessera/device.h"

enum { MOST = 5000 };

static tsr_status pass_on(void *context, const void *mine, size_t bytes,
                          void *all, int timeout_ms) {
    return tsr_bootstrap_exchange(context, mine, bytes, all, timeout_ms);
}

static tsr_status refuse(void *context, const void *mine, size_t bytes,
                         void *all, int timeout_ms) {
    (void)mine;
    (void)all;
    CHECK(*(int *)context == 77 && bytes == 4 && timeout_ms == 1234);
    return tsr_fail(TSR_UNAVAILABLE, "the store is gone");
}

static void body(rank_context *rank) {
    rank_context over = *rank;
    CHECK_OK(tsr_bootstrap_create_callback(rank->rank, rank->world, pass_on,
                                           rank->bootstrap, &over.bootstrap));
    CHECK(tsr_bootstrap_rank(over.bootstrap) == rank->rank);
    CHECK(tsr_bootstrap_world(over.bootstrap) == rank->world);
    check_exchanges(&over, MOST, 20);
    tsr_comm *comm = NULL;
    CHECK_OK(tsr_comm_create_host(
        over.bootstrap, &(tsr_comm_options){.timeout_ms = 20000}, &comm));
    tsr_comm_release(comm);
    tsr_bootstrap_release(over.bootstrap);
}

static void check_errors(void) {
    int seen = 77, all[2], mine = 1;
    tsr_bootstrap *bootstrap = NULL;
    CHECK_OK(tsr_bootstrap_create_callback(1, 2, refuse, &seen, &bootstrap));
    CHECK_FAILS(
        tsr_bootstrap_exchange(bootstrap, &mine, sizeof mine, all, 1234),
        TSR_UNAVAILABLE, "the store is gone");
    tsr_bootstrap_release(bootstrap);
    const int wrong[][2] = {{-1, 2}, {2, 2}, {0, 0}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK_FAILS(tsr_bootstrap_create_callback(wrong[i][0], wrong[i][1],
                                                  pass_on, NULL, &bootstrap),
                    TSR_INVALID_ARGUMENT, "bootstrap: rank");
    CHECK_FAILS(tsr_bootstrap_create_callback(0, 1, NULL, NULL, &bootstrap),
                TSR_INVALID_ARGUMENT, "no exchange");
}

int main(void) {
    alarm(RANKS_ALARM);
    check_errors();
    for (int world = 1; world <= 3; world++)
        run_processes(world, body, NULL);
    return 0;
}
