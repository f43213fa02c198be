/* Counts this program's allocations, by the object (program or library) that
 * asks for them. Included by one source of a program: it defines malloc, its
 * relatives and mmap, and hands them on to the C library. */
#ifndef TSR_TESTS_ZERO_HEAP_H
#define TSR_TESTS_ZERO_HEAP_H

#if !defined(_GNU_SOURCE)
#error "needs _GNU_SOURCE before the first include: dladdr, RTLD_NEXT"
#endif

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||     \
    __has_feature(memory_sanitizer)
#define HEAP_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HEAP_SANITIZED 1
#endif

#if !defined(HEAP_SANITIZED) && defined(__GLIBC__)
#define HEAP_COUNTS 1

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HEAP_OBJECTS = 16 };

typedef struct heap_object {
    const void *base;
    const char *name; /* of the file; the loader's */
    long calls;
} heap_object;

static atomic_bool heap_counting;
static atomic_long heap_outstanding; /* bytes allocated and not freed, ever */
static atomic_flag heap_lock = ATOMIC_FLAG_INIT; /* guards the objects */
static heap_object heap_objects[HEAP_OBJECTS];   /* those seen while counting */
static int heap_object_count;

/* The C library's own, under the names it exports them by. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void *memory);

static void heap_count(const void *caller) {
    Dl_info info;
    if (!atomic_load_explicit(&heap_counting, memory_order_relaxed))
        return;
    if (!dladdr(caller, &info)) { /* code made at run time */
        info.dli_fbase = NULL;
        info.dli_fname = "no file";
    }
    while (atomic_flag_test_and_set(&heap_lock))
        ;
    int at = 0;
    while (at < heap_object_count && heap_objects[at].base != info.dli_fbase)
        at++;
    if (at == heap_object_count && at < HEAP_OBJECTS)
        heap_objects[heap_object_count++] =
            (heap_object){.base = info.dli_fbase, .name = info.dli_fname};
    heap_objects[at < HEAP_OBJECTS ? at : HEAP_OBJECTS - 1].calls++;
    atomic_flag_clear(&heap_lock);
}

static void *heap_gained(void *memory) {
    if (memory)
        atomic_fetch_add(&heap_outstanding, (long)malloc_usable_size(memory));
    return memory;
}

static void heap_lost(void *memory) {
    if (memory)
        atomic_fetch_sub(&heap_outstanding, (long)malloc_usable_size(memory));
}

#define HEAP_COUNT() heap_count(__builtin_return_address(0))

void *malloc(size_t bytes) {
    HEAP_COUNT();
    return heap_gained(__libc_malloc(bytes));
}

void *calloc(size_t count, size_t bytes) {
    HEAP_COUNT();
    return heap_gained(__libc_calloc(count, bytes));
}

void *realloc(void *memory, size_t bytes) {
    HEAP_COUNT();
    size_t before = memory ? malloc_usable_size(memory) : 0;
    void *grown = __libc_realloc(memory, bytes);
    if (grown || bytes == 0)
        atomic_fetch_sub(&heap_outstanding, (long)before);
    return heap_gained(grown);
}

void *aligned_alloc(size_t alignment, size_t bytes) {
    HEAP_COUNT();
    return heap_gained(__libc_memalign(alignment, bytes));
}

void *memalign(size_t alignment, size_t bytes) {
    HEAP_COUNT();
    return heap_gained(__libc_memalign(alignment, bytes));
}

int posix_memalign(void **out_memory, size_t alignment, size_t bytes) {
    HEAP_COUNT();
    void *memory = heap_gained(__libc_memalign(alignment, bytes));
    if (memory)
        *out_memory = memory;
    return memory ? 0 : ENOMEM;
}

void free(void *memory) {
    heap_lost(memory);
    __libc_free(memory);
}

void *mmap(void *address, size_t bytes, int protection, int flags, int fd,
           off_t offset) {
    static void *(*_Atomic next)(void *, size_t, int, int, int, off_t);
    HEAP_COUNT();
    void *(*call)(void *, size_t, int, int, int, off_t) = atomic_load(&next);
    if (!call) {
        *(void **)(&call) = dlsym(RTLD_NEXT, "mmap");
        atomic_store(&next, call);
    }
    void *memory = call(address, bytes, protection, flags, fd, offset);
    if (memory != MAP_FAILED)
        atomic_fetch_add(&heap_outstanding, (long)bytes);
    return memory;
}

int munmap(void *address, size_t bytes) {
    static int (*_Atomic next)(void *, size_t);
    int (*call)(void *, size_t) = atomic_load(&next);
    if (!call) {
        *(void **)(&call) = dlsym(RTLD_NEXT, "munmap");
        atomic_store(&next, call);
    }
    int status = call(address, bytes);
    if (status == 0)
        atomic_fetch_sub(&heap_outstanding, (long)bytes);
    return status;
}

/* ---- for the test ---- */

/* From now on calls are counted, from 0. */
static inline void heap_begin(void) {
    heap_object_count = 0;
    memset(heap_objects, 0, sizeof heap_objects);
    atomic_store(&heap_counting, true);
}

static inline void heap_end(void) { atomic_store(&heap_counting, false); }

/* Calls from this program, libtessera's included; all other objects' calls. */
static inline long heap_calls(bool own) {
    Dl_info program;
    long calls = 0;
    CHECK(dladdr((void *)heap_objects, &program));
    for (int i = 0; i < heap_object_count; i++)
        if ((heap_objects[i].base == program.dli_fbase) == own)
            calls += heap_objects[i].calls;
    return calls;
}

static inline void heap_print(void) {
    for (int i = 0; i < heap_object_count; i++)
        printf("    %s: %ld\n", heap_objects[i].name, heap_objects[i].calls);
}

#endif
#endif
