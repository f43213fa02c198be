/* comm/mpi: ranks that an MPI launcher started, on one host or many.
 *
 * Every rank has one *MPI thread*, which initialises and finalizes MPI and
 * carries *notices* (failures) between ranks. Calls run on their streams'
 * workers; what they exchange is started and tested by them where the MPI
 * library allows many threads, else by the MPI thread for all of them: nothing
 * ever waits inside MPI, so communicators cannot block each other, in whatever
 * order ranks take their calls.
 *
 * A collective is an *opening*, a message a peer that says what is called (and
 * holds the data when that is little), and then *chunks*, two on the way at a
 * time: one is exchanged while the one before is summed.
 *
 * Invariants
 *  1. Messages are told apart by tag: four a communicator, the same on all
 *     ranks. MPI keeps the order of messages of one tag between two ranks, so
 *     the n-th opening received is the peer's n-th call.
 *  2. No chunk is received before every peer's opening has been compared: a
 *     message never meets a receive of another size or call.
 *  3. A transfer that did not end by itself or by being cancelled leaves the
 *     job `stuck`: what it may still touch of ours is never freed, and MPI is
 *     not finalized.
 *  4. A group's failure is set once, under the job's mutex, and stays.
 *
 *   created --[tsr_call_ring_enqueue]--> issued --[run]--> finished
 *   any --[tsr_mpi_fail: time-out, mismatch, abort; a peer's notice]--> failed
 *
 * Memory a communicator: openings of 4 KiB and four staging parts a rank, parts
 * shrinking with the world (tsr_mpi_part_bytes): 16 MiB at most up to 64
 * ranks. */
#ifndef TSR_COMM_MPI_H
#define TSR_COMM_MPI_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/backend.h"
#include "comm/bootstrap.h"
#include "comm/call_ring.h"
#include "comm/mpi_module.h"

/* A whole opening: what Open MPI sends eagerly between processes of one host
 * is 4 KiB with its own header. */
#define TSR_MPI_OPENING_BYTES ((size_t)4032)

/* Tags: those of the job (communicator 0), and of each communicator. */
enum {
    TSR_MPI_TAG_HEAD = 0, /* bootstrap: sizes */
    TSR_MPI_TAG_BODY = 1, /* bootstrap: bytes */
    TSR_MPI_TAG_NOTICE = 2,
    TSR_MPI_TAG_OPENING = 0,
    TSR_MPI_TAG_CHUNK = 1,
    TSR_MPI_TAGS = 4, /* a communicator's */
};

/* ---- notices: what ranks tell each other outside of calls ---- */

typedef enum tsr_mpi_notice_kind {
    TSR_MPI_NOTICE_FAILED, /* a group has failed */
    TSR_MPI_NOTICE_ENDS,   /* a rank ends with a failure */
} tsr_mpi_notice_kind;

typedef struct tsr_mpi_notice {
    int32_t kind, from;
    int32_t group;
    int32_t status, culprit; /* culprit: -1: nobody's fault alone */
    char text[TSR_COMM_TEXT];
} tsr_mpi_notice;

/* One on its way out to all peers; part of its sender. */
typedef struct tsr_mpi_outgoing {
    tsr_mpi_notice notice;
    bool queued; /* until it has been sent */
    struct tsr_mpi_outgoing *next;
} tsr_mpi_outgoing;

/* ---- the job ---- */

struct tsr_mpi_session;

/* Communicators that fail together: one and its splits, or the job itself
 * (id 0), whose failure is every group's. */
typedef struct tsr_mpi_group {
    struct tsr_mpi_session *session;
    int id; /* its first communicator's */
    int64_t timeout_ns;
    _Atomic bool failed; /* set after the three below, which then stay */
    tsr_status status;
    int culprit;
    char text[TSR_COMM_TEXT];
    tsr_mpi_outgoing outgoing;
    struct tsr_mpi_group *next; /* of the job's list */
} tsr_mpi_group;

/* Transfers that are waited for together. */
typedef struct tsr_mpi_exchange {
    struct tsr_mpi_session *session;
    tsr_mpi_batch *batch;
    tsr_mpi_transfer *transfers; /* (capacity) the owner's, but while running */
    int capacity, count;
    _Atomic uint32_t state;          /* tsr_mpi_exchange_state; futex */
    _Atomic int left;                /* transfers under way */
    _Atomic bool cancel;             /* the MPI thread is to cancel it */
    bool cancelled;                  /* it has */
    bool broken;                     /* MPI reported an error */
    char error[TSR_MPI_ERROR_BYTES]; /* when failed */
    struct tsr_mpi_exchange *next;   /* of the MPI thread's list */
} tsr_mpi_exchange;

typedef enum tsr_mpi_exchange_state {
    TSR_MPI_EXCHANGE_ENDED, /* all transfers done or cancelled; or never begun
                             */
    TSR_MPI_EXCHANGE_RUNNING,
    TSR_MPI_EXCHANGE_FAILED,
} tsr_mpi_exchange_state;

/* How ranks that end with a failure explain it (tsr_bootstrap_conclude). */
typedef struct tsr_mpi_farewell {
    tsr_mpi_outgoing outgoing;
    int reported;         /* ranks that told why they end; not this one */
    tsr_mpi_notice cause; /* the best of what they told; kind -1: none */
} tsr_mpi_farewell;

/* What a rank tells all others when a communicator is made. */
typedef struct tsr_mpi_hello {
    int32_t status, id;
    char text[120];
} tsr_mpi_hello;

typedef struct tsr_mpi_session {
    const tsr_mpi_module *module;
    tsr_mpi_job *job; /* the MPI thread's */
    tsr_mpi_start start;
    pthread_t thread;
    tsr_mpi_hello *hellos; /* (world) so that making one cannot fail alone */
    _Atomic bool stuck;    /* invariant 3 */
    _Atomic int next_id;   /* rank 0: of the next communicator */

    pthread_mutex_t mutex; /* guards everything below, and groups' failures */
    pthread_cond_t changed;
    bool ready, stop, abort; /* ready: MPI is initialised, or failed to be */
    int exit_code;           /* of the abort */
    int64_t stop_ns;         /* when it was told to */
    char error[TSR_MPI_ERROR_BYTES];              /* of initialising */
    tsr_mpi_exchange *submitted, **submitted_end; /* one thread: to be run */
    tsr_mpi_outgoing *outbox, **outbox_end;
    tsr_mpi_group *groups;
    tsr_mpi_farewell farewell;
    tsr_mpi_group root; /* id 0 */
} tsr_mpi_session;

/* ---- mpi_load.c: which MPI, and its module ---- */

/* Loads the module for the launcher that started this process.
 * Errors: FAILED_PRECONDITION (no launcher; a module of another version),
 * NOT_FOUND (no module; says what to install). */
tsr_status tsr_mpi_load(const tsr_mpi_module **out_module);

/* ---- mpi_session.c: MPI's life, and its thread ---- */

tsr_status tsr_mpi_session_create(tsr_mpi_session **out_session);
/* Waits for the other ranks to do the same, unless the job has failed. */
void tsr_mpi_session_release(tsr_mpi_session *session); /* takes NULL */
/* Ends all processes of the job. Does not return. */
void tsr_mpi_session_abort(tsr_mpi_session *session, int exit_code);
/* ---- bootstrap_mpi.c ---- */

/* Borrowed; NULL: a bootstrap of another kind. */
tsr_mpi_session *tsr_mpi_bootstrap_session(tsr_bootstrap *bootstrap);

/* ---- mpi_group.c: failures ---- */

void tsr_mpi_group_join(tsr_mpi_session *session, tsr_mpi_group *group, int id,
                        int64_t timeout_ns);
/* Waits for its notice to have left. */
void tsr_mpi_group_leave(tsr_mpi_group *group);
/* The group fails (unless it already has), and its peers are told; returns its
 * first failure, as this thread's message. Thread-safe. */
tsr_status tsr_mpi_fail(tsr_mpi_group *group, tsr_status status, int culprit,
                        const char *format, ...) TSR_PRINTF(4, 5);
/* TSR_OK or the group's failure, or the job's; out_culprit may be NULL.
 * Thread-safe. */
tsr_status tsr_mpi_failure(tsr_mpi_group *group, int *out_culprit);
bool tsr_mpi_failed(const tsr_mpi_group *group);
/* On the MPI thread: a peer's notice. */
void tsr_mpi_notice_take(tsr_mpi_session *session, tsr_mpi_notice *notice);
/* tsr_bootstrap_conclude */
tsr_status tsr_mpi_conclude(tsr_mpi_session *session, tsr_status mine);

/* ---- mpi_exchange.c ---- */

tsr_status tsr_mpi_exchange_create(tsr_mpi_session *session, int capacity,
                                   tsr_mpi_exchange *out_exchange);
void tsr_mpi_exchange_release(tsr_mpi_exchange *exchange); /* ended or stuck */
void tsr_mpi_exchange_add(tsr_mpi_exchange *exchange, bool send,
                          const void *memory, size_t bytes, int peer, int tag);
/* Starts what has been added since the latest one ended. */
void tsr_mpi_exchange_start(tsr_mpi_exchange *exchange);
/* Between pieces of other work: lets transfers go on. */
void tsr_mpi_exchange_nudge(tsr_mpi_exchange *exchange);
/* On a thread that may call MPI: starts it; how it stands; and tells that to
 * who waits, who may then use it anew. */
void tsr_mpi_exchange_begin_here(tsr_mpi_exchange *exchange);
tsr_mpi_exchange_state tsr_mpi_exchange_test_here(tsr_mpi_exchange *exchange);
void tsr_mpi_exchange_set(tsr_mpi_exchange *exchange,
                          tsr_mpi_exchange_state state);
/* Until it has ended. Returns OK; the group's failure; or fails the group:
 * nothing has moved for its time-out, or MPI reports an error. Then nothing of
 * it is under way any more, or the job is stuck.
 * doing: for the message: "has not joined gather #3" */
tsr_status tsr_mpi_exchange_wait(tsr_mpi_exchange *exchange,
                                 tsr_mpi_group *group, int64_t timeout_ns,
                                 const char *doing);
/* A loop that looks again and again: spins, then sleeps.
 * waited_ns: since it last saw something happen. */
void tsr_mpi_pause(int64_t waited_ns);

/* ---- a communicator ---- */

/* What an opening says. */
typedef struct tsr_mpi_header {
    tsr_call_digest digest; /* a status has its text behind the header */
    int32_t id;             /* rank 0: a split's */
    uint32_t unused;
} tsr_mpi_header;

#define TSR_MPI_INLINE_BYTES (TSR_MPI_OPENING_BYTES - sizeof(tsr_mpi_header))

/* One of the two chunks under way. */
typedef struct tsr_mpi_slot {
    tsr_mpi_exchange exchange;
    char *in, *out; /* (world, stride) one part a rank */
    size_t stride;
} tsr_mpi_slot;

typedef struct tsr_mpi_comm {
    tsr_comm base;
    tsr_mpi_session *session; /* outlives */
    tsr_mpi_group *group;     /* owned by the first communicator */
    bool first;
    int tag;       /* of its first */
    char *staging; /* all slots' parts */
    tsr_mpi_slot opening, chunks[2];
    size_t *carried; /* (world) bytes that go with each peer's opening */
    tsr_call_ring ring;
} tsr_mpi_comm;

/* ---- mpi_opening.c ---- */

/* Room in the opening to `peer` for data that travels with it, and what came
 * with a peer's. */
char *tsr_mpi_opening_out(tsr_mpi_comm *comm, int peer);
const char *tsr_mpi_opening_in(const tsr_mpi_comm *comm, int peer,
                               size_t *out_bytes);
/* A peer's header, as compared last. */
tsr_mpi_header tsr_mpi_opening_header(const tsr_mpi_comm *comm, int peer);
/* Sends `mine` with the `carried` bytes behind it to each peer, then none are
 * carried any more, and compares what comes. Fails the group with
 * FAILED_PRECONDITION if ranks did not bring the same. */
tsr_status tsr_mpi_open(tsr_mpi_comm *comm, const tsr_mpi_header *mine);
/* The same with a status each, whose text travels with it: the lowest failing
 * rank's becomes everybody's (not the group's: nothing sticks). */
tsr_status tsr_mpi_agree(tsr_mpi_comm *comm, tsr_mpi_header *mine,
                         tsr_status status);

/* ---- mpi_collectives.c ---- */

tsr_status tsr_mpi_collective_run(const tsr_call *call);

#endif
