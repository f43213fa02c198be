/* A rank is killed in the middle of collectives: all others say so, naming it,
 * within seconds, and nothing is left behind. */
#include <signal.h>

#include "base/status.h"
#include "ranks.h"

#define COUNT ((size_t)200003)
#define DEADLINE_NS ((int64_t)5 * 1000000000)

typedef struct death_plan {
    int victim;
    bool shared, split;
    _Atomic int looping;
} death_plan;

static char *allocate(const death_plan *death, tsr_comm *comm, size_t bytes) {
    void *memory;
    if (!death->shared)
        CHECK((memory = malloc(bytes)) != NULL);
    else
        CHECK_OK(tsr_comm_shared_alloc(
            comm, bytes * (size_t)tsr_comm_world(comm), &memory));
    return (char *)memory +
           (death->shared ? bytes * (size_t)tsr_comm_rank(comm) : 0);
}

/* Until something fails. */
static tsr_status loop(tsr_comm *comm, tsr_stream *stream, char *memory,
                       size_t world, _Atomic int *looping) {
    float *shard = (float *)(void *)memory, *full = shard + COUNT;
    tsr_gather gather = {shard, full, COUNT, TSR_F32};
    tsr_reduce reduce = {full,    shard, COUNT, COUNT * world, TSR_F32,
                         TSR_F32, 1e-3f, 0,     NULL};
    for (int i = 0;; i++) {
        TSR_TRY(tsr_comm_gather(comm, &gather, 1, stream));
        TSR_TRY(tsr_comm_reduce_scatter(comm, &reduce, 1, stream));
        TSR_TRY(tsr_comm_all_reduce(comm, full, COUNT, TSR_F32, stream));
        TSR_TRY(tsr_comm_broadcast(comm, full, COUNT, TSR_F32, 0, stream));
        TSR_TRY(tsr_comm_barrier(comm, stream));
        TSR_TRY(tsr_stream_synchronize(stream));
        if (i == 2)
            atomic_fetch_add(looping, 1);
    }
}

static void death_body(rank_context *rank) {
    death_plan *death = rank->argument;
    tsr_device *device;
    tsr_stream *stream;
    tsr_comm *comm, *second = NULL;
    int culprit, descriptors = count_entries("/proc/self/fd"), threads;
    char text[32];
    size_t bytes = (COUNT + COUNT * (size_t)rank->world) * sizeof(float);
    CHECK_OK(tsr_device_create_cpu(NULL, &device));
    CHECK_OK(tsr_stream_create(device, TSR_STREAM_QUEUED, "comm", 0, &stream));
    threads = count_entries("/proc/self/task");
    CHECK_OK(tsr_comm_create_host(rank->bootstrap, NULL, &comm));
    if (death->split)
        CHECK_OK(tsr_comm_split(comm, &second));
    char *memory = allocate(death, comm, bytes);
    tsr_comm *used = second ? second : comm;

    tsr_status status =
        loop(used, stream, memory, (size_t)rank->world, &death->looping);
    CHECK_MESSAGE(status == TSR_UNAVAILABLE, "%s: %s", tsr_status_name(status),
                  tsr_last_error());
    snprintf(text, sizeof text, "rank %d died", death->victim);
    CHECK_MESSAGE(strstr(tsr_last_error(), text), "%s", tsr_last_error());
    CHECK_FAILS(tsr_comm_barrier(comm, stream), TSR_UNAVAILABLE, text);
    CHECK_FAILS(tsr_comm_poll(used, &culprit), TSR_UNAVAILABLE, text);
    CHECK(culprit == death->victim);

    tsr_comm_release(second);
    tsr_comm_release(comm);
    while (count_entries("/proc/self/task") > threads)
        sleep_ms(1); /* a joined thread leaves the table a little later */
    tsr_stream_release(stream);
    tsr_device_release(device);
    if (!death->shared)
        free(memory);
    CHECK(count_entries("/proc/self/fd") == descriptors);
}

static void check_death(int world, int victim, int wait_ms, bool shared,
                        bool split) {
    pid_t pids[RANKS_MAX];
    death_plan *death = shared_memory(sizeof *death);
    *death = (death_plan){.victim = victim, .shared = shared, .split = split};
    start_processes(world, death_body, death, pids);
    while (atomic_load(&death->looping) < world)
        sleep_ms(1);
    sleep_ms(wait_ms);
    int64_t start = tsr_os_now_ns();
    kill(pids[victim], SIGKILL);
    join_processes(world, pids, victim);
    CHECK_MESSAGE(tsr_os_now_ns() - start < DEADLINE_NS, "took %.1f s",
                  (double)(tsr_os_now_ns() - start) / 1e9);
}

int main(void) {
    int files = count_entries("/dev/shm");
    alarm(280);
    for (int round = 0; round < 4; round++)
        for (int world = 2; world <= 4; world++)
            for (int victim = 0; victim < world; victim++)
                check_death(world, victim, round * 3, (round & 1) != 0,
                            (round & 2) != 0);
    CHECK(waitpid(-1, NULL, 0) < 0 && errno == ECHILD);
    CHECK(count_entries("/dev/shm") == files);
    return 0;
}
