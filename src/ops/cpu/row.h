/* Loops over one row. */
#ifndef TSR_OPS_CPU_ROW_H
#define TSR_OPS_CPU_ROW_H

#include "ops/cpu/exp.h"

/* The largest of x[0, count) and `most`; NaNs do not count. By lanes, since
 * clang does not vectorise a maximum that must respect NaN. */
#define TSR_MAX_LANES 32
static inline float tsr_row_max(const float *x, int64_t count, float most) {
    float lane[TSR_MAX_LANES];
    int64_t i = 0;
    for (int l = 0; l < TSR_MAX_LANES; l++)
        lane[l] = most;
    for (; i + TSR_MAX_LANES <= count; i += TSR_MAX_LANES)
        for (int l = 0; l < TSR_MAX_LANES; l++)
            lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    for (; i < count; i++)
        most = x[i] > most ? x[i] : most;
    for (int l = 0; l < TSR_MAX_LANES; l++)
        most = lane[l] > most ? lane[l] : most;
    return most;
}

/* sum of exp(x - most), NaN if there is one in x. */
static inline float tsr_row_exp_sum(const float *x, int64_t count, float most) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++)
        sum += tsr_exp(x[i] - most);
    return sum;
}

/* x = exp(x - most); returns the sum. */
static inline float tsr_row_exp(float *x, int64_t count, float most) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++) {
        x[i] = tsr_exp(x[i] - most);
        sum += x[i];
    }
    return sum;
}

static inline void tsr_row_scale(float *x, int64_t count, float factor) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        x[i] *= factor;
}

static inline float tsr_row_dot(const float *a, const float *b, int64_t count) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

#endif
