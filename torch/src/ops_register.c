/* The ops of ours that hand DeepSpeed's tensors over. */
#include "base/memory.h"
#include "ops.h"
#include "registry.h"

/* A bool's value is its low byte. */
static bool take_bool(dc_value value) { return (value & 0xff) != 0; }

static void register_param(dc_value *stack, uint64_t arguments,
                           uint64_t results) {
    dc_value *shape = NULL;
    size_t dims;
    dc_engine *engine = NULL;
    dc_registration what = {.id = (int64_t)stack[0],
                            .tensor = dc_take_tensor(stack[2]),
                            .grad = dc_take_tensor(stack[3]),
                            .grad_offset = (int64_t)stack[4],
                            .sharded = take_bool(stack[5]),
                            .persistent = take_bool(stack[6]),
                            .dtype = dc_take_dtype(stack[7])};
    (void)arguments;
    (void)results;
    tsr_status status = dc_take_list(stack[1], &shape, &dims);
    what.dims = (int64_t)dims;
    what.sizes = (const int64_t *)shape;
    dc_lock();
    if (status == TSR_OK)
        status = dc_current(&engine);
    if (status == TSR_OK)
        status = dc_param_register(engine, &what);
    dc_unlock();
    dc_tensor_release(what.tensor);
    dc_tensor_release(what.grad);
    tsr_free(shape);
    if (status != TSR_OK)
        dc_throw("register_param");
}

static void update_param_grad_buffer(dc_value *stack, uint64_t arguments,
                                     uint64_t results) {
    dc_tensor grad = dc_take_tensor(stack[1]);
    dc_engine *engine = NULL;
    (void)arguments;
    (void)results;
    dc_lock();
    tsr_status status = dc_current(&engine);
    if (status == TSR_OK)
        status = dc_param_update_grad(engine, (int64_t)stack[0], grad,
                                      (int64_t)stack[2]);
    dc_unlock();
    dc_tensor_release(grad);
    if (status != TSR_OK)
        dc_throw("update_param_grad_buffer");
}

const dc_op dc_register_ops[] = {
    {"register_param", register_param, NULL},
    {"update_param_grad_buffer", update_param_grad_buffer, NULL},
};
const size_t dc_register_op_count =
    sizeof dc_register_ops / sizeof *dc_register_ops;
