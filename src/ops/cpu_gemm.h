/* Single-precision matrix products, one-threaded, row-major.
 *
 *   c = alpha * op(a) * op(b) + beta * c
 *
 * op(a) is (m, k): a is (m, k) with rows lda apart, or (k, m) when trans_a.
 * op(b) is (k, n): b is (k, n) with rows ldb apart, or (n, k) when trans_b.
 * c is (m, n) with rows ldc apart; not read when beta is 0. */
#ifndef TSR_OPS_CPU_GEMM_H
#define TSR_OPS_CPU_GEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tsr_gemm {
    bool trans_a, trans_b;
    int64_t m, n, k;
    float alpha, beta;
    const float *a, *b;
    int64_t lda, ldb;
    float *c;
    int64_t ldc;
} tsr_gemm;

typedef void (*tsr_gemm_run)(const tsr_gemm *gemm);

/* Looks for oneDNN, once a process. Thread-safe. */
void tsr_cpu_gemm_load(void);

/* By oneDNN if tsr_cpu_gemm_load found it (it allocates packing buffers
 * inside), else by our own product in the widest instruction set (130 KiB of
 * stack). On the calling thread alone. Thread-safe. */
void tsr_cpu_gemm(const tsr_gemm *gemm);

/* A function of oneDNN, or NULL when tsr_cpu_gemm_load did not find it. */
void *tsr_cpu_library_find(const char *name);

/* oneDNN's calls on this thread use one OpenMP thread until _end is given what
 * _begin returned. */
int tsr_cpu_one_thread_begin(void);
void tsr_cpu_one_thread_end(int threads);

/* "oneDNN 2.6.3" or "own products" in `buffer`; returns buffer. */
#define TSR_GEMM_DESCRIPTION_BYTES 48
char *tsr_cpu_gemm_describe(char buffer[TSR_GEMM_DESCRIPTION_BYTES]);

/* Tests: our own product from now on, or again oneDNN. */
void tsr_cpu_gemm_prefer_own(bool own);

#endif
