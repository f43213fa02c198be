/* The ops of a program, each run on the tsr_zero and on the model. */
#ifndef TSR_TESTS_ZERO_EAGER_RUNNER_OPS_H
#define TSR_TESTS_ZERO_EAGER_RUNNER_OPS_H

#include "zero/eager_runner_host.h"

/* ---- copies ---- */

static inline void cover_gather(const runner *self, const runner_zero *zero,
                                const op *at) {
    const model *m = &zero->model;
    const model_param *param = &m->params[at->id];
    int valid = model_valid(param, at->dtypes[0]);
    cover(self, valid < 0 ? COVER_gathered : COVER_valid_copy_bound);
    cover_if(self, COVER_copy_of_two_graphs,
             valid >= 0 && param->copies[valid].bindings > 0 &&
                 m->bindings[at->graph][at->id].copy != valid);
    cover_if(self, COVER_bound_anew, m->bindings[at->graph][at->id].copy >= 0);
    cover_if(self, COVER_cast, valid < 0 && at->dtypes[0] != param->stored);
    cover_if(self, COVER_persistent_gather, valid < 0 && param->persistent);
    cover_if(self, COVER_uneven, param->shard * m->world != param->numel);
    cover_if(self, COVER_empty_shard,
             param->shard * (m->world - 1) >= param->numel && m->world > 1 &&
                 param->numel > 0);
    cover_if(self, COVER_empty, param->numel == 0);
}

static inline void run_gather(runner *self, runner_zero *zero, const op *at,
                              tsr_stream *stream) {
    tsr_view view;
    if (model_find(&zero->model, at->graph, at->id) == TSR_OK &&
        zero->model.settings->stage == 3) {
        cover_gather(self, zero, at);
        end_reads_behind(self, zero, at->graph, -1);
    }
    tsr_status expected =
        model_gather(&zero->model, at->graph, at->id, at->dtypes[0]);
    bool away = at->id < PROGRAM_PARAMS && zero->model.params[at->id].away;
    cover_if(self, COVER_gather_refused_on_host,
             away && expected == TSR_FAILED_PRECONDITION);
    cover_if(self, COVER_valid_copy_while_on_host, away && expected == TSR_OK);
    expect(self,
           tsr_zero_allgather_param(zero->zero, at->graph, at->id,
                                    at->dtypes[0], stream, &view),
           expected);
    if (expected != TSR_OK)
        return;
    if (view.type.dtype != at->dtypes[0] || view.type.dims != 1 ||
        view.type.shape[0] != zero->model.params[at->id].numel)
        fail(self, "the view is not of the parameter's type");
    if (zero->handles[at->graph][at->id] &&
        zero->handles[at->graph][at->id] != view.binding)
        fail(self, "the graph's handle of the parameter is another one");
    zero->views[at->graph][at->id] = view;
    zero->handles[at->graph][at->id] = view.binding;
}

/* A stream that has not waited itself comes behind one that has. */
static inline void come_behind(runner *self, model_binding *binding,
                               int stream) {
    int waited = first_of(binding->waited);
    expect(self, tsr_stream_record(self->streams[waited], self->read[waited]),
           TSR_OK);
    expect(self, tsr_stream_wait(self->streams[stream], self->read[waited]),
           TSR_OK);
    binding->behind |= 1u << stream;
    cover(self, COVER_read_behind);
}

static inline void run_read(runner *self, runner_zero *zero, const op *at) {
    model *m = &zero->model;
    if (model_find(m, at->graph, at->id) != TSR_OK)
        return;
    model_binding *binding = &m->bindings[at->graph][at->id];
    if (binding->copy < 0 || binding->waited == 0)
        return;
    if (!(binding->waited >> at->stream & 1))
        come_behind(self, binding, at->stream);
    const model_param *param = &m->params[at->id];
    const model_copy *copy = &param->copies[binding->copy];
    snapshot *made = take_snapshot(self, at->stream, "parameter", at->id,
                                   zero->views[at->graph][at->id].data,
                                   copy->numel, copy->dtype);
    for (int64_t i = 0; i < copy->numel; i++)
        made->expected[i] = rounded(
            model_weight(m, at->id, copy->value, copy->stored, i), copy->dtype);
    cover(self, COVER_read);
    cover_if(self, COVER_read_on_other_stream,
             binding->waited & ~(1u << at->stream));
    cover_if(self, COVER_stale_read, copy->version != param->version);
    cover_if(self, COVER_read_of_old_shape, copy->numel != param->numel);
    binding->read |= 1u << at->stream;
}

/* NULL: by the graph and the parameter. */
static inline tsr_zero_binding *handle_of(const runner_zero *zero,
                                          const op *at) {
    bool found = model_find(&zero->model, at->graph, at->id) == TSR_OK;
    return found && at->other ? zero->handles[at->graph][at->id] : NULL;
}

static inline void run_wait(runner *self, runner_zero *zero, const op *at,
                            tsr_stream *stream) {
    tsr_zero_binding *handle = handle_of(zero, at);
    tsr_status expected = model_wait(&zero->model, at);
    cover_if(self, COVER_handle_waited, handle && expected == TSR_OK);
    cover_if(self, COVER_handle_of_nothing, handle && expected != TSR_OK);
    expect(self,
           handle
               ? tsr_zero_wait_binding(zero->zero, handle, stream)
               : tsr_zero_wait_allgather(zero->zero, at->graph, at->id, stream),
           expected);
}

/* The last use of the copy comes after what was read on other streams. */
static inline void run_release(runner *self, runner_zero *zero, const op *at,
                               tsr_stream *stream) {
    model *m = &zero->model;
    const model_binding *binding = &m->bindings[at->graph][at->id];
    bool found = model_find(m, at->graph, at->id) == TSR_OK;
    if (found && binding->copy >= 0) {
        bool last =
            binding->remaining == 1 || (binding->remaining < 0 && at->n == 1);
        wait_for(self, at->stream, self->read, last ? binding->read : 0);
        cover_if(self, COVER_several_users, binding->remaining > 0);
    }
    cover_if(self, COVER_bad_users, found && at->n < 1);
    cover_if(self, COVER_profiled_release,
             found && at->n > 0 && binding->copy < 0 && m->profiling);
    cover_if(self, COVER_not_gathered,
             found && at->n > 0 && binding->copy < 0 && !m->profiling);
    tsr_zero_binding *handle = handle_of(zero, at);
    tsr_status expected = model_release(m, at);
    cover_if(self, COVER_handle_released, handle && expected == TSR_OK);
    expect(self,
           handle ? tsr_zero_release_binding(zero->zero, handle, at->n, stream)
                  : tsr_zero_release_param(zero->zero, at->graph, at->id, at->n,
                                           stream),
           expected);
}

static inline void run_prefetch(runner *self, runner_zero *zero, const op *at,
                                tsr_stream *stream) {
    int64_t ids[PROGRAM_LIST] = {0};
    for (int i = 0; i < at->list_count; i++) {
        ids[i] = at->list[i];
        for (int k = 0; k < i; k++)
            cover_if(self, COVER_prefetched_twice, ids[k] == ids[i]);
    }
    expect(self,
           tsr_zero_prefetch_params_fused(zero->zero, ids,
                                          at->n ? at->dtypes : NULL,
                                          (size_t)at->list_count, stream),
           model_prefetch(&zero->model, at));
}

static inline void run_stale(runner *self, runner_zero *zero, const op *at) {
    if (at->kind == OP_invalidate) {
        expect(self, tsr_zero_invalidate_gathered_param(zero->zero, at->id),
               model_invalidate(&zero->model, at->id));
        return;
    }
    expect(self, tsr_zero_clear_all_gathered_params(zero->zero), TSR_OK);
    for (int p = 0; p < PROGRAM_PARAMS; p++)
        (void)model_invalidate(&zero->model, p);
}

/* ---- weights ---- */

/* This rank's elements of version `value`; past the parameter's end NaN, which
 * nobody may see. */
static inline void *make_shard(runner *self, const runner_zero *zero, int id) {
    const model_param *param = &zero->model.params[id];
    void *made = own(self, zero->params[id].shard_bytes);
    int64_t begin = self->rank * param->shard;
    for (int64_t i = 0; i < param->shard && begin + i < param->numel; i++)
        set_element(
            made, param->stored, (size_t)i,
            weight_value(id + zero->model.key, param->value, begin + i));
    return made;
}

static inline void write_shard(runner *self, runner_zero *zero, int id,
                               tsr_stream *stream) {
    const runner_param *param = &zero->params[id];
    expect(self,
           tsr_stream_copy(stream, param->shard, make_shard(self, zero, id),
                           param->shard_bytes),
           TSR_OK);
}

/* Those that may be written, of a mask. Whoever says that others were, too, is
 * refused for all. */
static inline size_t resident_ids(runner *self, const runner_zero *zero,
                                  const op *at, tsr_stream *stream,
                                  int64_t *ids) {
    int64_t all[PROGRAM_PARAMS];
    size_t count = 0, resident = 0;
    for (int p = 0; p < PROGRAM_PARAMS; p++) {
        if (!(at->mask >> p & 1) || !model_registered(&zero->model, p))
            continue;
        all[count++] = p;
        if (!zero->model.params[p].away)
            ids[resident++] = p;
    }
    if (resident < count) {
        expect(self, tsr_zero_weights_changed(zero->zero, all, count, stream),
               TSR_FAILED_PRECONDITION);
        cover(self, COVER_write_refused_on_host);
    }
    return resident;
}

/* Where the stream is past the shards' readers, nobody waits. */
static inline void run_write(runner *self, runner_zero *zero, const op *at,
                             tsr_stream *stream) {
    model *m = &zero->model;
    int64_t ids[PROGRAM_PARAMS];
    size_t count = resident_ids(self, zero, at, stream, ids);
    bool in_order = m->shards_free >> at->stream & 1;
    if (!in_order) {
        expect(self, tsr_zero_synchronize(zero->zero), TSR_OK);
        m->shards_free = MODEL_ALL_STREAMS;
    }
    cover(self, in_order ? COVER_weights_written_in_order
                         : COVER_weights_written_after_sync);
    wait_for(self, at->stream, self->written, 1u << zero->writer);
    for (size_t i = 0; i < count; i++) {
        m->params[ids[i]].value++;
        write_shard(self, zero, (int)ids[i], stream);
    }
    zero->writer = at->stream;
    expect(self, tsr_stream_record(stream, self->written[at->stream]), TSR_OK);
    expect(self, tsr_zero_weights_changed(zero->zero, ids, count, stream),
           TSR_OK);
    for (size_t i = 0; i < count; i++) {
        model_stale(m, (int)ids[i]);
        m->params[ids[i]].on_host = false;
    }
}

/* The same weights in other memory, the old one spoiled. */
static inline void run_move_shard(runner *self, runner_zero *zero,
                                  const op *at) {
    if (!model_registered(&zero->model, at->id))
        return;
    runner_param *param = &zero->params[at->id];
    if (zero->model.params[at->id].away) {
        expect(
            self,
            tsr_zero_update_param_shard(zero->zero, at->id, param->desc.shard),
            TSR_FAILED_PRECONDITION);
        return;
    }
    synchronize(self);
    void *old = param->shard;
    param->shard = own(self, param->shard_bytes);
    memcpy(param->shard, old, param->shard_bytes);
    memset(old, SPOILED, param->shard_bytes);
    cover(self, COVER_shard_moved);
    if (param->desc.shard.address)
        return; /* it is asked for at each call */
    param->desc.shard.context = param->shard;
    expect(self,
           tsr_zero_update_param_shard(zero->zero, at->id, param->desc.shard),
           TSR_OK);
}

/* ---- registrations ---- */

/* Stages 1, 2: even parts in rank order, or any range, other on each rank. */
static inline void set_slice(const runner *self, const op *at,
                             tsr_zero_param *desc) {
    int64_t each = (at->n + self->world - 1) / self->world;
    int64_t begin = each * self->rank;
    uint64_t state = (uint64_t)(at->n * 100 + at->id * 10 + self->rank);
    if (at->mask & PARAM_UNEVEN) {
        desc->slice_offset = draw(&state, at->n + 1);
        desc->slice_count = draw(&state, at->n - (int)desc->slice_offset + 1);
        return;
    }
    desc->slice_offset = begin < at->n ? begin : at->n;
    desc->slice_count = at->n - desc->slice_offset;
    if (desc->slice_count > each)
        desc->slice_count = each;
}

static inline tsr_zero_param describe(const runner *self, const op *at) {
    tsr_zero_param desc = {
        .id = at->id,
        .type = {.dtype = at->dtypes[0], .dims = 1, .shape = {at->n}},
        .granule = at->k,
        .frozen = at->mask & PARAM_FROZEN,
        .persistent = at->mask & PARAM_PERSISTENT,
        .gathered_dtype = at->dtypes[1],
        .communicated_dtype = at->dtypes[2],
        .accumulated_dtype = at->dtypes[3]};
    set_slice(self, at, &desc);
    return desc;
}

static inline void cover_registration(const runner *self, const model *m,
                                      const op *at) {
    const model_param *old = &m->params[at->id];
    if (old->registered) {
        cover(self, COVER_registered_anew);
        cover_if(self, COVER_registered_anew_in_other_shape,
                 old->numel != at->n);
    }
    cover_if(self, COVER_granule, at->k > 1);
    cover_if(self, COVER_mixed_grad_dtypes, at->dtypes[2] != at->dtypes[3]);
}

static inline void give_memory(runner *self, runner_zero *zero, const op *at,
                               tsr_zero_param desc) {
    runner_param *param = &zero->params[at->id];
    int64_t granule = at->k ? at->k : 1, part = granule * self->world;
    int64_t shard = (at->n + part - 1) / part * granule;
    int64_t grad = zero->model.settings->stage == 3 ? shard : desc.slice_count;
    *param = (runner_param){
        .of = self,
        .desc = desc,
        .shard_bytes = (size_t)shard * tsr_dtype_bytes(at->dtypes[0]),
        .grad_bytes = (size_t)grad * tsr_dtype_bytes(at->dtypes[3])};
    param->shard = own(self, param->shard_bytes);
    param->grad = own(self, param->grad_bytes);
    param->desc.grad = (tsr_tensor){.context = param->grad};
    param->desc.shard = (tsr_tensor){.context = param->shard};
    if (at->mask & PARAM_SWAPPED)
        param->desc.shard = (tsr_tensor){.address = shard_address,
                                         .context = param,
                                         .vacate = vacate_shard,
                                         .occupy = occupy_shard};
}

/* Refused: a gradient waits, or the shard is away. */
static inline bool register_refused(runner *self, const runner_zero *zero,
                                    const op *at, tsr_stream *stream) {
    const model_param *param = &zero->model.params[at->id];
    tsr_zero_param desc = describe(self, at);
    if (!param->waiting && !param->taken && !param->away)
        return false;
    desc.grad.context = self->spoil; /* not used */
    cover(self, param->away ? COVER_register_refused_on_host
                            : COVER_register_refused);
    expect(self, tsr_zero_register_param(zero->zero, &desc, stream),
           TSR_FAILED_PRECONDITION);
    return true;
}

static inline void run_register_param(runner *self, runner_zero *zero,
                                      const op *at, tsr_stream *stream) {
    model *m = &zero->model;
    tsr_zero_param desc = describe(self, at);
    if (register_refused(self, zero, at, stream))
        return;
    cover_registration(self, m, at);
    wait_for(self, at->stream, self->read, zero->grad_readers);
    wait_for(self, at->stream, self->written, 1u << zero->writer);
    give_memory(self, zero, at, desc);
    tsr_status expected = model_register(m, at, &desc);
    m->params[at->id].value++;
    write_shard(self, zero, at->id, stream);
    use_grad_memory(self, zero, at);
    zero->writer = at->stream;
    expect(self, tsr_stream_record(stream, self->written[at->stream]), TSR_OK);
    for (int s = 0; s < PROGRAM_STREAMS; s++) /* gathers may come on any */
        wait_for(self, s, self->written, 1u << at->stream);
    expect(
        self,
        tsr_zero_register_param(zero->zero, &zero->params[at->id].desc, stream),
        expected);
}

static inline void run_register_graph(runner *self, runner_zero *zero,
                                      const op *at) {
    model *m = &zero->model;
    int64_t ids[PROGRAM_PARAMS + 1];
    size_t count = 0;
    for (int p = 0; p <= PROGRAM_PARAMS; p++)
        if (at->mask >> p & 1)
            ids[count++] = p;
    for (size_t i = 0; i < count; i++)
        if (!model_registered(m, (int)ids[i])) {
            expect(self,
                   tsr_zero_register_graph(zero->zero, at->graph, ids, count),
                   TSR_NOT_FOUND);
            return;
        }
    for (int p = 0; p < PROGRAM_PARAMS; p++)
        cover_if(self, COVER_graph_registered_anew_while_bound,
                 m->bindings[at->graph][p].copy >= 0);
    end_reads_behind(self, zero, at->graph, -1);
    model_unbind_graph(m, at->graph);
    drop_tensors(self, zero, at->graph);
    memset(zero->handles[at->graph], 0, sizeof zero->handles[at->graph]);
    m->graphs[at->graph] = true;
    for (int p = 0; p < PROGRAM_PARAMS; p++)
        m->named[at->graph][p] = at->mask >> p & 1;
    expect(self, tsr_zero_register_graph(zero->zero, at->graph, ids, count),
           TSR_OK);
}

#endif
