/* What a cgroup still allows, read from files laid out like the kernel's. */
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/os.h"
#include "check.h"

static char root[] = "cgroup-XXXXXX";

static void put(const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void folder(const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    CHECK(mkdir(path, 0777) == 0);
}

static size_t room(const char *membership) {
    char path[512];
    put("membership", membership);
    snprintf(path, sizeof path, "%s/membership", root);
    return tsr_os_cgroup_room(path, root);
}

int main(void) {
    CHECK(mkdtemp(root));
    CHECK(tsr_os_cgroup_room("no such file", root) == SIZE_MAX);
    CHECK(room("0::/\n") == SIZE_MAX);

    /* Version 2: the tightest of the group and those above it. */
    folder("outer");
    folder("outer/inner");
    put("outer/memory.max", "1000000\n");
    put("outer/memory.current", "400000\n");
    put("outer/inner/memory.max", "max\n");
    put("outer/inner/memory.current", "300000\n");
    CHECK(room("0::/outer/inner\n") == 600000);
    put("outer/inner/memory.max", "500000\n");
    CHECK(room("0::/outer/inner\n") == 200000);
    /* Cached file pages are given back when memory is asked for. */
    put("outer/inner/memory.stat", "anon 1\ninactive_file 250000\nfile 9\n");
    CHECK(room("0::/outer/inner\n") == 450000);
    put("outer/inner/memory.current", "800000\n");
    put("outer/inner/memory.stat", "inactive_file 100\n");
    CHECK(room("0::/outer/inner\n") == 0);

    /* Version 1. */
    folder("memory");
    folder("memory/job");
    put("memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("memory/memory.usage_in_bytes", "5\n");
    put("memory/job/memory.limit_in_bytes", "600\n");
    put("memory/job/memory.usage_in_bytes", "590\n");
    put("memory/job/memory.stat", "cache 500\ntotal_inactive_file 500\n");
    CHECK(room("3:cpu:/x\n5:memory:/job\n") == 510);

    char command[64];
    snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(system(command) == 0);
    return 0;
}
