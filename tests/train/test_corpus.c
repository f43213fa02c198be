/* The corpus: which files, in which order, and every range of tokens. */
#include "train/corpus.h"

#include <sys/resource.h>

#include "temp.h"

static tsr_corpus *open_one(const char *path) {
    tsr_corpus *corpus;
    CHECK_OK(tsr_corpus_open(&path, 1, &corpus));
    return corpus;
}

static void check_tokens(const tsr_corpus *corpus, const int32_t *expected,
                         int64_t count) {
    int32_t out[64];
    CHECK(tsr_corpus_tokens(corpus) == count && count <= 63);
    for (int64_t begin = 0; begin <= count; begin++)
        for (int64_t run = 0; begin + run <= count; run++) {
            out[run] = -7;
            tsr_corpus_read(corpus, begin, (size_t)run, out);
            CHECK(run == 0 || memcmp(out, expected + begin,
                                     (size_t)run * sizeof *out) == 0);
            CHECK(out[run] == -7);
        }
}

/* Bytewise order of names in each folder; folders stand where their names do.
 */
static void test_folder(const temp *files) {
    static const int32_t expected[] = {'B', 256,  '1',  '2',  256, '3',
                                       256, 0xc3, 0xa9, '\n', 256, 'z'};
    temp_folder(files, "tree");
    temp_folder(files, "tree/a");
    temp_folder(files, "tree/a-");
    temp_folder(files, "tree/hollow");
    temp_text(files, "tree/B", "B");
    temp_text(files, "tree/a/2", "12");
    temp_text(files, "tree/a-/1", "3");
    temp_text(files, "tree/b", "\xc3\xa9\n");
    temp_text(files, "tree/empty", "");
    temp_write(files, "tree/nul", "a\0b", 3);
    temp_text(files, "tree/z", "z");
    CHECK(symlink("z", temp_path(files, "tree/link")) == 0);
    CHECK(symlink("..", temp_path(files, "tree/a/loop")) == 0);
    CHECK(mkfifo(temp_path(files, "tree/pipe"), 0600) == 0);

    tsr_corpus *corpus = open_one(temp_path(files, "tree"));
    CHECK(tsr_corpus_documents(corpus) == 5);
    CHECK(tsr_corpus_skipped(corpus) == 5);
    check_tokens(corpus, expected, 12);
    tsr_corpus_release(corpus);
}

static uint64_t hash_of(const char *path) {
    tsr_corpus *corpus = open_one(path);
    uint64_t hash = tsr_corpus_hash(corpus);
    tsr_corpus_release(corpus);
    return hash;
}

/* By the tokens: neither names nor folders count, but order, bytes and where a
 * document ends do. */
static void test_hash(const temp *files) {
    static const char *const others[][2] = {
        {"ab", "d"}, {"a", "bc"}, {"c", "ab"}, {"abc", "x"}};
    char hashed[512], name[32], part[48];
    temp_folder(files, "hash");
    temp_text(files, "hash/1", "ab");
    strcpy(hashed, temp_text(files, "hash/2", "c"));
    CHECK(hash_of(hashed) == hash_of(temp_text(files, "same", "c")));
    strcpy(hashed, temp_path(files, "hash"));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        snprintf(name, sizeof name, "hash-%zu", i);
        temp_folder(files, name);
        for (int d = 0; d < 2; d++) {
            snprintf(part, sizeof part, "%s/%d", name, d);
            temp_text(files, part, others[i][d]);
        }
        CHECK(hash_of(temp_path(files, name)) != hash_of(hashed));
    }
}

static void test_paths_in_order(const temp *files) {
    static const int32_t expected[] = {'z', 256, 'y', 'x', 256, 'z'};
    char z[512], yx[512], link[512];
    strcpy(z, temp_text(files, "one", "z"));
    strcpy(yx, temp_text(files, "two", "yx"));
    strcpy(link, temp_path(files, "named-link"));
    CHECK(symlink("one", link) == 0);
    const char *paths[] = {z, yx, link};
    tsr_corpus *corpus;
    CHECK_OK(tsr_corpus_open(paths, 3, &corpus));
    CHECK(tsr_corpus_documents(corpus) == 3);
    CHECK(tsr_corpus_skipped(corpus) == 0);
    check_tokens(corpus, expected, 6);
    tsr_corpus_release(corpus);
}

static void test_one_byte(const temp *files) {
    static const int32_t expected[] = {'!'};
    tsr_corpus *corpus = open_one(temp_text(files, "one-byte", "!"));
    check_tokens(corpus, expected, 1);
    tsr_corpus_release(corpus);
}

/* Files on both sides of the size from which they are mapped. */
static void test_large(const temp *files) {
    static const size_t sizes[] = {(1 << 20) - 1, 3, 1 << 20, (1 << 20) + 4097};
    static uint8_t bytes[(1 << 20) + 4097];
    static int32_t out[2 << 20];
    char names[4][512];
    const char *paths[4];
    for (size_t i = 0; i < 4; i++) {
        for (size_t k = 0; k < sizes[i]; k++)
            bytes[k] = (uint8_t)(1 + (k * 31 + i * 7 + k / 255) % 255);
        char name[16];
        snprintf(name, sizeof name, "large-%zu", i);
        paths[i] = strcpy(names[i], temp_write(files, name, bytes, sizes[i]));
    }
    tsr_corpus *corpus;
    CHECK_OK(tsr_corpus_open(paths, 4, &corpus));
    int64_t first = 0;
    for (size_t i = 0; i < 4; i++) {
        tsr_corpus_read(corpus, first, sizes[i], out);
        for (size_t k = 0; k < sizes[i]; k++)
            CHECK(out[k] == (int32_t)(1 + (k * 31 + i * 7 + k / 255) % 255));
        first += (int64_t)sizes[i];
        if (i == 3)
            break;
        tsr_corpus_read(corpus, first++, 1, out);
        CHECK(out[0] == TSR_CORPUS_SEPARATOR);
    }
    CHECK(tsr_corpus_tokens(corpus) == first);
    /* across the mapped and the buffered */
    tsr_corpus_read(corpus, (1 << 20) - 2, 7, out);
    CHECK(out[1] == 256 && out[5] == 256 && out[0] < 256 && out[6] < 256);
    tsr_corpus_release(corpus);
}

static void test_thousands(const temp *files) {
    enum { COUNT = 3000 };
    struct rlimit limit, small;
    char name[32], text[16];
    int32_t out[16];
    temp_folder(files, "many");
    for (int i = 0; i < COUNT; i++) {
        snprintf(name, sizeof name, "many/%06d", i);
        snprintf(text, sizeof text, "%d", i);
        temp_text(files, name, text);
    }
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    small = limit;
    small.rlim_cur = 32;
    CHECK(setrlimit(RLIMIT_NOFILE, &small) == 0);
    tsr_corpus *corpus = open_one(temp_path(files, "many"));
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(tsr_corpus_documents(corpus) == COUNT);
    int64_t first = 0;
    for (int i = 0; i < COUNT; i++) {
        int length = snprintf(text, sizeof text, "%d", i);
        tsr_corpus_read(corpus, first, (size_t)length, out);
        for (int k = 0; k < length; k++)
            CHECK(out[k] == text[k]);
        first += length + 1;
    }
    CHECK(first - 1 == tsr_corpus_tokens(corpus));
    tsr_corpus_release(corpus);
}

static void check_refused(const char *path, tsr_status status,
                          const char *text) {
    tsr_corpus *corpus = (tsr_corpus *)&status;
    CHECK_FAILS(tsr_corpus_open(&path, 1, &corpus), status, text);
    CHECK(strstr(tsr_last_error(), path) != NULL);
    CHECK(corpus == NULL);
}

static void test_refusals(const temp *files) {
    tsr_corpus *corpus;
    CHECK_FAILS(tsr_corpus_open(NULL, 0, &corpus), TSR_INVALID_ARGUMENT,
                "no text files");
    check_refused(temp_path(files, "absent"), TSR_NOT_FOUND, "No such file");
    check_refused(temp_text(files, "void", ""), TSR_INVALID_DATA, "is empty");
    check_refused(temp_write(files, "binary", "ab\0", 3), TSR_INVALID_DATA,
                  "NUL");
    check_refused(temp_folder(files, "nothing"), TSR_INVALID_DATA,
                  "holds no text");
    check_refused("/dev/null", TSR_INVALID_ARGUMENT, "neither");
    const char *pipe = temp_path(files, "a-pipe");
    CHECK(mkfifo(pipe, 0600) == 0);
    check_refused(pipe, TSR_INVALID_ARGUMENT, "neither");
    static uint8_t large[(1 << 20) + 1];
    memset(large, 'x', sizeof large);
    large[sizeof large - 1] = '\0';
    check_refused(temp_write(files, "large-nul", large, sizeof large),
                  TSR_INVALID_DATA, "NUL");
    if (geteuid() != 0) {
        const char *locked = temp_text(files, "locked", "x");
        CHECK(chmod(locked, 0) == 0);
        check_refused(locked, TSR_IO, "Permission");
    }
    tsr_corpus_release(NULL);
}

static void test_allocations(const temp *files) {
    char path[512];
    const char *paths[] = {strcpy(path, temp_path(files, "tree"))};
    tsr_corpus *corpus = NULL;
    CHECK_EVERY_ALLOCATION(tsr_corpus_open(paths, 1, &corpus),
                           tsr_corpus_release(corpus));
}

int main(void) {
    temp files;
    temp_create(&files);
    test_folder(&files);
    test_hash(&files);
    test_paths_in_order(&files);
    test_one_byte(&files);
    test_large(&files);
    test_thousands(&files);
    test_refusals(&files);
    test_allocations(&files);
    temp_release(&files);
    return 0;
}
