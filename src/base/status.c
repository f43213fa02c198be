#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char last_error[TSR_MESSAGE_BYTES];

const char *tsr_status_name(tsr_status status) {
    switch (status) {
    case TSR_OK:
        return "OK";
    case TSR_INVALID_ARGUMENT:
        return "INVALID_ARGUMENT";
    case TSR_INVALID_DATA:
        return "INVALID_DATA";
    case TSR_NOT_FOUND:
        return "NOT_FOUND";
    case TSR_OUT_OF_MEMORY:
        return "OUT_OF_MEMORY";
    case TSR_IO:
        return "IO";
    case TSR_UNAVAILABLE:
        return "UNAVAILABLE";
    case TSR_FAILED_PRECONDITION:
        return "FAILED_PRECONDITION";
    case TSR_UNSUPPORTED:
        return "UNSUPPORTED";
    }
    return "UNKNOWN";
}

const char *tsr_last_error(void) { return last_error; }

tsr_status tsr_error(tsr_status status, const char *format, ...) {
    char message[TSR_MESSAGE_BYTES]; /* the arguments may point into last_error
                                      */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    memcpy(last_error, message, sizeof message);
    return status;
}

tsr_status tsr_error_at(tsr_status status, const char *format, ...) {
    char message[TSR_MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (length < 0)
        length = 0;
    size_t used =
        (size_t)length < sizeof message ? (size_t)length : sizeof message - 1;
    const char *rest[2] = {": ", last_error};
    for (int i = 0; i < 2; i++) { /* cut what does not fit */
        size_t room = sizeof message - 1 - used, part = strlen(rest[i]);
        part = part < room ? part : room;
        memcpy(message + used, rest[i], part);
        used += part;
    }
    message[used] = '\0';
    memcpy(last_error, message, sizeof message);
    return status;
}

tsr_status tsr_fail(tsr_status status, const char *message) {
    return tsr_error(status, "%s", message);
}
