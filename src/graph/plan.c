#include "tessera/plan.h"

#include <xxhash.h>

#include "graph/graph.h"

static const char *const role_names[TSR_ROLE_COUNT] = {
    [TSR_ROLE_ACTIVATION] = "activation",
    [TSR_ROLE_INPUT] = "input",
    [TSR_ROLE_CONSTANT] = "constant",
    [TSR_ROLE_STATE] = "state",
    [TSR_ROLE_PARAMETER] = "parameter",
    [TSR_ROLE_PARAM_SHARD] = "param_shard",
    [TSR_ROLE_GATHERED] = "gathered",
    [TSR_ROLE_FULL_GRAD] = "full_grad",
    [TSR_ROLE_GRAD_SHARD] = "grad_shard",
    [TSR_ROLE_MASTER] = "master",
};
static const char *const space_names[TSR_SPACE_COUNT] = {
    [TSR_SPACE_NONE] = "none",
    [TSR_SPACE_WEIGHTS] = "weights",
    [TSR_SPACE_GRADS] = "grads",
    [TSR_SPACE_PERSISTENT] = "persistent",
    [TSR_SPACE_TRANSIENT] = "transient",
    [TSR_SPACE_HOST_PERSISTENT] = "host_persistent",
    [TSR_SPACE_HOST_TRANSIENT] = "host_transient",
};
static const char *const section_names[TSR_SECTIONS] = {"micro_first",
                                                        "micro_next", "update"};
static const char *const stream_names[TSR_STREAM_CLASSES] = {
    "compute", "gather", "reduce", "copy_out", "copy_in"};

const char *tsr_role_name(tsr_role role) {
    return (unsigned)role < TSR_ROLE_COUNT ? role_names[role] : "?";
}
const char *tsr_space_name(tsr_space space) {
    return (unsigned)space < TSR_SPACE_COUNT ? space_names[space] : "?";
}
const char *tsr_section_name(tsr_section section) {
    return (unsigned)section < TSR_SECTIONS ? section_names[section] : "?";
}
const char *tsr_stream_class_name(tsr_stream_class stream) {
    return (unsigned)stream < TSR_STREAM_CLASSES ? stream_names[stream] : "?";
}

/* Cache line and the widest vector register of x86-64, in bytes. */
#define DEFAULT_ALIGNMENT 64
/* Groups. One hides a gather behind a group's computing, if anything does: a
 * wire that is slower than that stays so however early its gathers begin. */
#define DEFAULT_PREFETCH 1
/* Worlds beyond this are refused: shard sizes times it must fit 64 bits. */
#define MOST_RANKS (1 << 20)

static tsr_status check_target(const tsr_target *target) {
    size_t alignment = target->alignment;
    if (target->world < 1 || target->world > MOST_RANKS)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "a world of %d ranks is not in [1, %d]", target->world,
                         MOST_RANKS);
    if (alignment & (alignment - 1) || alignment > 1 << 21 ||
        (alignment && alignment < DEFAULT_ALIGNMENT))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "alignment %zu is not a power of two in [%d, 2^21]",
                         alignment, DEFAULT_ALIGNMENT);
    if (target->products &&
        (!target->products[0] || strpbrk(target->products, "\"\n\\")))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "products must be said without quotes, backslashes "
                         "and line ends");
    if (target->gather_alias && !target->shared)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "gather_alias needs shared memory");
    return TSR_OK;
}

tsr_status tsr_plan_create(tsr_graph *graph, const tsr_target *target,
                           tsr_plan **out_plan) {
    tsr_plan *plan = NULL;
    *out_plan = NULL;
    tsr_status status = check_target(target);
    if (status == TSR_OK)
        status = tsr_alloc(1, sizeof *plan, (void **)&plan);
    if (status != TSR_OK) {
        tsr_graph_release(graph);
        return status;
    }
    plan->graph = graph;
    plan->target = *target;
    if (plan->target.alignment == 0)
        plan->target.alignment = DEFAULT_ALIGNMENT;
    if (plan->target.prefetch == 0)
        plan->target.prefetch = DEFAULT_PREFETCH;
    if (target->products) {
        plan->target.products =
            tsr_graph_intern(graph, target->products, strlen(target->products));
        if (!plan->target.products) {
            status = tsr_graph_status(graph);
            tsr_plan_release(plan);
            return status;
        }
    }
    *out_plan = plan;
    return TSR_OK;
}

void tsr_plan_release(tsr_plan *plan) {
    if (!plan)
        return;
    tsr_graph_release(plan->graph);
    tsr_free(plan);
}

int64_t tsr_shard_count(const tsr_param *param, int world) {
    int64_t part = (int64_t)world * param->granule;
    return (tsr_type_count(&param->type) + part - 1) / part * param->granule;
}

size_t tsr_plan_rank_bytes(const tsr_plan *plan) {
    size_t world = (size_t)plan->target.world;
    size_t weights = plan->bytes[TSR_SPACE_WEIGHTS];
    if (plan->target.shared)
        weights = (weights + world - 1) / world;
    return weights + plan->bytes[TSR_SPACE_GRADS] +
           plan->bytes[TSR_SPACE_PERSISTENT] + plan->bytes[TSR_SPACE_TRANSIENT];
}

size_t tsr_plan_rank_host_bytes(const tsr_plan *plan) {
    return plan->bytes[TSR_SPACE_HOST_PERSISTENT] +
           plan->bytes[TSR_SPACE_HOST_TRANSIENT];
}

size_t tsr_plan_host_bytes(const tsr_plan *plan) {
    size_t world = (size_t)plan->target.world;
    size_t weights =
        plan->bytes[TSR_SPACE_WEIGHTS] * (plan->target.shared ? 1 : world);
    return weights + world * (plan->bytes[TSR_SPACE_GRADS] +
                              plan->bytes[TSR_SPACE_PERSISTENT] +
                              plan->bytes[TSR_SPACE_TRANSIENT] +
                              tsr_plan_rank_host_bytes(plan));
}

tsr_stage tsr_plan_stage(const tsr_plan *plan) {
    const tsr_graph *graph = plan->graph;
    bool placed = graph->values.count > 0, sharded = false, waits = false;
    for (size_t v = 0; v < graph->values.count; v++) {
        placed = placed && graph->values.data[v].space != TSR_SPACE_NONE;
        sharded = sharded || graph->values.data[v].role == TSR_ROLE_PARAM_SHARD;
    }
    for (size_t n = 0; n < graph->nodes.count; n++)
        waits = waits || graph->nodes.data[n].after.count > 0;
    return placed    ? TSR_STAGE_PLACED
           : waits   ? TSR_STAGE_SCHEDULED
           : sharded ? TSR_STAGE_SHARDED
                     : TSR_STAGE_GRAPH;
}

tsr_status tsr_plan_hash(const tsr_plan *plan, uint64_t *out_hash) {
    char *text;
    TSR_TRY(tsr_plan_print(plan, &text));
    *out_hash = XXH3_64bits(text, strlen(text));
    tsr_plan_text_release(text);
    return TSR_OK;
}
