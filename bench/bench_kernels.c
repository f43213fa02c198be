/* Where the kernels of one training step spend their time.
 *
 *   bench_kernels [--batch B] [--seq T] [--ranks W] [--walks N] [--bf16]
 *                 [--small-pages]
 *
 * Compiles GPT-2 124M as `tessera bench step` does and walks the plan of rank 0
 * node by node on one thread, so that every kernel meets the caches as the step
 * leaves them. Equal nodes share a row; the figures are medians over walks.
 *
 * Time is this thread's processor time: on a shared machine other programs
 * then cost caches and memory bandwidth only. Limits are measured here, too: a
 * matrix product that fits the caches, and a copy of memory that does not. The
 * limit of a node is the larger of its operations at the first rate and its
 * least traffic at the second; what lies in a cache may beat it.
 *
 * Collectives have no kernel and do not run: gradient shards stay zero.
 * --small-pages puts weights and gradients into ordinary pages of a shared
 * file, where forked ranks have them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/array.h"
#include "base/half.h"
#include "base/memory.h"
#include "base/os.h"
#include "graph/graph.h"
#include "tessera/tessera.h"

#define MOST_WALKS 32

typedef struct settings {
    int64_t batch, seq, ranks, walks;
    bool bf16, small_pages;
} settings;

/* Equal nodes: one op on equal types. */
typedef struct row {
    const tsr_op_view *view; /* of the first of them */
    double flops, bytes;     /* of one node */
    int nodes;
    double seconds[MOST_WALKS]; /* of all nodes */
} row;

/* A node, ready to run. */
typedef struct call {
    const tsr_kernel *kernel;
    tsr_kernel_call with;
    tsr_type_array types; /* owned */
    void **addresses;     /* (inputs + outputs) owned */
    void *state;          /* of the kernel, owned */
    double *seconds;      /* where to add the time */
    size_t row;
} call;

typedef struct bench {
    settings set;
    tsr_op_table *ops;
    tsr_kernel_table *kernels;
    tsr_device *device;
    tsr_stream *stream;
    tsr_plan *plan;
    void *spaces[TSR_SPACE_COUNT]; /* owned */
    call *calls;                   /* (call_count) owned */
    row *rows;                     /* (row_count) owned */
    size_t call_count, row_count;
    double peak_flops, copy_bytes; /* a second */
} bench;

static double cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---- the plan and its memory ---- */

static size_t workspace(const void *context, const tsr_op_view *view) {
    const tsr_kernel *kernel = tsr_kernel_table_find(context, view->op->name);
    return kernel && kernel->workspace ? kernel->workspace(view, 1) : 0;
}

static tsr_status compile(bench *self) {
    tsr_graph *graph;
    tsr_gpt_config model;
    tsr_target target = {
        .world = (int)self->set.ranks,
        .shared = true,
        .gather_alias = true,
        .workspace = workspace,
        .workspace_context = self->kernels,
        .products = tsr_kernel_table_products(
            self->kernels, self->set.bf16 ? TSR_BF16 : TSR_F32)};
    tsr_training training = {.micro_steps = 1,
                             .adamw = {.beta1 = 0.9,
                                       .beta2 = 0.95,
                                       .eps = 1e-8,
                                       .weight_decay = 0.1,
                                       .max_norm = 1}};
    int64_t tokens = self->set.ranks * self->set.batch * self->set.seq;
    TSR_TRY(tsr_gpt_preset("gpt2", &model));
    model.dtype = self->set.bf16 ? TSR_BF16 : TSR_F32;
    TSR_TRY(tsr_graph_create(self->ops, &graph));
    tsr_status status = tsr_gpt_build(graph, &model, self->set.batch,
                                      self->set.seq, 1.0 / (double)tokens);
    if (status != TSR_OK) {
        tsr_graph_release(graph);
        return status;
    }
    return tsr_compile_training(graph, &target, &training, &self->plan);
}

static tsr_status map_small_pages(size_t bytes, void **out_memory) {
    int fd;
    TSR_TRY(tsr_os_shared_file("bench_kernels", bytes, &fd));
    tsr_status status = tsr_os_map_shared(fd, bytes, out_memory);
    close(fd);
    return status;
}

static tsr_status allocate(bench *self) {
    for (int s = TSR_SPACE_NONE + 1; s < TSR_SPACE_COUNT; s++) {
        bool small = self->set.small_pages &&
                     (s == TSR_SPACE_WEIGHTS || s == TSR_SPACE_GRADS);
        TSR_TRY(small ? map_small_pages(self->plan->bytes[s], &self->spaces[s])
                      : tsr_device_alloc(self->device, self->plan->bytes[s],
                                         &self->spaces[s]));
    }
    return TSR_OK;
}

static void *address(const bench *self, tsr_value_id id) {
    const tsr_value *value = tsr_graph_value(self->plan->graph, id);
    return (char *)self->spaces[value->space] + value->offset;
}

/* ---- values that keep numbers in range ---- */

static void fill_parameter(const bench *self, tsr_value_id id) {
    const tsr_value *value = tsr_graph_value(self->plan->graph, id);
    const tsr_param *param =
        tsr_graph_param_at(self->plan->graph, value->param);
    for (int64_t i = 0; i < tsr_type_count(&value->type); i++) {
        double noise = (double)rand() / RAND_MAX * 2 - 1;
        tsr_store_real(address(self, id), value->type.dtype, (size_t)i,
                       (float)(param->init == TSR_INIT_CONSTANT
                                   ? param->init_value
                                   : param->init_value * sqrt(3) * noise));
    }
}

/* Tokens in the smallest vocabulary there is; a learning rate and a step. */
static void fill_input(const bench *self, tsr_value_id id) {
    const tsr_value *value = tsr_graph_value(self->plan->graph, id);
    float *real = address(self, id);
    int32_t *integer = address(self, id);
    for (int64_t i = 0; i < tsr_type_count(&value->type); i++) {
        if (value->type.dtype == TSR_I32)
            integer[i] = rand() % 50257;
        else
            real[i] = i == 0 ? 1e-4f : 1.0f;
    }
}

static void fill(const bench *self) {
    const tsr_graph *graph = self->plan->graph;
    for (int v = 0; v < tsr_graph_value_count(graph); v++) {
        tsr_value_id id = {v};
        tsr_role role = tsr_graph_value(graph, id)->role;
        if (role == TSR_ROLE_GATHERED)
            fill_parameter(self, id);
        else if (role == TSR_ROLE_INPUT)
            fill_input(self, id);
    }
}

/* ---- nodes ---- */

static bool same_types(const tsr_type *a, const tsr_type *b, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!tsr_type_equal(&a[i], &b[i]))
            return false;
    return true;
}

static size_t find_row(bench *self, const tsr_op_view *view) {
    size_t r = 0;
    for (; r < self->row_count; r++) {
        const tsr_op_view *other = self->rows[r].view;
        if (view->op == other->op && view->input_count == other->input_count &&
            same_types(view->inputs, other->inputs, view->input_count))
            return r;
    }
    tsr_cost cost = {0};
    if (view->op->cost)
        view->op->cost(view, &cost);
    row *made = &self->rows[self->row_count++];
    *made = (row){.view = view, .flops = cost.flops};
    for (size_t i = 0; i < view->input_count; i++)
        made->bytes += (double)tsr_type_bytes(&view->inputs[i]);
    for (size_t i = 0; i < view->output_count; i++)
        made->bytes += (double)tsr_type_bytes(&view->outputs[i]);
    return r;
}

static tsr_status prepare_call(bench *self, const tsr_node *node, call *at) {
    const tsr_graph *graph = self->plan->graph;
    size_t inputs = (size_t)node->inputs.count,
           outputs = (size_t)node->outputs.count;
    TSR_TRY(tsr_graph_view(graph, node, &at->types, &at->with.view));
    at->kernel = tsr_kernel_table_find(self->kernels, at->with.view.op->name);
    if (!at->kernel)
        return tsr_error(TSR_NOT_FOUND, "op '%s' has no kernel",
                         at->with.view.op->name);
    if (at->kernel->prepare)
        TSR_TRY(at->kernel->prepare(&at->with.view, 1, &at->state));
    at->with.state = at->state;
    TSR_TRY(tsr_alloc(inputs + outputs, sizeof *at->addresses,
                      (void **)&at->addresses));
    for (size_t i = 0; i < inputs; i++)
        at->addresses[i] = address(self, tsr_graph_inputs(graph, node)[i]);
    for (size_t i = 0; i < outputs; i++)
        at->addresses[inputs + i] =
            address(self, tsr_graph_outputs(graph, node)[i]);
    at->with.in = (const void *const *)at->addresses;
    at->with.out = at->addresses + inputs;
    at->with.workspace =
        (char *)self->spaces[TSR_SPACE_TRANSIENT] + node->workspace_offset;
    at->with.device = self->device;
    at->row = find_row(self, &at->with.view);
    self->rows[at->row].nodes++;
    return TSR_OK;
}

static tsr_status prepare(bench *self) {
    const tsr_graph *graph = self->plan->graph;
    size_t nodes = (size_t)tsr_graph_node_count(graph);
    TSR_TRY(tsr_alloc(nodes, sizeof *self->calls, (void **)&self->calls));
    TSR_TRY(tsr_alloc(nodes, sizeof *self->rows, (void **)&self->rows));
    for (size_t n = 0; n < nodes; n++) {
        const tsr_node *node = tsr_graph_node_at(graph, (tsr_node_id){(int)n});
        if (tsr_graph_op(graph, node)->flags &
            (TSR_OP_COLLECTIVE | TSR_OP_ORDERING))
            continue;
        TSR_TRY(prepare_call(self, node, &self->calls[self->call_count++]));
    }
    return TSR_OK;
}

/* ---- measuring ---- */

static tsr_status run_call(void *context) {
    call *at = context;
    double begin = cpu_seconds();
    TSR_TRY(at->kernel->run(&at->with));
    *at->seconds += cpu_seconds() - begin;
    return TSR_OK;
}

/* One walk of warm-up, then those that count. */
static tsr_status walk(bench *self) {
    double ignored;
    for (int64_t w = -1; w < self->set.walks; w++)
        for (size_t i = 0; i < self->call_count; i++) {
            call *at = &self->calls[i];
            at->seconds = w < 0 ? &ignored : &self->rows[at->row].seconds[w];
            TSR_TRY(tsr_stream_enqueue(self->stream, run_call, at));
        }
    return TSR_OK;
}

/* x (ROWS, SIDE) times weight (SIDE, SIDE): 1.5 + 2.25 MiB. */
#define PEAK_ROWS 512
#define PEAK_SIDE 768
#define PEAK_RUNS 50

static tsr_status measure_peak(bench *self) {
    tsr_type types[3] = {
        {.dtype = TSR_F32, .dims = 2, .shape = {PEAK_ROWS, PEAK_SIDE}},
        {.dtype = TSR_F32, .dims = 2, .shape = {PEAK_SIDE, PEAK_SIDE}},
        {.dtype = TSR_F32, .dims = 2, .shape = {PEAK_ROWS, PEAK_SIDE}}};
    size_t x = PEAK_ROWS * PEAK_SIDE, weight = PEAK_SIDE * PEAK_SIDE;
    float *memory = self->spaces[TSR_SPACE_TRANSIENT];
    const void *in[] = {memory, memory + x};
    void *out[] = {memory + x + weight};
    double best = 0, seconds;
    call product = {.kernel = tsr_kernel_table_find(self->kernels, "linear"),
                    .with = {.view = {.inputs = types,
                                      .input_count = 2,
                                      .outputs = types + 2,
                                      .output_count = 1},
                             .in = in,
                             .out = out,
                             .device = self->device},
                    .seconds = &seconds};
    for (int i = 0; i < PEAK_RUNS; i++) {
        seconds = 0;
        TSR_TRY(tsr_stream_enqueue(self->stream, run_call, &product));
        double rate = 2.0 * PEAK_ROWS * PEAK_SIDE * PEAK_SIDE / seconds;
        best = rate > best ? rate : best;
    }
    self->peak_flops = best;
    return TSR_OK;
}

/* Counted as read and written once each. */
#define COPY_BYTES ((size_t)64 << 20)
#define COPY_RUNS 10

static void measure_copy(bench *self) {
    char *memory = self->spaces[TSR_SPACE_PERSISTENT];
    for (int i = 0; i < COPY_RUNS; i++) {
        double begin = cpu_seconds();
        memcpy(memory, memory + COPY_BYTES, COPY_BYTES);
        double rate = 2.0 * (double)COPY_BYTES / (cpu_seconds() - begin);
        self->copy_bytes = rate > self->copy_bytes ? rate : self->copy_bytes;
    }
}

/* ---- the table ---- */

static int by_value(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

/* The longest first; rows have been sorted inside. */
static int by_time(const void *left, const void *right) {
    const row *a = left, *b = right;
    return by_value(&b->seconds[0], &a->seconds[0]);
}

static void take_medians(bench *self) {
    for (size_t r = 0; r < self->row_count; r++) {
        double *seconds = self->rows[r].seconds;
        qsort(seconds, (size_t)self->set.walks, sizeof *seconds, by_value);
        seconds[0] = seconds[self->set.walks / 2];
    }
    qsort(self->rows, self->row_count, sizeof *self->rows, by_time);
}

static void print_shape(const tsr_type *type, char *text, size_t bytes) {
    size_t used = 0;
    for (int d = 0; d < type->dims && used < bytes; d++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%lld",
                                 d ? "x" : "", (long long)type->shape[d]);
}

static void print_row(const bench *self, const row *at, double total) {
    char first[32] = "", second[32] = "";
    double nodes = at->nodes, seconds = at->seconds[0];
    double limit =
        fmax(at->flops / self->peak_flops, at->bytes / self->copy_bytes);
    print_shape(&at->view->inputs[0], first, sizeof first);
    if (at->view->input_count > 1)
        print_shape(&at->view->inputs[1], second, sizeof second);
    printf("%-19s %-12s %-12s %4d %9.1f %8.2f %5.1f %% %7.1f %6.1f %5.0f %%\n",
           at->view->op->name, first, second, at->nodes, 1e6 * seconds / nodes,
           1e3 * seconds, 100 * seconds / total,
           1e-9 * nodes * at->flops / seconds,
           1e-9 * nodes * at->bytes / seconds, 100 * nodes * limit / seconds);
}

static void report(bench *self) {
    double total = 0, products = 0, flops = 0, limit = 0;
    take_medians(self);
    for (size_t r = 0; r < self->row_count; r++) {
        const row *at = &self->rows[r];
        total += at->seconds[0];
        limit += at->nodes * fmax(at->flops / self->peak_flops,
                                  at->bytes / self->copy_bytes);
        if (strncmp(at->view->op->name, "linear", 6) == 0) {
            products += at->seconds[0];
            flops += at->nodes * at->flops;
        }
    }
    printf("kernels  %s, products in %s, one thread; weights and gradients "
           "in %s pages\n",
           tsr_kernel_table_describe(self->kernels),
           self->plan->target.products,
           self->set.small_pages ? "small" : "huge");
    printf("limits   %.1f GFLOP/s, %.1f GB/s (copy, read and written)\n\n",
           1e-9 * self->peak_flops, 1e-9 * self->copy_bytes);
    printf("%-19s %-12s %-12s %4s %9s %8s %7s %7s %6s %7s\n", "op",
           "first input", "second", "n", "us each", "ms", "share", "GFLOP/s",
           "GB/s", "limit");
    for (size_t r = 0; r < self->row_count; r++)
        print_row(self, &self->rows[r], total);
    printf("\nall kernels %.1f ms; at the limits %.1f ms\n", 1e3 * total,
           1e3 * limit);
    printf("matrix products %.1f ms (%.1f GFLOP, %.1f GFLOP/s), the rest "
           "%.1f ms\n",
           1e3 * products, 1e-9 * flops, 1e-9 * flops / products,
           1e3 * (total - products));
}

/* ---- main ---- */

static tsr_status run(bench *self) {
    TSR_TRY(tsr_op_table_create(&self->ops));
    TSR_TRY(tsr_kernel_table_create(TSR_KERNELS_CPU, &self->kernels));
    TSR_TRY(tsr_device_create_cpu(NULL, &self->device));
    TSR_TRY(tsr_stream_create(self->device, TSR_STREAM_INLINE, "bench", 0,
                              &self->stream));
    TSR_TRY(compile(self));
    TSR_TRY(allocate(self));
    TSR_TRY(measure_peak(self));
    measure_copy(self);
    fill(self);
    TSR_TRY(prepare(self));
    TSR_TRY(walk(self));
    report(self);
    return TSR_OK;
}

static void release(bench *self) {
    for (size_t i = 0; i < self->call_count; i++) {
        const tsr_kernel *kernel = self->calls[i].kernel;
        if (kernel && kernel->unprepare)
            kernel->unprepare(self->calls[i].state);
        TSR_ARRAY_FREE(&self->calls[i].types);
        tsr_free(self->calls[i].addresses);
    }
    tsr_free(self->calls);
    tsr_free(self->rows);
    for (int s = 0; self->plan && s < TSR_SPACE_COUNT; s++)
        tsr_os_unmap(self->spaces[s], self->plan->bytes[s]);
    tsr_plan_release(self->plan);
    tsr_stream_release(self->stream);
    tsr_device_release(self->device);
    tsr_kernel_table_release(self->kernels);
    tsr_op_table_release(self->ops);
}

static bool parse(int argc, char **argv, settings *out_settings) {
    const struct {
        const char *name;
        int64_t *value, most;
    } flags[] = {{"--batch", &out_settings->batch, 1024},
                 {"--seq", &out_settings->seq, 1024},
                 {"--ranks", &out_settings->ranks, 1024},
                 {"--walks", &out_settings->walks, MOST_WALKS}};
    for (int i = 1; i < argc; i++) {
        size_t f = 0;
        if (strcmp(argv[i], "--small-pages") == 0) {
            out_settings->small_pages = true;
            continue;
        }
        if (strcmp(argv[i], "--bf16") == 0) {
            out_settings->bf16 = true;
            continue;
        }
        while (f < 4 && strcmp(argv[i], flags[f].name) != 0)
            f++;
        if (f == 4 || ++i == argc)
            return false;
        *flags[f].value = strtoll(argv[i], NULL, 10);
        if (*flags[f].value < 1 || *flags[f].value > flags[f].most)
            return false;
    }
    return true;
}

int main(int argc, char **argv) {
    bench self = {.set = {.batch = 2, .seq = 64, .ranks = 2, .walks = 5}};
    if (!parse(argc, argv, &self.set)) {
        fprintf(stderr,
                "usage: bench_kernels [--batch B] [--seq T] [--ranks "
                "W] [--walks 1-%d] [--bf16] [--small-pages]\n",
                MOST_WALKS);
        return 2;
    }
    tsr_status status = run(&self);
    if (status != TSR_OK)
        fprintf(stderr, "%s: %s\n", tsr_status_name(status), tsr_last_error());
    release(&self);
    return status == TSR_OK ? 0 : 1;
}
