/* Inside a collective: what host_collectives.c and host_reduce.c share. */
#ifndef TSR_COMM_HOST_RUN_H
#define TSR_COMM_HOST_RUN_H

#include "base/status.h"
#include "comm/host.h"
#include "comm/sum.h"

/* One call, or one batch of it. */
typedef struct tsr_host_run {
    tsr_host_comm *comm;
    const tsr_call *call;
    size_t first, tensors; /* the batch */
    size_t capacity;       /* bytes of a chunk */
    bool past_caches;      /* results are too large to stay in caches */
    double squares;        /* of the tensor being reduced, so far */
    tsr_sum_block *sum;    /* borrowed: scratch */
} tsr_host_run;

typedef struct tsr_host_cursor {
    size_t tensor, element; /* next; tensor counts from the batch's first */
} tsr_host_cursor;

/* A run of one tensor's elements, at most a block. */
typedef struct tsr_host_piece {
    size_t tensor; /* of the call */
    size_t place;  /* tensor - batch's first */
    size_t first, count;
    size_t bytes;  /* an element's */
    size_t offset; /* in the chunk */
} tsr_host_piece;

/* The next piece, if one is left and fits behind the `*used` bytes of the
 * chunk. Alike on all ranks: counts and dtypes are. */
bool tsr_host_next_piece(const tsr_host_run *run, tsr_host_cursor *cursor,
                         size_t *used, tsr_host_piece *out_piece);

tsr_host_descriptor tsr_host_describe(const tsr_host_run *run);
/* Opens a batch of gathers or reduces; *out_direct: every rank's tensors can be
 * read by all. */
tsr_status tsr_host_open_batch(tsr_host_run *run, bool *out_direct);
typedef void (*tsr_host_step)(tsr_host_run *run, const tsr_host_piece *piece,
                              char *slot);
/* Writes all pieces, chunk by chunk, and reads them from the peers. `opened`:
 * the call's agreement is behind us; else the first chunk's rendezvous is it.
 */
tsr_status tsr_host_stage(tsr_host_run *run, tsr_host_step write,
                          tsr_host_step read, bool opened);
/* A step: the buffer's piece into the slot. */
void tsr_host_write_buffer(tsr_host_run *run, const tsr_host_piece *piece,
                           char *slot);

/* host_reduce.c */
tsr_status tsr_host_reduce_scatter(tsr_host_run *run);
tsr_status tsr_host_all_reduce(tsr_host_run *run);

#endif
