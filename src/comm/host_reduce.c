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

/* Where rank r's part of a piece is. */
typedef const char *(*piece_source)(const tsr_host_run *run,
                                    const tsr_host_piece *piece, int rank);

/* The sum over ranks [0, end) into the block. */
static void sum_ranks(tsr_host_run *run, const tsr_host_piece *piece, int end,
                      piece_source source) {
    const tsr_reduce *reduce = &run->call->reduces[piece->tensor];
    for (int r = 0; r < end; r++) {
        const char *from = source(run, piece, r);
        size_t valid = tsr_host_places(run->comm, r)[piece->place].valid;
        size_t exist =
            existing(piece, reduce->count, run->comm->base.rank, valid);
        if (r == 0)
            tsr_sum_load(run->sum, reduce->wire_dtype, from, exist,
                         piece->count);
        else if (exist > 0)
            tsr_sum_add(run->sum, reduce->wire_dtype, from, exist);
    }
}

/* Whether the last two ranks' parts can be summed, stored and squared in one
 * pass. */
static bool ends_with_pair(const tsr_host_run *run,
                           const tsr_host_piece *piece) {
    const tsr_reduce *reduce = &run->call->reduces[piece->tensor];
    int world = run->comm->base.world;
    size_t least = SIZE_MAX;
    if (world < 2 || !tsr_sum_pairs(reduce->wire_dtype, reduce->out_dtype))
        return false;
    for (int r = world > 2 ? world - 1 : 0; r < world; r++) {
        size_t valid = tsr_host_places(run->comm, r)[piece->place].valid;
        least = valid < least ? valid : least;
    }
    return existing(piece, reduce->count, run->comm->base.rank, least) ==
           piece->count;
}

static void reduce_pair(tsr_host_run *run, const tsr_host_piece *piece,
                        piece_source source) {
    const tsr_reduce *reduce = &run->call->reduces[piece->tensor];
    int last = run->comm->base.world - 1;
    tsr_sum_pair pair = {.first = run->sum->f32,
                         .second = source(run, piece, last),
                         .first_dtype = TSR_F32,
                         .second_dtype = reduce->wire_dtype,
                         .to = (float *)reduce->shard + piece->first,
                         .count = piece->count,
                         .scale = reduce->scale,
                         .accumulate = reduce->accumulate != 0,
                         .past_caches = run->past_caches,
                         .squares = reduce->square_sum ? &run->squares : NULL};
    if (last == 1) {
        pair.first = source(run, piece, 0);
        pair.first_dtype = reduce->wire_dtype;
    } else {
        sum_ranks(run, piece, last, source);
    }
    tsr_sum_pair_store(&pair);
}

static void reduce_block(tsr_host_run *run, const tsr_host_piece *piece,
                         piece_source source) {
    const tsr_reduce *reduce = &run->call->reduces[piece->tensor];
    char *to = (char *)reduce->shard +
               piece->first * tsr_dtype_bytes(reduce->out_dtype);
    sum_ranks(run, piece, run->comm->base.world, source);
    tsr_sum_store(run->sum, reduce->out_dtype, to, piece->count, reduce->scale,
                  reduce->accumulate != 0);
    if (reduce->square_sum)
        run->squares +=
            tsr_sum_squares(run->sum, reduce->out_dtype, piece->count);
}

static void reduce_piece(tsr_host_run *run, const tsr_host_piece *piece,
                         piece_source source) {
    const tsr_reduce *reduce = &run->call->reduces[piece->tensor];
    if (piece->first == 0)
        run->squares = 0;
    if (ends_with_pair(run, piece))
        reduce_pair(run, piece, source);
    else
        reduce_block(run, piece, source);
    if (reduce->square_sum) /* final with the last piece */
        *reduce->square_sum = (float)run->squares;
}

/* Offset of a piece in this rank's slice of a full vector. */
static size_t slice_offset(const tsr_host_run *run,
                           const tsr_host_piece *piece) {
    size_t count = run->call->reduces[piece->tensor].count;
    return ((size_t)run->comm->base.rank * count + piece->first) * piece->bytes;
}

static const char *direct_source(const tsr_host_run *run,
                                 const tsr_host_piece *piece, int rank) {
    return tsr_host_find(run->comm,
                         &tsr_host_places(run->comm, rank)[piece->place],
                         slice_offset(run, piece));
}

static void reduce_tensor(tsr_host_run *run, size_t place) {
    const tsr_reduce *reduce = &run->call->reduces[run->first + place];
    tsr_host_piece piece = {.tensor = run->first + place,
                            .place = place,
                            .count = reduce->count,
                            .bytes = tsr_dtype_bytes(reduce->wire_dtype)};
    /* More than two ranks need the block in between. */
    bool whole = run->comm->base.world == 2 && ends_with_pair(run, &piece);
    size_t most = whole ? reduce->count : TSR_SUM_BLOCK;
    for (; piece.first < reduce->count; piece.first += most) {
        size_t left = reduce->count - piece.first;
        piece.count = left < most ? left : most;
        reduce_piece(run, &piece, direct_source);
    }
}

static tsr_status reduce_direct(tsr_host_run *run) {
    TSR_TRY(tsr_host_read_begin(run->comm));
    for (size_t i = 0; i < run->tensors; i++)
        reduce_tensor(run, i);
    return tsr_host_read_end(run->comm);
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

/* This rank's own does not go through a slot. */
static const char *staged_source(const tsr_host_run *run,
                                 const tsr_host_piece *piece, int rank) {
    int own = run->comm->base.rank;
    if (rank == own)
        return offset_by(run->call->reduces[piece->tensor].full,
                         slice_offset(run, piece));
    return tsr_host_slot(run->comm, rank) + (size_t)own * run->capacity +
           piece->offset;
}

static void reduce_read(tsr_host_run *run, const tsr_host_piece *piece,
                        char *slot) {
    (void)slot;
    reduce_piece(run, piece, staged_source);
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
