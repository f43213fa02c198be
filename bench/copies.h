/* Ways to copy memory: the fastest of them, on the spot, is the limit that
 * bench_comm holds collectives against. */
#ifndef TSR_BENCH_COPIES_H
#define TSR_BENCH_COPIES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

typedef void (*copy_call)(char *to, const char *from, size_t bytes);

static inline void copy_whole(char *to, const char *from, size_t bytes) {
    memcpy(to, from, bytes);
}

/* The C library may copy large blocks in another way than small ones. */
static inline void copy_parts(char *to, const char *from, size_t bytes) {
    size_t part = (size_t)256 << 10;
    for (size_t at = 0; at < bytes; at += part)
        memcpy(to + at, from + at, bytes - at < part ? bytes - at : part);
}

#if defined(__x86_64__)

/* In microcode. */
static inline void copy_string(char *to, const char *from, size_t bytes) {
    __asm__ volatile("rep movsb"
                     : "+D"(to), "+S"(from), "+c"(bytes)
                     :
                     : "memory");
}

/* Past the caches. Both addresses and bytes: multiples of 64. */
static inline void copy_stream(char *to, const char *from, size_t bytes) {
    for (size_t at = 0; at < bytes; at += 64)
        for (size_t i = at; i < at + 64; i += 16)
            _mm_stream_si128(
                (__m128i *)(void *)(to + i),
                _mm_load_si128((const __m128i *)(const void *)(from + i)));
    _mm_sfence();
}

#endif

static const struct {
    const char *name;
    copy_call call;
} copies[] = {
    {"memcpy", copy_whole},
    {"parts", copy_parts},
#if defined(__x86_64__)
    {"string", copy_string},
    {"stream", copy_stream},
#endif
};
#define COPIES (sizeof copies / sizeof *copies)

#endif
