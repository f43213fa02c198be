/* Failures of groups, and the notices that carry them between ranks. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/os.h"
#include "base/status.h"
#include "comm/mpi.h"

/* A notice that cannot leave for so long never will. */
#define NOTICE_NS ((int64_t)1000 * 1000 * 1000)
/* How long the speaker waits for the others' reasons, and the others for the
 * speaker to end the job: together less than the 5 s in which it must. */
#define REASONS_NS ((int64_t)1500 * 1000 * 1000)
#define SPEAKER_NS ((int64_t)3500 * 1000 * 1000)

/* ---- waiting under the job's mutex ---- */

static void wait_until(tsr_mpi_session *session, int64_t deadline) {
    struct timespec at = {.tv_sec = deadline / 1000000000,
                          .tv_nsec = deadline % 1000000000};
    pthread_cond_timedwait(&session->changed, &session->mutex, &at);
}

/* ---- groups ---- */

void tsr_mpi_group_join(tsr_mpi_session *session, tsr_mpi_group *group, int id,
                        int64_t timeout_ns) {
    *group = (tsr_mpi_group){
        .session = session, .id = id, .timeout_ns = timeout_ns, .culprit = -1};
    pthread_mutex_lock(&session->mutex);
    group->next = session->groups;
    session->groups = group;
    pthread_mutex_unlock(&session->mutex);
}

void tsr_mpi_group_leave(tsr_mpi_group *group) {
    tsr_mpi_session *session = group->session;
    int64_t deadline = tsr_os_now_ns() + NOTICE_NS;
    pthread_mutex_lock(&session->mutex);
    while (group->outgoing.queued && tsr_os_now_ns() < deadline)
        wait_until(session, deadline);
    if (group->outgoing.queued)
        atomic_store(&session->stuck, true);
    for (tsr_mpi_group **at = &session->groups; *at; at = &(*at)->next)
        if (*at == group) {
            *at = group->next;
            break;
        }
    pthread_mutex_unlock(&session->mutex);
}

/* ---- failures ---- */

bool tsr_mpi_failed(const tsr_mpi_group *group) {
    return atomic_load(&group->failed) ||
           atomic_load(&group->session->root.failed);
}

tsr_status tsr_mpi_failure(tsr_mpi_group *group, int *out_culprit) {
    tsr_mpi_group *root = &group->session->root;
    tsr_mpi_group *at = atomic_load(&group->failed)  ? group
                        : atomic_load(&root->failed) ? root
                                                     : NULL;
    if (!at)
        return TSR_OK;
    if (out_culprit)
        *out_culprit = at->culprit;
    return tsr_error(at->status, "%s", at->text);
}

static void set_failure(tsr_mpi_group *group, tsr_status status, int culprit,
                        const char *text) {
    group->status = status;
    group->culprit = culprit;
    snprintf(group->text, sizeof group->text, "%s", text);
    atomic_store(&group->failed, true);
}

static void send_notice(tsr_mpi_session *session, tsr_mpi_outgoing *outgoing) {
    outgoing->notice.from = session->start.rank;
    outgoing->queued = true;
    outgoing->next = NULL;
    *session->outbox_end = outgoing;
    session->outbox_end = &outgoing->next;
    pthread_cond_broadcast(&session->changed);
}

tsr_status tsr_mpi_fail(tsr_mpi_group *group, tsr_status status, int culprit,
                        const char *format, ...) {
    tsr_mpi_session *session = group->session;
    char text[TSR_COMM_TEXT];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&session->mutex);
    if (!tsr_mpi_failed(group)) {
        tsr_mpi_notice *notice = &group->outgoing.notice;
        set_failure(group, status, culprit, text);
        *notice = (tsr_mpi_notice){.kind = TSR_MPI_NOTICE_FAILED,
                                   .group = group->id,
                                   .status = (int32_t)status,
                                   .culprit = culprit};
        memcpy(notice->text, text, sizeof text);
        send_notice(session, &group->outgoing);
    }
    pthread_mutex_unlock(&session->mutex);
    return tsr_mpi_failure(group, NULL);
}

/* ---- farewell ---- */

/* The cause, not its consequences: a failure of a rank's own, else the lowest
 * rank's. */
static bool better(const tsr_mpi_notice *notice, const tsr_mpi_notice *best) {
    bool own = notice->status != TSR_UNAVAILABLE,
         best_own = best->status != TSR_UNAVAILABLE;
    return best->kind < 0 || (own && !best_own) ||
           (own == best_own && notice->from < best->from);
}

static void take_farewell(tsr_mpi_session *session,
                          const tsr_mpi_notice *notice) {
    tsr_mpi_farewell *farewell = &session->farewell;
    farewell->reported++;
    if (better(notice, &farewell->cause))
        farewell->cause = *notice;
}

void tsr_mpi_notice_take(tsr_mpi_session *session, tsr_mpi_notice *notice) {
    notice->text[sizeof notice->text - 1] = '\0'; /* a peer's bytes */
    pthread_mutex_lock(&session->mutex);
    if (notice->kind == TSR_MPI_NOTICE_ENDS) {
        char text[TSR_COMM_TEXT];
        take_farewell(session, notice);
        snprintf(text, sizeof text, "rank %d gave up: %.440s", notice->from,
                 notice->text);
        if (!atomic_load(&session->root.failed))
            set_failure(&session->root, TSR_UNAVAILABLE, notice->from, text);
    } else {
        for (tsr_mpi_group *at = session->groups; at; at = at->next)
            if (at->id == notice->group && !tsr_mpi_failed(at))
                set_failure(at, (tsr_status)notice->status, notice->culprit,
                            notice->text);
    }
    pthread_cond_broadcast(&session->changed);
    pthread_mutex_unlock(&session->mutex);
}

tsr_status tsr_mpi_conclude(tsr_mpi_session *session, tsr_status mine) {
    tsr_mpi_farewell *farewell = &session->farewell;
    int64_t begin = tsr_os_now_ns();
    bool hub = session->start.rank == 0;
    tsr_mpi_notice *notice = &farewell->outgoing.notice;
    *notice = (tsr_mpi_notice){.kind = TSR_MPI_NOTICE_ENDS,
                               .status = (int32_t)mine,
                               .culprit = session->start.rank};
    snprintf(notice->text, sizeof notice->text, "%s", tsr_last_error());

    pthread_mutex_lock(&session->mutex);
    if (!atomic_load(&session->root.failed))
        set_failure(&session->root, mine, session->start.rank, notice->text);
    send_notice(session, &farewell->outgoing);
    int64_t deadline = begin + (hub ? REASONS_NS : SPEAKER_NS);
    while (tsr_os_now_ns() < deadline &&
           !(hub && (mine != TSR_UNAVAILABLE ||
                     farewell->reported == session->start.world - 1)))
        wait_until(session, deadline);
    if (better(notice, &farewell->cause))
        farewell->cause = *notice;
    tsr_mpi_notice cause = farewell->cause;
    pthread_mutex_unlock(&session->mutex);
    return tsr_error((tsr_status)cause.status, "%s", cause.text);
}
