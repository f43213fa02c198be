/* The public functions of tessera/device.h: argument checks, then the backend's
 * vtable. */
#include <assert.h>

#include "base/status.h"
#include "device/backend.h"

/* Deep enough that a host thread walking a plan runs a whole step ahead; 32 KiB
 * of ring on the CPU. */
#define DEFAULT_CAPACITY 1024

void tsr_device_release(tsr_device *device) {
    if (device)
        device->vtable->release(device);
}

int tsr_device_threads(const tsr_device *device) { return device->threads; }

tsr_status tsr_device_alloc(tsr_device *device, size_t bytes,
                            void **out_memory) {
    *out_memory = NULL;
    if (bytes == 0)
        return TSR_OK;
    return device->vtable->alloc(device, bytes, out_memory);
}

void tsr_device_free(tsr_device *device, void *memory, size_t bytes) {
    if (memory)
        device->vtable->free(device, memory, bytes);
}

tsr_status tsr_device_alloc_host(tsr_device *device, size_t bytes,
                                 void **out_memory) {
    *out_memory = NULL;
    if (bytes == 0)
        return TSR_OK;
    return device->vtable->alloc_host(device, bytes, out_memory);
}

void tsr_device_free_host(tsr_device *device, void *memory, size_t bytes) {
    if (memory)
        device->vtable->free_host(device, memory, bytes);
}

tsr_status tsr_stream_create(tsr_device *device, tsr_stream_kind kind,
                             const char *name, size_t capacity,
                             tsr_stream **out_stream) {
    *out_stream = NULL;
    if (kind != TSR_STREAM_QUEUED && kind != TSR_STREAM_INLINE)
        return tsr_error(TSR_INVALID_ARGUMENT, "%d is not a kind of stream",
                         (int)kind);
    if (!name)
        return tsr_error(TSR_INVALID_ARGUMENT, "a stream needs a name");
    if (capacity == 0)
        capacity = DEFAULT_CAPACITY;
    return device->vtable->stream_create(device, kind, name, capacity,
                                         out_stream);
}

void tsr_stream_release(tsr_stream *stream) {
    if (stream)
        stream->device->vtable->stream_release(stream);
}

tsr_device *tsr_stream_device(tsr_stream *stream) { return stream->device; }

tsr_status tsr_stream_enqueue(tsr_stream *stream, tsr_task task,
                              void *context) {
    assert(task);
    return stream->device->vtable->stream_enqueue(stream, task, context);
}

tsr_status tsr_stream_poll(tsr_stream *stream) {
    return stream->device->vtable->stream_poll(stream);
}

tsr_status tsr_stream_synchronize(tsr_stream *stream) {
    return stream->device->vtable->stream_synchronize(stream);
}

tsr_status tsr_stream_copy(tsr_stream *stream, void *to, const void *from,
                           size_t bytes) {
    if (bytes == 0)
        return TSR_OK;
    return stream->device->vtable->stream_copy(stream, to, from, bytes);
}

tsr_status tsr_event_create(tsr_device *device, tsr_event **out_event) {
    *out_event = NULL;
    return device->vtable->event_create(device, out_event);
}

void tsr_event_release(tsr_event *event) {
    if (event)
        event->device->vtable->event_release(event);
}

/* Events may cross devices of one backend (ranks that are threads of one
 * process), not backends. */
static tsr_status check_backend(const tsr_stream *stream,
                                const tsr_event *event) {
    const tsr_device_vtable *streams = stream->device->vtable;
    const tsr_device_vtable *events = event->device->vtable;
    if (streams != events)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "an event of backend %s used on a stream of %s",
                         events->name, streams->name);
    return TSR_OK;
}

tsr_status tsr_stream_record(tsr_stream *stream, tsr_event *event) {
    TSR_TRY(check_backend(stream, event));
    return stream->device->vtable->stream_record(stream, event);
}

tsr_status tsr_stream_wait(tsr_stream *stream, tsr_event *event) {
    TSR_TRY(check_backend(stream, event));
    return stream->device->vtable->stream_wait(stream, event);
}

void tsr_event_synchronize(tsr_event *event) {
    event->device->vtable->event_synchronize(event);
}

void tsr_device_parallel(tsr_device *device, int64_t count,
                         tsr_parallel_body body, void *context) {
    if (count <= 0)
        return;
    if (device->vtable->parallel)
        device->vtable->parallel(device, count, body, context);
    else
        body(context, 0, count);
}
