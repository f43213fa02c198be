/* Ops about gradients and steps. */
#ifndef TSR_TESTS_ZERO_EAGER_RUNNER_GRADS_H
#define TSR_TESTS_ZERO_EAGER_RUNNER_GRADS_H

#include "zero/eager_runner.h"

/* Gradients that the zero may have borrowed are the caller's again, for what
 * comes on this stream. */
static inline void take_loans_back(runner *self, runner_zero *zero,
                                   tsr_stream *stream) {
    for (int i = 0; i < zero->loan_count; i++)
        spoil_on(self, stream, zero->loans[i].memory, zero->loans[i].bytes);
    cover_if(self, COVER_grads_reused_after_wait, zero->loan_count > 0);
    zero->loan_count = 0;
}

static inline void cover_reduce(const runner *self, const model *m,
                                const op *at) {
    const model_param *param = &m->params[at->id];
    const model_bucket *bucket = &m->buckets[m->filling];
    size_t bytes = model_slot_bytes(m, param);
    cover(self, COVER_reduced);
    cover_if(self, COVER_grad_beyond_bucket, bytes > m->settings->bucket_bytes);
    cover_if(self, COVER_beyond_symmetric,
             m->shared && bytes > m->settings->bucket_bytes);
    cover_if(self, COVER_bucket_of_several,
             bucket->count > 0 && bytes > 0 &&
                 bucket->used + bytes <= m->settings->bucket_bytes);
    cover_if(self, COVER_same_param_twice,
             param->reduced && param->micro_step == m->micro_step && m->open);
    cover_if(self, COVER_accumulated_over_micro_steps,
             param->reduced && param->micro_step != m->micro_step && m->open);
    cover_if(self, COVER_kept_for_last_micro_step,
             m->settings->stage == 1 && !m->last);
}

/* Whole, in memory of the test's. */
static inline void *make_gradient(runner *self, const runner_zero *zero, int id,
                                  int call, size_t *out_bytes) {
    const model_param *param = &zero->model.params[id];
    *out_bytes = (size_t)param->numel * tsr_dtype_bytes(param->communicated);
    void *made = own(self, *out_bytes);
    for (int64_t i = 0; i < param->numel; i++)
        set_element(made, param->communicated, (size_t)i,
                    model_grad(&zero->model, self->rank, id, call, i));
    return made;
}

static inline void cover_slot(const runner *self, const runner_zero *zero,
                              const op *at, bool was_taken, const void *slot) {
    const model *m = &zero->model;
    const model_param *param = &m->params[at->id];
    cover(self, was_taken ? COVER_slot_taken_twice
                : slot    ? COVER_slot_taken
                          : COVER_slot_none);
    cover_if(self, COVER_slot_reused,
             !was_taken && slot && slot == zero->slots[at->id].memory);
    cover_if(self, COVER_slot_beyond_bucket,
             slot && model_slot_bytes(m, param) > m->settings->bucket_bytes);
}

/* What is taken first is written at once; again: only looked at. */
static inline void run_grad_slot(runner *self, runner_zero *zero, const op *at,
                                 tsr_stream *stream) {
    model *m = &zero->model;
    bool there, good = model_find(m, at->graph, at->id) == TSR_OK;
    bool was_taken = good && m->params[at->id].taken;
    void *slot = self; /* is set on every path */
    wait_for(self, at->stream, self->read, zero->grad_readers);
    tsr_status expected = model_grad_slot(m, at, &there);
    expect(self,
           tsr_zero_grad_slot(zero->zero, at->graph, at->id, stream, &slot),
           expected);
    if ((slot != NULL) != there)
        fail(self, there ? "grad_slot gives none" : "grad_slot gives one");
    cover_if(self, COVER_slot_holds_up_flush,
             expected == TSR_FAILED_PRECONDITION && model_holds_up(m));
    if (expected != TSR_OK)
        return;
    cover_slot(self, zero, at, was_taken, slot);
    if (was_taken && there && slot != zero->slots[at->id].memory)
        fail(self, "a slot that is taken is given at another address");
    if (was_taken || !there)
        return;
    size_t bytes;
    const void *made = make_gradient(self, zero, at->id, at->n, &bytes);
    expect(self, tsr_stream_copy(stream, slot, made, bytes), TSR_OK);
    zero->slots[at->id] = (runner_slot){slot, at->n, at->stream};
}

static inline void cover_in_place(const runner *self, const runner_zero *zero,
                                  const op *at) {
    const model *m = &zero->model;
    cover(self, COVER_slot_made_in_place);
    cover_if(self, COVER_slot_made_in_place_on_other_stream,
             zero->slots[at->id].stream != at->stream);
    cover_if(self, COVER_slot_scaled_in_place,
             m->settings->average == TSR_AVERAGE_BEFORE && m->world > 1);
    cover_if(self, COVER_slot_with_kept_sum, m->params[at->id].kept);
}

/* The gradient lies in the slot that is taken for it. */
static inline void run_reduce_slot(runner *self, runner_zero *zero,
                                   const op *at, tsr_stream *stream) {
    op made = *at;
    const runner_slot *slot = &zero->slots[at->id];
    made.n = slot->call;
    cover_in_place(self, zero, at);
    expect(self,
           tsr_zero_reduce_grad(zero->zero, at->graph, at->id, slot->memory,
                                stream),
           model_reduce(&zero->model, &made));
}

static inline void cover_bucket(const runner *self, const model *m, int filling,
                                bool waited) {
    cover_if(self, COVER_full_bucket_waits_for_slot,
             model_full(m) && model_holds_up(m));
    cover_if(self, COVER_full_bucket_left,
             !waited && m->settings->double_buffer && m->filling != filling &&
                 m->buckets[m->filling].count == 0);
}

static inline void run_reduce_own(runner *self, runner_zero *zero, const op *at,
                                  tsr_stream *stream) {
    model *m = &zero->model;
    bool good = model_find(m, at->graph, at->id) == TSR_OK;
    const model_param *param = &m->params[good ? at->id : 0];
    size_t bytes;
    void *made = make_gradient(self, zero, good ? at->id : 0, at->n, &bytes);
    void *grad = own(self, bytes);
    expect(self, tsr_stream_copy(stream, grad, made, bytes), TSR_OK);
    cover_if(self, COVER_profiled_reduce, good && m->profiling);
    cover_if(self, COVER_frozen_refused,
             good && !m->profiling && param->frozen);
    if (good && !m->profiling && !param->frozen) {
        cover_if(self, COVER_slot_copied_into, param->taken);
        cover_reduce(self, m, at);
        zero->loans[zero->loan_count++] = (loan){grad, bytes};
    }
    tsr_status expected = model_reduce(m, at);
    expect(self,
           tsr_zero_reduce_grad(zero->zero, at->graph, at->id, grad, stream),
           expected);
    cover_if(self, COVER_slot_holds_up_flush,
             expected == TSR_FAILED_PRECONDITION && model_holds_up(m));
    if (expected == TSR_FAILED_PRECONDITION)
        zero->loan_count--;
}

static inline void run_reduce(runner *self, runner_zero *zero, const op *at,
                              tsr_stream *stream) {
    model *m = &zero->model;
    bool good = model_find(m, at->graph, at->id) == TSR_OK;
    int filling = m->filling;
    bool waited = good && m->params[at->id].waiting;
    wait_for(self, at->stream, self->read, zero->grad_readers);
    if (good && !m->profiling && m->params[at->id].taken && !at->other)
        run_reduce_slot(self, zero, at, stream);
    else
        run_reduce_own(self, zero, at, stream);
    cover_bucket(self, m, filling, waited);
}

static inline void run_end(runner *self, runner_zero *zero, const op *at,
                           tsr_stream *stream) {
    model *m = &zero->model;
    wait_for(self, at->stream, self->read, zero->grad_readers);
    bool holds_up = !m->profiling && model_holds_up(m);
    cover_if(self, COVER_slot_holds_up_end, holds_up);
    for (int p = 0; p < PROGRAM_PARAMS && !m->profiling && !holds_up; p++)
        cover_if(self, COVER_zeroed_unreduced,
                 m->last && m->params[p].registered && !m->params[p].reduced &&
                     !m->params[p].kept && !m->params[p].frozen);
    tsr_status expected = model_end_backward(m, at->stream);
    expect(self, tsr_zero_end_backward(zero->zero, stream), expected);
    if (!m->profiling && !holds_up)
        take_loans_back(self, zero, stream);
}

static inline void run_abort(runner *self, runner_zero *zero, const op *at,
                             tsr_stream *stream) {
    model *m = &zero->model;
    cover(self, COVER_aborted);
    cover_if(self, COVER_aborted_with_waiting,
             m->buckets[m->filling].count > 0);
    cover_if(self, COVER_slot_dropped, model_holds_up(m));
    wait_for(self, at->stream, self->read, zero->grad_readers);
    for (int g = 0; g < PROGRAM_GRAPHS; g++)
        end_reads_behind(self, zero, g, at->stream);
    expect(self, tsr_zero_abort_step(zero->zero, stream), TSR_OK);
    model_abort(m, at->stream);
    take_loans_back(self, zero, stream);
}

/* Where the stream is past the reduces, nobody waits. */
static inline void run_read_grads(runner *self, runner_zero *zero,
                                  const op *at) {
    for (int p = 0; p < PROGRAM_PARAMS; p++) {
        const model_param *param = &zero->model.params[p];
        if (!grad_is_known(param) || !(param->readable >> at->stream & 1))
            continue;
        snapshot *made = take_snapshot(self, at->stream, "gradient of", p,
                                       zero->params[p].grad, param->grad_count,
                                       param->accumulated);
        made->slack = grad_slack(param);
        for (int64_t i = 0; i < param->grad_count; i++)
            made->expected[i] = expected_grad(param, i);
        zero->grad_readers |= 1u << at->stream;
        cover(self, COVER_grads_read_in_order);
    }
}

static inline void run_move_grad(runner *self, runner_zero *zero, const op *at,
                                 tsr_stream *stream) {
    if (!model_registered(&zero->model, at->id))
        return;
    runner_param *param = &zero->params[at->id];
    cover(self, COVER_grad_moved);
    cover_if(self, COVER_grad_moved_while_waiting,
             zero->model.params[at->id].waiting);
    param->grad = own(self, param->grad_bytes);
    param->desc.grad.context = param->grad;
    use_grad_memory(self, zero, at);
    expect(self,
           tsr_zero_update_param_grad_buffer(zero->zero, at->id,
                                             param->desc.grad, stream),
           TSR_OK);
    model_move_grad(&zero->model, at->id, at->stream);
}

static inline void run_wait_copied(runner *self, runner_zero *zero,
                                   tsr_stream *stream) {
    expect(self, tsr_zero_wait_grads_copied(zero->zero, stream), TSR_OK);
    take_loans_back(self, zero, stream);
}

#endif
