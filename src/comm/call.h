/* A call: what a collective was asked for. */
#ifndef TSR_COMM_CALL_H
#define TSR_COMM_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tessera/comm.h"

typedef enum tsr_call_op {
    TSR_CALL_GATHER,
    TSR_CALL_REDUCE_SCATTER,
    TSR_CALL_ALL_REDUCE,
    TSR_CALL_BROADCAST,
    TSR_CALL_BARRIER,
    TSR_CALL_SPLIT,
    TSR_CALL_SHARED_ALLOC,
} tsr_call_op;

const char *tsr_call_op_name(uint32_t op); /* "?": not one of them */

typedef struct tsr_call {
    tsr_comm *comm;    /* whose records hold it */
    uint64_t sequence; /* of the communicator's calls, from 1 */
    uint64_t history;  /* of the caller's: tsr_comm_set_history */
    tsr_call_op op;
    int root;
    union {
        const tsr_gather *gathers; /* borrowed until the call has run */
        const tsr_reduce *reduces;
        char *buffer;
    };
    size_t tensors;
    size_t count; /* of buffer */
    tsr_dtype dtype;
} tsr_call;

/* One rank's part of a tensor, as it travels. */
void tsr_call_extent(const tsr_call *call, size_t tensor, size_t *out_count,
                     tsr_dtype *out_dtype);

/* What ranks compare before they touch each other's data. */
typedef struct tsr_call_digest {
    uint64_t sequence, tensors, bytes; /* compared, with op */
    uint64_t hash;                     /* compared: counts, dtypes, root */
    uint64_t history;                  /* compared */
    uint32_t op;
    int32_t status; /* of what the rank did before; not compared */
} tsr_call_digest;

/* Of `tensors` of the call's, from `first` on. */
tsr_call_digest tsr_call_digest_make(const tsr_call *call, size_t first,
                                     size_t tensors);
bool tsr_call_digest_equal(const tsr_call_digest *a, const tsr_call_digest *b);
/* "ranks disagree: ..." of rank 0's digest and another one's, into `text`. */
#define TSR_CALL_MISMATCH_BYTES 320
void tsr_call_mismatch(const tsr_call_digest *first, int rank,
                       const tsr_call_digest *other,
                       char text[TSR_CALL_MISMATCH_BYTES]);

#endif
