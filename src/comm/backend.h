/* What a communicator's backend implements. comm.c checks arguments and that
 * the group has not failed, then calls the backend's row; a backend is a file
 * (or host_*.c) with one table and one tsr_comm_create_... */
#ifndef TSR_COMM_BACKEND_H
#define TSR_COMM_BACKEND_H

#include "tessera/comm.h"

typedef struct tsr_comm_vtable {
    void (*release)(tsr_comm *comm);
    tsr_status (*poll)(tsr_comm *comm, int *out_rank);
    void (*abort)(tsr_comm *comm, const char *reason);
    tsr_status (*split)(tsr_comm *comm, tsr_comm **out_comm);
    /* NULL: no shared memory, UNSUPPORTED */
    tsr_status (*shared_alloc)(tsr_comm *comm, size_t bytes, void **out_memory);
    void (*shared_free)(tsr_comm *comm, void *memory); /* not NULL */
    tsr_status (*gather)(tsr_comm *comm, const tsr_gather *gathers,
                         size_t count, tsr_stream *stream);
    tsr_status (*reduce_scatter)(tsr_comm *comm, const tsr_reduce *reduces,
                                 size_t count, tsr_stream *stream);
    tsr_status (*all_reduce)(tsr_comm *comm, void *buffer, size_t count,
                             tsr_dtype dtype, tsr_stream *stream);
    tsr_status (*broadcast)(tsr_comm *comm, void *buffer, size_t count,
                            tsr_dtype dtype, int root, tsr_stream *stream);
    tsr_status (*barrier)(tsr_comm *comm, tsr_stream *stream);
} tsr_comm_vtable;

/* Every backend's communicator begins with this. */
struct tsr_comm {
    const tsr_comm_vtable *vtable;
    int rank, world;
    unsigned capabilities;
};

/* Silence that counts as death, where the caller gave 0 (comm.h). */
#define TSR_COMM_TIMEOUT_MS 60000

#endif
