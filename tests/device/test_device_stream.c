/* Streams: order, back-pressure, failures, the inline kind, release. */
#include "tessera/device.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/status.h"
#include "check.h"

static tsr_device *device;

static tsr_stream *stream_create(tsr_stream_kind kind, const char *name,
                                 size_t capacity) {
    tsr_stream *stream;
    CHECK_OK(tsr_stream_create(device, kind, name, capacity, &stream));
    return stream;
}

#define TASKS 500

typedef struct sequence {
    atomic_int ran; /* tasks that ended */
} sequence;

typedef struct step {
    sequence *sequence;
    int index;
} step;

static tsr_status run_step(void *context) {
    step *self = context;
    CHECK(atomic_load(&self->sequence->ran) == self->index);
    atomic_fetch_add(&self->sequence->ran, 1);
    return TSR_OK;
}

/* In order, and never more than `capacity` ahead of the worker. */
static void runs_in_order_with_back_pressure(size_t capacity) {
    tsr_stream *stream = stream_create(TSR_STREAM_QUEUED, "ordered", capacity);
    sequence shared = {0};
    step steps[TASKS];
    for (int i = 0; i < TASKS; i++) {
        steps[i] = (step){.sequence = &shared, .index = i};
        CHECK_OK(tsr_stream_enqueue(stream, run_step, &steps[i]));
        CHECK(atomic_load(&shared.ran) >= i + 1 - (int)capacity);
    }
    CHECK_OK(tsr_stream_synchronize(stream));
    CHECK(atomic_load(&shared.ran) == TASKS);
    tsr_stream_release(stream);
}

static void release_waits_for_queued_work(void) {
    tsr_stream *stream = stream_create(TSR_STREAM_QUEUED, "released", 0);
    sequence shared = {0};
    step steps[TASKS];
    for (int i = 0; i < TASKS; i++) {
        steps[i] = (step){.sequence = &shared, .index = i};
        CHECK_OK(tsr_stream_enqueue(stream, run_step, &steps[i]));
    }
    tsr_stream_release(stream);
    CHECK(atomic_load(&shared.ran) == TASKS);
}

static tsr_status increment(void *value) {
    ++*(int *)value;
    return TSR_OK;
}

static tsr_status fail(void *what) {
    return tsr_error(TSR_UNAVAILABLE, "cannot %s", (const char *)what);
}

static void failure_drops_tasks_until_synchronize(tsr_stream_kind kind) {
    tsr_stream *stream = stream_create(kind, "frail", 0);
    tsr_event *event;
    int ran = 0, copied = 0, source = 5;
    tsr_status dropped = kind == TSR_STREAM_INLINE ? TSR_UNAVAILABLE : TSR_OK;
    CHECK_OK(tsr_event_create(device, &event));

    for (int round = 1; round <= 2; round++) {
        CHECK_OK(tsr_stream_enqueue(stream, increment, &ran));
        CHECK(tsr_stream_enqueue(stream, fail, "swim") == dropped);
        tsr_error(TSR_IO, "another matter");
        CHECK(tsr_stream_enqueue(stream, increment, &ran) == dropped);
        CHECK(tsr_stream_copy(stream, &copied, &source, sizeof source) ==
              dropped);
        CHECK(tsr_stream_enqueue(stream, fail, "fly") == dropped);
        CHECK_OK(tsr_stream_record(stream, event));
        tsr_event_synchronize(event);
        CHECK(tsr_stream_poll(stream) ==
              TSR_UNAVAILABLE); /* seen by who waited */
        CHECK(ran == round);
        CHECK(copied == 0);
        tsr_error(TSR_IO, "another matter");
        CHECK_FAILS(tsr_stream_synchronize(stream), TSR_UNAVAILABLE,
                    "'frail': cannot swim");
        CHECK_OK(tsr_stream_synchronize(stream));
        CHECK(tsr_stream_poll(stream) == TSR_OK);
    }
    CHECK_OK(tsr_stream_enqueue(stream, increment, &ran));
    CHECK_OK(tsr_stream_copy(stream, &copied, &source, sizeof source));
    CHECK_OK(tsr_stream_synchronize(stream));
    CHECK(ran == 3 && copied == 5);

    tsr_event_release(event);
    tsr_stream_release(stream);
}

typedef struct gated {
    sem_t gate;
    int passed; /* plain: ordered by events alone */
} gated;

static tsr_status pass_gate(void *context) {
    gated *self = context;
    while (sem_wait(&self->gate) != 0)
        ;
    self->passed = 1;
    return TSR_OK;
}

static tsr_status open_gate(void *context) {
    sem_post(&((gated *)context)->gate);
    return TSR_OK;
}

/* A failed stream's records still mean that what it waited for has happened. */
static void failed_stream_honours_waits(void) {
    for (int round = 0; round < 20; round++) {
        tsr_stream *worker = stream_create(TSR_STREAM_QUEUED, "worker", 0);
        tsr_stream *frail = stream_create(TSR_STREAM_QUEUED, "frail", 0);
        tsr_stream *opener = stream_create(TSR_STREAM_QUEUED, "opener", 0);
        tsr_event *worked, *after;
        gated shared = {.passed = 0};
        CHECK(sem_init(&shared.gate, 0, 0) == 0);
        CHECK_OK(tsr_event_create(device, &worked));
        CHECK_OK(tsr_event_create(device, &after));

        CHECK_OK(tsr_stream_enqueue(worker, pass_gate, &shared));
        CHECK_OK(tsr_stream_record(worker, worked));
        CHECK_OK(tsr_stream_enqueue(frail, fail, "work"));
        CHECK_OK(tsr_stream_wait(frail, worked));
        CHECK_OK(tsr_stream_record(frail, after));
        CHECK_OK(tsr_stream_enqueue(opener, open_gate, &shared));
        tsr_event_synchronize(after);
        CHECK(shared.passed);

        CHECK_FAILS(tsr_stream_synchronize(frail), TSR_UNAVAILABLE, "work");
        tsr_stream_release(opener);
        tsr_stream_release(frail);
        tsr_stream_release(worker);
        tsr_event_release(worked);
        tsr_event_release(after);
        sem_destroy(&shared.gate);
    }
}

/* Released while failed: the failure is lost with the stream, nothing else. */
static void failed_stream_is_released(void) {
    tsr_stream *stream = stream_create(TSR_STREAM_QUEUED, "frail", 0);
    CHECK_OK(tsr_stream_enqueue(stream, fail, "stay"));
    tsr_stream_release(stream);
}

static tsr_status note_thread(void *context) {
    *(pthread_t *)context = pthread_self();
    return TSR_OK;
}

static void inline_stream_is_the_caller(void) {
    tsr_stream *direct = stream_create(TSR_STREAM_INLINE, "direct", 0);
    tsr_stream *queued = stream_create(TSR_STREAM_QUEUED, "queued", 0);
    tsr_event *event;
    pthread_t thread;
    int value = 0, copy = 0;
    CHECK_OK(tsr_event_create(device, &event));

    CHECK_OK(tsr_stream_enqueue(direct, note_thread, &thread));
    CHECK(pthread_equal(thread, pthread_self()));
    for (int round = 1; round <= 200; round++) {
        CHECK_OK(tsr_stream_enqueue(queued, increment, &value));
        CHECK_OK(tsr_stream_record(queued, event));
        CHECK_OK(tsr_stream_wait(direct, event)); /* blocks us */
        CHECK(value == round);
        CHECK_OK(tsr_stream_copy(direct, &copy, &value, sizeof value));
        CHECK(copy == round);
        CHECK_OK(tsr_stream_record(direct, event));
        CHECK_OK(tsr_stream_wait(queued, event));
    }
    CHECK_OK(tsr_stream_synchronize(direct));
    CHECK_OK(tsr_stream_enqueue(queued, note_thread, &thread));
    CHECK_OK(tsr_stream_synchronize(queued));
    CHECK(!pthread_equal(thread, pthread_self()));

    tsr_stream_release(queued);
    tsr_stream_release(direct);
    tsr_event_release(event);
}

int main(void) {
    alarm(120);
    for (uint64_t seed = 0; seed < 3; seed++) {
        tsr_cpu_options options = {.delay_seed = seed, .max_delay_us = 40};
        CHECK_OK(tsr_device_create_cpu(&options, &device));
        runs_in_order_with_back_pressure(1);
        runs_in_order_with_back_pressure(2);
        runs_in_order_with_back_pressure(7);
        release_waits_for_queued_work();
        failure_drops_tasks_until_synchronize(TSR_STREAM_QUEUED);
        failure_drops_tasks_until_synchronize(TSR_STREAM_INLINE);
        failed_stream_honours_waits();
        failed_stream_is_released();
        inline_stream_is_the_caller();
        tsr_device_release(device);
    }
    return 0;
}
