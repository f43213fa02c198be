#include "engine.h"

#include "mpi.h"
#include "ops/cpu.h"

/* ---- life ---- */

/* The reference kernels, and the processor's cast before them: all that gathers
 * need. */
static tsr_status create_kernels(dc_engine *engine) {
    const tsr_cpu_kernel_set *cpu = tsr_cpu_kernels_best();
    TSR_TRY(tsr_kernel_table_create(TSR_KERNELS_REF, &engine->kernels));
    for (size_t i = 0; i < cpu->count; i++)
        if (__builtin_strcmp(cpu->rows[i].op, "cast") == 0)
            TSR_TRY(tsr_kernel_table_add(engine->kernels, &cpu->rows[i]));
    return TSR_OK;
}

static tsr_status create_comms(dc_engine *engine) {
    const dc_options *options = &engine->options;
    tsr_comm_options comm = {.timeout_ms = options->timeout_ms};
    tsr_bootstrap *bootstrap = NULL, *mpi = NULL;
    TSR_TRY(tsr_bootstrap_create_callback(options->rank, options->world,
                                          options->exchange, NULL, &bootstrap));
    tsr_status status = options->mpi
                            ? dc_mpi_join(bootstrap, options->timeout_ms, &mpi)
                            : TSR_OK;
    if (status == TSR_OK)
        status =
            mpi ? tsr_comm_create_mpi(mpi, &comm, &engine->gather_comm)
                : tsr_comm_create_host(bootstrap, &comm, &engine->gather_comm);
    tsr_bootstrap_release(bootstrap);
    TSR_TRY(status);
    return tsr_comm_split(engine->gather_comm, &engine->reduce_comm);
}

static tsr_status create_parts(dc_engine *engine) {
    TSR_TRY(tsr_device_create_cpu(NULL, &engine->device));
    TSR_TRY(tsr_stream_create(engine->device, TSR_STREAM_INLINE, "torch", 0,
                              &engine->stream));
    TSR_TRY(create_kernels(engine));
    return create_comms(engine);
}

tsr_status dc_engine_create(const dc_options *options, dc_engine **out_engine) {
    dc_engine *engine = NULL;
    *out_engine = NULL;
    if (options->bucket_elements < 1)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "buckets of %lld elements: reduce_bucket_size must be "
                         "at least 1",
                         (long long)options->bucket_elements);
    TSR_TRY(tsr_alloc(1, sizeof *engine, (void **)&engine));
    engine->options = *options;
    tsr_status status = create_parts(engine);
    if (status != TSR_OK) {
        dc_engine_release(engine);
        return status;
    }
    *out_engine = engine;
    return TSR_OK;
}

void dc_engine_release(dc_engine *engine) {
    if (!engine)
        return;
    tsr_zero_release(engine->zero);
    dc_storage_release(&engine->storage);
    tsr_comm_release(engine->reduce_comm);
    tsr_comm_release(engine->gather_comm);
    tsr_kernel_table_release(engine->kernels);
    tsr_stream_release(engine->stream);
    tsr_device_release(engine->device);
    for (size_t i = 0; i < engine->params.count; i++)
        dc_param_release(engine->params.data[i]);
    TSR_ARRAY_FREE(&engine->params);
    tsr_map_release(&engine->param_index);
    tsr_map_release(&engine->graphs);
    tsr_free(engine);
}

/* ---- opening ---- */

/* DeepSpeed's bucket is so many elements; no more than all gradients need. */
static size_t bucket_bytes(const dc_engine *engine) {
    size_t all = 0, wanted = (size_t)engine->options.bucket_elements, size = 2;
    for (size_t i = 0; i < engine->params.count; i++) {
        const dc_param *param = engine->params.data[i];
        size_t one = tsr_dtype_bytes(param->communicated);
        size = one > size ? one : size;
        all += tsr_round_up(
            ((size_t)param->numel + (size_t)engine->options.world) * one, 64);
    }
    wanted = wanted > SIZE_MAX / size ? SIZE_MAX : wanted * size;
    return all > 0 && all < wanted ? all : wanted;
}

static tsr_status open_zero(dc_engine *engine, int stage) {
    const dc_options *options = &engine->options;
    tsr_zero_options zero = {
        .device = engine->device,
        .gather_comm = engine->gather_comm,
        .reduce_comm = engine->reduce_comm,
        .kernels = engine->kernels,
        .allocator = dc_storage_allocator(&engine->storage),
        .settings = {.stage = stage,
                     .bucket_bytes = bucket_bytes(engine),
                     .host_bytes = (size_t)options->host_bytes,
                     .double_buffer = options->double_buffer,
                     .symmetric_memory =
                         options->symmetric_memory && stage == 3,
                     .sync_before_allgather = options->sync_before_allgather,
                     .sync_after_allgather = options->sync_after_allgather,
                     .sync_before_reduce = options->sync_before_reduce,
                     .sync_after_reduce = options->sync_after_reduce}};
    TSR_TRY(tsr_zero_create(&zero, &engine->zero));
    engine->stage = stage;
    tsr_zero_enable_profiling(engine->zero, engine->profiling);
    for (size_t i = 0; i < engine->params.count; i++)
        TSR_TRY(dc_param_enter(engine, engine->params.data[i]));
    return TSR_OK;
}

bool dc_engine_has_graph(const dc_engine *engine, int64_t graph) {
    return tsr_map_get(&engine->graphs, graph) >= 0;
}

tsr_status dc_engine_register_graph(dc_engine *engine, int stage, int64_t graph,
                                    const int64_t *ids, size_t count) {
    if (!engine->zero)
        TSR_TRY(open_zero(engine, stage));
    if (engine->stage != stage)
        return tsr_error(
            TSR_FAILED_PRECONDITION,
            "a graph of ZeRO stage %d in an engine of stage %d: its "
            "first graph decides",
            stage, engine->stage);
    TSR_TRY(tsr_zero_register_graph(engine->zero, graph, ids, count));
    return tsr_map_set(&engine->graphs, graph, 0);
}

tsr_status dc_engine_reset(dc_engine *engine) {
    tsr_map_release(&engine->graphs);
    engine->graphs = (tsr_map){0};
    return engine->zero ? tsr_zero_reset(engine->zero, engine->stream) : TSR_OK;
}

tsr_status dc_engine_reload_parameters(dc_engine *engine) {
    for (size_t i = 0; i < engine->params.count; i++) {
        dc_param *param = engine->params.data[i];
        if (!param->away)
            continue;
        TSR_TRY(
            tsr_zero_reload_parameter(engine->zero, param->id, engine->stream));
        param->away = false;
    }
    return TSR_OK;
}

tsr_status dc_engine_weights_changed(dc_engine *engine) {
    if (!engine->zero || engine->stage != 3)
        return TSR_OK;
    for (size_t i = 0; i < engine->params.count; i++)
        TSR_TRY(tsr_zero_weights_changed(
            engine->zero, &engine->params.data[i]->id, 1, engine->stream));
    return TSR_OK;
}
