/* A rank's communicator with a device and a stream of its own; and the faults
 * that every kind of communicator must answer alike. */
#ifndef TSR_TESTS_COMM_STATION_H
#define TSR_TESTS_COMM_STATION_H

#include "base/status.h"
#include "ranks.h"

typedef tsr_status (*comm_create)(tsr_bootstrap *bootstrap,
                                  const tsr_comm_options *options,
                                  tsr_comm **out_comm);

typedef struct station {
    tsr_device *device;
    tsr_stream *stream;
    tsr_comm *comm;
} station;

static inline void station_open(rank_context *rank, comm_create create,
                                int timeout_ms, station *out) {
    tsr_comm_options options = {.timeout_ms = timeout_ms};
    CHECK_OK(tsr_device_create_cpu(NULL, &out->device));
    CHECK_OK(tsr_stream_create(out->device, TSR_STREAM_QUEUED, "comm", 0,
                               &out->stream));
    CHECK_OK(create(rank->bootstrap, &options, &out->comm));
}

static inline void close_station(station *at) {
    tsr_stream_release(at->stream);
    tsr_comm_release(at->comm);
    tsr_device_release(at->device);
}

static inline tsr_status barrier(station *at) {
    TSR_TRY(tsr_comm_barrier(at->comm, at->stream));
    return tsr_stream_synchronize(at->stream);
}

/* ---- disagreement ---- */

typedef enum mismatch {
    OTHER_OP,
    OTHER_SUM,
    OTHER_COUNT,
    OTHER_LARGE,
    OTHER_DTYPE,
    OTHER_ROOT,
    OTHER_TENSORS,
    OTHER_SPLIT,
    MISMATCHES
} mismatch;

/* Elements of a call that travels in chunks. */
enum { MISMATCH_LARGE = 100000 };

/* full: (RANKS_MAX, MISMATCH_LARGE + 1) */
static inline tsr_status call_differently(station *at, mismatch kind, bool odd,
                                          float *shard, float *full) {
    tsr_gather gathers[2] = {{shard, full, 1, TSR_F32},
                             {shard, full, 1, TSR_F32}};
    tsr_comm *second = NULL;
    if (kind == OTHER_OP && odd)
        return tsr_comm_barrier(at->comm, at->stream);
    if (kind == OTHER_SUM)
        return odd ? tsr_comm_all_reduce(at->comm, full, 2, TSR_F32, at->stream)
                   : tsr_comm_broadcast(at->comm, full, 2, TSR_F32, 0,
                                        at->stream);
    if (kind == OTHER_SPLIT && odd)
        return tsr_comm_split(at->comm, &second);
    if (kind == OTHER_ROOT)
        return tsr_comm_broadcast(at->comm, full, 2, TSR_F32, odd, at->stream);
    if (kind == OTHER_LARGE)
        gathers[0].count = MISMATCH_LARGE + (odd ? 1 : 0);
    if (odd && kind == OTHER_COUNT)
        gathers[0].count = 2;
    if (odd && kind == OTHER_DTYPE)
        gathers[0].dtype = TSR_I32;
    tsr_status status = tsr_comm_gather(
        at->comm, gathers, odd && kind == OTHER_TENSORS ? 2 : 1, at->stream);
    return status == TSR_OK ? tsr_stream_synchronize(at->stream) : status;
}

static inline void check_mismatches(rank_context *rank, comm_create create) {
    float *shard = calloc(MISMATCH_LARGE + 1, sizeof *shard),
          *full = calloc(RANKS_MAX, (MISMATCH_LARGE + 1) * sizeof *full);
    CHECK(shard && full);
    for (int kind = 0; kind < MISMATCHES; kind++)
        for (int odd = 0; odd < rank->world; odd++) {
            station at;
            int culprit = 5;
            station_open(rank, create, 20000, &at);
            CHECK_OK(barrier(&at));
            tsr_status status = call_differently(
                &at, (mismatch)kind, rank->rank == odd, shard, full);
            if (status == TSR_OK)
                status = tsr_stream_synchronize(at.stream);
            CHECK_MESSAGE(status == TSR_FAILED_PRECONDITION &&
                              strstr(tsr_last_error(), "ranks disagree"),
                          "kind %d: %s: %s", kind, tsr_status_name(status),
                          tsr_last_error());
            CHECK(strstr(tsr_last_error(), "rank 0 calls"));
            CHECK_FAILS(tsr_comm_barrier(at.comm, at.stream),
                        TSR_FAILED_PRECONDITION, "ranks disagree");
            CHECK(tsr_comm_poll(at.comm, &culprit) == TSR_FAILED_PRECONDITION);
            CHECK(culprit == -1);
            close_station(&at);
        }
    free(full);
    free(shard);
}

/* ---- giving up ---- */

static inline void check_abort(rank_context *rank, comm_create create) {
    station at;
    int culprit;
    tsr_comm *second;
    station_open(rank, create, 20000, &at);
    CHECK_OK(tsr_comm_split(at.comm, &second));
    CHECK_OK(barrier(&at));
    CHECK_OK(tsr_comm_poll(at.comm, &culprit));
    CHECK(culprit == -1);
    if (rank->rank == 1) {
        sleep_ms(50); /* the others are in their barrier by then, or not */
        tsr_comm_abort(at.comm, "no more data");
        tsr_comm_abort(at.comm, "again");
    }
    int64_t begin = tsr_os_now_ns();
    CHECK_FAILS(barrier(&at), TSR_UNAVAILABLE, "rank 1 gave up: no more data");
    CHECK(tsr_os_now_ns() - begin < (int64_t)5000000000);
    /* The split is of the same group. */
    CHECK_FAILS(tsr_comm_barrier(second, at.stream), TSR_UNAVAILABLE,
                "rank 1 gave up: no more data");
    CHECK(tsr_comm_poll(second, &culprit) == TSR_UNAVAILABLE);
    CHECK(culprit == 1);
    tsr_comm_release(second);
    close_station(&at);
    /* Another group is none of its business. */
    station_open(rank, create, 20000, &at);
    CHECK_OK(barrier(&at));
    close_station(&at);
}

#endif
