#include "train/json.h"

#include <inttypes.h>

#include "base/memory.h"
#include "train/file.h"

/* A configuration is a few KiB; more is another kind of file. */
#define JSON_FILE_BYTES ((size_t)16 << 20)

tsr_status tsr_json_read(const char *path, json_t **out_object) {
    char *bytes;
    size_t count;
    json_error_t error;
    *out_object = NULL;
    TSR_TRY(tsr_file_read(path, JSON_FILE_BYTES, &bytes, &count));
    json_t *value = json_loadb(bytes, count, JSON_REJECT_DUPLICATES, &error);
    tsr_free(bytes);
    if (!value && json_error_code(&error) == json_error_out_of_memory)
        return tsr_error(TSR_OUT_OF_MEMORY, "%s: no memory to parse it", path);
    if (!value)
        return tsr_error(TSR_INVALID_DATA, "%s: line %d, column %d: %s", path,
                         error.line, error.column, error.text);
    if (!json_is_object(value)) {
        json_decref(value);
        return tsr_error(TSR_INVALID_DATA, "%s is not a JSON object", path);
    }
    *out_object = value;
    return TSR_OK;
}

tsr_status tsr_json_int(const json_t *object, const char *path, const char *key,
                        int64_t low, int64_t *out_value) {
    const json_t *value = json_object_get(object, key);
    if (!value)
        return tsr_error(TSR_INVALID_DATA, "%s has no \"%s\"", path, key);
    if (!json_is_integer(value))
        return tsr_error(TSR_INVALID_DATA, "%s: \"%s\" is not an integer", path,
                         key);
    if (json_integer_value(value) < low)
        return tsr_error(TSR_INVALID_DATA,
                         "%s: \"%s\" is %" JSON_INTEGER_FORMAT
                         ", less than %" PRId64,
                         path, key, json_integer_value(value), low);
    *out_value = json_integer_value(value);
    return TSR_OK;
}
