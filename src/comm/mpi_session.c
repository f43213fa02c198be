/* MPI's life in this process, and the thread that lives it.
 *
 *   started --[begin]--> ready --[stop, nothing failed]--> finalized
 *                        ready --[stop, job failed or stuck]--> left as it is:
 *                                 the launcher ends the job
 *
 * The MPI thread is the one that initialised, which MPI calls the main thread:
 * below MPI_THREAD_MULTIPLE it alone may call, and runs the exchanges of all.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/os.h"
#include "comm/mpi.h"

/* TESSERA_MPI_THREADS=one: where a library's MPI_THREAD_MULTIPLE is slow or
 * broken. */
#define THREADS_VARIABLE "TESSERA_MPI_THREADS"
/* How often peers' notices are looked for while there is nothing else to do. */
#define NOTICES_NS ((int64_t)10 * 1000 * 1000)
/* What has not left so long after the stop never will. */
#define LEAVE_NS ((int64_t)1000 * 1000 * 1000)

typedef struct mpi_server {
    tsr_mpi_session *session;
    tsr_mpi_exchange *running; /* submitted ones, in their order */
    tsr_mpi_exchange receive, send;
    tsr_mpi_notice incoming;
    tsr_mpi_outgoing *sending;
    int64_t moved_at;
} mpi_server;

/* ---- notices, on the MPI thread ---- */

static void listen_for_notice(mpi_server *self) {
    self->receive.count = 0;
    tsr_mpi_exchange_add(&self->receive, false, &self->incoming,
                         sizeof self->incoming, TSR_MPI_ANY_RANK,
                         TSR_MPI_TAG_NOTICE);
    tsr_mpi_exchange_begin_here(&self->receive);
}

static void receive_notices(mpi_server *self) {
    while (tsr_mpi_exchange_test_here(&self->receive) ==
           TSR_MPI_EXCHANGE_ENDED) {
        if (self->receive.transfers[0].moved == sizeof self->incoming)
            tsr_mpi_notice_take(self->session, &self->incoming);
        listen_for_notice(self);
    }
}

static void next_notice(mpi_server *self) {
    tsr_mpi_session *session = self->session;
    pthread_mutex_lock(&session->mutex);
    if (self->sending)
        self->sending->queued = false;
    self->sending = session->outbox;
    if (self->sending && !(session->outbox = self->sending->next))
        session->outbox_end = &session->outbox;
    pthread_cond_broadcast(&session->changed);
    pthread_mutex_unlock(&session->mutex);
}

/* One at a time, to all peers. */
static void send_notices(mpi_server *self) {
    int world = self->session->start.world, rank = self->session->start.rank;
    if (self->sending &&
        tsr_mpi_exchange_test_here(&self->send) == TSR_MPI_EXCHANGE_RUNNING)
        return;
    next_notice(self);
    if (!self->sending)
        return;
    self->send.count = 0;
    for (int step = 1; step < world; step++)
        tsr_mpi_exchange_add(&self->send, true, &self->sending->notice,
                             sizeof self->sending->notice,
                             (rank + step) % world, TSR_MPI_TAG_NOTICE);
    tsr_mpi_exchange_begin_here(&self->send);
}

/* ---- exchanges, on the MPI thread ---- */

static void take_submitted(mpi_server *self) {
    tsr_mpi_session *session = self->session;
    tsr_mpi_exchange **end = &self->running, *taken;
    while (*end)
        end = &(*end)->next;
    pthread_mutex_lock(&session->mutex);
    taken = *end = session->submitted;
    session->submitted = NULL;
    session->submitted_end = &session->submitted;
    pthread_mutex_unlock(&session->mutex);
    if (taken)
        self->moved_at = tsr_os_now_ns();
    for (; taken; taken = taken->next)
        tsr_mpi_exchange_begin_here(taken);
}

static void run_exchanges(mpi_server *self) {
    for (tsr_mpi_exchange **at = &self->running; *at;) {
        tsr_mpi_exchange *exchange = *at;
        int left = atomic_load(&exchange->left);
        tsr_mpi_exchange_state state = tsr_mpi_exchange_test_here(exchange);
        if (atomic_load(&exchange->left) != left)
            self->moved_at = tsr_os_now_ns();
        if (state == TSR_MPI_EXCHANGE_RUNNING) {
            at = &exchange->next;
            continue;
        }
        *at = exchange->next; /* first: from then on it is its owner's */
        tsr_mpi_exchange_set(exchange, state);
    }
}

/* ---- the loop ---- */

/* Returns whether to go on: after the stop, until notices have left. */
static bool rest(mpi_server *self) {
    tsr_mpi_session *session = self->session;
    if (self->running)
        tsr_mpi_pause(tsr_os_now_ns() - self->moved_at);
    pthread_mutex_lock(&session->mutex);
    bool notices = self->sending || session->outbox;
    if (!self->running && !notices && !session->submitted && !session->stop &&
        !session->abort) {
        int64_t until = tsr_os_now_ns() + NOTICES_NS;
        struct timespec at = {.tv_sec = until / 1000000000,
                              .tv_nsec = until % 1000000000};
        pthread_cond_timedwait(&session->changed, &session->mutex, &at);
    }
    bool abort = session->abort;
    bool over = session->stop &&
                (!notices || tsr_os_now_ns() - session->stop_ns > LEAVE_NS);
    pthread_mutex_unlock(&session->mutex);
    if (abort)
        session->module->abort(session->job, session->exit_code);
    return !over;
}

static void serve(mpi_server *self) {
    listen_for_notice(self);
    do {
        receive_notices(self);
        send_notices(self);
        take_submitted(self);
        run_exchanges(self);
    } while (rest(self));
    int64_t begin = tsr_os_now_ns();
    atomic_store(&self->receive.cancel, true);
    while (tsr_mpi_exchange_test_here(&self->receive) ==
               TSR_MPI_EXCHANGE_RUNNING &&
           tsr_os_now_ns() - begin < LEAVE_NS)
        tsr_os_relax();
    if (self->sending || self->running ||
        tsr_mpi_exchange_test_here(&self->receive) != TSR_MPI_EXCHANGE_ENDED)
        atomic_store(&self->session->stuck, true);
}

static bool begin(mpi_server *self) {
    tsr_mpi_session *session = self->session;
    const char *threads = getenv(THREADS_VARIABLE);
    char *error = session->error;
    bool one = threads && strcmp(threads, "one") == 0;
    if (threads && !one) {
        snprintf(error, sizeof session->error,
                 THREADS_VARIABLE "='%s' is unknown; known: one", threads);
        return false;
    }
    if (!session->module->begin(one, &session->job, &session->start, error))
        return false;
    if (tsr_mpi_exchange_create(session, 1, &self->receive) == TSR_OK &&
        tsr_mpi_exchange_create(session, session->start.world, &self->send) ==
            TSR_OK)
        return true;
    snprintf(error, sizeof session->error, "%s", tsr_last_error());
    return false;
}

static void *mpi_main(void *context) {
    tsr_mpi_session *session = context;
    mpi_server self = {.session = session};
    bool begun = begin(&self);
    pthread_mutex_lock(&session->mutex);
    session->ready = true;
    pthread_cond_broadcast(&session->changed);
    pthread_mutex_unlock(&session->mutex);
    if (begun)
        serve(&self);
    tsr_mpi_exchange_release(&self.receive);
    tsr_mpi_exchange_release(&self.send);
    if (session->job)
        session->module->end(session->job,
                             begun && !atomic_load(&session->root.failed) &&
                                 !atomic_load(&session->stuck));
    return NULL;
}

/* ---- from outside ---- */

/* Without the application's signals, which it did not ask for. */
static tsr_status start_thread(tsr_mpi_session *session) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&session->thread, NULL, mpi_main, session);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code == 0 ? TSR_OK
                     : tsr_error(TSR_IO, "could not start a thread: %s",
                                 strerror(code));
}

static tsr_status check_start(const tsr_mpi_session *session) {
    int rank, world;
    const tsr_mpi_start *start = &session->start;
    if (session->error[0] != '\0')
        return tsr_error(TSR_UNAVAILABLE, "MPI could not be started: %s",
                         session->error);
    tsr_mpi_launched(&rank, &world);
    if (world < 0 || world == start->world)
        return TSR_OK;
    return tsr_error(TSR_FAILED_PRECONDITION,
                     "the launcher started %d ranks, but %s finds %d: it is "
                     "another MPI's launcher",
                     world, start->library, start->world);
}

static void stop_thread(tsr_mpi_session *session) {
    pthread_mutex_lock(&session->mutex);
    session->stop = true;
    session->stop_ns = tsr_os_now_ns();
    pthread_cond_broadcast(&session->changed);
    pthread_mutex_unlock(&session->mutex);
    pthread_join(session->thread, NULL);
}

static void session_free(tsr_mpi_session *session) {
    pthread_cond_destroy(&session->changed);
    pthread_mutex_destroy(&session->mutex);
    tsr_free(session->hellos);
    if (!atomic_load(&session->stuck))
        tsr_free(session);
}

static tsr_status session_alloc(const tsr_mpi_module *module,
                                tsr_mpi_session **out_session) {
    pthread_condattr_t attributes;
    TSR_TRY(tsr_alloc(1, sizeof **out_session, (void **)out_session));
    tsr_mpi_session *session = *out_session;
    session->module = module;
    pthread_mutex_init(&session->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&session->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    session->submitted_end = &session->submitted;
    session->outbox_end = &session->outbox;
    session->farewell.cause.kind = -1;
    atomic_store(&session->next_id, 1);
    tsr_mpi_group_join(session, &session->root, 0, 0);
    return TSR_OK;
}

tsr_status tsr_mpi_session_create(tsr_mpi_session **out_session) {
    const tsr_mpi_module *module;
    tsr_mpi_session *session;
    *out_session = NULL;
    TSR_TRY(tsr_mpi_load(&module));
    TSR_TRY(session_alloc(module, &session));
    tsr_status status = start_thread(session);
    if (status != TSR_OK) {
        session_free(session);
        return status;
    }
    pthread_mutex_lock(&session->mutex);
    while (!session->ready)
        pthread_cond_wait(&session->changed, &session->mutex);
    pthread_mutex_unlock(&session->mutex);
    status = check_start(session);
    if (status != TSR_OK) {
        stop_thread(session);
        session_free(session);
        return status;
    }
    *out_session = session;
    return TSR_OK;
}

void tsr_mpi_session_abort(tsr_mpi_session *session, int exit_code) {
    pthread_mutex_lock(&session->mutex);
    session->abort = true;
    session->exit_code = exit_code;
    pthread_cond_broadcast(&session->changed);
    for (;;) /* the MPI thread ends the process */
        pthread_cond_wait(&session->changed, &session->mutex);
}

void tsr_mpi_session_release(tsr_mpi_session *session) {
    if (!session)
        return;
    stop_thread(session);
    session_free(session);
}
