/* Runs a body on every rank of a world, as threads or as processes, and fails
 * the test if a rank fails. */
#ifndef TSR_TESTS_COMM_RANKS_H
#define TSR_TESTS_COMM_RANKS_H

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/os.h"
#include "check.h"
#include "tessera/comm.h"

#define RANKS_MAX 8
/* A test that hangs is killed after so many seconds. */
#define RANKS_ALARM 120

typedef struct rank_context {
    int rank, world;
    bool threads;
    tsr_bootstrap *bootstrap; /* released after the body */
    void *argument;           /* of all ranks; processes: see shared_memory */
} rank_context;

typedef void (*rank_body)(rank_context *rank);

typedef struct rank_thread {
    rank_context context;
    rank_body body;
} rank_thread;

static inline void *rank_thread_main(void *argument) {
    rank_thread *self = argument;
    self->body(&self->context);
    tsr_bootstrap_release(self->context.bootstrap);
    return NULL;
}

static inline void run_threads(int world, rank_body body, void *argument) {
    tsr_bootstrap *bootstraps[RANKS_MAX];
    rank_thread ranks[RANKS_MAX];
    pthread_t threads[RANKS_MAX];
    CHECK_OK(tsr_bootstrap_create_threads(world, bootstraps));
    for (int r = 0; r < world; r++) {
        ranks[r] =
            (rank_thread){{r, world, true, bootstraps[r], argument}, body};
        CHECK(pthread_create(&threads[r], NULL, rank_thread_main, &ranks[r]) ==
              0);
    }
    for (int r = 0; r < world; r++)
        pthread_join(threads[r], NULL);
}

static inline void rank_process_main(tsr_fork_group *group, int rank, int world,
                                     rank_body body, void *argument) {
    rank_context context = {rank, world, false, NULL, argument};
    alarm(RANKS_ALARM);
    CHECK_OK(tsr_bootstrap_create_forked(group, rank, &context.bootstrap));
    tsr_fork_group_release(group);
    body(&context);
    tsr_bootstrap_release(context.bootstrap);
    /* Not exit: clang 14's LeakSanitizer crashes now and then in a forked
     * process that had threads. Ranks as threads are checked for leaks. */
    fflush(NULL);
    _exit(0);
}

static inline void start_processes(int world, rank_body body, void *argument,
                                   pid_t pids[RANKS_MAX]) {
    tsr_fork_group *group;
    CHECK_OK(tsr_fork_group_create(world, &group));
    fflush(NULL);
    for (int r = 0; r < world; r++) {
        pids[r] = fork();
        CHECK(pids[r] >= 0);
        if (pids[r] == 0)
            rank_process_main(group, r, world, body, argument);
    }
    tsr_fork_group_release(group);
}

/* `victim`: a rank that must have been killed; -1: none. */
static inline void join_processes(int world, const pid_t *pids, int victim) {
    for (int r = 0; r < world; r++) {
        int status;
        CHECK(waitpid(pids[r], &status, 0) == pids[r]);
        if (r == victim)
            CHECK_MESSAGE(WIFSIGNALED(status) && WTERMSIG(status) == 9,
                          "rank %d: wait status %x", r, (unsigned)status);
        else
            CHECK_MESSAGE(status == 0, "rank %d: wait status %x", r,
                          (unsigned)status);
    }
}

static inline void run_processes(int world, rank_body body, void *argument) {
    pid_t pids[RANKS_MAX];
    start_processes(world, body, argument, pids);
    join_processes(world, pids, -1);
}

/* Memory that forked ranks share with the test; never freed. */
static inline void *shared_memory(size_t bytes) {
    int fd;
    void *memory;
    CHECK_OK(tsr_os_shared_file("test", bytes, &fd));
    CHECK_OK(tsr_os_map_shared(fd, bytes, &memory));
    close(fd);
    return memory;
}

static inline void sleep_ms(int ms) {
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000};
    while (nanosleep(&time, &time) != 0)
        ;
}

/* Entries of a folder: open descriptors, threads. Of shared memory's: those
 * with our name, since other programs have theirs there. */
static inline int count_entries(const char *path) {
    int count = 0;
    bool all = strcmp(path, "/dev/shm") != 0;
    const struct dirent *entry;
    DIR *folder = opendir(path);
    CHECK(folder);
    while ((entry = readdir(folder)))
        count += all || strstr(entry->d_name, "tessera");
    closedir(folder);
    return count;
}

/* Exchanges of all sizes up to `most` bytes, again and again. */
static inline void check_exchanges(rank_context *rank, size_t most,
                                   int rounds) {
    const size_t sizes[] = {0, 1, 8, 4097, most};
    unsigned char *mine = malloc(most),
                  *all = malloc(most * (size_t)rank->world);
    CHECK(mine && all);
    for (int round = 0; round < rounds; round++) {
        size_t bytes = sizes[round % 5];
        for (size_t i = 0; i < bytes; i++)
            mine[i] =
                (unsigned char)(i * 7 + (size_t)rank->rank + (size_t)round);
        CHECK_OK(
            tsr_bootstrap_exchange(rank->bootstrap, mine, bytes, all, 20000));
        for (size_t r = 0; r < (size_t)rank->world; r++)
            for (size_t i = 0; i < bytes; i++)
                CHECK(all[r * bytes + i] ==
                      (unsigned char)(i * 7 + r + (size_t)round));
    }
    free(mine);
    free(all);
}

#endif
