/* Plain loops that compilers vectorise; kept apart from the protocol so that
 * they can be built with more optimisation. */
#include "comm/sum.h"

#include "base/half.h"

#include <string.h>

/* ---- runs of elements ----
 *
 * Inlined into callers that know the count to be a whole block: loops of known
 * length are vectorised at -O2, too. */

static inline void load_bf16(float *restrict sum, const uint16_t *restrict from,
                             size_t count) {
    for (size_t i = 0; i < count; i++)
        sum[i] = tsr_from_bf16(from[i]);
}

static inline void load_f16(float *restrict sum, const uint16_t *restrict from,
                            size_t count) {
    for (size_t i = 0; i < count; i++)
        sum[i] = tsr_from_f16(from[i]);
}

static inline void add_f32(float *restrict sum, const float *restrict from,
                           size_t count) {
    for (size_t i = 0; i < count; i++)
        sum[i] += from[i];
}

static inline void add_bf16(float *restrict sum, const uint16_t *restrict from,
                            size_t count) {
    for (size_t i = 0; i < count; i++)
        sum[i] += tsr_from_bf16(from[i]);
}

static inline void add_f16(float *restrict sum, const uint16_t *restrict from,
                           size_t count) {
    for (size_t i = 0; i < count; i++)
        sum[i] += tsr_from_f16(from[i]);
}

static inline void add_i32(uint32_t *restrict sum,
                           const uint32_t *restrict from, size_t count) {
    for (size_t i = 0; i < count; i++)
        sum[i] += from[i];
}

static inline void scale_f32(float *restrict sum, float scale, size_t count) {
    for (size_t i = 0; i < count; i++)
        sum[i] *= scale;
}

static inline void store_bf16(uint16_t *restrict to, const float *restrict sum,
                              size_t count) {
    for (size_t i = 0; i < count; i++)
        to[i] = tsr_to_bf16(sum[i]);
}

static inline void store_f16(uint16_t *restrict to, const float *restrict sum,
                             size_t count) {
    for (size_t i = 0; i < count; i++)
        to[i] = tsr_to_f16(sum[i]);
}

/* ---- blocks ---- */

static inline void load(float *sum, tsr_dtype dtype, const void *from,
                        size_t count) {
    if (dtype == TSR_BF16)
        load_bf16(sum, from, count);
    else if (dtype == TSR_F16)
        load_f16(sum, from, count);
    else if (count > 0)
        memcpy(sum, from, count * sizeof *sum);
}

static inline void add(tsr_sum_block *sum, tsr_dtype dtype, const void *from,
                       size_t count) {
    if (dtype == TSR_F32)
        add_f32(sum->f32, from, count);
    else if (dtype == TSR_BF16)
        add_bf16(sum->f32, from, count);
    else if (dtype == TSR_F16)
        add_f16(sum->f32, from, count);
    else
        add_i32(sum->i32, from, count);
}

static inline void store(tsr_sum_block *sum, tsr_dtype dtype, void *to,
                         size_t count, float scale, bool accumulate) {
    if (dtype != TSR_I32)
        scale_f32(sum->f32, scale, count);
    if (accumulate)
        add(sum, dtype, to, count);
    if (dtype == TSR_BF16)
        store_bf16(to, sum->f32, count);
    else if (dtype == TSR_F16)
        store_f16(to, sum->f32, count);
    else
        memcpy(to, sum, count * sizeof *sum->f32);
    if (dtype == TSR_BF16 || dtype == TSR_F16)
        load(sum->f32, dtype, to, count);
}

void tsr_sum_load(tsr_sum_block *sum, tsr_dtype dtype, const void *from,
                  size_t valid, size_t count) {
    if (valid == TSR_SUM_BLOCK)
        load(sum->f32, dtype, from, TSR_SUM_BLOCK);
    else
        load(sum->f32, dtype, from, valid);
    memset(sum->f32 + valid, 0, (count - valid) * sizeof *sum->f32);
}

void tsr_sum_add(tsr_sum_block *sum, tsr_dtype dtype, const void *from,
                 size_t valid) {
    if (valid == TSR_SUM_BLOCK)
        add(sum, dtype, from, TSR_SUM_BLOCK);
    else
        add(sum, dtype, from, valid);
}

void tsr_sum_store(tsr_sum_block *sum, tsr_dtype dtype, void *to, size_t count,
                   float scale, bool accumulate) {
    if (count == TSR_SUM_BLOCK)
        store(sum, dtype, to, TSR_SUM_BLOCK, scale, accumulate);
    else
        store(sum, dtype, to, count, scale, accumulate);
}

/* Running sums of every 32nd element: wide and independent enough for any
 * vector unit, in an order that stays fixed. A square of an f32 is exact in a
 * double: fused or not, the bits are the same. */
#define LANES ((size_t)32)

static inline void square_f32(double *restrict lanes, const float *restrict sum,
                              size_t count) {
    size_t whole = count / LANES * LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            lanes[lane] += (double)sum[i + lane] * (double)sum[i + lane];
    for (size_t i = whole; i < count; i++)
        lanes[i - whole] += (double)sum[i] * (double)sum[i];
}

static inline void square_i32(double *restrict lanes,
                              const uint32_t *restrict sum, size_t count) {
    for (size_t i = 0; i < count; i++) {
        double value = (double)(int32_t)sum[i];
        lanes[i % LANES] += value * value;
    }
}

double tsr_sum_squares(const tsr_sum_block *sum, tsr_dtype dtype,
                       size_t count) {
    double lanes[LANES] = {0};
    if (dtype == TSR_I32)
        square_i32(lanes, sum->i32, count);
    else
        square_f32(lanes, sum->f32, count);
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t lane = 0; lane < half; lane++)
            lanes[lane] += lanes[lane + half];
    return lanes[0];
}
