/* Conversions and block sums against plain arithmetic. */
#include "comm/sum.h"

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

int main(void) {
    check_decode(TSR_BF16, 7, 8);
    check_decode(TSR_F16, 10, 5);
    check_encode(TSR_BF16, 7, 8);
    check_encode(TSR_F16, 10, 5);
    check_special();
    check_squares();
    return 0;
}
