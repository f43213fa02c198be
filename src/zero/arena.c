/* The memory of one rank, laid out by its plans.
 *
 *   shared memory, one a host:
 *     weights | gradients of rank 0 | gradients of rank 1 | ...
 *   private memory, one a rank:
 *     [weights | gradients: when not shared] | transient
 *     | persistent of plan 0 | persistent of plan 1 | ...
 *   the host's memory, one a rank:
 *     transient | persistent of plan 0 | persistent of plan 1 | ... */
#include "zero/arena.h"

#include "base/memory.h"

/* Each space starts at a multiple of this many bytes: a page. */
#define SPACE_ALIGNMENT 4096

struct tsr_arena {
    tsr_device *device;     /* borrowed */
    const tsr_plan **plans; /* (plan_count) borrowed; the array is owned */
    size_t plan_count;
    int rank;
    char *shared, *private_; /* shared is the communicator's */
    char *host;              /* NULL: no plan has values there */
    size_t shared_bytes, private_bytes, host_bytes;
    char *weights, *grads, *transient;
    char **persistent;             /* (plan_count) */
    size_t *host_persistent;       /* (plan_count) bytes from `host` */
    size_t bytes[TSR_SPACE_COUNT]; /* the largest plan's */
};

static size_t paged(size_t bytes) {
    return tsr_round_up(bytes, SPACE_ALIGNMENT);
}

static bool same_target(const tsr_target *a, const tsr_target *b) {
    return a->world == b->world && a->shared == b->shared &&
           a->gather_alias == b->gather_alias && a->alignment == b->alignment;
}

/* Plans that share an arena share its weights: each parameter's shard lies at
 * the same place in both. */
static tsr_status check_weights(const tsr_plan *a, const tsr_plan *b,
                                size_t b_index) {
    int32_t params = tsr_graph_param_count(a->graph);
    bool same = a->bytes[TSR_SPACE_WEIGHTS] == b->bytes[TSR_SPACE_WEIGHTS] &&
                params == tsr_graph_param_count(b->graph);
    for (int32_t p = 0; p < params; p++) {
        tsr_param_id param = {p};
        const char *name = tsr_graph_param_at(a->graph, param)->name;
        tsr_value_id in_a = tsr_graph_find(a->graph, name),
                     in_b = tsr_graph_find(b->graph, name);
        if (in_a.index < 0 || in_b.index < 0)
            continue;
        const tsr_value *x = tsr_graph_value(a->graph, in_a),
                        *y = tsr_graph_value(b->graph, in_b);
        if (x->place == TSR_PLACE_HOST || y->place == TSR_PLACE_HOST)
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "'%s' is on the host in a plan, and plans cannot "
                             "share weights that are there; leave the other "
                             "plan (evaluation) out",
                             name);
        same = same && x->offset == y->offset &&
               tsr_type_equal(&x->type, &y->type);
    }
    return same ? TSR_OK
                : tsr_error(TSR_INVALID_ARGUMENT,
                            "plan %zu has not the parameters of plan 0, or "
                            "not in the same places",
                            b_index);
}

static tsr_status check_plans(tsr_comm *comm, const tsr_plan *const *plans,
                              size_t plan_count) {
    if (plan_count == 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "an arena needs at least one plan");
    const tsr_target *target = &plans[0]->target;
    int world = comm ? tsr_comm_world(comm) : 1;
    if (target->world != world)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "the plan is for %d ranks, the communicator has %d",
                         target->world, world);
    if (target->shared && comm &&
        !(tsr_comm_capabilities(comm) & TSR_COMM_SHARED_MEMORY))
        return tsr_error(TSR_UNSUPPORTED,
                         "the plan wants memory that all ranks share, the "
                         "communicator has none");
    for (size_t i = 1; i < plan_count; i++) {
        if (!same_target(&plans[i]->target, target))
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "plan %zu has not the target of plan 0", i);
        TSR_TRY(check_weights(plans[0], plans[i], i));
    }
    return TSR_OK;
}

static size_t most(const tsr_arena *arena, tsr_space space) {
    size_t bytes = 0;
    for (size_t i = 0; i < arena->plan_count; i++)
        bytes = arena->plans[i]->bytes[space] > bytes
                    ? arena->plans[i]->bytes[space]
                    : bytes;
    return bytes;
}

static tsr_status allocate_host(tsr_arena *arena) {
    arena->host_bytes = paged(arena->bytes[TSR_SPACE_HOST_TRANSIENT]);
    for (size_t i = 0; i < arena->plan_count; i++) {
        arena->host_persistent[i] = arena->host_bytes;
        arena->host_bytes +=
            paged(arena->plans[i]->bytes[TSR_SPACE_HOST_PERSISTENT]);
    }
    return tsr_device_alloc_host(arena->device, arena->host_bytes,
                                 (void **)&arena->host);
}

static tsr_status allocate(tsr_arena *arena, tsr_comm *comm) {
    const tsr_target *target = &arena->plans[0]->target;
    size_t weights = paged(arena->bytes[TSR_SPACE_WEIGHTS]),
           grads = paged(arena->bytes[TSR_SPACE_GRADS]);
    bool shared = target->shared && comm;
    size_t private_bytes = paged(arena->bytes[TSR_SPACE_TRANSIENT]);
    for (size_t i = 0; i < arena->plan_count; i++)
        private_bytes += paged(arena->plans[i]->bytes[TSR_SPACE_PERSISTENT]);
    if (shared) {
        arena->shared_bytes = weights + grads * (size_t)target->world;
        TSR_TRY(tsr_comm_shared_alloc(comm, arena->shared_bytes,
                                      (void **)&arena->shared));
    } else {
        private_bytes += weights + grads;
    }
    TSR_TRY(tsr_device_alloc(arena->device, private_bytes,
                             (void **)&arena->private_));
    arena->private_bytes = private_bytes;

    char *next = arena->private_;
    arena->weights = shared ? arena->shared : next;
    arena->grads = shared
                       ? arena->shared + weights + grads * (size_t)arena->rank
                       : next + weights;
    next += shared ? 0 : weights + grads;
    arena->transient = next;
    next += paged(arena->bytes[TSR_SPACE_TRANSIENT]);
    for (size_t i = 0; i < arena->plan_count; i++) {
        arena->persistent[i] = next;
        next += paged(arena->plans[i]->bytes[TSR_SPACE_PERSISTENT]);
    }
    return TSR_OK;
}

tsr_status tsr_arena_create(tsr_device *device, tsr_comm *comm,
                            const tsr_plan *const *plans, size_t plan_count,
                            tsr_arena **out_arena) {
    tsr_status status = TSR_OK;
    tsr_arena *arena = NULL;
    *out_arena = NULL;
    TSR_TRY(check_plans(comm, plans, plan_count));
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *arena, (void **)&arena));
    arena->device = device;
    arena->plan_count = plan_count;
    arena->rank = comm ? tsr_comm_rank(comm) : 0;
    TSR_TRY_GOTO(
        tsr_alloc(plan_count, sizeof *arena->plans, (void **)&arena->plans));
    TSR_TRY_GOTO(tsr_alloc(plan_count, sizeof *arena->persistent,
                           (void **)&arena->persistent));
    for (size_t i = 0; i < plan_count; i++)
        arena->plans[i] = plans[i];
    for (int space = TSR_SPACE_WEIGHTS; space < TSR_SPACE_COUNT; space++)
        arena->bytes[space] = most(arena, (tsr_space)space);
    TSR_TRY_GOTO(tsr_alloc(plan_count, sizeof *arena->host_persistent,
                           (void **)&arena->host_persistent));
    TSR_TRY_GOTO(allocate(arena, comm));
    TSR_TRY_GOTO(allocate_host(arena));
    *out_arena = arena;
    arena = NULL;
done:
    tsr_arena_release(arena);
    return status;
}

void tsr_arena_release(tsr_arena *arena) {
    if (!arena)
        return;
    tsr_device_free_host(arena->device, arena->host, arena->host_bytes);
    tsr_device_free(arena->device, arena->private_, arena->private_bytes);
    tsr_free(arena->host_persistent);
    tsr_free(arena->persistent);
    tsr_free(arena->plans);
    tsr_free(arena);
}

const tsr_plan *tsr_arena_plan(const tsr_arena *arena, size_t plan) {
    return arena->plans[plan];
}

void *tsr_arena_space(const tsr_arena *arena, size_t plan, tsr_space space,
                      size_t *out_bytes) {
    bool own =
        space == TSR_SPACE_PERSISTENT || space == TSR_SPACE_HOST_PERSISTENT;
    size_t bytes = own ? arena->plans[plan]->bytes[space] : arena->bytes[space];
    if (out_bytes)
        *out_bytes = bytes;
    switch (space) {
    case TSR_SPACE_WEIGHTS:
        return arena->weights;
    case TSR_SPACE_GRADS:
        return arena->grads;
    case TSR_SPACE_TRANSIENT:
        return arena->transient;
    case TSR_SPACE_PERSISTENT:
        return arena->persistent[plan];
    case TSR_SPACE_HOST_TRANSIENT:
        return arena->host;
    case TSR_SPACE_HOST_PERSISTENT:
        return arena->host ? arena->host + arena->host_persistent[plan] : NULL;
    default:
        return NULL;
    }
}

void *tsr_arena_address(const tsr_arena *arena, size_t plan,
                        tsr_value_id value) {
    const tsr_value *at = tsr_graph_value(arena->plans[plan]->graph, value);
    char *base =
        (char *)tsr_arena_space(arena, plan, at->space, NULL) + at->offset;
    if (at->role == TSR_ROLE_PARAM_SHARD && at->space == TSR_SPACE_WEIGHTS &&
        arena->plans[plan]->target.shared)
        base += (size_t)arena->rank *
                tsr_type_bytes(
                    &at->type); /* shards of one parameter stand back to back */
    return base;
}

size_t tsr_arena_host_bytes(const tsr_arena *arena) {
    return arena->host_bytes;
}

size_t tsr_arena_bytes(const tsr_arena *arena) {
    size_t world = (size_t)arena->plans[0]->target.world;
    return arena->private_bytes + (arena->shared_bytes + world - 1) / world;
}
