/* Sockets between processes of one host: file descriptors pass over them, and
 * afterwards their end of file says that a process is gone.
 *
 * Names are of Linux's abstract namespace, picked by the system ("autobind"):
 * no file, nothing to remove. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/os.h"
#include "comm/host.h"

#define PATH_AT offsetof(struct sockaddr_un, sun_path)

/* `fd` becomes private to this process and non-blocking. */
static void configure(int fd) {
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, O_NONBLOCK);
}

static tsr_status open_socket(int *out_fd) {
    *out_fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (*out_fd < 0)
        return tsr_error(TSR_IO, "socket: %s", strerror(errno));
    configure(*out_fd);
    return TSR_OK;
}

tsr_status tsr_host_listen(int backlog, char name[TSR_HOST_NAME],
                           uint32_t *out_name_bytes, int *out_fd) {
    int fd;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t length = sizeof address;
    *out_fd = -1;
    TSR_TRY(open_socket(&fd));
    /* An address of the family alone asks for a name. */
    if (bind(fd, (struct sockaddr *)&address, PATH_AT) != 0 ||
        listen(fd, backlog) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &length) != 0 ||
        length <= PATH_AT || length > PATH_AT + TSR_HOST_NAME) {
        int code = errno;
        close(fd);
        return tsr_error(TSR_IO, "could not listen on a local socket: %s",
                         strerror(code));
    }
    *out_name_bytes = (uint32_t)(length - PATH_AT);
    memcpy(name, address.sun_path, *out_name_bytes);
    *out_fd = fd;
    return TSR_OK;
}

tsr_status tsr_host_connect(const char *name, uint32_t name_bytes, int pid,
                            int *out_fd) {
    int fd, there;
    unsigned user;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    *out_fd = -1;
    if (name_bytes == 0 || name_bytes > TSR_HOST_NAME)
        return tsr_error(TSR_INVALID_DATA, "a socket name of %u bytes",
                         (unsigned)name_bytes);
    memcpy(address.sun_path, name, name_bytes);
    TSR_TRY(open_socket(&fd));
    /* Completes at once: rank 0's backlog has room for everybody. */
    if (connect(fd, (struct sockaddr *)&address,
                (socklen_t)(PATH_AT + name_bytes)) != 0) {
        int code = errno;
        close(fd);
        return tsr_error(TSR_IO, "could not connect to rank 0: %s",
                         strerror(code));
    }
    tsr_status status = tsr_os_socket_peer(fd, &there, &user);
    if (status == TSR_OK && (there != pid || user != (unsigned)geteuid()))
        status = tsr_error(TSR_IO,
                           "rank 0's socket belongs to process %d of user %u "
                           "instead of process %d of user %u",
                           there, user, pid, (unsigned)geteuid());
    if (status != TSR_OK) {
        close(fd);
        return status;
    }
    *out_fd = fd;
    return TSR_OK;
}

tsr_status tsr_host_accept(int listener, int *out_pid, int *out_fd) {
    unsigned user;
    *out_fd = -1;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (fd < 0)
            return tsr_error(TSR_IO, "accept: %s", strerror(errno));
        configure(fd);
        if (tsr_os_socket_peer(fd, out_pid, &user) == TSR_OK &&
            user == (unsigned)geteuid()) {
            *out_fd = fd;
            return TSR_OK;
        }
        close(fd); /* a stranger */
    }
}

/* Room for one descriptor, aligned as its header must be. */
typedef union fd_message {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
} fd_message;

tsr_status tsr_host_send_fd(int to, int fd) {
    char byte = 0;
    fd_message control = {.bytes = {0}};
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    ssize_t sent;
    do
        sent = sendmsg(to, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent != 1)
        return tsr_error(TSR_UNAVAILABLE, "could not pass shared memory: %s",
                         strerror(errno));
    return TSR_OK;
}

tsr_status tsr_host_receive_fd(int from, int *out_fd) {
    char byte;
    fd_message control = {.bytes = {0}};
    struct iovec data = {.iov_base = &byte, .iov_len = 1};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t received;
    *out_fd = -1;
    do
        received = recvmsg(from, &message, 0);
    while (received < 0 && errno == EINTR);
    struct cmsghdr *header = received == 1 ? CMSG_FIRSTHDR(&message) : NULL;
    if (!header || header->cmsg_level != SOL_SOCKET ||
        header->cmsg_type != SCM_RIGHTS ||
        header->cmsg_len != CMSG_LEN(sizeof *out_fd))
        return tsr_error(TSR_UNAVAILABLE,
                         "shared memory did not come over the socket: %s",
                         received < 0 ? strerror(errno) : "no descriptor");
    memcpy(out_fd, CMSG_DATA(header), sizeof *out_fd);
    fcntl(*out_fd, F_SETFD, FD_CLOEXEC);
    return TSR_OK;
}
