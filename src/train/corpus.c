/* Documents and where their bytes lie.
 *
 * Invariants, once open:
 *  1. documents are sorted by `first`; the first one's is 0
 *  2. documents[i + 1].first == documents[i].first + documents[i].bytes + 1:
 *     one separator between two
 *  3. every document has at least one byte, and none of them is NUL */
#include "train/corpus.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/text.h"
#include "train/file.h"

#define MAP_FROM_BYTES ((size_t)1 << 20)
#define MAX_DEPTH 100 /* folders in folders; ends a loop of mounts */

typedef struct document {
    int64_t first; /* token index of its first byte */
    size_t bytes;
    const uint8_t *mapped; /* NULL: in the buffer, */
    size_t offset;         /* there */
    dev_t device;          /* the file: */
    ino_t file;
} document;

struct tsr_corpus {
    TSR_ARRAY(document) documents;
    TSR_ARRAY(uint8_t) buffer; /* the small files, back to back */
    size_t skipped;
};

static const uint8_t *bytes_of(const tsr_corpus *corpus, const document *text) {
    return text->mapped ? text->mapped : corpus->buffer.data + text->offset;
}

int64_t tsr_corpus_tokens(const tsr_corpus *corpus) {
    if (corpus->documents.count == 0)
        return 0; /* only while opening */
    const document *last = &corpus->documents.data[corpus->documents.count - 1];
    return last->first + (int64_t)last->bytes;
}

size_t tsr_corpus_documents(const tsr_corpus *corpus) {
    return corpus->documents.count;
}

size_t tsr_corpus_skipped(const tsr_corpus *corpus) { return corpus->skipped; }

uint64_t tsr_corpus_hash(const tsr_corpus *corpus) {
    uint64_t hash = 0;
    for (size_t i = 0; i < corpus->documents.count; i++) {
        const document *text = &corpus->documents.data[i];
        const uint64_t parts[] = {
            hash, text->bytes,
            XXH3_64bits(bytes_of(corpus, text), text->bytes)};
        hash = XXH3_64bits(parts, sizeof parts);
    }
    return hash;
}

bool tsr_corpus_has_file(const tsr_corpus *corpus, const char *path) {
    struct stat info;
    if (stat(path, &info) != 0)
        return false;
    for (size_t i = 0; i < corpus->documents.count; i++)
        if (corpus->documents.data[i].device == info.st_dev &&
            corpus->documents.data[i].file == info.st_ino)
            return true;
    return false;
}

/* A file that is no text: an error where the user named it, else counted. */
static tsr_status refuse(tsr_corpus *corpus, const char *path, bool named,
                         const char *why) {
    if (named)
        return tsr_error(TSR_INVALID_DATA, "%s %s", path, why);
    corpus->skipped++;
    return TSR_OK;
}

static tsr_status map_file(int fd, const char *path, size_t bytes,
                           document *out_text) {
    void *mapped = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED)
        return tsr_file_error("map", path, errno);
    out_text->mapped = mapped;
    out_text->bytes = bytes;
    return TSR_OK;
}

/* Reads up to `bytes` behind the buffer's end without moving that. */
static tsr_status read_file(tsr_corpus *corpus, int fd, const char *path,
                            size_t bytes, document *out_text) {
    TSR_TRY(TSR_ARRAY_RESERVE(&corpus->buffer, bytes));
    uint8_t *to = corpus->buffer.data + corpus->buffer.count;
    size_t count = 0;
    while (count < bytes) {
        ssize_t got = read(fd, to + count, bytes - count);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return tsr_file_error("read", path, errno);
        if (got == 0)
            break; /* it has shrunk since it was opened */
        count += (size_t)got;
    }
    out_text->offset = corpus->buffer.count;
    out_text->bytes = count;
    return TSR_OK;
}

static tsr_status add_open_file(tsr_corpus *corpus, int fd, const char *path,
                                bool named) {
    struct stat info;
    if (fstat(fd, &info) != 0)
        return tsr_file_error("look at", path, errno);
    document text = {.device = info.st_dev, .file = info.st_ino};
    if (!S_ISREG(info.st_mode))
        return refuse(corpus, path, named, "is not a file");
    size_t bytes = (size_t)info.st_size;

    TSR_TRY(TSR_ARRAY_RESERVE(&corpus->documents, 1));
    if (bytes >= MAP_FROM_BYTES)
        TSR_TRY(map_file(fd, path, bytes, &text));
    else if (bytes > 0)
        TSR_TRY(read_file(corpus, fd, path, bytes, &text));

    if (text.bytes == 0)
        return refuse(corpus, path, named, "is empty");
    if (memchr(bytes_of(corpus, &text), '\0', text.bytes)) {
        if (text.mapped)
            munmap((void *)text.mapped, text.bytes);
        return refuse(corpus, path, named,
                      "contains a NUL byte: it is not text");
    }
    text.first =
        corpus->documents.count == 0 ? 0 : tsr_corpus_tokens(corpus) + 1;
    if (!text.mapped)
        corpus->buffer.count += text.bytes;
    TSR_ARRAY_PUSH(&corpus->documents, text);
    return TSR_OK;
}

static tsr_status add_file(tsr_corpus *corpus, const char *path, bool named) {
    /* O_NONBLOCK: a pipe that took the file's place must not block us. */
    int fd = open(path,
                  O_RDONLY | O_CLOEXEC | O_NONBLOCK | (named ? 0 : O_NOFOLLOW));
    if (fd < 0)
        return tsr_file_error("open", path, errno);
    tsr_status status = add_open_file(corpus, fd, path, named);
    close(fd);
    return status;
}

typedef struct name_list {
    TSR_ARRAY(char *) names; /* owned, and so is each */
} name_list;

static void release_names(name_list *list) {
    for (size_t i = 0; i < list->names.count; i++)
        tsr_free(list->names.data[i]);
    TSR_ARRAY_FREE(&list->names);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The folder's entries in bytewise order. */
static tsr_status list_folder(const char *path, name_list *list) {
    tsr_status status = TSR_OK;
    struct dirent *entry;
    DIR *folder = opendir(path);
    if (!folder)
        return tsr_file_error("open", path, errno);
    while ((errno = 0, entry = readdir(folder)) != NULL) {
        char *name = NULL;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        TSR_TRY_GOTO(TSR_ARRAY_RESERVE(&list->names, 1));
        TSR_TRY_GOTO(tsr_strdup(entry->d_name, strlen(entry->d_name), &name));
        TSR_ARRAY_PUSH(&list->names, name);
    }
    if (errno != 0)
        TSR_TRY_GOTO(tsr_file_error("list", path, errno));
    if (list->names.count > 0)
        qsort(list->names.data, list->names.count, sizeof *list->names.data,
              compare_names);
done:
    closedir(folder);
    return status;
}

static tsr_status add_folder(tsr_corpus *corpus, const char *path, int depth);

static tsr_status add_entry(tsr_corpus *corpus, const char *path, int depth) {
    struct stat info;
    if (lstat(path, &info) != 0)
        return tsr_file_error("look at", path, errno);
    if (S_ISDIR(info.st_mode))
        return add_folder(corpus, path, depth + 1);
    if (S_ISREG(info.st_mode))
        return add_file(corpus, path, false);
    corpus->skipped++;
    return TSR_OK;
}

static tsr_status add_folder(tsr_corpus *corpus, const char *path, int depth) {
    tsr_status status = TSR_OK;
    name_list list = {0};

    if (depth > MAX_DEPTH)
        return tsr_error(TSR_INVALID_DATA, "%s lies more than %d folders deep",
                         path, MAX_DEPTH);
    TSR_TRY_GOTO(list_folder(path, &list));
    for (size_t i = 0; i < list.names.count; i++) {
        char *entry;
        TSR_TRY_GOTO(tsr_file_join(path, list.names.data[i], &entry));
        status = add_entry(corpus, entry, depth);
        tsr_free(entry);
        if (status != TSR_OK)
            goto done;
    }
done:
    release_names(&list);
    return status;
}

static tsr_status add_path(tsr_corpus *corpus, const char *path) {
    struct stat info;
    if (stat(path, &info) != 0)
        return tsr_file_error("open", path, errno);
    if (S_ISREG(info.st_mode))
        return add_file(corpus, path, true);
    if (!S_ISDIR(info.st_mode))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%s is neither a file nor a folder", path);
    size_t before = corpus->documents.count;
    TSR_TRY(add_folder(corpus, path, 0));
    if (corpus->documents.count == before)
        return tsr_error(TSR_INVALID_DATA, "%s holds no text files", path);
    return TSR_OK;
}

tsr_status tsr_corpus_open(const char *const *paths, size_t path_count,
                           tsr_corpus **out_corpus) {
    tsr_status status = TSR_OK;
    tsr_corpus *corpus = NULL;

    *out_corpus = NULL;
    if (path_count == 0)
        return tsr_error(TSR_INVALID_ARGUMENT, "no text files are given");
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *corpus, (void **)&corpus));
    for (size_t i = 0; i < path_count; i++)
        TSR_TRY_GOTO(add_path(corpus, paths[i]));
    *out_corpus = corpus;
    corpus = NULL; /* now the caller's */
done:
    tsr_corpus_release(corpus);
    return status;
}

void tsr_corpus_release(tsr_corpus *corpus) {
    if (!corpus)
        return;
    for (size_t i = 0; i < corpus->documents.count; i++) {
        const document *text = &corpus->documents.data[i];
        if (text->mapped)
            munmap((void *)text->mapped, text->bytes);
    }
    TSR_ARRAY_FREE(&corpus->documents);
    TSR_ARRAY_FREE(&corpus->buffer);
    tsr_free(corpus);
}

/* The last document that begins at or before the token. */
static size_t find_document(const tsr_corpus *corpus, int64_t token) {
    size_t low = 0, high = corpus->documents.count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (corpus->documents.data[middle].first <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

void tsr_corpus_read(const tsr_corpus *corpus, int64_t begin, size_t count,
                     int32_t *out) {
    assert(begin >= 0 && begin <= tsr_corpus_tokens(corpus));
    assert(count <= (size_t)(tsr_corpus_tokens(corpus) - begin));
    if (count == 0)
        return;
    const document *text =
        &corpus->documents.data[find_document(corpus, begin)];
    size_t skip = (size_t)(begin - text->first); /* bytes: the separator */
    for (;; text++, skip = 0) {
        const uint8_t *bytes = bytes_of(corpus, text) + skip;
        size_t run = text->bytes - skip < count ? text->bytes - skip : count;
        for (size_t i = 0; i < run; i++)
            out[i] = bytes[i];
        count -= run;
        if (count == 0)
            return;
        out[run] = TSR_CORPUS_SEPARATOR;
        out += run + 1;
        if (--count == 0)
            return;
    }
}
