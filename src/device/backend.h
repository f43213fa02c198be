/* What a device backend provides. A backend is a file with one vtable and the
 * tsr_device_create_… that hands it out; device.c checks arguments and
 * dispatches, so entries may rely on the checks named here. */
#ifndef TSR_DEVICE_BACKEND_H
#define TSR_DEVICE_BACKEND_H

#include "tessera/device.h"

typedef struct tsr_device_vtable {
    const char *name; /* for messages */

    void (*release)(tsr_device *device);
    tsr_status (*alloc)(tsr_device *device, size_t bytes,
                        void **out_memory); /* bytes > 0 */
    void (*free)(tsr_device *device, void *memory,
                 size_t bytes); /* memory not NULL */
    /* Pinned memory of the host; the same rules. */
    tsr_status (*alloc_host)(tsr_device *device, size_t bytes,
                             void **out_memory);
    void (*free_host)(tsr_device *device, void *memory, size_t bytes);

    tsr_status (*stream_create)(tsr_device *device, tsr_stream_kind kind,
                                const char *name, size_t capacity,
                                tsr_stream **out_stream); /* capacity > 0 */
    void (*stream_release)(tsr_stream *stream);
    tsr_status (*stream_enqueue)(tsr_stream *stream, tsr_task task,
                                 void *context);
    tsr_status (*stream_synchronize)(tsr_stream *stream);
    tsr_status (*stream_poll)(tsr_stream *stream); /* from any thread */
    tsr_status (*stream_copy)(tsr_stream *stream, void *to, const void *from,
                              size_t bytes); /* bytes > 0 */

    tsr_status (*event_create)(tsr_device *device, tsr_event **out_event);
    void (*event_release)(tsr_event *event);
    /* The event is of the stream's backend, maybe of another of its devices. */
    tsr_status (*stream_record)(tsr_stream *stream, tsr_event *event);
    tsr_status (*stream_wait)(tsr_stream *stream, tsr_event *event);
    void (*event_synchronize)(tsr_event *event);

    /* Optional, count > 0; NULL: the caller runs the whole range. */
    void (*parallel)(tsr_device *device, int64_t count, tsr_parallel_body body,
                     void *context);
} tsr_device_vtable;

/* First member of every backend's own type. */
struct tsr_device {
    const tsr_device_vtable *vtable;
    int threads; /* threads that share one kernel, at least 1 */
};

struct tsr_stream {
    tsr_device *device; /* borrowed */
};

struct tsr_event {
    tsr_device *device; /* borrowed */
};

#endif
