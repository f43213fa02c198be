#include "train/checkpoint_info.h"

#include <inttypes.h>

#include "train/file.h"
#include "train/json.h"

#define FORMAT_VERSION 1 /* of trainer.json, read and written */

static tsr_status read_fields(const json_t *object, const char *path,
                              tsr_checkpoint_info *info) {
    int64_t version, seed;
    TSR_TRY(tsr_json_int(object, path, "version", 1, &version));
    if (version != FORMAT_VERSION)
        return tsr_error(TSR_UNSUPPORTED,
                         "%s is of version %" PRId64 "; only %d can be read",
                         path, version, FORMAT_VERSION);
    TSR_TRY(tsr_json_int(object, path, "step", 0, &info->step));
    TSR_TRY(tsr_json_int(object, path, "samples", 0, &info->samples));
    TSR_TRY(tsr_json_int(object, path, "seed", 0, &seed));
    TSR_TRY(tsr_json_int(object, path, "world", 1, &info->world));
    TSR_TRY(tsr_json_int(object, path, "batch", 1, &info->batch));
    TSR_TRY(tsr_json_int(object, path, "accumulate", 1, &info->accumulate));
    TSR_TRY(tsr_json_int(object, path, "seq", 1, &info->seq));
    info->seed = (uint64_t)seed;
    return TSR_OK;
}

static tsr_status open_trainer(const char *folder, char **out_path,
                               json_t **out_object) {
    *out_object = NULL;
    TSR_TRY(tsr_file_join(folder, TSR_CHECKPOINT_TRAINER, out_path));
    return tsr_json_read(*out_path, out_object);
}

tsr_status tsr_checkpoint_read_info(const char *folder,
                                    tsr_checkpoint_info *out_info) {
    tsr_status status = TSR_OK;
    tsr_checkpoint_info info = {0};
    json_t *object = NULL;
    char *path = NULL;

    TSR_TRY_GOTO(open_trainer(folder, &path, &object));
    TSR_TRY_GOTO(read_fields(object, path, &info));
    *out_info = info;
done:
    json_decref(object);
    tsr_free(path);
    return status;
}

tsr_status tsr_checkpoint_read_number(const char *folder, const char *key,
                                      double *out_number) {
    tsr_status status = TSR_OK;
    json_t *object = NULL;
    char *path = NULL;

    TSR_TRY_GOTO(open_trainer(folder, &path, &object));
    const json_t *value =
        json_object_get(json_object_get(object, "numbers"), key);
    if (!json_is_number(value))
        TSR_TRY_GOTO(
            tsr_error(TSR_NOT_FOUND, "%s has no number \"%s\"", path, key));
    *out_number = json_number_value(value);
done:
    json_decref(object);
    tsr_free(path);
    return status;
}

static tsr_status check_numbers(const char *text) {
    json_error_t error;
    json_t *object = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    const char *key;
    json_t *value;
    tsr_status status = TSR_OK;
    if (!json_is_object(object))
        status = tsr_error(TSR_INVALID_ARGUMENT,
                           "the numbers to save are no JSON object: %s",
                           object ? "another value" : error.text);
    json_object_foreach(object, key, value) {
        if (!json_is_number(value) && status == TSR_OK)
            status = tsr_error(TSR_INVALID_ARGUMENT,
                               "the number to save \"%.80s\" is none", key);
    }
    json_decref(object);
    return status;
}

tsr_status tsr_checkpoint_check_info(const tsr_checkpoint_info *info) {
    if (info->step < 0 || info->samples < 0 || info->seed > INT64_MAX ||
        info->world < 1 || info->batch < 1 || info->accumulate < 1 ||
        info->seq < 1)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "step %" PRId64 ", samples %" PRId64 ", seed %" PRIu64
                         ", world %" PRId64 ", batch %" PRId64
                         ", accumulate %" PRId64 ", seq %" PRId64
                         ": one of them cannot be",
                         info->step, info->samples, info->seed, info->world,
                         info->batch, info->accumulate, info->seq);
    return info->numbers ? check_numbers(info->numbers) : TSR_OK;
}

void tsr_checkpoint_print_info(const tsr_checkpoint_info *info,
                               tsr_text *text) {
    tsr_text_append(text,
                    "{\n"
                    "  \"format\": \"tessera checkpoint\",\n"
                    "  \"version\": %d,\n"
                    "  \"step\": %" PRId64 ",\n"
                    "  \"samples\": %" PRId64 ",\n"
                    "  \"seed\": %" PRIu64 ",\n"
                    "  \"world\": %" PRId64 ",\n"
                    "  \"batch\": %" PRId64 ",\n"
                    "  \"accumulate\": %" PRId64 ",\n"
                    "  \"seq\": %" PRId64 ",\n"
                    "  \"numbers\": %s\n"
                    "}\n",
                    FORMAT_VERSION, info->step, info->samples, info->seed,
                    info->world, info->batch, info->accumulate, info->seq,
                    info->numbers ? info->numbers : "{}");
}
