/* Walks a plan. Every call is prepared once, when the executor is made; walking
 * only enqueues.
 *
 * Invariants
 *   1. A node that others wait for records its event each time it is
 *      enqueued, before any of them is enqueued.
 *   2. Sections are joined on the compute stream: it waits for the others at
 *      a section's end, they for it at its start.
 *   3. Addresses never change: the arena outlives the executor.
 *
 *   idle --[walk]--> enqueued --[worker]--> running --[synchronize]--> idle
 *   running --[kernel or peer fails]--> failed --[synchronize]--> idle
 *
 * A class of streams on which no node does any work and waits for nothing
 * (gathers that alias the weights) is left out, and so are the waits for its
 * nodes.
 *
 * With a timeline, two tasks around each node's work read the clock. A node's
 * times are its stream's worker's from one synchronize to the next. */
#include <stdio.h>

#include "base/array.h"
#include "base/os.h"
#include "graph/graph.h"
#include "zero/arena.h"
#include "zero/core.h"

typedef enum step_kind {
    STEP_NONE,
    STEP_KERNEL,
    STEP_COPY,
    STEP_GATHER,
    STEP_REDUCE,
    STEP_ALL_REDUCE,
    STEP_FENCE
} step_kind;

typedef struct all_reduce_call {
    void *buffer;
    size_t count;
    tsr_dtype dtype;
} all_reduce_call;

/* Between device and host. */
typedef struct copy_call {
    void *to;         /* (bytes) */
    const void *from; /* (bytes) */
    size_t bytes;
} copy_call;

/* One node, ready to be enqueued. */
typedef struct step {
    step_kind kind;
    tsr_stream *stream; /* NULL: left out */
    tsr_event **waits;  /* (wait_count) borrowed from other steps */
    size_t wait_count;
    tsr_event *done; /* owned; NULL: nobody waits for it */
    size_t call_count;
    union {
        tsr_gather *gathers;      /* (call_count) */
        tsr_reduce *reduces;      /* (call_count) */
        all_reduce_call *buffers; /* (call_count) */
    } calls;
    copy_call copy;
    const tsr_kernel *kernel;
    const tsr_core *core; /* of the executor */
    tsr_kernel_call call;
    void *state;      /* of the kernel */
    void **addresses; /* (inputs + outputs) */
    tsr_type_array types;
    const char *layer, *op; /* for messages; the plan's */
    tsr_node_time *times;   /* (timeline) of the latest walks, by number of the
                               walk; NULL: not recorded */
    int64_t walks;          /* recorded so far; the worker's */
    int timeline;
} step;

struct tsr_executor {
    tsr_executor_options options;
    const tsr_plan *plan;
    tsr_core core;
    tsr_stream *streams[TSR_STREAM_CLASSES]; /* owned; NULL: left out */
    tsr_event
        *joins[TSR_STREAM_CLASSES]; /* owned: end of a section on each stream */
    tsr_event *begin;               /* owned: start of a section on compute */
    step *steps;                    /* (nodes) */
    size_t step_count;
    tsr_node_time
        *times; /* (nodes, timeline); owned; NULL without a timeline */
};

/* ---- preparing ---- */

static bool does_nothing(const tsr_executor *self, const tsr_node *node) {
    const tsr_graph *graph = self->plan->graph;
    return (tsr_graph_op(graph, node)->flags & TSR_OP_ORDERING) ||
           (self->plan->target.gather_alias &&
            tsr_node_is(graph, node, "gather"));
}

static tsr_status create_streams(tsr_executor *self) {
    const tsr_graph *graph = self->plan->graph;
    size_t nodes[TSR_STREAM_CLASSES] = {0}, waits = 0;
    bool needed[TSR_STREAM_CLASSES] = {[TSR_ON_COMPUTE] = true};
    for (size_t n = 0; n < graph->nodes.count; n++) {
        const tsr_node *node = &graph->nodes.data[n];
        nodes[node->stream]++;
        waits += (size_t)node->after.count;
        needed[node->stream] = needed[node->stream] ||
                               !does_nothing(self, node) ||
                               node->after.count > 0;
    }
    for (int s = 0; s < TSR_STREAM_CLASSES; s++) {
        if (!needed[s])
            continue;
        /* A node enqueues itself, its waits and its record, and two readings of
         * the clock; a few more for joins. Two walks fit, so that the host
         * never waits for room while one is on the way. */
        size_t each = self->options.timeline ? 4 : 2;
        size_t capacity = 2 * (each * nodes[s] + waits + 16);
        TSR_TRY(tsr_stream_create(self->options.device, TSR_STREAM_QUEUED,
                                  tsr_stream_class_name((tsr_stream_class)s),
                                  capacity, &self->streams[s]));
        TSR_TRY(tsr_event_create(self->options.device, &self->joins[s]));
    }
    return tsr_event_create(self->options.device, &self->begin);
}

static void *address(const tsr_executor *self, tsr_value_id value) {
    return tsr_arena_address(self->options.arena, self->options.plan, value);
}

static tsr_status prepare_kernel(tsr_executor *self, step *at,
                                 const tsr_node *node) {
    const tsr_graph *graph = self->plan->graph;
    size_t inputs = (size_t)node->inputs.count,
           outputs = (size_t)node->outputs.count;
    at->kernel = tsr_kernel_table_find(self->options.kernels, at->op);
    if (!at->kernel)
        return tsr_error(TSR_NOT_FOUND, "op '%s' (layer '%s') has no kernel",
                         at->op, at->layer);
    TSR_TRY(tsr_graph_view(graph, node, &at->types, &at->call.view));
    TSR_TRY(tsr_alloc(inputs + outputs + 1, sizeof *at->addresses,
                      (void **)&at->addresses));
    for (size_t i = 0; i < inputs; i++)
        at->addresses[i] = address(self, tsr_graph_inputs(graph, node)[i]);
    for (size_t i = 0; i < outputs; i++)
        at->addresses[inputs + i] =
            address(self, tsr_graph_outputs(graph, node)[i]);
    int threads = tsr_device_threads(self->options.device);
    size_t needed = at->kernel->workspace
                        ? at->kernel->workspace(&at->call.view, threads)
                        : 0;
    if (needed > node->workspace_bytes)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "op '%s' (layer '%s') needs %zu bytes of workspace "
                         "here, the plan has %zu: it was made for other "
                         "kernels or fewer threads",
                         at->op, at->layer, needed, node->workspace_bytes);
    if (at->kernel->prepare)
        TSR_TRY(at->kernel->prepare(&at->call.view, threads, &at->state));
    char *transient = tsr_arena_space(self->options.arena, self->options.plan,
                                      TSR_SPACE_TRANSIENT, NULL);
    at->call.state = at->state;
    at->call.in = (const void *const *)at->addresses;
    at->call.out = at->addresses + inputs;
    at->call.workspace =
        node->workspace_bytes ? transient + node->workspace_offset : NULL;
    at->call.device = self->options.device;
    at->core = &self->core;
    at->kind = STEP_KERNEL;
    return TSR_OK;
}

static tsr_status prepare_copy(tsr_executor *self, step *at,
                               const tsr_node *node) {
    const tsr_graph *graph = self->plan->graph;
    tsr_value_id from = tsr_graph_inputs(graph, node)[0],
                 to = tsr_graph_outputs(graph, node)[0];
    at->copy = (copy_call){
        .to = address(self, to),
        .from = address(self, from),
        .bytes = tsr_type_bytes(&tsr_graph_value(graph, from)->type)};
    at->kind = STEP_COPY;
    return TSR_OK;
}

static tsr_status prepare_gather(tsr_executor *self, step *at,
                                 const tsr_node *node) {
    const tsr_graph *graph = self->plan->graph;
    at->call_count = (size_t)node->inputs.count;
    TSR_TRY(tsr_alloc(at->call_count, sizeof *at->calls.gathers,
                      (void **)&at->calls.gathers));
    for (size_t i = 0; i < at->call_count; i++) {
        tsr_value_id shard = tsr_graph_inputs(graph, node)[i];
        const tsr_type *type = &tsr_graph_value(graph, shard)->type;
        at->calls.gathers[i] = (tsr_gather){
            .shard = address(self, shard),
            .full = address(self, tsr_graph_outputs(graph, node)[i]),
            .count = (size_t)tsr_type_count(type),
            .dtype = type->dtype};
    }
    at->kind = STEP_GATHER;
    return TSR_OK;
}

static tsr_status prepare_reduce(tsr_executor *self, step *at,
                                 const tsr_node *node) {
    const tsr_graph *graph = self->plan->graph;
    tsr_op_view view = {.attrs = tsr_graph_attrs(graph, node),
                        .attr_count = (size_t)node->attrs.count};
    const tsr_value_id *inputs = tsr_graph_inputs(graph, node);
    at->call_count = (size_t)node->inputs.count / 2;
    TSR_TRY(tsr_alloc(at->call_count, sizeof *at->calls.reduces,
                      (void **)&at->calls.reduces));
    float *square_sum = address(self, inputs[2 * at->call_count]);
    for (size_t i = 0; i < at->call_count; i++) {
        const tsr_type *full = &tsr_graph_value(graph, inputs[i])->type;
        const tsr_type *shard =
            &tsr_graph_value(graph, inputs[at->call_count + i])->type;
        at->calls.reduces[i] = (tsr_reduce){
            .full = address(self, inputs[i]),
            .shard = address(self, inputs[at->call_count + i]),
            .count = (size_t)tsr_type_count(shard),
            .valid = (size_t)tsr_type_count(full),
            .wire_dtype = full->dtype,
            .out_dtype = shard->dtype,
            .scale = 1,
            .accumulate = (int)tsr_view_int(&view, "accumulate", 0),
            .square_sum = square_sum + i};
    }
    at->kind = STEP_REDUCE;
    return TSR_OK;
}

static tsr_status prepare_all_reduce(tsr_executor *self, step *at,
                                     const tsr_node *node) {
    at->call_count = (size_t)node->inputs.count;
    TSR_TRY(tsr_alloc(at->call_count, sizeof *at->calls.buffers,
                      (void **)&at->calls.buffers));
    for (size_t i = 0; i < at->call_count; i++) {
        tsr_value_id input = tsr_graph_inputs(self->plan->graph, node)[i];
        const tsr_type *type = &tsr_graph_value(self->plan->graph, input)->type;
        at->calls.buffers[i] = (all_reduce_call){
            address(self, input), (size_t)tsr_type_count(type), type->dtype};
    }
    at->kind = STEP_ALL_REDUCE;
    return TSR_OK;
}

static tsr_status prepare_call(tsr_executor *self, step *at,
                               const tsr_node *node) {
    const tsr_graph *graph = self->plan->graph;
    bool alone = self->plan->target.world == 1 && !self->options.reduce_comm;
    if (does_nothing(self, node))
        return TSR_OK;
    if (tsr_node_moves(graph, node))
        return prepare_copy(self, at, node);
    if (!(tsr_graph_op(graph, node)->flags & TSR_OP_COLLECTIVE))
        return prepare_kernel(self, at, node);
    if (alone)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "op '%s' needs a communicator, also for one rank",
                         at->op);
    if (tsr_node_is(graph, node, "gather"))
        return prepare_gather(self, at, node);
    if (tsr_node_is(graph, node, "reduce"))
        return prepare_reduce(self, at, node);
    if (tsr_node_is(graph, node, "all_reduce"))
        return prepare_all_reduce(self, at, node);
    at->kind = STEP_FENCE;
    return TSR_OK;
}

static tsr_status prepare_waits(tsr_executor *self, step *at,
                                const tsr_node *node) {
    TSR_TRY(tsr_alloc((size_t)node->after.count, sizeof *at->waits,
                      (void **)&at->waits));
    for (int32_t i = 0; i < node->after.count; i++) {
        step *before =
            &self->steps[tsr_graph_after(self->plan->graph, node)[i].index];
        if (!before->stream || before->stream == at->stream)
            continue;
        if (!before->done)
            TSR_TRY(tsr_event_create(self->options.device, &before->done));
        at->waits[at->wait_count++] = before->done;
    }
    return TSR_OK;
}

/* Nodes that work, and those that may stand still. */
static void prepare_times(tsr_executor *self, step *at) {
    size_t kept = (size_t)self->options.timeline;
    at->timeline = self->options.timeline;
    if (self->times && (at->kind != STEP_NONE || at->wait_count > 0))
        at->times = self->times + (size_t)(at - self->steps) * kept;
}

static tsr_status prepare(tsr_executor *self) {
    const tsr_graph *graph = self->plan->graph;
    TSR_TRY(create_streams(self));
    self->core = (tsr_core){.gather_stream = self->streams[TSR_ON_GATHER],
                            .reduce_stream = self->streams[TSR_ON_REDUCE],
                            .gather_comm = self->options.gather_comm,
                            .reduce_comm = self->options.reduce_comm};
    TSR_TRY(tsr_alloc(graph->nodes.count, sizeof *self->steps,
                      (void **)&self->steps));
    TSR_TRY(tsr_alloc(graph->nodes.count * (size_t)self->options.timeline,
                      sizeof *self->times, (void **)&self->times));
    for (; self->step_count < graph->nodes.count; self->step_count++) {
        const tsr_node *node = &graph->nodes.data[self->step_count];
        step *at = &self->steps[self->step_count];
        at->stream = self->streams[node->stream];
        at->layer = node->layer;
        at->op = tsr_graph_op(graph, node)->name;
        tsr_status status = prepare_call(self, at, node);
        if (status == TSR_OK)
            status = prepare_waits(self, at, node);
        if (status != TSR_OK) {
            self->step_count++; /* release what this step has so far */
            return status;
        }
        prepare_times(self, at);
    }
    return TSR_OK;
}

tsr_status tsr_executor_create(const tsr_executor_options *options,
                               tsr_executor **out_executor) {
    tsr_status status = TSR_OK;
    tsr_executor *self = NULL;
    *out_executor = NULL;
    if (options->timeline < 0)
        return tsr_error(TSR_INVALID_ARGUMENT, "a timeline of %d walks",
                         options->timeline);
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *self, (void **)&self));
    self->options = *options;
    self->plan = tsr_arena_plan(options->arena, options->plan);
    TSR_TRY_GOTO(prepare(self));
    *out_executor = self;
    self = NULL;
done:
    tsr_executor_release(self);
    return status;
}

static void release_step(step *at) {
    tsr_event_release(at->done);
    if (at->kernel && at->kernel->unprepare)
        at->kernel->unprepare(at->state);
    tsr_free(at->calls.gathers); /* whichever of the union it is */
    tsr_free(at->waits);
    tsr_free(at->addresses);
    TSR_ARRAY_FREE(&at->types);
}

void tsr_executor_release(tsr_executor *self) {
    if (!self)
        return;
    for (int s = 0; s < TSR_STREAM_CLASSES; s++)
        tsr_stream_release(self->streams[s]);
    for (int s = 0; s < TSR_STREAM_CLASSES; s++)
        tsr_event_release(self->joins[s]);
    tsr_event_release(self->begin);
    for (size_t n = 0; n < self->step_count; n++)
        release_step(&self->steps[n]);
    tsr_free(self->steps);
    tsr_free(self->times);
    tsr_free(self);
}

/* ---- walking ---- */

/* What a node reads may never have come when a collective before it failed.
 * Failures of the group that come later do not stop it: an update that has all
 * it needs is finished. */
static tsr_status check_collectives(const step *at) {
    tsr_stream *streams[] = {at->core->gather_stream, at->core->reduce_stream};
    for (size_t s = 0; s < sizeof streams / sizeof *streams; s++) {
        tsr_status status = streams[s] ? tsr_stream_poll(streams[s]) : TSR_OK;
        if (status == TSR_OK)
            continue;
        if (at->core->reduce_comm) /* has the cause, where it is a peer */
            TSR_TRY(tsr_comm_poll(at->core->reduce_comm, NULL));
        return tsr_error(status,
                         "a collective before op '%s' (layer '%s') failed",
                         at->op, at->layer);
    }
    return TSR_OK;
}

/* A rank that fails ends its group at once, before its peers take what this
 * step would have given them. */
static tsr_status run_kernel(void *context) {
    char message[TSR_MESSAGE_BYTES];
    step *at = context;
    TSR_TRY(check_collectives(at));
    tsr_status status = at->kernel->run(&at->call);
    if (status == TSR_OK)
        return TSR_OK;
    tsr_error_at(status, "op '%s' (layer '%s')", at->op, at->layer);
    snprintf(message, sizeof message, "%s", tsr_last_error());
    if (at->core->reduce_comm)
        tsr_comm_abort(at->core->reduce_comm, message);
    return tsr_error(status, "%s", message);
}

static tsr_status note_begin(void *context) {
    step *at = context;
    at->times[at->walks % at->timeline].begin_ns = tsr_os_now_ns();
    return TSR_OK;
}

static tsr_status note_end(void *context) {
    step *at = context;
    at->times[at->walks++ % at->timeline].end_ns = tsr_os_now_ns();
    return TSR_OK;
}

static tsr_status enqueue_call(tsr_executor *self, step *at) {
    switch (at->kind) {
    case STEP_NONE:
        return TSR_OK;
    case STEP_KERNEL:
        return tsr_stream_enqueue(at->stream, run_kernel, at);
    case STEP_COPY:
        return tsr_stream_copy(at->stream, at->copy.to, at->copy.from,
                               at->copy.bytes);
    case STEP_GATHER:
        return tsr_core_gather(&self->core, at->calls.gathers, at->call_count);
    case STEP_REDUCE:
        return tsr_core_reduce(&self->core, at->calls.reduces, at->call_count);
    case STEP_ALL_REDUCE:
        for (size_t i = 0; i < at->call_count; i++)
            TSR_TRY(tsr_core_all_reduce(
                &self->core, at->calls.buffers[i].buffer,
                at->calls.buffers[i].count, at->calls.buffers[i].dtype));
        return TSR_OK;
    case STEP_FENCE:
        return tsr_core_fence(&self->core);
    }
    return TSR_OK;
}

static tsr_status enqueue(tsr_executor *self, step *at) {
    if (!at->stream)
        return TSR_OK;
    if (at->times && at->kind == STEP_NONE)
        TSR_TRY(tsr_stream_enqueue(at->stream, note_begin, at));
    for (size_t i = 0; i < at->wait_count; i++)
        TSR_TRY(tsr_stream_wait(at->stream, at->waits[i]));
    if (at->times && at->kind != STEP_NONE)
        TSR_TRY(tsr_stream_enqueue(at->stream, note_begin, at));
    TSR_TRY(enqueue_call(self, at));
    if (at->times)
        TSR_TRY(tsr_stream_enqueue(at->stream, note_end, at));
    return at->done ? tsr_stream_record(at->stream, at->done) : TSR_OK;
}

static tsr_status begin_section(tsr_executor *self) {
    TSR_TRY(tsr_stream_record(self->streams[TSR_ON_COMPUTE], self->begin));
    for (int s = TSR_ON_COMPUTE + 1; s < TSR_STREAM_CLASSES; s++)
        if (self->streams[s])
            TSR_TRY(tsr_stream_wait(self->streams[s], self->begin));
    return TSR_OK;
}

static tsr_status end_section(tsr_executor *self) {
    for (int s = TSR_ON_COMPUTE + 1; s < TSR_STREAM_CLASSES; s++) {
        if (!self->streams[s])
            continue;
        TSR_TRY(tsr_stream_record(self->streams[s], self->joins[s]));
        TSR_TRY(tsr_stream_wait(self->streams[TSR_ON_COMPUTE], self->joins[s]));
    }
    return TSR_OK;
}

/* A group that failed may have failed in a fence: peers may still write what
 * this walk would read. */
static tsr_status check_group(const tsr_executor *self) {
    tsr_comm *comm = self->core.reduce_comm;
    return comm ? tsr_comm_poll(comm, NULL) : TSR_OK;
}

tsr_status tsr_executor_walk(tsr_executor *self, tsr_section section) {
    const tsr_graph *graph = self->plan->graph;
    TSR_TRY(check_group(self));
    TSR_TRY(begin_section(self));
    for (size_t n = 0; n < self->step_count; n++)
        if (graph->nodes.data[n].section == section)
            TSR_TRY(enqueue(self, &self->steps[n]));
    return end_section(self);
}

tsr_status tsr_executor_enqueue(tsr_executor *self, tsr_task task,
                                void *context) {
    return tsr_stream_enqueue(self->streams[TSR_ON_COMPUTE], task, context);
}

tsr_status tsr_executor_synchronize(tsr_executor *self) {
    tsr_status first = TSR_OK;
    char message[TSR_MESSAGE_BYTES] = "";
    for (int s = 0; s < TSR_STREAM_CLASSES; s++) {
        tsr_status status = self->streams[s]
                                ? tsr_stream_synchronize(self->streams[s])
                                : TSR_OK;
        if (status == TSR_OK || first != TSR_OK)
            continue;
        first = status;
        snprintf(message, sizeof message, "%s", tsr_last_error());
    }
    if (first == TSR_OK)
        return TSR_OK;
    if (self->options.reduce_comm && first != TSR_UNAVAILABLE)
        tsr_comm_abort(self->options.reduce_comm, message); /* if not yet */
    return tsr_error(first, "%s", message);
}

bool tsr_executor_node_time(const tsr_executor *self, tsr_node_id node,
                            int back, tsr_node_time *out_time) {
    const step *at = &self->steps[node.index];
    if (!at->times || back < 0 || back >= at->timeline || back >= at->walks)
        return false;
    *out_time = at->times[(at->walks - 1 - back) % at->timeline];
    return true;
}
