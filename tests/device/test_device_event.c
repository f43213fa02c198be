/* Events: a wait binds to the latest record enqueued before it. */
#include "tessera/device.h"

#include <semaphore.h>
#include <unistd.h>

#include "check.h"

static tsr_device *device;

static tsr_stream *stream_create(const char *name) {
    tsr_stream *stream;
    CHECK_OK(tsr_stream_create(device, TSR_STREAM_QUEUED, name, 0, &stream));
    return stream;
}

static tsr_event *event_create(void) {
    tsr_event *event;
    CHECK_OK(tsr_event_create(device, &event));
    return event;
}

static tsr_status pass_gate(void *gate) {
    while (sem_wait(gate) != 0)
        ;
    return TSR_OK;
}

static tsr_status increment(void *value) {
    ++*(int *)value;
    return TSR_OK;
}

static void never_recorded_is_no_wait(void) {
    tsr_stream *stream = stream_create("a");
    tsr_event *event = event_create();
    tsr_event_synchronize(event);
    CHECK_OK(tsr_stream_wait(stream, event));
    CHECK_OK(tsr_stream_synchronize(stream));
    tsr_event_release(event);
    tsr_stream_release(stream);
}

/* `value` is plain: only the event orders the task with the reads. */
static void synchronize_waits_for_the_latest_record(void) {
    tsr_stream *stream = stream_create("a");
    tsr_event *event = event_create();
    int value = 0;
    for (int round = 1; round <= 1000; round++) {
        CHECK_OK(tsr_stream_enqueue(stream, increment, &value));
        CHECK_OK(tsr_stream_record(stream, event));
        tsr_event_synchronize(event);
        CHECK(value == round);
    }
    tsr_event_release(event);
    tsr_stream_release(stream);
}

/* A wait enqueued between two records is for the first: it passes although the
 * second is held back. */
static void wait_is_for_the_record_before_it(void) {
    tsr_stream *recorder = stream_create("recorder");
    tsr_stream *waiter = stream_create("waiter");
    tsr_event *event = event_create();
    sem_t hold_recorder, hold_waiter;
    CHECK(sem_init(&hold_recorder, 0, 0) == 0);
    CHECK(sem_init(&hold_waiter, 0, 0) == 0);

    CHECK_OK(tsr_stream_record(recorder, event));
    CHECK_OK(tsr_stream_enqueue(waiter, pass_gate, &hold_waiter));
    CHECK_OK(tsr_stream_wait(waiter, event));
    CHECK_OK(tsr_stream_enqueue(recorder, pass_gate, &hold_recorder));
    CHECK_OK(tsr_stream_record(recorder, event));
    /* Both records are enqueued before the wait runs. */
    CHECK(sem_post(&hold_waiter) == 0);
    CHECK_OK(tsr_stream_synchronize(waiter));
    CHECK(sem_post(&hold_recorder) == 0);
    tsr_event_synchronize(event);

    sem_destroy(&hold_recorder);
    sem_destroy(&hold_waiter);
    tsr_event_release(event);
    tsr_stream_release(waiter);
    tsr_stream_release(recorder);
}

/* ... and a wait after the second record is for the second, although the first
 * has been reached. */
static void wait_is_not_for_an_older_record(void) {
    tsr_stream *recorder = stream_create("recorder");
    tsr_stream *waiter = stream_create("waiter");
    tsr_event *event = event_create(), *seen = event_create();
    int value = 0, copy = 0;
    for (int round = 1; round <= 500; round++) {
        CHECK_OK(tsr_stream_wait(recorder, seen));
        CHECK_OK(tsr_stream_enqueue(recorder, increment, &value));
        CHECK_OK(tsr_stream_record(recorder, event));
        CHECK_OK(tsr_stream_wait(waiter, event));
        CHECK_OK(tsr_stream_copy(waiter, &copy, &value, sizeof value));
        CHECK_OK(tsr_stream_record(waiter, seen));
        tsr_event_synchronize(seen);
        CHECK(copy == round);
    }
    tsr_event_release(seen);
    tsr_event_release(event);
    tsr_stream_release(waiter);
    tsr_stream_release(recorder);
}

/* The recording worker must be done with an event that it has let others pass.
 */
static void may_be_released_once_synchronized(void) {
    tsr_stream *stream = stream_create("a");
    for (int round = 0; round < 1000; round++) {
        tsr_event *event = event_create();
        CHECK_OK(tsr_stream_record(stream, event));
        tsr_event_synchronize(event);
        tsr_event_release(event);
    }
    tsr_stream_release(stream);
}

int main(void) {
    alarm(120);
    for (uint64_t seed = 0; seed < 3; seed++) {
        tsr_cpu_options options = {.delay_seed = seed, .max_delay_us = 50};
        CHECK_OK(tsr_device_create_cpu(&options, &device));
        never_recorded_is_no_wait();
        synchronize_waits_for_the_latest_record();
        wait_is_for_the_record_before_it();
        wait_is_not_for_an_older_record();
        may_be_released_once_synchronized();
        tsr_device_release(device);
    }
    return 0;
}
