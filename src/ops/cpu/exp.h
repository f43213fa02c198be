/* exp for loops that the compiler vectorises.
 *
 * exp(x) = 2^n * e^r with n = round(x / ln 2): Cody and Waite's reduction and
 * the polynomial of Cephes' expf (Moshier 1992). At most 2 ulp; denormal
 * results, 0, infinity and NaN come out as from expf. */
#ifndef TSR_OPS_CPU_EXP_H
#define TSR_OPS_CPU_EXP_H

#include <stdint.h>
#include <string.h>

static inline int32_t tsr_float_bits(float value) {
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* 2^n for n in [-126, 127]; for other n, some float. */
static inline float tsr_exp2i(int32_t n) {
    const uint32_t bits = (uint32_t)(n + 127) << 23;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float tsr_exp(float x) {
    const float log2e = 1.44269504f;
    const float ln2_high = 0.693359375f; /* 355 / 512: n * ln2_high is exact */
    const float ln2_low = -2.12194440e-4f;
    const float rounder = 12582912.0f; /* 1.5 * 2^23: adding it rounds */

    /* Past these the result is infinite or 0; a NaN fails both tests. */
    x = x > 89.0f ? 89.0f : x;
    x = x < -105.0f ? -105.0f : x;

    const float shifted = x * log2e + rounder;
    const float n = shifted - rounder;
    const float r = (x - n * ln2_high) - n * ln2_low;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;

    /* In two steps, since 2^n alone may be infinite or denormal. For a NaN the
     * exponents mean nothing, but p is NaN. */
    const int32_t whole = tsr_float_bits(shifted) - tsr_float_bits(rounder);
    const int32_t half = whole >> 1;
    return p * tsr_exp2i(half) * tsr_exp2i(whole - half);
}

#endif
