/* Communicators: checks of arguments, then the backend. */
#include "tessera/comm.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"
#include "comm/backend.h"

static bool aligned(const void *memory, tsr_dtype dtype) {
    return (uintptr_t)memory % tsr_dtype_bytes(dtype) == 0;
}

/* `count` elements, `times` over, fit in memory. */
static bool fits(size_t count, int times, tsr_dtype dtype) {
    return count <=
           (size_t)PTRDIFF_MAX / (size_t)times / tsr_dtype_bytes(dtype);
}

static tsr_status check_dtype(const char *what, tsr_dtype dtype) {
    if (tsr_dtype_bytes(dtype) == 0)
        return tsr_error(TSR_INVALID_ARGUMENT, "%s: unknown dtype %d", what,
                         (int)dtype);
    return TSR_OK;
}

static tsr_status enqueue(tsr_comm *comm, tsr_call call, tsr_stream *stream) {
    call.history = comm->history;
    return comm->vtable->enqueue(comm, &call, stream);
}

static tsr_status check_call(tsr_comm *comm, const tsr_stream *stream) {
    if (!comm || !stream)
        return tsr_error(TSR_INVALID_ARGUMENT, "a collective without %s",
                         comm ? "stream" : "communicator");
    return comm->vtable->poll(comm, NULL);
}

void tsr_comm_release(tsr_comm *comm) {
    if (comm)
        comm->vtable->release(comm);
}

int tsr_comm_rank(const tsr_comm *comm) { return comm->rank; }
int tsr_comm_world(const tsr_comm *comm) { return comm->world; }
unsigned tsr_comm_capabilities(const tsr_comm *comm) {
    return comm->capabilities;
}

void tsr_comm_set_history(tsr_comm *comm, uint64_t hash) {
    comm->history = hash;
}

tsr_status tsr_comm_poll(tsr_comm *comm, int *out_rank) {
    if (out_rank)
        *out_rank = -1;
    return comm->vtable->poll(comm, out_rank);
}

void tsr_comm_abort(tsr_comm *comm, const char *reason) {
    char text[TSR_COMM_TEXT];
    if (!comm)
        return;
    snprintf(text, sizeof text, "rank %d gave up: %s", comm->rank,
             reason ? reason : "no reason given");
    (void)comm->vtable->fail(comm, TSR_UNAVAILABLE, text);
}

tsr_status tsr_comm_split(tsr_comm *comm, tsr_comm **out_comm) {
    *out_comm = NULL;
    TSR_TRY(comm->vtable->poll(comm, NULL));
    return comm->vtable->split(comm, out_comm);
}

tsr_status tsr_comm_shared_alloc(tsr_comm *comm, size_t bytes,
                                 void **out_memory) {
    *out_memory = NULL;
    if (!comm->vtable->shared_alloc)
        return tsr_error(TSR_UNSUPPORTED,
                         "this communicator's ranks share no memory");
    TSR_TRY(comm->vtable->poll(comm, NULL));
    return comm->vtable->shared_alloc(comm, bytes, out_memory);
}

void tsr_comm_shared_free(tsr_comm *comm, void *memory) {
    if (memory)
        comm->vtable->shared_free(comm, memory);
}

static tsr_status check_gather(const tsr_comm *comm, const tsr_gather *gather) {
    TSR_TRY(check_dtype("gather", gather->dtype));
    if (gather->count == 0)
        return TSR_OK;
    if (!fits(gather->count, comm->world, gather->dtype))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "gather: %zu elements a rank are too many",
                         gather->count);
    if (!gather->shard || !gather->full)
        return tsr_error(TSR_INVALID_ARGUMENT, "gather: %s is NULL",
                         gather->shard ? "full" : "shard");
    if (!aligned(gather->shard, gather->dtype) ||
        !aligned(gather->full, gather->dtype))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "gather: an address is not aligned to %s",
                         tsr_dtype_name(gather->dtype));
    return TSR_OK;
}

tsr_status tsr_comm_gather(tsr_comm *comm, const tsr_gather *gathers,
                           size_t gather_count, tsr_stream *stream) {
    TSR_TRY(check_call(comm, stream));
    if (gather_count > 0 && !gathers)
        return tsr_error(TSR_INVALID_ARGUMENT, "gather of NULL");
    for (size_t i = 0; i < gather_count; i++) {
        tsr_status status = check_gather(comm, &gathers[i]);
        if (status != TSR_OK)
            return tsr_error_at(status, "tensor %zu", i);
    }
    return enqueue(comm,
                   (tsr_call){.op = TSR_CALL_GATHER,
                              .gathers = gathers,
                              .tensors = gather_count},
                   stream);
}

static tsr_status check_reduce_dtypes(const tsr_reduce *reduce) {
    TSR_TRY(check_dtype("reduce_scatter", reduce->wire_dtype));
    TSR_TRY(check_dtype("reduce_scatter", reduce->out_dtype));
    if (reduce->wire_dtype == TSR_U8 || reduce->out_dtype == TSR_U8)
        return tsr_error(TSR_INVALID_ARGUMENT, "reduce_scatter: u8 has no sum");
    bool wire = reduce->wire_dtype == TSR_I32,
         out = reduce->out_dtype == TSR_I32;
    if (wire != out)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "reduce_scatter: %s does not become %s",
                         tsr_dtype_name(reduce->wire_dtype),
                         tsr_dtype_name(reduce->out_dtype));
    if (wire && !(reduce->scale >= 1.0f && reduce->scale <= 1.0f))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "reduce_scatter: i32 with scale %g instead of 1",
                         (double)reduce->scale);
    return TSR_OK;
}

static tsr_status check_reduce(const tsr_comm *comm, const tsr_reduce *reduce) {
    TSR_TRY(check_reduce_dtypes(reduce));
    if (!fits(reduce->count, comm->world, TSR_F32))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "reduce_scatter: %zu elements a rank are too many",
                         reduce->count);
    if (reduce->valid > reduce->count * (size_t)comm->world)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "reduce_scatter: %zu valid elements of %d x %zu",
                         reduce->valid, comm->world, reduce->count);
    if ((reduce->valid > 0 && !reduce->full) ||
        (reduce->count > 0 && !reduce->shard))
        return tsr_error(TSR_INVALID_ARGUMENT, "reduce_scatter: %s is NULL",
                         reduce->full ? "shard" : "full");
    if (!aligned(reduce->full, reduce->wire_dtype) ||
        !aligned(reduce->shard, reduce->out_dtype))
        return tsr_error(
            TSR_INVALID_ARGUMENT,
            "reduce_scatter: an address is not aligned to its dtype");
    return TSR_OK;
}

tsr_status tsr_comm_reduce_scatter(tsr_comm *comm, const tsr_reduce *reduces,
                                   size_t reduce_count, tsr_stream *stream) {
    TSR_TRY(check_call(comm, stream));
    if (reduce_count > 0 && !reduces)
        return tsr_error(TSR_INVALID_ARGUMENT, "reduce_scatter of NULL");
    for (size_t i = 0; i < reduce_count; i++) {
        tsr_status status = check_reduce(comm, &reduces[i]);
        if (status != TSR_OK)
            return tsr_error_at(status, "tensor %zu", i);
    }
    return enqueue(comm,
                   (tsr_call){.op = TSR_CALL_REDUCE_SCATTER,
                              .reduces = reduces,
                              .tensors = reduce_count},
                   stream);
}

static tsr_status check_buffer(const char *what, const void *buffer,
                               size_t count, tsr_dtype dtype) {
    TSR_TRY(check_dtype(what, dtype));
    if (!fits(count, 1, dtype) || (count > 0 && !buffer) ||
        !aligned(buffer, dtype))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%s: %zu elements of %s: too many, NULL or not "
                         "aligned",
                         what, count, tsr_dtype_name(dtype));
    return TSR_OK;
}

tsr_status tsr_comm_all_reduce(tsr_comm *comm, void *buffer, size_t count,
                               tsr_dtype dtype, tsr_stream *stream) {
    TSR_TRY(check_call(comm, stream));
    TSR_TRY(check_buffer("all_reduce", buffer, count, dtype));
    if (dtype == TSR_U8)
        return tsr_error(TSR_INVALID_ARGUMENT, "all_reduce: u8 has no sum");
    return enqueue(comm,
                   (tsr_call){.op = TSR_CALL_ALL_REDUCE,
                              .buffer = buffer,
                              .tensors = 1,
                              .count = count,
                              .dtype = dtype},
                   stream);
}

tsr_status tsr_comm_broadcast(tsr_comm *comm, void *buffer, size_t count,
                              tsr_dtype dtype, int root, tsr_stream *stream) {
    TSR_TRY(check_call(comm, stream));
    TSR_TRY(check_buffer("broadcast", buffer, count, dtype));
    if (root < 0 || root >= comm->world)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "broadcast from rank %d of a world of %d", root,
                         comm->world);
    return enqueue(comm,
                   (tsr_call){.op = TSR_CALL_BROADCAST,
                              .root = root,
                              .buffer = buffer,
                              .tensors = 1,
                              .count = count,
                              .dtype = dtype},
                   stream);
}

tsr_status tsr_comm_barrier(tsr_comm *comm, tsr_stream *stream) {
    TSR_TRY(check_call(comm, stream));
    return enqueue(comm, (tsr_call){.op = TSR_CALL_BARRIER}, stream);
}
