/* Speed of the communicator over MPI, beside MPI's own collectives and beside
 * the host's communicator, in one run.
 *
 *   mpirun -n 2 bench_mpi_openmpi        mpiexec -n 2 bench_mpi_mpich
 *
 * GB/s are bytes of the full vector over the median time of a call on rank 0,
 * all ranks calling at once. Everything lies in memory of each rank's own, so
 * `host` stages, too. MPI_Reduce_scatter_block sums in an order of its own and
 * is here for its speed only. Linked with MPI itself, which this program
 * initialises; the module joins it. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/status.h"
#include "tessera/tessera.h"

#define RUNS 21
#define MOST_BYTES ((size_t)64 << 20)

typedef struct bench {
    int rank, world;
    tsr_device *device;
    tsr_stream *stream; /* inline: a call returns when it is done */
    tsr_comm *mpi, *host;
    void *shard, *full; /* (MOST_BYTES) each */
    size_t bytes;       /* of the full vector */
} bench;

typedef tsr_status (*measured)(bench *self);

static size_t shard_count(const bench *self) {
    return self->bytes / sizeof(float) / (size_t)self->world;
}

/* ---- what is measured ---- */

static tsr_status check_mpi(const char *call, int code) {
    return code == MPI_SUCCESS
               ? TSR_OK
               : tsr_error(TSR_UNAVAILABLE, "%s: %d", call, code);
}

static tsr_status gather(bench *self, tsr_comm *comm) {
    tsr_gather call = {.shard = self->shard,
                       .full = self->full,
                       .count = shard_count(self),
                       .dtype = TSR_F32};
    return tsr_comm_gather(comm, &call, 1, self->stream);
}

static tsr_status gather_ours(bench *self) { return gather(self, self->mpi); }
static tsr_status gather_host(bench *self) { return gather(self, self->host); }

static tsr_status gather_theirs(bench *self) {
    int count = (int)shard_count(self);
    return check_mpi("MPI_Allgather",
                     MPI_Allgather(self->shard, count, MPI_FLOAT, self->full,
                                   count, MPI_FLOAT, MPI_COMM_WORLD));
}

static tsr_status reduce(bench *self, tsr_comm *comm) {
    size_t count = shard_count(self);
    tsr_reduce call = {.full = self->full,
                       .shard = self->shard,
                       .count = count,
                       .valid = count * (size_t)self->world,
                       .wire_dtype = TSR_F32,
                       .out_dtype = TSR_F32,
                       .scale = 1};
    return tsr_comm_reduce_scatter(comm, &call, 1, self->stream);
}

static tsr_status reduce_ours(bench *self) { return reduce(self, self->mpi); }
static tsr_status reduce_host(bench *self) { return reduce(self, self->host); }

static tsr_status reduce_theirs(bench *self) {
    return check_mpi("MPI_Reduce_scatter_block",
                     MPI_Reduce_scatter_block(self->full, self->shard,
                                              (int)shard_count(self), MPI_FLOAT,
                                              MPI_SUM, MPI_COMM_WORLD));
}

/* ---- measuring ---- */

static int by_value(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

static tsr_status measure(bench *self, measured call, double *out_seconds) {
    double seconds[RUNS];
    for (int i = -1; i < RUNS; i++) { /* the first one warms up */
        MPI_Barrier(MPI_COMM_WORLD);
        double begin = MPI_Wtime();
        TSR_TRY(call(self));
        if (i >= 0)
            seconds[i] = MPI_Wtime() - begin;
    }
    qsort(seconds, RUNS, sizeof *seconds, by_value);
    *out_seconds = seconds[RUNS / 2];
    return TSR_OK;
}

static const struct {
    const char *name;
    measured call;
} columns[] = {{"gather: MPI's", gather_theirs},
               {"over MPI", gather_ours},
               {"host", gather_host},
               {"reduce: MPI's", reduce_theirs},
               {"over MPI", reduce_ours},
               {"host", reduce_host}};
#define COLUMNS (sizeof columns / sizeof *columns)

static tsr_status run(bench *self) {
    static const size_t sizes[] = {(size_t)4 << 10, (size_t)256 << 10,
                                   (size_t)1 << 20, (size_t)16 << 20,
                                   MOST_BYTES};
    if (self->rank == 0) {
        printf("%d ranks; GB/s, below 1 MiB us\n%12s", self->world, "");
        for (size_t c = 0; c < COLUMNS; c++)
            printf("%15s", columns[c].name);
        printf("\n");
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        double seconds[COLUMNS];
        self->bytes = sizes[i];
        for (size_t c = 0; c < COLUMNS; c++)
            TSR_TRY(measure(self, columns[c].call, &seconds[c]));
        if (self->rank != 0)
            continue;
        printf("%8.3f MiB", (double)self->bytes / (1 << 20));
        for (size_t c = 0; c < COLUMNS; c++)
            printf("%15.1f", self->bytes < (1 << 20)
                                 ? 1e6 * seconds[c]
                                 : 1e-9 * (double)self->bytes / seconds[c]);
        printf("\n");
    }
    return TSR_OK;
}

static tsr_status create(bench *self, tsr_bootstrap *bootstrap) {
    self->rank = tsr_bootstrap_rank(bootstrap);
    self->world = tsr_bootstrap_world(bootstrap);
    TSR_TRY(tsr_device_create_cpu(NULL, &self->device));
    TSR_TRY(tsr_stream_create(self->device, TSR_STREAM_INLINE, "bench", 0,
                              &self->stream));
    TSR_TRY(tsr_comm_create_mpi(bootstrap, NULL, &self->mpi));
    TSR_TRY(tsr_comm_create_host(bootstrap, NULL, &self->host));
    TSR_TRY(tsr_device_alloc(self->device, MOST_BYTES, &self->shard));
    return tsr_device_alloc(self->device, MOST_BYTES, &self->full);
}

int main(int argc, char **argv) {
    tsr_bootstrap *bootstrap = NULL;
    bench self = {.rank = -1};
    int level;
    tsr_status status;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    TSR_TRY_GOTO(tsr_bootstrap_create_mpi(&bootstrap));
    TSR_TRY_GOTO(create(&self, bootstrap));
    TSR_TRY_GOTO(run(&self));
done:
    if (status != TSR_OK) {
        fprintf(stderr, "rank %d: %s: %s\n", self.rank, tsr_status_name(status),
                tsr_last_error());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    tsr_device_free(self.device, self.full, MOST_BYTES);
    tsr_device_free(self.device, self.shard, MOST_BYTES);
    tsr_comm_release(self.host);
    tsr_comm_release(self.mpi);
    tsr_stream_release(self.stream);
    tsr_device_release(self.device);
    tsr_bootstrap_release(bootstrap);
    MPI_Finalize();
    return 0;
}
