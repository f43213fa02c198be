/* What a checkpoint folder is: which tensors, which files, which is newest. */
#include "train/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "train/config.h"
#include "train/file.h"

size_t tsr_checkpoint_part(const tsr_checkpoint_tensor *tensor, int rank) {
    uint64_t count = (uint64_t)tsr_type_count(&tensor->type);
    uint64_t begin = (uint64_t)rank * tensor->shard_count;
    if (begin >= count)
        return 0;
    return count - begin < tensor->shard_count ? (size_t)(count - begin)
                                               : tensor->shard_count;
}

static bool type_can_be(const tsr_type *type) {
    uint64_t bytes = sizeof(float);
    if (type->dtype != TSR_F32 || type->dims < 0 || type->dims > TSR_MAX_DIMS)
        return false;
    for (int i = 0; i < type->dims; i++) {
        if (type->shape[i] < 1 || bytes > INT64_MAX / (uint64_t)type->shape[i])
            return false;
        bytes *= (uint64_t)type->shape[i];
    }
    return true;
}

tsr_status tsr_checkpoint_check(const tsr_checkpoint_tensor *tensors,
                                size_t count, bool with_optimizer) {
    if (count == 0)
        return tsr_error(TSR_INVALID_ARGUMENT, "a checkpoint without tensors");
    for (size_t i = 0; i < count; i++) {
        const tsr_checkpoint_tensor *tensor = &tensors[i];
        if (!tensor->name || tensor->name[0] == '\0')
            return tsr_error(TSR_INVALID_ARGUMENT, "tensor %zu has no name", i);
        if (!type_can_be(&tensor->type))
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "tensor \"%s\": the type is not f32 of a shape "
                             "that can be",
                             tensor->name);
        if (tensor->shard_count == 0 || (!tensor->weights && !tensor->twin) ||
            (with_optimizer &&
             (!tensor->weights || !tensor->exp_avg || !tensor->exp_avg_sq)))
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "tensor \"%s\": a shard is missing", tensor->name);
    }
    return TSR_OK;
}

/* True when the folder holds all of the files. */
static tsr_status holds(const char *folder, const char *const *names,
                        size_t name_count, bool *out_holds) {
    *out_holds = true;
    for (size_t i = 0; i < name_count && *out_holds; i++) {
        char *path;
        TSR_TRY(tsr_file_join(folder, names[i], &path));
        *out_holds = tsr_file_exists(path);
        tsr_free(path);
    }
    return TSR_OK;
}

static tsr_status holds_model(const char *folder, bool *out_holds) {
    static const char *const names[] = {TSR_CHECKPOINT_MODEL, TSR_CONFIG_MODEL};
    return holds(folder, names, sizeof names / sizeof *names, out_holds);
}

static tsr_status holds_step(const char *folder, bool *out_holds) {
    static const char *const names[] = {
        TSR_CHECKPOINT_MODEL, TSR_CHECKPOINT_OPTIMIZER, TSR_CHECKPOINT_TRAINER,
        TSR_CONFIG_MODEL, TSR_CONFIG_GENERATION};
    return holds(folder, names, sizeof names / sizeof *names, out_holds);
}

/* N of "step-N" written as save does: no sign, no leading zero. */
static bool parse_step(const char *name, int64_t *out_step) {
    if (strncmp(name, "step-", 5) != 0 ||
        name[5 + strspn(name + 5, "0123456789")] != '\0' ||
        (name[5] == '0' && name[6] != '\0'))
        return false;
    return tsr_parse_int64(name + 5, out_step);
}

static tsr_status newest_step(DIR *folder, const char *path,
                              char **out_folder) {
    int64_t newest = -1, step;
    struct dirent *entry;
    while ((errno = 0, entry = readdir(folder)) != NULL) {
        char *candidate;
        bool complete;
        if (!parse_step(entry->d_name, &step) || step <= newest)
            continue;
        TSR_TRY(tsr_file_join(path, entry->d_name, &candidate));
        tsr_status status = holds_step(candidate, &complete);
        if (status != TSR_OK || !complete) {
            tsr_free(candidate);
            TSR_TRY(status);
            continue;
        }
        tsr_free(*out_folder);
        *out_folder = candidate;
        newest = step;
    }
    return errno == 0 ? TSR_OK : tsr_file_error("list", path, errno);
}

tsr_status tsr_checkpoint_find(const char *path, char **out_folder) {
    bool found;
    *out_folder = NULL;
    TSR_TRY(holds_model(path, &found));
    if (found)
        return tsr_strdup(path, strlen(path), out_folder);
    DIR *folder = opendir(path);
    if (!folder)
        return tsr_file_error("open", path, errno);
    tsr_status status = newest_step(folder, path, out_folder);
    closedir(folder);
    if (status != TSR_OK) {
        tsr_free(*out_folder);
        *out_folder = NULL;
        return status;
    }
    if (!*out_folder)
        return tsr_error(TSR_NOT_FOUND,
                         "%s holds neither a model (" TSR_CHECKPOINT_MODEL
                         " and " TSR_CONFIG_MODEL
                         ") nor a complete checkpoint step-N",
                         path);
    return TSR_OK;
}
