/* The collectives, as they run on the stream's worker: an opening, with the
 * data in it when they are little, else chunks. */
#include <string.h>

#include "base/memory.h"
#include "comm/mpi_run.h"

/* ---- agreement ---- */

static tsr_status open_call(tsr_mpi_run *run) {
    tsr_mpi_header header = {
        .digest = tsr_call_digest_make(run->call, 0, run->call->tensors)};
    return tsr_mpi_open(run->comm, &header);
}

/* Whether all of the run fits in the opening. */
static bool fits_opening(const tsr_mpi_run *run, tsr_mpi_chunk *out_chunk) {
    tsr_mpi_cursor cursor = {0};
    tsr_mpi_chunk more;
    if (!tsr_mpi_chunk_next(run, &cursor, TSR_MPI_INLINE_BYTES, out_chunk))
        return cursor.tensor == run->tensors;
    return !out_chunk->direct &&
           !tsr_mpi_chunk_next(run, &cursor, TSR_MPI_INLINE_BYTES, &more) &&
           cursor.tensor == run->tensors;
}

/* The data came with the openings. */
static tsr_status finish_opened(tsr_mpi_run *run, tsr_mpi_finish_chunk finish,
                                const tsr_mpi_chunk *chunk) {
    tsr_mpi_comm *comm = run->comm;
    finish(run, &comm->opening.exchange,
           comm->opening.in + sizeof(tsr_mpi_header), comm->opening.stride,
           chunk);
    return run->damaged < 0
               ? TSR_OK
               : tsr_mpi_fail(comm->group, TSR_INVALID_DATA, run->damaged,
                              "rank %d sent an opening of %s that makes no "
                              "sense",
                              run->damaged,
                              tsr_call_op_name((uint32_t)run->call->op));
}

/* ---- gather ---- */

static const char *shard_at(const tsr_mpi_run *run, const tsr_mpi_piece *piece,
                            size_t *out_exist) {
    const tsr_gather *gather = &run->gathers[piece->tensor];
    *out_exist = tsr_mpi_existing(piece, gather->count, run->comm->base.rank,
                                  run->limit);
    return tsr_mpi_at(gather->shard, piece->first * piece->bytes);
}

static char *full_at(const tsr_mpi_run *run, const tsr_mpi_piece *piece,
                     int rank) {
    const tsr_gather *gather = &run->gathers[piece->tensor];
    return tsr_mpi_at(gather->full,
                      ((size_t)rank * gather->count + piece->first) *
                          piece->bytes);
}

static void gather_pack(tsr_mpi_run *run, char *part,
                        const tsr_mpi_chunk *chunk) {
    tsr_mpi_cursor cursor = chunk->begin;
    tsr_mpi_piece piece;
    size_t used = 0, exist;
    while (tsr_mpi_chunk_piece(run, chunk, &cursor, &used, &piece)) {
        const char *from = shard_at(run, &piece, &exist);
        tsr_mpi_pack(part, &piece, from, exist);
    }
}

static void gather_start(tsr_mpi_run *run, tsr_mpi_slot *slot,
                         const tsr_mpi_chunk *chunk) {
    tsr_mpi_comm *comm = run->comm;
    const tsr_mpi_piece *piece = &chunk->piece;
    int world = comm->base.world, rank = comm->base.rank;
    int tag = comm->tag + TSR_MPI_TAG_CHUNK;
    size_t exist;
    if (!chunk->direct) {
        gather_pack(run, slot->out + (size_t)rank * slot->stride, chunk);
        tsr_mpi_exchange_parts(run, slot, chunk, true);
        return;
    }
    for (int step = 1; step < world; step++) {
        int from = (rank + world - step) % world;
        exist = tsr_mpi_existing(piece, run->gathers[piece->tensor].count, from,
                                 run->limit);
        tsr_mpi_exchange_add(&slot->exchange, false, full_at(run, piece, from),
                             exist * piece->bytes, from, tag);
    }
    const char *shard = shard_at(run, piece, &exist);
    for (int step = 1; step < world; step++)
        tsr_mpi_exchange_add(&slot->exchange, true, shard, exist * piece->bytes,
                             (rank + step) % world, tag);
}

static void take_parts(tsr_mpi_run *run, const char *in, size_t stride,
                       const tsr_mpi_chunk *chunk, int from, int into) {
    tsr_mpi_cursor cursor = chunk->begin;
    tsr_mpi_piece piece;
    size_t used = 0, exist;
    while (tsr_mpi_chunk_piece(run, chunk, &cursor, &used, &piece)) {
        const char *at =
            tsr_mpi_unpack(in + (size_t)from * stride, &piece, &exist);
        if (!at)
            run->damaged = from;
        else if (exist > 0)
            memcpy(full_at(run, &piece, into), at, exist * piece.bytes);
    }
}

static void gather_finish(tsr_mpi_run *run, const tsr_mpi_exchange *exchange,
                          const char *in, size_t stride,
                          const tsr_mpi_chunk *chunk) {
    (void)exchange;
    for (int r = 0; !chunk->direct && r < run->comm->base.world; r++)
        if (r != run->comm->base.rank)
            take_parts(run, in, stride, chunk, r, r);
}

static void gather_own(const tsr_gather *gather, int rank) {
    size_t bytes = gather->count * tsr_dtype_bytes(gather->dtype);
    char *to = tsr_mpi_at(gather->full, (size_t)rank * bytes);
    if (bytes > 0 && to != gather->shard)
        memcpy(to, gather->shard, bytes);
}

static tsr_status gather(tsr_mpi_run *run) {
    tsr_mpi_comm *comm = run->comm;
    tsr_mpi_chunk chunk;
    run->gathers = run->call->gathers;
    run->tensors = run->call->tensors;
    bool small = fits_opening(run, &chunk);
    for (int r = 0; small && r < comm->base.world; r++) {
        gather_pack(run, tsr_mpi_opening_out(comm, r), &chunk);
        comm->carried[r] = chunk.used;
    }
    TSR_TRY(open_call(run));
    for (size_t i = 0; i < run->tensors; i++)
        gather_own(&run->gathers[i], comm->base.rank);
    return small ? finish_opened(run, gather_finish, &chunk)
                 : tsr_mpi_pipeline(run, gather_start, gather_finish);
}

/* ---- reduce_scatter, all_reduce ---- */

/* In the opening, if all fits. */
static tsr_status open_reduce(tsr_mpi_run *run, bool *out_finished) {
    tsr_mpi_comm *comm = run->comm;
    tsr_mpi_chunk chunk;
    bool small = fits_opening(run, &chunk);
    *out_finished = small;
    for (int r = 0; small && r < comm->base.world; r++) {
        tsr_mpi_reduce_pack(run, r, tsr_mpi_opening_out(comm, r), &chunk);
        comm->carried[r] = chunk.used;
    }
    TSR_TRY(open_call(run));
    return small ? finish_opened(run, tsr_mpi_reduce_finish, &chunk) : TSR_OK;
}

static tsr_status reduce_scatter(tsr_mpi_run *run) {
    bool finished;
    run->reduces = run->call->reduces;
    run->tensors = run->call->tensors;
    for (size_t i = 0; i < run->tensors; i++)
        if (run->reduces[i].count == 0 && run->reduces[i].square_sum)
            *run->reduces[i].square_sum = 0;
    TSR_TRY(open_reduce(run, &finished));
    return finished ? TSR_OK
                    : tsr_mpi_pipeline(run, tsr_mpi_reduce_start,
                                       tsr_mpi_reduce_finish);
}

/* Little: everybody sums everything. Much: each rank sums a slice, in place,
 * and then the slices are gathered. */
static tsr_status all_reduce(tsr_mpi_run *run) {
    const tsr_call *call = run->call;
    size_t world = (size_t)run->comm->base.world;
    /* Whole blocks, as `host` sums them: loops of another length may choose
     * another of two NaNs. */
    size_t slice =
        tsr_round_up((call->count + world - 1) / world, TSR_SUM_BLOCK);
    size_t bytes = tsr_dtype_bytes(call->dtype);
    bool finished;
    tsr_reduce reduce = {.full = call->buffer,
                         .shard = call->buffer,
                         .count = call->count,
                         .valid = call->count,
                         .wire_dtype = call->dtype,
                         .out_dtype = call->dtype,
                         .scale = 1};
    run->reduces = &reduce;
    run->tensors = 1;
    run->whole = true;
    if (call->count * bytes + sizeof(uint64_t) <= TSR_MPI_INLINE_BYTES)
        return open_reduce(run, &finished);

    TSR_TRY(open_call(run));
    run->whole = false;
    run->limit = call->count;
    reduce.count = slice;
    reduce.shard =
        tsr_mpi_at(call->buffer, (size_t)run->comm->base.rank * slice * bytes);
    TSR_TRY(tsr_mpi_pipeline(run, tsr_mpi_reduce_start, tsr_mpi_reduce_finish));
    tsr_gather sums = {.shard = reduce.shard,
                       .full = call->buffer,
                       .count = slice,
                       .dtype = call->dtype};
    run->reduces = NULL;
    run->gathers = &sums;
    return tsr_mpi_pipeline(run, gather_start, gather_finish);
}

/* ---- broadcast ---- */

static void broadcast_start(tsr_mpi_run *run, tsr_mpi_slot *slot,
                            const tsr_mpi_chunk *chunk) {
    tsr_mpi_comm *comm = run->comm;
    int world = comm->base.world, rank = comm->base.rank,
        root = run->call->root;
    int tag = comm->tag + TSR_MPI_TAG_CHUNK;
    char *out = slot->out + (size_t)rank * slot->stride;
    size_t bytes = chunk->used;
    char *at = rank == root ? out : slot->in + (size_t)root * slot->stride;
    if (chunk->direct) {
        at = full_at(run, &chunk->piece, 0);
        bytes = chunk->piece.count * chunk->piece.bytes;
    } else if (rank == root) {
        gather_pack(run, out, chunk);
    }
    if (rank != root)
        tsr_mpi_exchange_add(&slot->exchange, false, at, bytes, root, tag);
    for (int step = 1; rank == root && step < world; step++)
        tsr_mpi_exchange_add(&slot->exchange, true, at, bytes,
                             (rank + step) % world, tag);
}

static void broadcast_finish(tsr_mpi_run *run, const tsr_mpi_exchange *exchange,
                             const char *in, size_t stride,
                             const tsr_mpi_chunk *chunk) {
    (void)exchange;
    if (!chunk->direct && run->comm->base.rank != run->call->root)
        take_parts(run, in, stride, chunk, run->call->root, 0);
}

static tsr_status broadcast(tsr_mpi_run *run) {
    const tsr_call *call = run->call;
    tsr_mpi_comm *comm = run->comm;
    tsr_mpi_chunk chunk;
    tsr_gather buffer = {.shard = call->buffer,
                         .full = call->buffer,
                         .count = call->count,
                         .dtype = call->dtype};
    run->gathers = &buffer;
    run->tensors = 1;
    bool small = fits_opening(run, &chunk);
    for (int r = 0;
         small && comm->base.rank == call->root && r < comm->base.world; r++) {
        gather_pack(run, tsr_mpi_opening_out(comm, r), &chunk);
        comm->carried[r] = chunk.used;
    }
    TSR_TRY(open_call(run));
    return small ? finish_opened(run, broadcast_finish, &chunk)
                 : tsr_mpi_pipeline(run, broadcast_start, broadcast_finish);
}

tsr_status tsr_mpi_collective_run(const tsr_call *call) {
    tsr_mpi_run run = {.comm = (tsr_mpi_comm *)call->comm,
                       .call = call,
                       .limit = SIZE_MAX,
                       .damaged = -1};
    bool alone = call->comm->world == 1;
    if (call->op == TSR_CALL_GATHER)
        return gather(&run);
    if (call->op == TSR_CALL_REDUCE_SCATTER)
        return reduce_scatter(&run);
    if (call->op == TSR_CALL_ALL_REDUCE && !alone)
        return all_reduce(&run);
    if (call->op == TSR_CALL_BROADCAST && !alone)
        return broadcast(&run);
    return open_call(&run);
}
