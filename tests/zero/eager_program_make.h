/* Random programs: courses that a caller would take (a use of a parameter, a
 * micro-step, a tensor to the host and back), with single ops strewn in. */
#ifndef TSR_TESTS_ZERO_EAGER_PROGRAM_MAKE_H
#define TSR_TESTS_ZERO_EAGER_PROGRAM_MAKE_H

#include "zero/eager_program.h"

static const int op_weights[] = {
#define ROW(name, weight, arguments) weight,
    PROGRAM_KINDS(ROW)
#undef ROW
};

enum { MAKE_OPS = 90 }; /* of a random program; the last course may be cut */

typedef struct maker {
    program *to;
    uint64_t state;
    int zero, graph, id, stream; /* of the course in hand */
    int calls;                   /* gradients so far, to tell them apart */
} maker;

static inline int chance(maker *self, int one_in) {
    return draw(&self->state, one_in) == 0;
}

static inline tsr_dtype draw_dtype(maker *self) {
    static const tsr_dtype dtypes[] = {TSR_F32, TSR_BF16, TSR_F16};
    return dtypes[draw(&self->state, 3)];
}

/* ---- one op ---- */

static inline int draw_graph(maker *self) {
    return chance(self, 15) ? 0 : 1 + draw(&self->state, PROGRAM_GRAPHS - 1);
}

static inline int draw_param(maker *self) {
    return chance(self, 40) ? PROGRAM_PARAMS
                            : draw(&self->state, PROGRAM_PARAMS);
}

static inline int draw_number(maker *self, op_kind kind) {
    static const int sizes[] = {0, 1, 2, 7, 12, 16, 33, 37, 64};
    switch (kind) {
    case OP_register_param:
        return sizes[draw(&self->state, 9)];
    case OP_release_param:
        return chance(self, 12) ? 0 : 1 + draw(&self->state, 3);
    case OP_grad_slot:
    case OP_reduce_grad:
        return self->calls++ % 100;
    case OP_offload_tensor: /* often one that the pool has */
        return chance(self, 2) ? 33
                               : 1 + draw(&self->state, PROGRAM_TENSOR_BYTES);
    case OP_dawdle:
        return 50 + draw(&self->state, 400);
    case OP_enable_profiling:
        return chance(self, 3);
    default:
        return draw(&self->state, 2);
    }
}

static inline unsigned draw_flags(maker *self) {
    static const int one_in[PARAM_FLAGS] = {5, 7, 2, 2};
    unsigned mask = 0;
    for (int i = 0; i < PARAM_FLAGS; i++)
        mask |= (unsigned)chance(self, one_in[i]) << i;
    return mask;
}

static inline unsigned draw_mask(maker *self, op_kind kind) {
    if (kind == OP_register_param)
        return draw_flags(self);
    if (kind == OP_free_tensors)
        return (unsigned)draw(&self->state, 1 << PROGRAM_TENSORS);
    unsigned mask = (unsigned)draw(&self->state, 1 << PROGRAM_PARAMS);
    for (int i = 0; i < 2 && kind == OP_register_graph; i++) /* most of them */
        mask |= (unsigned)draw(&self->state, 1 << PROGRAM_PARAMS);
    return mask;
}

/* One draw a statement: the order within an expression is the compiler's. */
static inline op draw_op(maker *self, op_kind kind) {
    static const int granules[] = {0, 0, 1, 3, 8};
    op made = {.kind = kind};
    made.zero = draw(&self->state, self->to->zero_count);
    made.graph = draw_graph(self);
    made.id = draw_param(self);
    made.stream = draw(&self->state, PROGRAM_STREAMS);
    made.n = draw_number(self, kind);
    made.k = granules[draw(&self->state, 5)];
    made.mask = draw_mask(self, kind);
    made.other = chance(self, kind == OP_reduce_grad ? 4 : 2);
    made.list_count = draw(&self->state, PROGRAM_LIST + 1);
    if (kind >= OP_offload_tensor && kind <= OP_read_tensor)
        made.id = draw(&self->state, PROGRAM_TENSORS);
    if (kind == OP_register_param)
        made.id %= PROGRAM_PARAMS;
    if (kind == OP_register_graph && made.graph == 0) /* never there */
        made.graph = 1;
    for (int i = 0; i < PROGRAM_LIST; i++) {
        bool again = i > 0 && chance(self, 3);
        made.list[i] = again ? made.list[0] : draw_param(self);
        made.dtypes[i] = draw_dtype(self);
    }
    return made;
}

static inline op_kind draw_kind(maker *self) {
    int sum = 0, kind = 0;
    for (int k = 0; k < OP_KINDS; k++)
        sum += op_weights[k];
    for (int left = draw(&self->state, sum); left >= op_weights[kind]; kind++)
        left -= op_weights[kind];
    return (op_kind)kind;
}

static inline void push(maker *self, op made) {
    if (self->to->count < MAKE_OPS)
        self->to->ops[self->to->count++] = made;
}

/* ---- courses ---- */

/* The course's next op, with the course's names; now and then another before
 * it. n < 0: as drawn. */
static inline void step(maker *self, op_kind kind, int n) {
    if (chance(self, 4))
        push(self, draw_op(self, draw_kind(self)));
    op made = draw_op(self, kind);
    made.zero = self->zero;
    made.graph = self->graph;
    made.id = self->id;
    made.stream = self->stream;
    made.n = n < 0 ? made.n : n;
    push(self, made);
}

static inline void choose(maker *self) {
    self->zero = draw(&self->state, self->to->zero_count);
    self->graph = 1 + draw(&self->state, PROGRAM_GRAPHS - 1);
    self->id = draw(&self->state, PROGRAM_PARAMS);
    self->stream = draw(&self->state, PROGRAM_STREAMS);
}

/* Each user reads on a stream of its own. */
static inline void make_use(maker *self) {
    int gathered_on = self->stream, users = chance(self, 3) ? 2 : 1;
    step(self, OP_allgather_param, -1);
    if (chance(self, 20))
        step(self, OP_register_param, -1);
    for (int i = 0; i < users; i++) {
        if (i > 0 || chance(self, 3))
            self->stream = draw(&self->state, PROGRAM_STREAMS);
        step(self, OP_wait_allgather, -1);
        if (chance(self, 4)) /* behind the one that waited */
            self->stream = draw(&self->state, PROGRAM_STREAMS);
        if (chance(self, 5))
            step(self, OP_dawdle, -1);
        step(self, OP_read, -1);
    }
    if (chance(self, 12)) { /* the use is cut short */
        step(self, chance(self, 2) ? OP_reset : OP_abort_step, -1);
        step(self, OP_register_graph, -1);
        users = 0;
    }
    for (int i = 0; i < users; i++)
        step(self, OP_release_param, users);
    self->stream = gathered_on;
}

/* Two graphs use one copy, on streams of their own. */
static inline void make_shared_use(maker *self) {
    op gather = draw_op(self, OP_allgather_param);
    int graphs[2] = {self->graph, self->graph % (PROGRAM_GRAPHS - 1) + 1};
    for (int i = 0; i < 2; i++) {
        gather.zero = self->zero;
        gather.id = self->id;
        gather.graph = self->graph = graphs[i];
        gather.stream = draw(&self->state, PROGRAM_STREAMS);
        push(self, gather);
        self->stream = draw(&self->state, PROGRAM_STREAMS);
        step(self, OP_wait_allgather, -1);
        step(self, OP_read, -1);
    }
    for (int i = 0; i < 2; i++) {
        self->graph = graphs[i];
        step(self, OP_release_param, 1);
    }
}

/* Its gradient is made in its slot, or given up for another one. */
static inline void make_gradient_in_slot(maker *self) {
    int id = self->id;
    if (chance(self, 3))
        step(self, OP_dawdle, -1);
    step(self, OP_grad_slot, -1);
    if (chance(self, 4))
        self->stream = draw(&self->state, PROGRAM_STREAMS);
    if (chance(self, 6))
        step(self, OP_grad_slot, -1);
    if (chance(self, 5)) { /* another one, before or behind it */
        self->id = draw(&self->state, PROGRAM_PARAMS);
        step(self, chance(self, 2) ? OP_grad_slot : OP_reduce_grad, -1);
        if (chance(self, 2))
            step(self, OP_reduce_grad, -1);
        self->id = id;
    }
    if (!chance(self, 12))
        step(self, OP_reduce_grad, -1);
}

static inline void make_micro_step(maker *self, bool last) {
    int reduces = draw(&self->state, 5);
    step(self, OP_start_backward, last);
    for (int i = 0; i < reduces; i++) {
        if (!chance(self, 3))
            self->id = draw(&self->state, PROGRAM_PARAMS);
        if (chance(self, 2))
            make_gradient_in_slot(self);
        else
            step(self, OP_reduce_grad, -1);
        if (chance(self, 20))
            step(self, chance(self, 3) ? OP_register_param : OP_move_grad, -1);
    }
    if (chance(self, 2))
        step(self, OP_wait_grads_copied, -1);
    step(self, chance(self, 20) ? OP_abort_step : OP_end_backward, -1);
    if (chance(self, 2))
        step(self, OP_read_grads, -1);
}

/* While a slot is still being filled; then the bucket is needed anew. */
static inline void make_aborted_step(maker *self) {
    step(self, OP_start_backward, 0);
    step(self, OP_dawdle, -1);
    step(self, chance(self, 2) ? OP_grad_slot : OP_reduce_grad, -1);
    self->stream = draw(&self->state, PROGRAM_STREAMS);
    step(self, OP_abort_step, -1);
    make_micro_step(self, true);
}

static inline void make_step(maker *self) {
    for (int left = draw(&self->state, 3); left >= 0; left--) {
        if (chance(self, 3))
            make_use(self);
        make_micro_step(self, left == 0);
    }
    if (!chance(self, 3))
        step(self, OP_write_weights, -1);
}

static inline void make_return(maker *self) {
    step(self, OP_reload_tensor, -1);
    if (chance(self, 3)) { /* another one, into a buffer just left */
        int id = self->id;
        self->id = (id + 1) % PROGRAM_TENSORS;
        step(self, OP_offload_tensor, -1);
        self->id = id;
    }
    if (chance(self, 4))
        step(self, OP_reload_tensor, -1);
    if (chance(self, 3))
        self->stream = draw(&self->state, PROGRAM_STREAMS);
    step(self, OP_wait_reload, -1);
    if (chance(self, 3))
        step(self, OP_dawdle, -1);
    step(self, OP_read_tensor, -1);
    if (chance(self, 8)) { /* it goes with its graph */
        if (chance(self, 2))
            step(self, OP_reset, -1);
        step(self, OP_register_graph, -1);
    }
}

static inline void make_tensor_trip(maker *self) {
    self->id = draw(&self->state, PROGRAM_TENSORS);
    step(self, OP_offload_tensor, -1);
    if (chance(self, 5)) /* another one instead */
        step(self, OP_offload_tensor, -1);
    if (!chance(self, 3))
        step(self, OP_wait_offload, -1);
    make_return(self);
    if (chance(self, 3)) { /* and once more */
        step(self, OP_offload_reloaded, -1);
        make_return(self);
    }
    step(self, OP_free_tensors, -1);
    if (!chance(self, 4)) /* this one, too */
        self->to->ops[self->to->count - 1].mask |= 1u << self->id;
}

static inline void make_param_trip(maker *self) {
    step(self, OP_offload_parameter, -1);
    if (chance(self, 3))
        make_use(self); /* of a valid copy, or refused */
    step(self, OP_reload_parameter, -1);
    if (chance(self, 3)) {
        step(self, OP_offload_parameter, -1); /* as it was */
        step(self, OP_reload_parameter, -1);
    }
    self->stream = draw(&self->state, PROGRAM_STREAMS);
    make_use(self);
}

static inline void make_course(maker *self) {
    bool sharded = self->to->zeros[self->zero].settings.stage == 3;
    switch (draw(&self->state, 9)) {
    case 0:
    case 1:
        sharded ? make_use(self) : make_step(self);
        break;
    case 2:
        sharded ? make_shared_use(self) : make_step(self);
        break;
    case 3:
        make_tensor_trip(self);
        break;
    case 4:
        sharded ? make_param_trip(self) : make_tensor_trip(self);
        break;
    case 5:
        push(self, draw_op(self, draw_kind(self)));
        break;
    case 6:
        chance(self, 2) ? make_aborted_step(self) : make_step(self);
        break;
    default:
        make_step(self);
        break;
    }
}

/* ---- the whole ---- */

static inline void make_zero(maker *self, program_zero *to) {
    static const size_t buckets[] = {64, 192, 192, 512, 4096};
    static const size_t hosts[] = {100, 300, 300, 1 << 16, 1 << 16, 1 << 16};
    tsr_zero_settings *settings = &to->settings;
    settings->stage = chance(self, 4) ? 1 : 3;
    settings->stage += settings->stage == 1 && chance(self, 2);
    settings->bucket_bytes = buckets[draw(&self->state, 5)];
    settings->host_bytes = chance(self, 20) ? 0 : hosts[draw(&self->state, 6)];
    settings->double_buffer = !chance(self, 3);
    settings->symmetric_memory = chance(self, 4);
    settings->sync_before_allgather = chance(self, 20);
    settings->sync_after_allgather = chance(self, 20);
    settings->sync_before_reduce = chance(self, 20);
    settings->sync_after_reduce = chance(self, 20);
    settings->average = (tsr_average)draw(&self->state, 3);
    to->heap = !chance(self, 5);
}

static inline void make_setup(maker *self) {
    static const int worlds[] = {1, 2, 2, 2, 3, 3, 3, 5};
    static const int delays[] = {0, 0, 20, 60, 200};
    program *to = self->to;
    to->world = worlds[draw(&self->state, 8)];
    to->zero_delay = delays[draw(&self->state, 4)];
    to->caller_delay = to->zero_delay ? 0 : delays[draw(&self->state, 5)];
    to->slow_rank = draw(&self->state, 3 * to->world);
    to->slow_rank = to->slow_rank < to->world ? to->slow_rank : -1;
    for (int s = 0; s < PROGRAM_STREAMS; s++)
        to->is_inline[s] = chance(self, 6);
    to->zero_count = chance(self, 4) ? 2 : 1;
    for (int z = 0; z < to->zero_count; z++)
        make_zero(self, &to->zeros[z]);
}

static inline void make_registrations(maker *self, int zero) {
    for (int p = 0; p < PROGRAM_PARAMS; p++) {
        op made = draw_op(self, OP_register_param);
        made.zero = zero;
        made.id = p;
        made.stream = 0;
        push(self, made);
    }
    for (int graph = 1; graph < PROGRAM_GRAPHS; graph++) {
        op made = draw_op(self, OP_register_graph);
        made.zero = zero;
        made.graph = graph;
        push(self, made);
    }
}

static inline program make_program(unsigned long long seed) {
    program made = {.seed = seed};
    maker self = {.to = &made, .state = seed};
    make_setup(&self);
    for (int zero = 0; zero < made.zero_count; zero++)
        make_registrations(&self, zero);
    while (made.count < MAKE_OPS) {
        choose(&self);
        make_course(&self);
    }
    return made;
}

#endif
