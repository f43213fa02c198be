/* Sums: every rank receives its peers' parts of its slice and adds them in rank
 * order, in the blocks that `host` uses, so that bits are the same. */
#include <string.h>

#include "comm/mpi_run.h"

/* Blocks between two looks at what is under way: 64 KiB of f32, some 10 us. */
#define NUDGE_BLOCKS 4

static int slice_of(const tsr_mpi_run *run, int rank) {
    return run->whole ? 0 : rank;
}

/* How many elements of a piece this rank makes. */
static size_t produced(const tsr_mpi_run *run, const tsr_mpi_piece *piece) {
    return tsr_mpi_existing(piece, run->reduces[piece->tensor].count,
                            slice_of(run, run->comm->base.rank), run->limit);
}

/* This rank's elements of rank `to`'s slice. */
static const char *find(const tsr_mpi_run *run, const tsr_mpi_piece *piece,
                        int to, size_t *out_exist) {
    const tsr_reduce *reduce = &run->reduces[piece->tensor];
    int slice = slice_of(run, to);
    *out_exist = tsr_mpi_existing(piece, reduce->count, slice, reduce->valid);
    return tsr_mpi_at(reduce->full,
                      ((size_t)slice * reduce->count + piece->first) *
                          piece->bytes);
}

/* ---- sending ---- */

void tsr_mpi_reduce_pack(tsr_mpi_run *run, int to, char *part,
                         const tsr_mpi_chunk *chunk) {
    tsr_mpi_cursor cursor = chunk->begin;
    tsr_mpi_piece piece;
    size_t used = 0, exist;
    while (tsr_mpi_chunk_piece(run, chunk, &cursor, &used, &piece)) {
        const char *from = find(run, &piece, to, &exist);
        tsr_mpi_pack(part, &piece, from, exist);
    }
}

static void start_direct(tsr_mpi_run *run, tsr_mpi_slot *slot,
                         const tsr_mpi_piece *piece) {
    tsr_mpi_comm *comm = run->comm;
    int world = comm->base.world, rank = comm->base.rank;
    int tag = comm->tag + TSR_MPI_TAG_CHUNK;
    for (int step = 1; step < world; step++) {
        int from = (rank + world - step) % world;
        tsr_mpi_exchange_add(&slot->exchange, false,
                             slot->in + (size_t)from * slot->stride,
                             piece->count * piece->bytes, from, tag);
    }
    for (int step = 1; step < world; step++) {
        int to = (rank + step) % world;
        size_t exist;
        const char *from = find(run, piece, to, &exist);
        tsr_mpi_exchange_add(&slot->exchange, true, from, exist * piece->bytes,
                             to, tag);
    }
}

void tsr_mpi_reduce_start(tsr_mpi_run *run, tsr_mpi_slot *slot,
                          const tsr_mpi_chunk *chunk) {
    tsr_mpi_comm *comm = run->comm;
    if (chunk->direct) {
        start_direct(run, slot, &chunk->piece);
        return;
    }
    for (int r = 0; r < comm->base.world; r++)
        if (r != comm->base.rank)
            tsr_mpi_reduce_pack(run, r, slot->out + (size_t)r * slot->stride,
                                chunk);
    tsr_mpi_exchange_parts(run, slot, chunk, false);
}

/* ---- summing ---- */

/* What has come of a piece. */
typedef struct reduce_arrival {
    const tsr_mpi_exchange *exchange; /* direct; else NULL */
    const char *in;
    size_t stride;
} reduce_arrival;

static const char *arrived(tsr_mpi_run *run, const reduce_arrival *arrival,
                           const tsr_mpi_piece *piece, int from,
                           size_t *out_exist) {
    int world = run->comm->base.world, rank = run->comm->base.rank;
    const char *part = arrival->in + (size_t)from * arrival->stride;
    if (from == rank)
        return find(run, piece, rank, out_exist);
    if (!arrival->exchange) {
        const char *at = tsr_mpi_unpack(part, piece, out_exist);
        if (!at) {
            run->damaged = from;
            *out_exist = 0;
        }
        return at;
    }
    /* Receives were added first, in steps backwards through the ranks. */
    int step = (rank + world - from) % world;
    *out_exist = arrival->exchange->transfers[step - 1].moved / piece->bytes;
    return part;
}

static void sum_block(tsr_mpi_run *run, const reduce_arrival *arrival,
                      const tsr_mpi_piece *piece, size_t at, size_t count) {
    const tsr_reduce *reduce = &run->reduces[piece->tensor];
    for (int r = 0; r < run->comm->base.world; r++) {
        size_t exist;
        const char *from = tsr_mpi_at(arrived(run, arrival, piece, r, &exist),
                                      at * piece->bytes);
        exist = exist > at ? exist - at : 0;
        exist = exist < count ? exist : count;
        if (r == 0)
            tsr_sum_load(&run->sum, reduce->wire_dtype, from, exist, count);
        else if (exist > 0)
            tsr_sum_add(&run->sum, reduce->wire_dtype, from, exist);
    }
}

static void store_block(tsr_mpi_run *run, const tsr_mpi_piece *piece, size_t at,
                        size_t count) {
    const tsr_reduce *reduce = &run->reduces[piece->tensor];
    char *to =
        tsr_mpi_at(reduce->shard,
                   (piece->first + at) * tsr_dtype_bytes(reduce->out_dtype));
    tsr_sum_store(&run->sum, reduce->out_dtype, to, count, reduce->scale,
                  reduce->accumulate != 0);
    if (!reduce->square_sum)
        return;
    if (piece->first + at == 0)
        run->squares = 0;
    run->squares += tsr_sum_squares(&run->sum, reduce->out_dtype, count);
    *reduce->square_sum = (float)run->squares; /* final with the last block */
}

static void finish_piece(tsr_mpi_run *run, const reduce_arrival *arrival,
                         const tsr_mpi_piece *piece) {
    size_t make = produced(run, piece);
    for (size_t at = 0, block = 0; at < make; at += TSR_SUM_BLOCK, block++) {
        size_t left = make - at;
        size_t count = left < TSR_SUM_BLOCK ? left : TSR_SUM_BLOCK;
        sum_block(run, arrival, piece, at, count);
        store_block(run, piece, at, count);
        if (run->beside && block % NUDGE_BLOCKS == NUDGE_BLOCKS - 1)
            tsr_mpi_exchange_nudge(run->beside);
    }
}

void tsr_mpi_reduce_finish(tsr_mpi_run *run, const tsr_mpi_exchange *exchange,
                           const char *in, size_t stride,
                           const tsr_mpi_chunk *chunk) {
    reduce_arrival arrival = {chunk->direct ? exchange : NULL, in, stride};
    tsr_mpi_cursor cursor = chunk->begin;
    tsr_mpi_piece piece;
    size_t used = 0;
    if (chunk->direct) {
        finish_piece(run, &arrival, &chunk->piece);
        return;
    }
    while (tsr_mpi_chunk_piece(run, chunk, &cursor, &used, &piece))
        finish_piece(run, &arrival, &piece);
}
