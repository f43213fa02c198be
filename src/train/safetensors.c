#include "train/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "train/file.h"
#include "train/safetensors_header.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "safetensors are little-endian; values are used as they lie in the file"
#endif

/* Element types of the format; bits of one element. */
static const struct {
    const char *name;
    unsigned bits;
    tsr_dtype dtype; /* TSR_DTYPE_COUNT: we have none */
} dtypes[] = {
    {"F32", 32, TSR_F32},
    {"BF16", 16, TSR_BF16},
    {"F16", 16, TSR_F16},
    {"I32", 32, TSR_I32},
    {"U8", 8, TSR_U8},
    {"BOOL", 8, TSR_DTYPE_COUNT},
    {"I8", 8, TSR_DTYPE_COUNT},
    {"I16", 16, TSR_DTYPE_COUNT},
    {"U16", 16, TSR_DTYPE_COUNT},
    {"U32", 32, TSR_DTYPE_COUNT},
    {"I64", 64, TSR_DTYPE_COUNT},
    {"U64", 64, TSR_DTYPE_COUNT},
    {"F64", 64, TSR_DTYPE_COUNT},
    {"C64", 64, TSR_DTYPE_COUNT},
    {"F8_E4M3", 8, TSR_DTYPE_COUNT},
    {"F8_E5M2", 8, TSR_DTYPE_COUNT},
    {"F8_E8M0", 8, TSR_DTYPE_COUNT},
    {"F6_E2M3", 6, TSR_DTYPE_COUNT},
    {"F6_E3M2", 6, TSR_DTYPE_COUNT},
    {"F4", 4, TSR_DTYPE_COUNT},
};
enum { DTYPES = sizeof dtypes / sizeof *dtypes };

static size_t find_dtype(const char *name) {
    size_t row = 0;
    while (row < DTYPES && strcmp(dtypes[row].name, name) != 0)
        row++;
    return row;
}

unsigned tsr_safetensors_bits(const char *name) {
    size_t row = find_dtype(name);
    return row < DTYPES ? dtypes[row].bits : 0;
}

const char *tsr_safetensors_dtype_name(tsr_dtype dtype) {
    for (size_t row = 0; row < DTYPES; row++)
        if (dtypes[row].dtype == dtype && dtype != TSR_DTYPE_COUNT)
            return dtypes[row].name;
    return NULL;
}

tsr_status tsr_safetensors_type(const tsr_safetensors *file,
                                const tsr_safetensors_tensor *tensor,
                                tsr_type *out_type) {
    tsr_type type = {0};
    size_t row = find_dtype(tensor->dtype);
    if (row == DTYPES || dtypes[row].dtype == TSR_DTYPE_COUNT)
        return tsr_error(TSR_UNSUPPORTED,
                         "%s: tensor \"%.200s\" has elements of type %.40s",
                         file->path, tensor->name, tensor->dtype);
    if (tensor->dims > TSR_MAX_DIMS)
        return tsr_error(TSR_UNSUPPORTED,
                         "%s: tensor \"%.200s\" has %zu dimensions, over %d",
                         file->path, tensor->name, tensor->dims, TSR_MAX_DIMS);
    type.dtype = dtypes[row].dtype;
    type.dims = (int)tensor->dims;
    for (size_t i = 0; i < tensor->dims; i++) {
        if (tensor->shape[i] == 0)
            return tsr_error(TSR_UNSUPPORTED,
                             "%s: tensor \"%.200s\" has no elements",
                             file->path, tensor->name);
        type.shape[i] = tensor->shape[i];
    }
    *out_type = type;
    return TSR_OK;
}

/* An empty file is not mapped: the parser says what it lacks. */
static tsr_status map_file(int fd, tsr_safetensors *file) {
    struct stat info;
    if (fstat(fd, &info) != 0)
        return tsr_file_error("look at", file->path, errno);
    if (!S_ISREG(info.st_mode))
        return tsr_error(TSR_IO, "%s is not a file", file->path);
    file->byte_count = (size_t)info.st_size;
    if (file->byte_count == 0)
        return TSR_OK;
    void *mapped = mmap(NULL, file->byte_count, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED)
        return tsr_file_error("map", file->path, errno);
    file->mapped = mapped;
    file->bytes = mapped;
    return TSR_OK;
}

static tsr_status create(const char *name, tsr_safetensors **out_file) {
    tsr_safetensors *file;
    *out_file = NULL;
    TSR_TRY(tsr_alloc(1, sizeof *file, (void **)&file));
    tsr_status status = tsr_strdup(name, strlen(name), &file->path);
    if (status != TSR_OK) {
        tsr_free(file);
        return status;
    }
    *out_file = file;
    return TSR_OK;
}

tsr_status tsr_safetensors_open(const char *path, tsr_safetensors **out_file) {
    tsr_status status = TSR_OK;
    tsr_safetensors *file = NULL;

    *out_file = NULL;
    /* O_NONBLOCK: opening a pipe must not block. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return tsr_file_error("open", path, errno);
    TSR_TRY_GOTO(create(path, &file));
    TSR_TRY_GOTO(map_file(fd, file));
    TSR_TRY_GOTO(tsr_safetensors_parse_header(file));
    *out_file = file;
    file = NULL; /* now the caller's */
done:
    close(fd);
    tsr_safetensors_release(file);
    return status;
}

tsr_status tsr_safetensors_parse(const char *name, const void *bytes,
                                 size_t count, tsr_safetensors **out_file) {
    tsr_safetensors *file;
    *out_file = NULL;
    TSR_TRY(create(name, &file));
    file->bytes = bytes;
    file->byte_count = count;
    tsr_status status = tsr_safetensors_parse_header(file);
    if (status != TSR_OK) {
        tsr_safetensors_release(file);
        return status;
    }
    *out_file = file;
    return TSR_OK;
}

void tsr_safetensors_release(tsr_safetensors *file) {
    if (!file)
        return;
    if (file->mapped)
        munmap(file->mapped, file->byte_count);
    json_decref(file->header);
    tsr_free(file->tensors);
    tsr_free((void *)file->by_name);
    tsr_free(file->path);
    tsr_free(file);
}

const char *tsr_safetensors_path(const tsr_safetensors *file) {
    return file->path;
}

size_t tsr_safetensors_count(const tsr_safetensors *file) {
    return file->count;
}

const tsr_safetensors_tensor *tsr_safetensors_at(const tsr_safetensors *file,
                                                 size_t index) {
    return &file->tensors[index];
}

const tsr_safetensors_tensor *tsr_safetensors_find(const tsr_safetensors *file,
                                                   const char *name) {
    size_t low = 0, high = file->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, file->by_name[middle]->name);
        if (order == 0)
            return file->by_name[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const char *tsr_safetensors_metadata(const tsr_safetensors *file,
                                     const char *key) {
    const json_t *metadata = json_object_get(file->header, "__metadata__");
    return json_string_value(json_object_get(metadata, key));
}
