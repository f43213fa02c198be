/* Inside of a tsr_zero.
 *
 * It has streams of its own: gather and reduce, with a communicator each, fill,
 * which copies gradients into buckets, so that a bucket on the wire holds up
 * neither the caller nor the filling of the other one, and out and in, which
 * copy to the host and back.
 *
 * Invariants
 *  1. A copy's storage is allocated and freed on the gather stream; before it
 *     is freed, that stream waits for every stream that released it.
 *  2. A copy is shared by all bindings of its version and dtype. It is freed
 *     when nothing is bound to it, unless its parameter is persistent and the
 *     copy is of the latest version.
 *  3. A slot of a bucket is written after the bucket's latest reduce: by
 *     streams that took it, and then on the fill stream, after these and the
 *     stream that made the gradient. Gradient buffers are written on the reduce
 *     stream only.
 *  4. The entries of a bucket name different parameters: one that comes again
 *     flushes first, so that its sums are added in order.
 *  5. Buckets are reduced in the order in which they were filled, each once all
 *     its slots are.
 *  6. The host's buffers are written on the out stream and read on the in
 *     stream. A copy out into one comes after the last copy in from it; one
 *     that goes back to the system does so behind its last copy.
 *  7. Memory of a shard is given up on the out stream, behind the gathers that
 *     read it, and written again on the in stream, behind that; gathers come
 *     behind the copy in.
 *  8. An event is recorded on one stream only: whoever waits for a later record
 *     than the one it meant waits too long, never too short. */
#ifndef TSR_ZERO_EAGER_H
#define TSR_ZERO_EAGER_H

#include "base/array.h"
#include "base/map.h"
#include "tessera/eager.h"

typedef struct zero_param zero_param;

/* A stream of ours and what its queued tasks own. The host gives that back when
 * the stream has passed the task: a failed stream drops tasks, and what they
 * own must not go with them. */
typedef struct zero_work zero_work;
typedef struct zero_queue {
    tsr_zero *zero;
    tsr_stream *stream;            /* owned */
    tsr_event *end;                /* of what the queue holds; owned */
    zero_work *first, *last;       /* in the order of the stream; owned */
    zero_work *spare;              /* to be used again; owned */
    TSR_ARRAY(tsr_event *) events; /* the same: recorded here only; owned */
    size_t events_taken;
} zero_queue;

/* A gathered copy. Costs the bytes of world * shard elements. */
typedef struct zero_copy {
    zero_param *param;
    tsr_dtype dtype;
    uint64_t version;
    int bindings;
    void *memory;
    size_t bytes;
    tsr_event *gathered;  /* the gather queue's, and goes back there */
    uint64_t read_on;     /* bit i: streams[i] of the tsr_zero waited for it */
    uint64_t released_on; /* likewise: released it, its event recorded then */
    struct zero_copy *next;
} zero_copy;

/* A buffer of the host's. */
typedef struct zero_host {
    void *memory;
    size_t bytes;
    tsr_event *read; /* its latest copy in; the in queue's */
    bool was_read;   /* that was its last use, else a copy out */
    zero_work *end;  /* gives the memory back, so that this cannot fail */
    struct zero_host *next; /* in the pool */
} zero_host;

struct zero_param {
    tsr_zero_param desc;
    int64_t numel, shard;      /* elements */
    uint64_t version;          /* of copies */
    bool away;                 /* the shard is on the host, or on its way out */
    zero_host *host;           /* holds the present weights; NULL: none */
    tsr_event *left, *arrived; /* of the out and in queues; NULL: not yet */
    bool persistent;
    size_t entry; /* 1 + index in the bucket that is being filled; 0: none */
    bool reduced; /* its gradient buffer is, or will be, written in this step */
    float *kept;  /* stage 1: (numel) sum of earlier micro-steps; owned */
    bool kept_valid;
    zero_copy *copies; /* of every version in use; owned */
};

/* A graph's hold on a copy. */
struct tsr_zero_binding {
    int64_t graph, id; /* for messages */
    zero_copy *copy;   /* NULL: none */
    int remaining;     /* uses left; -1: not said yet */
};

/* A tensor that was offloaded under an id. */
typedef struct zero_tensor {
    zero_host *host; /* NULL: not on the host */
    tsr_event *left; /* its latest copy out; the out queue's */
    size_t bytes;
    int reload; /* index; -1: none since the latest copy out */
} zero_tensor;

typedef struct zero_graph {
    tsr_map index;                        /* parameter id -> binding */
    TSR_ARRAY(tsr_zero_binding) bindings; /* callers know their addresses */
    tsr_map tensor_index;                 /* id -> tensors */
    TSR_ARRAY(zero_tensor *) tensors;     /* owned */
} zero_graph;

/* Memory that a tensor was copied back into. */
typedef struct zero_reload {
    void *memory;
    size_t bytes;
    zero_graph *graph;
    zero_tensor *tensor; /* NULL: offloaded again since */
    tsr_event *arrived;  /* the in queue's */
    uint64_t read_on;    /* bit i: streams[i] waited for it */
} zero_reload;

typedef struct zero_entry {
    zero_param *param;
    size_t offset;     /* of its slot */
    bool filled;       /* else taken, or its filling failed */
    uint64_t taken_on; /* bit i: streams[i] may write the slot */
    bool accumulate;   /* not its first of the step in which it was filled */
} zero_entry;

typedef struct zero_bucket {
    char *memory; /* being filled: shared or own; NULL: not yet */
    char *shared; /* of bucket_bytes, in `shared` of the tsr_zero; NULL: none */
    char *own;    /* (own_bytes) owned; NULL: not allocated yet */
    size_t own_bytes, used;
    tsr_event *reduced; /* its latest reduce; owned */
    TSR_ARRAY(zero_entry) entries;
} zero_bucket;

/* A stream of the caller's and the event that is recorded on it, and on no
 * other: so a wait for it never passes too early. */
typedef struct zero_stream {
    tsr_stream *stream;
    tsr_event *event; /* owned */
} zero_stream;

#define ZERO_STREAMS 64 /* bits of released_on */
#define ZERO_QUEUES 5

struct tsr_zero {
    tsr_zero_options options;
    tsr_allocator allocator;
    int world, rank;
    union {
        struct {
            zero_queue gather, reduce, fill, out, in;
        };
        zero_queue queues[ZERO_QUEUES];
    };
    zero_work *spare;    /* one for each block of our own memory; owned */
    tsr_map param_index; /* id -> params */
    TSR_ARRAY(zero_param *) params; /* owned */
    tsr_map graph_index;            /* id -> graphs */
    TSR_ARRAY(zero_graph *) graphs; /* owned */
    zero_stream streams[ZERO_STREAMS];
    int stream_count;
    TSR_ARRAY(zero_reload) reloads;
    zero_host *pool; /* buffers of the host's that hold nothing; owned */
    zero_bucket buckets[2];
    void *shared; /* symmetric buckets of all ranks; NULL: not taken */
    int filling;  /* bucket */
    bool sealed, profiling;
    bool last_micro_step; /* the step in hand ends with this backward */
    bool step_open;
    uint64_t history; /* hash of the collective calls since abort_step */
    tsr_zero_memory held;
};

/* ---- eager.c ---- */

tsr_status zero_not_given(const char *function, const char *argument);

/* What a call must be given, asked before anything else. */
static inline tsr_status zero_given(bool given, const char *function,
                                    const char *argument) {
    return given ? TSR_OK : zero_not_given(function, argument);
}

static inline tsr_status zero_check_call(const tsr_zero *zero,
                                         const tsr_stream *stream,
                                         const char *function) {
    TSR_TRY(zero_given(zero, function, "zero"));
    return zero_given(stream, function, "stream");
}

/* ---- eager_queue.c ---- */

tsr_status zero_queue_create(tsr_zero *zero, zero_queue *queue,
                             const char *name);
void zero_queue_release(zero_queue *queue); /* also if never created */
/* The host waits; takes a queue that was not created. */
tsr_status zero_queue_synchronize(zero_queue *queue);

/* Zeroed memory for a task of the queue; to be enqueued or disowned. */
tsr_status zero_own(zero_queue *queue, size_t count, size_t bytes,
                    void **out_context);
void zero_disown(void *context); /* takes NULL */
/* Runs the task (NULL: none) and then gives its context (zero_own) back, on
 * failure when the queue is synchronized. A task that fails takes the group
 * down: its peers wait for what it would send. */
tsr_status zero_enqueue_owned(tsr_task task, void *context);

/* An event that is recorded on this queue only. */
tsr_status zero_event_take(zero_queue *queue, tsr_event **out_event);
/* Waits for it may still be queued anywhere. Takes NULL. */
void zero_event_give(zero_queue *queue, tsr_event *event);

/* An allocator over the device's memory. */
tsr_allocator zero_own_allocator(tsr_zero *zero);
void zero_spare_release(tsr_zero *zero);
/* A work that will give memory of the host's back, behind what the queue holds
 * then. */
tsr_status zero_host_end(tsr_zero *zero, zero_work **out_end);
void zero_host_end_release(zero_work *end); /* takes NULL */
void zero_host_end_enqueue(zero_queue *queue, zero_work *end, void *memory,
                           size_t bytes);

/* The index of a caller's stream in `streams`. */
tsr_status zero_stream_index(tsr_zero *zero, tsr_stream *stream, int *out);
/* `waiter` goes on after what those of the caller's streams hold now (bit i:
 * streams[i]). */
tsr_status zero_after_all(tsr_zero *zero, tsr_stream *waiter, uint64_t streams);
/* The same for one. */
tsr_status zero_after(tsr_zero *zero, tsr_stream *waiter, tsr_stream *stream);
/* `waiter` goes on after what the queue holds now. */
tsr_status zero_after_queue(tsr_stream *waiter, const zero_queue *queue);
/* The same for a stream of the caller's. */
tsr_status zero_join(tsr_zero *zero, tsr_stream *stream,
                     const zero_queue *queue);
/* What every rank does at this point of its collective calls, about a parameter
 * or 0: ranks that did something else find out when they next communicate. */
typedef enum zero_act {
    ZERO_GATHER = 1,
    ZERO_SLOT,
    ZERO_REDUCE,
    ZERO_END
} zero_act;
void zero_remember(tsr_zero *zero, zero_act act, int64_t about);
void zero_forget(tsr_zero *zero);
/* Passes `status` on. A failure of this rank alone takes the group down: its
 * peers wait for it in a call that it will not make. */
tsr_status zero_give_up(const tsr_zero *zero, tsr_status status);

/* ---- eager_param.c ---- */

/* NOT_FOUND naming the id. */
tsr_status zero_find_param(const tsr_zero *zero, int64_t id,
                           zero_param **out_param);
/* INVALID_ARGUMENT naming the parameter. NULL is aligned. what: "shard" */
tsr_status zero_check_aligned(const zero_param *param, const char *what,
                              const void *memory, tsr_dtype dtype);
/* Zeroes the gradient buffer on the reduce stream. */
tsr_status zero_grad(tsr_zero *zero, const zero_param *param);

/* ---- eager_graph.c ---- */

void zero_graph_release(zero_graph *graph); /* takes NULL */
/* Ends a graph's bindings as if each had its last release. */
tsr_status zero_unbind_all(tsr_zero *zero, zero_graph *graph);
/* NOT_FOUND naming the id. */
tsr_status zero_find_graph(const tsr_zero *zero, int64_t id,
                           zero_graph **out_graph);
/* The graph's binding of a parameter; a graph may bind only what it named. */
tsr_status zero_find_binding(const tsr_zero *zero, int64_t graph, int64_t id,
                             tsr_zero_binding **out_binding);

static inline void *zero_address(const tsr_tensor *tensor) {
    return tensor->address ? tensor->address(tensor->context) : tensor->context;
}

/* ---- eager_copy.c ---- */

/* The copy of the latest version; NULL: none. */
zero_copy *zero_valid_copy(const zero_param *param, tsr_dtype dtype);
/* Gathers the latest version of those parameters, as one call. */
tsr_status zero_gather(tsr_zero *zero, zero_param *const *params,
                       const tsr_dtype *dtypes, size_t count,
                       tsr_stream *stream);
/* A use of the copy ends on streams[index]. */
tsr_status zero_released_on(tsr_zero *zero, zero_copy *copy, int index);
/* Ends a binding; its copy goes when nobody else needs it. */
tsr_status zero_end_binding(tsr_zero *zero, tsr_zero_binding *binding);
/* The same where releases are missing: after everything that the copy's readers
 * hold now. Nothing bound: nothing happens. */
tsr_status zero_unbind(tsr_zero *zero, tsr_zero_binding *binding);
/* Drops copies that nobody is bound to and that are of no use. */
tsr_status zero_sweep(tsr_zero *zero, zero_param *param);
/* Frees a copy that nobody is bound to; it must be in its parameter's list. */
tsr_status zero_copy_drop(tsr_zero *zero, zero_copy *copy);

/* ---- eager_gather.c ---- */

/* Gathers all persistent parameters without a valid copy, as one group. */
tsr_status zero_gather_persistent(tsr_zero *zero, tsr_stream *stream);

/* ---- eager_host.c ---- */

/* A buffer of `bytes` for a copy out, instead of `replaced` (NULL: none), which
 * is given back then. Copies that resident shards keep there go first where
 * room is short. Errors: OUT_OF_MEMORY. */
tsr_status zero_host_take(tsr_zero *zero, size_t bytes, zero_host *replaced,
                          zero_host **out_host);
/* Behind its last copy. Takes NULL. */
void zero_host_give(tsr_zero *zero, zero_host *host);
/* out: host = from; in: to = host. */
tsr_status zero_copy_out(tsr_zero *zero, zero_host *host, const void *from);
tsr_status zero_copy_in(tsr_zero *zero, zero_host *host, void *to);
void zero_pool_release(tsr_zero *zero);

/* ---- eager_offload.c ---- */

/* Drops the graph's tensors, after their copies and what the readers of those
 * that came back hold now. */
tsr_status zero_drop_tensors(tsr_zero *zero, zero_graph *graph);

/* ---- eager_shard.c ---- */

/* FAILED_PRECONDITION when the shard is on the host. */
tsr_status zero_check_resident(const zero_param *param);
/* The host's copy of a resident shard is of no use any more. */
void zero_host_drop(tsr_zero *zero, zero_param *param);
/* Frees the parameter, its copies apart. */
void zero_param_release(tsr_zero *zero, zero_param *param);

/* ---- eager_bucket.c ---- */

/* Of a bucket that holds no larger gradient. */
size_t zero_bucket_bytes(const tsr_zero *zero);
/* Room for `bytes`, all of the bucket being free. */
tsr_status zero_bucket_reserve(tsr_zero *zero, zero_bucket *bucket,
                               size_t bytes);
/* Reduces what waits in the bucket that is being filled. */
tsr_status zero_flush(tsr_zero *zero);
/* Drops it; the memory is free behind those who write slots now. */
tsr_status zero_drop_waiting(tsr_zero *zero);
/* Takes the memory of symmetric buckets. Collective, blocking; all ranks fail
 * alike. */
tsr_status zero_share_buckets(tsr_zero *zero);
void zero_bucket_release(tsr_zero *zero, zero_bucket *bucket);

/* ---- eager_slot.c ---- */

/* FAILED_PRECONDITION naming the first parameter whose slot was taken and not
 * filled: on all ranks, hence not a reason to give up. */
tsr_status zero_check_filled(const tsr_zero *zero);
/* Stage 1: puts sums of earlier micro-steps that the last one did not add to
 * into buckets. */
tsr_status zero_flush_kept(tsr_zero *zero);
void zero_kept_release(tsr_zero *zero, zero_param *param);

#endif
