/* The host's processors as a device. */
#include "device/cpu.h"

#include "base/memory.h"
#include "base/os.h"

static void device_release(tsr_device *base) {
    cpu_device *device = (cpu_device *)base;
    cpu_pool_release(device->pool);
    tsr_free(device);
}

static tsr_status device_alloc(tsr_device *device, size_t bytes,
                               void **out_memory) {
    (void)device;
    return tsr_os_map(bytes, true, out_memory);
}

static void device_free(tsr_device *device, void *memory, size_t bytes) {
    (void)device;
    tsr_os_unmap(memory, bytes);
}

static void device_parallel(tsr_device *base, int64_t count,
                            tsr_parallel_body body, void *context) {
    cpu_device *device = (cpu_device *)base;
    if (device->pool)
        cpu_pool_run(device->pool, count, body, context);
    else
        body(context, 0, count);
}

static const tsr_device_vtable cpu_vtable = {
    .name = "cpu",
    .release = device_release,
    .alloc = device_alloc,
    .free = device_free,
    .alloc_host = device_alloc, /* one memory, nothing to pin */
    .free_host = device_free,
    .stream_create = cpu_stream_create,
    .stream_release = cpu_stream_release,
    .stream_enqueue = cpu_stream_enqueue,
    .stream_synchronize = cpu_stream_synchronize,
    .stream_poll = cpu_stream_poll,
    .stream_copy = cpu_stream_copy,
    .event_create = cpu_event_create,
    .event_release = cpu_event_release,
    .stream_record = cpu_stream_record,
    .stream_wait = cpu_stream_wait,
    .event_synchronize = cpu_event_synchronize,
    .parallel = device_parallel,
};

tsr_status tsr_device_create_cpu(const tsr_cpu_options *options,
                                 tsr_device **out_device) {
    static const tsr_cpu_options defaults = {.threads = 1};
    tsr_status status = TSR_OK;
    cpu_device *device = NULL;

    *out_device = NULL;
    if (!options)
        options = &defaults;
    if (options->threads < 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "a device cannot have %d threads", options->threads);

    TSR_TRY_GOTO(tsr_alloc(1, sizeof *device, (void **)&device));
    device->base.vtable = &cpu_vtable;
    device->base.threads = options->threads == 0 ? 1 : options->threads;
    device->delay_seed = options->delay_seed;
    device->max_delay_us = options->max_delay_us;
    if (device->base.threads > 1)
        TSR_TRY_GOTO(cpu_pool_create(device->base.threads, &device->pool));

    *out_device = &device->base;
    device = NULL; /* now the caller's */
done:
    tsr_device_release((tsr_device *)device);
    return status;
}
