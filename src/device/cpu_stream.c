/* Streams of the CPU backend: a ring of works and the thread that runs them, or
 * no ring and the caller as worker (inline).
 *
 * Invariants
 *   1. finished <= enqueued <= finished + capacity; the ring holds the works
 *      between the two, in order.
 *   2. A slot is the enqueuing thread's until `enqueued` is raised past it,
 *      then the worker's until `finished` is.
 *   3. failure and message are the worker's while works are queued and the
 *      enqueuing thread's otherwise; the counters order the two.
 *   4. A wait names a record enqueued before it, and every record is run, also
 *      on a failed stream; so waits form no cycle and every wait ends.
 *
 *                    a task fails [run_work]
 *      running ---------------------------------> failed
 *         ^                                          | tasks and copies are
 *         |                                          | dropped; records and
 *         +------------------------------------------+ waits still happen
 *                    [cpu_stream_synchronize]
 *
 * Waits are honoured on a failed stream, so that a record behind one still
 * tells that the other stream is done with the memory which it guards.
 *
 * Memory: 32 bytes a slot, and the worker's stack. */
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "device/cpu.h"

typedef enum work_kind {
    WORK_TASK,
    WORK_COPY,
    WORK_RECORD,
    WORK_WAIT,
    WORK_STOP, /* the worker ends */
} work_kind;

typedef struct cpu_work {
    work_kind kind;
    uint32_t count; /* RECORD, WAIT: what the counter is raised to, must be */
    union {
        struct {
            tsr_task run;
            void *context; /* borrowed */
        } task;
        struct {
            void *to;         /* (bytes), borrowed */
            const void *from; /* (bytes), borrowed */
            size_t bytes;
        } copy;
        cpu_counter *counter; /* RECORD, WAIT; borrowed */
    } with;
} cpu_work;

typedef struct cpu_stream {
    tsr_stream base;
    const char *name; /* borrowed */
    tsr_stream_kind kind;
    pthread_t worker;      /* queued streams */
    cpu_work *ring;        /* (capacity) owned; NULL on an inline stream */
    uint32_t capacity;     /* slots */
    uint64_t delay_state;  /* the worker's */
    uint64_t max_delay_ns; /* 0: no delays */

    /* The enqueuing thread's. */
    uint32_t pushed;       /* works enqueued, modulo 2^32 */
    uint32_t push_slot;    /* where the next goes */
    uint32_t synchronizes; /* calls so far; the record each one waits for */
    cpu_counter enqueued;

    _Atomic(tsr_status) failure; /* the first; TSR_OK while running */
    char message[TSR_MESSAGE_BYTES];

    /* The worker's; the message keeps it off the enqueuing thread's line. */
    cpu_counter finished;
    cpu_counter synchronized;
} cpu_stream;

/* SplitMix64 (Steele, Lea, Flood 2014): any seed is a good one. */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static void delay(cpu_stream *stream) {
    if (stream->max_delay_ns == 0)
        return;
    uint64_t ns =
        next_random(&stream->delay_state) % (stream->max_delay_ns + 1);
    struct timespec span = {.tv_sec = (time_t)(ns / 1000000000),
                            .tv_nsec = (long)(ns % 1000000000)};
    nanosleep(&span, NULL);
}

static void run_task(cpu_stream *stream, const cpu_work *work) {
    tsr_status status = work->with.task.run(work->with.task.context);
    if (status == TSR_OK)
        return;
    stream->failure = tsr_error_at(status, "stream '%s'", stream->name);
    strncpy(stream->message, tsr_last_error(), sizeof stream->message - 1);
}

static void run_work(cpu_stream *stream, const cpu_work *work) {
    delay(stream);
    switch (work->kind) {
    case WORK_TASK:
        if (stream->failure == TSR_OK)
            run_task(stream, work);
        break;
    case WORK_COPY:
        if (stream->failure == TSR_OK)
            memcpy(work->with.copy.to, work->with.copy.from,
                   work->with.copy.bytes);
        break;
    case WORK_RECORD:
        cpu_counter_raise(work->with.counter, work->count);
        break;
    case WORK_WAIT:
        cpu_counter_reach(work->with.counter, work->count);
        break;
    case WORK_STOP:
        break;
    }
}

static void *worker_main(void *context) {
    cpu_stream *stream = context;
    uint32_t slot = 0;
    for (uint32_t taken = 1;; taken++) {
        cpu_counter_reach(&stream->enqueued, taken);
        const cpu_work *work = &stream->ring[slot];
        if (work->kind == WORK_STOP)
            return NULL;
        run_work(stream, work);
        cpu_counter_raise(&stream->finished, taken);
        slot = slot + 1 == stream->capacity ? 0 : slot + 1;
    }
}

/* Blocks while the ring is full. */
static void push_work(cpu_stream *stream, const cpu_work *work) {
    /* Before the first lap the count is below 0, which `finished` is past. */
    cpu_counter_reach(&stream->finished, stream->pushed + 1 - stream->capacity);
    stream->ring[stream->push_slot] = *work;
    stream->push_slot =
        stream->push_slot + 1 == stream->capacity ? 0 : stream->push_slot + 1;
    cpu_counter_raise(&stream->enqueued, ++stream->pushed);
}

static void submit_work(cpu_stream *stream, const cpu_work *work) {
    if (stream->kind == TSR_STREAM_INLINE)
        run_work(stream, work);
    else
        push_work(stream, work);
}

/* The failure of a stream without queued work, as the calling thread's. */
static tsr_status report_failure(const cpu_stream *stream) {
    if (stream->failure == TSR_OK)
        return TSR_OK;
    return tsr_error(stream->failure, "%s", stream->message);
}

tsr_status cpu_stream_create(tsr_device *base, tsr_stream_kind kind,
                             const char *name, size_t capacity,
                             tsr_stream **out_stream) {
    cpu_device *device = (cpu_device *)base;
    tsr_status status = TSR_OK;
    cpu_stream *stream = NULL;

    if (capacity >= CPU_COUNTER_SPAN)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "stream '%s': %zu tasks, but at most %u can be queued",
                         name, capacity, (unsigned)CPU_COUNTER_SPAN - 1);

    TSR_TRY_GOTO(tsr_alloc(1, sizeof *stream, (void **)&stream));
    stream->base.device = base;
    stream->name = name;
    stream->kind = kind;
    if (device->delay_seed != 0) {
        uint64_t seed =
            device->delay_seed + atomic_fetch_add(&device->streams_created, 1);
        stream->delay_state = next_random(&seed);
        stream->max_delay_ns = (uint64_t)device->max_delay_us * 1000;
    }
    if (kind == TSR_STREAM_QUEUED) {
        TSR_TRY_GOTO(
            tsr_alloc(capacity, sizeof(cpu_work), (void **)&stream->ring));
        stream->capacity = (uint32_t)capacity;
        TSR_TRY_GOTO(cpu_thread_start(worker_main, stream, &stream->worker));
    }

    *out_stream = &stream->base;
    stream = NULL; /* now the caller's */
done:
    if (stream) { /* no worker: starting it is the last that can fail */
        tsr_free(stream->ring);
        tsr_free(stream);
    }
    return status;
}

void cpu_stream_release(tsr_stream *base) {
    cpu_stream *stream = (cpu_stream *)base;
    if (stream->kind == TSR_STREAM_QUEUED) {
        push_work(stream, &(cpu_work){.kind = WORK_STOP});
        pthread_join(stream->worker, NULL);
    }
    tsr_free(stream->ring);
    tsr_free(stream);
}

/* A work that a failed stream drops. An inline stream tells at once, also of an
 * earlier failure that has not been synchronised yet. */
static tsr_status submit_task(cpu_stream *stream, const cpu_work *work) {
    submit_work(stream, work);
    return stream->kind == TSR_STREAM_INLINE ? report_failure(stream) : TSR_OK;
}

tsr_status cpu_stream_enqueue(tsr_stream *base, tsr_task task, void *context) {
    cpu_work work = {.kind = WORK_TASK,
                     .with.task = {.run = task, .context = context}};
    return submit_task((cpu_stream *)base, &work);
}

tsr_status cpu_stream_copy(tsr_stream *base, void *to, const void *from,
                           size_t bytes) {
    cpu_work work = {.kind = WORK_COPY,
                     .with.copy = {.to = to, .from = from, .bytes = bytes}};
    return submit_task((cpu_stream *)base, &work);
}

tsr_status cpu_stream_synchronize(tsr_stream *base) {
    cpu_stream *stream = (cpu_stream *)base;
    /* A record of our own, and not `finished`: that would wake us after each
     * work. */
    cpu_work work = {.kind = WORK_RECORD,
                     .count = ++stream->synchronizes,
                     .with.counter = &stream->synchronized};
    submit_work(stream, &work);
    cpu_counter_reach(&stream->synchronized, stream->synchronizes);

    tsr_status status = report_failure(stream);
    stream->failure = TSR_OK;
    return status;
}

/* Set by the worker before it goes on to what is queued behind the task: who
 * has waited for an event of this stream sees it. */
tsr_status cpu_stream_poll(tsr_stream *base) {
    return ((cpu_stream *)base)->failure;
}

tsr_status cpu_stream_record(tsr_stream *base, tsr_event *to) {
    cpu_event *event = (cpu_event *)to;
    cpu_work work = {.kind = WORK_RECORD,
                     .count =
                         1 + atomic_fetch_add_explicit(&event->recorded, 1,
                                                       memory_order_release),
                     .with.counter = &event->completed};
    submit_work((cpu_stream *)base, &work);
    return TSR_OK;
}

tsr_status cpu_stream_wait(tsr_stream *base, tsr_event *on) {
    cpu_event *event = (cpu_event *)on;
    /* Of an event that was never recorded, 0: reached from the start. */
    cpu_work work = {
        .kind = WORK_WAIT,
        .count = atomic_load_explicit(&event->recorded, memory_order_acquire),
        .with.counter = &event->completed};
    submit_work((cpu_stream *)base, &work);
    return TSR_OK;
}
