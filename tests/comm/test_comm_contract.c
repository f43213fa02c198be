/* The contract over all kinds of host communicator; and the same bits from
 * threads and processes, read directly and through staging. */
#include "contract.h"

#include "comm/host.h"

static void solo_body(void) {
    contract_options options = {.shared = true};
    rank_context rank = {0, 1, true, NULL, &options};
    CHECK_OK(tsr_bootstrap_create_solo(&rank.bootstrap));
    contract_body(&rank);
    tsr_bootstrap_release(rank.bootstrap);
}

static void check_threads(int world, bool small) {
    contract_options direct = {.small = small},
                     shared = {.shared = true, .small = small},
                     staged = {.prepare = tsr_host_comm_stage_only,
                               .small = small},
                     delayed = {.delays = true, .small = true},
                     small_direct = {.small = true};
    run_threads(world, contract_body, &direct);
    run_threads(world, contract_body, &staged);
    same_digests(&direct, &staged, world);
    run_threads(world, contract_body, &shared);
    same_digests(&direct, &shared, world);
    if (world > 3) /* delays of 3000 calls */
        return;
    run_threads(world, contract_body, &delayed);
    run_threads(world, contract_body, &small_direct);
    same_digests(&delayed, &small_direct, world);
}

/* One rank cannot be read directly: all must stage. */
static void stage_rank_1(tsr_comm *comm) {
    if (tsr_comm_rank(comm) == 1)
        tsr_host_comm_stage_only(comm);
}

static void check_processes(int world, bool small) {
    contract_options *direct = shared_memory(sizeof *direct),
                     *staged = shared_memory(sizeof *staged),
                     *mixed = shared_memory(sizeof *mixed), threads = {0};
    *direct = (contract_options){.shared = true, .small = small};
    *staged = (contract_options){.small = small};
    *mixed = (contract_options){
        .shared = true, .small = small, .prepare = stage_rank_1};
    threads.small = small;
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
            check_processes(world, world == 3);
        CHECK(waitpid(-1, NULL, 0) < 0 && errno == ECHILD);
    }
    check_threads(1, true);
    check_threads(2, false);
    check_threads(3, true);
    check_threads(5, true);
    check_threads(8, true);
    CHECK(count_entries("/proc/self/fd") == folders);
    CHECK(count_entries("/dev/shm") == shared);
    return 0;
}
