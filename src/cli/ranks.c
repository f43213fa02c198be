#include "cli/ranks.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/memory.h"
#include "base/os.h"
#include "base/status.h"
#include "base/text.h"
#include "train/agree.h"

#define TIMEOUT_MS 60000
/* Within the 5 s in which a failed job ends. */
#define SPEAKER_SECONDS 3
#define MOST_NAMED 8 /* ranks in a message */

/* What a rank runs, and where. */
typedef struct rank_place {
    char command[32];
    uint64_t host, processors; /* tsr_os_place */
    int32_t processor_count;
} rank_place;

/* A launcher of one rank is none: the rank may fork more. */
static bool launched(void) {
    int world;
    return tsr_mpi_launched(NULL, &world) && world != 1;
}

static void look_around(cli_ranks *self, const rank_place *all) {
    const rank_place *mine = &all[tsr_bootstrap_rank(self->mpi)];
    self->host_ranks = self->sharing = 0;
    for (int r = 0; r < self->world; r++) {
        if (all[r].host != mine->host)
            continue;
        self->host_ranks++;
        self->sharing += all[r].processors == mine->processors;
    }
    self->one_host = self->host_ranks == self->world;
    for (int r = 0; r < self->world; r++) {
        int sharing = 0;
        for (int other = 0; other < self->world; other++)
            sharing += all[other].host == all[r].host &&
                       all[other].processors == all[r].processors;
        int threads = all[r].processor_count / sharing;
        threads = threads < 1 ? 1 : threads;
        if (r == 0 || threads < self->threads)
            self->threads = threads;
    }
}

static tsr_status check_commands(const rank_place *all, int world) {
    for (int r = 1; r < world; r++)
        if (strcmp(all[r].command, all[0].command) != 0)
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "rank %d runs `tessera %s`, rank 0 `tessera %s`: "
                             "give all ranks the same command",
                             r, all[r].command, all[0].command);
    return TSR_OK;
}

static tsr_status join_job(const cli_command *command, int64_t asked,
                           cli_ranks *self) {
    rank_place mine = {.processor_count = tsr_os_processors()}, *all = NULL;
    tsr_status status;
    int rank;
    snprintf(mine.command, sizeof mine.command, "%s", command->name);
    (void)tsr_mpi_launched(&rank, NULL);
    self->first = rank <= 0;
    TSR_TRY_GOTO(tsr_bootstrap_create_mpi(&self->mpi));
    self->first = tsr_bootstrap_rank(self->mpi) == 0;
    self->world = tsr_bootstrap_world(self->mpi);
    if (asked != 0 && asked != self->world) {
        status = tsr_error(TSR_INVALID_ARGUMENT,
                           "--ranks is %lld, but the MPI launcher started %d "
                           "ranks: leave --ranks out",
                           (long long)asked, self->world);
        goto done;
    }
    TSR_TRY_GOTO(tsr_alloc((size_t)self->world, sizeof *all, (void **)&all));
    tsr_os_place(&mine.host, &mine.processors);
    TSR_TRY_GOTO(
        tsr_bootstrap_exchange(self->mpi, &mine, sizeof mine, all, TIMEOUT_MS));
    TSR_TRY_GOTO(check_commands(all, self->world));
    look_around(self, all);
done:
    tsr_free(all);
    return status;
}

tsr_status ranks_open(const cli_command *command, int64_t asked,
                      cli_ranks *out_ranks) {
    int world = asked ? (int)asked : 1;
    int threads = tsr_os_processors() / world;
    *out_ranks = (cli_ranks){.first = true,
                             .world = world,
                             .host_ranks = world,
                             .one_host = true,
                             .sharing = world,
                             .threads = threads < 1 ? 1 : threads};
    return launched() ? join_job(command, asked, out_ranks) : TSR_OK;
}

int ranks_mistake(const cli_command *command, int code) {
    cli_ranks self;
    char message[TSR_MESSAGE_BYTES];
    if (code == 0 || !launched())
        return code;
    memcpy(message, tsr_last_error(), strlen(tsr_last_error()) + 1);
    (void)ranks_open(command, 0, &self);
    if (self.mpi)
        (void)tsr_bootstrap_conclude(
            self.mpi, tsr_error(TSR_INVALID_ARGUMENT, "rank %d: %s",
                                tsr_bootstrap_rank(self.mpi), message));
    return ranks_close(&self, code);
}

int ranks_fail(const cli_ranks *self, const cli_command *command,
               tsr_status status) {
    struct timespec grace = {.tv_sec = SPEAKER_SECONDS};
    if (self->mpi)
        (void)tsr_bootstrap_conclude(self->mpi, status);
    else if (!self->first) /* MPI could not be started: rank 0 says so, and the
                              launcher ends this one */
        nanosleep(&grace, NULL);
    return fail(command, tsr_last_error());
}

int ranks_close(cli_ranks *self, int code) {
    if (self->mpi && code != 0)
        tsr_bootstrap_end_job(self->mpi, code);
    tsr_bootstrap_release(self->mpi);
    *self = (cli_ranks){0};
    return code;
}

/* all: (world, count) */
static tsr_status compare_term(const uint64_t *all, int world, size_t count,
                               size_t term, const char *name) {
    tsr_text others = {0};
    int differing = 0;
    for (int r = 1; r < world; r++) {
        if (all[(size_t)r * count + term] == all[term])
            continue;
        if (++differing <= MOST_NAMED)
            tsr_text_append(&others, differing == 1 ? "%d" : ", %d", r);
    }
    if (differing > MOST_NAMED)
        tsr_text_append(&others, " and %d more", differing - MOST_NAMED);
    tsr_status status = tsr_text_status(&others);
    if (status == TSR_OK && differing > 0)
        status = tsr_error(TSR_INVALID_ARGUMENT,
                           "%s of rank%s %s is not that of rank 0: it must be "
                           "the same on all ranks",
                           name, differing == 1 ? "" : "s", others.data);
    tsr_text_release(&others);
    return status;
}

tsr_status ranks_agree(const cli_ranks *self, const rank_term *terms,
                       size_t count) {
    tsr_status status = TSR_OK;
    uint64_t *mine = NULL, *all = NULL;
    if (!self->mpi)
        return TSR_OK;
    TSR_TRY_GOTO(tsr_alloc(count, sizeof *mine, (void **)&mine));
    TSR_TRY_GOTO(
        tsr_alloc(count * (size_t)self->world, sizeof *all, (void **)&all));
    for (size_t t = 0; t < count; t++)
        mine[t] = terms[t].value;
    TSR_TRY_GOTO(tsr_bootstrap_exchange(self->mpi, mine, count * sizeof *mine,
                                        all, TSR_AGREE_TIMEOUT_MS));
    for (size_t t = 0; t < count; t++)
        TSR_TRY_GOTO(compare_term(all, self->world, count, t, terms[t].name));
done:
    tsr_free(all);
    tsr_free(mine);
    return status;
}

tsr_status ranks_agree_on_options(const cli_ranks *self,
                                  const cli_command *command,
                                  const void *values) {
    typedef char option_name[32];
    size_t count = command->row_count;
    rank_term *terms = NULL;
    option_name *names = NULL;
    tsr_status status = TSR_OK;
    if (!self->mpi)
        return TSR_OK;
    TSR_TRY_GOTO(tsr_alloc(count, sizeof *terms, (void **)&terms));
    TSR_TRY_GOTO(tsr_alloc(count, sizeof *names, (void **)&names));
    for (size_t i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "--%s", command->rows[i].name);
        terms[i] =
            (rank_term){names[i], options_digest(&command->rows[i], values)};
    }
    status = ranks_agree(self, terms, count);
done:
    tsr_free(names);
    tsr_free(terms);
    return status;
}

void ranks_pin(const cli_ranks *self, int rank, int threads) {
    /* Only a job that fills its processors does: two smaller ones would
     * otherwise share the first of them. Ranks of one host are neighbours. */
    if (self->sharing * threads == tsr_os_processors())
        tsr_os_pin(rank % self->sharing * threads, threads);
}
