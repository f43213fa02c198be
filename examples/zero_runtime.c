/* The ZeRO runtime alone, on tensors of the program's own.
 *
 *     zero_runtime [RANKS]        2 ranks, or as many as asked for (1 to 8)
 *
 * No graph and no plan: the program itself computes, in plain C, a network of
 * four layers that learns functions of seven numbers. The runtime keeps every
 * parameter, gradient and momentum sharded over the ranks, which are
 * processes here, and moves memory to the host and back:
 *
 *     forward     gather a layer's weights -> compute -> release
 *                 what backward will need goes to the host
 *     backward    it comes back; gather -> compute -> release
 *                 reduce: each rank receives its shard of the gradients
 *     update      momentum and weights, each rank its shards
 *                 a shard rests on the host until the next step
 *
 * Any number of ranks computes the same, but for rounding. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <tessera/comm.h>
#include <tessera/eager.h>

/* Odd sizes: few parameters divide evenly over the ranks. */
enum { LAYERS = 4, IN = 7, OUT = 3 };
static const int widths[LAYERS + 1] = {IN, 13, 11, 9, OUT};

enum { ROWS = 840 /* of all ranks */, STEPS = 300, MOST_RANKS = 8 };
enum { GRAPH = 0 }; /* the runtime counts uses by graph; here is one */

/* All errors are handled alike: say what failed, and go. The other ranks notice
 * and go too. */
#define CHECK(call)                                                            \
    do {                                                                       \
        tsr_status status_ = (call);                                           \
        if (status_ != TSR_OK) {                                               \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__,             \
                    tsr_status_name(status_), tsr_last_error());               \
            exit(EXIT_FAILURE);                                                \
        }                                                                      \
    } while (0)

/* ---- memory of the program ---- */

static size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, padded(bytes));
    if (memory == NULL) {
        fprintf(stderr, "%zu bytes are not to be had\n", bytes);
        exit(EXIT_FAILURE);
    }
    return memset(memory, 0, padded(bytes));
}

/* The allocator that the runtime is given: gathered copies, buckets and
 * reloaded tensors come from here. Its context counts the bytes lent now. */
static tsr_status lend(void *context, size_t bytes, tsr_stream *stream,
                       void **out_memory) {
    size_t *lent = context;
    (void)stream; /* new memory may be used on any */
    *out_memory = aligned_alloc(64, padded(bytes));
    if (*out_memory == NULL)
        return tsr_fail(TSR_OUT_OF_MEMORY, "this program has no memory left");
    *lent += bytes;
    return TSR_OK;
}

static tsr_status free_now(void *memory) {
    free(memory);
    return TSR_OK;
}

/* Work that uses the memory may still wait in the stream, so the block goes
 * when the stream comes to it. */
static void take_back(void *context, void *memory, size_t bytes,
                      tsr_stream *stream) {
    size_t *lent = context;
    *lent -= bytes;
    (void)tsr_stream_enqueue(stream, free_now, memory);
}

/* ---- parameters ---- */

/* Layer l has weights (widths[l], widths[l + 1]) and a bias. */
enum { PARAMS = 2 * LAYERS };
static const int64_t ids[PARAMS] = {0, 1, 2, 3, 4, 5, 6, 7};
static int64_t weight_id(int layer) { return ids[2 * layer]; }
static int64_t bias_id(int layer) { return ids[2 * layer + 1]; }

/* This rank's part of a parameter; every array holds `count` elements, as many
 * on every rank. Those past the parameter's end are 0 and stay 0. */
typedef struct param {
    tsr_type type; /* of the whole parameter */
    int64_t count;
    float *weights, *grad, *momentum;
} param;

static void *weights_address(void *context) {
    return ((param *)context)->weights;
}

/* The shard has been copied to the host, as far as `stream` is concerned. */
static void weights_vacate(void *context, tsr_stream *stream) {
    param *self = context;
    (void)tsr_stream_enqueue(stream, free_now, self->weights);
    self->weights = NULL;
}

static tsr_status weights_occupy(void *context, tsr_stream *stream) {
    param *self = context;
    (void)stream;
    self->weights = allocate((size_t)self->count * sizeof *self->weights);
    return TSR_OK;
}

/* Numbers in [-1, 1) that depend on their index alone: every rank draws the
 * same. */
static float draw(uint32_t index) {
    uint64_t x = (index + 1) * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return (float)(x >> 40) / (float)(1 << 23) - 1;
}

static param make_param(int64_t id, int rank, int world) {
    int in = widths[id / 2], out = widths[id / 2 + 1];
    bool bias = id % 2;
    param p = {.type = {TSR_F32, 2, {in, out}}};
    if (bias)
        p.type = (tsr_type){TSR_F32, 1, {out}};
    int64_t numel = tsr_type_count(&p.type);
    p.count = (numel + world - 1) / world;
    float **arrays[] = {&p.weights, &p.grad, &p.momentum};
    for (int i = 0; i < 3; i++)
        *arrays[i] = allocate((size_t)p.count * sizeof(float));
    for (int64_t i = 0; i < p.count && !bias; i++) { /* biases begin at 0 */
        int64_t at = rank * p.count + i;
        if (at < numel)
            p.weights[i] = draw((uint32_t)(id << 16 | at)) / sqrtf((float)in);
    }
    return p;
}

/* ---- a rank ---- */

typedef struct rank {
    int rank, world, rows; /* rows of the batch that are this rank's */
    bool tells;            /* rank 0, in the first step */
    tsr_device *device;
    tsr_stream *stream; /* inline: work runs when it is enqueued, so the program
                           may compute between two calls */
    tsr_comm *gather_comm, *reduce_comm, *loss_comm;
    size_t lent; /* bytes, to the runtime */
    tsr_allocator allocator;
    tsr_zero *zero;
    size_t most_gathered; /* bytes */
    param params[PARAMS];
    float *x, *target; /* (rows, IN), (rows, OUT) */
} rank;

static void start(rank *self, tsr_bootstrap *bootstrap) {
    self->rank = tsr_bootstrap_rank(bootstrap);
    self->world = tsr_bootstrap_world(bootstrap);
    CHECK(
        tsr_device_create_cpu(&(tsr_cpu_options){.threads = 1}, &self->device));
    CHECK(tsr_stream_create(self->device, TSR_STREAM_INLINE, "program", 0,
                            &self->stream));
    /* Calls of one communicator run in one order. Gathers, reduces and the sum
     * of losses must not wait behind each other: one each. */
    CHECK(tsr_comm_create_host(bootstrap, NULL, &self->gather_comm));
    CHECK(tsr_comm_split(self->gather_comm, &self->reduce_comm));
    CHECK(tsr_comm_split(self->gather_comm, &self->loss_comm));
}

static void create_zero(rank *self, const tsr_kernel_table *kernels) {
    self->allocator = (tsr_allocator){lend, take_back, &self->lent};
    tsr_zero_options options = {.device = self->device,
                                .gather_comm = self->gather_comm,
                                .reduce_comm = self->reduce_comm,
                                .kernels = kernels,
                                .allocator = &self->allocator};
    options.settings = (tsr_zero_settings){.stage = 3,
                                           .bucket_bytes = 4096,
                                           .double_buffer = true,
                                           .host_bytes = 1 << 20};
    CHECK(tsr_zero_create(&options, &self->zero));
}

/* The runtime is told where each shard and each gradient buffer lies. */
static void register_all(rank *self) {
    for (int id = 0; id < PARAMS; id++) {
        param *p = &self->params[id];
        *p = make_param(id, self->rank, self->world);
        tsr_zero_param desc = {.id = id, .type = p->type}; /* all dtypes f32 */
        desc.shard =
            (tsr_tensor){weights_address, p, weights_vacate, weights_occupy};
        desc.grad.context = p->grad; /* stays where it is */
        CHECK(tsr_zero_register_param(self->zero, &desc, self->stream));
    }
    CHECK(tsr_zero_register_graph(self->zero, GRAPH, ids, PARAMS));
    CHECK(tsr_zero_seal(self->zero, self->stream)); /* all ranks alike? */
}

/* Rows of the batch: what comes in, and what should come out. */
static void read_rows(rank *self) {
    self->rows = ROWS / self->world;
    self->x = allocate((size_t)self->rows * IN * sizeof(float));
    self->target = allocate((size_t)self->rows * OUT * sizeof(float));
    for (int n = 0; n < self->rows; n++) {
        float *x = self->x + n * IN, *target = self->target + n * OUT;
        int row = self->rank * self->rows + n;
        for (int i = 0; i < IN; i++)
            x[i] = draw((uint32_t)(PARAMS << 16 | (row * IN + i)));
        target[0] = tanhf(2 * (x[0] - x[1]));
        target[1] = sinf(2 * x[2] + x[3]);
        target[2] = x[4] - 0.5f * x[5] + x[6] * x[2];
    }
}

/* Bytes held now, by rank 0 in the first step. */
static void tell(const rank *self, const char *when, int layer) {
    if (!self->tells)
        return;
    tsr_zero_memory held = tsr_zero_memory_held(self->zero);
    size_t shards = 0;
    for (int id = 0; id < PARAMS; id++)
        if (self->params[id].weights)
            shards += (size_t)self->params[id].count * sizeof(float);
    printf("  %-36s %5d %6zu %8zu %7zu %6zu %6zu\n", when, layer, shards,
           held.gathered, held.buckets, held.host, self->lent);
}

/* ---- gather, release ---- */

static void note_gathered(rank *self) {
    size_t gathered = tsr_zero_memory_held(self->zero).gathered;
    if (gathered > self->most_gathered)
        self->most_gathered = gathered;
}

static const float *gather(rank *self, int64_t id) {
    tsr_view view;
    CHECK(tsr_zero_allgather_param(self->zero, GRAPH, id, TSR_F32, self->stream,
                                   &view));
    CHECK(tsr_zero_wait_allgather(self->zero, GRAPH, id, self->stream));
    note_gathered(self);
    return view.data;
}

/* The only use of this gather is over. */
static void release(rank *self, int64_t id) {
    CHECK(tsr_zero_release_param(self->zero, GRAPH, id, 1, self->stream));
}

/* Both parameters of a layer in one call, which goes on while others compute.
 * `gather` then finds them there, or on their way. */
static void prefetch(rank *self, int layer) {
    int64_t both[] = {weight_id(layer), bias_id(layer)};
    CHECK(tsr_zero_prefetch_params_fused(self->zero, both, NULL, 2,
                                         self->stream));
    note_gathered(self);
}

/* ---- layers ---- */

/* y = x w + b      x (rows, in), w (in, out), b (out), y (rows, out) */
static void layer(const float *x, const float *w, const float *b, float *y,
                  int rows, int in, int out) {
    for (int n = 0; n < rows; n++)
        for (int o = 0; o < out; o++) {
            float sum = b[o];
            for (int i = 0; i < in; i++)
                sum += x[n * in + i] * w[i * out + o];
            y[n * out + o] = sum;
        }
}

/* dw[i, o] = sum over n of x[n, i] dy[n, o] */
static void weight_grad(const float *x, const float *dy, float *dw, int rows,
                        int in, int out) {
    memset(dw, 0, (size_t)(in * out) * sizeof *dw);
    for (int n = 0; n < rows; n++)
        for (int o = 0; o < out; o++)
            for (int i = 0; i < in; i++)
                dw[i * out + o] += x[n * in + i] * dy[n * out + o];
}

/* db[o] = sum over n of dy[n, o] */
static void bias_grad(const float *dy, float *db, int rows, int out) {
    memset(db, 0, (size_t)out * sizeof *db);
    for (int n = 0; n < rows; n++)
        for (int o = 0; o < out; o++)
            db[o] += dy[n * out + o];
}

/* What comes before x = tanh(...): dx[n, i] = (1 - x[n, i]^2) * sum over o of
 * dy[n, o] w[i, o]. */
static void input_grad(const float *x, const float *dy, const float *w,
                       float *dx, int rows, int in, int out) {
    for (int n = 0; n < rows; n++)
        for (int i = 0; i < in; i++) {
            float sum = 0, at = x[n * in + i];
            for (int o = 0; o < out; o++)
                sum += dy[n * out + o] * w[i * out + o];
            dx[n * in + i] = sum * (1 - at * at);
        }
}

static size_t activation_bytes(const rank *self, int layer) {
    return (size_t)(self->rows * widths[layer]) * sizeof(float);
}

/* ---- forward ---- */

/* The input of layer l is the offloaded tensor l. */
static void to_host(rank *self, int l, float *x) {
    CHECK(tsr_zero_offload_tensor(self->zero, GRAPH, l, x,
                                  activation_bytes(self, l), self->stream,
                                  NULL));
    CHECK(tsr_zero_wait_offload(self->zero, GRAPH, l, self->stream));
    free(x); /* the stream has waited for the copy */
}

/* Returns the network's output (rows, OUT), owned. */
static float *forward(rank *self) {
    float *x = self->x;
    for (int l = 0; l < LAYERS; l++) {
        float *y = allocate(activation_bytes(self, l + 1));
        const float *w = gather(self, weight_id(l));
        const float *b = gather(self, bias_id(l));
        if (l + 1 < LAYERS)
            prefetch(self, l + 1);
        tell(self, "forward, a layer gathered", l);
        layer(x, w, b, y, self->rows, widths[l], widths[l + 1]);
        for (int i = 0; l + 1 < LAYERS && i < self->rows * widths[l + 1]; i++)
            y[i] = tanhf(y[i]);
        release(self, weight_id(l));
        release(self, bias_id(l));
        if (l > 0)
            to_host(self, l, x);
        tell(self, "         released, input offloaded", l);
        x = y;
    }
    return x;
}

/* Replaces y by the gradient of the loss, the mean of squares over all rows and
 * outputs of this rank; returns its mean over the ranks. */
static float loss_grad(rank *self, float *y) {
    int count = self->rows * OUT;
    double squares = 0;
    for (int i = 0; i < count; i++) {
        float difference = y[i] - self->target[i];
        squares += (double)difference * difference;
        y[i] = 2 * difference / (float)count;
    }
    float loss = (float)(squares / count / self->world);
    CHECK(
        tsr_comm_all_reduce(self->loss_comm, &loss, 1, TSR_F32, self->stream));
    return loss;
}

/* ---- backward ---- */

static float *from_host(rank *self, int l) {
    void *x;
    CHECK(tsr_zero_reload_tensor(self->zero, GRAPH, l, self->stream, &x));
    CHECK(tsr_zero_wait_reload(self->zero, GRAPH, l, NULL, self->stream, &x));
    return x;
}

/* Where the next gradient of the parameter is to be made: it will not be
 * copied. */
static float *grad_slot(rank *self, int64_t id) {
    void *slot;
    CHECK(tsr_zero_grad_slot(self->zero, GRAPH, id, self->stream, &slot));
    return slot;
}

/* Gradients are whole here. The runtime averages them over the ranks and leaves
 * each its shard, when a bucket is full or backward ends. */
static void reduce(rank *self, int64_t id, const float *grad) {
    CHECK(tsr_zero_reduce_grad(self->zero, GRAPH, id, grad, self->stream));
}

/* dy  (rows, OUT), transferred */
static void backward(rank *self, float *dy) {
    CHECK(tsr_zero_start_backward(self->zero, true));
    for (int l = LAYERS - 1; l >= 0; l--) {
        float *x = l > 0 ? from_host(self, l) : self->x;
        float *dw = grad_slot(self, weight_id(l));
        weight_grad(x, dy, dw, self->rows, widths[l], widths[l + 1]);
        reduce(self, weight_id(l), dw);
        float *db = grad_slot(self, bias_id(l));
        bias_grad(dy, db, self->rows, widths[l + 1]);
        reduce(self, bias_id(l), db);
        tell(self, "backward, input and gradients there", l);
        if (l > 0) {
            float *dx = allocate(activation_bytes(self, l));
            const float *w = gather(self, weight_id(l));
            input_grad(x, dy, w, dx, self->rows, widths[l], widths[l + 1]);
            release(self, weight_id(l));
            CHECK(tsr_zero_free_tensors(self->zero, (void *[]){x}, 1,
                                        self->stream));
            free(dy);
            dy = dx;
        }
    }
    free(dy);
    CHECK(tsr_zero_end_backward(self->zero, self->stream));
}

/* ---- update ---- */

/* Nesterov's momentum, at a falling rate. */
static void update(param *p, int step) {
    const float rate = 0.2f * (float)(STEPS + 1 - step) / STEPS, keep = 0.9f;
    for (int64_t i = 0; i < p->count; i++) {
        p->momentum[i] = keep * p->momentum[i] + p->grad[i];
        p->weights[i] -= rate * (p->grad[i] + keep * p->momentum[i]);
    }
}

enum { RESTS = 2 }; /* weights of layer 1: on the host between steps */

static float train_step(rank *self, int step) {
    CHECK(tsr_zero_reload_parameter(self->zero, RESTS, self->stream));
    tell(self, "begin", 0);
    float *y = forward(self);
    float loss = loss_grad(self, y);
    backward(self, y);
    tell(self, "backward ended", 0);
    for (int id = 0; id < PARAMS; id++)
        update(&self->params[id], step);
    CHECK(tsr_zero_weights_changed(self->zero, ids, PARAMS, self->stream));
    CHECK(tsr_zero_offload_parameter(self->zero, RESTS, self->stream));
    CHECK(tsr_zero_synchronize(self->zero)); /* only so that `tell` is exact */
    tell(self, "updated, a shard offloaded", RESTS / 2);
    return loss;
}

/* ---- the whole ---- */

/* Returns the bytes of all whole parameters. */
static size_t show_weights(rank *self) {
    size_t bytes = 0;
    CHECK(tsr_zero_reload_parameter(self->zero, RESTS, self->stream));
    if (self->rank == 0)
        printf("\nparameter  elements  on each rank     norm\n");
    for (int id = 0; id < PARAMS; id++) {
        const float *w = gather(self, id);
        const param *p = &self->params[id];
        int64_t numel = tsr_type_count(&p->type);
        double squares = 0;
        for (int64_t i = 0; i < numel; i++)
            squares += (double)w[i] * w[i];
        release(self, id);
        bytes += tsr_type_bytes(&p->type);
        if (self->rank == 0)
            printf("%-6s %d   %8lld  %12lld  %.5f\n",
                   id % 2 ? "bias" : "weight", id / 2, (long long)numel,
                   (long long)p->count, sqrt(squares));
    }
    return bytes;
}

static float train(rank *self, float *out_first) {
    float loss = 0;
    if (self->rank == 0)
        printf("  bytes of rank 0 in step 1            layer shards gathered "
               "buckets   host   lent\n");
    for (int step = 1; step <= STEPS; step++) {
        self->tells = self->rank == 0 && step == 1;
        loss = train_step(self, step);
        if (step == 1)
            *out_first = loss;
        if (self->rank == 0 && step == 1)
            printf("\n");
        if (self->rank == 0 && (step == 1 || step % 50 == 0))
            printf("step %3d   loss %.6f\n", step, (double)loss);
    }
    return loss;
}

static void finish(rank *self) {
    tsr_zero_release(self->zero); /* waits, then frees all that it held */
    if (self->lent != 0) {
        fprintf(stderr, "%zu bytes were not given back\n", self->lent);
        exit(EXIT_FAILURE);
    }
    for (int id = 0; id < PARAMS; id++) {
        param *p = &self->params[id];
        free(p->weights);
        free(p->grad);
        free(p->momentum);
    }
    free(self->x);
    free(self->target);
    tsr_comm_release(self->loss_comm);
    tsr_comm_release(self->reduce_comm);
    tsr_comm_release(self->gather_comm);
    tsr_stream_release(self->stream);
    tsr_device_release(self->device);
}

static bool run(tsr_bootstrap *bootstrap) {
    rank self = {0};
    tsr_kernel_table *kernels; /* for casts */
    float first = 0, last;
    CHECK(tsr_kernel_table_create(TSR_KERNELS_CPU, &kernels));
    start(&self, bootstrap);
    create_zero(&self, kernels);
    register_all(&self);
    read_rows(&self);
    last = train(&self, &first);
    size_t whole = show_weights(&self);
    finish(&self);
    tsr_kernel_table_release(kernels);
    if (self.rank == 0)
        printf("\n%d processes trained one model; each held 1/%d of its "
               "weights, gradients and momentum.\n"
               "Of %zu bytes of weights, at most %zu were whole at once.\n"
               "All memory lent to the runtime came back. "
               "Loss %.6f -> %.6f\n",
               self.world, self.world, whole, self.most_gathered, (double)first,
               (double)last);
    if (last < first / 10)
        return true;
    fprintf(stderr, "the loss has not fallen enough\n");
    return false;
}

int main(int argc, char **argv) {
    int world = argc > 1 ? atoi(argv[1]) : 2;
    pid_t children[MOST_RANKS];
    tsr_fork_group *group;
    bool good = true;
    if (world < 1 || world > MOST_RANKS || ROWS % world != 0) {
        fprintf(stderr, "usage: zero_runtime [RANKS]   1 to %d\n", MOST_RANKS);
        return EXIT_FAILURE;
    }
    CHECK(tsr_fork_group_create(world, &group));
    for (int r = 0; r < world; r++) {
        children[r] = fork();
        if (children[r] < 0) {
            perror("fork"); /* the ranks that run notice that one is missing */
            return EXIT_FAILURE;
        }
        if (children[r] == 0) {
            tsr_bootstrap *bootstrap;
            CHECK(tsr_bootstrap_create_forked(group, r, &bootstrap));
            tsr_fork_group_release(group); /* this process's copy */
            good = run(bootstrap);
            tsr_bootstrap_release(bootstrap);
            return good ? 0 : EXIT_FAILURE;
        }
    }
    tsr_fork_group_release(group);
    for (int r = 0; r < world; r++) {
        int status;
        good = waitpid(children[r], &status, 0) == children[r] && status == 0 &&
               good;
    }
    return good ? 0 : EXIT_FAILURE;
}
