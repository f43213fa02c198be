/* safetensors: what one writes the other reads, and files that lie. */
#include "train/safetensors.h"
#include "train/safetensors_writer.h"

#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>

#include "temp.h"

/* A file of `header` (its length before it) and `data_bytes` zeros. */
static const char *write_raw(const temp *files, const char *header,
                             size_t data_bytes) {
    static unsigned char bytes[8192];
    size_t length = strlen(header);
    CHECK(8 + length + data_bytes <= sizeof bytes);
    memset(bytes, 0, sizeof bytes);
    bytes[0] = (unsigned char)(length & 0xff);
    bytes[1] = (unsigned char)(length >> 8);
    memcpy(bytes + 8, header, length);
    return temp_write(files, "raw", bytes, 8 + length + data_bytes);
}

static void check_rejected(const char *path, tsr_status expected,
                           const char *text) {
    tsr_safetensors *file = (tsr_safetensors *)&expected;
    CHECK_FAILS(tsr_safetensors_open(path, &file), expected, text);
    CHECK_MESSAGE(strstr(tsr_last_error(), path), "%s", tsr_last_error());
    CHECK(file == NULL);
}

/* ---- round trip ---- */

static const tsr_safetensors_entry entries[] = {
    {"h.0.weight", {.dtype = TSR_F32, .dims = 2, .shape = {3, 5}}},
    {"odd", {.dtype = TSR_U8, .dims = 1, .shape = {7}}},
    {"half", {.dtype = TSR_BF16, .dims = 3, .shape = {1, 2, 3}}},
    {"sch\xc3\xb6n \"quoted\"", {.dtype = TSR_I32, .dims = 0}},
    {"f16", {.dtype = TSR_F16, .dims = 5, .shape = {1, 1, 2, 1, 1}}},
};
enum { ENTRIES = sizeof entries / sizeof *entries };
static const size_t entry_bytes[ENTRIES] = {60, 7, 12, 4, 4};
static const tsr_safetensors_pair pairs[] = {{"format", "pt"}, {"a", ""}};

static void test_round_trip(const temp *files) {
    const char *path = temp_path(files, "whole.safetensors");
    tsr_safetensors_writer *writer;
    tsr_safetensors *file;
    unsigned char bytes[ENTRIES][60];
    for (size_t i = 0; i < ENTRIES; i++)
        for (size_t k = 0; k < 60; k++)
            bytes[i][k] = (unsigned char)(i * 60 + k + 1);

    CHECK_OK(tsr_safetensors_create(path, entries, ENTRIES, pairs, 2));
    CHECK_OK(tsr_safetensors_writer_open(path, &writer));
    for (size_t i = 0; i < ENTRIES; i++)
        CHECK_OK(tsr_safetensors_write(
            writer, i, 0, (size_t)tsr_type_count(&entries[i].type), bytes[i]));
    CHECK_OK(tsr_safetensors_writer_sync(writer));
    tsr_safetensors_writer_release(writer);

    CHECK_OK(tsr_safetensors_open(path, &file));
    CHECK(strcmp(tsr_safetensors_path(file), path) == 0);
    CHECK(tsr_safetensors_count(file) == ENTRIES);
    for (size_t i = 0; i < ENTRIES; i++) {
        const tsr_safetensors_tensor *tensor = tsr_safetensors_at(file, i);
        tsr_type type;
        CHECK(strcmp(tensor->name, entries[i].name) == 0);
        CHECK(tsr_safetensors_find(file, entries[i].name) == tensor);
        CHECK_OK(tsr_safetensors_type(file, tensor, &type));
        CHECK(tsr_type_equal(&type, &entries[i].type));
        CHECK(tensor->bytes == entry_bytes[i]);
        CHECK(memcmp(tensor->data, bytes[i], tensor->bytes) == 0);
    }
    CHECK((uintptr_t)tsr_safetensors_at(file, 0)->data % 8 == 0);
    CHECK(tsr_safetensors_find(file, "") == NULL);
    CHECK(tsr_safetensors_find(file, "zzz") == NULL);
    CHECK(tsr_safetensors_find(file, "__metadata__") == NULL);
    CHECK(strcmp(tsr_safetensors_metadata(file, "format"), "pt") == 0);
    CHECK(strcmp(tsr_safetensors_metadata(file, "a"), "") == 0);
    CHECK(tsr_safetensors_metadata(file, "none") == NULL);
    tsr_safetensors_release(file);
    tsr_safetensors_release(NULL);
    tsr_safetensors_writer_release(NULL);
}

/* Two writers, parts of any size, and nothing beyond them. */
static void test_parts(const temp *files) {
    const char *path = temp_path(files, "parts.safetensors");
    tsr_safetensors_writer *writers[2];
    tsr_safetensors *file;
    float values[15], got[15];
    for (int i = 0; i < 15; i++)
        values[i] = (float)i + 0.5f;
    CHECK_OK(tsr_safetensors_create(path, entries, ENTRIES, NULL, 0));
    CHECK_OK(tsr_safetensors_writer_open(path, &writers[0]));
    CHECK_OK(tsr_safetensors_writer_open(path, &writers[1]));
    CHECK_OK(tsr_safetensors_write(writers[1], 0, 11, 3, values + 11));
    CHECK_OK(tsr_safetensors_write(writers[0], 0, 0, 11, values));
    CHECK_OK(tsr_safetensors_write(writers[0], 0, 15, 0, NULL));
    CHECK_FAILS(tsr_safetensors_write(writers[0], 0, 14, 2, values),
                TSR_INVALID_ARGUMENT, "h.0.weight\" has 15 elements");
    CHECK_FAILS(tsr_safetensors_write(writers[0], 0, 16, 0, values),
                TSR_INVALID_ARGUMENT, "15 elements");
    CHECK_FAILS(tsr_safetensors_write(writers[0], 0, -1, 1, values),
                TSR_INVALID_ARGUMENT, "15 elements");
    CHECK_FAILS(tsr_safetensors_write(writers[0], 0, 1, SIZE_MAX, values),
                TSR_INVALID_ARGUMENT, "15 elements");
    CHECK_FAILS(tsr_safetensors_write(writers[0], ENTRIES, 0, 1, values),
                TSR_INVALID_ARGUMENT, "no tensor 5");
    for (int i = 0; i < 2; i++) {
        CHECK_OK(tsr_safetensors_writer_sync(writers[i]));
        tsr_safetensors_writer_release(writers[i]);
    }
    CHECK_OK(tsr_safetensors_open(path, &file));
    values[14] = 0;
    memcpy(got, tsr_safetensors_at(file, 0)->data, sizeof got);
    CHECK(memcmp(got, values, sizeof got) == 0);
    CHECK(tsr_safetensors_at(file, 1)->data[0] == 0);
    tsr_safetensors_release(file);
}

/* ---- files of others ---- */

static void test_others(const temp *files) {
    tsr_safetensors *file;
    tsr_type type;
    CHECK_OK(tsr_safetensors_open(write_raw(files, "{}", 0), &file));
    CHECK(tsr_safetensors_count(file) == 0);
    CHECK(tsr_safetensors_find(file, "x") == NULL);
    CHECK(tsr_safetensors_metadata(file, "x") == NULL);
    tsr_safetensors_release(file);

    /* Not in order, padded, odd offsets, empty, unknown types and keys. */
    CHECK_OK(tsr_safetensors_open(
        write_raw(
            files,
            "{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[3,11]},"
            "\"new\":{\"dtype\":\"Q3\",\"shape\":[9],\"data_offsets\":[11,15],"
            "\"more\":1},"
            "\"none\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[3,3]"
            "},"
            "\"long\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[15,23]"
            "},"
            "\"six\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1],"
            "\"data_offsets\":[23,24]},"
            "\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}   ",
            24),
        &file));
    CHECK(tsr_safetensors_count(file) == 6);
    CHECK(strcmp(tsr_safetensors_at(file, 0)->name, "a") == 0);
    CHECK(strcmp(tsr_safetensors_at(file, 5)->name, "six") == 0);
    CHECK_OK(
        tsr_safetensors_type(file, tsr_safetensors_find(file, "b"), &type));
    CHECK(type.dtype == TSR_F32 && type.dims == 1 && type.shape[0] == 2);
    static const char *const unsupported[][2] = {{"new", "type Q3"},
                                                 {"long", "type I64"},
                                                 {"none", "no elements"},
                                                 {"six", "6 dimensions"}};
    for (size_t i = 0; i < 4; i++)
        CHECK_FAILS(
            tsr_safetensors_type(
                file, tsr_safetensors_find(file, unsupported[i][0]), &type),
            TSR_UNSUPPORTED, unsupported[i][1]);
    tsr_safetensors_release(file);
}

/* ---- damage ---- */

/* One tensor "t" with 8 bytes behind the header, unless said otherwise. */
static const struct {
    const char *header;
    size_t data_bytes;
    const char *message;
} lies[] = {
    {"", 0, "begin with '{'"},
    {"[]", 0, "begin with '{'"},
    {" {}", 0, "begin with '{'"},
    {"{", 0, "header, byte"},
    {"{}x", 0, "header, byte"},
    {"{\"t\":\xff}", 0, "header, byte"},
    {"{\"t\\u0000\":1}", 0, "header, byte"},
    {"{\"t\":1,\"t\":2}", 0, "duplicate"},
    {"{\"t\":1}", 0, "\"t\": its entry is not an object"},
    {"{\"t\":{}}", 0, "\"dtype\" is not a string"},
    {"{\"t\":{\"dtype\":32,\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
     "\"dtype\" is not a string"},
    {"{\"t\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8,
     "\"shape\" is not an array"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8,
     "not a count"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8,
     "not a count"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[\"2\"],\"data_offsets\":[0,8]}}", 8,
     "not a count"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[18446744073709551616],"
     "\"data_offsets\":[0,8]}}",
     8, "too big"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],"
     "\"data_offsets\":[0,0]}}",
     0, "too many elements"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],"
     "\"data_offsets\":[0,0]}}",
     0, "asks for another number"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "not [begin, end]"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8,
     "not [begin, end]"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,9]}}", 8,
     "not [begin, end]"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8,
     "not [begin, end]"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0.0,8.0]}}", 8,
     "not [begin, end]"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":{\"0\":8}}}", 8,
     "not [begin, end]"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8,
     "ends before it begins"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7,
     "ends at byte 8 of 7: the file is cut short"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],"
     "\"data_offsets\":[9223372036854775799,9223372036854775807]}}",
     8, "cut short"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4,
     "has 4 bytes; its shape of 2 F32 elements"},
    {"{\"t\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
     "has 8 bytes"},
    {"{\"t\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
     "has 8 bytes"},
    {"{\"t\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1,
     "has 1 bytes"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9,
     "has 1 bytes after its last tensor"},
    {"{}", 1, "has 1 bytes after its last tensor"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[1,9]}}", 9,
     "\"t\": there is a hole"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"u\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
     12, "\"u\": it overlaps"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"u\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
     8, "\"u\": it overlaps"},
    {"{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
     "\"u\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[12,20]}}",
     20, "\"u\": there is a hole"},
    {"{\"__metadata__\":1}", 0, "__metadata__ is not an object"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "__metadata__ \"k\" is not a string"},
    {"{\"__metadata__\":{\"k\":null}}", 0, "__metadata__ \"k\""},
};

static void test_lies(const temp *files) {
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++)
        check_rejected(write_raw(files, lies[i].header, lies[i].data_bytes),
                       TSR_INVALID_DATA, lies[i].message);
    check_rejected(
        write_raw(files,
                  "{\"t\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],"
                  "\"data_offsets\":[0,1]}}",
                  1),
        TSR_UNSUPPORTED, "9 dimensions");
}

static void test_lengths(const temp *files) {
    static const unsigned char limit[9] = {1, 0xe1, 0xf5, 5}; /* 10^8 + 1 */
    static const unsigned char huge[10] = {0xff, 0xff, 0xff, 0xff, 0xff,
                                           0xff, 0xff, 0xff, '{',  '}'};
    static const unsigned char past[10] = {3, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
    check_rejected(temp_path(files, "absent"), TSR_NOT_FOUND, "No such file");
    check_rejected(files->folder, TSR_IO, "not a file");
    check_rejected(temp_text(files, "l", ""), TSR_INVALID_DATA, "has 0 bytes");
    check_rejected(temp_write(files, "l", past, 7), TSR_INVALID_DATA,
                   "has 7 bytes");
    check_rejected(temp_write(files, "l", "\0\0\0\0\0\0\0\0", 8),
                   TSR_INVALID_DATA, "begin with '{'");
    check_rejected(temp_write(files, "l", limit, 9), TSR_INVALID_DATA,
                   "has 100000001 bytes; the format's limit");
    check_rejected(temp_write(files, "l", huge, 10), TSR_INVALID_DATA,
                   "18446744073709551615");
    check_rejected(temp_write(files, "l", past, 10), TSR_INVALID_DATA,
                   "but is only 10 bytes");
}

/* A good file cut at any byte is refused, and so is one that goes on. */
static void test_every_cut(const temp *files) {
    const char *path = temp_path(files, "cut.safetensors");
    tsr_safetensors *file;
    unsigned char bytes[1024];
    CHECK_OK(tsr_safetensors_create(path, entries, ENTRIES, pairs, 2));
    FILE *stream = fopen(path, "rb");
    CHECK(stream != NULL);
    size_t count = fread(bytes, 1, sizeof bytes - 1, stream);
    CHECK(count > 100 && count < sizeof bytes - 1);
    fclose(stream);
    bytes[count] = 0;
    for (size_t cut = 0; cut <= count + 1; cut++) {
        /* exact size on the heap, so that a read past it is seen */
        unsigned char *copy = malloc(cut == 0 ? 1 : cut);
        CHECK(copy != NULL);
        memcpy(copy, bytes, cut);
        tsr_status status = tsr_safetensors_parse("cut", copy, cut, &file);
        CHECK((status == TSR_OK) == (cut == count));
        CHECK(status == TSR_OK || (status == TSR_INVALID_DATA && !file));
        tsr_safetensors_release(file);
        free(copy);
    }
}

/* ---- the writer's refusals ---- */

static void test_create_refusals(const temp *files) {
    const char *path = temp_path(files, "new.safetensors");
    tsr_safetensors_entry two[2] = {entries[0], entries[1]};
    two[1].name = two[0].name;
    CHECK_FAILS(tsr_safetensors_create(path, two, 2, NULL, 0),
                TSR_INVALID_ARGUMENT, "\"h.0.weight\" is taken");
    two[1].name = "__metadata__";
    CHECK_FAILS(tsr_safetensors_create(path, two, 2, NULL, 0),
                TSR_INVALID_ARGUMENT, "\"__metadata__\" is taken");
    two[1].name = "\xff";
    CHECK_FAILS(tsr_safetensors_create(path, two, 2, NULL, 0),
                TSR_INVALID_ARGUMENT, "not UTF-8");
    two[1].name = "u";
    two[1].type.shape[0] = 0;
    CHECK_FAILS(tsr_safetensors_create(path, two, 2, NULL, 0),
                TSR_INVALID_ARGUMENT, "\"u\" has a shape");
    two[1].type = (tsr_type){
        .dtype = TSR_F32, .dims = 2, .shape = {INT64_MAX / 4, INT64_MAX / 4}};
    CHECK_FAILS(tsr_safetensors_create(path, two, 2, NULL, 0),
                TSR_INVALID_ARGUMENT, "\"u\" has a shape");
    two[1].type = (tsr_type){.dtype = TSR_DTYPE_COUNT, .dims = 0};
    CHECK_FAILS(tsr_safetensors_create(path, two, 2, NULL, 0),
                TSR_INVALID_ARGUMENT, "\"u\" has a shape");
    two[1].type = (tsr_type){.dtype = TSR_F32, .dims = 6};
    CHECK_FAILS(tsr_safetensors_create(path, two, 2, NULL, 0),
                TSR_INVALID_ARGUMENT, "\"u\" has a shape");
    CHECK(access(path, F_OK) != 0);

    CHECK_OK(tsr_safetensors_create(path, entries, 1, NULL, 0));
    CHECK_FAILS(tsr_safetensors_create(path, entries, 1, NULL, 0), TSR_IO,
                "File exists");
    CHECK(access(path, F_OK) == 0); /* not ours to remove */
    CHECK_FAILS(tsr_safetensors_create(temp_path(files, "no/such"), entries, 1,
                                       NULL, 0),
                TSR_NOT_FOUND, "no/such");
    tsr_safetensors_writer *writer;
    CHECK_FAILS(tsr_safetensors_writer_open(temp_path(files, "gone"), &writer),
                TSR_NOT_FOUND, "gone");
    CHECK_FAILS(tsr_safetensors_writer_open(write_raw(files, "{", 0), &writer),
                TSR_INVALID_DATA, "header");
    CHECK(writer == NULL);
}

/* The space is asked for at once, and nothing stays when it is refused. */
static void test_no_space(const temp *files) {
    const char *path = temp_path(files, "full.safetensors");
    tsr_safetensors_entry large = {
        "t", {.dtype = TSR_F32, .dims = 1, .shape = {1 << 20}}};
    struct rlimit limit, small;
    CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    small = limit;
    small.rlim_cur = 1 << 20;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK_FAILS(tsr_safetensors_create(path, &large, 1, NULL, 0), TSR_IO,
                "could not reserve the space of");
    CHECK(strstr(tsr_last_error(), path) != NULL);
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHECK(access(path, F_OK) != 0);
}

/* A write that the system refuses names tensor, file and reason. */
static void test_failing_write(const temp *files) {
    const char *path = temp_path(files, "late.safetensors");
    tsr_safetensors_writer *writer;
    static const float values[15];
    struct rlimit limit, small;
    CHECK_OK(tsr_safetensors_create(path, entries, 1, NULL, 0));
    CHECK_OK(tsr_safetensors_writer_open(path, &writer));
    CHECK(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    small = limit;
    small.rlim_cur = 100; /* amid the tensor: the first pwrite is a short one */
    CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK_FAILS(tsr_safetensors_write(writer, 0, 0, 15, values), TSR_IO,
                "tensor \"h.0.weight\": could not write");
    CHECK(strstr(tsr_last_error(), path) != NULL);
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    tsr_safetensors_writer_release(writer);
}

static tsr_status create_again(const char *path) {
    unlink(path);
    return tsr_safetensors_create(path, entries, ENTRIES, pairs, 2);
}

static void test_allocations(const temp *files) {
    char path[512];
    tsr_safetensors *file = NULL;
    tsr_safetensors_writer *writer = NULL;
    strcpy(path, temp_path(files, "alloc.safetensors"));
    CHECK_EVERY_ALLOCATION(create_again(path), (void)0);
    CHECK_EVERY_ALLOCATION(tsr_safetensors_open(path, &file),
                           tsr_safetensors_release(file));
    CHECK_EVERY_ALLOCATION(tsr_safetensors_writer_open(path, &writer),
                           tsr_safetensors_writer_release(writer));
}

int main(void) {
    temp files;
    temp_create(&files);
    test_round_trip(&files);
    test_parts(&files);
    test_others(&files);
    test_lies(&files);
    test_lengths(&files);
    test_every_cut(&files);
    test_create_refusals(&files);
    test_no_space(&files);
    test_failing_write(&files);
    test_allocations(&files);
    temp_release(&files);
    return 0;
}
