/* Programs run in a process of their own, so that one that crashes, hangs or
 * trips a sanitizer can be told from the others, and shrunk.
 *
 * The process is this one's program again; it tells on its standard output:
 *   @start SEED        a program begins
 *   @fail TEXT         it differs from the model, and the process ends
 *   @cover NAME COUNT  at the end
 * All else that it prints is kept for the report. */
#ifndef TSR_TESTS_ZERO_EAGER_WORKER_H
#define TSR_TESTS_ZERO_EAGER_WORKER_H

#include <poll.h>
#include <signal.h>
#include <spawn.h>

#include "zero/eager_run.h"

typedef enum outcome {
    OUTCOME_PASSED,
    OUTCOME_DIFFERED,
    OUTCOME_DIED,
    OUTCOME_HUNG
} outcome;

typedef struct verdict {
    outcome outcome;
    unsigned long long seed; /* of the latest program begun */
    unsigned done;           /* programs begun */
    unsigned progress;       /* a line is printed every so many; 0: never */
    unsigned covered[COVERS];
    char text[8000]; /* why, and what else was printed */
    size_t length;
} verdict;

/* ---- in the process ---- */

static inline void tell_start(const program *at) {
    printf("@start %llu\n", at->seed);
    fflush(stdout);
}

static inline void tell_covered(const unsigned *covered) {
    for (int c = 0; c < COVERS; c++)
        printf("@cover %s %u\n", cover_names[c], covered[c]);
    fflush(stdout);
}

/* ---- beside it ---- */

static inline void add_text(verdict *to, const char *line) {
    size_t room = sizeof to->text - to->length;
    int used = snprintf(to->text + to->length, room, "%s\n", line);
    to->length += (size_t)used < room ? (size_t)used : room - 1;
}

static inline void hear_line(verdict *to, const char *line) {
    char name[40];
    unsigned count;
    if (sscanf(line, "@start %llu", &to->seed) == 1) {
        to->done++;
        if (to->progress && to->done % to->progress == 0) {
            printf("  %u programs\n", to->done);
            fflush(stdout);
        }
        to->length = 0;
        to->text[0] = '\0';
    } else if (sscanf(line, "@cover %39s %u", name, &count) == 2) {
        for (int c = 0; c < COVERS; c++)
            if (strcmp(name, cover_names[c]) == 0)
                to->covered[c] += count;
    } else {
        if (strncmp(line, "@fail ", 6) == 0)
            to->outcome = OUTCOME_DIFFERED;
        add_text(to, line[0] == '@' ? line + 6 : line);
    }
}

/* false: nothing came for so long. */
static inline bool hear(int from, int silence_ms, verdict *to) {
    char line[2000];
    size_t used = 0;
    for (;;) {
        struct pollfd ready = {.fd = from, .events = POLLIN};
        if (poll(&ready, 1, silence_ms) == 0)
            return false;
        ssize_t got = read(from, line + used, sizeof line - 1 - used);
        if (got <= 0)
            return true;
        used += (size_t)got;
        line[used] = '\0';
        char *begin = line, *end;
        for (; (end = strchr(begin, '\n')); begin = end + 1) {
            *end = '\0';
            hear_line(to, begin);
        }
        used = strlen(begin);
        if (used == sizeof line - 1) { /* too long for a line: all of it */
            hear_line(to, begin);
            used = 0;
        }
        memmove(line, begin, used);
    }
}

static inline pid_t start_worker(char *const *arguments, int input,
                                 int *out_output) {
    extern char **environ;
    int pipes[2];
    pid_t pid;
    posix_spawn_file_actions_t actions;
    CHECK(pipe(pipes) == 0);
    CHECK(posix_spawn_file_actions_init(&actions) == 0);
    if (input >= 0)
        CHECK(posix_spawn_file_actions_adddup2(&actions, input, 0) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions, pipes[1], 1) == 0);
    CHECK(posix_spawn_file_actions_adddup2(&actions, pipes[1], 2) == 0);
    CHECK(posix_spawn_file_actions_addclose(&actions, pipes[0]) == 0);
    CHECK(posix_spawn(&pid, "/proc/self/exe", &actions, NULL, arguments,
                      environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
    close(pipes[1]);
    *out_output = pipes[0];
    return pid;
}

/* input  file that is its standard input; -1: none
 * out    its `progress` is read */
static inline void run_worker(char *const *arguments, int input, int silence_ms,
                              verdict *out) {
    int output, status;
    *out = (verdict){.outcome = OUTCOME_PASSED, .progress = out->progress};
    pid_t pid = start_worker(arguments, input, &output);
    bool spoke = hear(output, silence_ms, out);
    if (!spoke)
        kill(pid, SIGKILL);
    CHECK(waitpid(pid, &status, 0) == pid);
    close(output);
    if (out->outcome == OUTCOME_DIFFERED)
        return;
    if (!spoke) {
        out->outcome = OUTCOME_HUNG;
        add_text(out, "it hangs");
    } else if (status != 0) {
        out->outcome = OUTCOME_DIED;
        add_text(out, WIFSIGNALED(status) ? strsignal(WTERMSIG(status))
                                          : "the process ended by itself");
    }
}

#endif
