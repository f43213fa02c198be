#include "module.h"

#include "mpi.h"
#include "ops.h"
#include "registry.h"

tsr_status tsr_torch_load(int release) {
    dc_lock();
    tsr_status status = dc_ops_register(release);
    dc_unlock();
    return status;
}

const char *tsr_torch_schema(int release, size_t index) {
    return dc_ops_schema(release, index);
}

const char *tsr_torch_error(void) { return tsr_last_error(); }

tsr_status tsr_torch_fail(int status, const char *message) {
    return tsr_fail((tsr_status)status, message);
}

/* ---- engines ---- */

/* The ranks meet without the lock: other engines go on. */
tsr_status tsr_torch_engine_create(const dc_options *options,
                                   int64_t *out_handle) {
    dc_engine *engine = NULL;
    dc_registry_state *registry = dc_registry();
    *out_handle = 0;
    TSR_TRY(dc_engine_create(options, &engine));
    dc_lock();
    engine->handle = *out_handle = ++registry->last_handle;
    engine->next = registry->engines;
    registry->engines = registry->current = engine;
    dc_unlock();
    return TSR_OK;
}

/* With the lock held. */
static void destroy(dc_engine *engine) {
    dc_registry_state *registry = dc_registry();
    dc_engine **link = &registry->engines;
    while (*link != engine)
        link = &(*link)->next;
    *link = engine->next;
    if (registry->current == engine)
        registry->current = registry->engines;
    dc_engine_release(engine);
}

tsr_status tsr_torch_engine_destroy(int64_t handle) {
    dc_engine *engine = NULL;
    dc_lock();
    tsr_status status = dc_engine_of_handle(handle, &engine);
    if (status == TSR_OK)
        destroy(engine);
    dc_unlock();
    return status;
}

tsr_status tsr_torch_leave(int failed) {
    dc_registry_state *registry = dc_registry();
    dc_lock();
    while (registry->engines && registry->mpi)
        destroy(registry->engines);
    dc_unlock();
    dc_mpi_leave(failed != 0);
    return TSR_OK;
}

int64_t tsr_torch_current(void) {
    dc_lock();
    dc_engine *engine = dc_registry()->current;
    int64_t handle = engine ? engine->handle : 0;
    dc_unlock();
    return handle;
}

tsr_status tsr_torch_set_current(int64_t handle) {
    dc_engine *engine = NULL;
    dc_lock();
    tsr_status status = dc_engine_of_handle(handle, &engine);
    if (status == TSR_OK)
        dc_registry()->current = engine;
    dc_unlock();
    return status;
}

/* ---- calls ---- */

/* `call` on the current engine, in which `engine` is it. Before its first graph
 * an engine has no tsr_zero, and nothing that a call could change. */
#define WITH_ENGINE(call)                                                      \
    do {                                                                       \
        dc_engine *engine = NULL;                                              \
        dc_lock();                                                             \
        tsr_status status = dc_current(&engine);                               \
        if (status == TSR_OK)                                                  \
            status = (call);                                                   \
        dc_unlock();                                                           \
        return status;                                                         \
    } while (0)
#define WITH_ZERO(call) WITH_ENGINE(engine->zero ? (call) : TSR_OK)

tsr_status tsr_torch_reset(void) { WITH_ENGINE(dc_engine_reset(engine)); }

tsr_status tsr_torch_register_graph(int stage, int64_t graph,
                                    const int64_t *ids, size_t count) {
    WITH_ENGINE(dc_engine_register_graph(engine, stage, graph, ids, count));
}

tsr_status tsr_torch_set_persistent(int64_t id) {
    WITH_ZERO(tsr_zero_set_persistent(engine->zero, id, engine->stream));
}

static tsr_status set_profiling(dc_engine *engine, bool on) {
    engine->profiling = on;
    if (engine->zero)
        tsr_zero_enable_profiling(engine->zero, on);
    return TSR_OK;
}

tsr_status tsr_torch_enable_profiling(int on) {
    WITH_ENGINE(set_profiling(engine, on != 0));
}

int tsr_torch_is_profiling(void) {
    dc_lock();
    dc_engine *engine = dc_registry()->current;
    int profiling = engine && engine->profiling;
    dc_unlock();
    return profiling;
}

tsr_status tsr_torch_start_forward(void) {
    WITH_ZERO(tsr_zero_start_forward(engine->zero));
}

tsr_status tsr_torch_end_forward(void) {
    WITH_ZERO(tsr_zero_end_forward(engine->zero));
}

tsr_status tsr_torch_start_backward(int update) {
    WITH_ZERO(tsr_zero_start_backward(engine->zero, update != 0));
}

static tsr_status end_backward(int64_t graph) {
    dc_engine *engine = NULL;
    TSR_TRY(dc_engine_of_graph(graph, &engine));
    dc_storage_reap(&engine->storage);
    return tsr_zero_end_backward(engine->zero, engine->stream);
}

tsr_status tsr_torch_end_backward(int64_t graph) {
    dc_lock();
    tsr_status status = end_backward(graph);
    dc_unlock();
    return status;
}

tsr_status tsr_torch_abort_step(void) {
    WITH_ZERO(tsr_zero_abort_step(engine->zero, engine->stream));
}

tsr_status tsr_torch_invalidate_gathered_param(int64_t id) {
    WITH_ZERO(tsr_zero_invalidate_gathered_param(engine->zero, id));
}

tsr_status tsr_torch_clear_all_gathered_params(void) {
    WITH_ZERO(tsr_zero_clear_all_gathered_params(engine->zero));
}

tsr_status tsr_torch_reload_parameters(void) {
    WITH_ZERO(dc_engine_reload_parameters(engine));
}

tsr_status tsr_torch_weights_changed(void) {
    WITH_ENGINE(dc_engine_weights_changed(engine));
}

static tsr_status memory(dc_engine *engine, int64_t out_bytes[6]) {
    dc_storage_reap(&engine->storage);
    tsr_zero_memory held = {0};
    if (engine->zero)
        held = tsr_zero_memory_held(engine->zero);
    out_bytes[0] = (int64_t)held.gathered;
    out_bytes[1] = (int64_t)held.buckets;
    out_bytes[2] = (int64_t)held.reloaded;
    out_bytes[3] = (int64_t)held.host;
    out_bytes[4] = (int64_t)held.host_pool;
    out_bytes[5] = (int64_t)engine->storage.held;
    return TSR_OK;
}

tsr_status tsr_torch_memory(int64_t out_bytes[6]) {
    WITH_ENGINE(memory(engine, out_bytes));
}
