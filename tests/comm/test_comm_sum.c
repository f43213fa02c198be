/* Conversions and block sums against plain arithmetic. */
#include "comm/sum/loops.h"

#include "contract.h"

static void check_decode(tsr_dtype dtype, int mantissa, int exponent) {
    static uint16_t all[65536], back[65536];
    static tsr_sum_block block;
    for (size_t i = 0; i < 65536; i++)
        all[i] = (uint16_t)i;
    for (size_t at = 0; at < 65536; at += TSR_SUM_BLOCK) {
        tsr_sum_load(&block, dtype, all + at, TSR_SUM_BLOCK, TSR_SUM_BLOCK);
        for (size_t i = 0; i < TSR_SUM_BLOCK; i++) {
            double value = (double)block.f32[i],
                   expected = decode16(all[at + i], mantissa, exponent);
            CHECK(isnan(expected) ? isnan(value) : value == expected);
            CHECK(isnan(value) || !signbit(value) == !signbit(expected));
        }
        tsr_sum_store(&block, dtype, back + at, TSR_SUM_BLOCK, 1.0f, false);
    }
    for (size_t i = 0; i < 65536; i++) {
        if (isnan(decode16(all[i], mantissa, exponent)))
            CHECK(isnan(decode16(back[i], mantissa, exponent)));
        else
            CHECK(back[i] == all[i]);
    }
}

/* Random floats, and all around every value that halves can hold. */
static void check_encode(tsr_dtype dtype, int mantissa, int exponent) {
    static tsr_sum_block block;
    static float values[TSR_SUM_BLOCK];
    static uint16_t encoded[TSR_SUM_BLOCK];
    for (uint64_t round = 0; round < 300; round++) {
        for (size_t i = 0; i < TSR_SUM_BLOCK; i++) {
            uint32_t bits = noise(round, i);
            if (round % 2 == 0) { /* near a tie */
                float half =
                    (float)decode16((uint16_t)bits, mantissa, exponent);
                memcpy(&bits, &half, sizeof bits);
                bits += (uint32_t)(round % 5) - 2;
                bits += round % 3 ? 1u << (22 - mantissa) : 0;
            }
            memcpy(&values[i], &bits, sizeof bits);
        }
        memcpy(block.f32, values, sizeof values);
        tsr_sum_store(&block, dtype, encoded, TSR_SUM_BLOCK, 1.0f, false);
        for (size_t i = 0; i < TSR_SUM_BLOCK; i++) {
            double expected = round16((double)values[i], mantissa, exponent),
                   value = decode16(encoded[i], mantissa, exponent);
            CHECK_MESSAGE(isnan(expected) ? isnan(value) : value == expected,
                          "%a: %a, not %a", (double)values[i], value, expected);
            CHECK((double)block.f32[i] == value || isnan(value));
        }
    }
}

static void check_special(void) {
    tsr_sum_block block;
    float negative_zero = -0.0f, nan = NAN, out = 1;
    tsr_sum_load(&block, TSR_F32, &negative_zero, 1, 1);
    tsr_sum_store(&block, TSR_F32, &out, 1, 1.0f, false);
    CHECK(signbit(out));
    tsr_sum_load(&block, TSR_F32, &negative_zero, 0, 1);
    CHECK(!signbit(block.f32[0]));
    tsr_sum_add(&block, TSR_F32, &nan, 1);
    CHECK(isnan(block.f32[0]));
    CHECK(isnan(tsr_sum_squares(&block, TSR_F32, 1)));
    int32_t top = INT32_MAX, one = 1;
    tsr_sum_load(&block, TSR_I32, &top, 1, 1);
    tsr_sum_add(&block, TSR_I32, &one, 1);
    CHECK(block.i32[0] == 0x80000000u);
}

static void check_squares(void) {
    static tsr_sum_block block;
    for (size_t count = 0; count < 40; count++) {
        double sum = 0;
        for (size_t i = 0; i < count; i++) {
            block.f32[i] = (float)(i + 1);
            sum += (double)((i + 1) * (i + 1));
        }
        double squares = tsr_sum_squares(&block, TSR_F32, count);
        CHECK(squares == sum);
    }
}

/* ---- instruction sets, and pairs, against blocks of the first set ---- */

enum { LONGEST = 2 * TSR_SUM_BLOCK + 77 };

typedef struct sum_case {
    tsr_dtype first, second;
    size_t count, shift; /* elements that `to` is off alignment */
    bool accumulate, past_caches, squares;
} sum_case;

/* What a pair must give, block by block; returns the squares. */
static double by_blocks(const tsr_sum_loops *loops, const sum_case *test,
                        const void *first, const void *second, float *to) {
    static tsr_sum_block block;
    double squares = 0;
    for (size_t at = 0; at < test->count; at += TSR_SUM_BLOCK) {
        size_t left = test->count - at,
               count = left < TSR_SUM_BLOCK ? left : TSR_SUM_BLOCK;
        loops->load(&block, test->first,
                    (const char *)first + at * tsr_dtype_bytes(test->first),
                    count, count);
        loops->add(&block, test->second,
                   (const char *)second + at * tsr_dtype_bytes(test->second),
                   count);
        loops->store(&block, TSR_F32, to + at, count, 0.3f, test->accumulate);
        squares += loops->squares(&block, TSR_F32, count);
    }
    return squares;
}

static double by_pair(const tsr_sum_loops *loops, const sum_case *test,
                      const void *first, const void *second, float *to) {
    double squares = 0;
    tsr_sum_pair pair = {.first = first,
                         .second = second,
                         .first_dtype = test->first,
                         .second_dtype = test->second,
                         .to = to,
                         .count = test->count,
                         .scale = 0.3f,
                         .accumulate = test->accumulate,
                         .past_caches = test->past_caches,
                         .squares = test->squares ? &squares : NULL};
    loops->store_pair(&pair);
    return squares;
}

static void check_pair(const tsr_sum_loops *loops, const tsr_sum_loops *plain,
                       const sum_case *test) {
    /* Two guards of a cache line each, and room to be off alignment. */
    static _Alignas(64) float expected[LONGEST + 48], to[LONGEST + 48];
    static float first[LONGEST], second[LONGEST];
    float *begin = to + 16 + test->shift;
    fill(test->first, first, test->count, 0, test->count);
    fill(test->second, second, test->count, 1, test->count);
    fill(TSR_F32, expected, LONGEST + 48, 2, 0);
    memcpy(to, expected, sizeof to);
    double squares =
        by_blocks(plain, test, first, second, expected + 16 + test->shift);
    double found = by_pair(loops, test, first, second, begin);
    CHECK_MESSAGE(memcmp(to, expected, sizeof to) == 0,
                  "%s: other bits than %s: %s + %s, %zu elements, shift %zu%s",
                  loops->isa, plain->isa, tsr_dtype_name(test->first),
                  tsr_dtype_name(test->second), test->count, test->shift,
                  test->past_caches ? ", past the caches" : "");
    CHECK(memcmp(&found, test->squares ? &squares : &(double){0},
                 sizeof found) == 0);
    if (test->first == TSR_F32) { /* in place */
        memcpy(begin, first, test->count * sizeof *begin);
        memcpy(expected + 16 + test->shift, first, test->count * sizeof *begin);
        by_blocks(plain, test, first, second, expected + 16 + test->shift);
        by_pair(loops, test, begin, second, begin);
        CHECK(memcmp(to, expected, sizeof to) == 0);
    }
}

static void check_pairs(const tsr_sum_loops *loops,
                        const tsr_sum_loops *plain) {
    static const size_t counts[] = {0,   1,   31,  32,   33,   255,  256,
                                    257, 300, 999, 4095, 4096, 4097, LONGEST};
    static const tsr_dtype dtypes[][2] = {
        {TSR_F32, TSR_F32}, {TSR_F32, TSR_BF16}, {TSR_BF16, TSR_BF16}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        for (size_t d = 0; d < 3; d++)
            for (unsigned flags = 0; flags < 32; flags++)
                check_pair(loops, plain,
                           &(sum_case){.first = dtypes[d][0],
                                       .second = dtypes[d][1],
                                       .count = counts[i],
                                       .shift = (flags >> 3) * 3 % 5,
                                       .accumulate = flags & 1,
                                       .past_caches = flags & 2,
                                       .squares = flags & 4});
}

/* Loads, sums and stores of every type. */
static void check_set(const tsr_sum_loops *loops, const tsr_sum_loops *plain) {
    static const tsr_dtype dtypes[] = {TSR_F32, TSR_BF16, TSR_F16, TSR_I32};
    static const size_t counts[] = {0, 1, 33, 4095, TSR_SUM_BLOCK};
    static float from[2][TSR_SUM_BLOCK], to[2][TSR_SUM_BLOCK];
    static tsr_sum_block sums[2];
    const tsr_sum_loops *both[] = {plain, loops};
    for (size_t d = 0; d < 4; d++)
        for (size_t c = 0; c < 5; c++) {
            double squares[2];
            float scale = dtypes[d] == TSR_I32 ? 1.0f : 0.3f;
            for (int r = 0; r < 2; r++)
                fill(dtypes[d], from[r], counts[c], r, c);
            for (int i = 0; i < 2; i++) {
                fill(dtypes[d], to[i], TSR_SUM_BLOCK, 2, c);
                both[i]->load(&sums[i], dtypes[d], from[0], counts[c] / 2,
                              counts[c]);
                both[i]->add(&sums[i], dtypes[d], from[1], counts[c]);
                both[i]->store(&sums[i], dtypes[d], to[i], counts[c], scale,
                               c % 2);
                squares[i] = both[i]->squares(&sums[i], dtypes[d], counts[c]);
            }
            CHECK_MESSAGE(
                memcmp(to[0], to[1], sizeof to[0]) == 0 &&
                    memcmp(squares, squares + 1, sizeof *squares) == 0,
                "%s: other bits than %s: %s, %zu elements", loops->isa,
                plain->isa, tsr_dtype_name(dtypes[d]), counts[c]);
        }
}

static void check_sets(void) {
    const tsr_sum_loops *const *sets;
    size_t count = tsr_sum_sets(&sets);
    CHECK(count >= 1);
    for (size_t i = 0; i < count; i++) {
        check_set(sets[i], sets[0]);
        check_pairs(sets[i], sets[0]);
    }
}

int main(void) {
    check_decode(TSR_BF16, 7, 8);
    check_decode(TSR_F16, 10, 5);
    check_encode(TSR_BF16, 7, 8);
    check_encode(TSR_F16, 10, 5);
    check_special();
    check_squares();
    check_sets();
    return 0;
}
