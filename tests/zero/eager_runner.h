/* What a rank needs to run a program of eager ops and to compare every call,
 * every value it reads and every byte it holds with the model: streams, memory,
 * snapshots. eager_runner_ops.h runs the ops.
 *
 * The first thing that differs ends the process: eager_search.h runs programs
 * in processes of their own. */
#ifndef TSR_TESTS_ZERO_EAGER_RUNNER_H
#define TSR_TESTS_ZERO_EAGER_RUNNER_H

#include <stdarg.h>

#include "zero/eager_cover.h"
#include "zero/eager_model_grads.h"
#include "zero/eager_model_host.h"
#include "zero/eager_program_text.h"

/* Exit status of a process in which a program failed. */
enum { RUNNER_FAILED = 3 };

/* A shard of one rank has less than a granule more than the parameter. */
enum { SNAPSHOT_COUNT = PROGRAM_NUMEL + 8 };

/* Values read on a stream, looked at once the stream has been synchronized. */
typedef struct snapshot {
    struct snapshot *next;
    int op;
    const char *what;
    int id;
    tsr_dtype dtype;
    int64_t count;
    float slack, expected[SNAPSHOT_COUNT];
    float seen[SNAPSHOT_COUNT]; /* of dtype */
} snapshot;

typedef struct owned {
    struct owned *next;
    _Alignas(64) unsigned char memory[];
} owned;

typedef struct runner runner;

typedef struct runner_param {
    runner *of;
    tsr_zero_param desc;
    void *shard, *grad; /* shard: NULL while vacated */
    size_t shard_bytes, grad_bytes;
} runner_param;

/* A tensor that came back. */
typedef struct runner_reload {
    void *memory;
    size_t bytes;
    int graph, id, value;
    unsigned waited, read; /* bit s: may be, was read on stream s */
} runner_reload;

typedef struct runner_tensor {
    int value;    /* of the latest copy out */
    void *source; /* what that borrows; NULL: nothing to be spoiled */
} runner_tensor;

/* A slot that grad_slot gave, and what was written there since. */
typedef struct runner_slot {
    void *memory;
    int call, stream;
} runner_slot;

/* Gradients that reduce_grad borrows. */
typedef struct loan {
    void *memory;
    size_t bytes;
} loan;

typedef struct runner_zero {
    tsr_zero *zero;
    tsr_comm *gather_comm, *reduce_comm;
    eager_heap heap;
    bool has_heap;
    model model;
    runner_param params[PROGRAM_PARAMS];
    tsr_view views[PROGRAM_GRAPHS][PROGRAM_PARAMS];
    tsr_zero_binding *handles[PROGRAM_GRAPHS][PROGRAM_PARAMS];
    runner_slot slots[PROGRAM_PARAMS];
    loan loans[PROGRAM_OPS];
    int loan_count;
    unsigned grad_readers; /* bit s: gradients were read on stream s */
    int writer;            /* the stream that wrote weights last */
    runner_tensor tensors[PROGRAM_GRAPHS][PROGRAM_TENSORS];
    runner_reload reloads[PROGRAM_OPS];
    int reload_count;
} runner_zero;

struct runner {
    const program *program;
    unsigned *covered; /* (COVERS) of rank 0; NULL on others */
    int rank, world;
    tsr_device *zero_device, *caller_device;
    tsr_kernel_table *kernels;
    tsr_stream *streams[PROGRAM_STREAMS];
    tsr_event *read[PROGRAM_STREAMS];    /* recorded behind each read */
    tsr_event *written[PROGRAM_STREAMS]; /* behind each write of weights */
    runner_zero zeros[PROGRAM_ZEROS];
    snapshot *snapshots;
    owned *memory;
    unsigned char spoil[PROGRAM_NUMEL * 8];
    int at; /* op */
};

/* ---- failing ---- */

static inline void fail(const runner *self, const char *format, ...)
    TSR_PRINTF(2, 3);
static inline void fail(const runner *self, const char *format, ...) {
    va_list arguments;
    flockfile(stdout); /* the first rank to come here is the one to tell */
    printf("@fail rank %d, op %d: ", self->rank, self->at);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
    _exit(RUNNER_FAILED);
}

static inline void cover(const runner *self, cover_kind kind) {
    if (self->covered)
        self->covered[kind]++;
}

static inline void cover_if(const runner *self, cover_kind kind, bool yes) {
    if (yes)
        cover(self, kind);
}

static inline void expect(const runner *self, tsr_status got,
                          tsr_status expected) {
    cover_if(self, COVER_not_found, expected == TSR_NOT_FOUND);
    if (got != expected)
        fail(self, "got %s, expected %s%s%s", tsr_status_name(got),
             tsr_status_name(expected), got == TSR_OK ? "" : ": ",
             got == TSR_OK ? "" : tsr_last_error());
}

/* ---- memory ---- */

/* Until the program has ended: queued work may use it. */
static inline void *own(runner *self, size_t bytes) {
    size_t all = (sizeof(owned) + bytes + 64 + 63) / 64 * 64;
    owned *made = aligned_alloc(64, all);
    CHECK(made);
    memset(made->memory, SPOILED, all - sizeof(owned));
    made->next = self->memory;
    self->memory = made;
    return made->memory;
}

/* Whoever reads it after what `stream` holds now reads NaN. */
static inline void spoil_on(runner *self, tsr_stream *stream, void *memory,
                            size_t bytes) {
    CHECK(bytes <= sizeof self->spoil);
    expect(self, tsr_stream_copy(stream, memory, self->spoil, bytes), TSR_OK);
}

/* The memory of a new gradient buffer was something else's, on this stream. */
static inline void use_grad_memory(runner *self, const runner_zero *zero,
                                   const op *at) {
    const runner_param *param = &zero->params[at->id];
    spoil_on(self, self->streams[at->stream], param->grad, param->grad_bytes);
}

static inline tsr_status fill_block(void *context) {
    const heap_block *block = context;
    memset(block->memory, SPOILED, block->bytes);
    return TSR_OK;
}

/* Memory that others use until `stream` is here: used elsewhere, it changes. */
static inline tsr_status outside_alloc(void *context, size_t bytes,
                                       tsr_stream *stream, void **out_memory) {
    TSR_TRY(heap_alloc(context, bytes, stream, out_memory));
    eager_heap *heap = context;
    return tsr_stream_enqueue(stream, fill_block, heap->blocks);
}

/* ---- order between streams of the caller ---- */

static inline void wait_for(runner *self, int stream, tsr_event *const *events,
                            unsigned streams) {
    for (int s = 0; s < PROGRAM_STREAMS; s++)
        if (s != stream && (streams >> s & 1))
            expect(self, tsr_stream_wait(self->streams[stream], events[s]),
                   TSR_OK);
}

static inline int first_of(unsigned streams) {
    int s = 0;
    while (!(streams >> s & 1))
        s++;
    return s;
}

/* The graph's bindings end behind `stream` (-1: none) and streams that waited:
 * one of these comes after those that read without having waited. */
static inline void end_reads_behind(runner *self, runner_zero *zero, int graph,
                                    int stream) {
    for (int p = 0; p < PROGRAM_PARAMS; p++) {
        model_binding *binding = &zero->model.bindings[graph][p];
        if (binding->copy < 0 || binding->behind == 0)
            continue;
        int last = stream < 0 ? first_of(binding->waited) : stream;
        wait_for(self, last, self->read, binding->behind);
        binding->behind = 0;
    }
}

/* ---- values ---- */

static inline snapshot *take_snapshot(runner *self, int stream,
                                      const char *what, int id,
                                      const void *from, int64_t count,
                                      tsr_dtype dtype) {
    snapshot *made = calloc(1, sizeof *made);
    CHECK(made && count <= SNAPSHOT_COUNT);
    *made = (snapshot){.next = self->snapshots,
                       .op = self->at,
                       .what = what,
                       .id = id,
                       .dtype = dtype,
                       .count = count};
    memset(made->seen, SPOILED, sizeof made->seen);
    self->snapshots = made;
    expect(self,
           tsr_stream_copy(self->streams[stream], made->seen, from,
                           (size_t)count * tsr_dtype_bytes(dtype)),
           TSR_OK);
    expect(self, tsr_stream_record(self->streams[stream], self->read[stream]),
           TSR_OK);
    return made;
}

static inline void compare(const runner *self, const char *what, int read_at,
                           int id, int64_t i, float got, float expected,
                           float slack) {
    if (!(fabsf(got - expected) <= slack))
        fail(self, "%s %d [%d], read at op %d: %g, expected %g", what, id,
             (int)i, read_at, (double)got, (double)expected);
}

static inline float seen_at(const snapshot *at, int64_t i) {
    return at->dtype == TSR_U8 ? ((const unsigned char *)at->seen)[i]
                               : get_element(at->seen, at->dtype, (size_t)i);
}

static inline void check_snapshots(runner *self) {
    while (self->snapshots) {
        snapshot *at = self->snapshots;
        for (int64_t i = 0; i < at->count; i++)
            compare(self, at->what, at->op, at->id, i, seen_at(at, i),
                    at->expected[i], at->slack);
        self->snapshots = at->next;
        free(at);
    }
}

/* Averages times 1 / world are a rounding away from integers. */
static inline float grad_slack(const model_param *param) {
    return 0.01f + param->slack;
}

static inline float expected_grad(const model_param *param, int64_t i) {
    int64_t at = param->grad_begin + i;
    return at < param->numel ? param->sum[at] : 0;
}

/* Values of its buffer are told by the model, and are there. */
static inline bool grad_is_known(const model_param *param) {
    return param->registered && param->known && !param->frozen &&
           !param->waiting;
}

static inline void check_grads(const runner *self, const runner_zero *zero) {
    for (int p = 0; p < PROGRAM_PARAMS; p++) {
        const model_param *param = &zero->model.params[p];
        if (!grad_is_known(param))
            continue;
        for (int64_t i = 0; i < param->grad_count; i++)
            compare(self, "gradient of", self->at, p, i,
                    get_element(zero->params[p].grad, param->accumulated,
                                (size_t)i),
                    expected_grad(param, i), grad_slack(param));
    }
}

static inline void check_bytes(const runner *self, const char *what,
                               size_t told, size_t expected) {
    if (told != expected)
        fail(self, "%s: %zu bytes, expected %zu", what, told, expected);
}

static inline void check_memory(const runner *self, const runner_zero *zero) {
    tsr_zero_memory held = tsr_zero_memory_held(zero->zero);
    size_t reloaded = 0, shared = model_shared_bytes(&zero->model);
    for (int r = 0; r < zero->reload_count; r++)
        reloaded += zero->reloads[r].bytes;
    check_bytes(self, "gathered", held.gathered,
                model_gathered_bytes(&zero->model));
    check_bytes(self, "buckets", held.buckets,
                model_bucket_bytes(&zero->model) + shared);
    check_bytes(self, "reloaded", held.reloaded, reloaded);
    check_bytes(self, "host", held.host, model_host_bytes(&zero->model));
    if (held.host + held.host_pool > zero->model.settings->host_bytes)
        fail(self, "host: %zu and %zu in the pool are beyond the budget",
             held.host, held.host_pool);
    if (zero->has_heap)
        check_bytes(self, "allocated", zero->heap.live,
                    held.gathered + held.buckets - shared + held.reloaded);
}

static inline void synchronize(runner *self) {
    for (int s = 0; s < PROGRAM_STREAMS; s++)
        expect(self, tsr_stream_synchronize(self->streams[s]), TSR_OK);
    for (int z = 0; z < self->program->zero_count; z++) {
        expect(self, tsr_zero_synchronize(self->zeros[z].zero), TSR_OK);
        model_synchronized(&self->zeros[z].model);
        check_grads(self, &self->zeros[z]);
    }
    check_snapshots(self);
}

#endif
