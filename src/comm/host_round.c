/* Failure, rendezvous, and agreement on what is being called. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/os.h"
#include "comm/host.h"
#include "comm/sum.h"

/* Sleepers look at the failure word, goodbyes and the clock this often; nobody
 * has to find and wake them when the group fails. */
#define NAP_NS ((int64_t)10 * 1000 * 1000)

/* ---- places in the control block ---- */

static size_t lines_bytes(int world) {
    return tsr_round_up(
        sizeof(tsr_host_control) + (size_t)world * sizeof(tsr_host_line), 4096);
}

/* reduce_scatter splits a slot into one part a rank, each at least a block. */
size_t tsr_host_slot_bytes(int world) {
    size_t least = (size_t)world * sizeof(tsr_sum_block);
    return least > TSR_HOST_SLOT_BYTES ? least : TSR_HOST_SLOT_BYTES;
}

size_t tsr_host_control_bytes(int world) {
    return lines_bytes(world) + 2 * (size_t)world * tsr_host_slot_bytes(world);
}

char *tsr_host_slot(const tsr_host_comm *comm, int rank) {
    int world = comm->base.world;
    return (char *)comm->control + lines_bytes(world) +
           ((size_t)rank * 2 + comm->turn) * tsr_host_slot_bytes(world);
}

const tsr_host_descriptor *tsr_host_published(const tsr_host_comm *comm,
                                              int rank) {
    return &comm->control->lines[rank].descriptors[comm->round ^ 1];
}

const tsr_host_place *tsr_host_places(const tsr_host_comm *comm, int rank) {
    return comm->control->lines[rank].places[comm->round ^ 1];
}

/* ---- failure ---- */

tsr_status tsr_host_failure(const tsr_host_group *group, int *out_rank) {
    uint32_t failed = atomic_load(&group->root->failed);
    if (failed == 0)
        return TSR_OK;
    const tsr_host_report *report = &group->root->lines[failed - 1].report;
    if (out_rank)
        *out_rank = report->rank;
    return tsr_error((tsr_status)report->status, "%s", report->text);
}

tsr_status tsr_host_fail(tsr_host_group *group, tsr_status status, int rank,
                         const char *format, ...) {
    tsr_host_control *root = group->root;
    tsr_host_report *report = &root->lines[group->rank].report;
    pthread_mutex_lock(&group->report);
    /* A report is written only while no failure stands, hence never while
     * somebody reads it; one that lost the race is never read. */
    if (atomic_load(&root->failed) == 0) {
        uint32_t none = 0;
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(report->text, sizeof report->text, format, arguments);
        va_end(arguments);
        report->status = (int32_t)status;
        report->rank = rank;
        atomic_compare_exchange_strong(&root->failed, &none,
                                       (uint32_t)group->rank + 1);
    }
    pthread_mutex_unlock(&group->report);
    return tsr_host_failure(group, NULL);
}

/* ---- rendezvous ---- */

void tsr_host_nap(const tsr_host_group *group, _Atomic uint32_t *word,
                  uint32_t seen) {
    tsr_os_futex_wait(word, seen, NAP_NS, !group->one_address_space);
}

static void describe_place(uint64_t at, char *text, size_t bytes) {
    if (at == 0)
        snprintf(text, bytes, "it has made no call");
    else
        snprintf(text, bytes, "%s %s #%llu",
                 at & 1 ? "it is at" : "its last call was",
                 tsr_call_op_name((uint32_t)(at >> 1 & 0x7f)),
                 (unsigned long long)(at >> 8));
}

static tsr_status fail_late(tsr_host_comm *comm, int late) {
    char place[96];
    uint64_t at = atomic_load(&comm->control->lines[late].at);
    uint64_t own = atomic_load(&comm->control->lines[comm->base.rank].at);
    describe_place(at, place, sizeof place);
    return tsr_host_fail(comm->group, TSR_UNAVAILABLE, late,
                         "rank %d has not joined %s #%llu for %.1f s (%s)",
                         late, tsr_call_op_name((uint32_t)(own >> 1 & 0x7f)),
                         (unsigned long long)(own >> 8),
                         (double)comm->group->timeout_ns / 1e9, place);
}

/* Whether going on waiting for `ticket` makes sense. */
static tsr_status check_peers(tsr_host_comm *comm, uint32_t ticket,
                              int64_t since) {
    bool late = tsr_os_now_ns() - since > comm->group->timeout_ns;
    TSR_TRY(tsr_host_failure(comm->group, NULL));
    for (int r = 0; r < comm->base.world; r++) {
        tsr_host_line *line = &comm->control->lines[r];
        /* In this order: a rank arrives before it says goodbye. */
        bool goodbye = atomic_load(&line->goodbye) != 0;
        if (atomic_load(&line->arrived) == ticket)
            continue;
        if (goodbye)
            return tsr_host_fail(comm->group, TSR_UNAVAILABLE, r,
                                 "rank %d has released its communicator", r);
        if (late)
            return fail_late(comm, r);
    }
    return TSR_OK;
}

static bool complete(const tsr_host_comm *comm, uint32_t ticket) {
    return atomic_load_explicit(&comm->control->generation,
                                memory_order_acquire) == ticket;
}

static tsr_status wait_complete(tsr_host_comm *comm, uint32_t ticket) {
    tsr_status status = TSR_OK;
    tsr_host_control *control = comm->control;
    int64_t since = tsr_os_now_ns();
    do {
        for (int i = 0; i < 16; i++) {
            if (complete(comm, ticket))
                return TSR_OK;
            tsr_os_relax();
        }
    } while (tsr_os_now_ns() - since < comm->group->spin_ns);

    /* The last arriver stores the generation and then looks for sleepers; here
     * it is the other way round. So one of the two sees the other. */
    atomic_fetch_add(&control->sleepers, 1);
    while (!complete(comm, ticket) && status == TSR_OK) {
        status = check_peers(comm, ticket, since);
        if (status == TSR_OK)
            tsr_host_nap(comm->group, &control->generation, ticket - 1);
    }
    atomic_fetch_sub(&control->sleepers, 1);
    return complete(comm, ticket) ? TSR_OK : status;
}

tsr_status tsr_host_rendezvous(tsr_host_comm *comm) {
    tsr_host_control *control = comm->control;
    uint32_t world = (uint32_t)comm->base.world, ticket = ++comm->ticket;
    atomic_store(&control->lines[comm->base.rank].arrived, ticket);
    if (atomic_fetch_add(&control->arrivals, 1) + 1 < world)
        return wait_complete(comm, ticket);
    /* Nobody arrives for the next one before this one is complete. */
    atomic_store(&control->arrivals, 0);
    atomic_store(&control->generation, ticket);
    if (atomic_load(&control->sleepers) > 0)
        tsr_os_futex_wake(&control->generation,
                          !comm->group->one_address_space);
    return TSR_OK;
}

/* This rank's call fails, and its memory may be freed next: no other thread may
 * still read it. Those that begin later see the failure. */
static tsr_status leave_reading(tsr_host_comm *comm, tsr_status status) {
    tsr_host_line *lines = comm->control->lines;
    if (status == TSR_OK)
        return TSR_OK;
    atomic_store(&lines[comm->base.rank].reading, 0);
    if (comm->group->one_address_space)
        for (int r = 0; r < comm->base.world; r++)
            while (atomic_load(&lines[r].reading))
                tsr_host_nap(comm->group, &lines[r].reading, 1);
    return status;
}

tsr_status tsr_host_read_begin(tsr_host_comm *comm) {
    /* First the flag, then the failure word; who fails looks at them the other
     * way round. So either we stop here or it waits for us. */
    atomic_store(&comm->control->lines[comm->base.rank].reading, 1);
    return leave_reading(comm, tsr_host_failure(comm->group, NULL));
}

tsr_status tsr_host_read_end(tsr_host_comm *comm) {
    atomic_store(&comm->control->lines[comm->base.rank].reading, 0);
    return leave_reading(comm, tsr_host_rendezvous(comm));
}

/* ---- agreement ---- */

tsr_status tsr_host_open(tsr_host_comm *comm, const tsr_host_descriptor *mine) {
    char text[TSR_CALL_MISMATCH_BYTES];
    TSR_TRY(tsr_host_failure(comm->group, NULL));
    comm->control->lines[comm->base.rank].descriptors[comm->round] = *mine;
    comm->round ^= 1;
    TSR_TRY(tsr_host_rendezvous(comm));
    tsr_host_wire_open(comm);
    const tsr_call_digest *first = &tsr_host_published(comm, 0)->digest;
    for (int r = 1; r < comm->base.world; r++) {
        const tsr_call_digest *other = &tsr_host_published(comm, r)->digest;
        if (tsr_call_digest_equal(first, other))
            continue;
        tsr_call_mismatch(first, r, other, text);
        return tsr_host_fail(comm->group, TSR_FAILED_PRECONDITION, -1, "%s",
                             text);
    }
    return TSR_OK;
}

tsr_status tsr_host_agree(tsr_host_comm *comm,
                          const tsr_host_descriptor *mine) {
    char *text = comm->control->lines[comm->base.rank].texts[comm->round];
    snprintf(text, TSR_COMM_TEXT, "%s",
             mine->digest.status == TSR_OK ? "" : tsr_last_error());
    TSR_TRY(tsr_host_open(comm, mine));
    for (int r = 0; r < comm->base.world; r++) {
        int32_t status = tsr_host_published(comm, r)->digest.status;
        if (status != TSR_OK)
            return tsr_error((tsr_status)status, "rank %d: %s", r,
                             comm->control->lines[r].texts[comm->round ^ 1]);
    }
    return TSR_OK;
}
