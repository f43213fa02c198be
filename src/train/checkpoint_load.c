/* Reading a rank's parts of a checkpoint: everything is found and checked
 * first, then copied. */
#include <inttypes.h>
#include <string.h>

#include "base/half.h"
#include "base/text.h"
#include "train/checkpoint.h"
#include "train/file.h"
#include "train/safetensors.h"

/* What Hugging Face puts before the names of a model with a head. */
#define HF_PREFIX "transformer."

enum { WEIGHTS, EXP_AVG, EXP_AVG_SQ, KINDS };
static const char *const kind_prefixes[KINDS] = {"", "exp_avg.", "exp_avg_sq."};

typedef const tsr_safetensors_tensor *source;

typedef struct load_job {
    const tsr_checkpoint_tensor *tensors;
    size_t count;
    int rank;
    int kinds; /* WEIGHTS only, or all */
    /* owned */
    tsr_safetensors *model, *optimizer;
    source *sources[KINDS]; /* (count) each: where a tensor comes from */
} load_job;

static void release(load_job *job) {
    tsr_safetensors_release(job->model);
    tsr_safetensors_release(job->optimizer);
    for (int kind = 0; kind < KINDS; kind++)
        tsr_free((void *)job->sources[kind]);
}

static tsr_status open_file(const char *folder, const char *name,
                            tsr_safetensors **out_file) {
    char *path;
    *out_file = NULL;
    TSR_TRY(tsr_file_join(folder, name, &path));
    tsr_status status = tsr_safetensors_open(path, out_file);
    tsr_free(path);
    return status;
}

/* "F32 (2, 3)" */
static void append_type(tsr_text *text, const char *dtype, const int64_t *shape,
                        size_t dims) {
    tsr_text_append(text, "%.40s (", dtype);
    for (size_t i = 0; i < dims; i++)
        tsr_text_append(text, "%s%" PRId64, i == 0 ? "" : ", ", shape[i]);
    tsr_text_append(text, ")");
}

static tsr_status types_differ(const tsr_safetensors *file, source found,
                               const tsr_type *type) {
    tsr_text text = {0};
    tsr_text_append(&text, "%s: tensor \"%.200s\" is ",
                    tsr_safetensors_path(file), found->name);
    append_type(&text, found->dtype, found->shape, found->dims);
    tsr_text_append(&text, ", but the model's is ");
    append_type(&text, tsr_safetensors_dtype_name(type->dtype), type->shape,
                (size_t)type->dims);
    tsr_status status = tsr_text_status(&text);
    if (status == TSR_OK)
        status = tsr_error(TSR_INVALID_DATA, "%s", text.data);
    tsr_text_release(&text);
    return status;
}

static tsr_status find_name(const tsr_safetensors *file, const char *prefix,
                            const char *name, source *out_source) {
    tsr_text text = {0};
    tsr_text_append(&text, "%s%s", prefix, name);
    tsr_status status = tsr_text_status(&text);
    *out_source =
        status == TSR_OK ? tsr_safetensors_find(file, text.data) : NULL;
    tsr_text_release(&text);
    return status;
}

static tsr_status find_source(const load_job *job, int kind, size_t i) {
    const tsr_checkpoint_tensor *tensor = &job->tensors[i];
    const tsr_safetensors *file = kind == WEIGHTS ? job->model : job->optimizer;
    tsr_type type;
    source found;
    TSR_TRY(find_name(file, kind_prefixes[kind], tensor->name, &found));
    if (!found && kind == WEIGHTS)
        TSR_TRY(find_name(file, HF_PREFIX, tensor->name, &found));
    if (!found)
        return tsr_error(TSR_NOT_FOUND, "%s has no tensor \"%s%s\"",
                         tsr_safetensors_path(file), kind_prefixes[kind],
                         tensor->name);
    TSR_TRY(tsr_safetensors_type(file, found, &type));
    if (!tsr_type_equal(&type, &tensor->type))
        return types_differ(file, found, &tensor->type);
    job->sources[kind][i] = found;
    return TSR_OK;
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* A part of a block, other than the causal masks that old files carry. */
static bool belongs_to_block(const char *name) {
    if (strncmp(name, HF_PREFIX, strlen(HF_PREFIX)) == 0)
        name += strlen(HF_PREFIX);
    return strncmp(name, "h.", 2) == 0 && !ends_with(name, ".attn.bias") &&
           !ends_with(name, ".attn.masked_bias");
}

/* A block in the file that the model lacks: the file is of another model. */
static tsr_status check_rest(const load_job *job) {
    const tsr_safetensors *file = job->model;
    size_t file_count = tsr_safetensors_count(file);
    bool *used;
    tsr_status status = TSR_OK;
    TSR_TRY(tsr_alloc(file_count, sizeof *used, (void **)&used));
    for (size_t i = 0; i < job->count; i++)
        used[job->sources[WEIGHTS][i] - tsr_safetensors_at(file, 0)] = true;
    for (size_t i = 0; i < file_count && status == TSR_OK; i++) {
        const char *name = tsr_safetensors_at(file, i)->name;
        if (!used[i] && belongs_to_block(name))
            status = tsr_error(TSR_INVALID_DATA,
                               "%s: the model has no place for tensor "
                               "\"%.200s\": it is another model's file",
                               tsr_safetensors_path(file), name);
    }
    tsr_free(used);
    return status;
}

static tsr_status find_all(load_job *job) {
    for (int kind = 0; kind < job->kinds; kind++) {
        TSR_TRY(tsr_alloc(job->count, sizeof(source),
                          (void **)&job->sources[kind]));
        for (size_t i = 0; i < job->count; i++)
            TSR_TRY(find_source(job, kind, i));
    }
    return check_rest(job);
}

static void copy_part(const tsr_checkpoint_tensor *tensor, int rank,
                      source from, float *shard) {
    size_t part = tsr_checkpoint_part(tensor, rank);
    if (part > 0)
        memcpy(shard,
               from->data + (size_t)rank * tensor->shard_count * sizeof *shard,
               part * sizeof *shard);
    for (size_t i = part; i < tensor->shard_count; i++)
        shard[i] = 0;
}

/* The same, rounded to bf16. */
static void round_part(const tsr_checkpoint_tensor *tensor, int rank,
                       source from, uint16_t *twin) {
    size_t part = tsr_checkpoint_part(tensor, rank);
    size_t first = (size_t)rank * tensor->shard_count;
    for (size_t i = 0; i < part; i++) {
        float value;
        memcpy(&value, from->data + (first + i) * sizeof value, sizeof value);
        twin[i] = tsr_to_bf16(value);
    }
    memset(twin + part, 0, (tensor->shard_count - part) * sizeof *twin);
}

static void copy_all(const load_job *job) {
    for (size_t i = 0; i < job->count; i++) {
        const tsr_checkpoint_tensor *tensor = &job->tensors[i];
        float *shards[KINDS] = {tensor->weights, tensor->exp_avg,
                                tensor->exp_avg_sq};
        for (int kind = 0; kind < job->kinds; kind++)
            if (shards[kind])
                copy_part(tensor, job->rank, job->sources[kind][i],
                          shards[kind]);
        if (tensor->twin)
            round_part(tensor, job->rank, job->sources[WEIGHTS][i],
                       tensor->twin);
    }
}

tsr_status tsr_checkpoint_load(const char *folder,
                               const tsr_checkpoint_tensor *tensors,
                               size_t count, int rank, bool with_optimizer) {
    tsr_status status = TSR_OK;
    load_job job = {.tensors = tensors,
                    .count = count,
                    .rank = rank,
                    .kinds = with_optimizer ? KINDS : WEIGHTS + 1};

    TSR_TRY_GOTO(tsr_checkpoint_check(tensors, count, with_optimizer));
    TSR_TRY_GOTO(open_file(folder, TSR_CHECKPOINT_MODEL, &job.model));
    if (with_optimizer)
        TSR_TRY_GOTO(
            open_file(folder, TSR_CHECKPOINT_OPTIMIZER, &job.optimizer));
    TSR_TRY_GOTO(find_all(&job));
    copy_all(&job);
done:
    release(&job);
    return status;
}
