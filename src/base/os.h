/* What the operating system offers beyond POSIX; os_linux.c is the only file
 * that knows Linux. */
#ifndef TSR_BASE_OS_H
#define TSR_BASE_OS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Zeroed private memory in pages, huge where `bytes` makes that worthwhile;
 * touched when `touch`. */
tsr_status tsr_os_map(size_t bytes, bool touch, void **out_memory);
void tsr_os_unmap(void *memory, size_t bytes); /* takes NULL */

/* An anonymous file of `bytes`, its pages reserved now, so that no later touch
 * can fail; close it with close(). */
tsr_status tsr_os_shared_file(const char *name, size_t bytes, int *out_fd);
/* Maps all of it, shared between everybody who maps it. */
tsr_status tsr_os_map_shared(int fd, size_t bytes, void **out_memory);

/* Bytes that can still be used before the machine, this process's cgroup (v1 or
 * v2) or its limit of address space runs out. File pages that are given back on
 * demand count as free. */
size_t tsr_os_memory_available(void);
/* The cgroup's part of it. membership, mount: "/proc/self/cgroup" and
 * "/sys/fs/cgroup", or a test's own. SIZE_MAX: no limit. */
size_t tsr_os_cgroup_room(const char *membership, const char *mount);

/* Processors this process may run on, at least 1. */
int tsr_os_processors(void);

/* Bytes of the last level of cache that the first processor sees; 32 MiB where
 * that is unknown. */
size_t tsr_os_cache_bytes(void);

/* Width of the terminal at standard output; 0 if unknown. */
int tsr_os_terminal_columns(void);

/* Waits, at most timeout_ms, until the reader of the pipe at standard error has
 * taken all that was written: whoever it is may be about to stop reading. Not a
 * pipe: returns at once. */
void tsr_os_wait_read(int timeout_ms);

/* Keeps the calling thread, and those it starts later, on `count` of the
 * processors it may run on now, from number `first` of them on. Advice: does
 * nothing where there are not so many. */
void tsr_os_pin(int first, int count);

/* Sleeps while *word == value, until woken or for timeout_ns (negative: for
 * ever). Spurious returns are allowed. `shared`: the word lies in memory shared
 * between processes. */
void tsr_os_futex_wait(_Atomic uint32_t *word, uint32_t value,
                       int64_t timeout_ns, bool shared);
void tsr_os_futex_wake(_Atomic uint32_t *word, bool shared); /* wakes all */

/* The process and user at the other end of a connected local socket. Errors:
 * IO.
 */
tsr_status tsr_os_socket_peer(int socket, int *out_process, unsigned *out_user);

/* The file that holds this code: the program, or a shared library. "" where
 * that is not known. */
void tsr_os_code_path(char *path, size_t bytes);

/* Two numbers that are equal between processes exactly if these can reach each
 * other over local sockets by process id (one machine, one namespace of
 * processes and networks), and if they may run on the same processors. */
void tsr_os_place(uint64_t *out_host, uint64_t *out_processors);

/* The calling process is killed when its parent dies. */
void tsr_os_die_with_parent(void);

/* One iteration of a spin loop. */
static inline void tsr_os_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Monotonic nanoseconds. */
int64_t tsr_os_now_ns(void);

#endif
