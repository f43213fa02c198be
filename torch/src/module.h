/* The functions that tessera_torch calls, through ctypes. Each returns a
 * tsr_status; the message is then in tsr_torch_error. They act on the current
 * engine unless they name one. Thread-safe. */
#ifndef TSR_TORCH_MODULE_H
#define TSR_TORCH_MODULE_H

#include "engine.h"

/* Finds torch in this process and defines the ops of a release of DeepSpeed,
 * 100 * minor + patch. Idempotent. */
TSR_API tsr_status tsr_torch_load(int release);
/* The index-th of its schemas; NULL: it has no more, or is not known. */
TSR_API const char *tsr_torch_schema(int release, size_t index);
/* Of the calling thread's latest failed call; borrowed. */
TSR_API const char *tsr_torch_error(void);
/* For the exchange of dc_options. */
TSR_API tsr_status tsr_torch_fail(int status, const char *message);

/* Makes an engine, and makes it current. Collective. */
TSR_API tsr_status tsr_torch_engine_create(const dc_options *options,
                                           int64_t *out_handle);
TSR_API tsr_status tsr_torch_engine_destroy(int64_t handle);
/* The process ends, by an exception or not: MPI, if it was joined, is left.
 * Engines still there are destroyed. */
TSR_API tsr_status tsr_torch_leave(int failed);
/* 0: none. */
TSR_API int64_t tsr_torch_current(void);
TSR_API tsr_status tsr_torch_set_current(int64_t handle);

TSR_API tsr_status tsr_torch_reset(void);
TSR_API tsr_status tsr_torch_register_graph(int stage, int64_t graph,
                                            const int64_t *ids, size_t count);
TSR_API tsr_status tsr_torch_set_persistent(int64_t id);
TSR_API tsr_status tsr_torch_enable_profiling(int on);
TSR_API int tsr_torch_is_profiling(void);
TSR_API tsr_status tsr_torch_start_forward(void);
TSR_API tsr_status tsr_torch_end_forward(void);
TSR_API tsr_status tsr_torch_start_backward(int update);
TSR_API tsr_status tsr_torch_end_backward(int64_t graph);
TSR_API tsr_status tsr_torch_abort_step(void);
TSR_API tsr_status tsr_torch_invalidate_gathered_param(int64_t id);
TSR_API tsr_status tsr_torch_clear_all_gathered_params(void);
/* Before and after all weights are written. */
TSR_API tsr_status tsr_torch_reload_parameters(void);
TSR_API tsr_status tsr_torch_weights_changed(void);

/* Bytes: gathered, buckets, reloaded, host, host's pool, of torch's allocator.
 */
TSR_API tsr_status tsr_torch_memory(int64_t out_bytes[6]);

#endif
