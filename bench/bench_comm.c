/* Speed of the host communicator, with ranks as processes and as threads, each
 * on a processor of its own, against the fastest copy of the same bytes.
 *
 *   bench_comm [RANKS [MIB]]      default: 2 ranks, vectors up to 256 MiB
 *
 * N is the bytes of the full vector. The limit: each rank copies N bytes,
 * beside the others but without talking to them, and so moves 2 N (a copy reads
 * and writes each byte). What a collective must at least move, at that speed:
 *
 *   gather          reads N (every shard), writes N: the time of a copy of the
 *                   shards
 *   reduce_scatter  reads N (its slice of every rank), writes N / RANKS:
 *                   (1 + 1 / RANKS) / 2 of the time of a copy of its full
 * vector
 *
 * by the best of copies.h. Results are private to each rank. Sources lie in the
 * shared memory; those of `staged` columns are private, too, and go through
 * slots (threads see each other's memory and never stage).
 *
 * Collectives and copies alternate; a run lasts from a common barrier to the
 * last rank's return; figures are medians. `others`: the share of all
 * processors that other programs had meanwhile. */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/os.h"
#include "base/status.h"
#include "copies.h"
#include "tessera/tessera.h"

#define MOST_RANKS 64
#define ROUNDS 5
#define MOST_RUNS 200                    /* of a subject, all rounds together */
#define MEASURED_BYTES ((size_t)3 << 30) /* copied by a subject at most */

typedef struct bench {
    int rank, world;
    bool threads;
    size_t most;  /* bytes of the largest vector */
    size_t bytes; /* N */
    tsr_device *device;
    tsr_stream *stream; /* inline: a call returns when it is done */
    tsr_comm *comm;
    char *shards;  /* (most) shared; rank r's at r / world */
    char *full;    /* (most) shared; this rank's part */
    char *private; /* (most) this rank's: sources of staged calls */
    char *result;  /* (most) this rank's */
    double *times; /* (world, SUBJECTS, MOST_RUNS) shared; seconds */
    double *burnt; /* (world) shared; processor seconds */
} bench;

/* ---- what is measured ---- */

typedef tsr_status (*collective)(bench *self);

static size_t shard_bytes(const bench *self) {
    return self->bytes / (size_t)self->world;
}

static tsr_status run_gather(bench *self, const char *shard) {
    tsr_gather call = {.shard = shard,
                       .full = self->result,
                       .count = shard_bytes(self) / sizeof(float),
                       .dtype = TSR_F32};
    return tsr_comm_gather(self->comm, &call, 1, self->stream);
}

static tsr_status gather(bench *self) {
    return run_gather(self,
                      self->shards + (size_t)self->rank * shard_bytes(self));
}

static tsr_status gather_staged(bench *self) {
    return run_gather(self, self->private);
}

static tsr_status run_reduce(bench *self, const char *full, float *squares) {
    size_t count = shard_bytes(self) / sizeof(float);
    tsr_reduce call = {.full = full,
                       .shard = self->result,
                       .count = count,
                       .valid = count * (size_t)self->world,
                       .wire_dtype = TSR_F32,
                       .out_dtype = TSR_F32,
                       .scale = 1,
                       .square_sum = squares};
    return tsr_comm_reduce_scatter(self->comm, &call, 1, self->stream);
}

static tsr_status reduce(bench *self) {
    return run_reduce(self, self->full, NULL);
}

static tsr_status reduce_squares(bench *self) {
    float squares;
    return run_reduce(self, self->full, &squares);
}

static tsr_status reduce_staged(bench *self) {
    return run_reduce(self, self->private, NULL);
}

static tsr_status all_reduce(bench *self) {
    return tsr_comm_all_reduce(self->comm, self->result,
                               self->bytes / sizeof(float), TSR_F32,
                               self->stream);
}

static tsr_status barrier(bench *self) {
    return tsr_comm_barrier(self->comm, self->stream);
}

typedef enum limit { LIMIT_GATHER, LIMIT_REDUCE, LIMITS, NO_LIMIT } limit;

static const struct {
    const char *name;
    collective call;
    limit limit;
    bool staged;
} columns[] = {
    {"gather", gather, LIMIT_GATHER, false},
    {"reduce", reduce, LIMIT_REDUCE, false},
    {"+squares", reduce_squares, LIMIT_REDUCE, false},
    {"gather staged", gather_staged, LIMIT_GATHER, true},
    {"reduce staged", reduce_staged, LIMIT_REDUCE, true},
    {"all_reduce", all_reduce, NO_LIMIT, true},
    {"barrier", barrier, NO_LIMIT, false},
};
#define COLUMNS (sizeof columns / sizeof *columns)

/* Subjects: the copies of each limit, then the columns. */
#define SUBJECTS (LIMITS * COPIES + COLUMNS)

static tsr_status run_subject(bench *self, size_t subject) {
    if (subject >= LIMITS * COPIES)
        return columns[subject - LIMITS * COPIES].call(self);
    copy_call copy = copies[subject % COPIES].call;
    if (subject / COPIES == LIMIT_GATHER)
        copy(self->result, self->shards, self->bytes);
    else
        copy(self->result, self->full, self->bytes);
    return TSR_OK;
}

/* ---- measuring ---- */

static double seconds_of(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* Seconds that all processors together were not idle; 0 where unknown. */
static double busy_seconds(void) {
    double ticks[8] = {0}; /* user nice system idle iowait irq softirq steal */
    FILE *file = fopen("/proc/stat", "r");
    if (!file)
        return 0;
    int read = fscanf(file, "cpu %lf %lf %lf %lf %lf %lf %lf %lf", &ticks[0],
                      &ticks[1], &ticks[2], &ticks[3], &ticks[4], &ticks[5],
                      &ticks[6], &ticks[7]);
    fclose(file);
    if (read != 8)
        return 0;
    double busy = 0;
    for (int i = 0; i < 8; i++)
        busy += i == 3 || i == 4 ? 0 : ticks[i];
    return busy / (double)sysconf(_SC_CLK_TCK);
}

static int runs_a_round(const bench *self) {
    size_t most = MOST_RUNS / ROUNDS,
           runs = MEASURED_BYTES / ROUNDS / self->bytes;
    return (int)(runs > most ? most : runs < 2 ? 2 : runs);
}

static double *times_of(const bench *self, int rank, size_t subject) {
    return self->times + ((size_t)rank * SUBJECTS + subject) * MOST_RUNS;
}

static tsr_status measure_round(bench *self, size_t subject, int round) {
    int runs = runs_a_round(self);
    double *times = times_of(self, self->rank, subject) + round * runs;
    for (int i = -1; i < runs; i++) { /* the first one warms up */
        TSR_TRY(barrier(self));
        double begin = seconds_of(CLOCK_MONOTONIC);
        TSR_TRY(run_subject(self, subject));
        if (i >= 0)
            times[i] = seconds_of(CLOCK_MONOTONIC) - begin;
    }
    return TSR_OK;
}

/* All ranks' times of the current size. */
static tsr_status measure(bench *self) {
    for (int round = 0; round < ROUNDS; round++)
        for (size_t subject = 0; subject < SUBJECTS; subject++)
            TSR_TRY(measure_round(self, subject, round));
    self->burnt[self->rank] = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    return barrier(self);
}

static int by_value(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

/* Of a subject's runs, each as long as its slowest rank's. */
typedef struct figure {
    double median, least; /* seconds */
} figure;

static figure figure_of(const bench *self, size_t subject) {
    double times[MOST_RUNS];
    int runs = ROUNDS * runs_a_round(self);
    for (int i = 0; i < runs; i++) {
        times[i] = 0;
        for (int r = 0; r < self->world; r++)
            if (times_of(self, r, subject)[i] > times[i])
                times[i] = times_of(self, r, subject)[i];
    }
    qsort(times, (size_t)runs, sizeof *times, by_value);
    return (figure){times[runs / 2], times[0]};
}

/* Of the best copy, for what the collective moves. */
static figure limit_of(const bench *self, limit of, const char **out_name) {
    figure best = {0};
    for (size_t i = 0; i < COPIES; i++) {
        figure here = figure_of(self, (size_t)of * COPIES + i);
        if (i == 0 || here.median < best.median) {
            best.median = here.median;
            *out_name = copies[i].name;
        }
        if (i == 0 || here.least < best.least)
            best.least = here.least;
    }
    double part = of == LIMIT_REDUCE ? (1 + 1 / (double)self->world) / 2 : 1;
    return (figure){part * best.median, part * best.least};
}

/* ---- printing ---- */

static bool shown(const bench *self, size_t column) {
    return !(columns[column].staged && self->threads) ||
           columns[column].limit == NO_LIMIT;
}

static bool small(const bench *self) { return self->bytes < (size_t)1 << 20; }

static void print_head(const bench *self) {
    printf("\n%d ranks as %s: GB/s of the full vector (share of the limit: "
           "medians / fastest runs); below 1 MiB: us\n\n%8s",
           self->world, self->threads ? "threads" : "processes", "KiB");
    for (size_t c = 0; c < COLUMNS; c++)
        if (shown(self, c))
            printf("%19s", columns[c].name);
    printf("%19s%19s%8s\n", "limit of gather", "of reduce", "others");
}

static void print_cell(const bench *self, figure ours, const figure *best) {
    if (small(self))
        printf("%19.2f", 1e6 * ours.median);
    else if (best)
        printf(
            "%7.1f (%3.0f /%3.0f %%)", 1e-9 * (double)self->bytes / ours.median,
            100 * best->median / ours.median, 100 * best->least / ours.least);
    else
        printf("%19.1f", 1e-9 * (double)self->bytes / ours.median);
}

static void print_row(const bench *self, double others) {
    figure limits[LIMITS];
    const char *names[LIMITS];
    for (int i = 0; i < LIMITS; i++)
        limits[i] = limit_of(self, (limit)i, &names[i]);
    printf("%8zu", self->bytes >> 10);
    for (size_t c = 0; c < COLUMNS; c++) {
        figure ours = figure_of(self, LIMITS * COPIES + c);
        if (shown(self, c) && columns[c].call == barrier)
            printf("%16.2f us", 1e6 * ours.median);
        else if (shown(self, c))
            print_cell(self, ours,
                       columns[c].limit < LIMITS ? &limits[columns[c].limit]
                                                 : NULL);
    }
    for (int i = 0; i < LIMITS; i++)
        printf("%12.2f %6s",
               small(self) ? 1e6 * limits[i].median
                           : 1e-9 * (double)self->bytes / limits[i].median,
               names[i]);
    printf("%6.0f %%\n", 100 * others);
    fflush(stdout);
}

static double burnt_by_all(const bench *self) {
    double burnt = 0;
    for (int r = 0; r < self->world; r++)
        burnt += self->burnt[r];
    return burnt;
}

static tsr_status run(bench *self) {
    if (self->rank == 0)
        print_head(self);
    for (size_t bytes = (size_t)4 << 10; bytes <= self->most; bytes *= 4) {
        self->bytes = bytes;
        self->burnt[self->rank] = seconds_of(CLOCK_THREAD_CPUTIME_ID);
        TSR_TRY(barrier(self));
        double began = seconds_of(CLOCK_MONOTONIC), busy = busy_seconds(),
               burnt = burnt_by_all(self);
        TSR_TRY(measure(self));
        if (self->rank == 0) {
            busy = busy_seconds() - busy - (burnt_by_all(self) - burnt);
            busy = busy > 0 ? busy : 0; /* ticks are coarse */
            began = seconds_of(CLOCK_MONOTONIC) - began;
            print_row(self,
                      busy / began / (double)sysconf(_SC_NPROCESSORS_ONLN));
        }
    }
    return TSR_OK;
}

/* ---- ranks ---- */

static tsr_status create(bench *self, tsr_bootstrap *bootstrap) {
    size_t world = (size_t)self->world;
    size_t times = world * SUBJECTS * MOST_RUNS * sizeof(double);
    char *memory;
    TSR_TRY(tsr_device_create_cpu(NULL, &self->device));
    TSR_TRY(tsr_stream_create(self->device, TSR_STREAM_INLINE, "bench", 0,
                              &self->stream));
    TSR_TRY(tsr_comm_create_host(bootstrap, NULL, &self->comm));
    TSR_TRY(tsr_comm_shared_alloc(
        self->comm, self->most * (world + 1) + times + world * sizeof(double),
        (void **)&memory));
    TSR_TRY(tsr_device_alloc(self->device, self->most, (void **)&self->result));
    TSR_TRY(
        tsr_device_alloc(self->device, self->most, (void **)&self->private));
    self->shards = memory;
    self->full = memory + self->most * ((size_t)self->rank + 1);
    self->times = (double *)(void *)(memory + self->most * (world + 1));
    self->burnt = self->times + times / sizeof(double);
    memset(self->full, 0, self->most); /* first touch, by who uses it */
    memset(self->shards + self->most / world * (size_t)self->rank, 0,
           self->most / world);
    return TSR_OK;
}

static tsr_status run_rank(bench *self, tsr_bootstrap *bootstrap) {
    tsr_status status;
    tsr_os_pin(self->rank, 1);
    TSR_TRY_GOTO(create(self, bootstrap));
    TSR_TRY_GOTO(run(self));
done:
    if (status != TSR_OK)
        fprintf(stderr, "rank %d: %s: %s\n", self->rank,
                tsr_status_name(status), tsr_last_error());
    if (self->device) {
        tsr_device_free(self->device, self->result, self->most);
        tsr_device_free(self->device, self->private, self->most);
    }
    tsr_comm_release(self->comm);
    tsr_stream_release(self->stream);
    tsr_device_release(self->device);
    return status;
}

static tsr_status run_process(const bench *all, tsr_fork_group *group,
                              int rank) {
    bench self = *all;
    tsr_bootstrap *bootstrap;
    self.rank = rank;
    tsr_status status = tsr_bootstrap_create_forked(group, rank, &bootstrap);
    if (status == TSR_OK)
        status = run_rank(&self, bootstrap);
    tsr_bootstrap_release(bootstrap);
    return status;
}

static bool run_processes(const bench *all) {
    tsr_fork_group *group;
    bool failed = false;
    int wait_status;
    fflush(stdout);
    if (tsr_fork_group_create(all->world, &group) != TSR_OK)
        return false;
    for (int r = 0; r < all->world; r++) {
        pid_t pid = fork();
        if (pid == 0)
            exit(run_process(all, group, r) == TSR_OK ? 0 : 1);
        failed |= pid < 0; /* the others notice that one is missing */
    }
    tsr_fork_group_release(group);
    while (wait(&wait_status) > 0)
        failed |= wait_status != 0;
    return !failed;
}

typedef struct bench_thread {
    bench self;
    tsr_bootstrap *bootstrap;
    tsr_status status;
} bench_thread;

static void *run_thread(void *context) {
    bench_thread *self = context;
    self->status = run_rank(&self->self, self->bootstrap);
    tsr_bootstrap_release(self->bootstrap);
    return NULL;
}

static bool run_threads(const bench *all) {
    static bench_thread ranks[MOST_RANKS];
    tsr_bootstrap *bootstraps[MOST_RANKS];
    pthread_t threads[MOST_RANKS];
    bool failed = false;
    if (tsr_bootstrap_create_threads(all->world, bootstraps) != TSR_OK)
        return false;
    for (int r = 0; r < all->world; r++) {
        ranks[r] = (bench_thread){.self = *all, .bootstrap = bootstraps[r]};
        ranks[r].self.rank = r;
        ranks[r].self.threads = true;
        if (pthread_create(&threads[r], NULL, run_thread, &ranks[r]) != 0) {
            fprintf(stderr, "could not start a thread\n");
            exit(1);
        }
    }
    for (int r = 0; r < all->world; r++) {
        pthread_join(threads[r], NULL);
        failed |= ranks[r].status != TSR_OK;
    }
    return !failed;
}

int main(int argc, char **argv) {
    long world = argc > 1 ? strtol(argv[1], NULL, 10) : 2;
    long mib = argc > 2 ? strtol(argv[2], NULL, 10) : 256;
    if (argc > 3 || world < 1 || world > MOST_RANKS || mib < 1 || mib > 4096) {
        fprintf(stderr, "usage: bench_comm [RANKS (1-%d) [MIB (1-4096)]]\n",
                MOST_RANKS);
        return 2;
    }
    bench all = {.world = (int)world, .most = (size_t)mib << 20};
    if (run_processes(&all) && run_threads(&all))
        return 0;
    fprintf(stderr, "%s\n", tsr_last_error());
    return 1;
}
