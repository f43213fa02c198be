/* What the eager front costs the calling thread, and how fast offload copies.
 *
 *   bench_eager
 *
 * One rank, so without communication. Calls come in batches of 64 small ones;
 * the streams are drained between batches, outside the time. Medians, in ns a
 * call, with a caller's stream that runs tasks inline and with one that queues
 * them. Copies are valid and weights unchanged where the name says nothing. The
 * allocator is the program's own (a free list) but in the last column: there it
 * is the library's, which asks the system. On an inline stream
 * reload_parameter includes the copy: the stream goes on after it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/status.h"
#include "tessera/eager.h"

enum { BATCH = 64, RUNS = 401, GRAPH = 1, COUNT = 64 /* elements */ };

/* ---- an allocator that has learnt what it is asked for ---- */

typedef struct block {
    struct block *next;
    size_t bytes;
} block;

typedef struct free_list {
    block *blocks;
} free_list;

/* The header takes a cache line, so that the memory is aligned. */
static tsr_status list_alloc(void *context, size_t bytes, tsr_stream *stream,
                             void **out_memory) {
    free_list *list = context;
    block **link = &list->blocks;
    (void)stream; /* all blocks are used in the order of one stream */
    while (*link && (*link)->bytes != bytes)
        link = &(*link)->next;
    block *found = *link;
    if (found) {
        *link = found->next;
    } else {
        found = aligned_alloc(64, 64 + (bytes + 63) / 64 * 64);
        if (!found)
            return tsr_fail(TSR_OUT_OF_MEMORY, "the bench has no memory");
        found->bytes = bytes;
        memset((char *)found + 64, 0, bytes);
    }
    *out_memory = (char *)found + 64;
    return TSR_OK;
}

static void list_free(void *context, void *memory, size_t bytes,
                      tsr_stream *stream) {
    free_list *list = context;
    block *freed = (block *)(void *)((char *)memory - 64);
    (void)bytes;
    (void)stream;
    freed->next = list->blocks;
    list->blocks = freed;
}

static void list_release(free_list *list) {
    while (list->blocks) {
        block *first = list->blocks;
        list->blocks = first->next;
        free(first);
    }
}

/* ---- a rank ---- */

typedef struct bench {
    tsr_device *device;
    tsr_bootstrap *bootstrap;
    tsr_comm *gather_comm, *reduce_comm;
    tsr_kernel_table *kernels;
    tsr_stream *stream;
    free_list list;
    tsr_zero *zero;
    float shards[BATCH][COUNT], grads[BATCH][COUNT], gradients[BATCH][COUNT];
    void *back[BATCH], *slots[BATCH];
    tsr_zero_binding *handles[BATCH];
} bench;

static tsr_status open_zero(bench *self, tsr_stream_kind kind, bool own) {
    int64_t ids[BATCH];
    tsr_allocator allocator = {list_alloc, list_free, &self->list};
    tsr_zero_options options = {
        .device = self->device,
        .gather_comm = self->gather_comm,
        .reduce_comm = self->reduce_comm,
        .kernels = self->kernels,
        .allocator = own ? NULL : &allocator,
        .settings = {.stage = 3, .host_bytes = SIZE_MAX}};
    TSR_TRY(tsr_stream_create(self->device, kind, "caller", 0, &self->stream));
    TSR_TRY(tsr_zero_create(&options, &self->zero));
    for (int p = 0; p < BATCH; p++) {
        tsr_zero_param param = {
            .id = p,
            .type = {.dtype = TSR_F32, .dims = 1, .shape = {COUNT}},
            .shard = {.context = self->shards[p]},
            .grad = {.context = self->grads[p]},
            .persistent = true};
        TSR_TRY(tsr_zero_register_param(self->zero, &param, self->stream));
        ids[p] = p;
    }
    return tsr_zero_register_graph(self->zero, GRAPH, ids, BATCH);
}

static void close_zero(bench *self) {
    tsr_zero_release(self->zero);
    tsr_stream_release(self->stream);
    self->zero = NULL;
    self->stream = NULL;
}

static tsr_status drain(bench *self) {
    TSR_TRY(tsr_stream_synchronize(self->stream));
    return tsr_zero_synchronize(self->zero);
}

/* ---- calls ---- */

static tsr_status gather(bench *self, int i) {
    tsr_view view = {0};
    tsr_status status = tsr_zero_allgather_param(self->zero, GRAPH, i, TSR_F32,
                                                 self->stream, &view);
    self->handles[i] = view.binding;
    return status;
}
static tsr_status wait_gather(bench *self, int i) {
    return tsr_zero_wait_allgather(self->zero, GRAPH, i, self->stream);
}
static tsr_status release(bench *self, int i) {
    return tsr_zero_release_param(self->zero, GRAPH, i, 1, self->stream);
}
static tsr_status wait_handle(bench *self, int i) {
    return tsr_zero_wait_binding(self->zero, self->handles[i], self->stream);
}
static tsr_status release_handle(bench *self, int i) {
    return tsr_zero_release_binding(self->zero, self->handles[i], 1,
                                    self->stream);
}
static tsr_status prefetch(bench *self, int i) {
    int64_t id = i;
    return tsr_zero_prefetch_params_fused(self->zero, &id, NULL, 1,
                                          self->stream);
}
static tsr_status start_backward(bench *self, int i) {
    (void)i;
    return tsr_zero_start_backward(self->zero, false);
}
static tsr_status reduce(bench *self, int i) {
    return tsr_zero_reduce_grad(self->zero, GRAPH, i, self->gradients[i],
                                self->stream);
}
static tsr_status take_slot(bench *self, int i) {
    return tsr_zero_grad_slot(self->zero, GRAPH, i, self->stream,
                              &self->slots[i]);
}
static tsr_status reduce_slot(bench *self, int i) {
    return tsr_zero_reduce_grad(self->zero, GRAPH, i, self->slots[i],
                                self->stream);
}
static tsr_status wait_grads(bench *self, int i) {
    (void)i;
    return tsr_zero_wait_grads_copied(self->zero, self->stream);
}
static tsr_status abort_step(bench *self, int i) {
    return i == 0 ? tsr_zero_abort_step(self->zero, self->stream) : TSR_OK;
}
static tsr_status offload(bench *self, int i) {
    return tsr_zero_offload_tensor(self->zero, GRAPH, i, self->gradients[i],
                                   sizeof self->gradients[i], self->stream,
                                   NULL);
}
static tsr_status wait_offload(bench *self, int i) {
    return tsr_zero_wait_offload(self->zero, GRAPH, i, self->stream);
}
static tsr_status reload(bench *self, int i) {
    return tsr_zero_reload_tensor(self->zero, GRAPH, i, self->stream,
                                  &self->back[i]);
}
static tsr_status wait_reload(bench *self, int i) {
    return tsr_zero_wait_reload(self->zero, GRAPH, i, NULL, self->stream,
                                &self->back[i]);
}
static tsr_status free_tensor(bench *self, int i) {
    return tsr_zero_free_tensors(self->zero, &self->back[i], 1, self->stream);
}
static tsr_status shard_out(bench *self, int i) {
    return tsr_zero_offload_parameter(self->zero, i, self->stream);
}
static tsr_status shard_in(bench *self, int i) {
    return tsr_zero_reload_parameter(self->zero, i, self->stream);
}
static tsr_status changed(bench *self, int i) {
    int64_t id = i;
    return tsr_zero_weights_changed(self->zero, &id, 1, self->stream);
}
static tsr_status seal(bench *self, int i) {
    (void)i;
    return tsr_zero_seal(self->zero, self->stream);
}
static tsr_status regather(bench *self, int i) {
    int64_t ids[BATCH];
    for (int p = 0; p < BATCH; p++)
        ids[p] = p;
    return i > 0 ? TSR_OK
                 : tsr_zero_prefetch_params_fused(self->zero, ids, NULL, BATCH,
                                                  self->stream);
}

/* In this order each finds what it needs; without a name: not measured. */
static const struct {
    const char *name;
    tsr_status (*call)(bench *self, int i);
} phases[] = {{"seal (nothing to do)", seal},
              {"allgather_param", gather},
              {"wait_allgather", wait_gather},
              {"release_param", release},
              {NULL, gather},
              {"wait_binding", wait_handle},
              {"release_binding", release_handle},
              {"prefetch_params_fused", prefetch},
              {NULL, start_backward},
              {"reduce_grad (no flush)", reduce},
              {"wait_grads_copied", wait_grads},
              {NULL, abort_step},
              {NULL, start_backward},
              {"grad_slot (no flush)", take_slot},
              {"reduce_grad (its slot)", reduce_slot},
              {NULL, abort_step},
              {"offload_tensor", offload},
              {"wait_offload", wait_offload},
              {"reload_tensor", reload},
              {"wait_reload", wait_reload},
              {"free_tensors (one)", free_tensor},
              {"offload_parameter", shard_out},
              {"reload_parameter", shard_in},
              {"weights_changed", changed},
              {NULL, regather}};
enum { PHASES = sizeof phases / sizeof *phases, COLUMNS = 3 };

/* ---- measuring ---- */

static double now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int by_value(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

static double median(double *values, size_t count) {
    qsort(values, count, sizeof *values, by_value);
    return values[count / 2];
}

static tsr_status measure_calls(bench *self, double medians[PHASES]) {
    static double ns[PHASES][RUNS];
    for (int run = -2; run < RUNS; run++) /* the first ones warm up */
        for (int p = 0; p < PHASES; p++) {
            double begin = now_ns();
            for (int i = 0; i < BATCH; i++)
                TSR_TRY(phases[p].call(self, i));
            if (run >= 0)
                ns[p][run] = (now_ns() - begin) / BATCH;
            TSR_TRY(drain(self));
        }
    for (int p = 0; p < PHASES; p++)
        medians[p] = median(ns[p], RUNS);
    return TSR_OK;
}

static tsr_status print_calls(bench *self) {
    static const tsr_stream_kind kinds[COLUMNS] = {
        TSR_STREAM_INLINE, TSR_STREAM_QUEUED, TSR_STREAM_QUEUED};
    static double ns[COLUMNS][PHASES];
    for (int c = 0; c < COLUMNS; c++) {
        TSR_TRY(open_zero(self, kinds[c], c == 2));
        TSR_TRY(measure_calls(self, ns[c]));
        close_zero(self);
    }
    printf("%-24s %10s %10s %10s   ns a call\n", "", "inline", "queued",
           "own memory");
    for (int p = 0; p < PHASES; p++)
        if (phases[p].name)
            printf("%-24s %10.0f %10.0f %10.0f\n", phases[p].name, ns[0][p],
                   ns[1][p], ns[2][p]);
    return TSR_OK;
}

/* ---- bandwidth ---- */

#define TOTAL ((size_t)32 << 20) /* bytes a turn: more than caches hold */

/* Tensors of `bytes`, all out or all back, until the host has seen the end. */
static tsr_status move(bench *self, char *tensors, size_t bytes, bool out,
                       void **back) {
    for (size_t t = 0; t < TOTAL / bytes; t++) {
        int64_t id = 1000 + (int64_t)t;
        TSR_TRY(out ? tsr_zero_offload_tensor(self->zero, GRAPH, id,
                                              tensors + t * bytes, bytes,
                                              self->stream, NULL)
                    : tsr_zero_reload_tensor(self->zero, GRAPH, id,
                                             self->stream, &back[t]));
    }
    return tsr_zero_synchronize(self->zero);
}

/* Out and back, and memcpy of as much on one core, by turns. */
static tsr_status measure_copies(bench *self, size_t bytes, char *tensors,
                                 char *host, void **back) {
    enum { TURNS = 15 };
    double out[TURNS], in[TURNS], plain[TURNS];
    for (int turn = -1; turn < TURNS; turn++) { /* the first one warms up */
        double at[4];
        at[0] = now_ns();
        for (size_t t = 0; t < TOTAL / bytes; t++)
            memcpy(host + t * bytes, tensors + t * bytes, bytes);
        at[1] = now_ns();
        TSR_TRY(move(self, tensors, bytes, true, back));
        at[2] = now_ns();
        TSR_TRY(move(self, tensors, bytes, false, back));
        at[3] = now_ns();
        TSR_TRY(tsr_zero_free_tensors(self->zero, back, TOTAL / bytes,
                                      self->stream));
        TSR_TRY(drain(self));
        if (turn < 0)
            continue;
        plain[turn] = (double)TOTAL / (at[1] - at[0]);
        out[turn] = (double)TOTAL / (at[2] - at[1]);
        in[turn] = (double)TOTAL / (at[3] - at[2]);
    }
    double limit = median(plain, TURNS), there = median(out, TURNS),
           here = median(in, TURNS);
    printf("%8zu KiB %10.1f %10.1f %10.1f %8.0f %% %8.0f %%\n", bytes >> 10,
           limit, there, here, 100 * there / limit, 100 * here / limit);
    return TSR_OK;
}

static tsr_status print_copies(bench *self) {
    static void *back[TOTAL >> 16];
    void *tensors, *host;
    TSR_TRY(tsr_device_alloc(self->device, TOTAL, &tensors));
    TSR_TRY(tsr_device_alloc_host(self->device, TOTAL, &host));
    printf("\n%12s %10s %10s %10s   GB/s, 32 MiB in tensors of so much\n", "",
           "memcpy", "offload", "reload");
    for (size_t bytes = (size_t)64 << 10; bytes <= TOTAL; bytes *= 8) {
        TSR_TRY(open_zero(self, TSR_STREAM_QUEUED, false));
        TSR_TRY(measure_copies(self, bytes, tensors, host, back));
        close_zero(self);
    }
    tsr_device_free_host(self->device, host, TOTAL);
    tsr_device_free(self->device, tensors, TOTAL);
    return TSR_OK;
}

/* ---- */

static tsr_status run(bench *self) {
    TSR_TRY(tsr_device_create_cpu(NULL, &self->device));
    TSR_TRY(tsr_bootstrap_create_solo(&self->bootstrap));
    TSR_TRY(tsr_comm_create_host(self->bootstrap, NULL, &self->gather_comm));
    TSR_TRY(tsr_comm_split(self->gather_comm, &self->reduce_comm));
    TSR_TRY(tsr_kernel_table_create(TSR_KERNELS_REF, &self->kernels));
    TSR_TRY(print_calls(self));
    return print_copies(self);
}

int main(void) {
    static bench self;
    tsr_status status = run(&self);
    if (status != TSR_OK)
        fprintf(stderr, "%s: %s\n", tsr_status_name(status), tsr_last_error());
    tsr_zero_release(self.zero);
    tsr_stream_release(self.stream);
    tsr_kernel_table_release(self.kernels);
    tsr_comm_release(self.reduce_comm);
    tsr_comm_release(self.gather_comm);
    tsr_bootstrap_release(self.bootstrap);
    tsr_device_release(self.device);
    list_release(&self.list);
    return status == TSR_OK ? 0 : 1;
}
