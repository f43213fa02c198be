#include "cli/launch.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/os.h"
#include "cli/guard.h"

/* How long ranks may take to notice that one of them is gone. */
#define GRACE_SECONDS 5

/* What a rank tells its parent before it ends with a failure. */
typedef struct report {
    int32_t status;
    char message[TSR_MESSAGE_BYTES];
} report;

typedef struct rank_process {
    pid_t pid;
    int pipe;            /* read end of its report; -1 */
    bool ended, stopped; /* stopped: by us, after another one failed */
    int wait_status;
    report report;
} rank_process;

/* ---- in a rank ---- */

static int run_rank(tsr_bootstrap *bootstrap, rank_body body, void *context,
                    int pipe) {
    report told = {.status = (int32_t)body(bootstrap, context)};
    if (told.status == TSR_OK)
        return 0;
    snprintf(told.message, sizeof told.message, "%s", tsr_last_error());
    /* A report is shorter than PIPE_BUF: it is written whole, or the parent is
     * gone and nobody reads it. */
    ssize_t written = write(pipe, &told, sizeof told);
    return written == (ssize_t)sizeof told ? 1 : 3;
}

static int child(tsr_fork_group *group, int rank, rank_body body, void *context,
                 int pipe, pid_t parent) {
    tsr_bootstrap *bootstrap = NULL;
    tsr_os_die_with_parent();
    if (getppid() != parent)
        return 1;
    signal(SIGPIPE, SIG_IGN);
    tsr_status status = tsr_bootstrap_create_forked(group, rank, &bootstrap);
    if (status != TSR_OK) {
        report told = {.status = (int32_t)status};
        snprintf(told.message, sizeof told.message, "%s", tsr_last_error());
        return write(pipe, &told, sizeof told) == (ssize_t)sizeof told ? 1 : 3;
    }
    int code = run_rank(bootstrap, body, context, pipe);
    tsr_bootstrap_release(bootstrap);
    fflush(NULL);
    return code;
}

/* ---- in the parent ---- */

static tsr_status start_rank(tsr_fork_group *group, int rank, rank_body body,
                             void *context, rank_process *process) {
    int ends[2];
    pid_t parent = getpid();
    if (pipe(ends) != 0)
        return tsr_error(TSR_IO, "could not start rank %d: %s", rank,
                         strerror(errno));
    fflush(NULL); /* or the child would print what is buffered once more */
    process->pid = fork();
    if (process->pid < 0) {
        close(ends[0]);
        close(ends[1]);
        return tsr_error(TSR_IO, "could not start rank %d: %s", rank,
                         strerror(errno));
    }
    if (process->pid == 0) {
        close(ends[0]);
        _exit(child(group, rank, body, context, ends[1], parent));
    }
    close(ends[1]);
    process->pipe = ends[0];
    return TSR_OK;
}

static void collect(rank_process *process, int wait_status) {
    process->ended = true;
    process->wait_status = wait_status;
    if (read(process->pipe, &process->report, sizeof process->report) !=
        (ssize_t)sizeof process->report)
        process->report.status = TSR_OK; /* it ended without a word */
    process->report.message[sizeof process->report.message - 1] = '\0';
}

static bool failed(const rank_process *process) {
    return process->ended && !(WIFEXITED(process->wait_status) &&
                               WEXITSTATUS(process->wait_status) == 0);
}

static void kill_rest(rank_process *processes, int started) {
    for (int r = 0; r < started; r++) {
        if (processes[r].ended || processes[r].stopped)
            continue;
        processes[r].stopped = true;
        kill(processes[r].pid, SIGKILL);
    }
}

/* Waits for all; SIGCHLD is blocked, so that a wait with a time-out cannot miss
 * one. */
static void wait_for_all(rank_process *processes, int started, bool give_up) {
    sigset_t child_signal;
    int left = started;
    int64_t deadline = give_up ? tsr_os_now_ns() : 0;
    sigemptyset(&child_signal);
    sigaddset(&child_signal, SIGCHLD);
    while (left > 0) {
        int wait_status;
        pid_t pid;
        while ((pid = waitpid(-1, &wait_status, WNOHANG)) > 0) {
            for (int r = 0; r < started; r++) {
                if (processes[r].pid != pid)
                    continue;
                collect(&processes[r], wait_status);
                left--;
                if (failed(&processes[r]) && deadline == 0)
                    deadline =
                        tsr_os_now_ns() + GRACE_SECONDS * INT64_C(1000000000);
            }
        }
        if (left == 0 || (pid < 0 && errno == ECHILD))
            return;
        struct timespec pause = {.tv_nsec = 100000000};
        if (deadline != 0 && tsr_os_now_ns() >= deadline)
            kill_rest(processes, started);
        sigtimedwait(&child_signal, NULL,
                     deadline ? &pause : &(struct timespec){.tv_sec = 3600});
    }
}

static bool cut_short(const rank_process *process) {
    return process->ended && WIFEXITED(process->wait_status) &&
           WEXITSTATUS(process->wait_status) == EXIT_CUT_SHORT;
}

/* The cause, not its consequences: a file that was cut short, else a rank that
 * was killed, else a failure of its own, else whatever there is. */
static int explain(const cli_command *command, const rank_process *processes,
                   int ranks) {
    char message[TSR_MESSAGE_BYTES + 64];
    const rank_process *told = NULL;
    bool any = false;
    for (int r = 0; r < ranks; r++)
        if (cut_short(&processes[r])) {
            fail(command, CUT_SHORT_MESSAGE);
            return EXIT_CUT_SHORT;
        }
    for (int r = 0; r < ranks; r++) {
        const rank_process *at = &processes[r];
        any = any || failed(at);
        if (failed(at) && WIFSIGNALED(at->wait_status) && !at->stopped &&
            !(told && told->report.status != TSR_UNAVAILABLE)) {
            snprintf(message, sizeof message,
                     "rank %d (process %ld) was ended by signal %d (%s); the "
                     "other ranks were stopped",
                     r, (long)at->pid, WTERMSIG(at->wait_status),
                     strsignal(WTERMSIG(at->wait_status)));
            return fail(command, message);
        }
        if (failed(at) && at->report.status != TSR_OK &&
            (!told || (told->report.status == TSR_UNAVAILABLE &&
                       at->report.status != TSR_UNAVAILABLE)))
            told = at;
    }
    if (!any)
        return 0;
    return fail(command, told ? told->report.message
                              : "a rank ended without saying why");
}

static int launch_many(const cli_command *command, int ranks, rank_body body,
                       void *context) {
    rank_process *processes = NULL;
    tsr_fork_group *group = NULL;
    sigset_t child_signal, before;
    int started = 0;
    tsr_status status =
        tsr_alloc((size_t)ranks, sizeof *processes, (void **)&processes);
    if (status == TSR_OK)
        status = tsr_fork_group_create(ranks, &group);
    sigemptyset(&child_signal);
    sigaddset(&child_signal, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child_signal, &before);
    /* Ignored, as a parent may have left it, ranks would end unseen. */
    signal(SIGCHLD, SIG_DFL);
    for (; status == TSR_OK && started < ranks; started++) {
        status = start_rank(group, started, body, context, &processes[started]);
        if (status != TSR_OK)
            break;
    }
    tsr_fork_group_release(group);
    if (processes)
        wait_for_all(processes, started, status != TSR_OK);
    sigprocmask(SIG_SETMASK, &before, NULL);
    int code = status != TSR_OK ? fail(command, tsr_last_error())
                                : explain(command, processes, ranks);
    for (int r = 0; r < started; r++)
        close(processes[r].pipe);
    tsr_free(processes);
    return code;
}

int launch(const cli_command *command, const cli_ranks *ranks, rank_body body,
           void *context) {
    if (!ranks->mpi && ranks->world > 1)
        return launch_many(command, ranks->world, body, context);
    tsr_bootstrap *alone = NULL;
    tsr_status status = TSR_OK;
    if (!ranks->mpi)
        status = tsr_bootstrap_create_solo(&alone);
    if (status == TSR_OK)
        status = body(alone ? alone : ranks->mpi, context);
    tsr_bootstrap_release(alone);
    return status == TSR_OK ? 0 : ranks_fail(ranks, command, status);
}
