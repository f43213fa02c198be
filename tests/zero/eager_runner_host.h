/* Ops about tensors and shards on the host. */
#ifndef TSR_TESTS_ZERO_EAGER_RUNNER_HOST_H
#define TSR_TESTS_ZERO_EAGER_RUNNER_HOST_H

#include "zero/eager_runner.h"

/* ---- tensors: what is in them ---- */

static inline unsigned char tensor_byte(const runner *self, int value,
                                        size_t i) {
    return (unsigned char)((size_t)(self->rank * 31 + value * 7) + i * 3) % 251;
}

static inline runner_reload *find_reload(runner_zero *zero, int graph, int id) {
    for (int r = zero->reload_count - 1; r >= 0; r--) /* the latest */
        if (zero->reloads[r].graph == graph && zero->reloads[r].id == id)
            return &zero->reloads[r];
    return NULL;
}

/* The memory that the graph's tensor has now; NULL: it is not back. */
static inline runner_reload *find_back(runner_zero *zero, const op *at) {
    return zero->model.tensors[at->graph][at->id].back
               ? find_reload(zero, at->graph, at->id)
               : NULL;
}

static inline void remove_reload(runner_zero *zero, runner_reload *at) {
    int after = zero->reload_count-- - 1 - (int)(at - zero->reloads);
    memmove(at, at + 1, (size_t)after * sizeof *at);
}

static inline void drop_tensors(runner *self, runner_zero *zero, int graph) {
    for (int r = zero->reload_count - 1; r >= 0; r--)
        if (zero->reloads[r].graph == graph) {
            cover(self, COVER_tensors_dropped_with_graph);
            remove_reload(zero, &zero->reloads[r]);
        }
    model_drop_tensors(&zero->model, graph);
    memset(zero->tensors[graph], 0, sizeof zero->tensors[graph]);
}

/* ---- tensors: calls ---- */

static inline void cover_offload(const runner *self, const model *m,
                                 const op *at, tsr_status expected) {
    size_t before = m->tensors[at->graph][at->id].host_bytes;
    cover_if(self, COVER_host_full, expected == TSR_OUT_OF_MEMORY);
    cover_if(self, COVER_tensor_offloaded, expected == TSR_OK);
    cover_if(self, COVER_tensor_replaced, before > 0);
    cover_if(self, COVER_tensor_replaced_in_other_size,
             before > 0 && before != (size_t)at->n);
}

static inline void run_offload_tensor(runner *self, runner_zero *zero,
                                      const op *at, tsr_stream *stream) {
    size_t bytes = (size_t)at->n;
    int value = self->at;
    unsigned char *made = own(self, bytes), *source = own(self, bytes);
    void *host;
    for (size_t i = 0; i < bytes; i++)
        made[i] = tensor_byte(self, value, i);
    expect(self, tsr_stream_copy(stream, source, made, bytes), TSR_OK);
    model before = zero->model;
    tsr_status expected = model_offload_tensor(&zero->model, at, bytes);
    cover_offload(self, &before, at, expected);
    expect(self,
           tsr_zero_offload_tensor(zero->zero, at->graph, at->id, source, bytes,
                                   stream, at->stream ? &host : NULL),
           expected);
    if (expected == TSR_OK)
        zero->tensors[at->graph][at->id] =
            (runner_tensor){.value = value, .source = source};
}

/* One that came back goes again, from where it is; it may be freed behind
 * `stream`. */
static inline void run_offload_reloaded(runner *self, runner_zero *zero,
                                        const op *at, tsr_stream *stream) {
    runner_reload *back = find_back(zero, at);
    if (!back || !(back->waited >> at->stream & 1))
        return;
    tsr_status expected = model_offload_tensor(&zero->model, at, back->bytes);
    expect(self,
           tsr_zero_offload_tensor(zero->zero, at->graph, at->id, back->memory,
                                   back->bytes, stream, NULL),
           expected);
    if (expected != TSR_OK)
        return;
    cover(self, COVER_tensor_offloaded_again_from_reload);
    zero->tensors[at->graph][at->id] = (runner_tensor){.value = back->value};
    back->read |= 1u << at->stream;
    expect(self, tsr_zero_wait_offload(zero->zero, at->graph, at->id, stream),
           TSR_OK);
    expect(self, tsr_stream_record(stream, self->read[at->stream]), TSR_OK);
}

static inline void run_wait_offload(runner *self, runner_zero *zero,
                                    const op *at, tsr_stream *stream) {
    model_tensor *tensor;
    runner_tensor *mine = &zero->tensors[at->graph][at->id];
    expect(self, tsr_zero_wait_offload(zero->zero, at->graph, at->id, stream),
           model_find_tensor(&zero->model, at, &tensor));
    if (!mine->source)
        return;
    spoil_on(self, stream, mine->source, tensor->bytes);
    mine->source = NULL;
    cover(self, COVER_tensor_reused_after_wait);
}

static inline void run_reload_tensor(runner *self, runner_zero *zero,
                                     const op *at, tsr_stream *stream) {
    const model_tensor *tensor = &zero->model.tensors[at->graph][at->id];
    runner_reload *before = find_back(zero, at);
    void *memory;
    tsr_status expected = model_reload_tensor(&zero->model, at);
    expect(
        self,
        tsr_zero_reload_tensor(zero->zero, at->graph, at->id, stream, &memory),
        expected);
    if (expected != TSR_OK)
        return;
    cover(self, before ? COVER_tensor_reloaded_twice : COVER_tensor_reloaded);
    if (before && before->memory != memory)
        fail(self, "a second reload gives other memory");
    if (!before)
        zero->reloads[zero->reload_count++] =
            (runner_reload){.memory = memory,
                            .bytes = tensor->bytes,
                            .graph = at->graph,
                            .id = at->id,
                            .value = zero->tensors[at->graph][at->id].value};
}

static inline void run_wait_reload(runner *self, runner_zero *zero,
                                   const op *at, tsr_stream *stream) {
    runner_reload *back = find_back(zero, at);
    void *input = self->spoil, *memory;
    tsr_status expected =
        zero->model.graphs[at->graph] ? TSR_OK : TSR_NOT_FOUND;
    expect(self,
           tsr_zero_wait_reload(zero->zero, at->graph, at->id, input, stream,
                                &memory),
           expected);
    if (expected != TSR_OK)
        return;
    if (memory != (back ? back->memory : input))
        fail(self, "wait_reload gives memory of something else");
    cover_if(self, COVER_tensor_never_reloaded, !back);
    if (back)
        back->waited |= 1u << at->stream;
}

static inline void run_read_tensor(runner *self, runner_zero *zero,
                                   const op *at) {
    runner_reload *back = find_reload(zero, at->graph, at->id);
    if (!back || !(back->waited >> at->stream & 1))
        return;
    snapshot *made = take_snapshot(self, at->stream, "tensor", at->id,
                                   back->memory, (int64_t)back->bytes, TSR_U8);
    for (size_t i = 0; i < back->bytes; i++)
        made->expected[i] = tensor_byte(self, back->value, i);
    back->read |= 1u << at->stream;
    cover(self, COVER_tensor_read);
}

/* All that came back under those ids, and memory of the caller's. */
static inline void run_free_tensors(runner *self, runner_zero *zero,
                                    const op *at, tsr_stream *stream) {
    void *tensors[PROGRAM_OPS + 1];
    size_t count = 0;
    bool profiling = zero->model.profiling;
    for (int r = zero->reload_count - 1; r >= 0; r--) {
        runner_reload *back = &zero->reloads[r];
        if (back->graph != at->graph || !(at->mask >> back->id & 1))
            continue;
        tensors[count++] = back->memory;
        if (profiling)
            continue;
        wait_for(self, at->stream, self->read, back->read);
        if (zero->model.tensors[back->graph][back->id].back &&
            find_reload(zero, back->graph, back->id) == back)
            zero->model.tensors[back->graph][back->id].back = false;
        remove_reload(zero, back);
    }
    cover_if(self, COVER_tensor_freed, count > 0 && !profiling);
    cover_if(self, COVER_free_while_profiling, count > 0 && profiling);
    if (at->stream == 0) {
        tensors[count++] = self->spoil;
        cover(self, COVER_foreign_freed);
    }
    expect(self, tsr_zero_free_tensors(zero->zero, tensors, count, stream),
           TSR_OK);
}

/* ---- shards ---- */

static inline void *shard_address(void *context) {
    return ((runner_param *)context)->shard;
}

/* The memory holds something else now. */
static inline void vacate_shard(void *context, tsr_stream *stream) {
    runner_param *param = context;
    if (!param->shard)
        fail(param->of, "a shard is vacated that has no memory");
    cover(param->of, COVER_shard_vacated);
    spoil_on(param->of, stream, param->shard, param->shard_bytes);
    param->shard = NULL;
}

static inline tsr_status occupy_shard(void *context, tsr_stream *stream) {
    runner_param *param = context;
    if (param->shard)
        fail(param->of, "a shard is occupied that has memory");
    param->shard = own(param->of, param->shard_bytes);
    spoil_on(param->of, stream, param->shard, param->shard_bytes);
    return TSR_OK;
}

static inline void check_place(const runner *self, const runner_zero *zero,
                               int id) {
    const runner_param *param = &zero->params[id];
    bool away = zero->model.params[id].away && param->desc.shard.vacate;
    if (away != !param->shard)
        fail(self, "shard %d %s memory", id, away ? "still has" : "has no");
}

static inline void run_offload_param(runner *self, runner_zero *zero,
                                     const op *at, tsr_stream *stream) {
    model *m = &zero->model;
    bool known = model_registered(m, at->id) && m->settings->stage == 3;
    bool kept = known && model_keeps_copy(&m->params[at->id]);
    size_t before = model_host_bytes(m);
    wait_for(self, at->stream, self->written, 1u << zero->writer);
    tsr_status expected = model_offload_param(m, at->id);
    expect(self, tsr_zero_offload_parameter(zero->zero, at->id, stream),
           expected);
    cover_if(self, COVER_host_full, expected == TSR_OUT_OF_MEMORY);
    if (expected != TSR_OK)
        return;
    check_place(self, zero, at->id);
    cover(self, kept ? COVER_shard_offloaded_unchanged : COVER_shard_offloaded);
    cover_if(self, COVER_shard_kept_copy_dropped,
             !kept && model_host_bytes(m) <
                          before + model_shard_bytes(&m->params[at->id]));
}

/* The stream that brought the shard back may read it. */
static inline void read_shard(runner *self, const runner_zero *zero,
                              const op *at) {
    const model *m = &zero->model;
    const model_param *param = &m->params[at->id];
    int64_t begin = self->rank * param->shard, left = param->numel - begin;
    int64_t count = left < 0 ? 0 : left < param->shard ? left : param->shard;
    snapshot *made =
        take_snapshot(self, at->stream, "shard", at->id,
                      zero->params[at->id].shard, count, param->stored);
    for (int64_t i = 0; i < count; i++)
        made->expected[i] =
            model_weight(m, at->id, param->value, param->stored, begin + i);
}

static inline void run_reload_param(runner *self, runner_zero *zero,
                                    const op *at, tsr_stream *stream) {
    model *m = &zero->model;
    bool away = model_registered(m, at->id) && m->params[at->id].away;
    tsr_status expected = model_reload_param(m, at->id);
    expect(self, tsr_zero_reload_parameter(zero->zero, at->id, stream),
           expected);
    if (expected != TSR_OK)
        return;
    check_place(self, zero, at->id);
    cover_if(self, COVER_shard_reloaded, away);
    /* Who writes it on another stream comes after the copy and this read. */
    wait_for(self, at->stream, self->written, 1u << zero->writer);
    read_shard(self, zero, at);
    zero->writer = at->stream;
    expect(self, tsr_stream_record(stream, self->written[at->stream]), TSR_OK);
}

#endif
