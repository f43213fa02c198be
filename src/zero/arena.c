/* The memory of one rank, laid out by its plans.
 *
 *   shared memory, one a host:
 *     weights | gradients of rank 0 | gradients of rank 1 | ...
 *   private memory, one a rank:
 *     [weights | gradients: when not shared] | transient
 *     | persistent of plan 0 | persistent of plan 1 | ... */
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
    size_t shared_bytes, private_bytes;
    char *weights, *grads, *transient;
    char **persistent;             /* (plan_count) */
    size_t bytes[TSR_SPACE_COUNT]; /* of WEIGHTS, GRADS, TRANSIENT */
};

static size_t paged(size_t bytes) {
    return tsr_round_up(bytes, SPACE_ALIGNMENT);
}

static bool same_target(const tsr_target *a, const tsr_target *b) {
    return a->world == b->world && a->shared == b->shared &&
           a->gather_alias == b->gather_alias && a->alignment == b->alignment;
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
    for (size_t i = 0; i < plan_count; i++) {
        if (plans[i]->bytes[TSR_SPACE_WEIGHTS] !=
                plans[0]->bytes[TSR_SPACE_WEIGHTS] ||
            !same_target(&plans[i]->target, target))
            return tsr_error(
                TSR_INVALID_ARGUMENT,
                "plan %zu has not the parameters or the target of plan 0", i);
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
    TSR_TRY_GOTO(allocate(arena, comm));
    *out_arena = arena;
    arena = NULL;
done:
    tsr_arena_release(arena);
    return status;
}

void tsr_arena_release(tsr_arena *arena) {
    if (!arena)
        return;
    tsr_device_free(arena->device, arena->private_, arena->private_bytes);
    tsr_free(arena->persistent);
    tsr_free(arena->plans);
    tsr_free(arena);
}

const tsr_plan *tsr_arena_plan(const tsr_arena *arena, size_t plan) {
    return arena->plans[plan];
}

void *tsr_arena_space(const tsr_arena *arena, size_t plan, tsr_space space,
                      size_t *out_bytes) {
    size_t bytes = space == TSR_SPACE_PERSISTENT
                       ? arena->plans[plan]->bytes[space]
                       : arena->bytes[space];
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
    default:
        return NULL;
    }
}

void *tsr_arena_address(const tsr_arena *arena, size_t plan,
                        tsr_value_id value) {
    const tsr_value *at = tsr_graph_value(arena->plans[plan]->graph, value);
    char *base =
        (char *)tsr_arena_space(arena, plan, at->space, NULL) + at->offset;
    if (at->role == TSR_ROLE_PARAM_SHARD && arena->plans[plan]->target.shared)
        base += (size_t)arena->rank *
                tsr_type_bytes(
                    &at->type); /* shards of one parameter stand back to back */
    return base;
}

size_t tsr_arena_bytes(const tsr_arena *arena) {
    size_t world = (size_t)arena->plans[0]->target.world;
    return arena->private_bytes + (arena->shared_bytes + world - 1) / world;
}
