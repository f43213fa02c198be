/* Blocks of memory that all ranks of a group map: control blocks, and the
 * segment of tsr_comm_shared_alloc. Threads hand over an address, processes a
 * memory file's descriptor.
 *
 * Rank 0 makes a block and *offers* it; the others *take* it once all have
 * agreed that nobody failed. Whatever is sent is sent before the agreement, so
 * taking never waits. */
#include "comm/host.h"

#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/os.h"

/* ---- threads: a table of blocks in the first control block ---- */

/* `reserve`: so that no later touch can fail. */
static tsr_status make_block(size_t bytes, bool reserve, void **out_memory) {
    size_t available = reserve ? tsr_os_memory_available() : SIZE_MAX;
    if (bytes > available)
        return tsr_error(
            TSR_OUT_OF_MEMORY,
            "shared memory needs %zu bytes but only %zu are available", bytes,
            available);
    return tsr_os_map(bytes, reserve, out_memory);
}

static tsr_status offer_block(tsr_host_group *group, size_t bytes, bool reserve,
                              void **out_memory, uint32_t *out_offer) {
    for (int i = 0; i < TSR_HOST_BLOCKS; i++) {
        tsr_host_block *block = &group->root->blocks[i];
        if (atomic_load(&block->users) > 0)
            continue;
        TSR_TRY(make_block(bytes, reserve, &block->memory));
        block->bytes = bytes;
        atomic_store(&block->users, (uint32_t)group->world);
        *out_memory = block->memory;
        *out_offer = (uint32_t)i + 1;
        return TSR_OK;
    }
    return tsr_error(TSR_FAILED_PRECONDITION,
                     "more than %d communicators and segments of one group",
                     TSR_HOST_BLOCKS);
}

static void free_block(tsr_host_block *block) {
    tsr_os_unmap(block->memory, block->bytes);
    block->memory = NULL;
    atomic_store(&block->users, 0);
}

/* The last rank gives the memory back: it is the only one left that touches the
 * block. */
static void drop_block(tsr_host_block *block) {
    uint32_t users = atomic_load(&block->users);
    while (users > 1 &&
           !atomic_compare_exchange_weak(&block->users, &users, users - 1))
        ;
    if (users == 1)
        free_block(block);
}

/* ---- processes: a memory file ---- */

static tsr_status make_file(const char *name, size_t bytes, int *out_fd,
                            void **out_memory) {
    TSR_TRY(tsr_os_shared_file(name, bytes, out_fd));
    tsr_status status = tsr_os_map_shared(*out_fd, bytes, out_memory);
    if (status != TSR_OK) {
        close(*out_fd);
        *out_fd = -1;
    }
    return status;
}

static tsr_status send_file(tsr_host_group *group, int fd) {
    for (int r = 1; r < group->world; r++) {
        tsr_status status = tsr_host_send_fd(group->sockets[r], fd);
        if (status != TSR_OK)
            return tsr_error_at(status, "rank %d", r);
    }
    return TSR_OK;
}

static tsr_status take_file(tsr_host_group *group, size_t bytes, bool wanted,
                            void **out_memory) {
    int fd;
    TSR_TRY(tsr_host_receive_fd(group->sockets[0], &fd));
    tsr_status status =
        wanted ? tsr_os_map_shared(fd, bytes, out_memory) : TSR_OK;
    close(fd);
    return status;
}

/* ---- sharing ---- */

static tsr_status offer(tsr_host_group *group, tsr_call_op op, size_t bytes,
                        void **out_memory, uint32_t *out_offer) {
    int fd;
    uint32_t index = 0;
    if (group->one_address_space)
        return offer_block(group, bytes, op == TSR_CALL_SHARED_ALLOC,
                           out_memory, out_offer);
    if (op == TSR_CALL_SHARED_ALLOC)
        TSR_TRY(tsr_host_segment_pick(group, &index));
    TSR_TRY(make_file("tessera", bytes, &fd, out_memory));
    tsr_status status = send_file(group, fd);
    close(fd);
    /* Some peers have a descriptor waiting and some not: no way on. */
    if (status != TSR_OK) {
        tsr_os_unmap(*out_memory, bytes);
        *out_memory = NULL;
        return tsr_host_fail(group, TSR_UNAVAILABLE, -1, "%s",
                             tsr_last_error());
    }
    *out_offer = index + 1;
    return TSR_OK;
}

/* Processes: the number that rank 0 picked for a segment must be free here. */
static tsr_status check_unused(const tsr_host_group *group, tsr_call_op op,
                               uint32_t offered) {
    if (op != TSR_CALL_SHARED_ALLOC ||
        !atomic_load(&group->segments[offered - 1].base))
        return TSR_OK;
    return tsr_error(TSR_FAILED_PRECONDITION,
                     "shared memory that rank 0 has freed is not freed here");
}

/* `agreed`: whether nobody failed; else what was sent is only received. */
static tsr_status take(tsr_host_comm *comm, tsr_call_op op, size_t bytes,
                       bool agreed, void **out_memory, uint32_t *out_offer) {
    tsr_host_group *group = comm->group;
    uint32_t offered = tsr_host_published(comm, 0)->offer;
    if (comm->base.rank == 0 || offered == 0)
        return TSR_OK;
    if (!group->one_address_space) {
        tsr_status status = check_unused(group, op, offered);
        TSR_TRY(
            take_file(group, bytes, agreed && status == TSR_OK, out_memory));
        TSR_TRY(status);
    }
    if (group->one_address_space && agreed)
        *out_memory = group->root->blocks[offered - 1].memory;
    if (agreed)
        *out_offer = offered;
    return TSR_OK;
}

void tsr_host_drop(tsr_host_group *group, void *memory, size_t bytes,
                   uint32_t offered) {
    if (!memory)
        return;
    if (group->one_address_space)
        drop_block(&group->root->blocks[offered - 1]);
    else
        tsr_os_unmap(memory, bytes);
}

/* Rank 0, alone: nobody took its offer. */
static void retract(tsr_host_group *group, void *memory, size_t bytes,
                    uint32_t offered) {
    if (group->one_address_space && memory)
        free_block(&group->root->blocks[offered - 1]);
    else
        tsr_os_unmap(memory, bytes);
}

tsr_status tsr_host_share(tsr_host_comm *comm, tsr_call_op op, size_t bytes,
                          tsr_status mine, void **out_memory,
                          uint32_t *out_offer) {
    tsr_host_group *group = comm->group;
    void *memory = NULL;
    uint64_t sequence;
    tsr_host_descriptor descriptor = {
        .digest = {.bytes = bytes, .op = (uint32_t)op}};
    *out_memory = NULL;
    *out_offer = 0;

    TSR_TRY(tsr_host_call_begin(comm, op, &sequence));
    descriptor.digest.sequence = sequence;
    if (mine == TSR_OK && comm->base.rank == 0)
        mine = offer(group, op, bytes, &memory, &descriptor.offer);
    descriptor.digest.status = (int32_t)mine;
    tsr_status status = tsr_host_agree(comm, &descriptor);
    bool standing = tsr_host_failure(group, NULL) == TSR_OK;
    if (status != TSR_OK) {
        /* When the group stands, the agreement was read by all alike. Else a
         * peer may have read it and go on: threads leave the block to the last
         * rank that leaves. */
        if (comm->base.rank == 0 && (standing || !group->one_address_space))
            retract(group, memory, bytes, descriptor.offer);
        else if (standing)
            (void)take(comm, op, bytes, false, &memory, &descriptor.offer);
    } else {
        descriptor.digest.status =
            (int32_t)take(comm, op, bytes, true, &memory, &descriptor.offer);
        uint32_t taken = descriptor.offer;
        status = tsr_host_agree(comm, &descriptor);
        if (status != TSR_OK)
            tsr_host_drop(group, memory, bytes, taken);
    }
    tsr_host_call_end(comm, op, sequence);
    if (status == TSR_OK) {
        *out_memory = memory;
        *out_offer = descriptor.offer;
    }
    return status;
}

/* ---- the first control block ---- */

/* What a rank tells all others over the bootstrap. */
typedef struct host_hello {
    int32_t status, pid;
    uint64_t root; /* rank 0, threads: the control block's address */
    uint32_t name_bytes;
    char name[TSR_HOST_NAME]; /* rank 0, processes: its socket's */
    char text[128];
} host_hello;

typedef struct host_meeting {
    tsr_host_group *group;
    tsr_bootstrap *bootstrap;
    int timeout_ms;
    host_hello mine;
    host_hello all[TSR_HOST_RANKS];
} host_meeting;

/* All ranks tell how they fare; the lowest failing one's status is everybody's.
 */
static tsr_status meet(host_meeting *meeting, tsr_status mine) {
    meeting->mine.status = (int32_t)mine;
    meeting->mine.text[0] = '\0';
    if (mine != TSR_OK)
        strncat(meeting->mine.text, tsr_last_error(),
                sizeof meeting->mine.text - 1);
    TSR_TRY(tsr_bootstrap_exchange(meeting->bootstrap, &meeting->mine,
                                   sizeof meeting->mine, meeting->all,
                                   meeting->timeout_ms));
    for (int r = 0; r < meeting->bootstrap->world; r++) {
        host_hello *hello = &meeting->all[r];
        hello->text[sizeof hello->text - 1] = '\0';
        if (hello->status != TSR_OK)
            return tsr_error((tsr_status)hello->status, "rank %d: %s", r,
                             hello->text);
    }
    return TSR_OK;
}

static tsr_status join_threads(host_meeting *meeting, tsr_status mine) {
    tsr_host_group *group = meeting->group;
    void *made = NULL;
    if (mine == TSR_OK && group->rank == 0)
        mine = tsr_os_map(group->control_bytes, false, &made);
    if (made)
        atomic_store(&((tsr_host_control *)made)->users,
                     (uint32_t)group->world);
    meeting->mine.root = (uint64_t)(uintptr_t)made;
    /* An exchange between threads happens for all or for none: so the block is
     * everybody's or still rank 0's alone. */
    tsr_status status = meet(meeting, mine);
    if (status == TSR_OK)
        group->root = (tsr_host_control *)(uintptr_t)meeting->all[0].root;
    else if (made)
        tsr_os_unmap(made, group->control_bytes);
    return status;
}

static tsr_status accept_all(host_meeting *meeting, int listener) {
    tsr_host_group *group = meeting->group;
    for (int left = group->world - 1; left > 0;) {
        int pid, fd, rank = 1;
        TSR_TRY(tsr_host_accept(listener, &pid, &fd));
        while (rank < group->world &&
               (meeting->all[rank].pid != pid || group->sockets[rank] >= 0))
            rank++;
        if (rank == group->world) {
            close(fd); /* not one of us */
            continue;
        }
        group->sockets[rank] = fd;
        left--;
    }
    return TSR_OK;
}

static tsr_status join_processes(host_meeting *meeting, tsr_status mine) {
    tsr_status status = TSR_OK;
    tsr_host_group *group = meeting->group;
    int file = -1, listener = -1;
    bool hub = meeting->bootstrap->rank == 0;
    void *root = NULL;

    if (mine == TSR_OK && hub)
        mine = make_file("tessera", group->control_bytes, &file, &root);
    if (mine == TSR_OK && hub)
        mine = tsr_host_listen(group->world + 8, meeting->mine.name,
                               &meeting->mine.name_bytes, &listener);
    TSR_TRY_GOTO(meet(meeting, mine));
    const host_hello *first = &meeting->all[0];
    if (!hub)
        mine = tsr_host_connect(first->name, first->name_bytes, first->pid,
                                &group->sockets[0]);
    TSR_TRY_GOTO(meet(meeting, mine)); /* all wait in rank 0's backlog */
    if (hub) {
        mine = accept_all(meeting, listener);
        if (mine == TSR_OK)
            mine = send_file(group, file);
    }
    TSR_TRY_GOTO(meet(meeting, mine)); /* all descriptors are sent */
    if (!hub)
        mine = take_file(group, group->control_bytes, true, &root);
    if (mine == TSR_OK) {
        group->root = root;
        mine = tsr_host_watch_start(group);
    }
    TSR_TRY_GOTO(meet(meeting, mine));
    root = NULL; /* now the group's */
done:
    if (listener >= 0)
        close(listener);
    if (file >= 0)
        close(file);
    if (status != TSR_OK && group) {
        tsr_host_watch_stop(group);
        tsr_os_unmap(root, group->control_bytes);
        group->root = NULL;
    }
    return status;
}

tsr_status tsr_host_join(tsr_host_group *group, tsr_bootstrap *bootstrap,
                         int timeout_ms, tsr_status mine) {
    host_meeting meeting = {.group = group,
                            .bootstrap = bootstrap,
                            .timeout_ms = timeout_ms,
                            .mine = {.pid = (int32_t)getpid()}};
    if (bootstrap->vtable->one_address_space || bootstrap->world == 1)
        return join_threads(&meeting, mine);
    return join_processes(&meeting, mine);
}

void tsr_host_leave(tsr_host_group *group) {
    tsr_host_control *root = group->root;
    if (root)
        atomic_store(&root->lines[group->rank].goodbye, 1);
    tsr_host_watch_stop(group);
    if (group->sockets)
        for (int r = 0; r < group->world; r++)
            if (group->sockets[r] >= 0)
                close(group->sockets[r]);
    if (!root)
        return;
    if (!group->one_address_space) {
        for (int i = 0; i < TSR_HOST_SEGMENTS; i++)
            tsr_os_unmap(atomic_load(&group->segments[i].base),
                         atomic_load(&group->segments[i].bytes));
    } else if (atomic_fetch_sub(&root->users, 1) > 1) {
        return; /* others still use it all */
    } else {
        for (int i = 0; i < TSR_HOST_BLOCKS; i++)
            tsr_os_unmap(root->blocks[i].memory, root->blocks[i].bytes);
    }
    tsr_os_unmap(root, group->control_bytes);
}
