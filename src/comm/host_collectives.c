/* The collectives, as they run on the stream's worker.
 *
 * direct   each rank reads its peers' tensors where they lie, between two
 *          rendezvous
 * staged   through slots: each chunk is written to the own slot, a rendezvous,
 *          then read from the peers'; the next chunk uses the other slot
 *
 * Both walk tensors in pieces of at most a block counted from the tensor's
 * start, and sum with the same loops: their bits are equal. */
#include <string.h>

#include "comm/copy.h"
#include "comm/host_run.h"

bool tsr_host_next_piece(const tsr_host_run *run, tsr_host_cursor *cursor,
                         size_t *used, tsr_host_piece *out_piece) {
    size_t count = 0;
    tsr_dtype dtype = TSR_U8;
    for (;; cursor->tensor++, cursor->element = 0) {
        if (cursor->tensor == run->tensors)
            return false;
        tsr_call_extent(run->call, run->first + cursor->tensor, &count, &dtype);
        if (cursor->element < count)
            break;
    }
    size_t left = count - cursor->element, bytes = tsr_dtype_bytes(dtype);
    size_t taken = left < TSR_SUM_BLOCK ? left : TSR_SUM_BLOCK;
    if (*used + taken * bytes > run->capacity)
        return false;
    *out_piece = (tsr_host_piece){.tensor = run->first + cursor->tensor,
                                  .place = cursor->tensor,
                                  .first = cursor->element,
                                  .count = taken,
                                  .bytes = bytes,
                                  .offset = *used};
    *used += (taken * bytes + 63) / 64 * 64; /* each on its own cache lines */
    cursor->element += taken;
    return true;
}

/* ---- agreement ---- */

tsr_host_descriptor tsr_host_describe(const tsr_host_run *run) {
    return (tsr_host_descriptor){
        .digest = tsr_call_digest_make(run->call, run->first, run->tensors)};
}

static bool publish_places(tsr_host_run *run) {
    tsr_host_comm *comm = run->comm;
    const tsr_call *call = run->call;
    tsr_host_place *places =
        comm->control->lines[comm->base.rank].places[comm->round];
    bool all = true;
    for (size_t i = 0; i < run->tensors; i++) {
        if (call->op == TSR_CALL_GATHER) {
            const tsr_gather *gather = &call->gathers[run->first + i];
            size_t bytes = gather->count * tsr_dtype_bytes(gather->dtype);
            all &=
                tsr_host_locate(comm, gather->shard, bytes, &places[i].where);
            places[i].valid = gather->count;
        } else {
            const tsr_reduce *reduce = &call->reduces[run->first + i];
            size_t bytes = reduce->valid * tsr_dtype_bytes(reduce->wire_dtype);
            all &= tsr_host_locate(comm, reduce->full, bytes, &places[i].where);
            places[i].valid = reduce->valid;
        }
    }
    return all;
}

tsr_status tsr_host_open_batch(tsr_host_run *run, bool *out_direct) {
    tsr_host_comm *comm = run->comm;
    bool direct = publish_places(run);
    tsr_host_descriptor mine = tsr_host_describe(run);
    mine.direct = direct;
    TSR_TRY(tsr_host_open(comm, &mine));
    for (int r = 0; r < comm->base.world; r++)
        direct = direct && tsr_host_published(comm, r)->direct;
    *out_direct = direct;
    return TSR_OK;
}

/* ---- staging ---- */

tsr_status tsr_host_stage(tsr_host_run *run, tsr_host_step write,
                          tsr_host_step read, bool opened) {
    tsr_host_comm *comm = run->comm;
    tsr_host_cursor writer = {0}, reader = {0};
    tsr_host_piece piece;
    size_t used;
    do {
        char *slot = tsr_host_slot(comm, comm->base.rank);
        for (used = 0; tsr_host_next_piece(run, &writer, &used, &piece);)
            write(run, &piece, slot);
        if (opened) {
            TSR_TRY(tsr_host_rendezvous(comm));
        } else {
            tsr_host_descriptor mine = tsr_host_describe(run);
            TSR_TRY(tsr_host_open(comm, &mine));
            opened = true;
        }
        for (used = 0; tsr_host_next_piece(run, &reader, &used, &piece);)
            read(run, &piece, slot);
        comm->turn ^= 1;
    } while (writer.tensor < run->tensors);
    return TSR_OK;
}

/* ---- gather ---- */

/* All ranks go through the shards in the same order, so that those that share a
 * cache read each once from memory. A shard that already lies where it belongs
 * costs nothing. */
static tsr_status gather_direct(tsr_host_run *run) {
    tsr_host_comm *comm = run->comm;
    TSR_TRY(tsr_host_read_begin(comm));
    for (size_t i = 0; i < run->tensors; i++) {
        const tsr_gather *gather = &run->call->gathers[run->first + i];
        size_t bytes = gather->count * tsr_dtype_bytes(gather->dtype);
        for (int r = 0; r < comm->base.world && bytes > 0; r++)
            tsr_copy((char *)gather->full + (size_t)r * bytes,
                     r == comm->base.rank
                         ? gather->shard
                         : tsr_host_find(comm, &tsr_host_places(comm, r)[i], 0),
                     bytes, run->past_caches);
    }
    return tsr_host_read_end(comm);
}

/* Rank r's piece of the full tensor. */
static char *gathered(const tsr_host_run *run, const tsr_host_piece *piece,
                      int rank) {
    const tsr_gather *gather = &run->call->gathers[piece->tensor];
    size_t at = (size_t)rank * gather->count + piece->first;
    return (char *)gather->full + at * piece->bytes;
}

static void gather_write(tsr_host_run *run, const tsr_host_piece *piece,
                         char *slot) {
    const tsr_gather *gather = &run->call->gathers[piece->tensor];
    const char *from =
        (const char *)gather->shard + piece->first * piece->bytes;
    size_t bytes = piece->count * piece->bytes;
    memcpy(slot + piece->offset, from, bytes);
    tsr_copy(gathered(run, piece, run->comm->base.rank), from, bytes,
             run->past_caches);
}

static void gather_read(tsr_host_run *run, const tsr_host_piece *piece,
                        char *slot) {
    (void)slot;
    for (int r = 0; r < run->comm->base.world; r++)
        if (r != run->comm->base.rank)
            tsr_copy(gathered(run, piece, r),
                     tsr_host_slot(run->comm, r) + piece->offset,
                     piece->count * piece->bytes, run->past_caches);
}

static tsr_status gather(tsr_host_run *run) {
    bool direct;
    TSR_TRY(tsr_host_open_batch(run, &direct));
    return direct ? gather_direct(run)
                  : tsr_host_stage(run, gather_write, gather_read, true);
}

/* ---- broadcast, barrier ---- */

void tsr_host_write_buffer(tsr_host_run *run, const tsr_host_piece *piece,
                           char *slot) {
    memcpy(slot + piece->offset,
           run->call->buffer + piece->first * piece->bytes,
           piece->count * piece->bytes);
}

static void broadcast_write(tsr_host_run *run, const tsr_host_piece *piece,
                            char *slot) {
    if (run->comm->base.rank == run->call->root)
        tsr_host_write_buffer(run, piece, slot);
}

static void broadcast_read(tsr_host_run *run, const tsr_host_piece *piece,
                           char *slot) {
    (void)slot;
    if (run->comm->base.rank != run->call->root)
        memcpy(run->call->buffer + piece->first * piece->bytes,
               tsr_host_slot(run->comm, run->call->root) + piece->offset,
               piece->count * piece->bytes);
}

static tsr_status run_batch(tsr_host_run *run) {
    tsr_host_descriptor mine;
    bool alone = run->comm->base.world == 1;
    switch (run->call->op) {
    case TSR_CALL_GATHER:
        return gather(run);
    case TSR_CALL_REDUCE_SCATTER:
        return tsr_host_reduce_scatter(run);
    case TSR_CALL_ALL_REDUCE:
        if (alone)
            break;
        return tsr_host_all_reduce(run);
    case TSR_CALL_BROADCAST:
        if (alone)
            break;
        return tsr_host_stage(run, broadcast_write, broadcast_read, false);
    default:
        break;
    }
    mine = tsr_host_describe(run);
    return tsr_host_open(run->comm, &mine);
}

/* Whether all ranks' sources and results together, (world + 1) full vectors,
 * are more than the last cache holds: then results would not stay in it, and
 * keeping them out leaves it to the sources. */
static bool past_caches(const tsr_host_comm *comm, const tsr_call *call) {
    size_t world = (size_t)call->comm->world, bytes = 0;
    for (size_t i = 0; i < call->tensors; i++) {
        size_t count;
        tsr_dtype dtype;
        tsr_call_extent(call, i, &count, &dtype);
        bytes += count * world * tsr_dtype_bytes(dtype);
    }
    return bytes > comm->group->cache_bytes / (world + 1);
}

tsr_status tsr_host_collective_run(const tsr_call *call) {
    tsr_host_comm *comm = (tsr_host_comm *)call->comm;
    tsr_sum_block sum;
    tsr_host_run run = {.comm = comm,
                        .call = call,
                        .sum = &sum,
                        .past_caches = past_caches(comm, call)};
    do {
        size_t left = call->tensors - run.first;
        run.tensors = left < TSR_HOST_PLACES ? left : TSR_HOST_PLACES;
        run.capacity = tsr_host_slot_bytes(comm->base.world);
        TSR_TRY(run_batch(&run));
        run.first += run.tensors;
    } while (run.first < call->tensors);
    return TSR_OK;
}
