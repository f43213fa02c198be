/* The contract over all kinds of host communicator; and the same bits from
 * threads and processes, read directly and through staging. */
#include "contract.h"

#include "comm/host.h"

static void solo_body(void) {
    contract_options options = {.shared = true, .extent = CONTRACT_ONCE};
    rank_context rank = {0, 1, true, NULL, &options};
    CHECK_OK(tsr_bootstrap_create_solo(&rank.bootstrap));
    contract_body(&rank);
    tsr_bootstrap_release(rank.bootstrap);
}

static void stage_without_cache(tsr_comm *comm) {
    tsr_host_comm_stage_only(comm);
    tsr_host_comm_no_cache(comm);
}

static void check_threads(int world, contract_extent extent) {
    contract_options direct = {.extent = extent},
                     shared = {.shared = true, .extent = extent},
                     staged = {.prepare = tsr_host_comm_stage_only,
                               .extent = extent},
                     delayed = {.delays = true}, calm = {.delays = false};
    run_threads(world, contract_body, &direct);
    run_threads(world, contract_body, &staged);
    same_digests(&direct, &staged, world);
    run_threads(world, contract_body, &shared);
    same_digests(&direct, &shared, world);
    run_threads(world, contract_body, &delayed);
    run_threads(world, contract_body, &calm);
    same_digests(&delayed, &calm, world);
}

/* Whether results go past the caches does not change them. */
static void check_past_caches(int world) {
    contract_options cached = {.extent = CONTRACT_ONCE},
                     past = {.prepare = tsr_host_comm_no_cache,
                             .extent = CONTRACT_ONCE},
                     staged = {.prepare = stage_without_cache,
                               .extent = CONTRACT_ONCE};
    run_threads(world, contract_body, &cached);
    run_threads(world, contract_body, &past);
    same_digests(&cached, &past, world);
    run_threads(world, contract_body, &staged);
    same_digests(&cached, &staged, world);
}

/* One rank cannot be read directly: all must stage. */
static void stage_rank_1(tsr_comm *comm) {
    if (tsr_comm_rank(comm) == 1)
        tsr_host_comm_stage_only(comm);
}

static void check_processes(int world, contract_extent extent) {
    contract_options *direct = shared_memory(sizeof *direct),
                     *staged = shared_memory(sizeof *staged),
                     *mixed = shared_memory(sizeof *mixed), threads = {0};
    *direct = (contract_options){.shared = true, .extent = extent};
    *staged = (contract_options){.extent = extent};
    *mixed = (contract_options){
        .shared = true, .extent = extent, .prepare = stage_rank_1};
    threads.extent = extent;
    run_processes(world, contract_body, direct);
    run_processes(world, contract_body, staged);
    same_digests(direct, staged, world);
    run_processes(world, contract_body, mixed);
    same_digests(direct, mixed, world);
    run_threads(world, contract_body, &threads);
    same_digests(direct, &threads, world);
}

/* An argument leaves out the processes, which thread sanitizers cannot follow.
 */
int main(int argc, char **argv) {
    int folders = count_entries("/proc/self/fd"),
        shared = count_entries("/dev/shm");
    (void)argv;
    alarm(280);
    solo_body();
    if (argc < 2) {
        for (int world = 2; world <= 4; world++)
            check_processes(world, world == 2 ? CONTRACT_FULL : CONTRACT_ONCE);
        CHECK(waitpid(-1, NULL, 0) < 0 && errno == ECHILD);
    }
    check_threads(1, CONTRACT_ONCE);
    check_threads(2, CONTRACT_ONCE);
    check_threads(3, CONTRACT_ONCE);
    check_threads(5, CONTRACT_ONCE);
    check_threads(8, CONTRACT_ONCE);
    check_past_caches(2);
    check_past_caches(3);
    CHECK(count_entries("/proc/self/fd") == folders);
    CHECK(count_entries("/dev/shm") == shared);
    return 0;
}
