#include "registry.h"

static dc_registry_state registry = {.lock = PTHREAD_MUTEX_INITIALIZER};

dc_registry_state *dc_registry(void) { return &registry; }

void dc_lock(void) { pthread_mutex_lock(&registry.lock); }

void dc_unlock(void) { pthread_mutex_unlock(&registry.lock); }

tsr_status dc_current(dc_engine **out_engine) {
    *out_engine = registry.current;
    return registry.current
               ? TSR_OK
               : tsr_error(TSR_FAILED_PRECONDITION,
                           "no engine: DeepCompile's init comes first, and "
                           "nothing after its cleanup");
}

tsr_status dc_engine_of_graph(int64_t graph, dc_engine **out_engine) {
    TSR_TRY(dc_current(out_engine));
    if (dc_engine_has_graph(*out_engine, graph))
        return TSR_OK;
    for (dc_engine *engine = registry.engines; engine; engine = engine->next)
        if (dc_engine_has_graph(engine, graph)) {
            *out_engine = engine;
            return TSR_OK;
        }
    return tsr_error(TSR_NOT_FOUND,
                     "graph %lld is not registered: register_graph_z1, z2 or "
                     "z3 comes before its ops",
                     (long long)graph);
}

tsr_status dc_engine_of_handle(int64_t handle, dc_engine **out_engine) {
    for (dc_engine *engine = registry.engines; engine; engine = engine->next)
        if (engine->handle == handle) {
            *out_engine = engine;
            return TSR_OK;
        }
    return tsr_error(TSR_NOT_FOUND, "no engine %lld", (long long)handle);
}
