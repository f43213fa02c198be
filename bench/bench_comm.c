/* Speed of the host communicator between forked ranks.
 *
 *   bench_comm [RANKS]        default: 2
 *
 * GB/s are bytes of the full vector over the median time of a call on rank 0,
 * all ranks calling at once. Sources lie in the shared memory, results in each
 * rank's own. `copy` is the limit: every rank copies the full vector with
 * memcpy, without talking to anybody. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/status.h"
#include "tessera/tessera.h"

#define RUNS 21
#define MOST_RANKS 64
#define MOST_BYTES ((size_t)64 << 20)

typedef struct bench {
    int rank, world;
    tsr_device *device;
    tsr_stream *stream; /* inline: a call returns when it is done */
    tsr_comm *comm;
    char *shards; /* (MOST_BYTES) shared; rank r's at r / world */
    char *full;   /* (MOST_BYTES) shared; this rank's part */
    void *result; /* (MOST_BYTES) of this rank */
    size_t bytes; /* of the full vector */
} bench;

typedef tsr_status (*measured)(bench *self);

/* ---- what is measured ---- */

static size_t shard_count(const bench *self) {
    return self->bytes / sizeof(float) / (size_t)self->world;
}

static tsr_status copy(bench *self) {
    memcpy(self->result, self->full, self->bytes);
    return TSR_OK;
}

static tsr_status gather(bench *self) {
    size_t count = shard_count(self);
    size_t offset = (size_t)self->rank * count * sizeof(float);
    tsr_gather call = {.shard = self->shards + offset,
                       .full = self->result,
                       .count = count,
                       .dtype = TSR_F32};
    return tsr_comm_gather(self->comm, &call, 1, self->stream);
}

static tsr_status reduce(bench *self) {
    size_t count = shard_count(self);
    tsr_reduce call = {.full = self->full,
                       .shard = self->result,
                       .count = count,
                       .valid = count * (size_t)self->world,
                       .wire_dtype = TSR_F32,
                       .out_dtype = TSR_F32,
                       .scale = 1};
    return tsr_comm_reduce_scatter(self->comm, &call, 1, self->stream);
}

static tsr_status all_reduce(bench *self) {
    return tsr_comm_all_reduce(self->comm, self->result,
                               self->bytes / sizeof(float), TSR_F32,
                               self->stream);
}

static tsr_status barrier(bench *self) {
    return tsr_comm_barrier(self->comm, self->stream);
}

/* ---- measuring ---- */

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static int by_value(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

static tsr_status measure(bench *self, measured call, double *out_seconds) {
    double seconds[RUNS];
    for (int i = -1; i < RUNS; i++) { /* the first one warms up */
        TSR_TRY(tsr_comm_barrier(self->comm, self->stream));
        double begin = now();
        TSR_TRY(call(self));
        if (i >= 0)
            seconds[i] = now() - begin;
    }
    qsort(seconds, RUNS, sizeof *seconds, by_value);
    *out_seconds = seconds[RUNS / 2];
    return TSR_OK;
}

static const struct {
    const char *name;
    measured call;
} columns[] = {{"copy", copy},
               {"gather", gather},
               {"reduce_scatter", reduce},
               {"all_reduce", all_reduce}};
#define COLUMNS (sizeof columns / sizeof *columns)

static tsr_status print_row(bench *self) {
    double seconds[COLUMNS];
    for (size_t c = 0; c < COLUMNS; c++)
        TSR_TRY(measure(self, columns[c].call, &seconds[c]));
    if (self->rank != 0)
        return TSR_OK;
    printf("%8.3f MiB", (double)self->bytes / (1 << 20));
    for (size_t c = 0; c < COLUMNS; c++)
        printf("%16.1f", 1e-9 * (double)self->bytes / seconds[c]);
    for (size_t c = 1; c < COLUMNS; c++)
        printf("%10.1f", 1e6 * seconds[c]);
    printf("\n");
    return TSR_OK;
}

static tsr_status run(bench *self) {
    static const size_t sizes[] = {(size_t)4 << 10, (size_t)1 << 20,
                                   (size_t)16 << 20, MOST_BYTES};
    double seconds;
    TSR_TRY(measure(self, barrier, &seconds));
    if (self->rank == 0) {
        printf("%d ranks; barrier %.1f us\n\n%12s", self->world, 1e6 * seconds,
               "GB/s");
        for (size_t c = 0; c < COLUMNS; c++)
            printf("%16s", columns[c].name);
        printf("%10s%10s%10s us\n", "gather", "reduce", "all");
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        self->bytes = sizes[i];
        TSR_TRY(print_row(self));
    }
    return TSR_OK;
}

/* ---- ranks ---- */

static tsr_status create(bench *self, tsr_bootstrap *bootstrap) {
    size_t shared = MOST_BYTES * ((size_t)self->world + 1);
    void *memory;
    TSR_TRY(tsr_device_create_cpu(NULL, &self->device));
    TSR_TRY(tsr_stream_create(self->device, TSR_STREAM_INLINE, "bench", 0,
                              &self->stream));
    TSR_TRY(tsr_comm_create_host(bootstrap, NULL, &self->comm));
    TSR_TRY(tsr_comm_shared_alloc(self->comm, shared, &memory));
    TSR_TRY(tsr_device_alloc(self->device, MOST_BYTES, &self->result));
    self->shards = memory;
    self->full = self->shards + MOST_BYTES * ((size_t)self->rank + 1);
    memset(self->full, 0,
           MOST_BYTES); /* first touch, by the rank that uses it */
    return TSR_OK;
}

static tsr_status run_rank(tsr_fork_group *group, int rank) {
    tsr_bootstrap *bootstrap = NULL;
    bench self = {.rank = rank};
    tsr_status status;
    TSR_TRY_GOTO(tsr_bootstrap_create_forked(group, rank, &bootstrap));
    self.world = tsr_bootstrap_world(bootstrap);
    TSR_TRY_GOTO(create(&self, bootstrap));
    TSR_TRY_GOTO(run(&self));
done:
    if (status != TSR_OK)
        fprintf(stderr, "rank %d: %s: %s\n", rank, tsr_status_name(status),
                tsr_last_error());
    if (self.device)
        tsr_device_free(self.device, self.result, MOST_BYTES);
    tsr_comm_release(self.comm);
    tsr_stream_release(self.stream);
    tsr_device_release(self.device);
    tsr_bootstrap_release(bootstrap);
    return status;
}

int main(int argc, char **argv) {
    tsr_fork_group *group;
    long world = argc > 1 ? strtol(argv[1], NULL, 10) : 2;
    int failed = 0, wait_status;
    if (argc > 2 || world < 1 || world > MOST_RANKS) {
        fprintf(stderr, "usage: bench_comm [1-%d]\n", MOST_RANKS);
        return 2;
    }
    if (tsr_fork_group_create((int)world, &group) != TSR_OK) {
        fprintf(stderr, "%s\n", tsr_last_error());
        return 1;
    }
    for (int r = 0; r < world; r++) {
        pid_t pid = fork();
        if (pid == 0)
            return run_rank(group, r) == TSR_OK ? 0 : 1;
        failed |= pid < 0; /* the others notice that one is missing */
    }
    tsr_fork_group_release(group);
    while (wait(&wait_status) > 0)
        failed |= wait_status != 0;
    return failed;
}
