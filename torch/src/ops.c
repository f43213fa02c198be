#include "ops.h"

#include "base/memory.h"
#include "registry.h"
#include "tensor.h"

/* ---- schemas, as DeepSpeed writes them ---- */

typedef struct versioned_schema {
    int first, last; /* releases, as DC_RELEASE */
    const char *text;
} versioned_schema;

#define OLDEST DC_RELEASE(18, 0)
#define NEWEST DC_RELEASE(19, 99)

/* clang-format off */
static const versioned_schema schemas[] = {
    {OLDEST, NEWEST, "allgather_param(Tensor a, int graph_id, int id, ScalarType? dtype = None) -> Tensor"},
    {OLDEST, NEWEST, "prefetch_params_fused(int graph_id, Tensor[] params, int[] ids,"
             "                      ScalarType[]? dtypes = None) -> ()"},
    {OLDEST, NEWEST, "wait_allgather(Tensor(a) a, int graph_id, int id) -> Tensor(a)"},
    {OLDEST, NEWEST, "release_param(Tensor(a) a, int graph_id, int id, int n_users) -> Tensor(a)"},
    {OLDEST, NEWEST, "reduce_grad(Tensor a, int graph_id, int id) -> Tensor"},
    {OLDEST, NEWEST, "free_tensors(Tensor[] a) -> ()"},
    {OLDEST, NEWEST, "offload_tensor(Tensor a, int id, int id) -> Tensor"},
    {OLDEST, NEWEST, "reload_tensor(Tensor a, int id, int id) -> Tensor"},
    {OLDEST, NEWEST, "wait_offload(Tensor a, int id, int id) -> Tensor"},
    {OLDEST, NEWEST, "wait_reload(Tensor a, int id, int id) -> Tensor"},
    {OLDEST, NEWEST, "offload_parameter(Tensor a, int id, int id) -> ()"},
    {OLDEST, NEWEST, "reload_parameter(Tensor a, int id, int id) -> ()"},
    {OLDEST, DC_RELEASE(18, 99), "end_backward(int graph_id) -> ()"},
    {DC_RELEASE(19, 0), DC_RELEASE(19, 1), "end_backward(Any deps, int graph_id) -> ()"},
    {DC_RELEASE(19, 2), NEWEST, "end_backward(Any deps, int graph_id, bool release_reduce_buckets) -> ()"},
    {OLDEST, NEWEST, "test_call(Tensor a) -> Tensor"},
};

/* Ours: what hands tensors to the library. */
static const char *const register_schemas[] = {
    "register_param(int id, int[] shape, Tensor tensor, Tensor grad, int offset, bool sharded, bool persistent, ScalarType? dtype) -> ()",
    "update_param_grad_buffer(int id, Tensor grad, int offset) -> ()",
};
/* clang-format on */

/* ---- registration ---- */

/* The libraries are never deleted: that would take the ops away. */
static tsr_status define(dc_library library, const char *schema) {
    if (dc_torch()->aoti_torch_library_def(library, schema) != 0)
        return tsr_error(TSR_FAILED_PRECONDITION,
                         "torch did not take the op '%s': is DeepSpeed's own "
                         "library loaded in this process? Call "
                         "tessera_torch.install() first",
                         schema);
    return TSR_OK;
}

static bool has(int release, const versioned_schema *schema) {
    return release >= schema->first && release <= schema->last;
}

const char *dc_ops_schema(int release, size_t index) {
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++)
        if (has(release, &schemas[i]) && index-- == 0)
            return schemas[i].text;
    return NULL;
}

static tsr_status define_all(int release) {
    dc_library ops = NULL, ours = NULL;
    DC_TRY(aoti_torch_library_init_fragment("dc", __FILE__, __LINE__, &ops));
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++)
        if (has(release, &schemas[i]))
            TSR_TRY(define(ops, schemas[i].text));
    DC_TRY(
        aoti_torch_library_init_fragment("tessera", __FILE__, __LINE__, &ours));
    for (size_t i = 0; i < sizeof register_schemas / sizeof *register_schemas;
         i++)
        TSR_TRY(define(ours, register_schemas[i]));
    return TSR_OK;
}

static tsr_status implement(const char *space, const char *key, bool meta,
                            const dc_op *ops, size_t count) {
    dc_library library = NULL;
    DC_TRY(
        aoti_torch_library_init_impl(space, key, __FILE__, __LINE__, &library));
    for (size_t i = 0; i < count; i++) {
        dc_kernel kernel = meta ? ops[i].meta : ops[i].cpu;
        if (kernel)
            DC_TRY(torch_library_impl(library, ops[i].name, kernel,
                                      dc_torch()->version));
    }
    return TSR_OK;
}

static tsr_status implement_all(void) {
    const struct {
        const dc_op *ops;
        size_t count;
    } files[] = {{dc_gather_ops, dc_gather_op_count},
                 {dc_reduce_ops, dc_reduce_op_count},
                 {dc_offload_ops, dc_offload_op_count}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        TSR_TRY(implement("dc", "CPU", false, files[i].ops, files[i].count));
        TSR_TRY(implement("dc", "Meta", true, files[i].ops, files[i].count));
    }
    return implement("tessera", "CPU", false, dc_register_ops,
                     dc_register_op_count);
}

tsr_status dc_ops_register(int release) {
    dc_registry_state *registry = dc_registry();
    if (registry->release)
        return TSR_OK;
    if (release < OLDEST || release > NEWEST)
        return tsr_error(TSR_UNSUPPORTED,
                         "the ops of DeepSpeed 0.%d.%d are not known; those "
                         "of 0.18 and 0.19 are: install one of these",
                         release / 100, release % 100);
    TSR_TRY(dc_shim_load());
    TSR_TRY(define_all(release));
    TSR_TRY(implement_all());
    registry->release = release;
    return TSR_OK;
}

/* ---- arguments ---- */

bool dc_take_optional(dc_value value, dc_value *out_value) {
    dc_value *boxed = (dc_value *)(uintptr_t)value;
    if (!boxed)
        return false;
    *out_value = *boxed;
    if (dc_torch()->torch_delete_stable_ivalue)
        (void)dc_torch()->torch_delete_stable_ivalue(boxed);
    else
        dc_torch()->operator_delete(boxed);
    return true;
}

int32_t dc_take_dtype(dc_value value) {
    dc_value dtype = 0;
    return dc_take_optional(value, &dtype) ? (int32_t)(uint32_t)dtype : -1;
}

tsr_status dc_take_list(dc_value value, dc_value **out_items,
                        size_t *out_count) {
    dc_list list = (dc_list)(uintptr_t)value;
    size_t count = 0;
    *out_items = NULL;
    *out_count = 0;
    tsr_status status = TSR_OK;
    if (dc_torch()->torch_list_size(list, &count) != 0)
        status = dc_torch_failed("list_size");
    if (status == TSR_OK)
        status = tsr_alloc(count, sizeof **out_items, (void **)out_items);
    for (size_t i = 0; i < count && status == TSR_OK; i++)
        if (dc_torch()->torch_list_get_item(list, i, *out_items + i) != 0)
            status = dc_torch_failed("list_get_item");
    if (status == TSR_OK)
        *out_count = count;
    (void)dc_torch()->torch_delete_list(list);
    return status;
}

/* ---- kernels of several ops ---- */

void dc_kernel_same(dc_value *stack, uint64_t arguments, uint64_t results) {
    (void)stack;
    (void)arguments;
    (void)results;
}

void dc_kernel_clone(dc_value *stack, uint64_t arguments, uint64_t results) {
    dc_tensor a = dc_take_tensor(stack[0]), made = NULL;
    (void)arguments;
    (void)results;
    tsr_status status = dc_tensor_clone(a, &made);
    dc_tensor_release(a);
    if (status != TSR_OK)
        dc_throw("test_call");
    stack[0] = dc_give_tensor(made);
}

void dc_kernel_nothing(dc_value *stack, uint64_t arguments, uint64_t results) {
    (void)arguments;
    (void)results;
    dc_tensor_release(dc_take_tensor(stack[0]));
}
