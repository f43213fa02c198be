/* Plain loops that compilers vectorise; compiled once an instruction set
 * (kernels.cmake), with equal bits: products are never fused with sums. */
#include "comm/sum/loops.h"

#include "base/half.h"

#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#ifndef TSR_ISA
#define TSR_ISA baseline /* for editors; the build always says */
#endif
#define JOIN_(name, isa) tsr_sum_##name##_##isa
#define JOIN(name, isa) JOIN_(name, isa)
#define TEXT_(isa) #isa
#define TEXT(isa) TEXT_(isa)

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

static inline void load_run(float *sum, tsr_dtype dtype, const void *from,
                            size_t count) {
    if (dtype == TSR_BF16)
        load_bf16(sum, from, count);
    else if (dtype == TSR_F16)
        load_f16(sum, from, count);
    else if (count > 0)
        memcpy(sum, from, count * sizeof *sum);
}

static inline void add_run(tsr_sum_block *sum, tsr_dtype dtype,
                           const void *from, size_t count) {
    if (dtype == TSR_F32)
        add_f32(sum->f32, from, count);
    else if (dtype == TSR_BF16)
        add_bf16(sum->f32, from, count);
    else if (dtype == TSR_F16)
        add_f16(sum->f32, from, count);
    else
        add_i32(sum->i32, from, count);
}

static inline void store_run(tsr_sum_block *sum, tsr_dtype dtype, void *to,
                             size_t count, float scale, bool accumulate) {
    if (dtype != TSR_I32)
        scale_f32(sum->f32, scale, count);
    if (accumulate)
        add_run(sum, dtype, to, count);
    if (dtype == TSR_BF16)
        store_bf16(to, sum->f32, count);
    else if (dtype == TSR_F16)
        store_f16(to, sum->f32, count);
    else
        memcpy(to, sum, count * sizeof *sum->f32);
    if (dtype == TSR_BF16 || dtype == TSR_F16)
        load_run(sum->f32, dtype, to, count);
}

static void load(tsr_sum_block *sum, tsr_dtype dtype, const void *from,
                 size_t valid, size_t count) {
    if (valid == TSR_SUM_BLOCK)
        load_run(sum->f32, dtype, from, TSR_SUM_BLOCK);
    else
        load_run(sum->f32, dtype, from, valid);
    memset(sum->f32 + valid, 0, (count - valid) * sizeof *sum->f32);
}

static void add(tsr_sum_block *sum, tsr_dtype dtype, const void *from,
                size_t valid) {
    if (valid == TSR_SUM_BLOCK)
        add_run(sum, dtype, from, TSR_SUM_BLOCK);
    else
        add_run(sum, dtype, from, valid);
}

static void store(tsr_sum_block *sum, tsr_dtype dtype, void *to, size_t count,
                  float scale, bool accumulate) {
    if (count == TSR_SUM_BLOCK)
        store_run(sum, dtype, to, TSR_SUM_BLOCK, scale, accumulate);
    else
        store_run(sum, dtype, to, count, scale, accumulate);
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

static double sum_of_lanes(double lanes[LANES]) {
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t lane = 0; lane < half; lane++)
            lanes[lane] += lanes[lane + half];
    return lanes[0];
}

static double squares(const tsr_sum_block *sum, tsr_dtype dtype, size_t count) {
    double lanes[LANES] = {0};
    if (dtype == TSR_I32)
        square_i32(lanes, sum->i32, count);
    else
        square_f32(lanes, sum->f32, count);
    return sum_of_lanes(lanes);
}

/* ---- two at once ----
 *
 * One pass over registers, in vectors of WIDE: with arrays, compilers keep the
 * lanes of squares in memory (64 instead of 70 GB/s at 1 MiB). */

#define WIDE ((size_t)8)
typedef float wide_f32 __attribute__((vector_size(32)));
typedef double wide_f64 __attribute__((vector_size(64)));
typedef uint32_t wide_u32 __attribute__((vector_size(32)));
typedef uint16_t wide_u16 __attribute__((vector_size(16)));

/* Conversions to vectors of twice the bytes are spelled out where there is an
 * instruction: GCC 12 converts in halves and joins them. */
static inline void widen_u16(wide_u32 *to, const wide_u16 *from) {
#if defined(__AVX2__)
    *to = (wide_u32)_mm256_cvtepu16_epi32((__m128i)*from);
#else
    *to = __builtin_convertvector(*from, wide_u32);
#endif
}

static inline void add_squares(wide_f64 *sums, const wide_f32 *values) {
#if defined(__AVX512F__)
    __m512d wide = _mm512_cvtps_pd((__m256)*values);
    *sums = (wide_f64)_mm512_fmadd_pd(wide, wide, (__m512d)*sums);
#else
    wide_f64 wide = __builtin_convertvector(*values, wide_f64);
    *sums += wide * wide;
#endif
}

/* Elements [i, i + WIDE) of an array of f32 or bf16. */
static inline void wide_load(wide_f32 *value, const void *from, tsr_dtype dtype,
                             size_t i) {
    if (dtype == TSR_F32) {
        memcpy(value, (const float *)from + i, sizeof *value);
    } else {
        wide_u16 halves;
        memcpy(&halves, (const uint16_t *)from + i, sizeof halves);
        wide_u32 bits;
        widen_u16(&bits, &halves);
        bits <<= 16;
        memcpy(value, &bits, sizeof *value);
    }
}

/* Where sources are more than a second-level cache holds, processors follow two
 * streams of reads and one of writes at less than the speed of the next cache:
 * lines are asked for so many elements early (128 to 256 are alike; 66 instead
 * of 55 us for 4 MiB over two ranks). Shorter sources only lose by it, and so
 * do stores past the caches. */
#define AHEAD ((size_t)192)
#define AHEAD_LEAST ((size_t)256 << 10) /* elements; 1 MiB of f32 */
#define LINE ((size_t)64)               /* bytes of a cache line */

/* LANES elements from i. */
static inline void fetch(const void *from, size_t bytes, size_t i) {
    const char *begin = (const char *)from + i * bytes;
    for (size_t at = 0; at < LANES * bytes; at += LINE)
        __builtin_prefetch(begin + at);
}

typedef struct pair_mode {
    tsr_dtype first, second;
    bool accumulate, squares;
} pair_mode;

/* Elements [at, at + count) of a pair into `to`, also in place (to == first,
 * second or pair->to); count: a multiple of LANES. */
static inline void pair_run(const tsr_sum_pair *pair, pair_mode mode, size_t at,
                            size_t count, float *to, double lanes[LANES]) {
    const void *first = pair->first, *second = pair->second;
    const float *old = pair->to + at;
    float scale = pair->scale;
    size_t first_bytes = mode.first == TSR_F32 ? 4 : 2,
           second_bytes = mode.second == TSR_F32 ? 4 : 2;
    bool long_run = !pair->past_caches && pair->count >= AHEAD_LEAST;
    wide_f64 sums[LANES / WIDE];
    memcpy(sums, lanes, sizeof sums);
    for (size_t i = 0; i < count; i += LANES) {
        if (long_run && at + i + AHEAD < pair->count) {
            fetch(first, first_bytes, at + i + AHEAD);
            fetch(second, second_bytes, at + i + AHEAD);
            if (mode.accumulate || to == old)
                fetch(old, sizeof *old, i + AHEAD);
        }
        for (size_t lane = 0; lane < LANES; lane += WIDE) {
            wide_f32 value, other;
            wide_load(&value, first, mode.first, at + i + lane);
            wide_load(&other, second, mode.second, at + i + lane);
            value = (value + other) * scale;
            if (mode.accumulate) {
                memcpy(&other, old + i + lane, sizeof other);
                value += other;
            }
            memcpy(to + i + lane, &value, sizeof value);
            if (mode.squares)
                add_squares(&sums[lane / WIDE], &value);
        }
    }
    memcpy(lanes, sums, sizeof sums);
}

/* Constants for the loop. */
static inline void pair_dtypes(const tsr_sum_pair *pair, pair_mode mode,
                               size_t at, size_t count, float *to,
                               double lanes[LANES]) {
    mode.first = mode.second = TSR_F32;
    if (pair->second_dtype == TSR_F32) {
        pair_run(pair, mode, at, count, to, lanes);
        return;
    }
    mode.second = TSR_BF16;
    if (pair->first_dtype == TSR_F32) {
        pair_run(pair, mode, at, count, to, lanes);
        return;
    }
    mode.first = TSR_BF16;
    pair_run(pair, mode, at, count, to, lanes);
}

static void pair_lanes(const tsr_sum_pair *pair, size_t at, size_t count,
                       float *to, double lanes[LANES]) {
    if (pair->accumulate && pair->squares)
        pair_dtypes(pair, (pair_mode){.accumulate = true, .squares = true}, at,
                    count, to, lanes);
    else if (pair->accumulate)
        pair_dtypes(pair, (pair_mode){.accumulate = true}, at, count, to,
                    lanes);
    else if (pair->squares)
        pair_dtypes(pair, (pair_mode){.squares = true}, at, count, to, lanes);
    else
        pair_dtypes(pair, (pair_mode){.squares = false}, at, count, to, lanes);
}

/* What is left, fewer than LANES, from `at`, the first lane, to `end`. */
static void pair_rest(const tsr_sum_pair *pair, size_t at, size_t end,
                      double lanes[LANES]) {
    for (size_t i = at; i < end; i++) {
        float value = (tsr_load_real(pair->first, pair->first_dtype, i) +
                       tsr_load_real(pair->second, pair->second_dtype, i)) *
                      pair->scale;
        pair->to[i] = pair->accumulate ? value + pair->to[i] : value;
        if (pair->squares)
            lanes[i - at] += (double)pair->to[i] * (double)pair->to[i];
    }
}

#if defined(__SSE2__)

/* What goes past the caches is put together in the first level in such parts
 * (elements; 1 KiB), so that the next reads are under way meanwhile. */
#define PART (8 * LANES)

/* pair->to: aligned to 16 bytes. Ends with a fence: such stores are ordered by
 * nothing else. */
static void pair_past_caches(const tsr_sum_pair *pair, size_t at, size_t count,
                             double lanes[LANES]) {
    _Alignas(64) float part[PART];
    for (size_t end = at + count; at < end; at += PART) {
        size_t now = end - at < PART ? end - at : PART;
        pair_lanes(pair, at, now, part, lanes);
        for (size_t i = 0; i < now; i += 4)
            _mm_stream_ps(pair->to + at + i, _mm_load_ps(part + i));
    }
    _mm_sfence();
}

static bool past_caches(const tsr_sum_pair *pair) {
    return pair->past_caches && (uintptr_t)pair->to % 16 == 0;
}

#else

static bool past_caches(const tsr_sum_pair *pair) { return false; }

#endif

static void store_pair(const tsr_sum_pair *pair) {
    size_t left;
    for (size_t at = 0; at < pair->count; at += TSR_SUM_BLOCK) {
        double lanes[LANES] = {0};
        left = pair->count - at;
        left = left < TSR_SUM_BLOCK ? left : TSR_SUM_BLOCK;
        size_t whole = left / LANES * LANES;
        if (past_caches(pair))
            pair_past_caches(pair, at, whole, lanes);
        else
            pair_lanes(pair, at, whole, pair->to + at, lanes);
        pair_rest(pair, at + whole, at + left, lanes);
        if (pair->squares)
            *pair->squares += sum_of_lanes(lanes);
    }
}

extern const tsr_sum_loops JOIN(loops, TSR_ISA);
const tsr_sum_loops JOIN(loops, TSR_ISA) = {.isa = TEXT(TSR_ISA),
                                            .load = load,
                                            .add = add,
                                            .store = store,
                                            .squares = squares,
                                            .store_pair = store_pair};
