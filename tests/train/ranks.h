/* A small model in shards, and ranks that are threads and save it together. */
#ifndef TSR_TESTS_TRAIN_RANKS_H
#define TSR_TESTS_TRAIN_RANKS_H

#include <pthread.h>

#include "temp.h"
#include "train/checkpoint.h"

/* ---- a model, its ranks ---- */

enum { TENSORS = 5, MAX_WORLD = 8, KINDS = 3 };

static const struct {
    const char *name;
    tsr_type type;
} model[TENSORS] = {
    {"wte.weight", {.dtype = TSR_F32, .dims = 2, .shape = {7, 4}}},
    {"h.0.attn.c_attn.weight", {.dtype = TSR_F32, .dims = 2, .shape = {4, 12}}},
    {"h.0.attn.c_attn.bias", {.dtype = TSR_F32, .dims = 1, .shape = {12}}},
    {"ln_f.weight", {.dtype = TSR_F32, .dims = 1, .shape = {1}}},
    {"ln_f.bias", {.dtype = TSR_F32, .dims = 3, .shape = {1, 13, 1}}},
};

static const tsr_gpt_config config = {
    .layers = 1, .heads = 2, .dim = 4, .vocab = 7, .seq = 8, .norm_eps = 1e-5};

static inline tsr_checkpoint_info make_info(int64_t step) {
    return (tsr_checkpoint_info){.step = step,
                                 .samples = step * 24,
                                 .seed = INT64_MAX,
                                 .world = 3,
                                 .batch = 4,
                                 .accumulate = 2,
                                 .seq = 8,
                                 .numbers = "{\"loss\": 2.5, \"lr\": 3e-4}"};
}

/* What element i of tensor t is; `salt` tells checkpoints apart. */
static inline float value(int t, int kind, size_t i, int salt) {
    return (float)(1 + (int)i + 100 * t + 1000 * kind + 10000 * salt);
}

typedef struct shards {
    int rank;
    tsr_checkpoint_tensor tensors[TENSORS];
    float memory[TENSORS][KINDS][128];
} shards;

static inline void make_shards(shards *self, int world, int rank,
                               size_t granule) {
    memset(self, 0, sizeof *self);
    self->rank = rank;
    for (int t = 0; t < TENSORS; t++) {
        size_t count = (size_t)tsr_type_count(&model[t].type);
        size_t groups = (size_t)world * granule;
        self->tensors[t] = (tsr_checkpoint_tensor){
            .name = model[t].name,
            .type = model[t].type,
            .shard_count = (count + groups - 1) / groups * granule,
            .weights = self->memory[t][0],
            .exp_avg = self->memory[t][1],
            .exp_avg_sq = self->memory[t][2],
        };
        CHECK(self->tensors[t].shard_count < 128);
    }
}

static inline void fill(shards *self, int salt) {
    for (int t = 0; t < TENSORS; t++)
        for (int kind = 0; kind < KINDS; kind++)
            for (size_t i = 0; i < 128; i++) {
                size_t first =
                    (size_t)self->rank * self->tensors[t].shard_count;
                bool inside =
                    i < tsr_checkpoint_part(&self->tensors[t], self->rank);
                self->memory[t][kind][i] =
                    inside ? value(t, kind, first + i, salt) : 0;
            }
}

static inline void check_filled(const shards *self, int kinds, int salt) {
    static shards expected;
    expected = *self;
    fill(&expected, salt);
    for (int t = 0; t < TENSORS; t++)
        for (int kind = 0; kind < kinds; kind++)
            CHECK(memcmp(self->memory[t][kind], expected.memory[t][kind],
                         self->tensors[t].shard_count * sizeof(float)) == 0);
}

/* ---- ranks as threads ---- */

typedef struct rank_job {
    const char *dir;
    tsr_checkpoint_info info;
    shards shards;
    size_t count;
    tsr_bootstrap *bootstrap;
    bool absent; /* leaves instead of saving */
    tsr_status status;
    char message[1024];
} rank_job;

static rank_job jobs[MAX_WORLD];
static long fail_at;     /* the allocation of a save that fails; 0: none */
static long allocations; /* of the last save with fail_at != 0 */

static inline void make_jobs(const char *dir, int64_t step, int world,
                             size_t granule, int salt) {
    for (int r = 0; r < world; r++) {
        jobs[r] =
            (rank_job){.dir = dir, .info = make_info(step), .count = TENSORS};
        make_shards(&jobs[r].shards, world, r, granule);
        fill(&jobs[r].shards, salt);
    }
}

static inline void *run_rank(void *argument) {
    rank_job *job = argument;
    job->status = TSR_OK;
    if (!job->absent)
        job->status = tsr_checkpoint_save(job->dir, &job->info, &config,
                                          job->shards.tensors, job->count,
                                          job->bootstrap);
    snprintf(job->message, sizeof job->message, "%s",
             job->status == TSR_OK ? "" : tsr_last_error());
    tsr_bootstrap_release(job->bootstrap);
    return NULL;
}

/* Runs all jobs; the status that every rank that took part returned. */
static inline tsr_status save(int world) {
    pthread_t threads[MAX_WORLD];
    tsr_bootstrap *bootstraps[MAX_WORLD];
    int first = 0;
    CHECK_OK(tsr_bootstrap_create_threads(world, bootstraps));
    tsr_alloc_fail_at(fail_at);
    for (int r = 0; r < world; r++) {
        jobs[r].bootstrap = bootstraps[r];
        CHECK(pthread_create(&threads[r], NULL, run_rank, &jobs[r]) == 0);
    }
    for (int r = 0; r < world; r++)
        CHECK(pthread_join(threads[r], NULL) == 0);
    allocations = tsr_alloc_fail_at(0);
    while (jobs[first].absent)
        first++;
    for (int r = 0; r < world; r++)
        if (!jobs[r].absent)
            CHECK_MESSAGE(jobs[r].status == jobs[first].status, "rank %d: %s",
                          r, jobs[r].message);
    return jobs[first].status;
}

static inline void check_saves(int world) {
    tsr_status status = save(world);
    CHECK_MESSAGE(status == TSR_OK, "%s", jobs[0].message);
}

/* Every rank fails with this, and says so. */
static inline void check_save_fails(int world, tsr_status expected,
                                    const char *text) {
    CHECK_MESSAGE(save(world) == expected, "%s", jobs[0].message);
    for (int r = 0; r < world; r++)
        CHECK_MESSAGE(jobs[r].absent || strstr(jobs[r].message, text), "%s",
                      jobs[r].message);
}

static inline void check_loads(const char *folder, int world, size_t granule,
                               int salt) {
    static shards read;
    for (int r = 0; r < world; r++)
        for (int with_optimizer = 0; with_optimizer < 2; with_optimizer++) {
            make_shards(&read, world, r, granule);
            memset(read.memory, 0xff, sizeof read.memory);
            CHECK_OK(tsr_checkpoint_load(folder, read.tensors, TENSORS, r,
                                         with_optimizer));
            check_filled(&read, with_optimizer ? KINDS : 1, salt);
        }
}

static inline void check_found(const char *path, const char *expected) {
    char *folder;
    CHECK_OK(tsr_checkpoint_find(path, &folder));
    CHECK_MESSAGE(strcmp(folder, expected) == 0, "%s", folder);
    tsr_free(folder);
}

#endif
