/* A new, empty folder for a test's files: in $TMPDIR, else in /tmp. */
#ifndef TSR_TESTS_FOLDER_H
#define TSR_TESTS_FOLDER_H

#include "check.h"

#define FOLDER_BYTES 256 /* of a path, room for names below it apart */

static inline void folder_create(char path[FOLDER_BYTES]) {
    const char *parent = getenv("TMPDIR");
    int length = snprintf(path, FOLDER_BYTES, "%s/tessera-test-XXXXXX",
                          parent && *parent ? parent : "/tmp");
    CHECK(length > 0 && length < FOLDER_BYTES);
    CHECK_MESSAGE(mkdtemp(path) != NULL, "%s", path);
}

#endif
