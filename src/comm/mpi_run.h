/* Inside of a collective: what mpi_collectives.c, mpi_chunk.c and mpi_reduce.c
 * share.
 *
 * Tensors are walked in *chunks*, alike on all ranks, since counts and dtypes
 * are. A chunk is *direct*, a run of one large tensor that is sent from where
 * it lies, or *packed*: runs of several, in the parts of a slot, each behind a
 * word that says how many of its elements exist. */
#ifndef TSR_COMM_MPI_RUN_H
#define TSR_COMM_MPI_RUN_H

#include "base/status.h"
#include "comm/mpi.h"
#include "comm/sum.h"

typedef struct tsr_mpi_cursor {
    size_t tensor, element; /* next */
} tsr_mpi_cursor;

/* A run of one tensor's elements; it begins at a multiple of a block of sums,
 * counted from the tensor's start. */
typedef struct tsr_mpi_piece {
    size_t tensor, first, count;
    size_t bytes;  /* an element's */
    size_t offset; /* packed: in the part */
} tsr_mpi_piece;

typedef struct tsr_mpi_chunk {
    bool direct;
    tsr_mpi_piece piece;  /* direct */
    tsr_mpi_cursor begin; /* packed: of its pieces */
    size_t pieces;
    size_t used; /* packed: bytes of a part */
} tsr_mpi_chunk;

typedef struct tsr_mpi_run {
    tsr_mpi_comm *comm;
    const tsr_call *call;
    /* What chunks are made of: one of the two. */
    const tsr_gather *gathers;
    const tsr_reduce *reduces;
    size_t tensors;
    size_t limit;   /* elements of each full tensor that exist for gathers, and
                       are made by reduces (all_reduce); SIZE_MAX: all */
    bool whole;     /* every rank reduces the whole tensor, not its slice */
    int damaged;    /* a rank whose message makes no sense; -1 */
    double squares; /* of the tensor being reduced, so far */
    tsr_mpi_exchange *beside; /* under way meanwhile; may be NULL */
    tsr_sum_block sum;
} tsr_mpi_run;

/* ---- mpi_chunk.c ---- */

/* Bytes of a slot's part for one rank. */
size_t tsr_mpi_part_bytes(int world);
/* The next chunk, if anything is left. `capacity`: of a part. */
bool tsr_mpi_chunk_next(const tsr_mpi_run *run, tsr_mpi_cursor *cursor,
                        size_t capacity, tsr_mpi_chunk *out_chunk);
/* The next of a packed chunk's pieces; *cursor begins as chunk->begin. */
bool tsr_mpi_chunk_piece(const tsr_mpi_run *run, const tsr_mpi_chunk *chunk,
                         tsr_mpi_cursor *cursor, size_t *used,
                         tsr_mpi_piece *out_piece);
/* Of a piece of rank `slice`'s slice: how many elements lie below `end`, an
 * element of the full tensor. */
size_t tsr_mpi_existing(const tsr_mpi_piece *piece, size_t count, int slice,
                        size_t end);
/* A piece in a part: `exist` elements of it; returns where they are in
 * tsr_mpi_unpack, NULL when the word makes no sense. */
void tsr_mpi_pack(char *part, const tsr_mpi_piece *piece, const void *from,
                  size_t exist);
const char *tsr_mpi_unpack(const char *part, const tsr_mpi_piece *piece,
                           size_t *out_exist);
/* By address: `base` may be NULL or shorter than `offset`; what does not exist
 * is not touched. */
char *tsr_mpi_at(const void *base, size_t offset);

/* Adds a chunk's transfers to the slot's exchange. */
typedef void (*tsr_mpi_start_chunk)(tsr_mpi_run *run, tsr_mpi_slot *slot,
                                    const tsr_mpi_chunk *chunk);
/* What to do with a chunk that has come: rank r's part at in + r * stride. */
typedef void (*tsr_mpi_finish_chunk)(tsr_mpi_run *run,
                                     const tsr_mpi_exchange *exchange,
                                     const char *in, size_t stride,
                                     const tsr_mpi_chunk *chunk);
/* All of it, two chunks under way at a time. */
tsr_status tsr_mpi_pipeline(tsr_mpi_run *run, tsr_mpi_start_chunk start,
                            tsr_mpi_finish_chunk finish);
/* A packed chunk's transfers: the part of each rank to it; `same`: this rank's
 * to all. */
void tsr_mpi_exchange_parts(tsr_mpi_run *run, tsr_mpi_slot *slot,
                            const tsr_mpi_chunk *chunk, bool same);

/* ---- mpi_reduce.c ---- */

void tsr_mpi_reduce_start(tsr_mpi_run *run, tsr_mpi_slot *slot,
                          const tsr_mpi_chunk *chunk);
void tsr_mpi_reduce_pack(tsr_mpi_run *run, int to, char *part,
                         const tsr_mpi_chunk *chunk);
void tsr_mpi_reduce_finish(tsr_mpi_run *run, const tsr_mpi_exchange *exchange,
                           const char *in, size_t stride,
                           const tsr_mpi_chunk *chunk);

#endif
