/* One DeepSpeed engine: its communicators, its parameters, its tsr_zero.
 *
 *   created --[register_param]--> collecting --[register_graph]--> open
 *   open --[destroy]--> gone
 *
 * The stage is known when the first graph is registered: until then parameters
 * are only collected. All calls with the registry's lock held. */
#ifndef TSR_TORCH_ENGINE_H
#define TSR_TORCH_ENGINE_H

#include "base/array.h"
#include "base/map.h"
#include "shim.h"
#include "storage.h"
#include "tensor.h"
#include "tessera/eager.h"

/* A parameter as DeepSpeed registered it. */
typedef struct dc_param {
    int64_t id;
    int64_t dims, *sizes; /* owned */
    int64_t numel;
    dc_tensor tensor; /* stage 3: the shard; else the parameter; owned */
    dc_tensor grad;   /* its gradient buffer; owned */
    int64_t grad_numel, grad_offset;
    bool sharded, persistent;
    bool away; /* on the host since offload_parameter */
    tsr_dtype stored, communicated, accumulated;
    tsr_dtype gathered; /* the dtype that allgather_param was last asked for */
} dc_param;

typedef struct dc_options {
    int rank, world, timeout_ms;
    int mpi; /* the ranks are on several hosts: those of an MPI launcher */
    tsr_exchange exchange;
    int64_t bucket_elements, free_threshold;
    int double_buffer, symmetric_memory;
    int sync_before_allgather, sync_after_allgather;
    int sync_before_reduce, sync_after_reduce;
    int64_t host_bytes;
} dc_options;

typedef struct dc_engine {
    struct dc_engine *next;
    int64_t handle;
    dc_options options;
    tsr_device *device;
    tsr_stream *stream; /* torch's thread, whichever that is */
    tsr_comm *gather_comm, *reduce_comm;
    tsr_kernel_table *kernels;
    dc_storage storage;
    tsr_zero *zero; /* NULL: collecting */
    int stage;
    bool profiling;
    tsr_map param_index; /* id -> params */
    TSR_ARRAY(dc_param *) params;
    tsr_map graphs; /* id -> 0 */
} dc_engine;

/* Collective over the options' ranks; blocks. Errors: those of
 * tsr_comm_create_host; over MPI those of dc_mpi_join, tsr_comm_create_mpi. */
tsr_status dc_engine_create(const dc_options *options, dc_engine **out_engine);
void dc_engine_release(dc_engine *engine); /* takes NULL; not collective */

bool dc_engine_has_graph(const dc_engine *engine, int64_t graph);
/* Errors: FAILED_PRECONDITION (another stage than before; parameters were
 * registered for another one); those of tsr_zero_register_graph. */
tsr_status dc_engine_register_graph(dc_engine *engine, int stage, int64_t graph,
                                    const int64_t *ids, size_t count);
tsr_status dc_engine_reset(dc_engine *engine);
/* Brings back shards that are on the host: before they are written. */
tsr_status dc_engine_reload_parameters(dc_engine *engine);
/* All parameters' weights were written. */
tsr_status dc_engine_weights_changed(dc_engine *engine);

/* ---- param.c ---- */

/* NOT_FOUND naming the id. */
tsr_status dc_find_param(const dc_engine *engine, int64_t id,
                         dc_param **out_param);
/* tensor, grad: borrowed; a reference to each is kept. dtype: torch's, of
 * gradients on the wire; -1: the gradient buffer's. */
typedef struct dc_registration {
    int64_t id, dims;
    const int64_t *sizes;
    dc_tensor tensor, grad;
    int64_t grad_offset;
    bool sharded, persistent;
    int32_t dtype;
} dc_registration;
tsr_status dc_param_register(dc_engine *engine, const dc_registration *what);
tsr_status dc_param_update_grad(dc_engine *engine, int64_t id, dc_tensor grad,
                                int64_t offset);
void dc_param_release(dc_param *param); /* takes NULL */
/* Tells the tsr_zero of it. */
tsr_status dc_param_enter(dc_engine *engine, dc_param *param);

#endif
