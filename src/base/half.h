/* bf16 and f16 to and from f32, rounded to nearest even; NaN stays NaN. Without
 * branches, so that loops over them are vectorised. */
#ifndef TSR_BASE_HALF_H
#define TSR_BASE_HALF_H

#include <stdint.h>
#include <string.h>

#include "tessera/dtype.h"

static inline float tsr_bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t tsr_float_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float tsr_from_bf16(uint16_t value) {
    return tsr_bits_to_float((uint32_t)value << 16);
}

static inline uint16_t tsr_to_bf16(float value) {
    uint32_t bits = tsr_float_to_bits(value);
    uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    uint32_t nan = bits >> 16 | 0x40; /* quiet; keeps sign and payload */
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

/* Exponents of f16 are biased by 15, of f32 by 127. */
#define TSR_F16_REBIAS ((uint32_t)(127 - 15) << 23)

static inline float tsr_from_f16(uint16_t value) {
    uint32_t sign = (uint32_t)(value & 0x8000) << 16;
    uint32_t magnitude = value & 0x7fff;
    uint32_t normal = (magnitude << 13) + TSR_F16_REBIAS;
    uint32_t infinite = magnitude << 13 | 0x7f800000; /* or NaN */
    uint32_t subnormal =
        tsr_float_to_bits((float)(int32_t)magnitude * 0x1p-24f);
    uint32_t bits = magnitude >= 0x7c00  ? infinite
                    : magnitude >= 0x400 ? normal
                                         : subnormal;
    return tsr_bits_to_float(sign | bits);
}

static inline uint16_t tsr_to_f16(float value) {
    uint32_t bits = tsr_float_to_bits(value), magnitude = bits & 0x7fffffff;
    uint32_t nan = 0x7e00 | (magnitude >> 13 & 0x3ff);
    uint32_t normal =
        (magnitude - TSR_F16_REBIAS + 0xfff + (magnitude >> 13 & 1)) >> 13;
    /* In [0.5, 1) an f32 counts in 2^-24, f16's smallest step: the addition
     * rounds. */
    uint32_t subnormal =
        tsr_float_to_bits(tsr_bits_to_float(magnitude) + 0.5f) -
        tsr_float_to_bits(0.5f);
    uint32_t half = magnitude > 0x7f800000    ? nan
                    : magnitude >= 0x477ff000 ? 0x7c00 /* rounds to infinity */
                    : magnitude >= 0x38800000 ? normal
                                              : subnormal;
    return (uint16_t)((bits >> 16 & 0x8000) | half);
}

/* Element i of an array of f32, bf16 or f16. */
static inline float tsr_load_real(const void *from, tsr_dtype dtype, size_t i) {
    if (dtype == TSR_F32)
        return ((const float *)from)[i];
    uint16_t half = ((const uint16_t *)from)[i];
    return dtype == TSR_BF16 ? tsr_from_bf16(half) : tsr_from_f16(half);
}

static inline void tsr_store_real(void *to, tsr_dtype dtype, size_t i,
                                  float value) {
    if (dtype == TSR_F32)
        ((float *)to)[i] = value;
    else
        ((uint16_t *)to)[i] =
            dtype == TSR_BF16 ? tsr_to_bf16(value) : tsr_to_f16(value);
}

#endif
