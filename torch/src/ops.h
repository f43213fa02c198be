/* The ops torch.ops.dc.*: schemas, kernels for the CPU and for tensors without
 * data (Meta). */
#ifndef TSR_TORCH_OPS_H
#define TSR_TORCH_OPS_H

#include "shim.h"

/* DeepSpeed 0.minor.patch; its ops change between patches too. */
#define DC_RELEASE(minor, patch) ((minor)*100 + (patch))

/* The index-th schema of a release; NULL: it has no more, or is not known. */
const char *dc_ops_schema(int release, size_t index);

/* Defines the ops of a DeepSpeed release, once in a process.
 * Errors: FAILED_PRECONDITION (defined already: the original library is
 * loaded); UNSUPPORTED (a version whose ops are not known). */
tsr_status dc_ops_register(int release);

/* ---- arguments: each is taken once, and is then the caller's ---- */

static inline dc_tensor dc_take_tensor(dc_value value) {
    return (dc_tensor)(uintptr_t)value;
}
static inline dc_value dc_give_tensor(dc_tensor tensor) {
    return (dc_value)(uintptr_t)tensor;
}
/* *out_value is unchanged for None. */
bool dc_take_optional(dc_value value, dc_value *out_value);
/* torch's dtype; -1: None. */
int32_t dc_take_dtype(dc_value value);
/* Its items, as values, in an array of the caller's (tsr_free). */
tsr_status dc_take_list(dc_value value, dc_value **out_items,
                        size_t *out_count);

typedef struct dc_op {
    const char *name;
    dc_kernel cpu, meta; /* NULL: none */
} dc_op;

/* ops_gather.c, ops_reduce.c, ops_offload.c, ops_register.c */
extern const dc_op dc_gather_ops[], dc_reduce_ops[], dc_offload_ops[];
extern const dc_op dc_register_ops[];
extern const size_t dc_gather_op_count, dc_reduce_op_count, dc_offload_op_count,
    dc_register_op_count;

/* ---- kernels of several ops ---- */

/* The first argument, unchanged. */
void dc_kernel_same(dc_value *stack, uint64_t arguments, uint64_t results);
/* A copy of the first. */
void dc_kernel_clone(dc_value *stack, uint64_t arguments, uint64_t results);
/* Nothing; the first argument is a tensor. */
void dc_kernel_nothing(dc_value *stack, uint64_t arguments, uint64_t results);

#endif
