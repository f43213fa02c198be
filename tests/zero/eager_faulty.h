/* A communicator that hands every call on to another one, but for the n-th of
 * its rank: that fails. */
#ifndef TSR_TESTS_ZERO_EAGER_FAULTY_H
#define TSR_TESTS_ZERO_EAGER_FAULTY_H

#include "comm/backend.h"
#include "zero/eager_rank.h"

typedef enum faulty_kind {
    FAULTY_CALL,   /* refused at once, on this rank alone */
    FAULTY_STREAM, /* fails when the stream comes to it, and takes the group
                      down, as a backend does */
} faulty_kind;

/* Of one rank, shared by its communicators. */
typedef struct faulty_plan {
    faulty_kind kind;
    int n; /* that call fails, counted from 1; 0: none */
    int calls;
} faulty_plan;

typedef struct faulty_comm {
    tsr_comm base;
    tsr_comm *inner; /* owned */
    faulty_plan *plan;
} faulty_comm;

#define FAULTY_TEXT "the test cuts the wire"

static inline tsr_status faulty_cut(void *context) {
    tsr_comm_abort(((faulty_comm *)context)->inner, FAULTY_TEXT);
    return tsr_fail(TSR_IO, FAULTY_TEXT);
}

/* The inner communicator; NULL: this call fails with *out_status. */
static inline tsr_comm *faulty_next(tsr_comm *comm, tsr_stream *stream,
                                    tsr_status *out_status) {
    faulty_comm *self = (faulty_comm *)comm;
    if (++self->plan->calls != self->plan->n)
        return self->inner;
    *out_status = !stream ? faulty_cut(self)
                  : self->plan->kind == FAULTY_CALL
                      ? tsr_fail(TSR_IO, FAULTY_TEXT)
                      : tsr_stream_enqueue(stream, faulty_cut, self);
    return NULL;
}

#define FAULTY_PASS(stream, call)                                              \
    tsr_status status = TSR_OK;                                                \
    tsr_comm *inner = faulty_next(comm, stream, &status);                      \
    return inner ? (call) : status

static inline tsr_status faulty_enqueue(tsr_comm *comm, const tsr_call *call,
                                        tsr_stream *stream) {
    FAULTY_PASS(stream, inner->vtable->enqueue(inner, call, stream));
}
/* Blocking, and all ranks fail alike. */
static inline tsr_status faulty_shared_alloc(tsr_comm *comm, size_t bytes,
                                             void **out_memory) {
    FAULTY_PASS(NULL, tsr_comm_shared_alloc(inner, bytes, out_memory));
}
static inline void faulty_shared_free(tsr_comm *comm, void *memory) {
    tsr_comm_shared_free(((faulty_comm *)comm)->inner, memory);
}
static inline tsr_status faulty_poll(tsr_comm *comm, int *out_rank) {
    return tsr_comm_poll(((faulty_comm *)comm)->inner, out_rank);
}
static inline tsr_status faulty_fail(tsr_comm *comm, tsr_status status,
                                     const char *message) {
    tsr_comm *inner = ((faulty_comm *)comm)->inner;
    return inner->vtable->fail(inner, status, message);
}
static inline void faulty_release(tsr_comm *comm) {
    tsr_comm_release(((faulty_comm *)comm)->inner);
    free(comm);
}

static inline tsr_comm *faulty_wrap(tsr_comm *inner, void *plan) {
    static const tsr_comm_vtable vtable = {
        .release = faulty_release,
        .poll = faulty_poll,
        .fail = faulty_fail, /* no split: nobody asks */
        .shared_alloc = faulty_shared_alloc,
        .shared_free = faulty_shared_free,
        .enqueue = faulty_enqueue,
    };
    faulty_comm *self = calloc(1, sizeof *self);
    CHECK(self);
    *self = (faulty_comm){.base = *inner, .inner = inner, .plan = plan};
    self->base.vtable = &vtable;
    return &self->base;
}

#endif
