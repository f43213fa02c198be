/* What kernels read and write: f32, or bf16 that is converted in registers on
 * its way in and out. The sources that include this are compiled once an
 * instruction set and element. */
#ifndef TSR_OPS_CPU_ELEMENT_H
#define TSR_OPS_CPU_ELEMENT_H

#include "base/half.h"
#include "ops/cpu/isa.h"

#ifdef TSR_ELEMENT_BF16
#define TSR_KERNEL(name) TSR_CPU_OF(name, bf16)
typedef uint16_t tsr_element;

static inline float tsr_widen(tsr_element x) { return tsr_from_bf16(x); }
static inline tsr_element tsr_narrow(float x) { return tsr_to_bf16(x); }
#else
#define TSR_KERNEL(name) TSR_CPU_OF(name, f32)
typedef float tsr_element;

static inline float tsr_widen(tsr_element x) { return x; }
static inline tsr_element tsr_narrow(float x) { return x; }
#endif

/* A matrix of floats: row r begins at data + r * ld. */
typedef struct tsr_panel {
    float *data;
    int64_t ld;
} tsr_panel;

/* x (rows, columns), rows ld apart, to be read as floats: where it lies, or
 * converted into `scratch` (rows, columns). Only to be read. */
static inline tsr_panel tsr_panel_read(const tsr_element *x, int64_t ld,
                                       int64_t rows, int64_t columns,
                                       float *scratch) {
#ifdef TSR_ELEMENT_BF16
    for (int64_t r = 0; r < rows; r++) {
        const tsr_element *from = x + r * ld;
        float *to = scratch + r * columns;
#pragma omp simd
        for (int64_t c = 0; c < columns; c++)
            to[c] = tsr_widen(from[c]);
    }
    return (tsr_panel){scratch, columns};
#else
    (void)rows;
    (void)columns;
    (void)scratch;
    return (tsr_panel){(float *)(uintptr_t)x, ld};
#endif
}

/* Where to write floats that shall become y: y itself, or `scratch` (rows,
 * columns), which tsr_panel_end then converts. */
static inline tsr_panel tsr_panel_begin(tsr_element *y, int64_t ld,
                                        int64_t columns, float *scratch) {
#ifdef TSR_ELEMENT_BF16
    (void)y;
    (void)ld;
    return (tsr_panel){scratch, columns};
#else
    (void)columns;
    (void)scratch;
    return (tsr_panel){y, ld};
#endif
}

static inline void tsr_panel_end(tsr_panel from, int64_t rows, int64_t columns,
                                 tsr_element *y, int64_t ld) {
#ifdef TSR_ELEMENT_BF16
    for (int64_t r = 0; r < rows; r++) {
        const float *row = from.data + r * from.ld;
        tsr_element *to = y + r * ld;
#pragma omp simd
        for (int64_t c = 0; c < columns; c++)
            to[c] = tsr_narrow(row[c]);
    }
#else
    (void)from;
    (void)rows;
    (void)columns;
    (void)y;
    (void)ld;
#endif
}

/* Floats of scratch that a panel of so many needs. */
static inline int64_t tsr_panel_floats(int64_t count) {
#ifdef TSR_ELEMENT_BF16
    return count;
#else
    (void)count;
    return 0;
#endif
}

#endif
