/* Communication between ranks.
 *
 * Every call is a collective: the same calls in the same order on all ranks of
 * the group; one thread at a time per communicator. Calls are enqueued on a
 * stream and return before completion, and what they point to is borrowed until
 * then. A failure sticks to the communicator: every later call returns it, and
 * tsr_comm_poll says which rank caused it. */
#ifndef TESSERA_COMM_H
#define TESSERA_COMM_H

#include "tessera/device.h"
#include "tessera/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- bootstrap: how ranks first find each other ---- */

typedef struct tsr_bootstrap tsr_bootstrap; /* one thread at a time per rank */

TSR_API int tsr_bootstrap_rank(const tsr_bootstrap *bootstrap);
TSR_API int tsr_bootstrap_world(const tsr_bootstrap *bootstrap);

/* all[r * bytes ...] = mine of rank r. Blocking; collective.
 * Errors: UNAVAILABLE (a peer is gone, or silent for timeout_ms). */
TSR_API tsr_status tsr_bootstrap_exchange(tsr_bootstrap *bootstrap,
                                          const void *mine, size_t bytes,
                                          void *all, int timeout_ms);
TSR_API void tsr_bootstrap_release(tsr_bootstrap *bootstrap); /* takes NULL */

/* One rank alone. */
TSR_API tsr_status tsr_bootstrap_create_solo(tsr_bootstrap **out_bootstrap);

/* `world` ranks that are threads of this process: fills bootstraps[0 .. world),
 * each to be used and released by its thread. */
TSR_API tsr_status tsr_bootstrap_create_threads(int world,
                                                tsr_bootstrap **bootstraps);

/* `world` ranks that will be forked from this process. Before forking:
 * tsr_fork_group_create. In child r: tsr_bootstrap_create_forked(group, r),
 * which closes what other ranks own. The parent, once all are forked, and each
 * child release their copy of the group afterwards. */
typedef struct tsr_fork_group tsr_fork_group;
TSR_API tsr_status tsr_fork_group_create(int world, tsr_fork_group **out_group);
TSR_API void tsr_fork_group_release(tsr_fork_group *group); /* takes NULL */
TSR_API tsr_status tsr_bootstrap_create_forked(tsr_fork_group *group, int rank,
                                               tsr_bootstrap **out_bootstrap);

/* Whether an MPI launcher (mpirun, mpiexec, srun) started this process, by what
 * that left in the environment. *out_rank and *out_world (either may be NULL)
 * are -1 where it does not say. */
TSR_API int tsr_mpi_launched(int *out_rank, int *out_world);

/* Ranks that an MPI launcher started, on one host or many. Loads the module for
 * the launcher's MPI and initialises that, or joins what the application has
 * initialised with MPI_THREAD_MULTIPLE; releasing the bootstrap finalizes it,
 * which waits for the other ranks. Once a process: MPI allows no more. Where
 * the library lacks MPI_THREAD_MULTIPLE, or TESSERA_MPI_THREADS is "one", one
 * thread calls MPI for all communicators.
 * Collective over the launcher's ranks. Errors: FAILED_PRECONDITION (no
 * launcher, another MPI's, or a module of another version), NOT_FOUND (the
 * module is not there: says what to install), UNAVAILABLE (MPI's own). */
TSR_API tsr_status tsr_bootstrap_create_mpi(tsr_bootstrap **out_bootstrap);

/* For ranks that nobody watches over (MPI), when one cannot go on: tells all
 * others, whose communicators and exchanges then fail, and returns the cause
 * of what ended the job, with its message: of the failures that ranks conclude
 * with, one that is not a consequence (UNAVAILABLE), else the lowest rank's.
 * Rank 0 returns within 1.5 s, for it to print that and then to end the job;
 * other ranks wait 3.5 s for it to do so. Other kinds of bootstrap: returns
 * `mine` at once. mine: its message is tsr_last_error(); OK is returned. */
TSR_API tsr_status tsr_bootstrap_conclude(tsr_bootstrap *bootstrap,
                                          tsr_status mine);
/* MPI: ends all processes of the job (MPI_Abort), once the launcher has read
 * what this one wrote to stderr (at most 1 s); does not return. Other kinds:
 * does nothing. */
TSR_API void tsr_bootstrap_end_job(tsr_bootstrap *bootstrap, int exit_code);

/* Ranks of separate processes that something else has brought together, a
 * launcher's store say: `exchange` does what tsr_bootstrap_exchange promises,
 * and fails with tsr_fail. `context` is borrowed and outlives the bootstrap. */
typedef tsr_status (*tsr_exchange)(void *context, const void *mine,
                                   size_t bytes, void *all, int timeout_ms);
TSR_API tsr_status tsr_bootstrap_create_callback(int rank, int world,
                                                 tsr_exchange exchange,
                                                 void *context,
                                                 tsr_bootstrap **out_bootstrap);

/* ---- communicator ---- */

typedef struct tsr_comm tsr_comm;

typedef enum tsr_comm_capability {
    TSR_COMM_SHARED_MEMORY =
        1, /* tsr_comm_shared_alloc gives memory that all ranks map */
    TSR_COMM_FUSED_REDUCE = 2, /* reduce_scatter scales, adds and sums squares
                                  without a temporary */
} tsr_comm_capability;

typedef struct tsr_comm_options {
    int timeout_ms; /* a peer silent for so long within a call counts as gone;
                       0: 60,000 */
    /* Of tsr_comm_create_host: an injected wire between the ranks (tests,
     * trying plans of slower links): a collective of more than one rank ends
     * wire_latency_ns, and the time of the bytes that a rank must receive at
     * this rate, after all have joined it at the earliest; until then its
     * stream's worker sleeps. Each communicator has a wire of its own. A rank
     * that sleeps longer than its peers wait counts as gone. */
    double wire_bytes_per_s; /* 0: no limit */
    int64_t wire_latency_ns;
} tsr_comm_options;

/* The ranks of one host: one rank, threads of one process, or processes over
 * shared memory, by the bootstrap's kind. Collective. Peers that die are
 * noticed through a socket kept open; the others' calls return UNAVAILABLE
 * naming it. */
TSR_API tsr_status tsr_comm_create_host(tsr_bootstrap *bootstrap,
                                        const tsr_comm_options *options,
                                        tsr_comm **out_comm);
/* The ranks of a bootstrap from tsr_bootstrap_create_mpi, which outlives the
 * communicator: messages over MPI, sums as `host` makes them, bit for bit. No
 * shared memory. A peer that dies takes the job down (the launcher does that);
 * a silent one is noticed by the time-out. After a failure, MPI may still read
 * or write what a call under way was given, until the process ends.
 * Collective. Errors: INVALID_ARGUMENT (another bootstrap), OUT_OF_MEMORY,
 * UNAVAILABLE; all ranks fail alike. */
TSR_API tsr_status tsr_comm_create_mpi(tsr_bootstrap *bootstrap,
                                       const tsr_comm_options *options,
                                       tsr_comm **out_comm);
/* Takes NULL. Local: does not wait for peers. Streams with calls of this
 * communicator must have been synchronized. */
TSR_API void tsr_comm_release(tsr_comm *comm);

TSR_API int tsr_comm_rank(const tsr_comm *comm);
TSR_API int tsr_comm_world(const tsr_comm *comm);
TSR_API unsigned
tsr_comm_capabilities(const tsr_comm *comm); /* OR of tsr_comm_capability */

/* TSR_OK, or the failure that sticks to the communicator; *out_rank (may be
 * NULL) is then the rank that caused it or -1. */
TSR_API tsr_status tsr_comm_poll(tsr_comm *comm, int *out_rank);

/* Makes the whole group fail with UNAVAILABLE naming this rank: for a rank that
 * cannot go on; also after a call that this rank alone refused
 * (INVALID_ARGUMENT), since its peers wait for it. Thread-safe. */
TSR_API void tsr_comm_abort(tsr_comm *comm, const char *reason);

/* A word that the calls after this one carry (0 before the first) and that the
 * ranks of a call compare, like its counts: a hash of what a caller has done,
 * for one whose calls all look alike, so that what only one rank left out does
 * not mix data of different calls. Not of a split. */
TSR_API void tsr_comm_set_history(tsr_comm *comm, uint64_t hash);

/* A second communicator over the same ranks and the same shared memory, with an
 * order of its own (gather and reduce use one each, so that neither waits
 * behind the other). Collective, blocking. Release it before its parent.
 * Errors: OUT_OF_MEMORY, UNAVAILABLE; all ranks fail alike. */
TSR_API tsr_status tsr_comm_split(tsr_comm *comm, tsr_comm **out_comm);

/* Memory that every rank of the host maps, zeroed and reserved (a later touch
 * cannot fail): the same bytes, at an address of each rank's own. Calls read
 * tensors that lie in it where they lie, instead of staging them. Collective,
 * blocking; bytes equal on all ranks; at most TSR_COMM_SHARED_MOST at a time
 * for a communicator and its splits; freed by tsr_comm_shared_free, or with the
 * communicator.
 * Errors, alike on all ranks: OUT_OF_MEMORY (says how much is available);
 * FAILED_PRECONDITION (one too many); UNSUPPORTED (the backend has none);
 * UNAVAILABLE. */
#define TSR_COMM_SHARED_MOST 8
TSR_API tsr_status tsr_comm_shared_alloc(tsr_comm *comm, size_t bytes,
                                         void **out_memory);
/* Gives it back. Local: calls of this rank that read it must have run; peers
 * have then read it, too. All ranks free it before the same later
 * tsr_comm_shared_alloc. Takes NULL. */
TSR_API void tsr_comm_shared_free(tsr_comm *comm, void *memory);

/* One tensor of a gather:   full[r * count + i] = shard_r[i]
 *
 * shard  (count) read. Where all ranks' shards lie in the shared memory, peers
 *        read them where they lie
 * full   (world * count) written; in place when shard == full + rank * count
 * count  elements, equal on all ranks; 0 is a no-op */
typedef struct tsr_gather {
    const void *shard;
    void *full;
    size_t count;
    tsr_dtype dtype;
} tsr_gather;

/* Gathers `gather_count` tensors in one call. `gathers` is borrowed until the
 * call has run. Done means: all peers have read this rank's shards.
 * Cost: each rank receives (world - 1) * count * dtype bytes a tensor, twice
 * where they must be staged.
 * Errors: INVALID_ARGUMENT (this rank alone: see tsr_comm_abort); on the
 * stream: UNAVAILABLE (a peer is gone or late, named), FAILED_PRECONDITION
 * (ranks made different calls; both named). */
TSR_API tsr_status tsr_comm_gather(tsr_comm *comm, const tsr_gather *gathers,
                                   size_t gather_count, tsr_stream *stream);

/* One tensor of a reduce-scatter, summed in rank order in f32 (i32: in i32):
 *
 *   shard[i] = (accumulate ? shard[i] : 0)
 *            + scale * sum over r of full_r[rank * count + i]
 *
 * full        (world * count) of wire dtype, read
 * shard       (count) of out dtype, written
 * valid       elements of full that exist: full may be shorter than
 *             world * count; those past `valid` count as 0 and are never read.
 *             May differ between ranks
 * square_sum  may be NULL: the sum of squares of the written shard, rounded
 *             from a double that is summed in fixed blocks
 *
 * f32, bf16 and f16 may differ between wire and out; i32 goes with i32 and
 * scale 1 only; u8 is refused. */
typedef struct tsr_reduce {
    const void *full;
    void *shard;
    size_t count;
    size_t valid;
    tsr_dtype wire_dtype;
    tsr_dtype out_dtype;
    float scale;
    int accumulate;
    float *square_sum;
} tsr_reduce;

/* Done means: all peers have read this rank's full tensors, so their bytes may
 * be reused. */
TSR_API tsr_status tsr_comm_reduce_scatter(tsr_comm *comm,
                                           const tsr_reduce *reduces,
                                           size_t reduce_count,
                                           tsr_stream *stream);

/* buffer[i] = sum over ranks in rank order (f32, bf16, f16 summed in f32; i32).
 * In place. Cost: each rank reads every other's buffer once, two blocks and
 * more in parts. Errors (here and below): those of gather. */
TSR_API tsr_status tsr_comm_all_reduce(tsr_comm *comm, void *buffer,
                                       size_t count, tsr_dtype dtype,
                                       tsr_stream *stream);

/* buffer of `root` to all. */
TSR_API tsr_status tsr_comm_broadcast(tsr_comm *comm, void *buffer,
                                      size_t count, tsr_dtype dtype, int root,
                                      tsr_stream *stream);

/* No rank passes before all have arrived. Memory written before it by any rank
 * is visible after it to all. */
TSR_API tsr_status tsr_comm_barrier(tsr_comm *comm, tsr_stream *stream);

#ifdef __cplusplus
}
#endif
#endif
