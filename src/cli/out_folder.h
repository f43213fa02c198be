/* The folder of --out: made where it is missing, and kept to one training. */
#ifndef TSR_CLI_OUT_FOLDER_H
#define TSR_CLI_OUT_FOLDER_H

#include <stdbool.h>

#include "base/status.h"

typedef struct out_folder {
    const char *path; /* borrowed; NULL: closed */
    bool made;        /* it did not exist before */
    int lock;         /* of path/.lock */
} out_folder;

/* Locks the folder against other trainings and sees that it can be written. A
 * new run makes it where it is missing and takes none with checkpoints in it;
 * one that resumes needs it to exist. The lock is this process's: children it
 * forks do not hold it, and it ends with the process.
 * path  outlives the folder
 * Errors: IO; INVALID_ARGUMENT (another training uses it; it holds checkpoints
 *         and `resume` is not set; too long). Each names --out. Nothing is left
 *         behind then. */
tsr_status out_folder_open(const char *path, bool resume, out_folder *out);

/* Unlocks it and, after a failure, removes it if it was made and holds nothing.
 */
void out_folder_close(out_folder *folder, bool failed);

#endif
