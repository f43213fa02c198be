/* Ranks that are threads of one process meet in one struct.
 *
 * The last rank to arrive copies everybody's bytes to everybody, under the
 * mutex, so that an exchange has happened for all ranks or for none: what one
 * rank hands to the others has one owner at any time. */
#include "comm/bootstrap.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"

typedef struct threads_place {
    const void *mine; /* borrowed while `here` */
    void *all;
    size_t bytes;
    bool here; /* waits in the current exchange */
    bool gone; /* released its bootstrap */
} threads_place;

typedef struct threads_meeting {
    pthread_mutex_t mutex; /* guards everything below */
    pthread_cond_t changed;
    int world, users, arrived;
    unsigned long exchanges; /* done so far */
    tsr_status failure;      /* sticks, with text */
    char text[160];
    threads_place places[];
} threads_meeting;

typedef struct threads_bootstrap {
    tsr_bootstrap base;
    threads_meeting *meeting; /* freed by its last user */
} threads_bootstrap;

static void exchange_all(threads_meeting *meeting) {
    for (int r = 1; r < meeting->world; r++) {
        if (meeting->places[r].bytes == meeting->places[0].bytes)
            continue;
        meeting->failure = TSR_FAILED_PRECONDITION;
        snprintf(meeting->text, sizeof meeting->text,
                 "bootstrap exchange: rank 0 brings %zu bytes, rank %d %zu",
                 meeting->places[0].bytes, r, meeting->places[r].bytes);
        return;
    }
    size_t bytes = meeting->places[0].bytes;
    for (int to = 0; bytes > 0 && to < meeting->world; to++)
        for (int from = 0; from < meeting->world; from++)
            memcpy((char *)meeting->places[to].all + (size_t)from * bytes,
                   meeting->places[from].mine, bytes);
    for (int r = 0; r < meeting->world; r++)
        meeting->places[r].here = false;
    meeting->arrived = 0;
    meeting->exchanges++;
}

static void fail_if_gone(threads_meeting *meeting) {
    for (int r = 0; r < meeting->world && meeting->failure == TSR_OK; r++) {
        if (!meeting->places[r].gone)
            continue;
        meeting->failure = TSR_UNAVAILABLE;
        snprintf(meeting->text, sizeof meeting->text,
                 "bootstrap exchange: rank %d is gone", r);
    }
}

static void fail_late(threads_meeting *meeting, int timeout_ms) {
    int late = 0;
    while (late < meeting->world - 1 && meeting->places[late].here)
        late++;
    meeting->failure = TSR_UNAVAILABLE;
    snprintf(meeting->text, sizeof meeting->text,
             "bootstrap exchange: rank %d has not joined for %.1f s", late,
             timeout_ms / 1e3);
}

static void deadline_in(int timeout_ms, struct timespec *out_deadline) {
    clock_gettime(CLOCK_MONOTONIC, out_deadline);
    out_deadline->tv_sec += timeout_ms / 1000;
    out_deadline->tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (out_deadline->tv_nsec >= 1000000000) {
        out_deadline->tv_nsec -= 1000000000;
        out_deadline->tv_sec++;
    }
}

static tsr_status threads_exchange(tsr_bootstrap *bootstrap, const void *mine,
                                   size_t bytes, void *all, int timeout_ms) {
    tsr_status status = TSR_OK;
    threads_meeting *meeting = ((threads_bootstrap *)bootstrap)->meeting;
    threads_place *place = &meeting->places[bootstrap->rank];
    struct timespec deadline;
    deadline_in(timeout_ms, &deadline);

    pthread_mutex_lock(&meeting->mutex);
    unsigned long exchange = meeting->exchanges;
    place->mine = mine;
    place->all = all;
    place->bytes = bytes;
    place->here = true;
    if (++meeting->arrived == meeting->world && meeting->failure == TSR_OK) {
        exchange_all(meeting);
        pthread_cond_broadcast(&meeting->changed);
    }
    while (meeting->exchanges == exchange && meeting->failure == TSR_OK) {
        fail_if_gone(meeting);
        if (meeting->failure == TSR_OK &&
            pthread_cond_timedwait(&meeting->changed, &meeting->mutex,
                                   &deadline) == ETIMEDOUT &&
            meeting->exchanges == exchange && meeting->failure == TSR_OK)
            fail_late(meeting, timeout_ms);
    }
    if (meeting->exchanges == exchange) {
        status = tsr_error(meeting->failure, "%s", meeting->text);
        pthread_cond_broadcast(&meeting->changed);
    }
    pthread_mutex_unlock(&meeting->mutex);
    return status;
}

static void meeting_release(threads_meeting *meeting) {
    pthread_cond_destroy(&meeting->changed);
    pthread_mutex_destroy(&meeting->mutex);
    tsr_free(meeting);
}

static void threads_release(tsr_bootstrap *bootstrap) {
    threads_meeting *meeting = ((threads_bootstrap *)bootstrap)->meeting;
    pthread_mutex_lock(&meeting->mutex);
    meeting->places[bootstrap->rank].gone = true;
    bool last = --meeting->users == 0;
    pthread_cond_broadcast(&meeting->changed);
    pthread_mutex_unlock(&meeting->mutex);
    if (last)
        meeting_release(meeting);
    tsr_free(bootstrap);
}

static const tsr_bootstrap_vtable threads_vtable = {
    .one_address_space = true,
    .exchange = threads_exchange,
    .release = threads_release,
};

static tsr_status meeting_create(int world, threads_meeting **out_meeting) {
    threads_meeting *meeting;
    pthread_condattr_t attributes;
    TSR_TRY(tsr_alloc(
        1, sizeof(threads_meeting) + (size_t)world * sizeof(threads_place),
        (void **)&meeting));
    meeting->world = meeting->users = world;
    pthread_mutex_init(&meeting->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&meeting->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    *out_meeting = meeting;
    return TSR_OK;
}

tsr_status tsr_bootstrap_create_threads(int world, tsr_bootstrap **bootstraps) {
    tsr_status status = TSR_OK;
    threads_meeting *meeting = NULL;
    if (world < 1 || !bootstraps)
        return tsr_error(TSR_INVALID_ARGUMENT, "bootstrap of %d threads",
                         world);
    memset(bootstraps, 0, (size_t)world * sizeof *bootstraps);

    TSR_TRY_GOTO(meeting_create(world, &meeting));
    for (int r = 0; r < world; r++) {
        threads_bootstrap *bootstrap;
        TSR_TRY_GOTO(tsr_alloc(1, sizeof *bootstrap, (void **)&bootstrap));
        bootstrap->base = (tsr_bootstrap){&threads_vtable, r, world};
        bootstrap->meeting = meeting;
        bootstraps[r] = &bootstrap->base;
    }
    meeting = NULL; /* now the bootstraps' */
done:
    if (meeting) {
        for (int r = 0; r < world; r++) {
            tsr_free(bootstraps[r]);
            bootstraps[r] = NULL;
        }
        meeting_release(meeting);
    }
    return status;
}
