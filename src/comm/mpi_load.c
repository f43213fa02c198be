/* Which MPI started this process, and the module that speaks to it.
 *
 * A launcher leaves its mark in the environment of what it starts. The modules
 * lie in a folder that is found from where this code lies, so that a tree can
 * be moved: lib/tessera beside a program's bin, or tessera beside (or one
 * above) the shared library. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/os.h"
#include "comm/mpi.h"

/* TESSERA_MPI=openmpi or mpich: for launchers that are not known here. */
#define CHOICE_VARIABLE "TESSERA_MPI"
#define FOLDER_VARIABLE "TESSERA_MODULE_PATH"

typedef struct mpi_kind {
    const char *name;    /* of the module, and of the choice */
    const char *title;   /* for messages */
    const char *package; /* what to install for building the module */
} mpi_kind;

static const mpi_kind kinds[] = {{"openmpi", "Open MPI", "libopenmpi-dev"},
                                 {"mpich", "MPICH", "libmpich-dev"}};
#define KINDS (sizeof kinds / sizeof *kinds)

/* The first whose `mark` is set. */
static const struct {
    const char *mark, *rank, *world;
    size_t kind;
} launchers[] = {
    /* Open MPI's mpirun; also where Slurm is its launcher */
    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", 0},
    /* MPICH's mpiexec (Hydra) and relatives; srun --mpi=pmi2 */
    {"PMI_RANK", "PMI_RANK", "PMI_SIZE", 1},
    /* srun --mpi=pmix */
    {"PMIX_RANK", "PMIX_RANK", "SLURM_NTASKS", 0},
};

static int number(const char *variable) {
    const char *text = getenv(variable);
    char *end;
    long value = text ? strtol(text, &end, 10) : -1;
    return text && end != text && *end == '\0' && value >= 0 && value < INT_MAX
               ? (int)value
               : -1;
}

/* NULL: no launcher that is known. */
static const mpi_kind *find_kind(int *out_rank, int *out_world) {
    *out_rank = *out_world = -1;
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        if (!getenv(launchers[i].mark))
            continue;
        *out_rank = number(launchers[i].rank);
        *out_world = number(launchers[i].world);
        return &kinds[launchers[i].kind];
    }
    return NULL;
}

int tsr_mpi_launched(int *out_rank, int *out_world) {
    int rank, world;
    const mpi_kind *kind = find_kind(&rank, &world);
    if (out_rank)
        *out_rank = rank;
    if (out_world)
        *out_world = world;
    return kind != NULL;
}

static tsr_status choose(const mpi_kind **out_kind) {
    int rank, world;
    const char *choice = getenv(CHOICE_VARIABLE);
    *out_kind = NULL;
    if (!choice || !*choice) {
        *out_kind = find_kind(&rank, &world);
        if (*out_kind)
            return TSR_OK;
        return tsr_error(TSR_FAILED_PRECONDITION,
                         "no MPI launcher started this process: start it with "
                         "mpirun, or name the library in " CHOICE_VARIABLE
                         " (openmpi or mpich)");
    }
    for (size_t i = 0; i < KINDS; i++)
        if (strcmp(choice, kinds[i].name) == 0)
            *out_kind = &kinds[i];
    return *out_kind ? TSR_OK
                     : tsr_error(TSR_INVALID_ARGUMENT,
                                 CHOICE_VARIABLE
                                 "='%s' is unknown; known: openmpi, mpich",
                                 choice);
}

/* ---- the module ---- */

/* Returns a handle, or NULL with a reason if the file is there. */
static void *open_file(const char *path, char *reason, size_t bytes) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    fclose(file);
    /* Global: an MPI library's own plug-ins look for its symbols. Never closed:
     * its threads and handlers live as long as the process. */
    void *handle = dlopen(path, RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE);
    if (!handle)
        snprintf(reason, bytes, "%s", dlerror());
    return handle;
}

static tsr_status open_module(const mpi_kind *kind, void **out_handle) {
    static const char *const folders[] = {"../lib/tessera", "tessera",
                                          "../tessera"};
    const char *chosen = getenv(FOLDER_VARIABLE);
    char code[PATH_MAX], path[2 * PATH_MAX], reason[512] = "";
    *out_handle = NULL;
    tsr_os_code_path(code, sizeof code);
    char *slash = strrchr(code, '/');
    if (slash)
        *slash = '\0';
    if (chosen && *chosen) {
        snprintf(path, sizeof path, "%s/tessera_mpi_%s.so", chosen, kind->name);
        *out_handle = open_file(path, reason, sizeof reason);
    } else {
        for (size_t i = 0;
             !*out_handle && !*reason && i < sizeof folders / sizeof *folders;
             i++) {
            snprintf(path, sizeof path, "%s/%s/tessera_mpi_%s.so", code,
                     folders[i], kind->name);
            *out_handle = open_file(path, reason, sizeof reason);
        }
    }
    if (*out_handle)
        return TSR_OK;
    if (*reason)
        return tsr_error(TSR_NOT_FOUND,
                         "the module for %s does not load: %s; is the library "
                         "installed (Debian: %s)?",
                         kind->title, reason, kind->package);
    if (chosen && *chosen)
        return tsr_error(TSR_NOT_FOUND,
                         "there is no module for %s: %s does not exist "
                         "(" FOLDER_VARIABLE " is set)",
                         kind->title, path);
    return tsr_error(TSR_NOT_FOUND,
                     "there is no module for %s: tessera_mpi_%s.so is neither "
                     "in %s/../lib/tessera nor in " FOLDER_VARIABLE
                     "; it is built where %s is installed",
                     kind->title, kind->name, code, kind->package);
}

tsr_status tsr_mpi_load(const tsr_mpi_module **out_module) {
    const mpi_kind *kind;
    void *handle;
    tsr_mpi_module_get_function get;
    *out_module = NULL;
    TSR_TRY(choose(&kind));
    TSR_TRY(open_module(kind, &handle));
    /* ISO C has no conversion from dlsym's result to a function; POSIX has. */
    *(void **)&get = dlsym(handle, TSR_MPI_MODULE_SYMBOL);
    if (!get)
        return tsr_error(TSR_FAILED_PRECONDITION,
                         "tessera_mpi_%s.so is no module of Tessera's: it has "
                         "no " TSR_MPI_MODULE_SYMBOL,
                         kind->name);
    const tsr_mpi_module *module = get();
    if (module->abi != TSR_MPI_MODULE_ABI)
        return tsr_error(TSR_FAILED_PRECONDITION,
                         "tessera_mpi_%s.so is of version %u, this library "
                         "needs version %d: build both from one source",
                         kind->name, (unsigned)module->abi, TSR_MPI_MODULE_ABI);
    *out_module = module;
    return TSR_OK;
}
