/* Checks for tests: print what failed and where, and end the program with
 * status 1. */
#ifndef TSR_TESTS_CHECK_H
#define TSR_TESTS_CHECK_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tessera/status.h"

#define CHECK(condition)                                                       \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__,   \
                    #condition);                                               \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

#define CHECK_MESSAGE(condition, ...)                                          \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: check failed: %s: ", __FILE__, __LINE__,   \
                    #condition);                                               \
            fprintf(stderr, __VA_ARGS__);                                      \
            fprintf(stderr, "\n");                                             \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

#define CHECK_OK(expression)                                                   \
    do {                                                                       \
        tsr_status check_status_ = (expression);                               \
        CHECK_MESSAGE(check_status_ == TSR_OK, "%s: %s",                       \
                      tsr_status_name(check_status_), tsr_last_error());       \
    } while (0)

/* The call fails with this status and a message that contains `text`. */
#define CHECK_FAILS(expression, expected, text)                                \
    do {                                                                       \
        tsr_status check_status_ = (expression);                               \
        CHECK_MESSAGE(check_status_ == (expected), "got %s: %s",               \
                      tsr_status_name(check_status_), tsr_last_error());       \
        CHECK_MESSAGE(strstr(tsr_last_error(), (text)) != NULL, "message: %s", \
                      tsr_last_error());                                       \
    } while (0)

#define SKIP(...)                                                              \
    do {                                                                       \
        printf("skipped: " __VA_ARGS__);                                       \
        printf("\n");                                                          \
        exit(77);                                                              \
    } while (0)

#endif
