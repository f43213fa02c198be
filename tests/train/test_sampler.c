/* The order of samples: a permutation of the windows each epoch, fixed by the
 * seed alone. */
#include "train/sampler.h"

#include "temp.h"

/* A corpus of one document of `tokens` bytes, each telling its place. */
static tsr_corpus *make_corpus(const temp *files, size_t tokens) {
    static uint8_t bytes[4096];
    tsr_corpus *corpus;
    CHECK(tokens <= sizeof bytes);
    for (size_t i = 0; i < tokens; i++)
        bytes[i] = (uint8_t)(1 + i % 251);
    const char *path = temp_write(files, "text", bytes, tokens);
    CHECK_OK(tsr_corpus_open(&path, 1, &corpus));
    return corpus;
}

/* Every window of every epoch once, all shifted alike, in different orders. */
static void check_epochs(const temp *files, size_t tokens, int64_t seq,
                         uint64_t seed) {
    static unsigned char seen[4096];
    enum { EPOCHS = 20 };
    tsr_corpus *corpus = make_corpus(files, tokens);
    tsr_sampler sampler;
    CHECK_OK(tsr_sampler_init(&sampler, corpus, seq, seed));
    CHECK(sampler.windows == (int64_t)(tokens - 1) / seq);
    CHECK(sampler.spare == (int64_t)(tokens - 1) % seq);
    int64_t sample = 0;
    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        int64_t shift = tsr_sampler_begin(&sampler, sample) % seq;
        CHECK(shift <= sampler.spare);
        memset(seen, 0, sizeof seen);
        for (int64_t i = 0; i < sampler.windows; i++, sample++) {
            int64_t begin = tsr_sampler_begin(&sampler, sample);
            CHECK(begin >= 0 && begin % seq == shift);
            CHECK(begin + seq + 1 <= (int64_t)tokens);
            CHECK(begin / seq < sampler.windows);
            CHECK(seen[begin / seq]++ == 0);
        }
    }
    tsr_corpus_release(corpus);
}

static void test_epochs(const temp *files) {
    for (size_t tokens = 2; tokens < 40; tokens++)
        for (int64_t seq = 1; seq < (int64_t)tokens; seq++)
            check_epochs(files, tokens, seq, tokens * 1000 + (uint64_t)seq);
    check_epochs(files, 4096, 1, 1);
    check_epochs(files, 4096, 3, UINT64_MAX);
    check_epochs(files, 4095, 1000, 0);
    check_epochs(files, 257, 256, 5);
    check_epochs(files, 258, 256, 5);
}

static void test_tokens(const temp *files) {
    tsr_corpus *corpus = make_corpus(files, 1000);
    tsr_sampler sampler;
    int32_t tokens[16], targets[16];
    CHECK_OK(tsr_sampler_init(&sampler, corpus, 16, 3));
    for (int64_t sample = 0; sample < 200; sample++) {
        int64_t begin = tsr_sampler_begin(&sampler, sample);
        tsr_sampler_read(&sampler, sample, tokens, targets);
        for (int64_t i = 0; i < 16; i++) {
            CHECK(tokens[i] == 1 + (begin + i) % 251);
            CHECK(targets[i] == 1 + (begin + i + 1) % 251);
        }
    }
    tsr_corpus_release(corpus);
}

/* How many of two sequences of begins agree; equal orders would agree always,
 * independent ones seldom. */
static int agreements(const tsr_sampler *a, int64_t first_a,
                      const tsr_sampler *b, int64_t first_b) {
    int count = 0;
    for (int64_t i = 0; i < a->windows; i++)
        count += tsr_sampler_begin(a, first_a + i) / a->seq ==
                 tsr_sampler_begin(b, first_b + i) / b->seq;
    return count;
}

/* Seeds (all 64 bits of them) and epochs give unlike orders; the same seed the
 * same one, whoever reads it and in which order. */
static void test_unlike(const temp *files) {
    tsr_corpus *corpus = make_corpus(files, 1005);
    tsr_sampler a, b;
    CHECK_OK(tsr_sampler_init(&a, corpus, 5, 7));
    CHECK(a.windows == 200);
    CHECK_OK(tsr_sampler_init(&b, corpus, 5, 8));
    CHECK(agreements(&a, 0, &b, 0) < 20);
    CHECK_OK(tsr_sampler_init(&b, corpus, 5, 7 | UINT64_C(1) << 40));
    CHECK(agreements(&a, 0, &b, 0) < 20);
    CHECK_OK(tsr_sampler_init(&b, corpus, 5, 7));
    CHECK(agreements(&a, 0, &b, 200) < 20);
    CHECK(agreements(&a, 0, &b, 0) == 200);

    /* neither the identity nor a rotation */
    int steps[200] = {0};
    for (int64_t i = 0; i < 200; i++)
        steps[(tsr_sampler_begin(&a, i) / 5 + 200 - i) % 200]++;
    for (int i = 0; i < 200; i++)
        CHECK(steps[i] < 20);

    /* Every window stands first in some epoch, about equally often. */
    int firsts[200] = {0};
    for (int64_t epoch = 0; epoch < 20000; epoch++)
        firsts[tsr_sampler_begin(&a, epoch * 200) / 5]++;
    for (int i = 0; i < 200; i++)
        CHECK_MESSAGE(firsts[i] > 50 && firsts[i] < 150, "%d: %d", i,
                      firsts[i]);
    tsr_corpus_release(corpus);
}

/* G samples a step, shared out over any number of ranks, are the same ones. */
static void test_any_world(const temp *files) {
    enum { GLOBAL = 12, STEPS = 10 };
    static const int worlds[] = {1, 2, 3, 4, 6, 12};
    tsr_corpus *corpus = make_corpus(files, 777);
    int64_t expected[GLOBAL * STEPS];
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++)
        for (int rank = 0; rank < worlds[w]; rank++) {
            tsr_sampler sampler; /* each rank's own, also after a restart */
            int batch = GLOBAL / worlds[w];
            CHECK_OK(tsr_sampler_init(&sampler, corpus, 10, 99));
            for (int step = STEPS - 1; step >= 0; step--)
                for (int i = 0; i < batch; i++) {
                    int sample = step * GLOBAL + rank * batch + i;
                    int64_t begin = tsr_sampler_begin(&sampler, sample);
                    if (worlds[w] == 1)
                        expected[sample] = begin;
                    CHECK(begin == expected[sample]);
                }
        }
    tsr_corpus_release(corpus);
}

/* Far more windows than any test could visit. */
static void test_huge(void) {
    enum { COUNT = 2000 };
    static int64_t begins[COUNT];
    tsr_sampler sampler = {.seq = 1024,
                           .windows = (INT64_C(1) << 50) + 1,
                           .spare = 1023,
                           .seed = 1,
                           .half_bits = 26};
    for (int64_t i = 0; i < COUNT; i++) {
        begins[i] = tsr_sampler_begin(&sampler, i) / 1024;
        CHECK(begins[i] >= 0 && begins[i] < sampler.windows);
        for (int64_t k = 0; k < i; k++)
            CHECK(begins[k] != begins[i]);
    }
}

/* Fixed bits: a change here changes what every seeded run has trained on.
 * The values are those of an independent implementation in Python. */
static void test_golden(const temp *files) {
    static const int64_t expected[] = {41, 17, 49, 81, 33, 25, 73, 57, 9,
                                       65, 1,  89, 81, 49, 33, 1,  89, 73,
                                       25, 9,  41, 57, 65, 17, 90, 50};
    tsr_corpus *corpus = make_corpus(files, 100);
    tsr_sampler sampler;
    CHECK_OK(
        tsr_sampler_init(&sampler, corpus, 8, UINT64_C(0x123456789abcdef)));
    for (int64_t i = 0; i < 26; i++)
        CHECK_MESSAGE(tsr_sampler_begin(&sampler, i) == expected[i],
                      "sample %d begins at %d", (int)i,
                      (int)tsr_sampler_begin(&sampler, i));
    tsr_corpus_release(corpus);
}

static void test_refusals(const temp *files) {
    tsr_corpus *corpus = make_corpus(files, 10);
    tsr_sampler sampler;
    CHECK_OK(tsr_sampler_init(&sampler, corpus, 9, 0));
    CHECK(sampler.windows == 1 && tsr_sampler_begin(&sampler, 3) == 0);
    CHECK_FAILS(tsr_sampler_init(&sampler, corpus, 10, 0), TSR_INVALID_ARGUMENT,
                "has 10 tokens; one sequence of 10 and the token after it "
                "takes 11");
    CHECK_FAILS(tsr_sampler_init(&sampler, corpus, INT64_MAX, 0),
                TSR_INVALID_ARGUMENT, "9223372036854775808");
    CHECK_FAILS(tsr_sampler_init(&sampler, corpus, 0, 0), TSR_INVALID_ARGUMENT,
                "0 tokens");
    CHECK_FAILS(tsr_sampler_init(&sampler, corpus, -1, 0), TSR_INVALID_ARGUMENT,
                "-1 tokens");
    tsr_corpus_release(corpus);
}

int main(void) {
    temp files;
    temp_create(&files);
    test_epochs(&files);
    test_tokens(&files);
    test_unlike(&files);
    test_any_world(&files);
    test_huge();
    test_golden(&files);
    test_refusals(&files);
    temp_release(&files);
    return 0;
}
