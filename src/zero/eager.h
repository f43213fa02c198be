/* Inside of a tsr_zero.
 *
 * It has streams of its own: gather and reduce, with a communicator each, and
 * copy, which fills buckets, so that a bucket on the wire holds up neither the
 * caller nor the filling of the other one.
 *
 * Invariants
 *  1. A copy's storage is allocated and freed on the gather stream; before it
 *     is freed, that stream waits for every stream that released it.
 *  2. A copy is shared by all bindings of its version and dtype. It is freed
 *     when nothing is bound to it, unless its parameter is persistent and the
 *     copy is of the latest version.
 *  3. A slot of a bucket is written on the copy stream, after the caller's
 *     stream made the gradient and after the bucket's latest reduce. Gradient
 *     buffers are written on the reduce stream only.
 *  4. The entries of a bucket name different parameters: one that comes again
 *     flushes first, so that its sums are added in order.
 *  5. Buckets are reduced in the order in which they were filled. */
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
    tsr_stream *stream;      /* owned */
    zero_work *first, *last; /* in the order of the stream; owned */
} zero_queue;

/* A gathered copy. Costs the bytes of world * shard elements. */
typedef struct zero_copy {
    zero_param *param;
    tsr_dtype dtype;
    uint64_t version;
    int bindings;
    void *memory;
    size_t bytes;
    tsr_event *gathered;  /* from gather_events, and goes back there */
    uint64_t read_on;     /* bit i: streams[i] of the tsr_zero waited for it */
    uint64_t released_on; /* likewise: released it, its event recorded then */
    struct zero_copy *next;
} zero_copy;

struct zero_param {
    tsr_zero_param desc;
    int64_t numel, shard; /* elements */
    uint64_t version;
    bool persistent;
    bool reduced; /* its gradient buffer is, or will be, written in this step */
    float *kept;  /* stage 1: (numel) sum of earlier micro-steps; owned */
    bool kept_valid;
    zero_copy *copies; /* of every version in use; owned */
};

/* A graph's hold on a copy. */
typedef struct zero_binding {
    zero_copy *copy; /* NULL: none */
    int remaining;   /* uses left; -1: not said yet */
} zero_binding;

typedef struct zero_graph {
    tsr_map index; /* parameter id -> binding */
    TSR_ARRAY(zero_binding) bindings;
} zero_graph;

typedef struct zero_entry {
    zero_param *param;
    size_t offset;   /* of its slot */
    bool accumulate; /* not its first of the step in which it came */
} zero_entry;

typedef struct zero_bucket {
    char *memory; /* NULL: not allocated yet */
    size_t bytes, used;
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

struct tsr_zero {
    tsr_zero_options options;
    tsr_allocator allocator;
    int world, rank;
    zero_queue gather, reduce, copy;
    zero_work *spare; /* one for each block of our own memory; owned */
    tsr_event *gathers, *reduces, *copies; /* each recorded on that queue */
    tsr_map param_index;                   /* id -> params */
    TSR_ARRAY(zero_param *) params;        /* owned */
    tsr_map graph_index;                   /* id -> graphs */
    TSR_ARRAY(zero_graph *) graphs;        /* owned */
    zero_stream streams[ZERO_STREAMS];
    int stream_count;
    size_t copies_alive;
    TSR_ARRAY(tsr_event *) gather_events; /* unused; recorded on gather only */
    zero_bucket buckets[2];
    int filling; /* bucket */
    bool sealed, profiling;
    bool last_micro_step; /* the step in hand ends with this backward */
    bool step_open;
    tsr_zero_memory held;
};

/* ---- eager_queue.c ---- */

/* Zeroed memory for a task; to be enqueued, or given to zero_disown. */
tsr_status zero_own(size_t count, size_t bytes, void **out_context);
void zero_disown(void *context); /* takes NULL */
/* Runs the task (NULL: none) and then gives its context (zero_own) back. */
tsr_status zero_enqueue_owned(zero_queue *queue, tsr_task task, void *context);
tsr_status zero_queue_synchronize(zero_queue *queue);
/* An allocator over the device's memory. */
tsr_allocator zero_own_allocator(tsr_zero *zero);
void zero_spare_release(tsr_zero *zero);

/* The index of a caller's stream in `streams`. */
tsr_status zero_stream_index(tsr_zero *zero, tsr_stream *stream, int *out);
/* `waiter` goes on after what `stream` (the caller's) holds now. */
tsr_status zero_after(tsr_zero *zero, tsr_stream *waiter, tsr_stream *stream);
/* `waiter` goes on after what the queue holds now; `event` is the queue's. */
tsr_status zero_after_queue(tsr_stream *waiter, const zero_queue *queue,
                            tsr_event *event);
/* Passes `status` on. A failure of this rank alone takes the group down: its
 * peers wait for it in a call that it will not make. */
tsr_status zero_give_up(tsr_zero *zero, tsr_status status);

/* ---- eager_param.c ---- */

/* NOT_FOUND naming the id. */
tsr_status zero_find_param(const tsr_zero *zero, int64_t id,
                           zero_param **out_param);
/* Zeroes the gradient buffer on the reduce stream. */
tsr_status zero_grad(tsr_zero *zero, const zero_param *param);

/* ---- eager.c ---- */

/* The graph's binding of a parameter; a graph may bind only what it named. */
tsr_status zero_find_binding(const tsr_zero *zero, int64_t graph, int64_t id,
                             zero_binding **out_binding);

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
tsr_status zero_end_binding(tsr_zero *zero, zero_binding *binding);
/* The same where releases are missing: after everything that the copy's readers
 * hold now. Nothing bound: nothing happens. */
tsr_status zero_unbind(tsr_zero *zero, zero_binding *binding);
/* Drops copies that nobody is bound to and that are of no use. */
tsr_status zero_sweep(tsr_zero *zero, zero_param *param);
/* Frees a copy that nobody is bound to; it must be in its parameter's list. */
tsr_status zero_copy_drop(tsr_zero *zero, zero_copy *copy);

/* ---- eager_gather.c ---- */

/* Gathers all persistent parameters without a valid copy, as one group. */
tsr_status zero_gather_persistent(tsr_zero *zero, tsr_stream *stream);

/* ---- eager_bucket.c ---- */

/* A gradient of the parameter waits in a bucket. */
bool zero_waits(const tsr_zero *zero, const zero_param *param);
/* Reduces what waits in the bucket that is being filled. */
tsr_status zero_flush(tsr_zero *zero);
/* Stage 1: puts sums of earlier micro-steps that the last one did not add to
 * into buckets. */
tsr_status zero_flush_kept(tsr_zero *zero);
void zero_kept_release(tsr_zero *zero, zero_param *param);
void zero_bucket_release(tsr_zero *zero, zero_bucket *bucket);

#endif
