/* The ZeRO runtime for callers that decide as they go: gather, use, release,
 * reduce, in whatever order their program takes. A caller that knows its whole
 * step ahead compiles a plan instead (passes.h, zero.h).
 *
 * One tsr_zero owns parameters, gathered copies and gradient buckets; graphs
 * own use counts and bindings. Several tsr_zero live side by side without
 * knowing each other.
 *
 * Calls that order anything take the caller's stream, which outlives the
 * tsr_zero. What they enqueue runs on streams of the tsr_zero and meets the
 * caller's by events: no call waits for the device unless it says so. All ranks
 * make the collective calls (marked so) in the same order, and between them the
 * same calls that change which copies are valid and which shards are resident.
 * A rank that alone runs out of memory in a collective call aborts the group:
 * its peers' calls return UNAVAILABLE naming it. One whose argument alone was
 * refused (no gradient, another address than the slot's) has not made that
 * call: abort_step on all ranks makes good for it; else, as with any ranks that
 * reduce or gather other parameters, or in another order, what they communicate
 * next fails with FAILED_PRECONDITION ("ranks disagree") before any data of
 * theirs is mixed. A tsr_zero takes up to 64
 * streams of the caller's; a call with one more fails with INVALID_ARGUMENT,
 * and aborts the group if it is collective. NULL, where it is not allowed, is
 * refused with INVALID_ARGUMENT naming the function and the argument: nothing
 * has happened then. (Calls that return no status must have their tsr_zero.)
 *
 *   copy:   absent --[allgather_param, prefetch_params_fused]--> gathering
 *           gathering --[event]--> valid --[last release_param]--> absent
 *           valid --[weights_changed, invalidate]--> stale
 *           stale --[last release_param]--> absent
 *   shard:  resident --[offload_parameter]--> leaving --[event]--> on host
 *           on host --[reload_parameter]--> arriving --[event]--> resident
 *
 *   bucket: empty --[reduce_grad, grad_slot]--> filling
 *           filling --[full, or end_backward]--> on the wire --> empty
 *
 * At most one copy per (graph, parameter) is bound, by that graph's latest
 * allgather_param; wait_allgather and release_param act on it. Graphs that want
 * the same version and dtype share the storage.
 *
 * Gradients lie in a bucket in the order in which they were given or their
 * slots taken, and are reduced in that order, by one call a bucket. A bucket
 * leaves (it is *flushed*) at once when the slot that leaves no room in it is
 * filled; else before the next slot, where that does not fit or is of a
 * parameter that has one there; else in end_backward. */
#ifndef TESSERA_EAGER_H
#define TESSERA_EAGER_H

#include "tessera/comm.h"
#include "tessera/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tsr_zero tsr_zero; /* one thread at a time */

/* Memory from outside. A block is used by work enqueued on `stream` after
 * alloc, and may be reused by work enqueued on `stream` after free. */
typedef struct tsr_allocator {
    /* bytes > 0; 64-byte aligned. */
    tsr_status (*alloc)(void *context, size_t bytes, tsr_stream *stream,
                        void **out_memory);
    void (*free)(void *context, void *memory, size_t bytes, tsr_stream *stream);
    void *context; /* borrowed */
} tsr_allocator;

/* Memory of the caller that may be swapped: its address, a multiple of the
 * bytes of an element, is asked for at each call. */
typedef struct tsr_tensor {
    void *(*address)(void *context); /* NULL: context is the address */
    void *context;                   /* borrowed */
    /* For shards that are offloaded; both or none. None: the memory stays (and
     * is written again by reload_parameter, wherever `address` says it is).
     * vacate: the contents are on the host; the memory may be used for other
     * things by work enqueued on `stream` from now on. occupy: there must be
     * memory again, used by work enqueued on `stream` from now on; `address`
     * says where. `stream` is one of the tsr_zero's. */
    void (*vacate)(void *context, tsr_stream *stream);
    tsr_status (*occupy)(void *context, tsr_stream *stream);
} tsr_tensor;

/* Where gradients are multiplied by 1 / world. */
typedef enum tsr_average {
    TSR_AVERAGE_AFTER = 0, /* the sum */
    TSR_AVERAGE_BEFORE,    /* each rank's part, before it is sent */
    TSR_AVERAGE_NONE,
} tsr_average;

typedef struct tsr_zero_settings {
    int stage;             /* 1, 2: whole parameters; 3: sharded ones */
    size_t bucket_bytes;   /* reduced when so many wait; 0: 64 MiB */
    size_t host_bytes;     /* budget of the host's buffers; 0: no offload */
    bool double_buffer;    /* one bucket is filled while one is on the wire */
    bool symmetric_memory; /* stage 3: buckets in memory that all ranks map, so
                              that peers reduce from where gradients lie: taken
                              from the reduce communicator at the first seal.
                              Larger gradients than a bucket lie elsewhere. The
                              bits are the same */
    bool sync_before_allgather, sync_after_allgather; /* the host waits */
    bool sync_before_reduce, sync_after_reduce;
    tsr_average average;
} tsr_zero_settings;

typedef struct tsr_zero_options {
    tsr_device *device; /* all borrowed, outlive the tsr_zero */
    tsr_comm *gather_comm, *reduce_comm; /* two, of the same world and rank:
                                            see tsr_comm_split */
    const tsr_kernel_table *kernels;     /* for casts */
    const tsr_allocator *allocator;      /* NULL: the device's memory */
    tsr_zero_settings settings;
} tsr_zero_options;

/* Errors: INVALID_ARGUMENT (options, settings); UNSUPPORTED (symmetric_memory
 * over a communicator without TSR_COMM_SHARED_MEMORY); OUT_OF_MEMORY. Not
 * collective. */
TSR_API tsr_status tsr_zero_create(const tsr_zero_options *options,
                                   tsr_zero **out_zero);
/* Waits for everything enqueued, on the streams that calls were given too, then
 * frees. Takes NULL. */
TSR_API void tsr_zero_release(tsr_zero *zero);

/* A parameter. dtypes: stored (of the shard), gathered (default of
 * allgather_param), communicated (of gradients on the wire), accumulated (of
 * the gradient buffer). */
typedef struct tsr_zero_param {
    int64_t id;
    tsr_type type;   /* whole; its dtype is the stored one */
    int64_t granule; /* a shard is a multiple of so many elements; 0: 1 */
    /* Aligned to an element of the stored and of the accumulated dtype. */
    tsr_tensor shard; /* stage 3: (shard elements); 1, 2: unused */
    tsr_tensor grad;  /* stage 3: (shard elements); 1, 2: (slice_count) */
    bool frozen;      /* has no gradient */
    tsr_dtype gathered_dtype, communicated_dtype, accumulated_dtype;
    bool persistent; /* stays gathered */
    /* Stages 1 and 2: this rank's elements of the whole gradient; 0 is fine. */
    int64_t slice_offset, slice_count;
} tsr_zero_param;

/* Also replaces an earlier parameter of that id, whose copies become stale.
 * Zeroes its gradient buffer, before what comes on `stream` later. Errors:
 * INVALID_ARGUMENT naming the field; FAILED_PRECONDITION (a gradient of the
 * earlier one waits to be reduced, or its slot is taken: end_backward or
 * abort_step first). */
TSR_API tsr_status tsr_zero_register_param(tsr_zero *zero,
                                           const tsr_zero_param *param,
                                           tsr_stream *stream);
/* Zeroes the new buffer likewise. Gradients that wait go into it, and those of
 * slots that are taken. Errors: NOT_FOUND; INVALID_ARGUMENT (NULL, or not
 * aligned). */
TSR_API tsr_status tsr_zero_update_param_grad_buffer(tsr_zero *zero, int64_t id,
                                                     tsr_tensor grad,
                                                     tsr_stream *stream);
/* Stages 1 and 2: the same, of other elements of the whole gradient. Errors:
 * also FAILED_PRECONDITION (stage 3); INVALID_ARGUMENT (not within it). */
TSR_API tsr_status tsr_zero_update_param_grad_slice(tsr_zero *zero, int64_t id,
                                                    tsr_tensor grad,
                                                    int64_t slice_offset,
                                                    int64_t slice_count,
                                                    tsr_stream *stream);
/* The same weights elsewhere: copies stay valid (else weights_changed). Errors:
 * NOT_FOUND; INVALID_ARGUMENT (not aligned); FAILED_PRECONDITION (the shard is
 * on the host). */
TSR_API tsr_status tsr_zero_update_param_shard(tsr_zero *zero, int64_t id,
                                               tsr_tensor shard);

/* Checks that all ranks registered alike, with settings alike, takes the memory
 * of symmetric buckets, and gathers persistent parameters as one group.
 * Implicit at the first collective, and after later registrations. Collective;
 * blocks. Errors, on all ranks: FAILED_PRECONDITION naming the first parameter
 * that differs, or the persistent one whose shard is on the host; those of
 * tsr_comm_shared_alloc. */
TSR_API tsr_status tsr_zero_seal(tsr_zero *zero, tsr_stream *stream);

/* Re-registering replaces: it ends the graph's bindings and drops its tensors
 * (below), after what streams that waited for them hold now. Errors: NOT_FOUND
 * (an id). */
TSR_API tsr_status tsr_zero_register_graph(tsr_zero *zero, int64_t graph,
                                           const int64_t *ids, size_t count);

/* A graph's hold on a parameter: one for each pair, whatever copy is bound.
 * Owned by the tsr_zero, until the graph is registered anew, reset is called or
 * the tsr_zero goes. */
typedef struct tsr_zero_binding tsr_zero_binding;

/* A gathered parameter: memory of the copy; the padded tail is beyond it. */
typedef struct tsr_view {
    void *data;
    tsr_type type;
    tsr_zero_binding *binding; /* borrowed */
} tsr_view;

/* Binds the graph to a valid copy of the latest version, gathering one if there
 * is none: on the gather stream, after what `stream` holds now. The data is
 * there after wait_allgather, until the last release_param.
 * Cost: a copy of the whole parameter; a cast runs on the shard, before the
 * wire. Collective unless a copy is valid, which is so on all ranks or none.
 * Errors: NOT_FOUND; INVALID_ARGUMENT (dtype is not f32, bf16 or f16; no
 * shard, or one that is not aligned); FAILED_PRECONDITION (stages 1 and 2
 * gather nothing); OUT_OF_MEMORY; UNAVAILABLE. Those of all calls that gather.
 */
TSR_API tsr_status tsr_zero_allgather_param(tsr_zero *zero, int64_t graph,
                                            int64_t id, tsr_dtype dtype,
                                            tsr_stream *stream,
                                            tsr_view *out_view);
/* Gathers in one call those of `ids` that have no valid copy in their dtype
 * (`dtypes` NULL: the parameter's gathered one). Binds nothing: a copy that no
 * graph comes to bind stays until it is stale. Collective likewise. */
TSR_API tsr_status tsr_zero_prefetch_params_fused(tsr_zero *zero,
                                                  const int64_t *ids,
                                                  const tsr_dtype *dtypes,
                                                  size_t count,
                                                  tsr_stream *stream);
/* Makes `stream` wait for the bound copy, whoever gathered it. Idempotent.
 * Errors: FAILED_PRECONDITION (the graph has no copy); UNAVAILABLE (the group
 * has failed). */
TSR_API tsr_status tsr_zero_wait_allgather(tsr_zero *zero, int64_t graph,
                                           int64_t id, tsr_stream *stream);
/* One of `users` uses of the bound copy ends here on `stream`; the first after
 * binding says how many there are. At the last one the binding ends, and the
 * storage is freed when no graph is bound to it and it is not persistent.
 * Errors: FAILED_PRECONDITION (nothing bound, unless profiling);
 * INVALID_ARGUMENT (users < 1). */
TSR_API tsr_status tsr_zero_release_param(tsr_zero *zero, int64_t graph,
                                          int64_t id, int users,
                                          tsr_stream *stream);
/* The same two, of what view.binding is bound to now: nothing is looked up.
 * Errors: those above but NOT_FOUND. */
TSR_API tsr_status tsr_zero_wait_binding(tsr_zero *zero,
                                         tsr_zero_binding *binding,
                                         tsr_stream *stream);
TSR_API tsr_status tsr_zero_release_binding(tsr_zero *zero,
                                            tsr_zero_binding *binding,
                                            int users, tsr_stream *stream);

/* Adds a whole gradient (communicated dtype; borrowed until `stream` has passed
 * wait_grads_copied, end_backward or abort_step) to the parameter's gradient
 * buffer, summed over ranks and averaged. It goes into the parameter's slot
 * where one is taken (grad_slot), else into the next one of the bucket. The
 * first call of a step overwrites the buffer, later ones add, over all graphs.
 * Stage 1 keeps their sum (4 bytes an element, which stay allocated) until the
 * last micro-step. Does nothing while profiling. Collective: the bucket flushes
 * at the same call on all ranks.
 * Errors: NOT_FOUND; INVALID_ARGUMENT (frozen; no gradient; `grad` lies in a
 * bucket, but not in a slot that is taken for this parameter);
 * FAILED_PRECONDITION (it would flush, and a slot that was taken has not been
 * reduced: names that parameter; on all ranks, nothing has happened);
 * OUT_OF_MEMORY, UNAVAILABLE (the step can then only be aborted). */
TSR_API tsr_status tsr_zero_reduce_grad(tsr_zero *zero, int64_t graph,
                                        int64_t id, const void *grad,
                                        tsr_stream *stream);
/* Takes the slot that the parameter's next gradient will have, so that a kernel
 * computes the gradient there and reduce_grad copies nothing.
 *
 * *out_slot  (elements of the parameter) communicated dtype, 64-byte aligned;
 *            holds anything. To be written by what comes on `stream`, which
 *            waits until the bucket's previous reduce is through, or behind
 *            that; the caller's until reduce_grad with this address. NULL where
 *            a gradient must lie in the caller's memory: in stage 1 before the
 *            last micro-step, and while profiling
 *
 * reduce_grad of the parameter, of whichever graph, then fills the slot, behind
 * what its stream and those that took the slot hold: in place, or by a copy
 * where `grad` lies elsewhere. Until then taking it again gives the same
 * address, and nothing may flush the bucket; abort_step drops it.
 * Collective, and may flush, like reduce_grad. Errors: those of reduce_grad. */
TSR_API tsr_status tsr_zero_grad_slot(tsr_zero *zero, int64_t graph, int64_t id,
                                      tsr_stream *stream, void **out_slot);

/* The first start_backward after a last micro-step's end, or after abort_step,
 * opens a step; `update` says that this micro-step is its last, which still
 * accumulates. One a micro-step, however many graphs it has. */
TSR_API tsr_status tsr_zero_start_backward(tsr_zero *zero, bool update);
/* Makes `stream` wait until every gradient given to reduce_grad so far has been
 * copied: their memory may then be reused by what comes on `stream` (not slots:
 * reduce_grad took these back). */
TSR_API tsr_status tsr_zero_wait_grads_copied(tsr_zero *zero,
                                              tsr_stream *stream);
/* Flushes buckets and makes `stream` wait for the reduces; gradients given to
 * reduce_grad may then go. In the last micro-step also zeroes every gradient
 * buffer that no reduce of this step wrote (later ones add to it: each graph of
 * the micro-step may end so), and makes `stream` wait for gathers begun, so
 * that it may write shards. Who writes them elsewhere calls synchronize first.
 * Does nothing while profiling. Collective. Errors: FAILED_PRECONDITION (a slot
 * that was taken has not been reduced: names the parameter; on all ranks,
 * nothing has happened); OUT_OF_MEMORY; UNAVAILABLE. */
TSR_API tsr_status tsr_zero_end_backward(tsr_zero *zero, tsr_stream *stream);
/* Forward or backward raised, on all ranks at the same call: use counts,
 * bindings, waiting gradients and taken slots are dropped (what `stream` and
 * those that took a slot hold now may still write it), gradients reduced so far
 * count as not reduced; until the next step writes or zeroes their buffers,
 * these hold anything. What is on the host stays. `stream` waits as in
 * end_backward. */
TSR_API tsr_status tsr_zero_abort_step(tsr_zero *zero, tsr_stream *stream);

/* The weights of these parameters were written by what `stream` holds now:
 * copies of the old version are stale, and freed unless a graph is bound to
 * them. */
TSR_API tsr_status tsr_zero_weights_changed(tsr_zero *zero, const int64_t *ids,
                                            size_t count, tsr_stream *stream);
/* Keeps the parameter gathered from now on, each version from the first call
 * that asks for it; gathers it at once. Until it is registered anew.
 * Collective. */
TSR_API tsr_status tsr_zero_set_persistent(tsr_zero *zero, int64_t id,
                                           tsr_stream *stream);
/* Copies become stale, as by weights_changed; persistent ones stay. */
TSR_API tsr_status tsr_zero_invalidate_gathered_param(tsr_zero *zero,
                                                      int64_t id);
TSR_API tsr_status tsr_zero_clear_all_gathered_params(tsr_zero *zero);

/* ---- offload: device to host, and back ----
 *
 * The host is a second space: copies live in buffers of the host's, each as
 * large as what it holds, taken from a pool that goes back with the tsr_zero;
 * `host_bytes` of the settings bounds buffers in use and in the pool together
 * (one given up while its copy is in flight goes after that). Copies run on two
 * streams of the tsr_zero, out and in. None of these calls is collective or
 * waits.
 *
 *   tensor: absent --[offload_tensor]--> leaving --[event]--> on host
 *           on host --[reload_tensor]--> arriving --[event]--> back
 *           back --[free_tensors]--> absent
 *           any --[its graph is dropped or registered anew]--> absent */

/* Copies a tensor to the host, after what `stream` holds now. `id` is the
 * caller's, within the graph; an earlier copy under that id is replaced, after
 * its copies; what reload_tensor gave of it stays until free_tensors. The
 * tensor is borrowed until `stream` has passed wait_offload; it may be such a
 * reloaded one. *out_host (may be NULL): the host's buffer, whose bytes are
 * there when the copy is through and until reload_tensor.
 * Errors: NOT_FOUND (graph); INVALID_ARGUMENT (NULL, 0 bytes); OUT_OF_MEMORY
 * (the budget, or the host): the earlier copy is then still there. */
TSR_API tsr_status tsr_zero_offload_tensor(tsr_zero *zero, int64_t graph,
                                           int64_t id, const void *tensor,
                                           size_t bytes, tsr_stream *stream,
                                           void **out_host);
/* Makes `stream` wait for the latest copy out: the tensor's bytes may then be
 * reused by what comes on `stream`. Idempotent. Errors: NOT_FOUND (the graph,
 * or it has never offloaded that id). */
TSR_API tsr_status tsr_zero_wait_offload(tsr_zero *zero, int64_t graph,
                                         int64_t id, tsr_stream *stream);
/* Copies it back into memory of the allocator, after the copy out and after
 * what `stream` holds now. The data is there after wait_reload, until
 * free_tensors. The host's buffer goes back to the pool after the copy. Again
 * before free_tensors: the same memory, no copy. *out_tensor may be NULL.
 * Errors: NOT_FOUND (as wait_offload; or it was reloaded and freed);
 * OUT_OF_MEMORY. */
TSR_API tsr_status tsr_zero_reload_tensor(tsr_zero *zero, int64_t graph,
                                          int64_t id, tsr_stream *stream,
                                          void **out_tensor);
/* Makes `stream` wait for the copy back; *out_tensor (may be NULL) is then its
 * memory. A tensor that was not reloaded since it was offloaded, or was freed,
 * or was never offloaded gives `input` (borrowed) and waits for nothing.
 * Errors: NOT_FOUND (graph). */
TSR_API tsr_status tsr_zero_wait_reload(tsr_zero *zero, int64_t graph,
                                        int64_t id, void *input,
                                        tsr_stream *stream, void **out_tensor);
/* The last readers of these reloaded tensors are on `stream`: each is freed
 * after them. Addresses that reload_tensor did not give are left alone: they
 * are the caller's. Does nothing while profiling. */
TSR_API tsr_status tsr_zero_free_tensors(tsr_zero *zero, void *const *tensors,
                                         size_t count, tsr_stream *stream);

/* Moves the parameter's shard to the host, after what `stream` holds now; where
 * the host has these weights already, nothing is copied. The shard's memory is
 * given up (tsr_tensor.vacate) behind the copy and the gathers that read it.
 * Until reload_parameter nobody may read or write the shard: gathers that need
 * it, weights_changed, update_param_shard and register_param of it fail with
 * FAILED_PRECONDITION. Valid copies stay in use. No-op when it is on its way
 * out or there. What is on the host goes with the tsr_zero.
 * Errors: NOT_FOUND; INVALID_ARGUMENT (no shard: stages 1, 2, or NULL);
 * OUT_OF_MEMORY (the budget, or the host). */
TSR_API tsr_status tsr_zero_offload_parameter(tsr_zero *zero, int64_t id,
                                              tsr_stream *stream);
/* Brings the shard back (tsr_tensor.occupy), after what `stream` holds now;
 * `stream` and later gathers go on after the copy. The host keeps its copy, so
 * that an unchanged shard need not be copied out again, until weights_changed
 * or register_param, or until another offload needs the room (kept copies go in
 * the order of registration). No-op when it is resident.
 * Errors: NOT_FOUND; INVALID_ARGUMENT (stages 1, 2; no memory after occupy);
 * those of occupy. The shard is then still on the host. */
TSR_API tsr_status tsr_zero_reload_parameter(tsr_zero *zero, int64_t id,
                                             tsr_stream *stream);

/* ---- all ---- */

/* No op depends on these two; they bracket a forward for traces. */
TSR_API tsr_status tsr_zero_start_forward(tsr_zero *zero);
TSR_API tsr_status tsr_zero_end_forward(tsr_zero *zero);

TSR_API void tsr_zero_enable_profiling(tsr_zero *zero, bool on);
TSR_API bool tsr_zero_is_profiling(const tsr_zero *zero);
/* Drops graphs, their bindings and their tensors, after what `stream` and their
 * readers hold now. Parameters, copies that nobody was bound to, buckets,
 * gradients that wait in them and slots that are taken stay. */
TSR_API tsr_status tsr_zero_reset(tsr_zero *zero, tsr_stream *stream);
/* The host waits for everything enqueued on streams of the tsr_zero; returns
 * the first failure on them. A rank whose own work fails there (a cast) takes
 * the group down. */
TSR_API tsr_status tsr_zero_synchronize(tsr_zero *zero);

/* Bytes held now, by calls made so far. */
typedef struct tsr_zero_memory {
    size_t gathered;  /* copies of parameters, and casts on their way */
    size_t buckets;   /* and stage 1's sums */
    size_t reloaded;  /* tensors that came back and were not freed */
    size_t host;      /* what is offloaded, and kept copies of shards */
    size_t host_pool; /* buffers of the host's that hold nothing */
} tsr_zero_memory;
TSR_API tsr_zero_memory tsr_zero_memory_held(const tsr_zero *zero);

#ifdef __cplusplus
}
#endif
#endif
