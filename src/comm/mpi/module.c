/* The calls into MPI: compiled once for each MPI library that is found (see
 * modules.cmake), into a module that libtessera loads at run time. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/mpi_module.h"

struct tsr_mpi_job {
    MPI_Comm comm; /* a duplicate: our tags meet nobody else's */
    bool ours;     /* we initialised MPI */
};

struct tsr_mpi_batch {
    MPI_Comm comm;
    tsr_mpi_transfer *transfers; /* (count) borrowed while under way */
    int count, left, capacity;
    MPI_Request *requests; /* (capacity) */
    MPI_Status *statuses;  /* (capacity) */
    int *indices;          /* (capacity) */
};

static bool explain(const char *call, int code, char *error) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS)
        snprintf(text, sizeof text, "error %d", code);
    snprintf(error, TSR_MPI_ERROR_BYTES, "%s: %.200s", call, text);
    return false;
}

/* ---- job ---- */

/* "Open MPI v4.1.4, package: ..."; "MPICH Version:\t4.0.2\n..." */
static void name_library(char *name, size_t bytes) {
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(text, &length);
    snprintf(name, bytes, "%.*s", (int)strcspn(text, ",\n"), text);
    for (char *tab; (tab = strchr(name, '\t'));)
        *tab = ' ';
}

static bool initialise(bool one_thread, bool *out_ours, int *out_level,
                       char *error) {
    int before, after;
    MPI_Initialized(&before);
    MPI_Finalized(&after);
    if (after) {
        snprintf(error, TSR_MPI_ERROR_BYTES,
                 "MPI has been finalized: it can be used once a process");
        return false;
    }
    *out_ours = !before;
    if (!before) {
        int code = MPI_Init_thread(
            NULL, NULL, one_thread ? MPI_THREAD_FUNNELED : MPI_THREAD_MULTIPLE,
            out_level);
        return code == MPI_SUCCESS || explain("MPI_Init_thread", code, error);
    }
    MPI_Query_thread(out_level);
    if (*out_level == MPI_THREAD_MULTIPLE)
        return true;
    snprintf(error, TSR_MPI_ERROR_BYTES,
             "the application initialised MPI without MPI_THREAD_MULTIPLE: "
             "its thread and ours would meet in MPI");
    return false;
}

static bool begin(bool one_thread, tsr_mpi_job **out_job,
                  tsr_mpi_start *out_start, char *error) {
    int level, found = 0, *most_tag = NULL;
    bool ours;
    *out_job = NULL;
    if (!initialise(one_thread, &ours, &level, error))
        return false;
    tsr_mpi_job *job = calloc(1, sizeof *job);
    if (!job) {
        snprintf(error, TSR_MPI_ERROR_BYTES, "out of memory");
        return false;
    }
    job->ours = ours;
    int code = MPI_Comm_dup(MPI_COMM_WORLD, &job->comm);
    if (code != MPI_SUCCESS) {
        free(job);
        return explain("MPI_Comm_dup", code, error);
    }
    MPI_Comm_set_errhandler(job->comm, MPI_ERRORS_RETURN);
    *out_start = (tsr_mpi_start){.multiple = level == MPI_THREAD_MULTIPLE &&
                                             !one_thread};
    MPI_Comm_rank(job->comm, &out_start->rank);
    MPI_Comm_size(job->comm, &out_start->world);
    MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &most_tag, &found);
    out_start->most_tag = found ? *most_tag : 32767; /* the standard's least */
    name_library(out_start->library, sizeof out_start->library);
    *out_job = job;
    return true;
}

static void end(tsr_mpi_job *job, bool finalize) {
    if (finalize) {
        MPI_Comm_free(&job->comm);
        if (job->ours)
            MPI_Finalize();
    }
    free(job);
}

static void abort_job(tsr_mpi_job *job, int exit_code) {
    (void)job;
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    abort(); /* MPI_Abort is allowed to return */
}

/* ---- transfers ---- */

static void batch_release(tsr_mpi_batch *batch) {
    if (!batch)
        return;
    free(batch->requests);
    free(batch->statuses);
    free(batch->indices);
    free(batch);
}

static bool batch_create(tsr_mpi_job *job, int capacity,
                         tsr_mpi_batch **out_batch, char *error) {
    tsr_mpi_batch *batch = calloc(1, sizeof *batch);
    size_t count = (size_t)capacity + 1; /* none is no error */
    *out_batch = NULL;
    if (batch) {
        batch->comm = job->comm;
        batch->capacity = capacity;
        batch->requests = calloc(count, sizeof *batch->requests);
        batch->statuses = calloc(count, sizeof *batch->statuses);
        batch->indices = calloc(count, sizeof *batch->indices);
    }
    if (batch && batch->requests && batch->statuses && batch->indices) {
        *out_batch = batch;
        return true;
    }
    batch_release(batch);
    snprintf(error, TSR_MPI_ERROR_BYTES, "out of memory for %d transfers",
             capacity);
    return false;
}

static int start_one(tsr_mpi_batch *batch, const tsr_mpi_transfer *transfer,
                     MPI_Request *request) {
    int peer =
        transfer->peer == TSR_MPI_ANY_RANK ? MPI_ANY_SOURCE : transfer->peer;
    return transfer->send
               ? MPI_Isend(transfer->memory, (int)transfer->bytes, MPI_BYTE,
                           peer, transfer->tag, batch->comm, request)
               : MPI_Irecv(transfer->memory, (int)transfer->bytes, MPI_BYTE,
                           peer, transfer->tag, batch->comm, request);
}

static bool batch_start(tsr_mpi_batch *batch, tsr_mpi_transfer *transfers,
                        int count, char *error) {
    batch->transfers = transfers;
    batch->count = batch->left = 0;
    if (count > batch->capacity) {
        snprintf(error, TSR_MPI_ERROR_BYTES, "%d transfers of %d", count,
                 batch->capacity);
        return false;
    }
    for (int i = 0; i < count; i++) {
        transfers[i].done = false;
        transfers[i].moved = 0;
        batch->requests[i] = MPI_REQUEST_NULL;
        int code = start_one(batch, &transfers[i], &batch->requests[i]);
        if (code != MPI_SUCCESS)
            return explain(transfers[i].send ? "MPI_Isend" : "MPI_Irecv", code,
                           error);
        batch->count = ++batch->left;
    }
    return true;
}

static void finish(tsr_mpi_transfer *transfer, MPI_Status *status) {
    int cancelled = 0, moved = 0;
    MPI_Test_cancelled(status, &cancelled);
    if (cancelled)
        return;
    if (!transfer->send)
        MPI_Get_count(status, MPI_BYTE, &moved);
    transfer->moved = moved > 0 ? (size_t)moved : 0;
    transfer->done = true;
}

static bool batch_test(tsr_mpi_batch *batch, int *out_left, char *error) {
    int ended = 0;
    *out_left = batch->left;
    if (batch->left == 0)
        return true;
    int code = MPI_Testsome(batch->count, batch->requests, &ended,
                            batch->indices, batch->statuses);
    if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS)
        return explain("MPI_Testsome", code, error);
    if (ended == MPI_UNDEFINED)
        ended = 0;
    for (int i = 0; i < ended; i++) {
        MPI_Status *status = &batch->statuses[i];
        if (code == MPI_ERR_IN_STATUS && status->MPI_ERROR != MPI_SUCCESS &&
            status->MPI_ERROR != MPI_ERR_PENDING)
            return explain("MPI_Testsome", status->MPI_ERROR, error);
        finish(&batch->transfers[batch->indices[i]], status);
        batch->left--;
    }
    *out_left = batch->left;
    return true;
}

static void batch_cancel(tsr_mpi_batch *batch) {
    for (int i = 0; i < batch->count; i++)
        if (batch->requests[i] != MPI_REQUEST_NULL && !batch->transfers[i].send)
            MPI_Cancel(&batch->requests[i]);
}

/* ---- the table ---- */

static const tsr_mpi_module module = {
    .abi = TSR_MPI_MODULE_ABI,
    .begin = begin,
    .end = end,
    .abort = abort_job,
    .batch_create = batch_create,
    .batch_release = batch_release,
    .batch_start = batch_start,
    .batch_test = batch_test,
    .batch_cancel = batch_cancel,
};

/* What the library looks up; the one name that a module exports. */
__attribute__((visibility("default"))) const tsr_mpi_module *
tsr_mpi_module_get(void);

const tsr_mpi_module *tsr_mpi_module_get(void) { return &module; }
