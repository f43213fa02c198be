/* Random programs over the eager front, run on ranks that are threads with
 * delays, against a model of the header. A program that fails is shrunk and
 * printed. Usage: test_eager_model [programs [first seed]] */
#include "zero/eager_model.h"
#include <stdarg.h>

enum { OPS = 60 };

/* ThreadSanitizer takes ten times as long. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define PROGRAMS 50
#endif
#endif
#if !defined(PROGRAMS)
#define PROGRAMS 300
#endif

/* clang-format never settles on this list. */
/* clang-format off */
#define KINDS(X) \
    X(gather, 12) X(wait, 10) X(read, 12) \
    X(release, 10) X(prefetch, 4) X(reduce, 14) \
    X(start_backward, 5) X(end_backward, 6) X(abort_step, 1) \
    X(write_weights, 4) X(set_persistent, 1) X(invalidate, 2) \
    X(clear, 1) X(profiling, 1) X(reset, 1) \
    X(register_graph, 2) X(register_param, 2) X(move_grad, 1) \
    X(seal, 1) X(synchronize, 2)
/* clang-format on */
typedef enum op_kind {
#define ROW(name, weight) OP_##name,
    KINDS(ROW)
#undef ROW
} op_kind;
static const char *const op_names[] = {
#define ROW(name, weight) #name,
    KINDS(ROW)
#undef ROW
};
static const int op_weights[] = {
#define ROW(name, weight) weight,
    KINDS(ROW)
#undef ROW
};

typedef struct op {
    op_kind kind;
    int graph, id, bits;
    tsr_dtype dtype;
} op;

typedef struct program {
    uint64_t seed;
    int world, stage, count;
    op ops[OPS];
} program;

/* ---- making and printing ---- */

static uint64_t next_random(uint64_t *state) { /* SplitMix64 */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static int draw(uint64_t *state, int count) {
    return (int)(next_random(state) % (uint64_t)count);
}

static op_kind draw_kind(uint64_t *state) {
    int sum = 0, kind = 0;
    for (size_t k = 0; k < sizeof op_weights / sizeof *op_weights; k++)
        sum += op_weights[k];
    for (int left = draw(state, sum); left >= op_weights[kind]; kind++)
        left -= op_weights[kind];
    return (op_kind)kind;
}

static program make_program(uint64_t seed) {
    uint64_t state = seed;
    program made = {.seed = seed, .count = OPS};
    made.world = 1 + draw(&state, 3);
    made.stage = draw(&state, 4) ? 3 : 1 + draw(&state, 2);
    for (int i = 0; i < OPS; i++)
        made.ops[i] = (op){
            .kind = draw_kind(&state),
            .graph = draw(&state, 12) ? 1 + draw(&state, MODEL_GRAPHS - 1) : 0,
            .id = draw(&state, 30) ? draw(&state, MODEL_PARAMS) : MODEL_PARAMS,
            .bits = draw(&state, 4096),
            .dtype = (tsr_dtype)draw(&state, 3)};
    return made;
}

static void print_program(const program *at) {
    printf("seed %llu, world %d, stage %d:\n", (unsigned long long)at->seed,
           at->world, at->stage);
    for (int i = 0; i < at->count; i++)
        printf("  %2d %-15s graph %d  id %d  bits %03x  %s\n", i,
               op_names[at->ops[i].kind], at->ops[i].graph, at->ops[i].id,
               (unsigned)at->ops[i].bits, tsr_dtype_name(at->ops[i].dtype));
}

/* ---- running ---- */

typedef struct snapshot {
    void *seen; /* owned */
    tsr_dtype dtype;
    int id, value, op;
} snapshot;

typedef struct runner {
    const program *program;
    eager_rank rank;
    model model;
    test_param params[MODEL_PARAMS];
    tsr_stream *streams[2]; /* graph g uses g % 2; [0] is the rank's */
    tsr_view views[MODEL_GRAPHS][MODEL_PARAMS];
    snapshot snapshots[OPS];
    int snapshot_count;
    void *owned[3 * OPS]; /* what queued work reads */
    int owned_count;
    int at;            /* op */
    char failure[300]; /* the first */
} runner;

static void fail(runner *self, const char *format, ...) TSR_PRINTF(2, 3);
static void fail(runner *self, const char *format, ...) {
    va_list arguments;
    if (self->failure[0])
        return;
    int used = snprintf(self->failure, sizeof self->failure,
                        "rank %d, op %d: ", self->rank.rank, self->at);
    va_start(arguments, format);
    vsnprintf(self->failure + used, sizeof self->failure - (size_t)used, format,
              arguments);
    va_end(arguments);
}

static void expect(runner *self, tsr_status got, tsr_status expected) {
    if (got != expected)
        fail(self, "got %s, expected %s; last message: %s",
             tsr_status_name(got), tsr_status_name(expected), tsr_last_error());
}

static void *own(runner *self, int64_t count) {
    return self->owned[self->owned_count++] = some_memory(count);
}

static void check_snapshots(runner *self) {
    for (int s = 0; s < self->snapshot_count; s++) {
        snapshot *at = &self->snapshots[s];
        const test_param *param = &self->params[at->id];
        for (int64_t i = 0; i < param->numel; i++) {
            float expected = rounded(rounded(weight_value(at->id, at->value, i),
                                             param->desc.type.dtype),
                                     at->dtype);
            float got = get_element(at->seen, at->dtype, (size_t)i);
            if (!(fabsf(got - expected) <= 0))
                fail(self, "read of op %d, parameter %d [%d]: %g, not %g",
                     at->op, at->id, (int)i, (double)got, (double)expected);
        }
        free(at->seen);
    }
    self->snapshot_count = 0;
}

static void check_grads(runner *self) {
    const model *m = &self->model;
    for (int p = 0; p < MODEL_PARAMS; p++) {
        const test_param *param = &self->params[p];
        int64_t begin = shard_begin(&self->rank, param);
        for (int64_t i = 0; i < param->grad_count; i++) {
            float expected =
                begin + i < param->numel ? m->params[p].sum[begin + i] : 0;
            float got = ((const float *)param->grad_memory)[i];
            if (m->params[p].known && !m->params[p].frozen &&
                !near(got, expected, TSR_F32))
                fail(self, "gradient of parameter %d [%d]: %g, not %g", p,
                     (int)i, (double)got, (double)expected);
        }
    }
}

static void synchronize(runner *self) {
    for (int s = 0; s < 2; s++)
        expect(self, tsr_stream_synchronize(self->streams[s]), TSR_OK);
    expect(self, tsr_zero_synchronize(self->rank.zero), TSR_OK);
    check_snapshots(self);
    if (!self->model.waiting)
        check_grads(self);
}

/* ---- ops ---- */

static void run_gather(runner *self, const op *at, tsr_stream *stream) {
    tsr_view view;
    tsr_status expected =
        model_gather(&self->model, at->graph, at->id, at->dtype);
    expect(self,
           tsr_zero_allgather_param(self->rank.zero, at->graph, at->id,
                                    at->dtype, stream, &view),
           expected);
    if (expected == TSR_OK && !self->failure[0])
        self->views[at->graph][at->id] = view;
}

static void run_read(runner *self, const op *at, tsr_stream *stream) {
    model *m = &self->model;
    if (model_find(m, at->graph, at->id) != TSR_OK)
        return;
    const model_binding *binding = &m->bindings[at->graph][at->id];
    const test_param *param = &self->params[at->id];
    if (binding->copy < 0 || !binding->waited)
        return;
    const model_copy *copy = &m->params[at->id].copies[binding->copy];
    snapshot *made = &self->snapshots[self->snapshot_count++];
    *made = (snapshot){some_memory(param->numel), copy->dtype, at->id,
                       copy->value, self->at};
    if (param->numel > 0)
        expect(self,
               tsr_stream_copy(
                   stream, made->seen, self->views[at->graph][at->id].data,
                   (size_t)param->numel * tsr_dtype_bytes(copy->dtype)),
               TSR_OK);
}

static void run_prefetch(runner *self, const op *at, tsr_stream *stream) {
    int64_t ids[8];
    tsr_dtype dtypes[8];
    size_t count = (size_t)at->bits % 5;
    for (size_t i = 0; i < count; i++) {
        ids[i] = (at->id + (at->bits >> i) % 4) % MODEL_PARAMS;
        dtypes[i] = (tsr_dtype)(((int)at->dtype + (at->bits >> 2 * i)) % 3);
    }
    if (at->id == MODEL_PARAMS && count > 0)
        ids[count - 1] = MODEL_PARAMS;
    /* What is refused for one is refused before anything happens: the first
     * reason counts. */
    expect(self,
           tsr_zero_prefetch_params_fused(self->rank.zero, ids, dtypes, count,
                                          stream),
           model_prefetch(&self->model, ids, dtypes, count));
}

static void run_reduce(runner *self, const op *at, tsr_stream *stream) {
    int call = at->bits % 8;
    int id = at->id < MODEL_PARAMS ? at->id : 0;
    const test_param *param = &self->params[id];
    tsr_dtype dtype = param->desc.communicated_dtype;
    void *made = own(self, param->numel), *grad = own(self, param->numel);
    for (int64_t i = 0; i < param->numel; i++)
        set_element(made, dtype, (size_t)i,
                    grad_value(self->rank.rank, id, call, i));
    (void)tsr_stream_copy(stream, grad, made,
                          (size_t)param->numel * sizeof(float));
    expect(
        self,
        tsr_zero_reduce_grad(self->rank.zero, at->graph, at->id, grad, stream),
        model_reduce(&self->model, at->graph, at->id, call));
}

/* The shard's readers come first, as the header asks. */
static void run_write(runner *self, const op *at, tsr_stream *stream) {
    int64_t ids[MODEL_PARAMS];
    size_t count = 0;
    expect(self, tsr_zero_synchronize(self->rank.zero), TSR_OK);
    for (int s = 0; s < 2; s++)
        expect(self, tsr_stream_synchronize(self->streams[s]), TSR_OK);
    for (int p = 0; p < MODEL_PARAMS; p++) {
        if (!(at->bits >> p & 1))
            continue;
        test_param written = self->params[p];
        written.shard_memory = own(self, written.shard);
        param_write(&self->rank, &written, ++self->model.params[p].value);
        (void)tsr_stream_copy(stream, self->params[p].shard_memory,
                              written.shard_memory,
                              (size_t)written.shard * sizeof(float));
        ids[count++] = p;
    }
    expect(self, tsr_zero_weights_changed(self->rank.zero, ids, count, stream),
           TSR_OK);
    for (size_t i = 0; i < count; i++)
        model_stale(&self->model, (int)ids[i]);
}

static void run_register_graph(runner *self, const op *at) {
    model *m = &self->model;
    int64_t ids[MODEL_PARAMS];
    size_t count = 0;
    int graph = at->graph ? at->graph : 1; /* 0 is never registered */
    if (m->graphs[graph])
        model_unbind_graph(m, graph);
    m->graphs[graph] = true;
    for (int p = 0; p < MODEL_PARAMS; p++) {
        m->named[graph][p] = (at->bits >> p & 1) || (at->bits >> 7 & 1);
        if (m->named[graph][p])
            ids[count++] = p;
    }
    expect(self, tsr_zero_register_graph(self->rank.zero, graph, ids, count),
           TSR_OK);
}

/* Only while no gradient waits: then it would be refused. */
static void run_register_param(runner *self, const op *at, tsr_stream *stream) {
    if (at->id >= MODEL_PARAMS || self->model.waiting)
        return;
    tsr_zero_param *desc = &self->params[at->id].desc;
    desc->persistent = at->bits & 1;
    desc->gathered_dtype = at->dtype;
    model_register(&self->model, at->id, desc->persistent);
    expect(self, tsr_zero_register_param(self->rank.zero, desc, stream),
           TSR_OK);
}

static void run_move_grad(runner *self, const op *at, tsr_stream *stream) {
    if (at->id >= MODEL_PARAMS || self->model.waiting)
        return;
    test_param *param = &self->params[at->id];
    own(self, 0);
    void **old = &self->owned[self->owned_count - 1];
    free(*old);
    *old = param->grad_memory;
    param->grad_memory = some_memory(param->grad_count);
    memset(param->grad_memory, SPOILED,
           (size_t)param->grad_count * sizeof(float));
    param->desc.grad.context = param->grad_memory;
    expect(self,
           tsr_zero_update_param_grad_buffer(self->rank.zero, at->id,
                                             param->desc.grad, stream),
           TSR_OK);
    model_zero(&self->model, at->id);
}

static void run_set_persistent(runner *self, const op *at, tsr_stream *stream) {
    model *m = &self->model;
    tsr_status expected = at->id >= MODEL_PARAMS ? TSR_NOT_FOUND
                          : self->rank.stage < 3 ? TSR_FAILED_PRECONDITION
                                                 : TSR_OK;
    expect(self, tsr_zero_set_persistent(self->rank.zero, at->id, stream),
           expected);
    if (expected != TSR_OK)
        return;
    model_seal(m);
    m->params[at->id].persistent = true;
    self->params[at->id].desc.persistent = true;
    model_make(&m->params[at->id], self->params[at->id].desc.gathered_dtype);
}

static void run_stale(runner *self, const op *at) {
    model *m = &self->model;
    bool all = at->kind == OP_clear;
    if (!all && at->id >= MODEL_PARAMS) {
        expect(self,
               tsr_zero_invalidate_gathered_param(self->rank.zero, at->id),
               TSR_NOT_FOUND);
        return;
    }
    expect(self,
           all ? tsr_zero_clear_all_gathered_params(self->rank.zero)
               : tsr_zero_invalidate_gathered_param(self->rank.zero, at->id),
           TSR_OK);
    for (int p = 0; p < MODEL_PARAMS; p++)
        if ((all || p == at->id) && !m->params[p].persistent)
            model_stale(m, p);
}

static void run_step_op(runner *self, const op *at, tsr_stream *stream) {
    model *m = &self->model;
    tsr_zero *zero = self->rank.zero;
    switch (at->kind) {
    case OP_start_backward:
        expect(self, tsr_zero_start_backward(zero, at->bits & 1), TSR_OK);
        model_start_backward(m, at->bits & 1);
        break;
    case OP_end_backward:
        expect(self, tsr_zero_end_backward(zero, stream), TSR_OK);
        model_end_backward(m);
        break;
    case OP_abort_step:
        expect(self, tsr_zero_abort_step(zero, stream), TSR_OK);
        model_abort(m);
        break;
    case OP_reset:
        expect(self, tsr_zero_reset(zero, stream), TSR_OK);
        for (int g = 0; g < MODEL_GRAPHS; g++) {
            model_unbind_graph(m, g);
            m->graphs[g] = false;
        }
        break;
    case OP_seal:
        expect(self, tsr_zero_seal(zero, stream), TSR_OK);
        model_seal(m);
        break;
    case OP_profiling:
        m->profiling = at->bits % 4 == 0;
        tsr_zero_enable_profiling(zero, m->profiling);
        break;
    default:
        synchronize(self);
        break;
    }
}

static void run_op(runner *self, const op *at) {
    model *m = &self->model;
    tsr_zero *zero = self->rank.zero;
    tsr_stream *stream = self->streams[at->graph % 2];
    switch (at->kind) {
    case OP_gather:
        run_gather(self, at, stream);
        break;
    case OP_wait:
        expect(self, tsr_zero_wait_allgather(zero, at->graph, at->id, stream),
               model_wait(m, at->graph, at->id));
        break;
    case OP_release:
        expect(self,
               tsr_zero_release_param(zero, at->graph, at->id, at->bits % 4,
                                      stream),
               model_release(m, at->graph, at->id, at->bits % 4));
        break;
    case OP_read:
        run_read(self, at, stream);
        break;
    case OP_prefetch:
        run_prefetch(self, at, stream);
        break;
    case OP_reduce:
        run_reduce(self, at, stream);
        break;
    case OP_write_weights:
        run_write(self, at, stream);
        break;
    case OP_set_persistent:
        run_set_persistent(self, at, stream);
        break;
    case OP_invalidate:
    case OP_clear:
        run_stale(self, at);
        break;
    case OP_register_graph:
        run_register_graph(self, at);
        break;
    case OP_register_param:
        run_register_param(self, at, stream);
        break;
    case OP_move_grad:
        run_move_grad(self, at, stream);
        break;
    default:
        run_step_op(self, at, stream);
        break;
    }
}

static void check_memory(runner *self) {
    tsr_zero_memory held = tsr_zero_memory_held(self->rank.zero);
    if (held.gathered != model_held(&self->model))
        fail(self, "%zu bytes are held, expected %zu", held.gathered,
             model_held(&self->model));
    if (self->rank.heap.live != held.gathered + held.buckets)
        fail(self, "%zu bytes are allocated, told are %zu and %zu",
             self->rank.heap.live, held.gathered, held.buckets);
}

/* ---- a rank ---- */

static void open_model(runner *self) {
    static const int64_t rows[MODEL_PARAMS] = {0, 1, 7, 12, 33, 9};
    uint64_t seed = self->program->seed;
    for (int p = 0; p < MODEL_PARAMS; p++) {
        test_param *param = &self->params[p];
        *param = param_of(p, rows[p], 1);
        param->desc.type.dtype = (tsr_dtype)((seed + (uint64_t)p) % 3);
        param->desc.gathered_dtype = (tsr_dtype)((seed >> 2) % 3);
        param->desc.granule = p == 3 ? 8 : 0;
        param->desc.persistent = p == 2 && seed % 5 == 0;
        param->desc.frozen = p == 5;
        param_register(&self->rank, param);
        self->model.params[p].frozen = p == 5;
        model_register(&self->model, p, param->desc.persistent);
    }
    for (int graph = 1; graph < MODEL_GRAPHS; graph++)
        run_register_graph(self,
                           &(op){.graph = graph, .bits = 0x38 << graph | 7});
}

static void run_rank(rank_context *context) {
    runner *self = &((runner *)context->argument)[context->rank];
    const program *at = self->program;
    tsr_average average = (tsr_average)(at->seed / 7 % 3);
    rank_open(
        &self->rank, context,
        &(rank_options){
            .settings = {.stage = at->stage,
                         .bucket_bytes = at->seed % 4 ? 192 : 0,
                         .double_buffer = at->seed % 3 != 0,
                         .average = average},
            .kind = at->seed % 3 == 1 ? TSR_STREAM_INLINE : TSR_STREAM_QUEUED,
            .delay_seed = at->seed + 1,
            .max_delay_us = context->rank == (int)(at->seed % 3) ? 0 : 30});
    self->streams[0] = self->rank.stream;
    CHECK_OK(tsr_stream_create(self->rank.device, TSR_STREAM_QUEUED, "other", 0,
                               &self->streams[1]));
    self->model.rank = &self->rank;
    self->model.tests = self->params;
    self->model.scale =
        average == TSR_AVERAGE_NONE ? 1 : 1 / (float)self->rank.world;
    memset(self->model.bindings, -1, sizeof self->model.bindings);
    open_model(self);
    for (self->at = 0; self->at < at->count; self->at++) {
        run_op(self, &at->ops[self->at]);
        check_memory(self);
    }
    synchronize(self);
    tsr_zero_release(self->rank.zero);
    self->rank.zero = NULL;
    tsr_stream_release(self->streams[1]);
    rank_close(&self->rank);
    for (int p = 0; p < MODEL_PARAMS; p++)
        param_release(&self->params[p]);
    for (int i = 0; i < self->owned_count; i++)
        free(self->owned[i]);
}

/* ---- programs ---- */

/* "" or what went wrong, in `failure`. */
static bool passes(const program *at, char failure[300]) {
    runner *runners = calloc((size_t)at->world, sizeof *runners);
    CHECK(runners);
    for (int r = 0; r < at->world; r++)
        runners[r].program = at;
    run_threads(at->world, run_rank, runners);
    failure[0] = '\0';
    for (int r = 0; r < at->world && !failure[0]; r++)
        memcpy(failure, runners[r].failure, sizeof runners[r].failure);
    free(runners);
    return !failure[0];
}

/* Leaves out whatever it fails without. */
static void shrink(program *at) {
    char failure[300];
    for (int i = at->count - 1; i >= 0; i--) {
        program less = *at;
        less.count--;
        memmove(&less.ops[i], &at->ops[i + 1],
                (size_t)(at->count - i - 1) * sizeof(op));
        if (!passes(&less, failure))
            *at = less;
    }
}

int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : PROGRAMS;
    uint64_t first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    char failure[300];
    for (int k = 0; k < count; k++) {
        program made = make_program(first + (uint64_t)k);
        if (passes(&made, failure))
            continue;
        printf("%s\n", failure);
        shrink(&made);
        print_program(&made);
        bool again = !passes(&made, failure);
        printf("%s\n", again ? failure : "passes now: a race");
        return 1;
    }
    printf("%d programs\n", count);
    return 0;
}
