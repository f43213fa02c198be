/* Ranks forked from one process: a socket pair between rank 0 and each other
 * rank, made before the fork. Rank 0 collects, then sends everything to all.
 *
 * Frames: {status, bytes, text} and then `bytes` of payload from a rank, or
 * `world * bytes` from rank 0; a frame with a status has no payload. End of
 * file means that the rank at the other end died: rank 0 names it to the rest.
 * A failure sticks, since the streams may have stopped inside a frame. */
#include "comm/bootstrap.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/os.h"

struct tsr_fork_group {
    int world;
    int pairs[][2]; /* [r]: rank 0's end, rank r's end; -1: taken or closed */
};

typedef struct forked_frame {
    int32_t status;
    uint64_t bytes;
    char text[176];
} forked_frame;

typedef struct forked_peer {
    int fd;            /* owned; -1: none */
    size_t got;        /* bytes of frame and payload received so far */
    forked_frame from; /* its frame */
} forked_peer;

typedef struct forked_bootstrap {
    tsr_bootstrap base;
    tsr_status failure; /* sticks, with text */
    char text[176];
    struct pollfd *polls; /* (world) */
    forked_peer peers[];  /* (world); rank 0 uses [1 ..), others [0] */
} forked_bootstrap;

static void close_fd(int *fd) {
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- the group ---- */

tsr_status tsr_fork_group_create(int world, tsr_fork_group **out_group) {
    tsr_status status = TSR_OK;
    tsr_fork_group *group = NULL;
    *out_group = NULL;
    if (world < 1)
        return tsr_error(TSR_INVALID_ARGUMENT, "fork group of %d ranks", world);

    TSR_TRY_GOTO(
        tsr_alloc(1, sizeof *group + (size_t)world * sizeof group->pairs[0],
                  (void **)&group));
    group->world = world;
    for (int r = 0; r < world; r++)
        group->pairs[r][0] = group->pairs[r][1] = -1;
    for (int r = 1; r < world; r++) {
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, group->pairs[r]) != 0) {
            status = tsr_error(TSR_IO, "socket pair for rank %d: %s", r,
                               strerror(errno));
            goto done;
        }
        for (int end = 0; end < 2; end++) {
            fcntl(group->pairs[r][end], F_SETFD, FD_CLOEXEC);
            fcntl(group->pairs[r][end], F_SETFL, O_NONBLOCK);
        }
    }
    *out_group = group;
    group = NULL; /* now the caller's */
done:
    tsr_fork_group_release(group);
    return status;
}

void tsr_fork_group_release(tsr_fork_group *group) {
    if (!group)
        return;
    for (int r = 0; r < group->world; r++) {
        close_fd(&group->pairs[r][0]);
        close_fd(&group->pairs[r][1]);
    }
    tsr_free(group);
}

/* ---- bytes with a deadline ---- */

static int left_ms(int64_t deadline) {
    int64_t left = (deadline - tsr_os_now_ns() + 999999) / 1000000;
    return left <= 0 ? 0 : left > INT_MAX ? INT_MAX : (int)left;
}

static tsr_status gone(int rank) {
    return tsr_error(TSR_UNAVAILABLE, "bootstrap exchange: rank %d is gone",
                     rank);
}

static tsr_status wait_ready(int fd, short events, int rank, int64_t deadline) {
    struct pollfd ready = {.fd = fd, .events = events};
    for (;;) {
        int count = poll(&ready, 1, left_ms(deadline));
        if (count > 0)
            return TSR_OK;
        if (count == 0)
            return tsr_error(TSR_UNAVAILABLE,
                             "bootstrap exchange: rank %d is silent", rank);
        if (errno != EINTR)
            return tsr_error(TSR_IO, "poll: %s", strerror(errno));
    }
}

static tsr_status send_bytes(int fd, const void *bytes, size_t count, int rank,
                             int64_t deadline) {
    const char *at = bytes;
    while (count > 0) {
        ssize_t sent = send(fd, at, count, MSG_NOSIGNAL);
        if (sent > 0) {
            at += sent;
            count -= (size_t)sent;
        } else if (sent < 0 && errno == EAGAIN) {
            TSR_TRY(wait_ready(fd, POLLOUT, rank, deadline));
        } else if (sent == 0 || errno != EINTR) {
            return gone(rank);
        }
    }
    return TSR_OK;
}

static tsr_status receive_bytes(int fd, void *bytes, size_t count, int rank,
                                int64_t deadline) {
    char *at = bytes;
    while (count > 0) {
        ssize_t received = recv(fd, at, count, 0);
        if (received > 0) {
            at += received;
            count -= (size_t)received;
        } else if (received < 0 && errno == EAGAIN) {
            TSR_TRY(wait_ready(fd, POLLIN, rank, deadline));
        } else if (received == 0 || errno != EINTR) {
            return gone(rank);
        }
    }
    return TSR_OK;
}

/* ---- rank 0 ---- */

/* Reads what peer r has sent; *out_complete once all has come. */
static tsr_status advance(forked_bootstrap *self, int r, size_t bytes,
                          char *all, bool *out_complete) {
    forked_peer *peer = &self->peers[r];
    const size_t frame = sizeof peer->from;
    *out_complete = false;
    for (;;) {
        if (peer->got >= frame && peer->from.bytes != bytes)
            return tsr_error(TSR_FAILED_PRECONDITION,
                             "bootstrap exchange: rank 0 brings %zu bytes, "
                             "rank %d %zu",
                             bytes, r, (size_t)peer->from.bytes);
        if (peer->got == frame + bytes) {
            *out_complete = true;
            return TSR_OK;
        }
        bool head = peer->got < frame;
        char *to = head ? (char *)&peer->from + peer->got
                        : all + (size_t)r * bytes + (peer->got - frame);
        size_t want = head ? frame - peer->got : frame + bytes - peer->got;
        ssize_t received = recv(peer->fd, to, want, 0);
        if (received > 0)
            peer->got += (size_t)received;
        else if (received < 0 && errno == EAGAIN)
            return TSR_OK;
        else if (received == 0 || errno != EINTR)
            return gone(r);
    }
}

/* *out_lost: the rank whose fault a failure is. */
static tsr_status collect(forked_bootstrap *self, size_t bytes, char *all,
                          int64_t deadline, int *out_lost) {
    int world = self->base.world, pending = world - 1;
    self->polls[0] = (struct pollfd){.fd = -1};
    for (int r = 1; r < world; r++) {
        self->peers[r].got = 0;
        self->polls[r] =
            (struct pollfd){.fd = self->peers[r].fd, .events = POLLIN};
    }
    while (pending > 0) {
        int ready = poll(self->polls, (nfds_t)world, left_ms(deadline));
        if (ready < 0 && errno != EINTR)
            return tsr_error(TSR_IO, "poll: %s", strerror(errno));
        for (int r = 1; r < world; r++) {
            bool complete;
            *out_lost = r;
            if (ready == 0 && self->polls[r].fd >= 0)
                return tsr_error(TSR_UNAVAILABLE,
                                 "bootstrap exchange: rank %d is silent", r);
            if (ready < 0 || self->polls[r].fd < 0 || !self->polls[r].revents)
                continue;
            TSR_TRY(advance(self, r, bytes, all, &complete));
            if (complete) {
                self->polls[r].fd = -1; /* poll skips it */
                pending--;
            }
        }
    }
    return TSR_OK;
}

static void make_failure(forked_frame *frame, tsr_status status) {
    *frame = (forked_frame){.status = (int32_t)status};
    strncat(frame->text, tsr_last_error(), sizeof frame->text - 1);
}

static tsr_status exchange_root(forked_bootstrap *self, const void *mine,
                                size_t bytes, char *all, int64_t deadline) {
    int lost = 0, world = self->base.world;
    forked_frame frame = {.status = TSR_OK, .bytes = bytes};
    if (bytes > 0)
        memmove(all, mine, bytes);
    tsr_status status = collect(self, bytes, all, deadline, &lost);
    if (status != TSR_OK)
        make_failure(&frame, status);
    for (int r = 1; r < world; r++) {
        int fd = self->peers[r].fd;
        if (status != TSR_OK) {
            /* As far as it fits at once: who does not read finds our end
             * closed. */
            if (r != lost || status != TSR_UNAVAILABLE)
                (void)!send(fd, &frame, sizeof frame, MSG_NOSIGNAL);
            continue;
        }
        status = send_bytes(fd, &frame, sizeof frame, r, deadline);
        if (status == TSR_OK)
            status = send_bytes(fd, all, (size_t)world * bytes, r, deadline);
        if (status != TSR_OK) {
            lost = r;
            make_failure(&frame, status);
        }
    }
    return status;
}

/* ---- other ranks ---- */

static tsr_status exchange_leaf(forked_bootstrap *self, const void *mine,
                                size_t bytes, char *all, int64_t deadline) {
    int fd = self->peers[0].fd;
    forked_frame frame = {.status = TSR_OK, .bytes = bytes};
    /* When rank 0 has closed, its last frame says why: so read it even if
     * sending failed. */
    if (send_bytes(fd, &frame, sizeof frame, 0, deadline) == TSR_OK)
        (void)send_bytes(fd, mine, bytes, 0, deadline);
    TSR_TRY(receive_bytes(fd, &frame, sizeof frame, 0, deadline));
    if (frame.status != TSR_OK) {
        frame.text[sizeof frame.text - 1] = '\0';
        return tsr_error((tsr_status)frame.status, "%s", frame.text);
    }
    return receive_bytes(fd, all, (size_t)self->base.world * bytes, 0,
                         deadline);
}

static tsr_status forked_exchange(tsr_bootstrap *bootstrap, const void *mine,
                                  size_t bytes, void *all, int timeout_ms) {
    forked_bootstrap *self = (forked_bootstrap *)bootstrap;
    int64_t deadline = tsr_os_now_ns() + (int64_t)timeout_ms * 1000000;
    if (self->failure != TSR_OK)
        return tsr_error(self->failure, "%s", self->text);
    tsr_status status = bootstrap->rank == 0
                            ? exchange_root(self, mine, bytes, all, deadline)
                            : exchange_leaf(self, mine, bytes, all, deadline);
    if (status != TSR_OK) {
        self->failure = status;
        strncat(self->text, tsr_last_error(), sizeof self->text - 1);
    }
    return status;
}

static void forked_release(tsr_bootstrap *bootstrap) {
    forked_bootstrap *self = (forked_bootstrap *)bootstrap;
    for (int r = 0; r < bootstrap->world; r++)
        close_fd(&self->peers[r].fd);
    tsr_free(self->polls);
    tsr_free(self);
}

static const tsr_bootstrap_vtable forked_vtable = {
    .one_address_space = false,
    .exchange = forked_exchange,
    .release = forked_release,
};

tsr_status tsr_bootstrap_create_forked(tsr_fork_group *group, int rank,
                                       tsr_bootstrap **out_bootstrap) {
    tsr_status status = TSR_OK;
    forked_bootstrap *self = NULL;
    *out_bootstrap = NULL;
    if (!group || rank < 0 || rank >= group->world)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "rank %d is not of this fork group", rank);

    TSR_TRY_GOTO(tsr_alloc(
        1, sizeof *self + (size_t)group->world * sizeof self->peers[0],
        (void **)&self));
    self->base = (tsr_bootstrap){&forked_vtable, rank, group->world};
    for (int r = 0; r < group->world; r++)
        self->peers[r].fd = -1;
    TSR_TRY_GOTO(tsr_alloc((size_t)group->world, sizeof *self->polls,
                           (void **)&self->polls));
    for (int r = 1; r < group->world; r++) {
        int *pair = group->pairs[r];
        if (rank == 0) {
            self->peers[r].fd = pair[0];
            pair[0] = -1;
        } else if (rank == r) {
            self->peers[0].fd = pair[1];
            pair[1] = -1;
        }
        close_fd(&pair[0]);
        close_fd(&pair[1]);
    }
    *out_bootstrap = &self->base;
    self = NULL; /* now the caller's */
done:
    if (self)
        forked_release(&self->base);
    return status;
}
