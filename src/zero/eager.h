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
 *     stream made the gradient and after the bucket's latest reduce.
 *  4. The entries of a bucket name different parameters: one that comes again
 *     flushes first, so that its sums are added in order.
 *  5. Buckets are reduced in the order in which they were filled. */
#ifndef TSR_ZERO_EAGER_H
#define TSR_ZERO_EAGER_H

#include "base/array.h"
#include "base/map.h"
#include "tessera/eager.h"

typedef struct zero_param zero_param;

/* A gathered copy. Costs the bytes of world * shard elements. */
typedef struct zero_copy {
    zero_param *param;
    tsr_dtype dtype;
    uint64_t version;
    int bindings;
    void *memory;
    size_t bytes;
    tsr_event *gathered;  /* from gather_events, and goes back there */
    uint64_t released_on; /* bit i: streams[i] of the tsr_zero released it */
    struct zero_copy *next;
} zero_copy;

struct zero_param {
    tsr_zero_param desc;
    int64_t numel, shard; /* elements */
    uint64_t version;
    bool persistent;
    bool reduced; /* its gradient buffer was written in this step */
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
    size_t offset; /* of its slot */
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
    tsr_stream *gather_stream, *reduce_stream, *copy_stream; /* owned */
    tsr_event *filled;              /* on copy_stream */
    tsr_map param_index;            /* id -> params */
    TSR_ARRAY(zero_param *) params; /* owned */
    tsr_map graph_index;            /* id -> graphs */
    TSR_ARRAY(zero_graph *) graphs; /* owned */
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

/* ---- eager.c ---- */

/* NOT_FOUND naming the id. */
tsr_status zero_find_param(const tsr_zero *zero, int64_t id,
                           zero_param **out_param);
/* The graph's binding of a parameter; a graph may bind only what it named. */
tsr_status zero_find_binding(const tsr_zero *zero, int64_t graph, int64_t id,
                             zero_binding **out_binding);
/* The index of a caller's stream in `streams`. */
tsr_status zero_stream_index(tsr_zero *zero, tsr_stream *stream, int *out);
/* `waiter` goes on after what `stream` (the caller's) holds now. */
tsr_status zero_after(tsr_zero *zero, tsr_stream *waiter, tsr_stream *stream);
/* Makes the task run on `stream` and then frees its context (tsr_alloc). */
tsr_status zero_enqueue_owned(tsr_stream *stream, tsr_task task, void *context);

static inline void *zero_address(const tsr_tensor *tensor) {
    return tensor->address ? tensor->address(tensor->context) : tensor->context;
}

/* ---- eager_gather.c ---- */

/* Frees a copy that nobody is bound to; it must be in its parameter's list. */
tsr_status zero_copy_drop(tsr_zero *zero, zero_copy *copy);
/* Gathers the latest version of those parameters, as one call. */
tsr_status zero_gather(tsr_zero *zero, zero_param *const *params,
                       const tsr_dtype *dtypes, size_t count,
                       tsr_stream *stream);
/* Ends a binding; its copy goes when nobody else needs it. */
tsr_status zero_unbind(tsr_zero *zero, zero_binding *binding);
/* The copy of the latest version; NULL: none. */
zero_copy *zero_valid_copy(const zero_param *param, tsr_dtype dtype);

/* ---- eager_bucket.c ---- */

/* Reduces what waits in the bucket that is being filled. */
tsr_status zero_flush(tsr_zero *zero);
void zero_kept_release(tsr_zero *zero, zero_param *param);
void zero_bucket_release(tsr_zero *zero, zero_bucket *bucket);

#endif
