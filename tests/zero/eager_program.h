/* Programs of eager ops: what a random one is made of. eager_program_text.h
 * prints and parses them, eager_program_make.h makes them up.
 *
 * Names in programs: a, b: the tsr_zero; g0..: graphs; p0..: parameters; t0..:
 * tensors of a graph; s0..: streams of the caller. */
#ifndef TSR_TESTS_ZERO_EAGER_PROGRAM_H
#define TSR_TESTS_ZERO_EAGER_PROGRAM_H

#include "tessera/eager.h"

enum {
    PROGRAM_ZEROS = 2,
    PROGRAM_GRAPHS = 4,
    PROGRAM_PARAMS = 7,
    PROGRAM_TENSORS = 3, /* a graph */
    PROGRAM_STREAMS = 3,
    PROGRAM_LIST = 4,
    PROGRAM_OPS = 128,
    PROGRAM_NUMEL = 64, /* the largest parameter */
    PROGRAM_TENSOR_BYTES = 72
};

/* op, how often it comes by itself, its arguments: %z zero, %g graph, %p
 * parameter, %t tensor, %s stream, %n %k numbers, %d dtype, %D four of them,
 * %h one of two ways, %l list of parameters with dtypes, %P %T sets of
 * parameters and tensors, %f flags of a parameter. */
/* clang-format off */
#define PROGRAM_KINDS(X) \
    X(register_param, 2, "%z, %p, %n elements, granule %k, %D, %f, %s") \
    X(register_graph, 2, "%z, %g, %P") \
    X(allgather_param, 10, "%z, %g, %p, %d, %s") \
    X(wait_allgather, 7, "%z, %g, %p, handle %h, %s") \
    X(read, 8, "%z, %g, %p, %s") \
    X(release_param, 8, "%z, %g, %p, users %n, handle %h, %s") \
    X(prefetch_params_fused, 3, "%z, %l, dtypes %n, %s") \
    X(grad_slot, 4, "%z, %g, %p, call %n, %s") \
    X(reduce_grad, 8, "%z, %g, %p, call %n, own memory %h, %s") \
    X(wait_grads_copied, 2, "%z, %s") \
    X(start_backward, 3, "%z, update %n") \
    X(end_backward, 4, "%z, %s") \
    X(read_grads, 4, "%z, %s") \
    X(abort_step, 1, "%z, %s") \
    X(write_weights, 3, "%z, %P, %s") \
    X(move_shard, 1, "%z, %p, %s") \
    X(move_grad, 1, "%z, %p, %s") \
    X(set_persistent, 1, "%z, %p, %s") \
    X(invalidate, 2, "%z, %p") \
    X(clear, 1, "%z") \
    X(offload_tensor, 2, "%z, %g, %t, %n bytes, %s") \
    X(offload_reloaded, 1, "%z, %g, %t, %s") \
    X(wait_offload, 2, "%z, %g, %t, %s") \
    X(reload_tensor, 2, "%z, %g, %t, %s") \
    X(wait_reload, 2, "%z, %g, %t, %s") \
    X(read_tensor, 2, "%z, %g, %t, %s") \
    X(free_tensors, 2, "%z, %g, %T, %s") \
    X(offload_parameter, 2, "%z, %p, %s") \
    X(reload_parameter, 3, "%z, %p, %s") \
    X(start_forward, 1, "%z") \
    X(end_forward, 1, "%z") \
    X(enable_profiling, 1, "%z, on %n") \
    X(reset, 1, "%z, %s") \
    X(seal, 1, "%z, %s") \
    X(synchronize, 2, "%z") \
    X(dawdle, 3, "%n us, %s")
/* clang-format on */
typedef enum op_kind {
#define ROW(name, weight, arguments) OP_##name,
    PROGRAM_KINDS(ROW)
#undef ROW
        OP_KINDS
} op_kind;

/* Flags of register_param. */
typedef enum param_flag {
    PARAM_PERSISTENT = 1,
    PARAM_FROZEN = 2,
    PARAM_SWAPPED = 4, /* its shard's memory is the caller's to move */
    PARAM_UNEVEN = 8,  /* stages 1, 2: slices of any size, in any order */
    PARAM_FLAGS = 4    /* how many */
} param_flag;

typedef struct op {
    op_kind kind;
    int zero, graph, id, stream, n, k;
    int other; /* wait, release: through the handle; reduce_grad: from memory of
                  its own, though a slot is taken */
    unsigned mask;       /* parameters, tensors or flags */
    tsr_dtype dtypes[4]; /* stored, gathered, communicated, accumulated;
                            or of `list` */
    int list[PROGRAM_LIST], list_count;
} op;

typedef struct program_zero {
    tsr_zero_settings settings;
    bool heap; /* memory from outside */
} program_zero;

/* Delays in microseconds, drawn from [0, longest] before each task. */
typedef struct program {
    unsigned long long seed; /* of delays */
    int world;
    int zero_delay, caller_delay; /* longest */
    int slow_rank;                /* the others have no delays; -1: all have */
    bool is_inline[PROGRAM_STREAMS];
    int zero_count;
    program_zero zeros[PROGRAM_ZEROS];
    int count;
    op ops[PROGRAM_OPS];
} program;

/* SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* [0, count) */
static inline int draw(uint64_t *state, int count) {
    return (int)(next_random(state) % (uint64_t)count);
}

#endif
