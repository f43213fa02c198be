/* Checkpoints when something fails: one error for all ranks, and the folder as
 * it was. */
#include <signal.h>
#include <sys/resource.h>

#include "ranks.h"

/* ---- failures ---- */

/* The older checkpoints are there, nothing else is. */
static void check_survivors(const char *dir, int count, int world, int salt) {
    char *folder;
    CHECK_MESSAGE(count_entries(dir) == count, "%d entries",
                  count_entries(dir));
    CHECK_OK(tsr_checkpoint_find(dir, &folder));
    check_loads(folder, world, 1, salt);
    tsr_free(folder);
}

static void test_failing_rank(const temp *files) {
    char dir[512];
    strcpy(dir, temp_path(files, "failing"));
    make_jobs(dir, 5, 3, 1, 0);
    check_saves(3);
    for (int r = 0; r < 3; r++) {
        char text[128];
        /* before anything is made */
        make_jobs(dir, 6, 3, 1, 1);
        jobs[r].shards.tensors[2].exp_avg = NULL;
        snprintf(text, sizeof text,
                 "rank %d: tensor \"h.0.attn.c_attn.bias\": a shard is missing",
                 r);
        check_save_fails(3, TSR_INVALID_ARGUMENT, text);
        check_survivors(dir, 1, 2, 0);

        make_jobs(dir, 6, 3, 1, 1);
        jobs[r].shards.tensors[1].shard_count--;
        check_save_fails(3, TSR_INVALID_ARGUMENT, "do not cover its 48");
        check_survivors(dir, 1, 2, 0);

        make_jobs(dir, 6, 3, 1, 1);
        jobs[r].shards.tensors[4].shard_count--; /* 3 * 4 of 13 */
        check_save_fails(3, TSR_INVALID_ARGUMENT, "do not cover its 13");
        check_survivors(dir, 1, 2, 0);
        if (r == 0)
            continue;
        /* after rank 0 has made the files */
        make_jobs(dir, 5, 3, 1, 1);
        jobs[r].dir = "/nonexistent";
        snprintf(text, sizeof text,
                 "rank %d: could not open /nonexistent/.step-5.tmp/model", r);
        check_save_fails(3, TSR_NOT_FOUND, text);
        check_survivors(dir, 1, 2, 0);
    }
    /* Two fail: all report the lower one. */
    make_jobs(dir, 6, 3, 1, 1);
    jobs[1].info.batch = jobs[2].info.seq = 0;
    check_save_fails(3, TSR_INVALID_ARGUMENT, "rank 1: step 6");
    check_survivors(dir, 1, 1, 0);
}

static void test_bad_arguments(const temp *files) {
    static const char *const numbers[] = {
        "", "3", "[1]", "{\"a\": \"b\"}", "{\"a\": 1, \"a\": 1}", "{\"a\": 1"};
    char dir[512];
    strcpy(dir, temp_path(files, "arguments"));
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        make_jobs(dir, 1, 1, 1, 0);
        jobs[0].info.numbers = numbers[i];
        check_save_fails(1, TSR_INVALID_ARGUMENT, "number");
    }
    make_jobs(dir, -1, 1, 1, 0);
    check_save_fails(1, TSR_INVALID_ARGUMENT, "step -1");
    make_jobs(dir, 1, 1, 1, 0);
    jobs[0].info.seed = UINT64_MAX;
    check_save_fails(1, TSR_INVALID_ARGUMENT, "seed 18446744073709551615");
    make_jobs(dir, 1, 1, 1, 0);
    jobs[0].count = 0;
    check_save_fails(1, TSR_INVALID_ARGUMENT, "without tensors");
    make_jobs(dir, 1, 1, 1, 0);
    jobs[0].shards.tensors[0].type.dtype = TSR_BF16;
    check_save_fails(1, TSR_INVALID_ARGUMENT, "\"wte.weight\": the type");
    CHECK(count_entries(dir) == -1); /* refused before anything was made */
    make_jobs(dir, 1, 1, 1, 0);
    jobs[0].shards.tensors[0].name = jobs[0].shards.tensors[1].name;
    check_save_fails(1, TSR_INVALID_ARGUMENT, "is taken");
    CHECK(count_entries(dir) == 0);
    make_jobs(temp_text(files, "a-file", "x"), 1, 1, 1, 0);
    check_save_fails(1, TSR_IO, "could not create the folder");
}

static void test_dead_rank(const temp *files) {
    char dir[512];
    strcpy(dir, temp_path(files, "failing"));
    make_jobs(dir, 6, 3, 1, 1);
    jobs[2].absent = true;
    check_save_fails(3, TSR_UNAVAILABLE, "rank 2");
    check_survivors(dir, 1, 2, 0);
}

/* A disk that is full, as seen from here: a limit on the size of files. The
 * first limit stops the model's file, the second the optimizer's. */
static void test_disk_full(const temp *files) {
    static const rlim_t limits[] = {200, 1024};
    static const char *const names[] = {"model.saf", "optimizer.saf"};
    struct rlimit limit, small;
    char dir[512];
    strcpy(dir, temp_path(files, "failing"));
    signal(SIGXFSZ, SIG_IGN);
    CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    for (int i = 0; i < 2; i++) {
        small = limit;
        small.rlim_cur = limits[i];
        make_jobs(dir, 5, 3, 1, 1); /* the step that is there already */
        CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
        tsr_status status = save(3);
        CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        CHECK(status == TSR_IO);
        for (int r = 0; r < 3; r++) {
            CHECK(strstr(jobs[r].message, "rank 0: could not reserve"));
            CHECK(strstr(jobs[r].message, names[i]));
            CHECK(strstr(jobs[r].message, "too large"));
        }
        check_survivors(dir, 1, 3, 0);
    }
}

/* ---- the same step again ---- */

static void test_replace(const temp *files) {
    char dir[512];
    strcpy(dir, temp_path(files, "replace"));
    make_jobs(dir, 5, 2, 1, 0);
    check_saves(2);
    make_jobs(dir, 5, 3, 1, 1);
    check_saves(3);
    check_survivors(dir, 1, 2, 1);

    /* Killed between the two renames: the next save brings the old one back
     * before it does anything that can fail. */
    CHECK(rename(temp_path(files, "replace/step-5"),
                 temp_path(files, "replace/.step-5.old")) == 0);
    temp_folder(files, "replace/.step-5.tmp");
    temp_text(files, "replace/.step-5.tmp/model.safetensors", "half");
    make_jobs(dir, 5, 2, 1, 2);
    jobs[1].dir = "/nonexistent";
    check_save_fails(2, TSR_NOT_FOUND, "rank 1");
    check_survivors(dir, 1, 1, 1);

    /* Killed after them, or with half a temporary. */
    temp_folder(files, "replace/.step-5.old");
    temp_text(files, "replace/.step-5.old/model.safetensors", "old");
    temp_folder(files, "replace/.step-5.tmp");
    temp_text(files, "replace/.step-5.tmp/trainer.json", "half");
    make_jobs(dir, 5, 2, 1, 3);
    check_saves(2);
    check_survivors(dir, 1, 1, 3);

    /* What we did not make is not removed, and said. */
    temp_folder(files, "replace/.step-5.tmp");
    temp_folder(files, "replace/.step-5.tmp/mine");
    make_jobs(dir, 5, 2, 1, 4);
    check_save_fails(2, TSR_IO, "rank 0: could not remove");
    check_survivors(dir, 2, 1, 3);
}

/* ---- memory ---- */

/* Each allocation fails once, on whichever rank comes to it. */
static void check_save_allocations(const char *dir, int world) {
    tsr_status status = TSR_OUT_OF_MEMORY;
    for (fail_at = 1; status != TSR_OK; fail_at++) {
        make_jobs(dir, 3, world, 1, 0);
        status = save(world);
        CHECK((status == TSR_OK) == (allocations < fail_at));
        CHECK(status == TSR_OK || status == TSR_OUT_OF_MEMORY);
        CHECK(count_entries(dir) == (status == TSR_OK ? 1 : 0));
    }
    fail_at = 0;
}

static void test_allocations(const temp *files) {
    static shards read;
    char dir[512], found[512];
    char *folder = NULL;
    tsr_checkpoint_info info;
    strcpy(dir, temp_path(files, "allocations"));
    strcpy(found, temp_path(files, "allocations/step-3"));
    for (int world = 1; world <= 3; world++) {
        temp_folder(files, "allocations");
        check_save_allocations(dir, world);
        check_loads(found, 2, 1, 0);
        if (world < 3)
            remove_at(AT_FDCWD, dir);
    }
    make_shards(&read, 1, 0, 1);
    CHECK_EVERY_ALLOCATION(
        tsr_checkpoint_load(found, read.tensors, TENSORS, 0, true), (void)0);
    CHECK_EVERY_ALLOCATION(tsr_checkpoint_read_info(found, &info), (void)0);
    CHECK_EVERY_ALLOCATION(tsr_checkpoint_find(dir, &folder), tsr_free(folder));
}

int main(void) {
    temp files;
    temp_create(&files);
    test_failing_rank(&files);
    test_bad_arguments(&files);
    test_dead_rank(&files);
    test_disk_full(&files);
    test_replace(&files);
    test_allocations(&files);
    temp_release(&files);
    return 0;
}
