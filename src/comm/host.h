/* comm/host: the ranks of one host. One algorithm for one rank, for threads and
 * for processes; they differ only in how a block of shared memory is obtained
 * (host_segment.c) and in who notices a death (host_watch.c).
 *
 * Shared, per communicator: a *control block* = tsr_host_control, a *line* a
 * rank, and two staging slots a rank. Everything happens in *rendezvous*:
 *
 *   [tsr_host_open]        publish a descriptor, rendezvous, compare
 *   [tsr_host_rendezvous]  all ranks have arrived; what each wrote before is
 *                          visible to all after
 *
 * Invariants
 *  1. A rank writes only its own line and slots, and rank 0 the offers.
 *  2. Descriptors and places are double-buffered by round, slots by turn. What
 *     was published in one is overwritten two rendezvous later at the earliest,
 *     so everybody has left it: staged collectives need no closing rendezvous.
 *  3. Who reads another rank's own memory (direct) closes with a rendezvous. Of
 *     threads, none returns from a failed call while another still reads: its
 *     memory may be freed then. (Processes have mappings of their own.)
 *  4. The number of rendezvous of a call follows from agreed values only.
 *  5. The group's failure word is set once, by compare-and-swap, after the
 *     reporter has written its report. It never returns to 0.
 *
 *   created --[tsr_call_ring_enqueue]--> issued --[run]--> finished
 *   any --[tsr_host_fail: death, time-out, mismatch, abort]--> failed
 *
 * Memory: 34 KiB and two slots a rank and communicator, reserved for processes,
 * touched on use for threads; segments on top. */
#ifndef TSR_COMM_HOST_H
#define TSR_COMM_HOST_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/backend.h"
#include "comm/bootstrap.h"
#include "comm/call_ring.h"

#define TSR_HOST_RANKS 256   /* a host's most; keeps start-up on the stack */
#define TSR_HOST_PLACES 1024 /* tensors a round; more take more rounds */
#define TSR_HOST_BLOCKS 16   /* threads: splits and segments of one group */
#define TSR_HOST_SEGMENTS TSR_COMM_SHARED_MOST /* a power of two */
/* A staging slot: small enough for two ranks' slots to stay in a shared cache,
 * large enough that a rendezvous is a few percent of its copy. */
#define TSR_HOST_SLOT_BYTES ((size_t)512 << 10)

/* ---- shared memory ---- */

/* What a rank brings to a round. */
typedef struct tsr_host_descriptor {
    tsr_call_digest digest; /* a status comes with the line's text */
    bool direct;    /* this rank's tensors can be read by all where they lie */
    uint32_t offer; /* rank 0: a block is offered (tsr_host_share) */
} tsr_host_descriptor;

/* A tensor that peers read: an address (threads), or segment and offset. */
typedef struct tsr_host_place {
    uint64_t where;
    uint64_t valid; /* elements that exist */
} tsr_host_place;

typedef struct tsr_host_report {
    int32_t status, rank; /* rank: whose fault; -1: nobody's alone */
    char text[TSR_COMM_TEXT];
} tsr_host_report;

/* One rank's part of a control block. */
typedef struct tsr_host_line {
    _Alignas(64) _Atomic uint32_t arrived; /* its latest rendezvous */
    _Atomic uint32_t goodbye;              /* it released the communicator */
    _Atomic uint32_t reading; /* it reads its peers' own memory (direct) */
    /* Recorder: sequence << 8 | op << 1 | running; 0: no call yet. */
    _Atomic uint64_t at;
    _Alignas(64) tsr_host_descriptor descriptors[2];
    char texts[2][TSR_COMM_TEXT];
    tsr_host_report report; /* the group's first communicator's only */
    tsr_host_place places[2][TSR_HOST_PLACES];
} tsr_host_line;

/* Threads: a block of memory offered by rank 0. Freed by the last rank that
 * drops it, or that releases the group. */
typedef struct tsr_host_block {
    void *memory;
    size_t bytes;
    _Atomic uint32_t users;
} tsr_host_block;

typedef struct tsr_host_control {
    _Alignas(64) _Atomic uint32_t arrivals;   /* of the current rendezvous */
    _Alignas(64) _Atomic uint32_t generation; /* the last one complete: futex */
    _Atomic uint32_t sleepers;
    /* Below: used in the group's first communicator only. */
    _Alignas(64) _Atomic uint32_t failed; /* reporter + 1; 0: none */
    _Atomic uint32_t users;               /* threads: ranks not yet gone */
    tsr_host_block blocks[TSR_HOST_BLOCKS];
    tsr_host_line lines[]; /* (world), then slots */
} tsr_host_control;

/* ---- one rank's own ---- */

typedef struct tsr_host_watch {
    pthread_t thread;
    bool running;
    int stop[2];          /* pipe: closing [1] ends the thread */
    struct pollfd *polls; /* (world + 1) */
} tsr_host_watch;

/* A rank's mapping of one tsr_comm_shared_alloc. */
typedef struct tsr_host_segment {
    _Atomic(char *) base; /* NULL: unused */
    _Atomic size_t bytes;
    uint32_t offer; /* for tsr_host_drop */
} tsr_host_segment;

/* One rank's view of the ranks that share memory: shared by a communicator and
 * its splits, owned by the first. */
typedef struct tsr_host_group {
    int rank, world;
    bool one_address_space;
    int64_t timeout_ns, spin_ns;
    double wire_bytes_per_s; /* injected; 0: no limit */
    int64_t wire_latency_ns;
    size_t cache_bytes;     /* of the cache that processors share */
    tsr_host_control *root; /* the first communicator's; mapped */
    size_t control_bytes;
    tsr_host_segment segments[TSR_HOST_SEGMENTS];
    pthread_mutex_t report; /* guards writing this rank's report */
    int *sockets;           /* (world) rank 0: [r]; others: [0]; -1: none */
    tsr_host_watch watch;
} tsr_host_group;

typedef struct tsr_host_comm {
    tsr_comm base;
    tsr_host_group *group; /* owned by the first communicator */
    bool first;
    uint32_t offer; /* a split's block */
    tsr_host_control *control;
    uint32_t ticket;   /* rendezvous joined so far */
    unsigned round;    /* parity for the next descriptor */
    unsigned turn;     /* slot in use */
    bool staging_only; /* tests */
    int64_t opened_ns; /* when all had joined the call that runs; 0: not yet */
    tsr_call_ring ring;
} tsr_host_comm;

/* ---- host_round.c: failure, rendezvous, agreement ---- */

size_t tsr_host_slot_bytes(int world);
size_t tsr_host_control_bytes(int world);
/* Slot in use of rank r. */
char *tsr_host_slot(const tsr_host_comm *comm, int rank);
/* As published in the latest round opened. */
const tsr_host_descriptor *tsr_host_published(const tsr_host_comm *comm,
                                              int rank);
const tsr_host_place *tsr_host_places(const tsr_host_comm *comm, int rank);

/* The group fails (unless it already has); returns its first failure, as this
 * thread's message. Thread-safe. */
tsr_status tsr_host_fail(tsr_host_group *group, tsr_status status, int rank,
                         const char *format, ...) TSR_PRINTF(4, 5);
/* TSR_OK or the group's failure; out_rank may be NULL. Thread-safe. */
tsr_status tsr_host_failure(const tsr_host_group *group, int *out_rank);

/* Sleeps a while on *word, unless it has changed from `seen`; for loops that
 * look again at the failure and at the time. */
void tsr_host_nap(const tsr_host_group *group, _Atomic uint32_t *word,
                  uint32_t seen);

tsr_status tsr_host_rendezvous(tsr_host_comm *comm);
/* Around reads of peers' own memory; the end is a rendezvous. */
tsr_status tsr_host_read_begin(tsr_host_comm *comm);
tsr_status tsr_host_read_end(tsr_host_comm *comm);
/* Fails with FAILED_PRECONDITION on all ranks if they did not bring the same.
 */
tsr_status tsr_host_open(tsr_host_comm *comm, const tsr_host_descriptor *mine);
/* A round whose descriptor carries a status: the lowest failing rank's becomes
 * everybody's (not the group's: nothing sticks). */
tsr_status tsr_host_agree(tsr_host_comm *comm, const tsr_host_descriptor *mine);

/* ---- host_call.c: calls, and the recorder ---- */

tsr_status tsr_host_call_run(const tsr_call *call);
/* A call that runs on the caller's thread, between these two. */
tsr_status tsr_host_call_begin(tsr_host_comm *comm, tsr_call_op op,
                               uint64_t *out_sequence);
void tsr_host_call_end(tsr_host_comm *comm, tsr_call_op op, uint64_t sequence);

/* ---- host_collectives.c ---- */

tsr_status tsr_host_collective_run(const tsr_call *call);

/* ---- host_wire.c ---- */

/* All ranks have joined the call that runs: its bytes set out. Called for each
 * round; the first counts. */
void tsr_host_wire_open(tsr_host_comm *comm);
/* Sleeps until the bytes of the call that has just run are over the injected
 * wire. Errors: the group's failure. */
tsr_status tsr_host_wire_wait(const tsr_call *call);

/* ---- host_segment.c: memory that all ranks map ---- */

/* Blocking, collective: rank 0 makes `bytes`, all map them. All fail alike;
 * `mine` makes all fail. *out_offer is for tsr_host_drop. */
tsr_status tsr_host_share(tsr_host_comm *comm, tsr_call_op op, size_t bytes,
                          tsr_status mine, void **out_memory,
                          uint32_t *out_offer);
void tsr_host_drop(tsr_host_group *group, void *memory, size_t bytes,
                   uint32_t offer); /* takes NULL */

/* ---- host_shared.c: segments ---- */

tsr_status tsr_host_shared_alloc(tsr_host_comm *comm, size_t bytes,
                                 void **out_memory);
void tsr_host_shared_free(tsr_host_group *group, void *memory);
/* A number that this rank does not use. Errors: FAILED_PRECONDITION. */
tsr_status tsr_host_segment_pick(const tsr_host_group *group,
                                 uint32_t *out_index);
/* Where peers find `bytes` at `memory`; false: they cannot. */
bool tsr_host_locate(const tsr_host_comm *comm, const void *memory,
                     size_t bytes, uint64_t *out_where);
/* An address here of what a peer published, `offset` bytes on. */
const char *tsr_host_find(const tsr_host_comm *comm,
                          const tsr_host_place *place, size_t offset);

/* ---- host_segment.c: the first control block ---- */

/* The first communicator's control block and, for processes, the sockets.
 * Collective over the bootstrap, whatever `mine`; all fail alike. */
tsr_status tsr_host_join(tsr_host_group *group, tsr_bootstrap *bootstrap,
                         int timeout_ms, tsr_status mine);
/* Gives up what tsr_host_join gave, segments too. */
void tsr_host_leave(tsr_host_group *group);

/* ---- host_link.c: sockets between processes, in the abstract namespace ----
 */

#define TSR_HOST_NAME 16 /* bytes of an automatic name, with room */

/* Listens under a name that the system picks. */
tsr_status tsr_host_listen(int backlog, char name[TSR_HOST_NAME],
                           uint32_t *out_name_bytes, int *out_fd);
/* `pid`: who must be there. */
tsr_status tsr_host_connect(const char *name, uint32_t name_bytes, int pid,
                            int *out_fd);
/* One waiting connection, from this user; *out_pid says who. */
tsr_status tsr_host_accept(int listener, int *out_pid, int *out_fd);
tsr_status tsr_host_send_fd(int to, int fd);
/* Of a message that has been sent: does not wait. */
tsr_status tsr_host_receive_fd(int from, int *out_fd);

/* ---- host_watch.c: notices dead processes ---- */

tsr_status tsr_host_watch_start(tsr_host_group *group);
void tsr_host_watch_stop(tsr_host_group *group); /* also if never started */

/* ---- host.c ---- */

/* Tests: never read peers' memory directly. Equal on all ranks not required. */
void tsr_host_comm_stage_only(tsr_comm *comm);
/* Tests: results never stay in caches. */
void tsr_host_comm_no_cache(tsr_comm *comm);

#endif
