/* The collectives that sum: pieces of every rank, in rank order. */
#include <string.h>

#include "comm/host_run.h"

/* ---- reduce_scatter ---- */

/* How many of a piece's elements, in rank `slice`'s slice, exist. */
static size_t existing(const tsr_host_piece *piece, size_t count, int slice,
                       size_t valid) {
    size_t begin = (size_t)slice * count + piece->first;
    size_t left = valid > begin ? valid - begin : 0;
    return left < piece->count ? left : piece->count;
}

/* By address, since `base` may be NULL or shorter than `offset`; what does not
 * exist is not read. */
static const char *offset_by(const void *base, size_t offset) {
    return (const char *)((uintptr_t)base + offset);
}

static void reduce_source(tsr_host_run *run, const tsr_host_piece *piece,
                          int rank, const char *from) {
    const tsr_reduce *reduce = &run->call->reduces[piece->tensor];
    size_t valid = tsr_host_places(run->comm, rank)[piece->place].valid;
    size_t exist = existing(piece, reduce->count, run->comm->base.rank, valid);
    if (rank == 0)
        tsr_sum_load(run->sum, reduce->wire_dtype, from, exist, piece->count);
    else if (exist > 0)
        tsr_sum_add(run->sum, reduce->wire_dtype, from, exist);
}

static void reduce_finish(tsr_host_run *run, const tsr_host_piece *piece) {
    const tsr_reduce *reduce = &run->call->reduces[piece->tensor];
    char *to = (char *)reduce->shard +
               piece->first * tsr_dtype_bytes(reduce->out_dtype);
    tsr_sum_store(run->sum, reduce->out_dtype, to, piece->count, reduce->scale,
                  reduce->accumulate != 0);
    if (!reduce->square_sum)
        return;
    if (piece->first == 0)
        run->squares = 0;
    run->squares += tsr_sum_squares(run->sum, reduce->out_dtype, piece->count);
    *reduce->square_sum = (float)run->squares; /* final with the last piece */
}

static tsr_status reduce_direct(tsr_host_run *run) {
    tsr_host_comm *comm = run->comm;
    tsr_host_cursor cursor = {0};
    tsr_host_piece piece;
    TSR_TRY(tsr_host_read_begin(comm));
    for (size_t used = 0; tsr_host_next_piece(run, &cursor, &used, &piece);
         used = 0) {
        size_t count = run->call->reduces[piece.tensor].count;
        size_t offset =
            ((size_t)comm->base.rank * count + piece.first) * piece.bytes;
        for (int r = 0; r < comm->base.world; r++)
            reduce_source(run, &piece, r,
                          tsr_host_find(comm,
                                        &tsr_host_places(comm, r)[piece.place],
                                        offset));
        reduce_finish(run, &piece);
    }
    return tsr_host_read_end(comm);
}

/* A slot holds one part of `capacity` bytes for each rank. */
static void reduce_write(tsr_host_run *run, const tsr_host_piece *piece,
                         char *slot) {
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

static void reduce_read(tsr_host_run *run, const tsr_host_piece *piece,
                        char *slot) {
    const tsr_reduce *reduce = &run->call->reduces[piece->tensor];
    int rank = run->comm->base.rank;
    size_t own = ((size_t)rank * reduce->count + piece->first) * piece->bytes;
    size_t part = (size_t)rank * run->capacity + piece->offset;
    (void)slot;
    for (int r = 0; r < run->comm->base.world; r++)
        reduce_source(run, piece, r,
                      r == rank ? offset_by(reduce->full, own)
                                : tsr_host_slot(run->comm, r) + part);
    reduce_finish(run, piece);
}

tsr_status tsr_host_reduce_scatter(tsr_host_run *run) {
    bool direct;
    for (size_t i = 0; i < run->tensors; i++) {
        const tsr_reduce *reduce = &run->call->reduces[run->first + i];
        if (reduce->count == 0 && reduce->square_sum)
            *reduce->square_sum = 0;
    }
    TSR_TRY(tsr_host_open_batch(run, &direct));
    if (direct)
        return reduce_direct(run);
    run->capacity /= (size_t)run->comm->base.world;
    run->capacity = run->capacity / 64 * 64;
    return tsr_host_stage(run, reduce_write, reduce_read, true);
}

/* ---- all_reduce ---- */

static void all_reduce_piece(tsr_host_run *run, const tsr_host_piece *piece,
                             char *to) {
    tsr_dtype dtype = run->call->dtype;
    for (int r = 0; r < run->comm->base.world; r++) {
        const char *from = tsr_host_slot(run->comm, r) + piece->offset;
        if (r == 0)
            tsr_sum_load(run->sum, dtype, from, piece->count, piece->count);
        else
            tsr_sum_add(run->sum, dtype, from, piece->count);
    }
    tsr_sum_store(run->sum, dtype, to, piece->count, 1.0f, false);
}

/* One block: every rank sums it for itself. */
static void all_reduce_read_small(tsr_host_run *run,
                                  const tsr_host_piece *piece, char *slot) {
    (void)slot;
    all_reduce_piece(run, piece,
                     run->call->buffer + piece->first * piece->bytes);
}

static int owner_of(const tsr_host_run *run, const tsr_host_piece *piece) {
    return (int)(piece->first / TSR_SUM_BLOCK % (size_t)run->comm->base.world);
}

/* Many blocks: each has an owner, which leaves the sum in its own slot. Nobody
 * else reads an owner's copy of its blocks before the next rendezvous. */
static void all_reduce_read_owned(tsr_host_run *run,
                                  const tsr_host_piece *piece, char *slot) {
    if (owner_of(run, piece) == run->comm->base.rank)
        all_reduce_piece(run, piece, slot + piece->offset);
}

static void all_reduce_read_sums(tsr_host_run *run,
                                 const tsr_host_piece *piece) {
    memcpy(run->call->buffer + piece->first * piece->bytes,
           tsr_host_slot(run->comm, owner_of(run, piece)) + piece->offset,
           piece->count * piece->bytes);
}

static tsr_status all_reduce_large(tsr_host_run *run) {
    tsr_host_comm *comm = run->comm;
    tsr_host_cursor writer = {0}, summer = {0}, reader = {0};
    tsr_host_piece piece;
    size_t used;
    tsr_host_descriptor mine = tsr_host_describe(run);
    for (bool opened = false; writer.tensor < run->tensors; opened = true) {
        char *slot = tsr_host_slot(comm, comm->base.rank);
        for (used = 0; tsr_host_next_piece(run, &writer, &used, &piece);)
            tsr_host_write_buffer(run, &piece, slot);
        TSR_TRY(opened ? tsr_host_rendezvous(comm)
                       : tsr_host_open(comm, &mine));
        for (used = 0; tsr_host_next_piece(run, &summer, &used, &piece);)
            all_reduce_read_owned(run, &piece, slot);
        TSR_TRY(tsr_host_rendezvous(comm));
        for (used = 0; tsr_host_next_piece(run, &reader, &used, &piece);)
            all_reduce_read_sums(run, &piece);
        comm->turn ^= 1;
    }
    return TSR_OK;
}

tsr_status tsr_host_all_reduce(tsr_host_run *run) {
    if (run->call->count > TSR_SUM_BLOCK)
        return all_reduce_large(run);
    return tsr_host_stage(run, tsr_host_write_buffer, all_reduce_read_small,
                          false);
}
