#include "train/safetensors_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "train/file.h"
#include "train/safetensors_header.h"

#define ALIGNMENT 8    /* of the header's end: the format asks for it */
#define LENGTH_BYTES 8 /* of the header's length, before it */

struct tsr_safetensors_writer {
    int fd;
    tsr_safetensors *file; /* owned: where each tensor lies */
};

/* Bytes of a tensor; false if the type cannot be. */
static bool bytes_of(const tsr_type *type, uint64_t *out_bytes) {
    if (type->dims < 0 || type->dims > TSR_MAX_DIMS)
        return false;
    uint64_t bytes = tsr_dtype_bytes(type->dtype);
    for (int i = 0; i < type->dims; i++) {
        if (type->shape[i] < 1 || bytes > INT64_MAX / (uint64_t)type->shape[i])
            return false;
        bytes *= (uint64_t)type->shape[i];
    }
    *out_bytes = bytes;
    return bytes > 0;
}

/* {"dtype": .., "shape": [..], "data_offsets": [begin, end]}, or NULL. */
static json_t *make_entry(const tsr_type *type, uint64_t begin, uint64_t end) {
    json_t *shape = json_array();
    int failed = 0;
    for (int i = 0; i < type->dims; i++)
        failed |= json_array_append_new(shape, json_integer(type->shape[i]));
    if (failed) {
        json_decref(shape);
        return NULL;
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype",
                     tsr_safetensors_dtype_name(type->dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)end);
}

static tsr_status add_entries(json_t *header, const char *path,
                              const tsr_safetensors_entry *entries,
                              size_t count, uint64_t *out_bytes) {
    uint64_t begin = 0, bytes;
    for (size_t i = 0; i < count; i++) {
        const char *name = entries[i].name;
        if (!bytes_of(&entries[i].type, &bytes) || bytes > INT64_MAX - begin)
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "%s: tensor \"%s\" has a shape or element type "
                             "that cannot be",
                             path, name);
        if (strcmp(name, "__metadata__") == 0 || json_object_get(header, name))
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "%s: the tensor name \"%s\" is taken", path, name);
        json_t *entry = make_entry(&entries[i].type, begin, begin + bytes);
        if (json_object_set_new(header, name, entry) != 0)
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "%s: the tensor name \"%s\" is not UTF-8 (or "
                             "memory has run out)",
                             path, name);
        begin += bytes;
    }
    *out_bytes = begin;
    return TSR_OK;
}

static tsr_status add_metadata(json_t *header, const char *path,
                               const tsr_safetensors_pair *metadata,
                               size_t pair_count) {
    json_t *object = json_object();
    int failed = 0;
    for (size_t i = 0; i < pair_count; i++)
        failed |= json_object_set_new(object, metadata[i].key,
                                      json_string(metadata[i].value));
    failed |= json_object_set_new(header, "__metadata__", object);
    if (failed)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%s: the metadata is not UTF-8 (or memory has run "
                         "out)",
                         path);
    return TSR_OK;
}

/* The file's first bytes: length, JSON, spaces up to the alignment. */
static tsr_status print_header(const json_t *header, const char *path,
                               char **out_bytes, size_t *out_count) {
    size_t length = json_dumpb(header, NULL, 0, JSON_COMPACT);
    size_t padded = tsr_round_up(length, ALIGNMENT);
    char *bytes;
    *out_bytes = NULL;
    if (length == 0)
        return tsr_error(TSR_OUT_OF_MEMORY, "%s: no memory for the header",
                         path);
    if (padded > TSR_SAFETENSORS_HEADER_BYTES)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%s: a header of %zu bytes is over the format's limit "
                         "of %d",
                         path, padded, TSR_SAFETENSORS_HEADER_BYTES);
    TSR_TRY(tsr_alloc(LENGTH_BYTES + padded, 1, (void **)&bytes));
    for (unsigned i = 0; i < LENGTH_BYTES; i++)
        bytes[i] = (char)((uint64_t)padded >> 8 * i & 0xff);
    memset(bytes + LENGTH_BYTES, ' ', padded);
    if (json_dumpb(header, bytes + LENGTH_BYTES, length, JSON_COMPACT) !=
        length) {
        tsr_free(bytes);
        return tsr_error(TSR_OUT_OF_MEMORY, "%s: no memory for the header",
                         path);
    }
    *out_bytes = bytes;
    *out_count = LENGTH_BYTES + padded;
    return TSR_OK;
}

/* Where a file system cannot reserve, its size is set at least. */
static int reserve(int fd, uint64_t bytes) {
    int error;
    do
        error = posix_fallocate(fd, 0, (off_t)bytes);
    while (error == EINTR);
    if (error == EOPNOTSUPP || error == EINVAL)
        error = ftruncate(fd, (off_t)bytes) == 0 ? 0 : errno;
    return error;
}

static tsr_status create_file(const char *path, const char *header,
                              size_t header_bytes, uint64_t data_bytes) {
    tsr_status status = TSR_OK;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return tsr_file_error("create", path, errno);
    int error = data_bytes > (uint64_t)INT64_MAX - header_bytes
                    ? EFBIG
                    : reserve(fd, header_bytes + data_bytes);
    if (error != 0)
        TSR_TRY_GOTO(tsr_file_error("reserve the space of", path, error));
    TSR_TRY_GOTO(tsr_file_write_at(fd, path, 0, header, header_bytes));
done:
    close(fd);
    if (status != TSR_OK)
        unlink(path);
    return status;
}

tsr_status tsr_safetensors_create(const char *path,
                                  const tsr_safetensors_entry *entries,
                                  size_t count,
                                  const tsr_safetensors_pair *metadata,
                                  size_t pair_count) {
    tsr_status status = TSR_OK;
    char *bytes = NULL;
    size_t header_bytes = 0;
    uint64_t data_bytes = 0;
    json_t *header = json_object();

    if (!header)
        return tsr_error(TSR_OUT_OF_MEMORY, "%s: no memory for the header",
                         path);
    if (pair_count > 0)
        TSR_TRY_GOTO(add_metadata(header, path, metadata, pair_count));
    TSR_TRY_GOTO(add_entries(header, path, entries, count, &data_bytes));
    TSR_TRY_GOTO(print_header(header, path, &bytes, &header_bytes));
    TSR_TRY_GOTO(create_file(path, bytes, header_bytes, data_bytes));
done:
    tsr_free(bytes);
    json_decref(header);
    return status;
}

tsr_status tsr_safetensors_writer_open(const char *path,
                                       tsr_safetensors_writer **out_writer) {
    tsr_status status = TSR_OK;
    tsr_safetensors_writer *writer = NULL;

    *out_writer = NULL;
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *writer, (void **)&writer));
    writer->fd = open(path, O_WRONLY | O_CLOEXEC);
    if (writer->fd < 0)
        TSR_TRY_GOTO(tsr_file_error("open", path, errno));
    TSR_TRY_GOTO(tsr_safetensors_open(path, &writer->file));
    *out_writer = writer;
    writer = NULL; /* now the caller's */
done:
    tsr_safetensors_writer_release(writer);
    return status;
}

tsr_status tsr_safetensors_write(tsr_safetensors_writer *writer, size_t index,
                                 int64_t first, size_t count,
                                 const void *data) {
    const tsr_safetensors *file = writer->file;
    if (index >= file->count)
        return tsr_error(TSR_INVALID_ARGUMENT, "%s has no tensor %zu",
                         file->path, index);
    const tsr_safetensors_tensor *tensor = &file->tensors[index];
    size_t element = tsr_safetensors_bits(tensor->dtype) / 8;
    size_t elements = element == 0 ? 0 : tensor->bytes / element;
    if (first < 0 || (uint64_t)first > elements ||
        count > elements - (size_t)first)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%s: tensor \"%.200s\" has %zu elements; %zu from "
                         "%" PRId64 " on are not all in it",
                         file->path, tensor->name, elements, count, first);
    uint64_t offset =
        (uint64_t)(tensor->data - file->bytes) + (uint64_t)first * element;
    tsr_status status = tsr_file_write_at(writer->fd, file->path, offset, data,
                                          count * element);
    return status == TSR_OK
               ? TSR_OK
               : tsr_error_at(status, "tensor \"%.200s\"", tensor->name);
}

tsr_status tsr_safetensors_writer_sync(tsr_safetensors_writer *writer) {
    if (fsync(writer->fd) != 0)
        return tsr_file_error("sync", writer->file->path, errno);
    return TSR_OK;
}

void tsr_safetensors_writer_release(tsr_safetensors_writer *writer) {
    if (!writer)
        return;
    if (writer->fd >= 0)
        close(writer->fd);
    tsr_safetensors_release(writer->file);
    tsr_free(writer);
}
