/* Streams of a tsr_zero and of its callers; memory that queued work owns. */
#include "zero/eager.h"

#include <stdalign.h>
#include <stdatomic.h>
#include <string.h>

/* A block of the device's memory goes back with the work, when it has one. */
struct zero_work {
    zero_work *next;
    _Atomic bool passed; /* by the stream; never, if that dropped it */
    tsr_task run;        /* NULL: none */
    tsr_device *device;
    void *block; /* NULL: none */
    size_t block_bytes;
    alignas(max_align_t) char context[];
};

/* ---- works ---- */

static zero_work *work_of(void *context) {
    return (zero_work *)(void *)((char *)context -
                                 offsetof(zero_work, context));
}

static tsr_status run_work(void *context) {
    zero_work *work = context;
    tsr_status status = work->run ? work->run(work->context) : TSR_OK;
    atomic_store_explicit(&work->passed, true, memory_order_release);
    return status;
}

static void pop_work(zero_queue *queue) {
    zero_work *work = queue->first;
    queue->first = work->next;
    if (work->block)
        tsr_device_free(work->device, work->block, work->block_bytes);
    tsr_free(work);
}

static void collect(zero_queue *queue) {
    while (queue->first &&
           atomic_load_explicit(&queue->first->passed, memory_order_acquire))
        pop_work(queue);
}

static tsr_status push_work(zero_queue *queue, zero_work *work) {
    collect(queue);
    work->next = NULL;
    if (queue->first)
        queue->last->next = work;
    else
        queue->first = work;
    queue->last = work;
    tsr_status status = tsr_stream_enqueue(queue->stream, run_work, work);
    if (status != TSR_OK)
        atomic_store(&work->passed, true);
    return status;
}

tsr_status zero_own(size_t count, size_t bytes, void **out_context) {
    zero_work *work;
    *out_context = NULL;
    if (count > (SIZE_MAX - sizeof *work) / bytes)
        return tsr_error(TSR_OUT_OF_MEMORY, "%zu of %zu bytes", count, bytes);
    TSR_TRY(tsr_alloc(1, sizeof *work + count * bytes, (void **)&work));
    *out_context = work->context;
    return TSR_OK;
}

void zero_disown(void *context) {
    if (context)
        tsr_free(work_of(context));
}

tsr_status zero_enqueue_owned(zero_queue *queue, tsr_task task, void *context) {
    work_of(context)->run = task;
    return push_work(queue, work_of(context));
}

tsr_status zero_queue_synchronize(zero_queue *queue) {
    tsr_status status = tsr_stream_synchronize(queue->stream);
    while (queue->first) /* passed or dropped */
        pop_work(queue);
    return status;
}

/* ---- memory of our own, when the caller brings none ---- */

/* The work that frees the block later is made with it, so that freeing cannot
 * fail. */
static tsr_status own_alloc(void *context, size_t bytes, tsr_stream *stream,
                            void **out_memory) {
    tsr_zero *zero = context;
    zero_work *work;
    (void)stream;
    *out_memory = NULL;
    collect(&zero->gather);
    collect(&zero->reduce);
    collect(&zero->copy);
    TSR_TRY(tsr_alloc(1, sizeof *work, (void **)&work));
    tsr_status status =
        tsr_device_alloc(zero->options.device, bytes, out_memory);
    if (status != TSR_OK) {
        tsr_free(work);
        return status;
    }
    work->next = zero->spare;
    zero->spare = work;
    return TSR_OK;
}

static void own_free(void *context, void *memory, size_t bytes,
                     tsr_stream *stream) {
    tsr_zero *zero = context;
    zero_queue *queue = stream == zero->gather.stream   ? &zero->gather
                        : stream == zero->reduce.stream ? &zero->reduce
                                                        : &zero->copy;
    zero_work *work = zero->spare;
    zero->spare = work->next;
    work->device = zero->options.device;
    work->block = memory;
    work->block_bytes = bytes;
    (void)push_work(queue, work);
}

tsr_allocator zero_own_allocator(tsr_zero *zero) {
    return (tsr_allocator){own_alloc, own_free, zero};
}

void zero_spare_release(tsr_zero *zero) {
    while (zero->spare) {
        zero_work *work = zero->spare;
        zero->spare = work->next;
        tsr_free(work);
    }
}

/* ---- streams of the caller ---- */

tsr_status zero_stream_index(tsr_zero *zero, tsr_stream *stream, int *out) {
    for (int i = 0; i < zero->stream_count; i++)
        if (zero->streams[i].stream == stream) {
            *out = i;
            return TSR_OK;
        }
    if (zero->stream_count == ZERO_STREAMS)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "more than %d streams use one tsr_zero", ZERO_STREAMS);
    zero_stream *added = &zero->streams[zero->stream_count];
    TSR_TRY(tsr_event_create(zero->options.device, &added->event));
    added->stream = stream;
    *out = zero->stream_count++;
    return TSR_OK;
}

tsr_status zero_after(tsr_zero *zero, tsr_stream *waiter, tsr_stream *stream) {
    int index;
    TSR_TRY(zero_stream_index(zero, stream, &index));
    TSR_TRY(tsr_stream_record(stream, zero->streams[index].event));
    return tsr_stream_wait(waiter, zero->streams[index].event);
}

tsr_status zero_after_queue(tsr_stream *waiter, const zero_queue *queue,
                            tsr_event *event) {
    TSR_TRY(tsr_stream_record(queue->stream, event));
    return tsr_stream_wait(waiter, event);
}

/* ---- failures ---- */

tsr_status zero_give_up(tsr_zero *zero, tsr_status status) {
    char message[TSR_MESSAGE_BYTES];
    if (status == TSR_OK || status == TSR_UNAVAILABLE || zero->world == 1)
        return status;
    memcpy(message, tsr_last_error(), strlen(tsr_last_error()) + 1);
    tsr_comm_abort(zero->options.gather_comm, message);
    tsr_comm_abort(zero->options.reduce_comm, message);
    return tsr_error(status, "%s", message);
}

/* Synchronizes all three; the first failure is the one to tell. */
tsr_status tsr_zero_synchronize(tsr_zero *zero) {
    zero_queue *queues[] = {&zero->gather, &zero->copy, &zero->reduce};
    tsr_status first = TSR_OK;
    char message[TSR_MESSAGE_BYTES] = "";
    for (size_t q = 0; q < sizeof queues / sizeof *queues; q++) {
        tsr_status status = zero_queue_synchronize(queues[q]);
        if (status == TSR_OK || first != TSR_OK)
            continue;
        first = status;
        memcpy(message, tsr_last_error(), strlen(tsr_last_error()) + 1);
    }
    return first == TSR_OK ? TSR_OK : tsr_error(first, "%s", message);
}
