/* Segments: shared memory that the caller asked for. Tensors that lie in one
 * are read where they lie. Processes name a place by segment and offset, which
 * are alike on all ranks; threads by address. */
#include "base/status.h"
#include "comm/host.h"

/* Offsets stay below; the segment's number is above. */
#define OFFSET_BITS 56
#define OFFSET_MASK (((uint64_t)1 << OFFSET_BITS) - 1)

tsr_status tsr_host_segment_pick(const tsr_host_group *group,
                                 uint32_t *out_index) {
    for (uint32_t i = 0; i < TSR_HOST_SEGMENTS; i++)
        if (!atomic_load(&group->segments[i].base)) {
            *out_index = i;
            return TSR_OK;
        }
    return tsr_error(TSR_FAILED_PRECONDITION,
                     "the group already has %d pieces of shared memory: "
                     "tsr_comm_shared_free gives one back",
                     TSR_HOST_SEGMENTS);
}

tsr_status tsr_host_shared_alloc(tsr_host_comm *comm, size_t bytes,
                                 void **out_memory) {
    tsr_host_group *group = comm->group;
    uint32_t offer, index = 0;
    tsr_status mine = tsr_host_segment_pick(group, &index);
    TSR_TRY(tsr_host_share(comm, TSR_CALL_SHARED_ALLOC, bytes, mine, out_memory,
                           &offer));
    if (!group->one_address_space)
        index = offer - 1; /* rank 0's pick */
    tsr_host_segment *segment = &group->segments[index];
    segment->offer = offer;
    atomic_store(&segment->bytes, bytes);
    atomic_store(&segment->base, (char *)*out_memory); /* in use from here on */
    return TSR_OK;
}

void tsr_host_shared_free(tsr_host_group *group, void *memory) {
    for (uint32_t i = 0; memory && i < TSR_HOST_SEGMENTS; i++) {
        tsr_host_segment *segment = &group->segments[i];
        if (atomic_load(&segment->base) != memory)
            continue;
        atomic_store(&segment->base, NULL);
        tsr_host_drop(group, memory, atomic_load(&segment->bytes),
                      segment->offer);
    }
}

bool tsr_host_locate(const tsr_host_comm *comm, const void *memory,
                     size_t bytes, uint64_t *out_where) {
    const tsr_host_group *group = comm->group;
    uintptr_t at = (uintptr_t)memory;
    *out_where = group->one_address_space ? (uint64_t)at : 0;
    if (comm->staging_only)
        return false;
    if (group->one_address_space || bytes == 0)
        return true;
    for (uint32_t i = 0; i < TSR_HOST_SEGMENTS; i++) {
        uintptr_t base = (uintptr_t)atomic_load(&group->segments[i].base);
        size_t room = atomic_load(&group->segments[i].bytes);
        if (base == 0 || at < base || at - base > room ||
            bytes > room - (at - base))
            continue;
        *out_where = (uint64_t)i << OFFSET_BITS | (uint64_t)(at - base);
        return true;
    }
    return false;
}

const char *tsr_host_find(const tsr_host_comm *comm,
                          const tsr_host_place *place, size_t offset) {
    const tsr_host_group *group = comm->group;
    uint64_t where = place->where;
    if (group->one_address_space)
        return (const char *)((uintptr_t)where + offset);
    const tsr_host_segment *segment =
        &group->segments[where >> OFFSET_BITS & (TSR_HOST_SEGMENTS - 1)];
    return (const char *)((uintptr_t)atomic_load(&segment->base) +
                          (uintptr_t)(where & OFFSET_MASK) + offset);
}
