/* What comm/mpi needs of an MPI library: a table that a module hands out.
 *
 * MPI libraries agree on function names, not on types, so one program cannot
 * call either of two. mpi/module.c is compiled once for each into a module of
 * its own; libtessera links no MPI and loads the right one at run time. Only
 * point-to-point calls that never wait pass this table: order, sums, time-outs
 * and messages are the library's. */
#ifndef TSR_COMM_MPI_MODULE_H
#define TSR_COMM_MPI_MODULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Raised with every change of this file. */
#define TSR_MPI_MODULE_ABI 1
#define TSR_MPI_MODULE_SYMBOL "tsr_mpi_module_get"
#define TSR_MPI_ERROR_BYTES 256 /* of an error's text, with its terminator */
/* Of one transfer: MPI counts with int. */
#define TSR_MPI_MOST_BYTES ((size_t)1 << 30)
#define TSR_MPI_ANY_RANK (-1)

typedef struct tsr_mpi_job tsr_mpi_job;     /* MPI, from begin to end */
typedef struct tsr_mpi_batch tsr_mpi_batch; /* transfers under way */

typedef struct tsr_mpi_start {
    int rank, world;
    int most_tag;
    bool multiple;    /* any thread may call; else only the one that called
                         `begin` */
    char library[64]; /* name and version */
} tsr_mpi_start;

typedef struct tsr_mpi_transfer {
    void *memory; /* (bytes) of sends only read */
    size_t bytes; /* receives: room */
    int peer;     /* receives: may be TSR_MPI_ANY_RANK */
    int tag;
    bool send;
    bool done;    /* out */
    size_t moved; /* out: bytes that came */
} tsr_mpi_transfer;

/* Functions that return bool: false is failure, with `error` filled
 * (TSR_MPI_ERROR_BYTES). */
typedef struct tsr_mpi_module {
    uint32_t abi; /* first, in every version */
    /* Initialises MPI for calls from many threads (`one_thread`: from this one
     * only), or joins what the application initialised. */
    bool (*begin)(bool one_thread, tsr_mpi_job **out_job,
                  tsr_mpi_start *out_start, char *error);
    /* `finalize`: waits for the other ranks to do the same, where `begin`
     * initialised. */
    void (*end)(tsr_mpi_job *job, bool finalize);
    /* Ends all processes of the job. Does not return. */
    void (*abort)(tsr_mpi_job *job, int exit_code);

    /* Room for `capacity` transfers. */
    bool (*batch_create)(tsr_mpi_job *job, int capacity,
                         tsr_mpi_batch **out_batch, char *error);
    void (*batch_release)(tsr_mpi_batch *batch); /* takes NULL; not under way */
    /* Starts them all; `transfers` is borrowed until all are done. */
    bool (*batch_start)(tsr_mpi_batch *batch, tsr_mpi_transfer *transfers,
                        int count, char *error);
    /* *out_left: transfers not yet done. */
    bool (*batch_test)(tsr_mpi_batch *batch, int *out_left, char *error);
    /* Gives up receives that nothing has come for: tests then find them ended,
     * but not done. Sends go on. */
    void (*batch_cancel)(tsr_mpi_batch *batch);
} tsr_mpi_module;

typedef const tsr_mpi_module *(*tsr_mpi_module_get_function)(void);

#endif
