/* Files and folders with errors that name them. */
#ifndef TSR_TRAIN_FILE_H
#define TSR_TRAIN_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "tessera/status.h"

/* "could not <action> <path>: <the system's reason>". error: an errno.
 * NOT_FOUND for ENOENT and ENOTDIR, OUT_OF_MEMORY for ENOMEM, else IO. */
tsr_status tsr_file_error(const char *action, const char *path, int error);

/* folder/name; owned, tsr_free. */
tsr_status tsr_file_join(const char *folder, const char *name, char **out_path);

bool tsr_file_exists(const char *path); /* a regular file, links followed */

/* Whether a file of this name could be made, or the one there written. Leaves
 * all as it is. Errors: IO, NOT_FOUND (no such folder); INVALID_ARGUMENT (what
 * is there is no regular file: a folder, a device, a pipe). */
tsr_status tsr_file_check_writable(const char *path);

/* Opens a file to be written, emptied or at its end; it is made where there is
 * none. Does not wait for a pipe's reader: there must be one. Closed by the
 * caller. Errors: IO, NOT_FOUND. */
tsr_status tsr_file_open_output(const char *path, bool append, FILE **out_file);

/* All of a file, with a terminator after it. out_bytes: owned, tsr_free.
 * Errors: NOT_FOUND; IO; INVALID_DATA (over `limit` bytes); OUT_OF_MEMORY. */
tsr_status tsr_file_read(const char *path, size_t limit, char **out_bytes,
                         size_t *out_count);

/* Creates or replaces a file, and makes it durable. Errors: IO, NOT_FOUND. */
tsr_status tsr_file_write(const char *path, const void *bytes, size_t count);

/* Writes all of `bytes` at `offset`. path: for messages. Errors: IO. */
tsr_status tsr_file_write_at(int fd, const char *path, uint64_t offset,
                             const void *bytes, size_t count);

/* Creates a folder and the missing ones above it; one that exists is fine. */
tsr_status tsr_folder_create(const char *path);

/* Makes the folder's entries durable. */
tsr_status tsr_folder_sync(const char *path);

/* Removes a file, or a folder and the files in it; 0 if there is none. Folders
 * inside are left, and the call fails. Returns 0 or an errno and leaves
 * tsr_last_error alone, for use on the way out of a failure. */
int tsr_folder_remove(const char *path);

#endif
