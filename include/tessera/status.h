/* Status codes and the message of the last failure. */
#ifndef TESSERA_STATUS_H
#define TESSERA_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TSR_API __attribute__((visibility("default")))
#define TSR_PRINTF(format_index, first_argument)                               \
    __attribute__((format(printf, format_index, first_argument)))
#else
#define TSR_API
#define TSR_PRINTF(format_index, first_argument)
#endif

typedef enum tsr_status {
    TSR_OK = 0,
    TSR_INVALID_ARGUMENT, /* the caller passed something that cannot be */
    TSR_INVALID_DATA,  /* a file, plan text or peer's message is damaged or lies
                        */
    TSR_NOT_FOUND,     /* a file, op, parameter or kernel does not exist */
    TSR_OUT_OF_MEMORY, /* memory, or a budget given by the caller, is too small
                        */
    TSR_IO,          /* the operating system refused a read, a write, a start */
    TSR_UNAVAILABLE, /* a peer is gone or too late; the group stays failed */
    TSR_FAILED_PRECONDITION, /* called in the wrong state or order */
    TSR_UNSUPPORTED, /* valid, but this build, machine or backend cannot */
} tsr_status;

/* The code's name, for example "INVALID_ARGUMENT". Never NULL. Thread-safe. */
TSR_API const char *tsr_status_name(tsr_status status);

/* Message of the calling thread's latest failed call: what, where, and what to
 * do. "" if none failed. Borrowed; valid until the thread's next failing call.
 * Failures of asynchronous work live on their stream or communicator and become
 * the calling thread's message when a synchronizing call returns them. */
TSR_API const char *tsr_last_error(void);

/* Makes `message` (copied) the calling thread's and returns `status`: for ops,
 * kernels and allocators from outside. Thread-safe. */
TSR_API tsr_status tsr_fail(tsr_status status, const char *message);

#ifdef __cplusplus
}
#endif
#endif
