/* A thread that waits for the end of file of other processes' sockets: rank 0
 * watches all, the others watch rank 0. Whoever sees a death marks the group
 * failed, in shared memory, where all see it.
 *
 * A process that released its communicator said goodbye before its socket
 * closed; its absence is not a failure until somebody waits for it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "comm/host.h"

static void *watch(void *context) {
    tsr_host_group *group = context;
    struct pollfd *polls = group->watch.polls;
    int world = group->world;
    for (;;) {
        int ready = poll(polls, (nfds_t)world + 1, -1);
        if (ready < 0 && errno != EINTR) {
            tsr_host_fail(group, TSR_IO, group->rank,
                          "rank %d can no longer watch its peers: %s",
                          group->rank, strerror(errno));
            return NULL;
        }
        if (ready <= 0)
            continue;
        if (polls[world].revents)
            return NULL; /* stop */
        for (int r = 0; r < world; r++) {
            if (polls[r].fd < 0 || !polls[r].revents)
                continue;
            polls[r].fd = -1; /* poll skips it from now on */
            if (atomic_load(&group->root->lines[r].goodbye) == 0)
                tsr_host_fail(group, TSR_UNAVAILABLE, r, "rank %d died", r);
        }
    }
}

/* Without the application's signals, which it did not ask for. */
static int start_thread(tsr_host_group *group) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&group->watch.thread, NULL, watch, group);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

tsr_status tsr_host_watch_start(tsr_host_group *group) {
    tsr_status status = TSR_OK;
    tsr_host_watch *self = &group->watch;
    TSR_TRY_GOTO(tsr_alloc((size_t)group->world + 1, sizeof *self->polls,
                           (void **)&self->polls));
    if (pipe(self->stop) != 0) {
        self->stop[0] = self->stop[1] = -1;
        status = tsr_error(TSR_IO, "pipe: %s", strerror(errno));
        goto done;
    }
    fcntl(self->stop[0], F_SETFD, FD_CLOEXEC);
    fcntl(self->stop[1], F_SETFD, FD_CLOEXEC);
    /* No events: only hang-ups are reported, messages are left alone. */
    for (int r = 0; r < group->world; r++)
        self->polls[r].fd = group->sockets[r];
    self->polls[group->world].fd = self->stop[0];
    int code = start_thread(group);
    if (code != 0)
        status =
            tsr_error(TSR_IO, "could not start a thread: %s", strerror(code));
    else
        self->running = true;
done:
    if (status != TSR_OK)
        tsr_host_watch_stop(group);
    return status;
}

void tsr_host_watch_stop(tsr_host_group *group) {
    tsr_host_watch *self = &group->watch;
    if (self->stop[1] >= 0)
        close(self->stop[1]);
    if (self->running)
        pthread_join(self->thread, NULL);
    if (self->stop[0] >= 0)
        close(self->stop[0]);
    tsr_free(self->polls);
    *self = (tsr_host_watch){.stop = {-1, -1}};
}
