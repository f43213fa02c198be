/* What the ranks' processors can do: a matrix product of a size that fits the
 * caches, in the dtype that the plan computes in, on every rank at once. */
#include <unistd.h>

#include "base/half.h"
#include "base/os.h"
#include "graph/graph.h"
#include "train/trainer.h"

#define PEAK_ROWS 512
#define PEAK_FEATURES 768
/* Long enough to leave the clock's ramp behind. */
#define PEAK_SECONDS 0.1

typedef struct peak {
    const tsr_kernel *kernel;
    tsr_kernel_call call;
    double flops_per_s;
} peak;

/* The best of the calls: one that nobody disturbed. */
static tsr_status measure(void *context) {
    peak *self = context;
    double flops = 2.0 * PEAK_ROWS * PEAK_FEATURES * PEAK_FEATURES;
    int64_t begin = tsr_os_now_ns();
    do {
        int64_t start = tsr_os_now_ns();
        TSR_TRY(self->kernel->run(&self->call));
        double rate = flops / ((double)(tsr_os_now_ns() - start) * 1e-9);
        self->flops_per_s = rate > self->flops_per_s ? rate : self->flops_per_s;
    } while ((double)(tsr_os_now_ns() - begin) * 1e-9 < PEAK_SECONDS);
    return TSR_OK;
}

/* The first call compiles and touches its memory. */
static tsr_status warm_up(void *context) {
    peak *self = context;
    return self->kernel->run(&self->call);
}

static tsr_status prepare(const tsr_trainer *trainer, tsr_dtype dtype,
                          tsr_graph *graph, peak *self, tsr_type_array *types) {
    tsr_type x = {
        .dtype = dtype, .dims = 2, .shape = {PEAK_ROWS, PEAK_FEATURES}};
    tsr_type weight = {
        .dtype = dtype, .dims = 2, .shape = {PEAK_FEATURES, PEAK_FEATURES}};
    tsr_linear(graph, tsr_graph_declare(graph, "x", TSR_ROLE_INPUT, &x),
               tsr_graph_declare(graph, "weight", TSR_ROLE_INPUT, &weight),
               TSR_NO_VALUE, TSR_WEIGHT_IN_OUT);
    TSR_TRY(tsr_graph_status(graph));
    TSR_TRY(tsr_graph_view(graph, tsr_graph_node_at(graph, (tsr_node_id){0}),
                           types, &self->call.view));
    self->kernel = tsr_kernel_table_find(trainer->options.kernels, "linear");
    self->call.device = trainer->device;
    return self->kernel ? TSR_OK
                        : tsr_error(TSR_NOT_FOUND, "op 'linear' has no kernel");
}

/* No rank goes on before all are here. */
static tsr_status together(const tsr_trainer *trainer) {
    char here = 1, *all;
    TSR_TRY(tsr_alloc((size_t)trainer->world, 1, (void **)&all));
    tsr_status status = tsr_bootstrap_exchange(
        trainer->bootstrap, &here, 1, all, trainer->options.timeout_ms);
    tsr_free(all);
    return status;
}

/* x | weight | y | workspace, of `dtype`. */
static tsr_status run_products(tsr_trainer *trainer, tsr_dtype dtype,
                               peak *self, tsr_stream *stream, char *memory) {
    size_t x = PEAK_ROWS * PEAK_FEATURES,
           weight = PEAK_FEATURES * PEAK_FEATURES,
           element = tsr_dtype_bytes(dtype);
    const void *in[2] = {memory, memory + x * element};
    void *out[1] = {memory + (x + weight) * element};
    for (size_t i = 0; i < x + weight; i++)
        tsr_store_real(memory, dtype, i, (float)(i % 7) - 3);
    self->call.in = in;
    self->call.out = out;
    self->call.workspace = memory + (2 * x + weight) * element;
    TSR_TRY(tsr_stream_enqueue(stream, warm_up, self));
    TSR_TRY(tsr_stream_synchronize(stream));
    TSR_TRY(together(trainer)); /* all ranks at once from here */
    TSR_TRY(tsr_stream_enqueue(stream, measure, self));
    return tsr_stream_synchronize(stream);
}

/* What the model's parameters are used in. */
static tsr_dtype compute_dtype(const tsr_trainer *trainer) {
    const tsr_graph *graph = trainer->options.plan->graph;
    return tsr_graph_param_count(graph) > 0
               ? tsr_graph_param_at(graph, (tsr_param_id){0})->type.dtype
               : TSR_F32;
}

static tsr_status measure_here(tsr_trainer *trainer, double *out_flops_per_s) {
    tsr_status status = TSR_OK;
    tsr_graph *graph = NULL;
    tsr_stream *stream = NULL;
    void *memory = NULL, *state = NULL;
    tsr_type_array types = {0};
    peak self = {0};
    tsr_dtype dtype = compute_dtype(trainer);
    int threads = tsr_device_threads(trainer->device);
    size_t bytes = (size_t)(2 * PEAK_ROWS + PEAK_FEATURES) * PEAK_FEATURES *
                   tsr_dtype_bytes(dtype);
    TSR_TRY_GOTO(
        tsr_graph_create(tsr_graph_ops(trainer->options.plan->graph), &graph));
    TSR_TRY_GOTO(prepare(trainer, dtype, graph, &self, &types));
    if (self.kernel->workspace)
        bytes += self.kernel->workspace(&self.call.view, threads);
    if (self.kernel->prepare)
        TSR_TRY_GOTO(self.kernel->prepare(&self.call.view, threads, &state));
    self.call.state = state;
    TSR_TRY_GOTO(tsr_device_alloc(trainer->device, bytes, &memory));
    TSR_TRY_GOTO(tsr_stream_create(trainer->device, TSR_STREAM_QUEUED, "peak",
                                   0, &stream));
    status = run_products(trainer, dtype, &self, stream, memory);
    *out_flops_per_s = self.flops_per_s;
done:
    tsr_stream_release(stream);
    tsr_device_free(trainer->device, memory, bytes);
    if (self.kernel && self.kernel->unprepare)
        self.kernel->unprepare(state);
    TSR_ARRAY_FREE(&types);
    tsr_graph_release(graph);
    return status;
}

tsr_status tsr_trainer_measure_peak(tsr_trainer *trainer,
                                    double *out_flops_per_s) {
    double mine = 0, *all;
    /* Who fails here leaves, and its peers see that it is gone. */
    TSR_TRY(measure_here(trainer, &mine));
    TSR_TRY(tsr_alloc((size_t)trainer->world, sizeof *all, (void **)&all));
    tsr_status status =
        tsr_bootstrap_exchange(trainer->bootstrap, &mine, sizeof mine, all,
                               trainer->options.timeout_ms);
    /* Threads that take turns on a processor have one processor's peak. */
    double threads = (double)trainer->options.host_ranks *
                     tsr_device_threads(trainer->device);
    double processors = (double)sysconf(_SC_NPROCESSORS_ONLN);
    *out_flops_per_s = 0;
    for (int r = 0; status == TSR_OK && r < trainer->world; r++)
        *out_flops_per_s +=
            all[r] * (threads > processors ? processors / threads : 1);
    tsr_free(all);
    return status;
}
