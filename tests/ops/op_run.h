/* Runs one kernel on tensors, under the contract of tessera/ops.h.
 *
 * Tensors hold doubles, whatever the kernel computes in, so that float and
 * double kernels are compared alike. Each run gets fresh memory: outputs and
 * workspace are poisoned with NaN, inputs lie at odd addresses, guards lie
 * behind everything that is written, and inputs must come back unchanged. */
#ifndef TSR_TESTS_OPS_OP_RUN_H
#define TSR_TESTS_OPS_OP_RUN_H

#include <stdarg.h>
#include <stdbool.h>

#include "base/half.h"
#include "check.h"
#include "ops/cpu.h"
#include "ops/ref/ref.h"
#include "tessera/ops.h"

#define MAX_INPUTS 8

typedef struct tensor {
    tsr_type type;
    double *data; /* owned; integers too */
} tensor;

typedef struct op_call {
    const char *op;
    const tensor *in[MAX_INPUTS]; /* up to the first NULL */
    tensor *out[TSR_MAX_OUTPUTS]; /* up to the first NULL */
    tsr_attr attrs[6];            /* up to the first without a name */
    int over[TSR_MAX_OUTPUTS];    /* 1 + input whose memory the output takes */
} op_call;

/* Where kernels come from. */
typedef struct runner {
    const char *name;
    const tsr_kernel *rows;
    size_t count;
    tsr_device *device; /* borrowed */
    size_t real_bytes;  /* sizeof(float) or sizeof(double) */
} runner;

/* ---- tensors ---- */

static inline uint64_t next_random(void) {
    static uint64_t state = 0x9e3779b97f4a7c15u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* In (-1, 1), and a float. */
static inline double random_real(void) {
    return (double)(float)((double)(next_random() >> 40) / 8388608.0 - 1.0);
}

static inline tensor tensor_of(tsr_dtype dtype, int dims,
                               const int64_t *shape) {
    tensor t = {.type = {.dtype = dtype, .dims = dims}};
    for (int i = 0; i < dims; i++)
        t.type.shape[i] = shape[i];
    t.data = calloc((size_t)tsr_type_count(&t.type), sizeof *t.data);
    CHECK(t.data != NULL);
    return t;
}

#define SHAPE_(...)                                                            \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                 \
        (const int64_t[]) {                                                    \
        __VA_ARGS__                                                            \
    }
#define ZEROS(...) tensor_of(TSR_F32, SHAPE_(__VA_ARGS__))
#define INTS(...) tensor_of(TSR_I32, SHAPE_(__VA_ARGS__))
#define RANDOM(...) tensor_randomized(tensor_of(TSR_F32, SHAPE_(__VA_ARGS__)))

static inline int64_t tensor_count(const tensor *t) {
    return tsr_type_count(&t->type);
}

static inline tensor tensor_randomized(tensor t) {
    for (int64_t i = 0; i < tensor_count(&t); i++)
        t.data[i] = random_real();
    return t;
}

/* Integers in [low, high). */
static inline void tensor_randomize_ints(tensor *t, int64_t low, int64_t high) {
    for (int64_t i = 0; i < tensor_count(t); i++)
        t->data[i] =
            (double)(low + (int64_t)(next_random() % (uint64_t)(high - low)));
}

static inline void tensor_set(tensor *t, ...) {
    va_list values;
    va_start(values, t);
    for (int64_t i = 0; i < tensor_count(t); i++)
        t->data[i] = va_arg(values, double);
    va_end(values);
}

static inline tensor tensor_copy(const tensor *t) {
    tensor copy = tensor_of(t->type.dtype, t->type.dims, t->type.shape);
    memcpy(copy.data, t->data, (size_t)tensor_count(t) * sizeof *t->data);
    return copy;
}

static inline void tensor_free(tensor *t) {
    free(t->data);
    t->data = NULL;
}

#define FREE(...)                                                              \
    do {                                                                       \
        tensor *free_[] = {__VA_ARGS__};                                       \
        for (size_t f_ = 0; f_ < sizeof free_ / sizeof *free_; f_++)           \
            tensor_free(free_[f_]);                                            \
    } while (0)

/* ---- memory of one run ---- */

#define GUARD_BYTES 64
#define GUARD 0xa5

typedef struct buffer {
    unsigned char *base; /* owned */
    unsigned char *data;
    size_t bytes;
} buffer;

static inline buffer buffer_create(size_t bytes, size_t shift) {
    buffer b = {.bytes = bytes};
    void *base = NULL;
    CHECK(posix_memalign(&base, 64, shift + bytes + GUARD_BYTES) == 0);
    b.base = base;
    b.data = b.base + shift;
    memset(b.data, 0xff, bytes); /* NaN, or -1 */
    memset(b.data + bytes, GUARD, GUARD_BYTES);
    return b;
}

static inline void buffer_release(buffer *b, const char *what) {
    for (size_t i = 0; i < GUARD_BYTES; i++)
        CHECK_MESSAGE(b->data[b->bytes + i] == GUARD,
                      "%s: written past the end", what);
    free(b->base);
}

/* f32 is a float or a double, as the kernel computes; halves are halves. */
static inline size_t element_bytes(const tensor *t, size_t real_bytes) {
    return t->type.dtype == TSR_F32 ? real_bytes
                                    : tsr_dtype_bytes(t->type.dtype);
}

static inline void store_one(tsr_dtype dtype, size_t real_bytes, void *to,
                             int64_t i, double value) {
    if (dtype == TSR_I32)
        ((int32_t *)to)[i] = (int32_t)value;
    else if (dtype == TSR_BF16)
        ((uint16_t *)to)[i] = tsr_to_bf16((float)value);
    else if (dtype == TSR_F16)
        ((uint16_t *)to)[i] = tsr_to_f16((float)value);
    else if (real_bytes == sizeof(float))
        ((float *)to)[i] = (float)value;
    else
        ((double *)to)[i] = value;
}

static inline double load_one(tsr_dtype dtype, size_t real_bytes,
                              const void *from, int64_t i) {
    if (dtype == TSR_BF16)
        return (double)tsr_from_bf16(((const uint16_t *)from)[i]);
    if (dtype == TSR_F16)
        return (double)tsr_from_f16(((const uint16_t *)from)[i]);
    return real_bytes == sizeof(float) ? (double)((const float *)from)[i]
                                       : ((const double *)from)[i];
}

static inline void store(const tensor *t, size_t real_bytes, void *to) {
    for (int64_t i = 0; i < tensor_count(t); i++)
        store_one(t->type.dtype, real_bytes, to, i, t->data[i]);
}

static inline void load(tensor *t, size_t real_bytes, const void *from) {
    for (int64_t i = 0; i < tensor_count(t); i++)
        t->data[i] = load_one(t->type.dtype, real_bytes, from, i);
}

/* ---- running ---- */

static inline const tsr_kernel *find_row(const runner *r, const char *op) {
    for (size_t i = 0; i < r->count; i++)
        if (strcmp(r->rows[i].op, op) == 0)
            return &r->rows[i];
    return NULL;
}

typedef struct kernel_task {
    const tsr_kernel *kernel;
    const tsr_kernel_call *call;
} kernel_task;

static inline tsr_status run_task(void *context) {
    const kernel_task *task = context;
    return task->kernel->run(task->call);
}

static inline void run_on_device(const tsr_kernel *kernel,
                                 const tsr_kernel_call *call) {
    tsr_stream *stream = NULL;
    kernel_task task = {kernel, call};
    CHECK_OK(
        tsr_stream_create(call->device, TSR_STREAM_INLINE, "test", 0, &stream));
    CHECK_OK(tsr_stream_enqueue(stream, run_task, &task));
    CHECK_OK(tsr_stream_synchronize(stream));
    tsr_stream_release(stream);
}

/* The types and attributes of `call`. */
typedef struct call_view {
    tsr_type in[MAX_INPUTS], out[TSR_MAX_OUTPUTS];
    tsr_op_view view;
} call_view;

static inline void view_create(const op_call *call, call_view *v) {
    v->view =
        (tsr_op_view){.inputs = v->in, .outputs = v->out, .attrs = call->attrs};
    while (v->view.input_count < MAX_INPUTS && call->in[v->view.input_count]) {
        v->in[v->view.input_count] = call->in[v->view.input_count]->type;
        v->view.input_count++;
    }
    while (v->view.output_count < TSR_MAX_OUTPUTS &&
           call->out[v->view.output_count]) {
        v->out[v->view.output_count] = call->out[v->view.output_count]->type;
        v->view.output_count++;
    }
    while (call->attrs[v->view.attr_count].name)
        v->view.attr_count++;
}

/* With the state and the workspace that the kernel asks for. */
static inline void run_prepared(const tsr_kernel *kernel, tsr_kernel_call call,
                                const char *op) {
    const int threads = tsr_device_threads(call.device);
    buffer workspace = buffer_create(
        kernel->workspace ? kernel->workspace(&call.view, threads) : 0, 0);
    void *state = NULL;
    if (kernel->prepare)
        CHECK_OK(kernel->prepare(&call.view, threads, &state));
    call.workspace = workspace.data;
    call.state = state;
    run_on_device(kernel, &call);
    if (kernel->unprepare)
        kernel->unprepare(state);
    buffer_release(&workspace, op);
}

/* Runs `call` and fills its output tensors. */
static inline void run_op(const runner *r, const op_call *call) {
    const tsr_kernel *kernel = find_row(r, call->op);
    call_view v;
    buffer in[MAX_INPUTS], before[MAX_INPUTS], out[TSR_MAX_OUTPUTS];
    const void *in_addresses[MAX_INPUTS];
    void *out_addresses[TSR_MAX_OUTPUTS];
    bool taken[MAX_INPUTS] = {false};

    CHECK_MESSAGE(kernel != NULL, "%s has no %s", r->name, call->op);
    view_create(call, &v);
    for (size_t i = 0; i < v.view.input_count; i++) {
        const size_t element = element_bytes(call->in[i], r->real_bytes);
        const size_t bytes = (size_t)tensor_count(call->in[i]) * element;
        in[i] = buffer_create(bytes, element);
        before[i] = buffer_create(bytes, 0);
        store(call->in[i], r->real_bytes, in[i].data);
        memcpy(before[i].data, in[i].data, bytes);
        in_addresses[i] = in[i].data;
    }
    for (size_t j = 0; j < v.view.output_count; j++) {
        out[j] = buffer_create((size_t)tensor_count(call->out[j]) *
                                   element_bytes(call->out[j], r->real_bytes),
                               0);
        out_addresses[j] = out[j].data;
        if (call->over[j]) {
            const size_t i = (size_t)call->over[j] - 1;
            CHECK(in[i].bytes == out[j].bytes);
            memcpy(out[j].data, in[i].data, in[i].bytes);
            in_addresses[i] = out[j].data;
            taken[i] = true;
        }
    }

    run_prepared(kernel,
                 (tsr_kernel_call){.view = v.view,
                                   .in = in_addresses,
                                   .out = out_addresses,
                                   .device = r->device},
                 call->op);
    for (size_t j = 0; j < v.view.output_count; j++) {
        load(call->out[j], r->real_bytes, out[j].data);
        buffer_release(&out[j], call->op);
    }
    for (size_t i = 0; i < v.view.input_count; i++) {
        CHECK_MESSAGE(taken[i] ||
                          memcmp(in[i].data, before[i].data, in[i].bytes) == 0,
                      "%s of %s changed input %zu", call->op, r->name, i);
        buffer_release(&before[i], call->op);
        buffer_release(&in[i], call->op);
    }
}

static inline tsr_device *device_with(int threads) {
    tsr_device *device = NULL;
    CHECK_OK(
        tsr_device_create_cpu(&(tsr_cpu_options){.threads = threads}, &device));
    return device;
}

static inline runner ref_runner(tsr_device *device) {
    return (runner){"ref", tsr_ref_kernels, tsr_ref_kernel_count, device,
                    sizeof(float)};
}

static inline runner cpu_runner(const tsr_cpu_kernel_set *set,
                                tsr_device *device) {
    return (runner){set->isa, set->rows, set->count, device, sizeof(float)};
}

/* ---- comparing ---- */

/* Every element within tolerance * (its size + the tensor's root mean square);
 * a NaN on either side fails. */
static inline void check_close(const tensor *got, const tensor *expected,
                               double tolerance, const char *what) {
    const int64_t count = tensor_count(expected);
    double squares = 0;
    CHECK(count == tensor_count(got));
    for (int64_t i = 0; i < count; i++)
        squares += expected->data[i] * expected->data[i];
    const double size = sqrt(squares / (double)count);
    for (int64_t i = 0; i < count; i++) {
        const double e = expected->data[i], g = got->data[i];
        CHECK_MESSAGE(fabs(g - e) <= tolerance * (fabs(e) + size),
                      "%s: element %lld is %.9g, not %.9g", what, (long long)i,
                      g, e);
    }
}

/* The same, of values rounded to bf16: both were rounded, which moves each by
 * 2^-8 of it, so that they are at most neighbours; and since they hardly
 * differed before, few are not equal. A value that was rounded on the way, too,
 * would be a neighbour about every other time. */
static inline void check_close_bf16(const tensor *got, const tensor *expected,
                                    double tolerance, const char *what) {
    const int64_t count = tensor_count(expected);
    double squares = 0;
    int64_t differ = 0;
    CHECK(count == tensor_count(got));
    for (int64_t i = 0; i < count; i++)
        squares += expected->data[i] * expected->data[i];
    const double size = sqrt(squares / (double)count);
    for (int64_t i = 0; i < count; i++) {
        const double e = expected->data[i], g = got->data[i];
        const double noise = tolerance * (fabs(e) + size);
        CHECK_MESSAGE(fabs(g - e) <= fabs(e) * 0x1p-7 + noise,
                      "%s: element %lld is %.9g, not %.9g", what, (long long)i,
                      g, e);
        /* Below 2^8 times the noise, any value has neighbours within it. */
        differ += g != e && fabs(e) * 0x1p-8 > noise;
    }
    CHECK_MESSAGE(differ <= 2 + count / 64, "%s: %lld of %lld elements differ",
                  what, (long long)differ, (long long)count);
}

/* The same bits. */
static inline void check_same(const tensor *got, const tensor *expected,
                              const char *what) {
    const int64_t count = tensor_count(expected);
    CHECK(count == tensor_count(got));
    for (int64_t i = 0; i < count; i++)
        CHECK_MESSAGE(
            memcmp(&got->data[i], &expected->data[i], sizeof *got->data) == 0,
            "%s: element %lld is %.9g, not %.9g", what, (long long)i,
            got->data[i], expected->data[i]);
}

#endif
