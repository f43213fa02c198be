#include "comm/call.h"

#include <stdio.h>
#include <string.h>

const char *tsr_call_op_name(uint32_t op) {
    static const char *const names[] = {
        [TSR_CALL_GATHER] = "gather",
        [TSR_CALL_REDUCE_SCATTER] = "reduce_scatter",
        [TSR_CALL_ALL_REDUCE] = "all_reduce",
        [TSR_CALL_BROADCAST] = "broadcast",
        [TSR_CALL_BARRIER] = "barrier",
        [TSR_CALL_SPLIT] = "split",
        [TSR_CALL_SHARED_ALLOC] = "shared_alloc",
    };
    return op < sizeof names / sizeof *names ? names[op] : "?";
}

void tsr_call_extent(const tsr_call *call, size_t tensor, size_t *out_count,
                     tsr_dtype *out_dtype) {
    if (call->op == TSR_CALL_GATHER) {
        *out_count = call->gathers[tensor].count;
        *out_dtype = call->gathers[tensor].dtype;
    } else if (call->op == TSR_CALL_REDUCE_SCATTER) {
        *out_count = call->reduces[tensor].count;
        *out_dtype = call->reduces[tensor].wire_dtype;
    } else {
        *out_count = call->count;
        *out_dtype = call->dtype;
    }
}

static uint64_t mix(uint64_t hash, uint64_t word) {
    return (hash ^ word) * 0x100000001b3u; /* FNV-1a, a word at a time */
}

tsr_call_digest tsr_call_digest_make(const tsr_call *call, size_t first,
                                     size_t tensors) {
    tsr_call_digest digest = {
        .sequence = call->sequence,
        .tensors = call->tensors,
        .hash = mix(0xcbf29ce484222325u, (uint64_t)call->root),
        .history = call->history,
        .op = (uint32_t)call->op};
    for (size_t i = 0; i < tensors; i++) {
        size_t count;
        tsr_dtype dtype;
        tsr_call_extent(call, first + i, &count, &dtype);
        digest.bytes += count * tsr_dtype_bytes(dtype);
        digest.hash = mix(mix(digest.hash, count), (uint64_t)dtype);
    }
    return digest;
}

bool tsr_call_digest_equal(const tsr_call_digest *a, const tsr_call_digest *b) {
    return a->op == b->op && a->sequence == b->sequence &&
           a->tensors == b->tensors && a->bytes == b->bytes &&
           a->hash == b->hash && a->history == b->history;
}

static void describe(const tsr_call_digest *digest, char *text, size_t bytes) {
    snprintf(text, bytes, "%s #%llu (tensors %llu, bytes %llu)",
             tsr_call_op_name(digest->op), (unsigned long long)digest->sequence,
             (unsigned long long)digest->tensors,
             (unsigned long long)digest->bytes);
}

void tsr_call_mismatch(const tsr_call_digest *first, int rank,
                       const tsr_call_digest *other,
                       char text[TSR_CALL_MISMATCH_BYTES]) {
    char mine[128], theirs[128];
    const char *more = "";
    describe(first, mine, sizeof mine);
    describe(other, theirs, sizeof theirs);
    if (strcmp(mine, theirs) == 0)
        more = first->hash != other->hash
                   ? ", with other counts, dtypes or root"
                   : ", after other calls of its program";
    snprintf(text, TSR_CALL_MISMATCH_BYTES,
             "ranks disagree: rank 0 calls %.100s, rank %d calls %.100s%s",
             mine, rank, theirs, more);
}
