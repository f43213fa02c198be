/* Devices: memory, arguments, and every failure on the way to a working one. */
#include "tessera/device.h"

#include <stdatomic.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/os.h"
#include "check.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

typedef struct memory_kind {
    tsr_status (*alloc)(tsr_device *device, size_t bytes, void **out_memory);
    void (*free)(tsr_device *device, void *memory, size_t bytes);
} memory_kind;

static const memory_kind device_memory = {tsr_device_alloc, tsr_device_free};
static const memory_kind host_memory = {tsr_device_alloc_host,
                                        tsr_device_free_host};

static void memory_is_zeroed_and_aligned(const memory_kind *kind) {
    static const size_t sizes[] = {1, 63, 64, 4096, 4097, 5000011};
    tsr_device *device;
    CHECK_OK(tsr_device_create_cpu(NULL, &device));
    CHECK(tsr_device_threads(device) == 1);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *memory;
        CHECK_OK(kind->alloc(device, sizes[i], (void **)&memory));
        CHECK((uintptr_t)memory % 64 == 0);
        for (size_t at = 0; at < sizes[i]; at++)
            CHECK(memory[at] == 0);
        memset(memory, 0xA5, sizes[i]);
        kind->free(device, memory, sizes[i]);
    }
    void *none = &device;
    CHECK_OK(kind->alloc(device, 0, &none));
    CHECK(none == NULL);
    kind->free(device, none, 0);
    CHECK_FAILS(kind->alloc(device, SIZE_MAX / 2, &none), TSR_OUT_OF_MEMORY,
                "could not map");
    CHECK(none == NULL);
    tsr_device_release(device);
}

static void null_is_released(void) {
    tsr_device_release(NULL);
    tsr_stream_release(NULL);
    tsr_event_release(NULL);
}

static void bad_arguments_are_refused(void) {
    tsr_device *device = NULL;
    tsr_stream *stream = NULL;
    tsr_cpu_options options = {.threads = -1};
    CHECK_FAILS(tsr_device_create_cpu(&options, &device), TSR_INVALID_ARGUMENT,
                "-1 threads");
    CHECK(device == NULL);
    CHECK_OK(tsr_device_create_cpu(NULL, &device));
    CHECK_FAILS(
        tsr_stream_create(device, (tsr_stream_kind)7, "odd", 0, &stream),
        TSR_INVALID_ARGUMENT, "7");
    CHECK_FAILS(tsr_stream_create(device, TSR_STREAM_QUEUED, NULL, 0, &stream),
                TSR_INVALID_ARGUMENT, "name");
    CHECK_FAILS(tsr_stream_create(device, TSR_STREAM_QUEUED, "deep",
                                  (size_t)1 << 40, &stream),
                TSR_INVALID_ARGUMENT, "deep");
    CHECK(stream == NULL);
    tsr_device_release(device);
}

static tsr_status add_one(void *context) {
    atomic_fetch_add((atomic_int *)context, 1);
    return TSR_OK;
}

/* Creates one of everything and uses it; the first failure is returned, after
 * what exists has been released. */
static tsr_status use_everything(void) {
    tsr_status status = TSR_OK;
    tsr_cpu_options options = {.threads = 3};
    tsr_device *device = NULL;
    tsr_stream *queued = NULL, *direct = NULL;
    tsr_event *event = NULL;
    atomic_int ran = 0;

    TSR_TRY_GOTO(tsr_device_create_cpu(&options, &device));
    TSR_TRY_GOTO(
        tsr_stream_create(device, TSR_STREAM_QUEUED, "queued", 4, &queued));
    TSR_TRY_GOTO(
        tsr_stream_create(device, TSR_STREAM_INLINE, "direct", 0, &direct));
    TSR_TRY_GOTO(tsr_event_create(device, &event));
    TSR_TRY_GOTO(tsr_stream_enqueue(queued, add_one, &ran));
    TSR_TRY_GOTO(tsr_stream_record(queued, event));
    TSR_TRY_GOTO(tsr_stream_wait(direct, event));
    TSR_TRY_GOTO(tsr_stream_enqueue(direct, add_one, &ran));
    CHECK(atomic_load(&ran) == 2);
    CHECK(tsr_stream_device(direct) == device);
    TSR_TRY_GOTO(tsr_stream_synchronize(queued));
done:
    CHECK(status == TSR_OK || event == NULL);
    tsr_event_release(event);
    tsr_stream_release(direct);
    tsr_stream_release(queued);
    tsr_device_release(device);
    return status;
}

static void any_allocation_may_fail(void) {
    long n = 1;
    for (;; n++) {
        tsr_alloc_fail_at(n);
        tsr_status status = use_everything();
        tsr_alloc_fail_at(0);
        if (status == TSR_OK)
            break;
        CHECK(status == TSR_OUT_OF_MEMORY);
    }
    /* device, pool, two streams, ring, event */
    CHECK_MESSAGE(n == 7, "%ld allocations were made", n - 1);
}

/* Too little address space for the stacks: some threads start, then one does
 * not. */
static void any_thread_may_not_start(void) {
#ifndef SANITIZED
    struct rlimit before, tight;
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file && fscanf(file, "%ld", &pages) == 1);
    fclose(file);
    CHECK(getrlimit(RLIMIT_AS, &before) == 0);
    int failures = 0;
    for (rlim_t room = 1; room <= 64; room += 9) {
        tight = before;
        tight.rlim_cur =
            (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + room * 1024 * 1024;
        CHECK(setrlimit(RLIMIT_AS, &tight) == 0);
        tsr_cpu_options options = {.threads = 64};
        tsr_device *device;
        tsr_status status = tsr_device_create_cpu(&options, &device);
        CHECK(setrlimit(RLIMIT_AS, &before) == 0);
        failures += status == TSR_IO;
        CHECK(status == TSR_OK || status == TSR_IO);
        CHECK((status == TSR_OK) == (device != NULL));
        tsr_device_release(device);
    }
    CHECK(failures > 0);
#endif
}

/* The delays of a seed are the same in each run, so this cannot be flaky: a
 * sleep is never shorter than asked. */
static void delays_are_injected(void) {
    tsr_cpu_options options = {.delay_seed = 1, .max_delay_us = 1000};
    tsr_device *device;
    tsr_stream *stream;
    tsr_event *event;
    CHECK_OK(tsr_device_create_cpu(&options, &device));
    CHECK_OK(tsr_stream_create(device, TSR_STREAM_QUEUED, "slow", 0, &stream));
    CHECK_OK(tsr_event_create(device, &event));
    int64_t start = tsr_os_now_ns();
    for (int i = 0; i < 20; i++)
        CHECK_OK(tsr_stream_record(stream, event));
    tsr_event_synchronize(event);
    CHECK(tsr_os_now_ns() - start > 20 * 1000000 / 4);
    tsr_event_release(event);
    tsr_stream_release(stream);
    tsr_device_release(device);
}

int main(void) {
    alarm(120);
    memory_is_zeroed_and_aligned(&device_memory);
    memory_is_zeroed_and_aligned(&host_memory);
    null_is_released();
    bad_arguments_are_refused();
    any_allocation_may_fail();
    any_thread_may_not_start();
    delays_are_injected();
    return 0;
}
