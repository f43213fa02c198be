/* What every communicator must do, checked on each rank against sums that are
 * computed here in the plainest way; and a digest of all results, for comparing
 * runs bit by bit. */
#ifndef TSR_TESTS_COMM_CONTRACT_H
#define TSR_TESTS_COMM_CONTRACT_H

#include <stdint.h>

#include "ranks.h"

#define ARENA_BYTES ((size_t)32 << 20)

/* How much of the million a run does. */
typedef enum contract_extent {
    CONTRACT_SMALL = 0, /* nothing */
    CONTRACT_ONCE,      /* each call once */
    CONTRACT_FULL,      /* and each type */
} contract_extent;

/* Elements; a prime, so that no world divides it. */
#define MILLION ((size_t)1000003)

typedef struct contract_options {
    bool shared; /* tensors lie in the communicator's shared memory */
    bool delays; /* streams delay each task */
    contract_extent extent;
    tsr_status (*create)(tsr_bootstrap *bootstrap,
                         const tsr_comm_options *options,
                         tsr_comm **out_comm); /* NULL: host's */
    void (*prepare)(tsr_comm *comm);           /* may be NULL */
    uint64_t digests[RANKS_MAX];               /* out */
} contract_options;

typedef struct contract {
    int rank, world;
    contract_options *options;
    tsr_device *device;
    tsr_stream *stream;
    tsr_comm *comm;
    char *arena; /* (ARENA_BYTES) */
    size_t used;
    uint64_t digest;
    uint64_t common; /* of what all ranks must hold alike */
    tsr_bootstrap *bootstrap;
} contract;

/* ---- numbers ---- */

static inline uint32_t noise(uint64_t seed, uint64_t index) {
    uint64_t z = seed * 0x9e3779b97f4a7c15u + index * 0xbf58476d1ce4e5b9u + 1;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

/* bf16: 7 bits of mantissa, 8 of exponent; f16: 10 and 5. */
static inline double decode16(uint16_t bits, int mantissa, int exponent) {
    int bias = (1 << (exponent - 1)) - 1, top = (1 << exponent) - 1;
    int e = bits >> mantissa & top;
    double m = bits & ((1 << mantissa) - 1);
    double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (e == top)
        return m > 0 ? (double)NAN : sign * (double)INFINITY;
    if (e == 0)
        return sign * ldexp(m, 1 - bias - mantissa);
    return sign * ldexp(m + (1 << mantissa), e - bias - mantissa);
}

/* The nearest such value, ties to even. */
static inline double round16(double value, int mantissa, int exponent) {
    int bias = (1 << (exponent - 1)) - 1;
    if (!(fabs(value) > 0) || isinf(value) || isnan(value))
        return value;
    int e = ilogb(value) < 1 - bias ? 1 - bias : ilogb(value);
    double step = ldexp(1, e - mantissa);
    double rounded = nearbyint(value / step) * step;
    return fabs(rounded) >= ldexp(1, bias + 1)
               ? copysign((double)INFINITY, value)
               : rounded;
}

static inline double get(tsr_dtype dtype, const void *memory, size_t i) {
    switch (dtype) {
    case TSR_F32:
        return (double)((const float *)memory)[i];
    case TSR_BF16:
        return decode16(((const uint16_t *)memory)[i], 7, 8);
    case TSR_F16:
        return decode16(((const uint16_t *)memory)[i], 10, 5);
    case TSR_I32:
        return ((const int32_t *)memory)[i];
    default:
        return ((const uint8_t *)memory)[i];
    }
}

static inline double round_to(tsr_dtype dtype, double value) {
    return dtype == TSR_BF16  ? round16(value, 7, 8)
           : dtype == TSR_F16 ? round16(value, 10, 5)
                              : value;
}

/* The element that rank's tensor `seed` holds at i: about [-2, 2]. */
static inline double element(tsr_dtype dtype, int rank, uint64_t seed,
                             size_t i) {
    uint32_t bits = noise(seed * 64 + (uint64_t)rank, i);
    if (dtype == TSR_U8)
        return bits & 255;
    if (dtype == TSR_I32)
        return (int32_t)(bits >> 8) - (1 << 23);
    double value =
        ((double)(bits >> 8) / (1 << 23) - 1) * ldexp(1, (int)(bits & 7) - 6);
    return dtype == TSR_F32 ? value : round_to(dtype, value);
}

static inline void put(tsr_dtype dtype, void *memory, size_t i, double value) {
    if (dtype == TSR_F32) {
        ((float *)memory)[i] = (float)value;
    } else if (dtype == TSR_I32) {
        ((int32_t *)memory)[i] = (int32_t)value;
    } else if (dtype == TSR_U8) {
        ((uint8_t *)memory)[i] = (uint8_t)value;
    } else if (dtype == TSR_BF16) {
        float single = (float)value;
        uint32_t bits;
        memcpy(&bits, &single, sizeof bits);
        ((uint16_t *)memory)[i] = (uint16_t)(bits >> 16);
    } else {
        /* value is an f16 already */
        int e = fabs(value) > 0 ? ilogb(value) : -15;
        e = e < -14 ? -15 : e;
        double m = e < -14 ? ldexp(fabs(value), 24)
                           : ldexp(fabs(value), 10 - e) - 1024;
        ((uint16_t *)memory)[i] = (uint16_t)((signbit(value) ? 0x8000 : 0) +
                                             (e + 15) * 1024 + (int)m);
    }
}

static inline void fill(tsr_dtype dtype, void *memory, size_t count, int rank,
                        uint64_t seed) {
    for (size_t i = 0; i < count; i++)
        put(dtype, memory, i, element(dtype, rank, seed, i));
}

/* ---- one rank ---- */

static inline uint64_t mix(uint64_t digest, const void *memory, size_t bytes) {
    const unsigned char *at = memory;
    for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
        uint64_t word = 0;
        memcpy(&word, at + i,
               bytes - i < sizeof word ? bytes - i : sizeof word);
        digest = (digest ^ word) * 0x9e3779b97f4a7c15u;
        digest ^= digest >> 32;
    }
    return digest;
}

static inline void digest(contract *self, const void *memory, size_t bytes) {
    self->digest = mix(self->digest, memory, bytes);
}

/* Of what a call leaves alike on all ranks; compared at the end. */
static inline void digest_common(contract *self, const void *memory,
                                 size_t bytes) {
    digest(self, memory, bytes);
    self->common = mix(self->common, memory, bytes);
}

/* Elements that each rank looks at itself; of longer tensors, which are alike,
 * each looks at its share, and digests stand for the rest. */
#define EACH_LOOKS ((size_t)1 << 14)

static inline bool looks_at(const contract *self, size_t count, size_t i) {
    return count <= EACH_LOOKS || i % (size_t)self->world == (size_t)self->rank;
}

/* Whole cache lines, so that neighbours of odd sizes are found out. */
static inline void *take(contract *self, size_t bytes) {
    char *memory = self->arena + self->used;
    self->used += (bytes + 127) / 64 * 64;
    CHECK(self->used <= ARENA_BYTES);
    memset(memory, 0xa5, bytes);
    return memory;
}

static inline void contract_begin(contract *self, rank_context *rank) {
    contract_options *options = rank->argument;
    uint64_t delay_seed = 7 + (uint64_t)rank->rank; /* each at its own pace */
    tsr_cpu_options cpu = {.delay_seed = options->delays ? delay_seed : 0,
                           .max_delay_us = 300};
    *self = (contract){.rank = rank->rank,
                       .world = rank->world,
                       .options = options,
                       .bootstrap = rank->bootstrap,
                       .digest = 0xcbf29ce484222325u};
    CHECK_OK(tsr_device_create_cpu(&cpu, &self->device));
    CHECK_OK(tsr_stream_create(self->device, TSR_STREAM_QUEUED, "comm", 0,
                               &self->stream));
    CHECK_OK(options->create
                 ? options->create(rank->bootstrap, NULL, &self->comm)
                 : tsr_comm_create_host(rank->bootstrap, NULL, &self->comm));
    CHECK(tsr_comm_rank(self->comm) == rank->rank);
    CHECK(tsr_comm_world(self->comm) == rank->world);
    if (options->prepare)
        options->prepare(self->comm);
    if (options->shared) {
        void *memory, *more[TSR_COMM_SHARED_MOST];
        for (int i = 0; i < TSR_COMM_SHARED_MOST - 1; i++)
            CHECK_OK(tsr_comm_shared_alloc(self->comm, 64 + 4096 * (size_t)i,
                                           &more[i]));
        CHECK_OK(tsr_comm_shared_alloc(
            self->comm, ARENA_BYTES * (size_t)self->world, &memory));
        self->arena = (char *)memory + ARENA_BYTES * (size_t)self->rank;
        for (size_t i = 0; i < ARENA_BYTES; i += 4096)
            CHECK(self->arena[i] == 0);
        CHECK_FAILS(tsr_comm_shared_alloc(self->comm, 64, &memory),
                    TSR_FAILED_PRECONDITION, "already has 8 pieces");
        CHECK(memory == NULL);
        for (int i = 0; i < TSR_COMM_SHARED_MOST - 1; i++)
            tsr_comm_shared_free(self->comm, more[i]);
        CHECK_OK(tsr_comm_shared_alloc(self->comm, 64, &memory));
        tsr_comm_shared_free(self->comm, memory);
        tsr_comm_shared_free(self->comm, NULL);
    } else {
        self->arena = aligned_alloc(64, ARENA_BYTES);
        CHECK(self->arena);
    }
}

static inline void check_common(const contract *self) {
    uint64_t all[RANKS_MAX];
    CHECK_OK(tsr_bootstrap_exchange(self->bootstrap, &self->common,
                                    sizeof self->common, all, 60000));
    for (int r = 0; r < self->world; r++)
        CHECK_MESSAGE(all[r] == self->common,
                      "rank %d of %d does not hold what rank %d does",
                      self->rank, self->world, r);
}

static inline void contract_end(contract *self) {
    check_common(self);
    CHECK_OK(tsr_comm_poll(self->comm, NULL));
    tsr_stream_release(self->stream);
    tsr_comm_release(self->comm);
    tsr_device_release(self->device);
    if (!self->options->shared)
        free(self->arena);
    self->options->digests[self->rank] = self->digest;
}

/* ---- gather ---- */

static inline void check_gathered(contract *self, const tsr_gather *gather,
                                  uint64_t seed) {
    size_t bytes = tsr_dtype_bytes(gather->dtype) * gather->count;
    for (int r = 0; r < self->world; r++)
        for (size_t i = 0; i < gather->count; i++) {
            size_t at = (size_t)r * gather->count + i;
            if (!looks_at(self, gather->count, at))
                continue;
            CHECK_MESSAGE(
                get(gather->dtype, gather->full, at) ==
                    element(gather->dtype, r, seed, i),
                "rank %d: %s x %zu: element %zu of rank %d is %g, not %g",
                self->rank, tsr_dtype_name(gather->dtype), gather->count, i, r,
                get(gather->dtype, gather->full, at),
                element(gather->dtype, r, seed, i));
        }
    digest_common(self, gather->full, bytes * (size_t)self->world);
}

static inline tsr_gather make_gather(contract *self, tsr_dtype dtype,
                                     size_t count, bool in_place,
                                     uint64_t seed) {
    size_t bytes = tsr_dtype_bytes(dtype) * count;
    char *full = take(self, bytes * (size_t)self->world);
    char *shard =
        in_place ? full + (size_t)self->rank * bytes : take(self, bytes);
    fill(dtype, shard, count, self->rank, seed);
    return (tsr_gather){shard, full, count, dtype};
}

static inline void check_gather_group(contract *self, const size_t *counts,
                                      size_t count) {
    tsr_gather gathers[64];
    size_t used = 0;
    self->used = 0;
    for (size_t i = 0; i < count; i++)
        for (int dtype = 0; dtype < TSR_DTYPE_COUNT; dtype++, used++)
            gathers[used] = make_gather(self, (tsr_dtype)dtype, counts[i],
                                        (used & 1) != 0, used);
    CHECK_OK(tsr_comm_gather(self->comm, gathers, used, self->stream));
    CHECK_OK(tsr_stream_synchronize(self->stream));
    for (size_t i = 0; i < used; i++)
        check_gathered(self, &gathers[i], i);
}

/* More tensors than one round takes. */
static inline void check_gather_many(contract *self) {
    enum { MANY = 2500 };
    tsr_gather *gathers = calloc(MANY, sizeof *gathers);
    self->used = 0;
    for (size_t i = 0; i < MANY; i++)
        gathers[i] = make_gather(self, TSR_BF16, i % 5, i % 3 == 0, i);
    CHECK_OK(tsr_comm_gather(self->comm, gathers, MANY, self->stream));
    CHECK_OK(tsr_stream_synchronize(self->stream));
    for (size_t i = 0; i < MANY; i++)
        check_gathered(self, &gathers[i], i);
    free(gathers);
}

/* ---- reduce_scatter ---- */

typedef struct reduce_case {
    size_t numel;
    tsr_dtype wire, out;
    float scale;
    bool accumulate, uneven; /* uneven: ranks differ in what exists */
    bool squares;
} reduce_case;

static inline size_t valid_of(const reduce_case *test, int rank) {
    size_t less = test->uneven ? (size_t)rank * 3 : 0;
    return test->numel > less ? test->numel - less : 0;
}

static inline tsr_reduce make_reduce(contract *self, const reduce_case *test,
                                     uint64_t seed, float *square_sum) {
    size_t world = (size_t)self->world;
    size_t count = (test->numel + world - 1) / world;
    size_t valid = valid_of(test, self->rank);
    tsr_reduce reduce = {
        .full = take(self, valid * tsr_dtype_bytes(test->wire)),
        .shard = take(self, count * tsr_dtype_bytes(test->out)),
        .count = count,
        .valid = valid,
        .wire_dtype = test->wire,
        .out_dtype = test->out,
        .scale = test->scale,
        .accumulate = test->accumulate,
        .square_sum = test->squares ? square_sum : NULL};
    fill(test->wire, (void *)(uintptr_t)reduce.full, valid, self->rank, seed);
    if (test->accumulate)
        fill(test->out, reduce.shard, count, self->rank, seed + 1000);
    *square_sum = -1;
    return reduce;
}

/* The contract's sentence, with f32 kept by the casts. */
static inline double expected_sum(contract *self, const reduce_case *test,
                                  size_t count, size_t i, uint64_t seed) {
    size_t at = (size_t)self->rank * count + i;
    double whole = 0;
    float sum = 0;
    for (int r = 0; r < self->world; r++) {
        double value =
            at < valid_of(test, r) ? element(test->wire, r, seed, at) : 0.0;
        whole += value;
        sum = sum + (float)value;
    }
    double old =
        test->accumulate ? element(test->out, self->rank, seed + 1000, i) : 0;
    if (test->out == TSR_I32)
        return whole + old;
    float scaled = test->scale * sum;
    return round_to(test->out, (double)((float)old + scaled));
}

static inline void check_reduced(contract *self, const reduce_case *test,
                                 const tsr_reduce *reduce, uint64_t seed,
                                 float square_sum) {
    double squares = 0;
    for (size_t i = 0; i < reduce->count; i++) {
        double value = get(test->out, reduce->shard, i),
               expected = expected_sum(self, test, reduce->count, i, seed);
        squares += value * value;
        CHECK_MESSAGE(value == expected,
                      "rank %d of %d: %s to %s, numel %zu, element %zu: %.9g, "
                      "not %.9g",
                      self->rank, self->world, tsr_dtype_name(test->wire),
                      tsr_dtype_name(test->out), test->numel, i, value,
                      expected);
    }
    digest(self, reduce->shard, reduce->count * tsr_dtype_bytes(test->out));
    if (test->squares) {
        CHECK_MESSAGE(fabs((double)square_sum - squares) <= 1e-6 * squares,
                      "squares %.9g, not %.9g", (double)square_sum, squares);
        digest(self, &square_sum, sizeof square_sum);
    } else {
        CHECK(square_sum < 0);
    }
}

static inline void check_reduce_group(contract *self, const reduce_case *tests,
                                      size_t count) {
    tsr_reduce reduces[64];
    float squares[64];
    self->used = 0;
    for (size_t i = 0; i < count; i++)
        reduces[i] = make_reduce(self, &tests[i], i, &squares[i]);
    CHECK_OK(tsr_comm_reduce_scatter(self->comm, reduces, count, self->stream));
    CHECK_OK(tsr_stream_synchronize(self->stream));
    for (size_t i = 0; i < count; i++)
        check_reduced(self, &tests[i], &reduces[i], i, squares[i]);
}

static inline void check_reduce_all(contract *self) {
    static const tsr_dtype dtypes[] = {TSR_F32, TSR_BF16, TSR_F16};
    static const size_t sizes[] = {0, 1, 10007, 65536};
    reduce_case tests[64];
    size_t used = 0;
    for (size_t i = 0; i < 4; i++)
        for (int wire = 0; wire < 3; wire++)
            for (int out = 0; out < 3; out++, used++)
                tests[used] = (reduce_case){
                    sizes[i],        dtypes[wire],    dtypes[out],    1.0f / 3,
                    (used & 1) != 0, (used % 3) == 0, (used & 2) != 0};
    for (size_t i = 0; i < 4; i++, used++)
        tests[used] = (reduce_case){sizes[i], TSR_I32, TSR_I32, 1.0f,
                                    i & 1,    i == 2,  true};
    check_reduce_group(self, tests, used);
    for (size_t i = 0; i < used; i++) /* and one by one */
        check_reduce_group(self, &tests[i], 1);
}

/* ---- the rest ---- */

static inline void check_all_reduce(contract *self, size_t count,
                                    tsr_dtype dtype) {
    self->used = 0;
    void *buffer = take(self, count * tsr_dtype_bytes(dtype));
    fill(dtype, buffer, count, self->rank, 5);
    CHECK_OK(
        tsr_comm_all_reduce(self->comm, buffer, count, dtype, self->stream));
    CHECK_OK(tsr_stream_synchronize(self->stream));
    for (size_t i = 0; i < count; i++) {
        float sum = 0;
        double whole = 0;
        if (!looks_at(self, count, i))
            continue;
        for (int r = 0; r < self->world; r++) {
            double value = element(dtype, r, 5, i);
            whole += value;
            sum = sum + (float)value;
        }
        double expected =
            dtype == TSR_I32 ? whole : round_to(dtype, (double)sum);
        CHECK_MESSAGE(get(dtype, buffer, i) == expected, "%s %zu: %g, not %g",
                      tsr_dtype_name(dtype), i, get(dtype, buffer, i),
                      expected);
    }
    digest_common(self, buffer, count * tsr_dtype_bytes(dtype));
}

static inline void check_broadcast(contract *self, size_t count,
                                   tsr_dtype dtype, int root) {
    self->used = 0;
    void *buffer = take(self, count * tsr_dtype_bytes(dtype));
    fill(dtype, buffer, count, self->rank, 9);
    CHECK_OK(tsr_comm_broadcast(self->comm, buffer, count, dtype, root,
                                self->stream));
    CHECK_OK(tsr_stream_synchronize(self->stream));
    for (size_t i = 0; i < count; i++)
        CHECK(!looks_at(self, count, i) ||
              get(dtype, buffer, i) == element(dtype, root, 9, i));
    digest_common(self, buffer, count * tsr_dtype_bytes(dtype));
}

/* More calls than the ring holds, without looking; each adds. */
static inline void check_many_calls(contract *self) {
    enum { CALLS = 3000 };
    float value = 1;
    for (int i = 0; i < CALLS / 2; i++) {
        CHECK_OK(tsr_comm_barrier(self->comm, self->stream));
        CHECK_OK(tsr_comm_broadcast(self->comm, &value, 1, TSR_F32,
                                    i % self->world, self->stream));
    }
    CHECK_OK(tsr_stream_synchronize(self->stream));
    CHECK(value == 1.0f);
}

/* Two communicators at once, each on its own stream. */
static inline void check_split(contract *self) {
    enum { ROUNDS = 20, COUNT = 30011 };
    tsr_comm *second;
    tsr_stream *stream;
    float squares[ROUNDS];
    reduce_case test = {COUNT, TSR_F32, TSR_F32, 0.5f, false, false, true};
    tsr_reduce reduces[ROUNDS];
    self->used = 0;
    CHECK_OK(tsr_comm_split(self->comm, &second));
    CHECK_OK(tsr_stream_create(self->device, TSR_STREAM_QUEUED, "second", 0,
                               &stream));
    tsr_gather gather = make_gather(self, TSR_F32, COUNT, false, 77);
    for (uint64_t i = 0; i < ROUNDS; i++)
        reduces[i] = make_reduce(self, &test, i, &squares[i]);
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_OK(tsr_comm_gather(second, &gather, 1, stream));
        CHECK_OK(
            tsr_comm_reduce_scatter(self->comm, &reduces[i], 1, self->stream));
    }
    CHECK_OK(tsr_stream_synchronize(stream));
    CHECK_OK(tsr_stream_synchronize(self->stream));
    check_gathered(self, &gather, 77);
    for (uint64_t i = 0; i < ROUNDS; i++)
        check_reduced(self, &test, &reduces[i], i, squares[i]);
    tsr_stream_release(stream);
    tsr_comm_release(second);
}

static inline void check_arguments(contract *self) {
    float value = 0;
    tsr_gather gather = {&value, NULL, 1, TSR_F32};
    tsr_reduce reduce = {&value, &value, 1, 1, TSR_U8, TSR_U8, 1, 0, NULL};
    CHECK_FAILS(tsr_comm_gather(self->comm, &gather, 1, self->stream),
                TSR_INVALID_ARGUMENT, "tensor 0: gather: full is NULL");
    CHECK_FAILS(tsr_comm_reduce_scatter(self->comm, &reduce, 1, self->stream),
                TSR_INVALID_ARGUMENT, "u8");
    reduce.wire_dtype = TSR_I32;
    reduce.out_dtype = TSR_F32;
    CHECK_FAILS(tsr_comm_reduce_scatter(self->comm, &reduce, 1, self->stream),
                TSR_INVALID_ARGUMENT, "i32 does not become f32");
    reduce.out_dtype = TSR_I32;
    reduce.scale = 2;
    CHECK_FAILS(tsr_comm_reduce_scatter(self->comm, &reduce, 1, self->stream),
                TSR_INVALID_ARGUMENT, "scale 2");
    reduce.scale = 1;
    reduce.valid = 100;
    CHECK_FAILS(tsr_comm_reduce_scatter(self->comm, &reduce, 1, self->stream),
                TSR_INVALID_ARGUMENT, "valid");
    CHECK_FAILS(tsr_comm_broadcast(self->comm, &value, 1, TSR_F32, self->world,
                                   self->stream),
                TSR_INVALID_ARGUMENT, "broadcast");
    CHECK_FAILS(tsr_comm_barrier(self->comm, NULL), TSR_INVALID_ARGUMENT,
                "stream");
    CHECK_OK(tsr_comm_poll(self->comm, NULL));
}

/* As many elements as fill several rounds. */
static inline void check_million(contract *self) {
    static const tsr_dtype sums[] = {TSR_F32, TSR_BF16, TSR_F16, TSR_I32};
    reduce_case tests[] = {
        {MILLION, TSR_F32, TSR_F32, 0.25f, true, false, true},
        {MILLION, TSR_BF16, TSR_F32, 1.0f, false, true, true}};
    bool full = self->options->extent == CONTRACT_FULL;
    size_t part = MILLION / (size_t)self->world;
    self->used = 0;
    tsr_gather gather = make_gather(self, TSR_U8, MILLION, false, 3);
    CHECK_OK(tsr_comm_gather(self->comm, &gather, 1, self->stream));
    CHECK_OK(tsr_stream_synchronize(self->stream));
    check_gathered(self, &gather, 3);
    if (full)
        check_gather_group(self, &part, 1);
    for (int i = 0; i < (full ? 2 : 1); i++)
        check_reduce_group(self, &tests[i], 1);
    for (int i = 0; i < (full ? 4 : 1); i++)
        check_all_reduce(self, MILLION, sums[i]);
    check_broadcast(self, MILLION, TSR_F32, self->world - 1);
}

static inline void contract_body(rank_context *rank) {
    static const size_t counts[] = {0, 1, 7, 10007, 4096};
    static const tsr_dtype sums[] = {TSR_F32, TSR_BF16, TSR_F16, TSR_I32};
    contract self;
    contract_begin(&self, rank);
    check_arguments(&self);
    CHECK_OK(tsr_comm_gather(self.comm, NULL, 0, self.stream));
    check_gather_group(&self, counts, 5);
    check_gather_many(&self);
    check_reduce_all(&self);
    for (int i = 0; i < 4; i++) {
        check_all_reduce(&self, 0, sums[i]);
        check_all_reduce(&self, 1, sums[i]);
        check_all_reduce(&self, 4096, sums[i]);
        check_all_reduce(&self, 10007, sums[i]);
    }
    for (int root = 0; root < rank->world; root++) {
        check_broadcast(&self, 0, TSR_F32, root);
        check_broadcast(&self, 10007, TSR_U8, root);
        check_broadcast(&self, 3, TSR_F32, root);
    }
    if (self.options->extent != CONTRACT_SMALL)
        check_million(&self);
    check_split(&self);
    check_many_calls(&self);
    contract_end(&self);
}

static inline void same_digests(const contract_options *a,
                                const contract_options *b, int world) {
    for (int r = 0; r < world; r++)
        CHECK_MESSAGE(a->digests[r] == b->digests[r],
                      "rank %d of %d: other bits", r, world);
}

#endif
