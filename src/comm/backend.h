/* What a communicator's backend implements. comm.c checks arguments and that
 * the group has not failed, then calls the backend's row; a backend is a file
 * (or host_*.c) with one table and one tsr_comm_create_... */
#ifndef TSR_COMM_BACKEND_H
#define TSR_COMM_BACKEND_H

#include "comm/call.h"

typedef struct tsr_comm_vtable {
    void (*release)(tsr_comm *comm);
    tsr_status (*poll)(tsr_comm *comm, int *out_rank);
    /* This rank fails the group, unless that already has; returns its first
     * failure, as this thread's message. Thread-safe. */
    tsr_status (*fail)(tsr_comm *comm, tsr_status status, const char *message);
    tsr_status (*split)(tsr_comm *comm, tsr_comm **out_comm);
    /* NULL: no shared memory, UNSUPPORTED */
    tsr_status (*shared_alloc)(tsr_comm *comm, size_t bytes, void **out_memory);
    void (*shared_free)(tsr_comm *comm, void *memory); /* not NULL */
    /* Copies `call`, whose arguments have been checked. */
    tsr_status (*enqueue)(tsr_comm *comm, const tsr_call *call,
                          tsr_stream *stream);
} tsr_comm_vtable;

/* Every backend's communicator begins with this. */
struct tsr_comm {
    const tsr_comm_vtable *vtable;
    int rank, world;
    unsigned capabilities;
    uint64_t history; /* tsr_comm_set_history */
};

/* Silence that counts as death, where the caller gave 0 (comm.h). */
#define TSR_COMM_TIMEOUT_MS 60000

#define TSR_COMM_TEXT 480 /* bytes of a failure's message */

#endif
