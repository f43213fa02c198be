/* tsr_device_parallel runs each index once, in at most `threads` contiguous
 * ranges, whoever else is at it. */
#include "tessera/device.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/memory.h"
#include "check.h"

#define LARGEST 100003

typedef struct kernel {
    tsr_device *device;
    int64_t count;
    int nested;          /* each range runs a kernel of its own */
    unsigned char *hits; /* (count), plain: one thread an index */
    atomic_int ranges;
    _Atomic int64_t smallest; /* range */
    _Atomic int64_t largest;
} kernel;

static void hit_one(void *context, int64_t begin, int64_t end) {
    unsigned char *hits = context;
    for (int64_t i = begin; i < end; i++)
        hits[i]++;
}

static void hit(void *context, int64_t begin, int64_t end) {
    kernel *self = context;
    CHECK(0 <= begin && begin < end && end <= self->count);
    atomic_fetch_add(&self->ranges, 1);
    int64_t length = end - begin;
    int64_t seen = atomic_load(&self->smallest);
    while (length < seen &&
           !atomic_compare_exchange_weak(&self->smallest, &seen, length))
        ;
    seen = atomic_load(&self->largest);
    while (length > seen &&
           !atomic_compare_exchange_weak(&self->largest, &seen, length))
        ;
    if (self->nested)
        tsr_device_parallel(self->device, length, hit_one, self->hits + begin);
    else
        hit_one(self->hits, begin, end);
}

/* Returns the number of ranges. */
static int run_and_check(tsr_device *device, int64_t count, int nested) {
    kernel self = {.device = device,
                   .count = count,
                   .nested = nested,
                   .smallest = INT64_MAX};
    CHECK_OK(tsr_alloc((size_t)count, 1, (void **)&self.hits));
    tsr_device_parallel(device, count, hit, &self);
    for (int64_t i = 0; i < count; i++)
        CHECK_MESSAGE(self.hits[i] == 1, "index %d of %d: %d hits", (int)i,
                      (int)count, self.hits[i]);
    tsr_free(self.hits);
    if (count > 0)
        CHECK(atomic_load(&self.largest) - atomic_load(&self.smallest) <= 1);
    return atomic_load(&self.ranges);
}

static void covers_each_index_once(tsr_device *device) {
    static const int64_t counts[] = {0, 1, 2, 3, 7, 8, 13, 997, LARGEST};
    int threads = tsr_device_threads(device);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (int nested = 0; nested <= 1; nested++) {
            int64_t count = counts[i];
            int ranges = run_and_check(device, count, nested);
            CHECK(ranges == (count < threads ? count : threads));
        }
}

static void runs_often(tsr_device *device) {
    for (int round = 0; round < 1000; round++)
        run_and_check(device, 1 + round % 17, 0);
}

/* Its range is as long as int64_t allows; nothing may overflow. */
static void add_length(void *total, int64_t begin, int64_t end) {
    CHECK(begin < end);
    atomic_fetch_add((_Atomic int64_t *)total, end - begin);
}

static void splits_the_longest_range(tsr_device *device) {
    _Atomic int64_t total = 0;
    tsr_device_parallel(device, INT64_MAX, add_length, &total);
    CHECK(atomic_load(&total) == INT64_MAX);
}

static tsr_status run_many(void *device) {
    int threads = tsr_device_threads(device);
    for (int round = 0; round < 300; round++) {
        int ranges = run_and_check(device, 1009, round % 2);
        CHECK(ranges == 1 || ranges == threads);
    }
    return TSR_OK;
}

/* Tasks on two streams of a device meet in its pool. */
static void callers_may_meet(tsr_device *device) {
    tsr_stream *streams[2];
    for (int i = 0; i < 2; i++)
        CHECK_OK(tsr_stream_create(device, TSR_STREAM_QUEUED, "meeting", 0,
                                   &streams[i]));
    for (int i = 0; i < 2; i++)
        CHECK_OK(tsr_stream_enqueue(streams[i], run_many, device));
    for (int i = 0; i < 2; i++) {
        CHECK_OK(tsr_stream_synchronize(streams[i]));
        tsr_stream_release(streams[i]);
    }
}

int main(void) {
    alarm(240);
    for (int threads = 1; threads <= 8; threads++) {
        tsr_cpu_options options = {.threads = threads};
        tsr_device *device;
        CHECK_OK(tsr_device_create_cpu(&options, &device));
        CHECK(tsr_device_threads(device) == threads);
        covers_each_index_once(device);
        runs_often(device);
        splits_the_longest_range(device);
        callers_may_meet(device);
        tsr_device_release(device);
    }
    return 0;
}
