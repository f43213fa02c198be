/* The course of a step: its micro-steps, its end, its abortion. */
#include "zero/eager.h"

tsr_status tsr_zero_start_backward(tsr_zero *zero, bool update) {
    TSR_TRY(zero_given(zero, __func__, "zero"));
    if (!zero->step_open)
        for (size_t p = 0; p < zero->params.count; p++)
            zero->params.data[p]->reduced = false;
    zero->step_open = true;
    zero->last_micro_step = update;
    return TSR_OK;
}

/* Gradients may go, and their buffers be read, after this. */
static tsr_status join_gradients(tsr_zero *zero, tsr_stream *stream) {
    TSR_TRY(zero_join(zero, stream, &zero->fill));
    return zero_join(zero, stream, &zero->reduce);
}

/* Zeroes the gradient buffers that this step did not write. */
static tsr_status zero_unreduced(tsr_zero *zero) {
    for (size_t p = 0; p < zero->params.count; p++) {
        zero_param *param = zero->params.data[p];
        if (param->reduced)
            continue;
        TSR_TRY(zero_grad(zero, param));
        param->reduced = true; /* later reduces add to 0 */
    }
    return TSR_OK;
}

/* Every copy has been recorded: one that is through costs no wait. */
tsr_status tsr_zero_wait_grads_copied(tsr_zero *zero, tsr_stream *stream) {
    int index; /* known: tsr_zero_release waits for what it waits for */
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_stream_index(zero, stream, &index));
    return tsr_stream_wait(stream, zero->fill.end);
}

static tsr_status end_micro_step(tsr_zero *zero, tsr_stream *stream) {
    if (zero->last_micro_step) {
        /* Buffers are written that no call since their readers on `stream`
         * was about. */
        TSR_TRY(zero_after(zero, zero->reduce.stream, stream));
        TSR_TRY(zero_flush_kept(zero));
    }
    TSR_TRY(zero_flush(zero));
    if (zero->last_micro_step) {
        TSR_TRY(zero_unreduced(zero));
        /* The shards are written next: their readers come first. */
        TSR_TRY(zero_join(zero, stream, &zero->gather));
        zero->step_open = false;
    }
    return join_gradients(zero, stream);
}

tsr_status tsr_zero_end_backward(tsr_zero *zero, tsr_stream *stream) {
    TSR_TRY(zero_check_call(zero, stream, __func__));
    if (zero->profiling)
        return TSR_OK;
    TSR_TRY(zero_check_filled(zero));
    zero_remember(zero, ZERO_END, zero->last_micro_step);
    TSR_TRY(zero_give_up(zero, end_micro_step(zero, stream)));
    return tsr_comm_poll(zero->options.reduce_comm, NULL);
}

tsr_status tsr_zero_abort_step(tsr_zero *zero, tsr_stream *stream) {
    TSR_TRY(zero_check_call(zero, stream, __func__));
    TSR_TRY(zero_after(zero, zero->gather.stream, stream));
    for (size_t g = 0; g < zero->graphs.count; g++)
        TSR_TRY(zero_unbind_all(zero, zero->graphs.data[g]));
    for (size_t p = 0; p < zero->params.count; p++)
        zero->params.data[p]->reduced = zero->params.data[p]->kept_valid =
            false;
    zero->step_open = false;
    zero->last_micro_step = false;
    zero_forget(zero);
    TSR_TRY(zero_after(zero, zero->reduce.stream, stream)); /* writes slots */
    TSR_TRY(zero_drop_waiting(zero));
    return join_gradients(zero, stream);
}
