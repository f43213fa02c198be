/* Streams of a tsr_zero and of its callers; memory that queued work owns. */
#include "zero/eager.h"

#include <stdalign.h>
#include <stdatomic.h>
#include <string.h>

/* Contexts up to so many bytes are kept and used again: those of all tasks but
 * calls over many parameters. */
#define SMALL_BYTES ((size_t)512)

/* A block of memory goes back with the work, when it has one. */
struct zero_work {
    zero_work *next;
    zero_queue *queue;
    _Atomic bool passed; /* by the stream; never, if that dropped or refused */
    bool small;          /* its context has SMALL_BYTES; else not kept */
    tsr_task run;        /* NULL: none */
    void (*free)(tsr_device *device, void *memory, size_t bytes);
    void *block; /* NULL: none */
    size_t block_bytes;
    alignas(max_align_t) char context[];
};

/* ---- works ---- */

static zero_work *work_of(void *context) {
    return (zero_work *)(void *)((char *)context -
                                 offsetof(zero_work, context));
}

/* The work may be gone once it is marked. */
static tsr_status run_work(void *context) {
    zero_work *work = context;
    tsr_status status = work->run ? work->run(work->context) : TSR_OK;
    if (status != TSR_OK)
        status = zero_give_up(work->queue->zero, status);
    atomic_store_explicit(&work->passed, true, memory_order_release);
    return status;
}

static void recycle(zero_work *work) {
    if (!work->small) {
        tsr_free(work);
        return;
    }
    work->next = work->queue->spare;
    work->queue->spare = work;
}

static void pop_work(zero_queue *queue) {
    zero_work *work = queue->first;
    queue->first = work->next;
    if (work->block)
        work->free(queue->zero->options.device, work->block, work->block_bytes);
    recycle(work);
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
    /* Refused: tasks before it may still use what it owns, which then stays
     * until the queue is synchronized. */
    return tsr_stream_enqueue(queue->stream, run_work, work);
}

static tsr_status make_work(size_t bytes, zero_work **out_work) {
    bool small = bytes <= SMALL_BYTES;
    TSR_TRY(tsr_alloc(1, sizeof **out_work + (small ? SMALL_BYTES : bytes),
                      (void **)out_work));
    (*out_work)->small = small;
    return TSR_OK;
}

tsr_status zero_own(zero_queue *queue, size_t count, size_t bytes,
                    void **out_context) {
    zero_work *work = NULL;
    *out_context = NULL;
    if (count > (SIZE_MAX - sizeof *work) / bytes)
        return tsr_error(TSR_OUT_OF_MEMORY, "%zu of %zu bytes", count, bytes);
    collect(queue);
    if (count * bytes <= SMALL_BYTES && queue->spare) {
        work = queue->spare;
        queue->spare = work->next;
        memset(work, 0, sizeof *work + count * bytes);
        work->small = true;
    } else {
        TSR_TRY(make_work(count * bytes, &work));
    }
    work->queue = queue;
    *out_context = work->context;
    return TSR_OK;
}

void zero_disown(void *context) {
    if (context)
        recycle(work_of(context));
}

tsr_status zero_enqueue_owned(tsr_task task, void *context) {
    work_of(context)->run = task;
    return push_work(work_of(context)->queue, work_of(context));
}

/* ---- queues ---- */

tsr_status zero_queue_create(tsr_zero *zero, zero_queue *queue,
                             const char *name) {
    queue->zero = zero;
    TSR_TRY(tsr_event_create(zero->options.device, &queue->end));
    return tsr_stream_create(zero->options.device, TSR_STREAM_QUEUED, name, 0,
                             &queue->stream);
}

void zero_queue_release(zero_queue *queue) {
    (void)zero_queue_synchronize(queue);
    tsr_stream_release(queue->stream);
    tsr_event_release(queue->end);
    for (size_t e = 0; e < queue->events.count; e++)
        tsr_event_release(queue->events.data[e]);
    TSR_ARRAY_FREE(&queue->events);
    while (queue->spare) {
        zero_work *work = queue->spare;
        queue->spare = work->next;
        tsr_free(work);
    }
}

tsr_status zero_queue_synchronize(zero_queue *queue) {
    if (!queue->stream)
        return TSR_OK;
    tsr_status status = tsr_stream_synchronize(queue->stream);
    while (queue->first) /* passed or dropped */
        pop_work(queue);
    return status;
}

/* Room to take it back is reserved, so that giving it back succeeds. */
tsr_status zero_event_take(zero_queue *queue, tsr_event **out_event) {
    TSR_TRY(TSR_ARRAY_RESERVE(&queue->events, queue->events_taken + 1));
    if (queue->events.count > 0)
        *out_event = queue->events.data[--queue->events.count];
    else
        TSR_TRY(tsr_event_create(queue->zero->options.device, out_event));
    queue->events_taken++;
    return TSR_OK;
}

/* Not released: a stream of the caller may still have a wait for it queued.
 * Recorded again, on the same stream, it only passes later. */
void zero_event_give(zero_queue *queue, tsr_event *event) {
    if (!event)
        return;
    queue->events_taken--;
    TSR_ARRAY_PUSH(&queue->events, event);
}

/* ---- memory ---- */

static void free_behind(zero_queue *queue, zero_work *work, void *memory,
                        size_t bytes) {
    work->queue = queue;
    work->block = memory;
    work->block_bytes = bytes;
    (void)push_work(queue, work);
}

/* Of our own, when the caller brings none. The work that frees the block later
 * is made with it, so that freeing cannot fail. */
static tsr_status own_alloc(void *context, size_t bytes, tsr_stream *stream,
                            void **out_memory) {
    tsr_zero *zero = context;
    zero_work *work;
    (void)stream;
    *out_memory = NULL;
    for (int q = 0; q < ZERO_QUEUES; q++)
        collect(&zero->queues[q]);
    TSR_TRY(tsr_alloc(1, sizeof *work, (void **)&work));
    tsr_status status =
        tsr_device_alloc(zero->options.device, bytes, out_memory);
    if (status != TSR_OK) {
        tsr_free(work);
        return status;
    }
    work->free = tsr_device_free;
    work->next = zero->spare;
    zero->spare = work;
    return TSR_OK;
}

static void own_free(void *context, void *memory, size_t bytes,
                     tsr_stream *stream) {
    tsr_zero *zero = context;
    zero_work *work = zero->spare;
    int q = 0;
    while (zero->queues[q].stream != stream)
        q++;
    zero->spare = work->next;
    free_behind(&zero->queues[q], work, memory, bytes);
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

tsr_status zero_host_end(tsr_zero *zero, zero_work **out_end) {
    collect(&zero->out);
    collect(&zero->in);
    TSR_TRY(tsr_alloc(1, sizeof **out_end, (void **)out_end));
    (*out_end)->free = tsr_device_free_host;
    return TSR_OK;
}

void zero_host_end_release(zero_work *end) { tsr_free(end); }

void zero_host_end_enqueue(zero_queue *queue, zero_work *end, void *memory,
                           size_t bytes) {
    free_behind(queue, end, memory, bytes);
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

static tsr_status after_index(tsr_zero *zero, tsr_stream *waiter, int index) {
    const zero_stream *at = &zero->streams[index];
    TSR_TRY(tsr_stream_record(at->stream, at->event));
    return tsr_stream_wait(waiter, at->event);
}

tsr_status zero_after_all(tsr_zero *zero, tsr_stream *waiter,
                          uint64_t streams) {
    for (int i = 0; i < zero->stream_count; i++)
        if (streams >> i & 1)
            TSR_TRY(after_index(zero, waiter, i));
    return TSR_OK;
}

tsr_status zero_after(tsr_zero *zero, tsr_stream *waiter, tsr_stream *stream) {
    int index;
    TSR_TRY(zero_stream_index(zero, stream, &index));
    return after_index(zero, waiter, index);
}

tsr_status zero_after_queue(tsr_stream *waiter, const zero_queue *queue) {
    TSR_TRY(tsr_stream_record(queue->stream, queue->end));
    return tsr_stream_wait(waiter, queue->end);
}

tsr_status zero_join(tsr_zero *zero, tsr_stream *stream,
                     const zero_queue *queue) {
    int index; /* known: tsr_zero_release waits for what it waits for */
    TSR_TRY(zero_stream_index(zero, stream, &index));
    return zero_after_queue(stream, queue);
}

/* ---- failures ---- */

static void set_history(tsr_zero *zero, uint64_t history) {
    zero->history = history;
    tsr_comm_set_history(zero->options.gather_comm, history);
    tsr_comm_set_history(zero->options.reduce_comm, history);
}

void zero_remember(tsr_zero *zero, zero_act act, int64_t about) {
    const uint64_t prime = 0x100000001b3u; /* FNV-1a, a word at a time */
    uint64_t hash = (zero->history ^ (uint64_t)act) * prime;
    set_history(zero, (hash ^ (uint64_t)about) * prime);
}

void zero_forget(tsr_zero *zero) { set_history(zero, 0); }

tsr_status zero_give_up(const tsr_zero *zero, tsr_status status) {
    char message[TSR_MESSAGE_BYTES];
    if (status == TSR_OK || status == TSR_UNAVAILABLE || zero->world == 1)
        return status;
    memcpy(message, tsr_last_error(), strlen(tsr_last_error()) + 1);
    tsr_comm_abort(zero->options.gather_comm, message);
    tsr_comm_abort(zero->options.reduce_comm, message);
    return tsr_error(status, "%s", message);
}

/* Synchronizes all queues; the first failure is the one to tell. */
tsr_status tsr_zero_synchronize(tsr_zero *zero) {
    tsr_status first = TSR_OK;
    TSR_TRY(zero_given(zero, __func__, "zero"));
    char message[TSR_MESSAGE_BYTES] = "";
    for (int q = 0; q < ZERO_QUEUES; q++) {
        tsr_status status = zero_queue_synchronize(&zero->queues[q]);
        if (status == TSR_OK || first != TSR_OK)
            continue;
        first = status;
        memcpy(message, tsr_last_error(), strlen(tsr_last_error()) + 1);
    }
    return first == TSR_OK ? TSR_OK : tsr_error(first, "%s", message);
}
