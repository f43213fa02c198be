/* Ranks that disagree, give up, leave, lag, run out of memory, or lose a call:
 * every rank gets a status with a reason, soon. Over threads and processes. */
#include "base/memory.h"
#include "station.h"

static void open_station(rank_context *rank, int timeout_ms, station *out) {
    station_open(rank, tsr_comm_create_host, timeout_ms, out);
}

static void mismatch_body(rank_context *rank) {
    check_mismatches(rank, tsr_comm_create_host);
}

/* ---- giving up, leaving, lagging ---- */

static void abort_body(rank_context *rank) {
    check_abort(rank, tsr_comm_create_host);
}

/* Threads: all shards lie in rank 0's gathered copy, so rank 0 has nothing to
 * copy and waits while the others read. Then rank 2 gives up. By the time that
 * rank 0's call has failed, nobody may read its memory, which it frees. */
static void abort_reading_body(rank_context *rank) {
    enum { COUNT = 4000000 };
    station at;
    float *all[RANKS_MAX], *own = calloc(COUNT * (size_t)rank->world, 4);
    CHECK_OK(
        tsr_bootstrap_exchange(rank->bootstrap, &own, sizeof own, all, 20000));
    tsr_gather gather = {all[0] + (size_t)rank->rank * COUNT, own, COUNT,
                         TSR_F32};
    open_station(rank, 20000, &at);
    tsr_status status = tsr_comm_gather(at.comm, &gather, 1, at.stream);
    if (rank->rank == 2) {
        sleep_ms(3);
        tsr_comm_abort(at.comm, "enough");
    }
    if (status == TSR_OK)
        status = tsr_stream_synchronize(at.stream);
    CHECK(status == TSR_OK || status == TSR_UNAVAILABLE);
    free(own);
    CHECK_FAILS(barrier(&at), TSR_UNAVAILABLE, "rank 2 gave up: enough");
    close_station(&at);
}

static void leave_body(rank_context *rank) {
    for (int leaver = 0; leaver < rank->world; leaver++) {
        station at;
        int culprit;
        char text[64];
        open_station(rank, 20000, &at);
        CHECK_OK(barrier(&at));
        if (rank->rank != leaver) {
            snprintf(text, sizeof text, "rank %d has released", leaver);
            CHECK_FAILS(barrier(&at), TSR_UNAVAILABLE, text);
            CHECK(tsr_comm_poll(at.comm, &culprit) == TSR_UNAVAILABLE);
            CHECK(culprit == leaver);
        }
        close_station(&at);
    }
}

/* Leaving after the last call disturbs nobody. */
static void last_body(rank_context *rank) {
    for (int round = 0; round < 20; round++) {
        station at;
        open_station(rank, 20000, &at);
        CHECK_OK(barrier(&at));
        if (rank->rank != round % rank->world) {
            sleep_ms(2);
            CHECK_OK(tsr_comm_poll(at.comm, NULL));
        }
        close_station(&at);
    }
}

static void late_body(rank_context *rank) {
    station at;
    int culprit;
    float shard = 1, full[RANKS_MAX];
    tsr_gather gather = {&shard, full, 1, TSR_F32};
    open_station(rank, 1000, &at);
    CHECK_OK(tsr_comm_gather(at.comm, &gather, 1, at.stream));
    CHECK_OK(tsr_stream_synchronize(at.stream));
    if (rank->rank == 2)
        sleep_ms(2500);
    CHECK_FAILS(barrier(&at), TSR_UNAVAILABLE,
                "rank 2 has not joined barrier #2 for 1.0 s (its last call was "
                "gather #1)");
    CHECK(tsr_comm_poll(at.comm, &culprit) == TSR_UNAVAILABLE);
    CHECK(culprit == 2);
    close_station(&at);
}

/* ---- a call that its stream dropped ---- */

static tsr_status failing_task(void *context) {
    (void)context;
    return tsr_error(TSR_IO, "on purpose");
}

static void dropped_body(rank_context *rank) {
    station at;
    int culprit;
    open_station(rank, 20000, &at);
    CHECK_OK(barrier(&at));
    if (rank->rank == 1) {
        CHECK_OK(tsr_stream_enqueue(at.stream, failing_task, NULL));
        CHECK_OK(tsr_comm_barrier(at.comm, at.stream));
        CHECK_FAILS(tsr_stream_synchronize(at.stream), TSR_IO, "on purpose");
    }
    CHECK_FAILS(barrier(&at), TSR_FAILED_PRECONDITION, "rank 1 runs call #3");
    CHECK(tsr_comm_poll(at.comm, &culprit) == TSR_FAILED_PRECONDITION);
    CHECK(culprit == 1);
    close_station(&at);
}

/* ---- memory ---- */

static void out_of_memory_body(rank_context *rank) {
    station at;
    void *memory = &at;
    open_station(rank, 20000, &at);
    CHECK_FAILS(tsr_comm_shared_alloc(at.comm, (size_t)1 << 46, &memory),
                TSR_OUT_OF_MEMORY, "available");
    CHECK(memory == NULL);
    CHECK_OK(barrier(&at)); /* nothing stuck */
    CHECK_OK(tsr_comm_shared_alloc(at.comm, 4096, &memory));
    ((char *)memory)[rank->rank] = 1;
    CHECK_OK(barrier(&at));
    for (int r = 0; r < rank->world; r++)
        CHECK(((char *)memory)[r] == 1);
    for (int i = 0; i < 40; i++) { /* blocks are reused */
        tsr_comm *second;
        CHECK_OK(tsr_comm_split(at.comm, &second));
        CHECK_OK(tsr_comm_barrier(second, at.stream));
        CHECK_OK(tsr_stream_synchronize(at.stream));
        tsr_comm_release(second);
        CHECK_OK(barrier(&at));
    }
    close_station(&at);
}

/* Everything that allocates; a failure on one rank is everybody's, and after a
 * failed split the communicator still works. */
static void allocating_body(rank_context *rank) {
    tsr_comm *comm, *second;
    void *memory;
    tsr_stream *stream = ((tsr_stream **)rank->argument)[rank->rank];
    tsr_status status = tsr_comm_create_host(rank->bootstrap, NULL, &comm);
    if (status != TSR_OK) {
        CHECK_MESSAGE(status == TSR_OUT_OF_MEMORY && comm == NULL, "%s",
                      tsr_last_error());
        return;
    }
    status = tsr_comm_split(comm, &second);
    CHECK_MESSAGE(status == TSR_OK || status == TSR_OUT_OF_MEMORY, "%s",
                  tsr_last_error());
    CHECK((status == TSR_OK) == (second != NULL));
    CHECK_OK(tsr_comm_shared_alloc(comm, 8192, &memory));
    CHECK_OK(tsr_comm_barrier(comm, stream));
    CHECK_OK(tsr_stream_synchronize(stream));
    tsr_comm_release(second);
    tsr_comm_release(comm);
}

static void check_allocations(void) {
    enum { WORLD = 3 };
    tsr_device *device;
    tsr_stream *streams[WORLD];
    CHECK_OK(tsr_device_create_cpu(NULL, &device));
    for (int r = 0; r < WORLD; r++)
        CHECK_OK(tsr_stream_create(device, TSR_STREAM_QUEUED, "rank", 0,
                                   &streams[r]));
    tsr_alloc_fail_at(1000000);
    run_threads(WORLD, allocating_body, streams);
    long calls = tsr_alloc_fail_at(0);
    CHECK_MESSAGE(calls >= 4 + 4 * WORLD, "%ld allocations", calls);
    for (long n = 1; n <= 1 + WORLD; n++) {
        tsr_bootstrap *bootstraps[WORLD];
        tsr_alloc_fail_at(n);
        CHECK_FAILS(tsr_bootstrap_create_threads(WORLD, bootstraps),
                    TSR_OUT_OF_MEMORY, "could not allocate");
        CHECK(!bootstraps[0] && !bootstraps[WORLD - 1]);
    }
    for (long n = 2 + WORLD; n <= calls; n++) {
        tsr_alloc_fail_at(n);
        run_threads(WORLD, allocating_body, streams);
    }
    tsr_alloc_fail_at(0);
    for (int r = 0; r < WORLD; r++)
        tsr_stream_release(streams[r]);
    tsr_device_release(device);
}

/* Processes: the n-th of one rank's own allocations. */
static void process_allocations_body(rank_context *rank) {
    const long *n = rank->argument;
    tsr_device *device;
    tsr_stream *streams[RANKS_MAX];
    CHECK_OK(tsr_device_create_cpu(NULL, &device));
    CHECK_OK(tsr_stream_create(device, TSR_STREAM_QUEUED, "rank", 0,
                               &streams[rank->rank]));
    rank->argument = streams;
    if (rank->rank == (int)(*n % 3))
        tsr_alloc_fail_at(*n / 3 + 1);
    allocating_body(rank);
    tsr_alloc_fail_at(0);
    tsr_stream_release(streams[rank->rank]);
    tsr_device_release(device);
}

/* An argument leaves out the processes. */
int main(int argc, char **argv) {
    static const rank_body bodies[] = {
        mismatch_body, abort_body,   leave_body,        last_body,
        late_body,     dropped_body, out_of_memory_body};
    int descriptors = count_entries("/proc/self/fd");
    (void)argv;
    alarm(280);
    for (size_t i = 0; argc < 2 && i < sizeof bodies / sizeof *bodies; i++)
        run_processes(3, bodies[i], NULL);
    for (long n = 0; argc < 2 && n < 3 * 6; n++)
        run_processes(3, process_allocations_body, &n);
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        run_threads(3, bodies[i], NULL);
    for (int i = 0; i < 5; i++)
        run_threads(3, abort_reading_body, NULL);
    check_allocations();
    CHECK(count_entries("/proc/self/fd") == descriptors);
    return 0;
}
