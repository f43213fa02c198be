/* A rank with a tsr_zero, parameters with known values, and checks of views and
 * gradients. */
#ifndef TSR_TESTS_ZERO_EAGER_RANK_H
#define TSR_TESTS_ZERO_EAGER_RANK_H

#include "base/half.h"
#include "comm/ranks.h"
#include "zero/eager_heap.h"

typedef struct rank_options {
    tsr_zero_settings settings; /* stage 0: 3 */
    tsr_stream_kind kind;       /* of the caller's stream */
    uint64_t delay_seed;
    uint32_t max_delay_us;
    bool device_memory;                                /* else eager_heap */
    tsr_comm *(*wrap)(tsr_comm *comm, void *wrapping); /* NULL: as it is */
    void *wrapping;
    int timeout_ms; /* 0: 20,000 */
} rank_options;

typedef struct eager_rank {
    int rank, world;
    tsr_device *device;
    tsr_comm *gather_comm, *reduce_comm;
    tsr_kernel_table *kernels;
    tsr_stream *stream;
    eager_heap heap;
    tsr_zero *zero;
    int stage;
} eager_rank;

static inline void rank_open(eager_rank *self, const rank_context *context,
                             const rank_options *options) {
    uint64_t seed = options->delay_seed
                        ? options->delay_seed + 1000 * (uint64_t)context->rank
                        : 0;
    tsr_cpu_options cpu = {.delay_seed = seed,
                           .max_delay_us = options->max_delay_us};
    tsr_comm_options comm = {
        .timeout_ms = options->timeout_ms ? options->timeout_ms : 20000};
    *self = (eager_rank){.rank = context->rank, .world = context->world};
    CHECK_OK(tsr_device_create_cpu(&cpu, &self->device));
    CHECK_OK(
        tsr_comm_create_host(context->bootstrap, &comm, &self->gather_comm));
    CHECK_OK(tsr_comm_split(self->gather_comm, &self->reduce_comm));
    if (options->wrap) {
        self->gather_comm = options->wrap(self->gather_comm, options->wrapping);
        self->reduce_comm = options->wrap(self->reduce_comm, options->wrapping);
    }
    CHECK_OK(tsr_kernel_table_create(TSR_KERNELS_REF, &self->kernels));
    CHECK_OK(tsr_stream_create(self->device, options->kind, "caller", 0,
                               &self->stream));
    tsr_allocator allocator = {heap_alloc, heap_free, &self->heap};
    tsr_zero_options zero = {.device = self->device,
                             .gather_comm = self->gather_comm,
                             .reduce_comm = self->reduce_comm,
                             .kernels = self->kernels,
                             .allocator =
                                 options->device_memory ? NULL : &allocator,
                             .settings = options->settings};
    if (zero.settings.stage == 0)
        zero.settings.stage = 3;
    if (zero.settings.bucket_bytes == 0) /* the library's 64 MiB take long */
        zero.settings.bucket_bytes = 1 << 20;
    self->stage = zero.settings.stage;
    CHECK_OK(tsr_zero_create(&zero, &self->zero));
}

static inline void rank_close(eager_rank *self) {
    tsr_zero_release(self->zero);
    tsr_stream_release(self->stream);
    tsr_kernel_table_release(self->kernels);
    tsr_comm_release(self->reduce_comm);
    tsr_comm_release(self->gather_comm);
    tsr_device_release(self->device);
    heap_close(&self->heap);
}

/* Everything enqueued so far, ours and the tsr_zero's, has run. */
static inline void rank_sync(eager_rank *self) {
    CHECK_OK(tsr_stream_synchronize(self->stream));
    CHECK_OK(tsr_zero_synchronize(self->zero));
}

/* A kernel that takes its time, before whatever comes next on the stream. */
static inline tsr_status dawdle(void *context) {
    (void)context;
    sleep_ms(10);
    return TSR_OK;
}

/* ---- elements ---- */

static inline float get_element(const void *from, tsr_dtype dtype, size_t i) {
    if (dtype == TSR_F32)
        return ((const float *)from)[i];
    uint16_t half = ((const uint16_t *)from)[i];
    return dtype == TSR_BF16 ? tsr_from_bf16(half) : tsr_from_f16(half);
}

static inline void set_element(void *to, tsr_dtype dtype, size_t i,
                               float value) {
    if (dtype == TSR_F32)
        ((float *)to)[i] = value;
    else
        ((uint16_t *)to)[i] =
            dtype == TSR_BF16 ? tsr_to_bf16(value) : tsr_to_f16(value);
}

static inline float rounded(float value, tsr_dtype dtype) {
    float stored[1];
    set_element(stored, dtype, 0, value);
    return get_element(stored, dtype, 0);
}

static inline bool near(float a, float b, tsr_dtype dtype) {
    float slack = dtype == TSR_F32 ? 1e-5f : 2e-2f;
    return fabsf(a - b) <= slack * (1 + fabsf(b));
}

/* ---- parameters ---- */

/* Thirds, so that a cast rounds. */
static inline float weight_value(int64_t id, int version, int64_t i) {
    return (float)((id * 37 + version * 11 + i * 5) % 97 - 48) / 3;
}

/* Small integers: their sums are exact. */
static inline float grad_value(int rank, int64_t id, int call, int64_t i) {
    return (float)((rank * 5 + id * 3 + call * 7 + i) % 13 - 6);
}

static inline float grad_sum(int world, int64_t id, int call, int64_t i) {
    float sum = 0;
    for (int r = 0; r < world; r++)
        sum += grad_value(r, id, call, i);
    return sum;
}

typedef struct test_param {
    tsr_zero_param desc;
    int64_t numel, shard, grad_count;
    int version; /* of its values */
    void *shard_memory, *grad_memory;
    void *gradient; /* (numel) communicated dtype, what reduce_grad is given */
} test_param;

static inline void *some_memory(int64_t count) {
    void *memory = calloc((size_t)count + 1, sizeof(float));
    CHECK(memory);
    return memory;
}

static inline int64_t shard_begin(const eager_rank *rank,
                                  const test_param *param) {
    return rank->stage == 3 ? rank->rank * param->shard
                            : param->desc.slice_offset;
}

/* Writes this rank's part of version `version` from the host. */
static inline void param_write(const eager_rank *rank, test_param *param,
                               int version) {
    int64_t begin = rank->rank * param->shard;
    param->version = version;
    for (int64_t i = 0; i < param->shard; i++)
        set_element(param->shard_memory, param->desc.type.dtype, (size_t)i,
                    begin + i < param->numel
                        ? weight_value(param->desc.id, version, begin + i)
                        : NAN); /* padding: must not be seen */
}

/* All three dtypes but the stored one follow `gathered`, f32, f32. */
static inline test_param param_of(int64_t id, int64_t rows, int64_t columns) {
    test_param param = {
        .desc = {
            .id = id,
            .type = {.dtype = TSR_F32, .dims = 2, .shape = {rows, columns}}}};
    return param;
}

/* Its memory and values; the caller may change desc before. */
static inline void param_fill(const eager_rank *rank, test_param *param) {
    int64_t granule = param->desc.granule ? param->desc.granule : 1;
    int64_t part = granule * rank->world;
    param->numel = 1;
    for (int d = 0; d < param->desc.type.dims; d++)
        param->numel *= param->desc.type.shape[d];
    param->shard = (param->numel + part - 1) / part * granule;
    if (rank->stage < 3) { /* the last ranks may have nothing */
        int64_t each = (param->numel + rank->world - 1) / rank->world;
        int64_t begin = rank->rank * each, left = param->numel - begin;
        param->desc.slice_offset = left > 0 ? begin : param->numel;
        param->desc.slice_count = left <= 0 ? 0 : left < each ? left : each;
    }
    param->grad_count =
        rank->stage == 3 ? param->shard : param->desc.slice_count;
    param->shard_memory = some_memory(param->shard);
    param->grad_memory = some_memory(param->grad_count);
    param->gradient = some_memory(param->numel);
    param->desc.shard = (tsr_tensor){.context = param->shard_memory};
    param->desc.grad = (tsr_tensor){.context = param->grad_memory};
    param_write(rank, param, 0);
    memset(param->grad_memory, SPOILED,
           (size_t)param->grad_count * sizeof(float));
}

static inline void param_register(eager_rank *rank, test_param *param) {
    param_fill(rank, param);
    CHECK_OK(tsr_zero_register_param(rank->zero, &param->desc, rank->stream));
}

static inline void param_release(test_param *param) {
    free(param->shard_memory);
    free(param->grad_memory);
    free(param->gradient);
}

static inline size_t copy_bytes(const eager_rank *rank, const test_param *param,
                                tsr_dtype dtype) {
    return (size_t)(param->shard * rank->world) * tsr_dtype_bytes(dtype);
}

static inline void check_held(const eager_rank *rank, size_t gathered) {
    tsr_zero_memory held = tsr_zero_memory_held(rank->zero);
    CHECK_MESSAGE(held.gathered == gathered, "held %zu, expected %zu",
                  held.gathered, gathered);
    if (rank->heap.blocks)
        CHECK_MESSAGE(rank->heap.live ==
                          held.gathered + held.buckets + held.reloaded,
                      "%zu live; %zu, %zu and %zu told", rank->heap.live,
                      held.gathered, held.buckets, held.reloaded);
}

/* ---- gathering ---- */

static inline tsr_view gather_param(eager_rank *rank, int64_t graph,
                                    const test_param *param, tsr_dtype dtype) {
    tsr_view view;
    CHECK_OK(tsr_zero_allgather_param(rank->zero, graph, param->desc.id, dtype,
                                      rank->stream, &view));
    CHECK(view.type.dtype == dtype);
    CHECK(view.type.dims == param->desc.type.dims);
    CHECK(memcmp(view.type.shape, param->desc.type.shape,
                 (size_t)view.type.dims * sizeof(int64_t)) == 0);
    return view;
}

static inline void wait_param(eager_rank *rank, int64_t graph,
                              const test_param *param) {
    CHECK_OK(tsr_zero_wait_allgather(rank->zero, graph, param->desc.id,
                                     rank->stream));
}

static inline void release_param(eager_rank *rank, int64_t graph,
                                 const test_param *param, int users) {
    CHECK_OK(tsr_zero_release_param(rank->zero, graph, param->desc.id, users,
                                    rank->stream));
}

/* Reads the view on the caller's stream; the values are of `version`. */
static inline void check_view(eager_rank *rank, const test_param *param,
                              const tsr_view *view, int version) {
    tsr_dtype dtype = view->type.dtype;
    void *seen = some_memory(param->numel);
    if (param->numel > 0)
        CHECK_OK(
            tsr_stream_copy(rank->stream, seen, view->data,
                            (size_t)param->numel * tsr_dtype_bytes(dtype)));
    CHECK_OK(tsr_stream_synchronize(rank->stream));
    for (int64_t i = 0; i < param->numel; i++) {
        float value = get_element(seen, dtype, (size_t)i);
        float stored = rounded(weight_value(param->desc.id, version, i),
                               param->desc.type.dtype);
        float expected = rounded(stored, dtype);
        CHECK_MESSAGE(fabsf(value - expected) <= 0,
                      "rank %d: parameter %lld as %s [%lld]: %g, not %g",
                      rank->rank, (long long)param->desc.id,
                      tsr_dtype_name(dtype), (long long)i, (double)value,
                      (double)expected);
    }
    free(seen);
}

/* Gathers, waits, checks and releases at once. */
static inline void use_param(eager_rank *rank, int64_t graph,
                             const test_param *param, tsr_dtype dtype) {
    tsr_view view = gather_param(rank, graph, param, dtype);
    wait_param(rank, graph, param);
    check_view(rank, param, &view, param->version);
    release_param(rank, graph, param, 1);
}

/* ---- reducing ---- */

/* Gradient number `call` of the parameter, made on the caller's stream. */
static inline void reduce_call(eager_rank *rank, int64_t graph,
                               test_param *param, int call) {
    void *made = some_memory(param->numel);
    for (int64_t i = 0; i < param->numel; i++)
        set_element(made, param->desc.communicated_dtype, (size_t)i,
                    grad_value(rank->rank, param->desc.id, call, i));
    CHECK_OK(tsr_stream_copy(rank->stream, param->gradient, made,
                             (size_t)param->numel * sizeof(float)));
    CHECK_OK(tsr_zero_reduce_grad(rank->zero, graph, param->desc.id,
                                  param->gradient, rank->stream));
    rank_sync(rank); /* both buffers may go; `flush` is not implied */
    free(made);
}

/* The buffer holds scale * the sum of calls in `calls` (bit c: call c), and 0
 * past the parameter's end. */
static inline void check_grad(const eager_rank *rank, const test_param *param,
                              unsigned calls, float scale) {
    int64_t begin = shard_begin(rank, param);
    for (int64_t i = 0; i < param->grad_count; i++) {
        float expected = 0;
        for (int call = 0; call < 32; call++)
            if (calls >> call & 1 && begin + i < param->numel)
                expected +=
                    grad_sum(rank->world, param->desc.id, call, begin + i) *
                    scale;
        float value = get_element(param->grad_memory,
                                  param->desc.accumulated_dtype, (size_t)i);
        CHECK_MESSAGE(near(value, expected, param->desc.accumulated_dtype),
                      "rank %d: gradient of %lld [%lld]: %g, not %g",
                      rank->rank, (long long)param->desc.id, (long long)i,
                      (double)value, (double)expected);
    }
}

static inline void end_backward(eager_rank *rank) {
    CHECK_OK(tsr_zero_end_backward(rank->zero, rank->stream));
    CHECK_OK(tsr_stream_synchronize(rank->stream));
}

#endif
