/* How functions inside the library fail, and pass a failure on. */
#ifndef TSR_BASE_STATUS_H
#define TSR_BASE_STATUS_H

#include "tessera/status.h"

/* Sets the calling thread's message and returns `status`. Only the first
 * function that knows the cause calls it. */
tsr_status tsr_error(tsr_status status, const char *format, ...)
    TSR_PRINTF(2, 3);

/* Puts "prefix: " (formatted) before the current message, for a caller that
 * knows the place; returns `status`. */
tsr_status tsr_error_at(tsr_status status, const char *format, ...)
    TSR_PRINTF(2, 3);

/* Longest message kept, in bytes with its terminator; longer ones are cut. */
#define TSR_MESSAGE_BYTES 1024

/* For a function that owns nothing. */
#define TSR_TRY(expression)                                                    \
    do {                                                                       \
        tsr_status try_status_ = (expression);                                 \
        if (try_status_ != TSR_OK)                                             \
            return try_status_;                                                \
    } while (0)

/* For a function with a local `tsr_status status` and a label `done`. */
#define TSR_TRY_GOTO(expression)                                               \
    do {                                                                       \
        status = (expression);                                                 \
        if (status != TSR_OK)                                                  \
            goto done;                                                         \
    } while (0)

#endif
