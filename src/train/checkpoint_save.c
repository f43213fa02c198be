/* Writing a checkpoint, all ranks together.
 *
 *   prepare   every rank: checks its arguments, allocates
 *   create    rank 0: DIR/.step-N.tmp, its files, their space
 *   write     every rank: its parts, then sync
 *   publish   rank 0: renames to DIR/step-N
 *
 * After each stage the ranks agree on its outcome; on a failure nobody enters
 * the next, and rank 0 removes DIR/.step-N.tmp. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/text.h"
#include "train/agree.h"
#include "train/checkpoint.h"
#include "train/checkpoint_info.h"
#include "train/config.h"
#include "train/file.h"
#include "train/safetensors_writer.h"

typedef struct save_job {
    const char *dir;
    const tsr_checkpoint_info *info;
    const tsr_gpt_config *config;
    const tsr_checkpoint_tensor *tensors;
    size_t count;
    int rank, world;
    /* owned */
    char *messages;       /* (world * TSR_AGREE_BYTES) */
    char *temporary;      /* DIR/.step-N.tmp */
    char *published;      /* DIR/step-N */
    char *aside;          /* DIR/.step-N.old: what was published before */
    char *model_path;     /* in the temporary folder */
    char *optimizer_path; /* in the temporary folder */
} save_job;

static void release(save_job *job) {
    tsr_free(job->messages);
    tsr_free(job->temporary);
    tsr_free(job->published);
    tsr_free(job->aside);
    tsr_free(job->model_path);
    tsr_free(job->optimizer_path);
}

static tsr_status step_path(const save_job *job, const char *before,
                            const char *after, char **out_path) {
    char name[64];
    snprintf(name, sizeof name, "%sstep-%" PRId64 "%s", before, job->info->step,
             after);
    return tsr_file_join(job->dir, name, out_path);
}

static tsr_status check_shards(const save_job *job) {
    TSR_TRY(tsr_checkpoint_check(job->tensors, job->count, true));
    for (size_t i = 0; i < job->count; i++) {
        const tsr_checkpoint_tensor *tensor = &job->tensors[i];
        uint64_t elements = (uint64_t)tsr_type_count(&tensor->type);
        uint64_t world = (uint64_t)job->world;
        if (tensor->shard_count < elements / world + (elements % world != 0))
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "tensor \"%s\": %d shards of %zu elements do not "
                             "cover its %" PRIu64,
                             tensor->name, job->world, tensor->shard_count,
                             elements);
    }
    return TSR_OK;
}

static tsr_status prepare(save_job *job) {
    TSR_TRY(tsr_alloc((size_t)job->world, TSR_AGREE_BYTES,
                      (void **)&job->messages));
    TSR_TRY(step_path(job, ".", ".tmp", &job->temporary));
    TSR_TRY(step_path(job, "", "", &job->published));
    TSR_TRY(step_path(job, ".", ".old", &job->aside));
    TSR_TRY(
        tsr_file_join(job->temporary, TSR_CHECKPOINT_MODEL, &job->model_path));
    TSR_TRY(tsr_file_join(job->temporary, TSR_CHECKPOINT_OPTIMIZER,
                          &job->optimizer_path));
    TSR_TRY(tsr_checkpoint_check_info(job->info));
    return check_shards(job);
}

/* What an earlier save of this step left when it was killed. */
static tsr_status clear_leftovers(const save_job *job) {
    struct stat info;
    if (lstat(job->published, &info) != 0 && errno == ENOENT &&
        rename(job->aside, job->published) != 0 && errno != ENOENT)
        return tsr_file_error("restore", job->aside, errno);
    int error = tsr_folder_remove(job->aside);
    if (error != 0)
        return tsr_file_error("remove", job->aside, error);
    error = tsr_folder_remove(job->temporary);
    if (error != 0)
        return tsr_file_error("remove", job->temporary, error);
    return TSR_OK;
}

/* Entries in the order of `tensors`: first all of prefixes[0], then of
 * prefixes[1]. */
static tsr_status create_tensors(const save_job *job, const char *path,
                                 const char *const *prefixes,
                                 size_t prefix_count) {
    static const tsr_safetensors_pair format = {"format", "pt"};
    tsr_status status = TSR_OK;
    tsr_safetensors_entry *entries = NULL;
    tsr_text names = {0};
    size_t total = prefix_count * job->count;

    TSR_TRY_GOTO(tsr_alloc(total, sizeof *entries, (void **)&entries));
    for (size_t i = 0; i < total; i++) {
        tsr_text_append(&names, "%s%s", prefixes[i / job->count],
                        job->tensors[i % job->count].name);
        tsr_text_append_bytes(&names, "", 1); /* keeps the terminator */
    }
    TSR_TRY_GOTO(tsr_text_status(&names));
    const char *name = names.data;
    for (size_t i = 0; i < total; i++, name += strlen(name) + 1)
        entries[i] =
            (tsr_safetensors_entry){name, job->tensors[i % job->count].type};
    TSR_TRY_GOTO(tsr_safetensors_create(path, entries, total, &format, 1));
done:
    tsr_text_release(&names);
    tsr_free(entries);
    return status;
}

static tsr_status write_trainer(const save_job *job) {
    tsr_status status = TSR_OK;
    tsr_text text = {0};
    char *path = NULL;

    TSR_TRY_GOTO(tsr_file_join(job->temporary, TSR_CHECKPOINT_TRAINER, &path));
    tsr_checkpoint_print_info(job->info, &text);
    TSR_TRY_GOTO(tsr_text_status(&text));
    TSR_TRY_GOTO(tsr_file_write(path, text.data, text.count));
done:
    tsr_text_release(&text);
    tsr_free(path);
    return status;
}

static tsr_status create(const save_job *job) {
    static const char *const none[] = {""};
    static const char *const moments[] = {"exp_avg.", "exp_avg_sq."};
    TSR_TRY(tsr_folder_create(job->dir));
    TSR_TRY(clear_leftovers(job));
    TSR_TRY(tsr_folder_create(job->temporary));
    TSR_TRY(create_tensors(job, job->model_path, none, 1));
    TSR_TRY(create_tensors(job, job->optimizer_path, moments, 2));
    TSR_TRY(tsr_config_write(job->temporary, job->config));
    return write_trainer(job);
}

/* This rank's part of tensor i, from `data`, into the file's tensor `index`. */
static tsr_status write_part(const save_job *job,
                             tsr_safetensors_writer *writer, size_t index,
                             size_t i, const float *data) {
    const tsr_checkpoint_tensor *tensor = &job->tensors[i];
    size_t part = tsr_checkpoint_part(tensor, job->rank);
    if (part == 0)
        return TSR_OK;
    int64_t first = (int64_t)((uint64_t)job->rank * tensor->shard_count);
    return tsr_safetensors_write(writer, index, first, part, data);
}

static tsr_status write_parts(const save_job *job) {
    tsr_status status = TSR_OK;
    tsr_safetensors_writer *model = NULL, *optimizer = NULL;

    TSR_TRY_GOTO(tsr_safetensors_writer_open(job->model_path, &model));
    TSR_TRY_GOTO(tsr_safetensors_writer_open(job->optimizer_path, &optimizer));
    for (size_t i = 0; i < job->count; i++) {
        const tsr_checkpoint_tensor *tensor = &job->tensors[i];
        TSR_TRY_GOTO(write_part(job, model, i, i, tensor->weights));
        TSR_TRY_GOTO(write_part(job, optimizer, i, i, tensor->exp_avg));
        TSR_TRY_GOTO(
            write_part(job, optimizer, job->count + i, i, tensor->exp_avg_sq));
    }
    TSR_TRY_GOTO(tsr_safetensors_writer_sync(model));
    TSR_TRY_GOTO(tsr_safetensors_writer_sync(optimizer));
done:
    tsr_safetensors_writer_release(model);
    tsr_safetensors_writer_release(optimizer);
    return status;
}

static tsr_status publish(const save_job *job) {
    TSR_TRY(tsr_folder_sync(job->temporary));
    bool replaces = rename(job->published, job->aside) == 0;
    if (!replaces && errno != ENOENT)
        return tsr_file_error("move aside", job->published, errno);
    if (rename(job->temporary, job->published) != 0) {
        int error = errno;
        if (replaces)
            (void)rename(job->aside, job->published);
        return tsr_file_error("rename to its final name", job->temporary,
                              error);
    }
    TSR_TRY(tsr_folder_sync(job->dir));
    /* The new one is safe; if the old one stays, the next save says why. */
    if (replaces)
        (void)tsr_folder_remove(job->aside);
    return TSR_OK;
}

tsr_status tsr_checkpoint_save(const char *dir, const tsr_checkpoint_info *info,
                               const tsr_gpt_config *config,
                               const tsr_checkpoint_tensor *tensors,
                               size_t count, tsr_bootstrap *bootstrap) {
    tsr_status status = TSR_OK;
    save_job job = {.dir = dir,
                    .info = info,
                    .config = config,
                    .tensors = tensors,
                    .count = count,
                    .rank = tsr_bootstrap_rank(bootstrap),
                    .world = tsr_bootstrap_world(bootstrap)};
    bool first = job.rank == 0, created = false;

    status = prepare(&job);
    TSR_TRY_GOTO(tsr_agree(bootstrap, status, job.messages));
    created = first;
    status = first ? create(&job) : TSR_OK;
    TSR_TRY_GOTO(tsr_agree(bootstrap, status, job.messages));
    status = write_parts(&job);
    TSR_TRY_GOTO(tsr_agree(bootstrap, status, job.messages));
    status = first ? publish(&job) : TSR_OK;
    TSR_TRY_GOTO(tsr_agree(bootstrap, status, job.messages));
done:
    if (status != TSR_OK && created)
        (void)tsr_folder_remove(job.temporary);
    release(&job);
    return status;
}
