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

#include "comm/host.h"
#include "comm/sum.h"

/* One call, or one batch of it. */
typedef struct host_run {
    tsr_host_comm *comm;
    const tsr_host_call *call;
    size_t first, tensors; /* the batch */
    size_t capacity;       /* bytes of a chunk */
    double squares;        /* of the tensor being reduced, so far */
    tsr_sum_block sum;
} host_run;

typedef struct host_cursor {
    size_t tensor, element; /* next; tensor counts from the batch's first */
} host_cursor;

/* A run of one tensor's elements, at most a block. */
typedef struct host_piece {
    size_t tensor; /* of the call */
    size_t place;  /* tensor - batch's first */
    size_t first, count;
    size_t bytes;  /* an element's */
    size_t offset; /* in the chunk */
} host_piece;

static void extent(const tsr_host_call *call, size_t tensor, size_t *out_count,
                   tsr_dtype *out_dtype) {
    if (call->op == TSR_HOST_GATHER) {
        *out_count = call->gathers[tensor].count;
        *out_dtype = call->gathers[tensor].dtype;
    } else if (call->op == TSR_HOST_REDUCE_SCATTER) {
        *out_count = call->reduces[tensor].count;
        *out_dtype = call->reduces[tensor].wire_dtype;
    } else {
        *out_count = call->count;
        *out_dtype = call->dtype;
    }
}

/* The next piece, if one is left and fits behind the `*used` bytes of the
 * chunk. Alike on all ranks: counts and dtypes are. */
static bool next_piece(const host_run *run, host_cursor *cursor, size_t *used,
                       host_piece *out_piece) {
    size_t count = 0;
    tsr_dtype dtype = TSR_U8;
    for (;; cursor->tensor++, cursor->element = 0) {
        if (cursor->tensor == run->tensors)
            return false;
        extent(run->call, run->first + cursor->tensor, &count, &dtype);
        if (cursor->element < count)
            break;
    }
    size_t left = count - cursor->element, bytes = tsr_dtype_bytes(dtype);
    size_t taken = left < TSR_SUM_BLOCK ? left : TSR_SUM_BLOCK;
    if (*used + taken * bytes > run->capacity)
        return false;
    *out_piece = (host_piece){.tensor = run->first + cursor->tensor,
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

static uint64_t mix(uint64_t hash, uint64_t word) {
    return (hash ^ word) * 0x100000001b3u; /* FNV-1a, a word at a time */
}

static tsr_host_descriptor describe(const host_run *run) {
    const tsr_host_call *call = run->call;
    tsr_host_descriptor descriptor = {.sequence = call->sequence,
                                      .tensors = call->tensors,
                                      .hash = mix(0xcbf29ce484222325u,
                                                  (uint64_t)call->root),
                                      .op = (uint32_t)call->op};
    for (size_t i = 0; i < run->tensors; i++) {
        size_t count;
        tsr_dtype dtype;
        extent(call, run->first + i, &count, &dtype);
        descriptor.bytes += count * tsr_dtype_bytes(dtype);
        descriptor.hash = mix(mix(descriptor.hash, count), (uint64_t)dtype);
    }
    return descriptor;
}

/* Where peers find `bytes` at `memory`; false: they cannot. */
static bool locate(const tsr_host_comm *comm, const void *memory, size_t bytes,
                   uint64_t *out_where) {
    const tsr_host_group *group = comm->group;
    *out_where = 0;
    if (comm->staging_only)
        return false;
    if (group->one_address_space || bytes == 0) {
        *out_where = (uint64_t)(uintptr_t)memory;
        return true;
    }
    uintptr_t base = (uintptr_t)atomic_load(&group->segment),
              at = (uintptr_t)memory;
    if (base == 0 || at < base || at - base > group->segment_bytes ||
        bytes > group->segment_bytes - (at - base))
        return false;
    *out_where = at - base;
    return true;
}

/* An address here of what a peer published. */
static const char *find(const tsr_host_comm *comm, const tsr_host_place *place,
                        size_t offset) {
    const tsr_host_group *group = comm->group;
    uintptr_t base = group->one_address_space
                         ? 0
                         : (uintptr_t)atomic_load(&group->segment);
    return (const char *)(base + (uintptr_t)place->where + offset);
}

static bool publish_places(host_run *run) {
    tsr_host_comm *comm = run->comm;
    const tsr_host_call *call = run->call;
    tsr_host_place *places =
        comm->control->lines[comm->base.rank].places[comm->round];
    bool all = true;
    for (size_t i = 0; i < run->tensors; i++) {
        if (call->op == TSR_HOST_GATHER) {
            const tsr_gather *gather = &call->gathers[run->first + i];
            size_t bytes = gather->count * tsr_dtype_bytes(gather->dtype);
            all &= locate(comm, gather->shard, bytes, &places[i].where);
            places[i].valid = gather->count;
        } else {
            const tsr_reduce *reduce = &call->reduces[run->first + i];
            size_t bytes = reduce->valid * tsr_dtype_bytes(reduce->wire_dtype);
            all &= locate(comm, reduce->full, bytes, &places[i].where);
            places[i].valid = reduce->valid;
        }
    }
    return all;
}

/* Opens a batch; *out_direct: every rank's tensors can be read by all. */
static tsr_status open_batch(host_run *run, bool *out_direct) {
    tsr_host_comm *comm = run->comm;
    bool direct = publish_places(run);
    tsr_host_descriptor mine = describe(run);
    mine.direct = direct;
    TSR_TRY(tsr_host_open(comm, &mine));
    for (int r = 0; r < comm->base.world; r++)
        direct = direct && tsr_host_published(comm, r)->direct;
    *out_direct = direct;
    return TSR_OK;
}

/* ---- staging ---- */

typedef void (*host_step)(host_run *run, const host_piece *piece, char *slot);

/* Writes all pieces, chunk by chunk, and reads them from the peers. `opened`:
 * the call's agreement is behind us; else the first chunk's rendezvous is it. */
static tsr_status stage(host_run *run, host_step write, host_step read,
                        bool opened) {
    tsr_host_comm *comm = run->comm;
    host_cursor writer = {0}, reader = {0};
    host_piece piece;
    size_t used;
    do {
        char *slot = tsr_host_slot(comm, comm->base.rank);
        for (used = 0; next_piece(run, &writer, &used, &piece);)
            write(run, &piece, slot);
        if (opened) {
            TSR_TRY(tsr_host_rendezvous(comm));
        } else {
            tsr_host_descriptor mine = describe(run);
            TSR_TRY(tsr_host_open(comm, &mine));
            opened = true;
        }
        for (used = 0; next_piece(run, &reader, &used, &piece);)
            read(run, &piece, slot);
        comm->turn ^= 1;
    } while (writer.tensor < run->tensors);
    return TSR_OK;
}

/* ---- gather ---- */

static void copy(char *to, const char *from, size_t bytes) {
    if (to != from && bytes > 0)
        memcpy(to, from, bytes);
}

static void gather_own(const tsr_gather *gather, int rank) {
    size_t bytes = gather->count * tsr_dtype_bytes(gather->dtype);
    if (bytes > 0)
        copy((char *)gather->full + (size_t)rank * bytes, gather->shard, bytes);
}

static tsr_status gather_direct(host_run *run) {
    tsr_host_comm *comm = run->comm;
    int world = comm->base.world, rank = comm->base.rank;
    for (size_t i = 0; i < run->tensors; i++) {
        const tsr_gather *gather = &run->call->gathers[run->first + i];
        size_t bytes = gather->count * tsr_dtype_bytes(gather->dtype);
        gather_own(gather, rank);
        /* Each rank begins with another peer, to spread the reads. Shards that
         * already lie where they belong (shared gathered copy) are skipped by
         * copy. */
        for (int step = 1; step < world && bytes > 0; step++) {
            int r = (rank + step) % world;
            copy((char *)gather->full + (size_t)r * bytes,
                 find(comm, &tsr_host_places(comm, r)[i], 0), bytes);
        }
    }
    return tsr_host_rendezvous(comm);
}

static void gather_write(host_run *run, const host_piece *piece, char *slot) {
    const tsr_gather *gather = &run->call->gathers[piece->tensor];
    memcpy(slot + piece->offset,
           (const char *)gather->shard + piece->first * piece->bytes,
           piece->count * piece->bytes);
}

static void gather_read(host_run *run, const host_piece *piece, char *slot) {
    const tsr_gather *gather = &run->call->gathers[piece->tensor];
    (void)slot;
    for (int r = 0; r < run->comm->base.world; r++) {
        size_t at = (size_t)r * gather->count + piece->first;
        if (r != run->comm->base.rank)
            memcpy((char *)gather->full + at * piece->bytes,
                   tsr_host_slot(run->comm, r) + piece->offset,
                   piece->count * piece->bytes);
    }
}

static tsr_status gather(host_run *run) {
    bool direct;
    TSR_TRY(open_batch(run, &direct));
    if (direct)
        return gather_direct(run);
    for (size_t i = 0; i < run->tensors; i++)
        gather_own(&run->call->gathers[run->first + i], run->comm->base.rank);
    return stage(run, gather_write, gather_read, true);
}

/* ---- reduce_scatter ---- */

/* How many of a piece's elements, in rank `slice`'s slice, exist. */
static size_t existing(const host_piece *piece, size_t count, int slice,
                       size_t valid) {
    size_t begin = (size_t)slice * count + piece->first;
    size_t left = valid > begin ? valid - begin : 0;
    return left < piece->count ? left : piece->count;
}

static void reduce_source(host_run *run, const host_piece *piece, int rank,
                          const char *from) {
    const tsr_reduce *reduce = &run->call->reduces[piece->tensor];
    size_t valid = tsr_host_places(run->comm, rank)[piece->place].valid;
    size_t exist =
        existing(piece, reduce->count, run->comm->base.rank, valid);
    if (rank == 0)
        tsr_sum_load(&run->sum, reduce->wire_dtype, from, exist, piece->count);
    else if (exist > 0)
        tsr_sum_add(&run->sum, reduce->wire_dtype, from, exist);
}

static void reduce_finish(host_run *run, const host_piece *piece) {
    const tsr_reduce *reduce = &run->call->reduces[piece->tensor];
    char *to = (char *)reduce->shard +
               piece->first * tsr_dtype_bytes(reduce->out_dtype);
    tsr_sum_store(&run->sum, reduce->out_dtype, to, piece->count, reduce->scale,
                  reduce->accumulate != 0);
    if (!reduce->square_sum)
        return;
    if (piece->first == 0)
        run->squares = 0;
    run->squares +=
        tsr_sum_squares(&run->sum, reduce->out_dtype, piece->count);
    *reduce->square_sum = (float)run->squares; /* final with the last piece */
}

static tsr_status reduce_direct(host_run *run) {
    tsr_host_comm *comm = run->comm;
    host_cursor cursor = {0};
    host_piece piece;
    for (size_t used = 0; next_piece(run, &cursor, &used, &piece); used = 0) {
        size_t count = run->call->reduces[piece.tensor].count;
        size_t offset =
            ((size_t)comm->base.rank * count + piece.first) * piece.bytes;
        for (int r = 0; r < comm->base.world; r++)
            reduce_source(
                run, &piece, r,
                find(comm, &tsr_host_places(comm, r)[piece.place], offset));
        reduce_finish(run, &piece);
    }
    return tsr_host_rendezvous(comm);
}

/* A slot holds one part of `capacity` bytes for each rank. */
static void reduce_write(host_run *run, const host_piece *piece, char *slot) {
    const tsr_reduce *reduce = &run->call->reduces[piece->tensor];
    for (int to = 0; to < run->comm->base.world; to++) {
        size_t exist = existing(piece, reduce->count, to, reduce->valid);
        size_t at = (size_t)to * reduce->count + piece->first;
        if (to != run->comm->base.rank && exist > 0)
            memcpy(slot + (size_t)to * run->capacity + piece->offset,
                   (const char *)reduce->full + at * piece->bytes,
                   exist * piece->bytes);
    }
}

static void reduce_read(host_run *run, const host_piece *piece, char *slot) {
    const tsr_reduce *reduce = &run->call->reduces[piece->tensor];
    int rank = run->comm->base.rank;
    size_t own = ((size_t)rank * reduce->count + piece->first) * piece->bytes;
    size_t part = (size_t)rank * run->capacity + piece->offset;
    (void)slot;
    for (int r = 0; r < run->comm->base.world; r++)
        reduce_source(run, piece, r,
                      r == rank ? (const char *)reduce->full + own
                                : tsr_host_slot(run->comm, r) + part);
    reduce_finish(run, piece);
}

static tsr_status reduce_scatter(host_run *run) {
    bool direct;
    for (size_t i = 0; i < run->tensors; i++) {
        const tsr_reduce *reduce = &run->call->reduces[run->first + i];
        if (reduce->count == 0 && reduce->square_sum)
            *reduce->square_sum = 0;
    }
    TSR_TRY(open_batch(run, &direct));
    if (direct)
        return reduce_direct(run);
    run->capacity /= (size_t)run->comm->base.world;
    run->capacity = run->capacity / 64 * 64;
    return stage(run, reduce_write, reduce_read, true);
}

/* ---- all_reduce ---- */

static void buffer_write(host_run *run, const host_piece *piece, char *slot) {
    memcpy(slot + piece->offset, run->call->buffer + piece->first * piece->bytes,
           piece->count * piece->bytes);
}

static void all_reduce_piece(host_run *run, const host_piece *piece, char *to) {
    tsr_dtype dtype = run->call->dtype;
    for (int r = 0; r < run->comm->base.world; r++) {
        const char *from = tsr_host_slot(run->comm, r) + piece->offset;
        if (r == 0)
            tsr_sum_load(&run->sum, dtype, from, piece->count, piece->count);
        else
            tsr_sum_add(&run->sum, dtype, from, piece->count);
    }
    tsr_sum_store(&run->sum, dtype, to, piece->count, 1.0f, false);
}

/* One block: every rank sums it for itself. */
static void all_reduce_read_small(host_run *run, const host_piece *piece,
                                  char *slot) {
    (void)slot;
    all_reduce_piece(run, piece,
                     run->call->buffer + piece->first * piece->bytes);
}

static int owner_of(const host_run *run, const host_piece *piece) {
    return (int)(piece->first / TSR_SUM_BLOCK % (size_t)run->comm->base.world);
}

/* Many blocks: each has an owner, which leaves the sum in its own slot. Nobody
 * else reads an owner's copy of its blocks before the next rendezvous. */
static void all_reduce_read_owned(host_run *run, const host_piece *piece,
                                  char *slot) {
    if (owner_of(run, piece) == run->comm->base.rank)
        all_reduce_piece(run, piece, slot + piece->offset);
}

static void all_reduce_read_sums(host_run *run, const host_piece *piece) {
    memcpy(run->call->buffer + piece->first * piece->bytes,
           tsr_host_slot(run->comm, owner_of(run, piece)) + piece->offset,
           piece->count * piece->bytes);
}

static tsr_status all_reduce_large(host_run *run) {
    tsr_host_comm *comm = run->comm;
    host_cursor writer = {0}, summer = {0}, reader = {0};
    host_piece piece;
    size_t used;
    tsr_host_descriptor mine = describe(run);
    for (bool opened = false; writer.tensor < run->tensors; opened = true) {
        char *slot = tsr_host_slot(comm, comm->base.rank);
        for (used = 0; next_piece(run, &writer, &used, &piece);)
            buffer_write(run, &piece, slot);
        TSR_TRY(opened ? tsr_host_rendezvous(comm)
                       : tsr_host_open(comm, &mine));
        for (used = 0; next_piece(run, &summer, &used, &piece);)
            all_reduce_read_owned(run, &piece, slot);
        TSR_TRY(tsr_host_rendezvous(comm));
        for (used = 0; next_piece(run, &reader, &used, &piece);)
            all_reduce_read_sums(run, &piece);
        comm->turn ^= 1;
    }
    return TSR_OK;
}

static tsr_status all_reduce(host_run *run) {
    if (run->call->count > TSR_SUM_BLOCK)
        return all_reduce_large(run);
    return stage(run, buffer_write, all_reduce_read_small, false);
}

/* ---- broadcast, barrier ---- */

static void broadcast_write(host_run *run, const host_piece *piece,
                            char *slot) {
    if (run->comm->base.rank == run->call->root)
        buffer_write(run, piece, slot);
}

static void broadcast_read(host_run *run, const host_piece *piece, char *slot) {
    (void)slot;
    if (run->comm->base.rank != run->call->root)
        memcpy(run->call->buffer + piece->first * piece->bytes,
               tsr_host_slot(run->comm, run->call->root) + piece->offset,
               piece->count * piece->bytes);
}

static tsr_status run_batch(host_run *run) {
    switch (run->call->op) {
    case TSR_HOST_GATHER:
        return gather(run);
    case TSR_HOST_REDUCE_SCATTER:
        return reduce_scatter(run);
    case TSR_HOST_ALL_REDUCE:
        return all_reduce(run);
    case TSR_HOST_BROADCAST:
        return stage(run, broadcast_write, broadcast_read, false);
    default: {
        tsr_host_descriptor mine = describe(run);
        return tsr_host_open(run->comm, &mine);
    }
    }
}

tsr_status tsr_host_collective_run(const tsr_host_call *call) {
    host_run run = {.comm = call->comm, .call = call};
    do {
        size_t left = call->tensors - run.first;
        run.tensors = left < TSR_HOST_PLACES ? left : TSR_HOST_PLACES;
        run.capacity = tsr_host_slot_bytes(call->comm->base.world);
        TSR_TRY(run_batch(&run));
        run.first += run.tensors;
    } while (run.first < call->tensors);
    return TSR_OK;
}
