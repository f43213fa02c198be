/* Threads of the CPU backend. */
#include <signal.h>
#include <string.h>

#include "base/status.h"
#include "device/cpu.h"

tsr_status cpu_thread_start(void *(*body)(void *), void *context,
                            pthread_t *out_thread) {
    /* Faults of a thread's own instructions must stay deliverable to it. */
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(&blocked, faults[i]);

    /* A new thread inherits the mask of its creator. */
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int code = pthread_create(out_thread, NULL, body, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code != 0)
        return tsr_error(TSR_IO, "could not start a thread: %s",
                         strerror(code));
    return TSR_OK;
}
