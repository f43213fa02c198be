#include "train/safetensors_header.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

#define LENGTH_BYTES 8 /* of the header's length, before it */

/* What is wrong with one tensor. A name from a file may be of any length. */
static tsr_status damaged(const tsr_safetensors *file, const char *name,
                          const char *what) {
    return tsr_error(TSR_INVALID_DATA, "%s: tensor \"%.200s\": %s", file->path,
                     name, what);
}

static tsr_status parse_shape(const tsr_safetensors *file, const json_t *shape,
                              tsr_safetensors_tensor *tensor,
                              uint64_t *out_count) {
    if (!json_is_array(shape))
        return damaged(file, tensor->name, "\"shape\" is not an array");
    tensor->dims = json_array_size(shape);
    if (tensor->dims > TSR_SAFETENSORS_DIMS)
        return tsr_error(TSR_UNSUPPORTED,
                         "%s: tensor \"%.200s\" has %zu dimensions; up to %d "
                         "can be read",
                         file->path, tensor->name, tensor->dims,
                         TSR_SAFETENSORS_DIMS);
    uint64_t count = 1;
    for (size_t i = 0; i < tensor->dims; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return damaged(file, tensor->name,
                           "\"shape\" holds something that is not a count");
        tensor->shape[i] = json_integer_value(size);
        if (tensor->shape[i] != 0 &&
            count > INT64_MAX / (uint64_t)tensor->shape[i])
            return damaged(file, tensor->name,
                           "\"shape\" has too many elements");
        count *= (uint64_t)tensor->shape[i];
    }
    *out_count = count;
    return TSR_OK;
}

static tsr_status parse_offsets(const tsr_safetensors *file,
                                const json_t *offsets,
                                tsr_safetensors_tensor *tensor) {
    const json_t *begin = json_array_get(offsets, 0);
    const json_t *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) ||
        !json_is_integer(end) || json_integer_value(begin) < 0)
        return damaged(file, tensor->name,
                       "\"data_offsets\" is not [begin, end]");
    uint64_t data_bytes =
        (uint64_t)(file->bytes + file->byte_count - file->data);
    if (json_integer_value(end) < json_integer_value(begin))
        return damaged(file, tensor->name, "it ends before it begins");
    if ((uint64_t)json_integer_value(end) > data_bytes)
        return tsr_error(
            TSR_INVALID_DATA,
            "%s: tensor \"%.200s\" ends at byte %" JSON_INTEGER_FORMAT
            " of %" PRIu64 ": the file is cut short",
            file->path, tensor->name, json_integer_value(end), data_bytes);
    tensor->data = file->data + json_integer_value(begin);
    tensor->bytes =
        (size_t)(json_integer_value(end) - json_integer_value(begin));
    return TSR_OK;
}

static tsr_status parse_tensor(const tsr_safetensors *file, const char *name,
                               const json_t *entry,
                               tsr_safetensors_tensor *tensor) {
    uint64_t count = 0;
    tensor->name = name;
    if (!json_is_object(entry))
        return damaged(file, name, "its entry is not an object");
    tensor->dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!tensor->dtype)
        return damaged(file, name, "\"dtype\" is not a string");
    TSR_TRY(parse_shape(file, json_object_get(entry, "shape"), tensor, &count));
    TSR_TRY(
        parse_offsets(file, json_object_get(entry, "data_offsets"), tensor));

    uint64_t bits = tsr_safetensors_bits(tensor->dtype);
    if (bits == 0)
        return TSR_OK; /* newer than we are: refused when used */
    if (count > UINT64_MAX / bits || count * bits % 8 != 0 ||
        count * bits / 8 != tensor->bytes)
        return tsr_error(TSR_INVALID_DATA,
                         "%s: tensor \"%.200s\" has %zu bytes; its shape of "
                         "%" PRIu64 " %s elements asks for another number",
                         file->path, name, tensor->bytes, count, tensor->dtype);
    return TSR_OK;
}

static tsr_status check_metadata(const tsr_safetensors *file) {
    json_t *metadata = json_object_get(file->header, "__metadata__");
    const char *key;
    json_t *value;
    if (metadata && !json_is_object(metadata))
        return tsr_error(TSR_INVALID_DATA, "%s: __metadata__ is not an object",
                         file->path);
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return tsr_error(TSR_INVALID_DATA,
                             "%s: __metadata__ \"%.200s\" is not a string",
                             file->path, key);
    }
    return TSR_OK;
}

/* Empty tensors come before the one that begins where they lie. */
static int compare_places(const void *a, const void *b) {
    const tsr_safetensors_tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int compare_names(const void *a, const void *b) {
    const tsr_safetensors_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* Tensors fill the file from the header to its end. */
static tsr_status check_places(const tsr_safetensors *file) {
    const unsigned char *end = file->data;
    for (size_t i = 0; i < file->count; i++) {
        const tsr_safetensors_tensor *tensor = &file->tensors[i];
        if (tensor->data < end)
            return damaged(file, tensor->name, "it overlaps another tensor");
        if (tensor->data > end)
            return damaged(file, tensor->name,
                           "there is a hole in the file before it");
        end = tensor->data + tensor->bytes;
    }
    if (end != file->bytes + file->byte_count)
        return tsr_error(TSR_INVALID_DATA,
                         "%s has %zu bytes after its last tensor", file->path,
                         (size_t)(file->bytes + file->byte_count - end));
    return TSR_OK;
}

static tsr_status parse_tensors(tsr_safetensors *file) {
    const char *name;
    json_t *entry;
    size_t entries = json_object_size(file->header);
    TSR_TRY(tsr_alloc(entries, sizeof *file->tensors, (void **)&file->tensors));
    TSR_TRY(tsr_alloc(entries, sizeof *file->by_name, (void **)&file->by_name));
    json_object_foreach(file->header, name, entry) {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        TSR_TRY(parse_tensor(file, name, entry, &file->tensors[file->count]));
        file->count++;
    }
    if (file->count > 0)
        qsort(file->tensors, file->count, sizeof *file->tensors,
              compare_places);
    TSR_TRY(check_places(file));
    for (size_t i = 0; i < file->count; i++)
        file->by_name[i] = &file->tensors[i];
    if (file->count > 0)
        qsort(file->by_name, file->count, sizeof(void *), compare_names);
    return TSR_OK;
}

tsr_status tsr_safetensors_parse_header(tsr_safetensors *file) {
    uint64_t length = 0;
    json_error_t error;
    if (file->byte_count < LENGTH_BYTES)
        return tsr_error(TSR_INVALID_DATA,
                         "%s has %zu bytes: it is not a safetensors file",
                         file->path, file->byte_count);
    for (unsigned i = 0; i < LENGTH_BYTES; i++)
        length |= (uint64_t)file->bytes[i] << 8 * i;
    if (length > TSR_SAFETENSORS_HEADER_BYTES)
        return tsr_error(TSR_INVALID_DATA,
                         "%s is damaged, or no safetensors file: it says that "
                         "its header has %" PRIu64
                         " bytes; the format's limit is %d",
                         file->path, length, TSR_SAFETENSORS_HEADER_BYTES);
    if (length > file->byte_count - LENGTH_BYTES)
        return tsr_error(TSR_INVALID_DATA,
                         "%s is damaged, or no safetensors file: it says that "
                         "its header has %" PRIu64
                         " bytes, but is only %zu bytes long",
                         file->path, length, file->byte_count);
    const char *text = (const char *)file->bytes + LENGTH_BYTES;
    file->data = file->bytes + LENGTH_BYTES + length;
    if (length == 0 || text[0] != '{')
        return tsr_error(TSR_INVALID_DATA,
                         "%s: the header does not begin with '{'", file->path);
    file->header =
        json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!file->header && json_error_code(&error) == json_error_out_of_memory)
        return tsr_error(TSR_OUT_OF_MEMORY, "%s: no memory to parse the header",
                         file->path);
    if (!file->header)
        return tsr_error(TSR_INVALID_DATA, "%s: header, byte %d: %s",
                         file->path, error.position, error.text);
    TSR_TRY(check_metadata(file));
    return parse_tensors(file);
}
