/* Runs a program of eager ops on ranks that are threads. */
#ifndef TSR_TESTS_ZERO_EAGER_RUN_H
#define TSR_TESTS_ZERO_EAGER_RUN_H

#include "zero/eager_runner_grads.h"
#include "zero/eager_runner_ops.h"

static inline tsr_status dawdle_for(void *context) {
    const int *us = context;
    nanosleep(&(struct timespec){.tv_nsec = *us * 1000L}, NULL);
    return TSR_OK;
}

static inline void run_dawdle(runner *self, const op *at, tsr_stream *stream) {
    int *us = own(self, sizeof *us);
    *us = self->rank == self->at % self->world ? at->n : at->n / 8;
    expect(self, tsr_stream_enqueue(stream, dawdle_for, us), TSR_OK);
}

static inline void run_reset(runner *self, runner_zero *zero, const op *at,
                             tsr_stream *stream) {
    model *m = &zero->model;
    for (int g = 0; g < PROGRAM_GRAPHS; g++) {
        end_reads_behind(self, zero, g, at->stream);
        for (int p = 0; p < PROGRAM_PARAMS; p++)
            cover_if(self, COVER_reset_while_bound,
                     m->bindings[g][p].copy >= 0);
        model_unbind_graph(m, g);
        drop_tensors(self, zero, g);
        m->graphs[g] = false;
    }
    memset(zero->handles, 0, sizeof zero->handles);
    expect(self, tsr_zero_reset(zero->zero, stream), TSR_OK);
}

static inline void run_profiling(const runner *self, runner_zero *zero,
                                 const op *at) {
    zero->model.profiling = at->n;
    tsr_zero_enable_profiling(zero->zero, at->n);
    if (tsr_zero_is_profiling(zero->zero) != zero->model.profiling)
        fail(self, "enable_profiling does not");
}

/* Ops of the host's. */
static inline void run_host_op(runner *self, runner_zero *zero, const op *at,
                               tsr_stream *stream) {
    switch (at->kind) {
    case OP_offload_tensor:
        run_offload_tensor(self, zero, at, stream);
        break;
    case OP_offload_reloaded:
        run_offload_reloaded(self, zero, at, stream);
        break;
    case OP_wait_offload:
        run_wait_offload(self, zero, at, stream);
        break;
    case OP_reload_tensor:
        run_reload_tensor(self, zero, at, stream);
        break;
    case OP_wait_reload:
        run_wait_reload(self, zero, at, stream);
        break;
    case OP_read_tensor:
        run_read_tensor(self, zero, at);
        break;
    case OP_free_tensors:
        run_free_tensors(self, zero, at, stream);
        break;
    case OP_offload_parameter:
        run_offload_param(self, zero, at, stream);
        break;
    default:
        run_reload_param(self, zero, at, stream);
        break;
    }
}

/* Ops of a training step. */
static inline void run_step_op(runner *self, runner_zero *zero, const op *at,
                               tsr_stream *stream) {
    model *m = &zero->model;
    switch (at->kind) {
    case OP_grad_slot:
        run_grad_slot(self, zero, at, stream);
        break;
    case OP_reduce_grad:
        run_reduce(self, zero, at, stream);
        break;
    case OP_wait_grads_copied:
        run_wait_copied(self, zero, stream);
        break;
    case OP_start_backward:
        expect(self, tsr_zero_start_backward(zero->zero, at->n), TSR_OK);
        model_start_backward(m, at->n);
        break;
    case OP_end_backward:
        run_end(self, zero, at, stream);
        break;
    case OP_read_grads:
        run_read_grads(self, zero, at);
        break;
    case OP_abort_step:
        run_abort(self, zero, at, stream);
        break;
    case OP_move_grad:
        run_move_grad(self, zero, at, stream);
        break;
    case OP_start_forward:
        expect(self, tsr_zero_start_forward(zero->zero), TSR_OK);
        break;
    case OP_end_forward:
        expect(self, tsr_zero_end_forward(zero->zero), TSR_OK);
        break;
    case OP_reset:
        run_reset(self, zero, at, stream);
        break;
    case OP_seal:
        expect(self, tsr_zero_seal(zero->zero, stream), model_seal(m));
        break;
    default:
        run_host_op(self, zero, at, stream);
        break;
    }
}

static inline void run_op(runner *self, const op *at) {
    runner_zero *zero = &self->zeros[at->zero];
    tsr_stream *stream = self->streams[at->stream];
    model *m = &zero->model;
    switch (at->kind) {
    case OP_register_param:
        run_register_param(self, zero, at, stream);
        break;
    case OP_register_graph:
        run_register_graph(self, zero, at);
        break;
    case OP_allgather_param:
        run_gather(self, zero, at, stream);
        break;
    case OP_wait_allgather:
        run_wait(self, zero, at, stream);
        break;
    case OP_read:
        run_read(self, zero, at);
        break;
    case OP_release_param:
        run_release(self, zero, at, stream);
        break;
    case OP_prefetch_params_fused:
        run_prefetch(self, zero, at, stream);
        break;
    case OP_write_weights:
        run_write(self, zero, at, stream);
        break;
    case OP_move_shard:
        run_move_shard(self, zero, at);
        break;
    case OP_set_persistent:
        expect(self, tsr_zero_set_persistent(zero->zero, at->id, stream),
               model_set_persistent(m, at->id));
        break;
    case OP_invalidate:
    case OP_clear:
        run_stale(self, zero, at);
        break;
    case OP_enable_profiling:
        run_profiling(self, zero, at);
        break;
    case OP_synchronize:
        synchronize(self);
        break;
    case OP_dawdle:
        run_dawdle(self, at, stream);
        break;
    default:
        run_step_op(self, zero, at, stream);
        break;
    }
}

/* ---- a rank ---- */

static inline tsr_device *open_device(const runner *self, int longest_us,
                                      uint64_t salt) {
    const program *at = self->program;
    tsr_device *made;
    bool slow = at->slow_rank < 0 || at->slow_rank == self->rank;
    tsr_cpu_options options = {0};
    if (slow && longest_us > 0)
        options = (tsr_cpu_options){
            .delay_seed = at->seed * 1000 + (uint64_t)self->rank * 10 + salt,
            .max_delay_us = (uint32_t)longest_us};
    CHECK_OK(tsr_device_create_cpu(&options, &made));
    return made;
}

static inline void open_streams(runner *self) {
    for (int s = 0; s < PROGRAM_STREAMS; s++) {
        bool is_inline = self->program->is_inline[s];
        CHECK_OK(
            tsr_stream_create(self->caller_device,
                              is_inline ? TSR_STREAM_INLINE : TSR_STREAM_QUEUED,
                              "caller", 0, &self->streams[s]));
        CHECK_OK(tsr_event_create(self->caller_device, &self->read[s]));
        CHECK_OK(tsr_event_create(self->caller_device, &self->written[s]));
        cover(self, is_inline ? COVER_inline_stream : COVER_queued_stream);
    }
}

static inline void cover_settings(const runner *self, const program_zero *at) {
    const tsr_zero_settings *s = &at->settings;
    cover(self, (cover_kind)(COVER_stage_1 + s->stage - 1));
    cover(self, (cover_kind)(COVER_average_after + (int)s->average));
    cover(self, s->double_buffer ? COVER_double_buffer : COVER_single_buffer);
    cover(self, at->heap ? COVER_outside_allocator : COVER_own_allocator);
    cover_if(self, COVER_symmetric_memory,
             s->symmetric_memory && s->stage == 3);
    cover_if(self, COVER_host_sync,
             s->sync_before_allgather || s->sync_after_allgather ||
                 s->sync_before_reduce || s->sync_after_reduce);
}

static inline void open_zero(runner *self, const rank_context *context,
                             int index) {
    runner_zero *zero = &self->zeros[index];
    const program_zero *at = &self->program->zeros[index];
    tsr_comm_options comm = {.timeout_ms = 20000};
    tsr_allocator allocator = {outside_alloc, heap_free, &zero->heap};
    CHECK_OK(
        tsr_comm_create_host(context->bootstrap, &comm, &zero->gather_comm));
    CHECK_OK(tsr_comm_split(zero->gather_comm, &zero->reduce_comm));
    zero->has_heap = at->heap;
    CHECK_OK(tsr_zero_create(
        &(tsr_zero_options){.device = self->zero_device,
                            .gather_comm = zero->gather_comm,
                            .reduce_comm = zero->reduce_comm,
                            .kernels = self->kernels,
                            .allocator = at->heap ? &allocator : NULL,
                            .settings = at->settings},
        &zero->zero));
    model_open(&zero->model, &at->settings, self->rank, self->world,
               index * PROGRAM_PARAMS);
    cover_settings(self, at);
}

static inline void open_runner(runner *self, const rank_context *context) {
    static const cover_kind worlds[] = {COVER_world_1, COVER_world_2,
                                        COVER_world_3, COVER_world_5};
    self->rank = context->rank;
    self->world = context->world;
    memset(self->spoil, SPOILED, sizeof self->spoil);
    self->zero_device = open_device(self, self->program->zero_delay, 1);
    self->caller_device = open_device(self, self->program->caller_delay, 2);
    CHECK_OK(tsr_kernel_table_create(TSR_KERNELS_REF, &self->kernels));
    open_streams(self);
    for (int z = 0; z < self->program->zero_count; z++)
        open_zero(self, context, z);
    cover(self, worlds[self->world < 4 ? self->world - 1 : 3]);
    cover_if(self, COVER_two_zeros, self->program->zero_count > 1);
}

static inline void close_runner(runner *self) {
    for (int z = 0; z < self->program->zero_count; z++)
        tsr_zero_release(self->zeros[z].zero);
    for (int s = 0; s < PROGRAM_STREAMS; s++) {
        tsr_stream_release(self->streams[s]);
        tsr_event_release(self->read[s]);
        tsr_event_release(self->written[s]);
    }
    for (int z = 0; z < self->program->zero_count; z++) {
        tsr_comm_release(self->zeros[z].reduce_comm);
        tsr_comm_release(self->zeros[z].gather_comm);
        heap_close(&self->zeros[z].heap);
    }
    tsr_kernel_table_release(self->kernels);
    tsr_device_release(self->caller_device);
    tsr_device_release(self->zero_device);
    while (self->memory) {
        owned *at = self->memory;
        self->memory = at->next;
        free(at);
    }
}

typedef struct run {
    const program *program;
    unsigned *covered;
} run;

static inline void run_rank(rank_context *context) {
    const run *at = context->argument;
    runner *self = calloc(1, sizeof *self);
    CHECK(self);
    self->program = at->program;
    self->covered = context->rank == 0 ? at->covered : NULL;
    open_runner(self, context);
    for (self->at = 0; self->at < at->program->count; self->at++) {
        const op *next = &at->program->ops[self->at];
        if (next->zero >= at->program->zero_count)
            continue;
        run_op(self, next);
        for (int z = 0; z < at->program->zero_count; z++)
            check_memory(self, &self->zeros[z]);
    }
    synchronize(self);
    close_runner(self);
    free(self);
}

/* Ends the process with RUNNER_FAILED and a line "@fail ..." where the
 * program finds a fault. covered: (COVERS), added to. */
static inline void run_program(const program *at, unsigned *covered) {
    run_threads(at->world, run_rank, &(run){at, covered});
}

#endif
