/* Chunks: how tensors are cut into messages, and the pipeline that moves them.
 */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "comm/mpi_run.h"

/* All parts of one side of a slot: two of them, in and out, lie in a
 * processor's second-level cache for two ranks. */
#define SLOT_BYTES ((size_t)1 << 20)
#define LEAST_PART_BYTES ((size_t)64 << 10)
/* From here on, copying into a part costs more than a message of its own. */
#define DIRECT_BYTES ((size_t)32 << 10)
#define WORD sizeof(uint64_t)

size_t tsr_mpi_part_bytes(int world) {
    size_t bytes = SLOT_BYTES / (size_t)world / 4096 * 4096;
    return bytes > LEAST_PART_BYTES ? bytes : LEAST_PART_BYTES;
}

static void extent(const tsr_mpi_run *run, size_t tensor, size_t *out_count,
                   size_t *out_bytes) {
    if (run->gathers) {
        *out_count = run->gathers[tensor].count;
        *out_bytes = tsr_dtype_bytes(run->gathers[tensor].dtype);
    } else {
        *out_count = run->reduces[tensor].count;
        *out_bytes = tsr_dtype_bytes(run->reduces[tensor].wire_dtype);
    }
}

/* The rest of the next tensor that has one. */
static bool rest_of_tensor(const tsr_mpi_run *run, tsr_mpi_cursor *cursor,
                           tsr_mpi_piece *out_piece) {
    for (; cursor->tensor < run->tensors;
         cursor->tensor++, cursor->element = 0) {
        size_t count, bytes;
        extent(run, cursor->tensor, &count, &bytes);
        if (cursor->element == count)
            continue;
        *out_piece = (tsr_mpi_piece){.tensor = cursor->tensor,
                                     .first = cursor->element,
                                     .count = count - cursor->element,
                                     .bytes = bytes};
        return true;
    }
    return false;
}

static bool is_large(const tsr_mpi_piece *piece) {
    return piece->count >= DIRECT_BYTES / piece->bytes;
}

/* A small rest, if it fits behind `*used` bytes of a part. */
static bool next_packed(const tsr_mpi_run *run, tsr_mpi_cursor *cursor,
                        size_t capacity, size_t *used,
                        tsr_mpi_piece *out_piece) {
    if (!rest_of_tensor(run, cursor, out_piece) || is_large(out_piece))
        return false;
    size_t need =
        WORD + tsr_round_up(out_piece->count * out_piece->bytes, WORD);
    if (*used + need > capacity)
        return false;
    out_piece->offset = *used;
    *used += need;
    cursor->element += out_piece->count;
    return true;
}

bool tsr_mpi_chunk_next(const tsr_mpi_run *run, tsr_mpi_cursor *cursor,
                        size_t capacity, tsr_mpi_chunk *out_chunk) {
    tsr_mpi_piece piece;
    *out_chunk = (tsr_mpi_chunk){.direct = false};
    if (!rest_of_tensor(run, cursor, &piece))
        return false;
    if (is_large(&piece)) {
        size_t most = capacity / piece.bytes / TSR_SUM_BLOCK * TSR_SUM_BLOCK;
        piece.count = piece.count < most ? piece.count : most;
        out_chunk->direct = true;
        out_chunk->piece = piece;
        cursor->element += piece.count;
        return piece.count > 0;
    }
    out_chunk->begin = *cursor;
    while (next_packed(run, cursor, capacity, &out_chunk->used, &piece))
        out_chunk->pieces++;
    return out_chunk->pieces > 0;
}

bool tsr_mpi_chunk_piece(const tsr_mpi_run *run, const tsr_mpi_chunk *chunk,
                         tsr_mpi_cursor *cursor, size_t *used,
                         tsr_mpi_piece *out_piece) {
    return *used < chunk->used &&
           next_packed(run, cursor, chunk->used, used, out_piece);
}

size_t tsr_mpi_existing(const tsr_mpi_piece *piece, size_t count, int slice,
                        size_t end) {
    size_t begin = (size_t)slice * count + piece->first;
    size_t left = end > begin ? end - begin : 0;
    return left < piece->count ? left : piece->count;
}

char *tsr_mpi_at(const void *base, size_t offset) {
    return (char *)((uintptr_t)base + offset);
}

void tsr_mpi_pack(char *part, const tsr_mpi_piece *piece, const void *from,
                  size_t exist) {
    uint64_t word = exist;
    memcpy(part + piece->offset, &word, WORD);
    if (exist > 0)
        memcpy(part + piece->offset + WORD, from, exist * piece->bytes);
}

const char *tsr_mpi_unpack(const char *part, const tsr_mpi_piece *piece,
                           size_t *out_exist) {
    uint64_t word;
    memcpy(&word, part + piece->offset, WORD);
    *out_exist = (size_t)word;
    return word > piece->count ? NULL : part + piece->offset + WORD;
}

/* ---- moving ---- */

void tsr_mpi_exchange_parts(tsr_mpi_run *run, tsr_mpi_slot *slot,
                            const tsr_mpi_chunk *chunk, bool same) {
    tsr_mpi_comm *comm = run->comm;
    int world = comm->base.world, rank = comm->base.rank;
    int tag = comm->tag + TSR_MPI_TAG_CHUNK;
    for (int step = 1; step < world; step++) {
        int from = (rank + world - step) % world;
        tsr_mpi_exchange_add(&slot->exchange, false,
                             slot->in + (size_t)from * slot->stride,
                             chunk->used, from, tag);
    }
    for (int step = 1; step < world; step++) {
        int to = (rank + step) % world;
        tsr_mpi_exchange_add(&slot->exchange, true,
                             slot->out +
                                 (size_t)(same ? rank : to) * slot->stride,
                             chunk->used, to, tag);
    }
}

static tsr_status wait_chunk(tsr_mpi_run *run, tsr_mpi_slot *slot) {
    char doing[96];
    snprintf(doing, sizeof doing, "has sent nothing of %s #%llu",
             tsr_call_op_name((uint32_t)run->call->op),
             (unsigned long long)run->call->sequence);
    return tsr_mpi_exchange_wait(&slot->exchange, run->comm->group,
                                 run->comm->group->timeout_ns, doing);
}

/* What is still under way must not outlive the call. */
static tsr_status stop(tsr_mpi_run *run, tsr_mpi_slot *other,
                       tsr_status status) {
    if (other)
        (void)wait_chunk(run, other);
    return tsr_mpi_failed(run->comm->group)
               ? tsr_mpi_failure(run->comm->group, NULL)
               : status;
}

tsr_status tsr_mpi_pipeline(tsr_mpi_run *run, tsr_mpi_start_chunk start,
                            tsr_mpi_finish_chunk finish) {
    tsr_mpi_comm *comm = run->comm;
    tsr_mpi_cursor cursor = {0};
    tsr_mpi_chunk chunks[2];
    size_t capacity = tsr_mpi_part_bytes(comm->base.world);
    unsigned turn = 0;
    bool more = tsr_mpi_chunk_next(run, &cursor, capacity, &chunks[0]);
    if (more) {
        start(run, &comm->chunks[0], &chunks[0]);
        tsr_mpi_exchange_start(&comm->chunks[0].exchange);
    }
    for (; more; turn ^= 1) {
        tsr_mpi_slot *slot = &comm->chunks[turn], *next = NULL;
        more = tsr_mpi_chunk_next(run, &cursor, capacity, &chunks[turn ^ 1]);
        if (more) {
            next = &comm->chunks[turn ^ 1];
            start(run, next, &chunks[turn ^ 1]);
            tsr_mpi_exchange_start(&next->exchange);
        }
        tsr_status status = wait_chunk(run, slot);
        if (status != TSR_OK)
            return stop(run, next, status);
        run->beside = next ? &next->exchange : NULL;
        finish(run, &slot->exchange, slot->in, slot->stride, &chunks[turn]);
        if (run->damaged >= 0) {
            status = tsr_mpi_fail(comm->group, TSR_INVALID_DATA, run->damaged,
                                  "rank %d sent a message of %s that makes no "
                                  "sense",
                                  run->damaged,
                                  tsr_call_op_name((uint32_t)run->call->op));
            return stop(run, next, status);
        }
    }
    return TSR_OK;
}
