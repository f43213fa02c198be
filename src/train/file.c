#include "train/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"

_Static_assert(sizeof(off_t) >= 8, "files may be larger than 2 GiB");

tsr_status tsr_file_error(const char *action, const char *path, int error) {
    char reason[128];
    if (strerror_r(error, reason, sizeof reason) != 0)
        snprintf(reason, sizeof reason, "error %d", error);
    tsr_status status = TSR_IO;
    if (error == ENOENT || error == ENOTDIR)
        status = TSR_NOT_FOUND;
    else if (error == ENOMEM)
        status = TSR_OUT_OF_MEMORY;
    return tsr_error(status, "could not %s %s: %s", action, path, reason);
}

tsr_status tsr_file_join(const char *folder, const char *name,
                         char **out_path) {
    tsr_text path = {0};
    size_t length = strlen(folder);
    bool slash = length > 0 && folder[length - 1] == '/';
    *out_path = NULL;
    tsr_text_append(&path, "%s%s%s", folder, slash ? "" : "/", name);
    tsr_status status = tsr_text_status(&path);
    if (status != TSR_OK) {
        tsr_text_release(&path);
        return status;
    }
    *out_path = path.data;
    return TSR_OK;
}

bool tsr_file_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

/* Not there yet. A full disk shows at the first byte. */
static tsr_status try_new(const char *path) {
    struct stat info;
    if (lstat(path, &info) == 0)
        return tsr_error(TSR_NOT_FOUND, "%s is a link to what is not there",
                         path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return tsr_file_error("write", path, errno);
    int error = write(fd, " ", 1) == 1 ? 0 : errno;
    error = close(fd) == 0 ? error : errno;
    (void)unlink(path);
    return error ? tsr_file_error("write", path, error) : TSR_OK;
}

tsr_status tsr_file_check_writable(const char *path) {
    struct stat info;
    if (stat(path, &info) != 0)
        return errno == ENOENT ? try_new(path)
                               : tsr_file_error("write", path, errno);
    if (!S_ISREG(info.st_mode))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%s is no regular file: name one, or a new one", path);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return tsr_file_error("write", path, errno);
    close(fd);
    return TSR_OK;
}

tsr_status tsr_file_open_output(const char *path, bool append,
                                FILE **out_file) {
    int flags = append ? O_RDWR | O_APPEND : O_WRONLY | O_TRUNC;
    *out_file = NULL;
    int fd = open(path, flags | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
    if (fd < 0 && errno == ENXIO)
        return tsr_error(TSR_IO,
                         "nobody reads the other end of %s: start its reader "
                         "first",
                         path);
    if (fd < 0)
        return tsr_file_error("write", path, errno);
    int mode = fcntl(fd, F_GETFL);
    bool waits = mode >= 0 && fcntl(fd, F_SETFL, mode & ~O_NONBLOCK) == 0;
    *out_file = waits ? fdopen(fd, append ? "a+" : "w") : NULL;
    if (*out_file)
        return TSR_OK;
    int error = errno;
    close(fd);
    return tsr_file_error("write", path, error);
}

/* Grows with what is read: the size that the system tells may be stale. */
static tsr_status read_all(int fd, const char *path, size_t limit,
                           tsr_text *text) {
    char block[4096];
    for (;;) {
        ssize_t got = read(fd, block, sizeof block);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return tsr_file_error("read", path, errno);
        tsr_text_append_bytes(text, block, (size_t)got);
        TSR_TRY(tsr_text_status(text));
        if (got == 0)
            return TSR_OK;
        if (text->count > limit)
            return tsr_error(TSR_INVALID_DATA, "%s is longer than %zu bytes",
                             path, limit);
    }
}

tsr_status tsr_file_read(const char *path, size_t limit, char **out_bytes,
                         size_t *out_count) {
    tsr_text text = {0};
    *out_bytes = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return tsr_file_error("open", path, errno);
    tsr_status status = read_all(fd, path, limit, &text);
    close(fd);
    if (status != TSR_OK) {
        tsr_text_release(&text);
        return status;
    }
    *out_bytes = text.data;
    *out_count = text.count;
    return TSR_OK;
}

tsr_status tsr_file_write(const char *path, const void *bytes, size_t count) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return tsr_file_error("create", path, errno);
    tsr_status status = tsr_file_write_at(fd, path, 0, bytes, count);
    if (status == TSR_OK && fsync(fd) != 0)
        status = tsr_file_error("sync", path, errno);
    if (close(fd) != 0 && status == TSR_OK)
        status = tsr_file_error("close", path, errno);
    return status;
}

tsr_status tsr_file_write_at(int fd, const char *path, uint64_t offset,
                             const void *bytes, size_t count) {
    const char *next = bytes;
    while (count > 0) {
        ssize_t wrote = pwrite(fd, next, count, (off_t)offset);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return tsr_file_error("write", path, wrote < 0 ? errno : ENOSPC);
        next += wrote;
        offset += (uint64_t)wrote;
        count -= (size_t)wrote;
    }
    return TSR_OK;
}

tsr_status tsr_folder_create(const char *path) {
    tsr_status status = TSR_OK;
    char *prefix = NULL;
    size_t length = strlen(path);

    TSR_TRY_GOTO(tsr_strdup(path, length, &prefix));
    for (size_t end = 1; end <= length; end++) {
        if (prefix[end] != '/' && prefix[end] != '\0')
            continue;
        prefix[end] = '\0';
        struct stat info;
        int error = mkdir(prefix, 0777) == 0 ? 0 : errno;
        if (error != 0 &&
            (stat(prefix, &info) != 0 || !S_ISDIR(info.st_mode))) {
            status = tsr_file_error("create the folder", prefix, error);
            goto done;
        }
        prefix[end] = path[end];
    }
done:
    tsr_free(prefix);
    return status;
}

tsr_status tsr_folder_sync(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return tsr_file_error("open", path, errno);
    tsr_status status = TSR_OK;
    /* EINVAL: a file system on which folders cannot be synced. */
    if (fsync(fd) != 0 && errno != EINVAL)
        status = tsr_file_error("sync", path, errno);
    close(fd);
    return status;
}

static int remove_files(DIR *folder) {
    struct dirent *entry;
    int error = 0;
    while (error == 0 && (errno = 0, entry = readdir(folder)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(folder), entry->d_name, 0) != 0)
            error = errno;
    }
    return error != 0 ? error : errno;
}

int tsr_folder_remove(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOENT)
            return 0;
        return unlink(path) == 0 ? 0 : errno;
    }
    DIR *folder = fdopendir(fd);
    if (!folder) {
        int error = errno;
        close(fd);
        return error;
    }
    int error = remove_files(folder);
    closedir(folder);
    if (error == 0 && rmdir(path) != 0)
        error = errno;
    return error;
}
