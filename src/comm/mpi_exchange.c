/* Transfers that are waited for together: started and tested by the waiting
 * thread itself, or by the MPI thread where only that may call MPI. */
#include <stdio.h>
#include <time.h>

#include "base/memory.h"
#include "base/os.h"
#include "base/status.h"
#include "comm/mpi.h"

/* Cancelling is local in MPI, yet needs a few more calls. */
#define CANCEL_NS ((int64_t)300 * 1000 * 1000)
/* Who waits for the MPI thread looks at the failure and the time this often. */
#define NAP_NS ((int64_t)10 * 1000 * 1000)
/* Nothing moves inside most MPI libraries while nobody calls them: while data
 * flow (a chunk takes some 100 us) we keep calling, then sleep in between,
 * longer when nothing has come for long. Never sched_yield: on a loaded machine
 * that gives a whole time slice to everybody else, while who sleeps is woken
 * before them. */
#define SPIN_NS ((int64_t)200 * 1000)
#define SHORT_NAP_NS (50 * 1000)
#define LONG_NAP_NS (500 * 1000)
#define LONG_WAIT_NS ((int64_t)50 * 1000 * 1000)

void tsr_mpi_pause(int64_t waited_ns) {
    struct timespec nap = {.tv_nsec = waited_ns < LONG_WAIT_NS ? SHORT_NAP_NS
                                                               : LONG_NAP_NS};
    if (waited_ns < SPIN_NS)
        tsr_os_relax();
    else
        nanosleep(&nap, NULL);
}

tsr_status tsr_mpi_exchange_create(tsr_mpi_session *session, int capacity,
                                   tsr_mpi_exchange *out_exchange) {
    tsr_status status = TSR_OK;
    tsr_mpi_exchange *self = out_exchange;
    *self = (tsr_mpi_exchange){.session = session, .capacity = capacity};
    TSR_TRY_GOTO(tsr_alloc((size_t)capacity, sizeof *self->transfers,
                           (void **)&self->transfers));
    if (!session->module->batch_create(session->job, capacity, &self->batch,
                                       self->error))
        status = tsr_error(TSR_OUT_OF_MEMORY, "MPI: %s", self->error);
done:
    if (status != TSR_OK)
        tsr_mpi_exchange_release(self);
    return status;
}

/* What is stuck stays: MPI may still write there (invariant 3). */
void tsr_mpi_exchange_release(tsr_mpi_exchange *self) {
    if (!self->session || atomic_load(&self->session->stuck))
        return;
    if (self->batch)
        self->session->module->batch_release(self->batch);
    tsr_free(self->transfers);
    *self = (tsr_mpi_exchange){0};
}

void tsr_mpi_exchange_add(tsr_mpi_exchange *self, bool send, const void *memory,
                          size_t bytes, int peer, int tag) {
    self->transfers[self->count++] =
        (tsr_mpi_transfer){.memory = (void *)(uintptr_t)memory,
                           .bytes = bytes,
                           .peer = peer,
                           .tag = tag,
                           .send = send};
}

/* ---- where MPI may be called ---- */

void tsr_mpi_exchange_begin_here(tsr_mpi_exchange *self) {
    self->broken = !self->session->module->batch_start(
        self->batch, self->transfers, self->count, self->error);
}

tsr_mpi_exchange_state tsr_mpi_exchange_test_here(tsr_mpi_exchange *self) {
    int left;
    if (atomic_load(&self->cancel) && !self->cancelled && !self->broken) {
        self->session->module->batch_cancel(self->batch);
        self->cancelled = true;
    }
    self->broken = self->broken || !self->session->module->batch_test(
                                       self->batch, &left, self->error);
    if (self->broken)
        return TSR_MPI_EXCHANGE_FAILED;
    atomic_store(&self->left, left);
    return left == 0 ? TSR_MPI_EXCHANGE_ENDED : TSR_MPI_EXCHANGE_RUNNING;
}

void tsr_mpi_exchange_set(tsr_mpi_exchange *self,
                          tsr_mpi_exchange_state state) {
    atomic_store(&self->state, (uint32_t)state);
    if (!self->session->start.multiple)
        tsr_os_futex_wake(&self->state, false);
}

/* ---- the waiting thread ---- */

static void submit(tsr_mpi_exchange *self) {
    tsr_mpi_session *session = self->session;
    self->next = NULL;
    pthread_mutex_lock(&session->mutex);
    *session->submitted_end = self;
    session->submitted_end = &self->next;
    pthread_cond_broadcast(&session->changed);
    pthread_mutex_unlock(&session->mutex);
}

void tsr_mpi_exchange_start(tsr_mpi_exchange *self) {
    atomic_store(&self->left, self->count);
    atomic_store(&self->cancel, false);
    self->cancelled = false;
    if (self->count == 0)
        return;
    atomic_store(&self->state, TSR_MPI_EXCHANGE_RUNNING);
    if (self->session->start.multiple)
        tsr_mpi_exchange_begin_here(self);
    else
        submit(self);
}

void tsr_mpi_exchange_nudge(tsr_mpi_exchange *self) {
    if (self->session->start.multiple &&
        atomic_load(&self->state) == TSR_MPI_EXCHANGE_RUNNING)
        tsr_mpi_exchange_set(self, tsr_mpi_exchange_test_here(self));
}

static tsr_mpi_exchange_state look(tsr_mpi_exchange *self) {
    tsr_mpi_exchange_nudge(self);
    return (tsr_mpi_exchange_state)atomic_load(&self->state);
}

static void rest(tsr_mpi_exchange *self, int64_t waited_ns) {
    if (self->session->start.multiple)
        tsr_mpi_pause(waited_ns);
    else
        tsr_os_futex_wait(&self->state, TSR_MPI_EXCHANGE_RUNNING, NAP_NS,
                          false);
}

/* Nothing is under way afterwards, or the job is stuck. */
static void give_up(tsr_mpi_exchange *self) {
    int64_t begin = tsr_os_now_ns(), waited = 0;
    atomic_store(&self->cancel, true);
    while (look(self) == TSR_MPI_EXCHANGE_RUNNING && waited < CANCEL_NS) {
        rest(self, waited);
        waited = tsr_os_now_ns() - begin;
    }
    if (atomic_load(&self->state) != TSR_MPI_EXCHANGE_ENDED)
        atomic_store(&self->session->stuck, true);
}

/* The rank whose message is missing, else one that takes none; only once
 * nothing is under way. */
static int find_late(const tsr_mpi_exchange *self) {
    int late = -1;
    for (int i = self->count - 1; i >= 0; i--) {
        const tsr_mpi_transfer *at = &self->transfers[i];
        if (!at->done && (late < 0 || !at->send || self->transfers[late].send))
            late = i;
    }
    return late < 0 ? -1 : self->transfers[late].peer;
}

static tsr_status fail(tsr_mpi_exchange *self, tsr_mpi_group *group,
                       tsr_mpi_exchange_state state, const char *doing,
                       int64_t waited) {
    give_up(self);
    if (tsr_mpi_failed(group))
        return tsr_mpi_failure(group, NULL);
    if (state == TSR_MPI_EXCHANGE_FAILED)
        return tsr_mpi_fail(group, TSR_UNAVAILABLE, -1, "rank %d %s: %s",
                            self->session->start.rank, doing, self->error);
    bool stuck = atomic_load(&self->session->stuck);
    int late = stuck ? -1 : find_late(self);
    if (late < 0)
        return tsr_mpi_fail(
            group, TSR_UNAVAILABLE, -1, "a peer of rank %d %s for %.1f s",
            self->session->start.rank, doing, (double)waited / 1e9);
    return tsr_mpi_fail(group, TSR_UNAVAILABLE, late, "rank %d %s for %.1f s",
                        late, doing, (double)waited / 1e9);
}

tsr_status tsr_mpi_exchange_wait(tsr_mpi_exchange *self, tsr_mpi_group *group,
                                 int64_t timeout_ns, const char *doing) {
    tsr_status status = TSR_OK;
    int64_t moved_at = tsr_os_now_ns(), waited = 0;
    int left = self->count;
    for (;;) {
        tsr_mpi_exchange_state state = look(self);
        if (state == TSR_MPI_EXCHANGE_ENDED)
            break;
        if (atomic_load(&self->left) != left) {
            left = atomic_load(&self->left);
            moved_at = tsr_os_now_ns();
        }
        waited = tsr_os_now_ns() - moved_at;
        if (state == TSR_MPI_EXCHANGE_FAILED || tsr_mpi_failed(group) ||
            waited > timeout_ns) {
            status = fail(self, group, state, doing, waited);
            break;
        }
        rest(self, waited);
    }
    self->count = 0; /* the transfers can still be read */
    return status;
}
