#define _GNU_SOURCE
#include "base/os.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/text.h"

/* Size of a huge page on x86-64; smaller requests stay on ordinary pages. */
#define HUGE_PAGE_BYTES ((size_t)2 << 20)

static void touch_pages(char *memory, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t at = 0; at < bytes; at += page)
        ((volatile char *)memory)[at] = 0;
}

tsr_status tsr_os_map(size_t bytes, bool touch, void **out_memory) {
    *out_memory = NULL;
    if (bytes == 0)
        return TSR_OK;
    /* Room for moving the start to a huge page's boundary; what hangs over is
     * given back. */
    size_t slack = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : 0;
    if (bytes > SIZE_MAX - slack)
        return tsr_error(TSR_OUT_OF_MEMORY, "could not map %zu bytes", bytes);
    char *memory = mmap(NULL, bytes + slack, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return tsr_error(TSR_OUT_OF_MEMORY, "could not map %zu bytes: %s",
                         bytes, strerror(errno));
    if (slack) {
        char *aligned = (char *)tsr_round_up((size_t)memory, HUGE_PAGE_BYTES);
        size_t before = (size_t)(aligned - memory);
        size_t page = (size_t)sysconf(_SC_PAGESIZE),
               kept = tsr_round_up(bytes, page);
        if (before)
            munmap(memory, before);
        if (before + kept < bytes + slack)
            munmap(aligned + kept, bytes + slack - before - kept);
        memory = aligned;
        madvise(memory, bytes, MADV_HUGEPAGE); /* advice only: a refusal costs
                                                  speed, not correctness */
    }
    if (touch)
        touch_pages(memory, bytes);
    *out_memory = memory;
    return TSR_OK;
}

void tsr_os_unmap(void *memory, size_t bytes) {
    if (memory)
        munmap(memory, bytes);
}

tsr_status tsr_os_shared_file(const char *name, size_t bytes, int *out_fd) {
    *out_fd = -1;
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0)
        return tsr_error(TSR_IO, "could not create shared memory '%s': %s",
                         name, strerror(errno));
    size_t available = tsr_os_memory_available();
    if (bytes > available || bytes > (size_t)INT64_MAX) {
        close(fd);
        return tsr_error(
            TSR_OUT_OF_MEMORY,
            "shared memory '%s' needs %zu bytes but only %zu are available",
            name, bytes, available);
    }
    int code = 0;
    if (bytes > 0 && ftruncate(fd, (off_t)bytes) != 0)
        code = errno;
    while (code == 0 && bytes > 0 &&
           (code = posix_fallocate(fd, 0, (off_t)bytes)) == EINTR)
        code = 0;
    if (code != 0) {
        close(fd);
        return tsr_error(
            TSR_OUT_OF_MEMORY,
            "could not reserve %zu bytes of shared memory '%s': %s", bytes,
            name, strerror(code));
    }
    *out_fd = fd;
    return TSR_OK;
}

tsr_status tsr_os_map_shared(int fd, size_t bytes, void **out_memory) {
    *out_memory = NULL;
    if (bytes == 0)
        return TSR_OK;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return tsr_error(TSR_OUT_OF_MEMORY,
                         "could not map %zu bytes of shared memory: %s", bytes,
                         strerror(errno));
    *out_memory = memory;
    return TSR_OK;
}

/* First number after `key` in `path`; SIZE_MAX where there is none ("max", no
 * file). */
static size_t read_number(const char *path, const char *key) {
    size_t value = SIZE_MAX;
    char line[256];
    FILE *file = fopen(path, "re");
    if (!file)
        return value;
    while (fgets(line, sizeof line, file)) {
        size_t length = strlen(key);
        if (strncmp(line, key, length) != 0)
            continue;
        char *end;
        unsigned long long number = strtoull(line + length, &end, 10);
        if (end != line + length)
            value = number > SIZE_MAX ? SIZE_MAX : (size_t)number;
        break;
    }
    fclose(file);
    return value;
}

/* Names of the memory controller's files. */
typedef struct cgroup_files {
    const char *folder; /* below the mount of all cgroups */
    const char *limit, *usage;
    const char
        *cache; /* line of memory.stat: file pages given back on demand */
} cgroup_files;

static const cgroup_files cgroup_v1 = {"/memory", "memory.limit_in_bytes",
                                       "memory.usage_in_bytes",
                                       "total_inactive_file "};
static const cgroup_files cgroup_v2 = {"", "memory.max", "memory.current",
                                       "inactive_file "};

static size_t number_in(const char *folder, const char *file, const char *key) {
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    return read_number(path, key);
}

/* What a cgroup and those above it still allow. */
static size_t cgroup_room(const char *mount, const char *group,
                          const cgroup_files *files) {
    char folder[PATH_MAX];
    size_t room = SIZE_MAX;
    int top = snprintf(folder, sizeof folder, "%s%s", mount, files->folder);
    snprintf(folder, sizeof folder, "%s%s%s", mount, files->folder, group);
    for (;;) {
        size_t limit = number_in(folder, files->limit, "");
        size_t usage = number_in(folder, files->usage, "");
        size_t cache = number_in(folder, "memory.stat", files->cache);
        if (limit != SIZE_MAX && usage != SIZE_MAX) {
            usage -= cache != SIZE_MAX && cache < usage ? cache : 0;
            size_t left = limit > usage ? limit - usage : 0;
            room = left < room ? left : room;
        }
        char *slash = strrchr(folder, '/');
        if (!slash || strlen(folder) <= (size_t)top)
            return room;
        *slash = '\0';
    }
}

size_t tsr_os_cgroup_room(const char *membership, const char *mount) {
    size_t room = SIZE_MAX;
    char line[PATH_MAX];
    FILE *file = fopen(membership, "re");
    if (!file)
        return room;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        size_t here = SIZE_MAX;
        if (controllers[1] == '\0')
            here = cgroup_room(mount, group, &cgroup_v2);
        else if (strstr(controllers + 1, "memory"))
            here = cgroup_room(mount, group, &cgroup_v1);
        room = here < room ? here : room;
    }
    fclose(file);
    return room;
}

/* What RLIMIT_AS leaves of the address space. */
static size_t address_room(void) {
    struct rlimit limit;
    size_t kib = read_number("/proc/self/status", "VmSize:");
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
        kib > SIZE_MAX / 1024)
        return SIZE_MAX;
    return limit.rlim_cur > kib * 1024 ? (size_t)limit.rlim_cur - kib * 1024
                                       : 0;
}

size_t tsr_os_memory_available(void) {
    size_t kib = read_number("/proc/meminfo", "MemAvailable:");
    size_t available = kib > SIZE_MAX / 1024 ? SIZE_MAX : kib * 1024;
    size_t group = tsr_os_cgroup_room("/proc/self/cgroup", "/sys/fs/cgroup");
    size_t address = address_room();
    available = group < available ? group : available;
    return address < available ? address : available;
}

int tsr_os_processors(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    int count = CPU_COUNT(&set);
    return count > 0 ? count : 1;
}

/* Not sysconf: in virtual machines it counts the caches of processors that this
 * machine does not have. */
size_t tsr_os_cache_bytes(void) {
    size_t kib = read_number("/sys/devices/system/cpu/cpu0/cache/index3/size",
                             ""); /* "32768K" */
    return kib < SIZE_MAX / 1024 ? kib * 1024 : (size_t)32 << 20;
}

int tsr_os_terminal_columns(void) {
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

void tsr_os_wait_read(int timeout_ms) {
    struct stat pipe;
    struct timespec turn = {.tv_nsec = 1000 * 1000};
    int unread = 0;
    if (fstat(STDERR_FILENO, &pipe) != 0 || !S_ISFIFO(pipe.st_mode))
        return;
    /* Nobody tells a writer: it has to look. */
    for (int ms = 0; ms < timeout_ms &&
                     ioctl(STDERR_FILENO, FIONREAD, &unread) == 0 && unread > 0;
         ms++)
        nanosleep(&turn, NULL);
}

void tsr_os_pin(int first, int count) {
    cpu_set_t all, own;
    int seen = 0;
    if (sched_getaffinity(0, sizeof all, &all) != 0 ||
        first + count > CPU_COUNT(&all))
        return;
    CPU_ZERO(&own);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all))
            continue;
        if (seen >= first && seen < first + count)
            CPU_SET(cpu, &own);
        seen++;
    }
    sched_setaffinity(0, sizeof own, &own);
}

void tsr_os_futex_wait(_Atomic uint32_t *word, uint32_t value,
                       int64_t timeout_ns, bool shared) {
    struct timespec timeout = {.tv_sec = timeout_ns / 1000000000,
                               .tv_nsec = timeout_ns % 1000000000};
    syscall(SYS_futex, word, shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE, value,
            timeout_ns < 0 ? NULL : &timeout, NULL, 0);
}

void tsr_os_futex_wake(_Atomic uint32_t *word, bool shared) {
    syscall(SYS_futex, word, shared ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE, INT_MAX,
            NULL, NULL, 0);
}

tsr_status tsr_os_socket_peer(int socket, int *out_process,
                              unsigned *out_user) {
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0)
        return tsr_error(TSR_IO, "could not see who is at a socket: %s",
                         strerror(errno));
    *out_process = peer.pid;
    *out_user = peer.uid;
    return TSR_OK;
}

void tsr_os_code_path(char *path, size_t bytes) {
    Dl_info info;
    char own[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", own, sizeof own - 1);
    own[length > 0 ? length : 0] = '\0';
    /* For a program the name is the one it was started by, which may be
     * relative to any folder. */
    bool library = dladdr((void *)(uintptr_t)tsr_os_code_path, &info) != 0 &&
                   info.dli_fname && strchr(info.dli_fname, '/') &&
                   strstr(info.dli_fname, ".so");
    snprintf(path, bytes, "%s", library ? info.dli_fname : own);
}

static uint64_t mix(uint64_t hash, const void *bytes, size_t count) {
    for (size_t i = 0; i < count; i++) /* FNV-1a */
        hash = (hash ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3u;
    return hash;
}

void tsr_os_place(uint64_t *out_host, uint64_t *out_processors) {
    static const char *const namespaces[] = {"/proc/self/ns/pid",
                                             "/proc/self/ns/net"};
    char boot[64] = "";
    cpu_set_t set;
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    size_t length = file ? fread(boot, 1, sizeof boot, file) : 0;
    if (file)
        fclose(file);
    *out_host = mix(0xcbf29ce484222325u, boot, length);
    for (size_t i = 0; i < sizeof namespaces / sizeof *namespaces; i++) {
        struct stat info = {0};
        (void)!stat(namespaces[i], &info);
        *out_host = mix(*out_host, &info.st_ino, sizeof info.st_ino);
    }
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    *out_processors = mix(0xcbf29ce484222325u, &set, sizeof set);
}

void tsr_os_die_with_parent(void) { prctl(PR_SET_PDEATHSIG, SIGKILL); }

int64_t tsr_os_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}
