/* A folder for a test's files, removed with all in it. */
#ifndef TSR_TESTS_TRAIN_TEMP_H
#define TSR_TESTS_TRAIN_TEMP_H

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "check.h"
#include "folder.h"

typedef struct temp {
    char folder[FOLDER_BYTES];
} temp;

static inline void temp_create(temp *self) {
    memset(self, 0, sizeof *self);
    folder_create(self->folder);
}

/* folder/name; valid for three more calls. */
static inline const char *temp_path(const temp *self, const char *name) {
    static char paths[4][512];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", self->folder, name);
    return path;
}

static inline const char *temp_write(const temp *self, const char *name,
                                     const void *bytes, size_t count) {
    const char *path = temp_path(self, name);
    FILE *file = fopen(path, "wb");
    CHECK_MESSAGE(file != NULL, "%s", path);
    CHECK(fwrite(bytes, 1, count, file) == count);
    CHECK(fclose(file) == 0);
    return path;
}

static inline const char *temp_text(const temp *self, const char *name,
                                    const char *text) {
    return temp_write(self, name, text, strlen(text));
}

static inline const char *temp_folder(const temp *self, const char *name) {
    const char *path = temp_path(self, name);
    CHECK(mkdir(path, 0777) == 0);
    return path;
}

/* Entries of a folder, "." and ".." apart; -1: no such folder. */
static inline int count_entries(const char *path) {
    int count = -2;
    DIR *folder = opendir(path);
    if (!folder)
        return -1;
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

static inline void remove_at(int parent, const char *name) {
    if (unlinkat(parent, name, 0) == 0)
        return;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    CHECK(fd >= 0);
    DIR *folder = fdopendir(fd);
    CHECK(folder != NULL);
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            remove_at(fd, entry->d_name);
    closedir(folder);
    CHECK(unlinkat(parent, name, AT_REMOVEDIR) == 0);
}

static inline void temp_release(const temp *self) {
    remove_at(AT_FDCWD, self->folder);
}

/* Fails the first, second, ... allocation of `call` (an expression of
 * tsr_status) until it succeeds; `undo` runs after the success. */
#define CHECK_EVERY_ALLOCATION(call, undo)                                     \
    do {                                                                       \
        tsr_status failing_ = TSR_OUT_OF_MEMORY;                               \
        long n_ = 0;                                                           \
        while (failing_ != TSR_OK) {                                           \
            tsr_alloc_fail_at(++n_);                                           \
            failing_ = (call);                                                 \
            long calls_ = tsr_alloc_fail_at(0);                                \
            CHECK_MESSAGE((failing_ == TSR_OK) == (calls_ < n_),               \
                          "allocation %ld: %s", n_,                            \
                          tsr_status_name(failing_));                          \
            CHECK_MESSAGE(failing_ == TSR_OK || failing_ == TSR_OUT_OF_MEMORY, \
                          "allocation %ld: %s", n_, tsr_last_error());         \
        }                                                                      \
        CHECK(n_ > 1);                                                         \
        undo;                                                                  \
    } while (0)

#endif
