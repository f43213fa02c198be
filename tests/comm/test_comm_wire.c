/* The injected wire: calls take at least as long as their bytes do, results are
 * those without it, and who sleeps still notices that the group fails. Only
 * lower bounds of time are checked: those hold on any machine. */
#include "ranks.h"

#include "base/memory.h"

enum { COUNT = 1000 };

typedef struct wire_job {
    tsr_comm_options options;
} wire_job;

typedef struct station {
    tsr_device *device;
    tsr_stream *stream;
    tsr_comm *comm;
    int rank, world;
    double rate; /* bytes/s */
    float *shard, *full, *sum;
} station;

static void open_station(rank_context *rank, tsr_stream_kind kind,
                         station *self) {
    const wire_job *job = rank->argument;
    *self = (station){.rank = rank->rank,
                      .world = rank->world,
                      .rate = job->options.wire_bytes_per_s};
    CHECK_OK(tsr_device_create_cpu(NULL, &self->device));
    CHECK_OK(tsr_stream_create(self->device, kind, "wire", 0, &self->stream));
    CHECK_OK(tsr_comm_create_host(rank->bootstrap, &job->options, &self->comm));
    CHECK_OK(tsr_alloc(COUNT, sizeof(float), (void **)&self->shard));
    CHECK_OK(tsr_alloc(COUNT, sizeof(float), (void **)&self->sum));
    CHECK_OK(tsr_alloc((size_t)rank->world * COUNT, sizeof(float),
                       (void **)&self->full));
    for (int i = 0; i < COUNT; i++)
        self->shard[i] = (float)(rank->rank * COUNT + i);
}

static void close_station(station *self) {
    tsr_comm_release(self->comm);
    tsr_stream_release(self->stream);
    tsr_device_release(self->device);
    tsr_free(self->full);
    tsr_free(self->sum);
    tsr_free(self->shard);
}

/* ---- least times ---- */

/* One of each call; returns the bytes that a rank receives. */
typedef double (*called)(station *self, tsr_comm *comm);

static double call_gather(station *self, tsr_comm *comm) {
    tsr_gather gather = {self->shard, self->full, COUNT, TSR_F32};
    CHECK_OK(tsr_comm_gather(comm, &gather, 1, self->stream));
    for (int i = 0; i < self->world * COUNT; i++)
        CHECK((int)self->full[i] == i);
    return 4.0 * COUNT * (self->world - 1);
}

static double call_reduce(station *self, tsr_comm *comm) {
    tsr_reduce reduce = {.full = self->full,
                         .shard = self->sum,
                         .count = COUNT,
                         .valid = (size_t)self->world * COUNT,
                         .wire_dtype = TSR_F32,
                         .out_dtype = TSR_F32,
                         .scale = 1};
    CHECK_OK(tsr_comm_reduce_scatter(comm, &reduce, 1, self->stream));
    for (int i = 0; i < COUNT; i++)
        CHECK((int)self->sum[i] == self->world * (self->rank * COUNT + i));
    return 4.0 * COUNT * (self->world - 1);
}

static double call_all_reduce(station *self, tsr_comm *comm) {
    for (int i = 0; i < COUNT; i++)
        self->sum[i] = 1;
    CHECK_OK(
        tsr_comm_all_reduce(comm, self->sum, COUNT, TSR_F32, self->stream));
    for (int i = 0; i < COUNT; i++)
        CHECK((int)self->sum[i] == self->world);
    return 8.0 * COUNT * (self->world - 1) / self->world;
}

static double call_broadcast(station *self, tsr_comm *comm) {
    for (int i = 0; i < COUNT; i++)
        self->sum[i] = self->rank == 0 ? 7 : 0;
    CHECK_OK(
        tsr_comm_broadcast(comm, self->sum, COUNT, TSR_F32, 0, self->stream));
    for (int i = 0; i < COUNT; i++)
        CHECK((int)self->sum[i] == 7);
    return 4.0 * COUNT;
}

static double call_barrier(station *self, tsr_comm *comm) {
    CHECK_OK(tsr_comm_barrier(comm, self->stream));
    return 0;
}

static void check_least_times(rank_context *rank) {
    static const called calls[] = {call_gather, call_reduce, call_all_reduce,
                                   call_broadcast, call_barrier};
    const wire_job *job = rank->argument;
    station self;
    tsr_comm *split;
    open_station(rank, TSR_STREAM_INLINE, &self);
    CHECK_OK(tsr_comm_split(self.comm, &split));
    for (int i = 0; i < 2; i++)
        for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
            int64_t begin = tsr_os_now_ns();
            double bytes = calls[c](&self, i == 0 ? self.comm : split);
            double taken = (double)(tsr_os_now_ns() - begin);
            double least = self.rate > 0 ? bytes / self.rate * 1e9 : 0;
            least += (double)job->options.wire_latency_ns;
            if (rank->world == 1)
                least = 0;
            CHECK_MESSAGE(taken >= least - 1, "call %d: %g ns, least %g",
                          (int)c, taken, least);
        }
    tsr_comm_release(split);
    close_station(&self);
}

static void test_least_times(void) {
    for (int world = 1; world <= 3; world++) {
        wire_job job = {{.wire_bytes_per_s = 1e6, .wire_latency_ns = 2000000}};
        run_threads(world, check_least_times, &job);
        job.options.wire_bytes_per_s = 0;
        run_processes(world, check_least_times, &job);
    }
    /* One rank has no wire: this would take years. */
    wire_job slow = {{.wire_bytes_per_s = 1e-6}};
    run_threads(1, check_least_times, &slow);
}

/* ---- failure ---- */

static void fail_on_the_wire(rank_context *rank) {
    station self;
    open_station(rank, TSR_STREAM_QUEUED, &self);
    tsr_gather gather = {self.shard, self.full, COUNT, TSR_F32};
    CHECK_OK(tsr_comm_gather(self.comm, &gather, 1, self.stream));
    if (rank->rank == 1) {
        sleep_ms(20); /* most often asleep by then; either way it must end */
        tsr_comm_abort(self.comm, "enough");
    }
    CHECK_FAILS(tsr_stream_synchronize(self.stream), TSR_UNAVAILABLE,
                "rank 1 gave up: enough");
    close_station(&self);
}

static void test_failure(void) {
    wire_job job = {{.wire_bytes_per_s = 1e-6}};
    run_threads(2, fail_on_the_wire, &job);
    run_processes(2, fail_on_the_wire, &job);
}

static void test_refusals(void) {
    tsr_bootstrap *bootstrap;
    tsr_comm *comm;
    CHECK_OK(tsr_bootstrap_create_solo(&bootstrap));
    const tsr_comm_options wrong[] = {{.wire_bytes_per_s = -1},
                                      {.wire_bytes_per_s = (double)NAN},
                                      {.wire_latency_ns = -1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK_FAILS(tsr_comm_create_host(bootstrap, &wrong[i], &comm),
                    TSR_INVALID_ARGUMENT, "an injected wire of");
    tsr_bootstrap_release(bootstrap);
}

int main(void) {
    alarm(RANKS_ALARM);
    test_refusals();
    test_least_times();
    test_failure();
    return 0;
}
