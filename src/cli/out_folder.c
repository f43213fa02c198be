#include "cli/out_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"

#define LOCK_NAME ".lock"

/* The file that `fd` is open on is still the one called `path`: not removed by
 * the training that held it, meanwhile. */
static bool still_there(int fd, const char *path) {
    struct stat ours, named;
    return fstat(fd, &ours) == 0 && stat(path, &named) == 0 &&
           ours.st_dev == named.st_dev && ours.st_ino == named.st_ino;
}

static tsr_status refuse_lock(const char *folder, int fd, int error) {
    struct flock holder = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (error != EACCES && error != EAGAIN)
        return tsr_error(TSR_IO, "--out %s cannot be locked: %s", folder,
                         strerror(error));
    if (fcntl(fd, F_GETLK, &holder) != 0 || holder.l_type == F_UNLCK)
        holder.l_pid = 0; /* it has just ended */
    return tsr_error(TSR_INVALID_ARGUMENT,
                     "--out %s is in use by another training (process %ld)",
                     folder, (long)holder.l_pid);
}

static tsr_status lock(const char *folder, int *out_lock) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/" LOCK_NAME, folder) >=
        (int)sizeof path)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--out is longer than a path may be");
    for (;;) {
        struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (fd < 0)
            return tsr_error(TSR_IO, "--out %s cannot be written: %s", folder,
                             strerror(errno));
        if (fcntl(fd, F_SETLK, &whole) != 0) {
            tsr_status status = refuse_lock(folder, fd, errno);
            close(fd);
            return status;
        }
        if (still_there(fd, path)) {
            *out_lock = fd;
            return TSR_OK;
        }
        close(fd);
    }
}

/* A lock file left by a training that was killed can be opened in a folder that
 * takes no more files. */
static tsr_status check_writable(const char *folder) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/.w",
             folder); /* no longer than the lock's */
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return tsr_error(TSR_IO, "--out %s cannot be written: %s", folder,
                         strerror(errno));
    close(fd);
    unlink(path);
    return TSR_OK;
}

/* N of the last step-N in the folder; -1: there is none. */
static int64_t last_step(const char *folder) {
    int64_t last = -1, step;
    struct dirent *entry;
    DIR *entries = opendir(folder);
    while (entries && (entry = readdir(entries)) != NULL)
        if (strncmp(entry->d_name, "step-", 5) == 0 &&
            tsr_parse_int64(entry->d_name + 5, &step) && step > last)
            last = step;
    if (entries)
        closedir(entries);
    return last;
}

tsr_status out_folder_open(const char *path, bool resume, out_folder *out) {
    out_folder folder = {.path = path};
    *out = (out_folder){0};
    folder.made = !resume && mkdir(path, 0777) == 0;
    if (!resume && !folder.made && errno != EEXIST)
        return tsr_error(TSR_IO, "--out %s could not be made: %s", path,
                         strerror(errno));
    tsr_status status = lock(path, &folder.lock);
    if (status != TSR_OK) {
        if (folder.made)
            rmdir(path);
        return status;
    }
    status = check_writable(path);
    int64_t step = resume ? -1 : last_step(path);
    if (status == TSR_OK && step >= 0)
        status = tsr_error(TSR_INVALID_ARGUMENT,
                           "--out %s holds checkpoints (step-%lld): add "
                           "--resume to go on, or name another folder",
                           path, (long long)step);
    if (status == TSR_OK)
        *out = folder;
    else
        out_folder_close(&folder, true);
    return status;
}

void out_folder_close(out_folder *folder, bool failed) {
    char path[PATH_MAX];
    if (!folder->path)
        return;
    snprintf(path, sizeof path, "%s/" LOCK_NAME, folder->path);
    unlink(path); /* first: who waits for the lock sees that it is gone */
    close(folder->lock);
    if (failed && folder->made)
        rmdir(folder->path); /* fails, as it should, with a checkpoint in it */
    *folder = (out_folder){0};
}
