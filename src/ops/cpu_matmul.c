/* oneDNN's matmul, found at run time. Its structs are room of the right size to
 * us; the numbers are those of dnnl_types.h of oneDNN 2, whose interface oneDNN
 * 3 changed: with that one bf16 is multiplied in f32. */
#include "ops/cpu_matmul.h"

#include <pthread.h>
#include <stdalign.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"
#include "ops/cpu_gemm.h"

enum { DNNL_CPU = 1, DNNL_BF16 = 2, DNNL_STREAM_DEFAULT = 1 };
enum { DNNL_SCRATCHPAD_USER = 1, DNNL_QUERY_SCRATCHPAD = 136 };
enum {
    DNNL_SRC = 1,
    DNNL_DST = 17,
    DNNL_WEIGHTS = 33,
    DNNL_BIAS = 41,
    DNNL_SCRATCHPAD = 80,
};
#define DNNL_OUT_OF_MEMORY 1
#define DNNL_INVALID_ARGUMENTS 2
#define DNNL_MAX_DIMS 12

/* dnnl_memory_desc_t has 696 bytes in 2.6, dnnl_matmul_desc_t 2800. */
typedef struct memory_desc {
    alignas(max_align_t) unsigned char bytes[1024];
} memory_desc;
typedef struct matmul_desc {
    alignas(max_align_t) unsigned char bytes[4096];
} matmul_desc;
typedef struct exec_arg {
    int arg;
    void *memory;
} exec_arg;

static struct {
    pthread_once_t once; /* guards the rest, which is read-only afterwards */
    bool found;
    void *engine, *stream; /* of the process, like the library */
    const struct { int major, minor, patch; } * (*version)(void);
    int (*engine_create)(void **engine, int kind, size_t index);
    int (*stream_create)(void **stream, void *engine, unsigned flags);
    int (*memory_desc_init)(memory_desc *desc, int dims, const int64_t *shape,
                            int dtype, const int64_t *strides);
    size_t (*memory_desc_size)(const memory_desc *desc);
    int (*matmul_desc_init)(matmul_desc *desc, const memory_desc *src,
                            const memory_desc *weights, const memory_desc *bias,
                            const memory_desc *dst);
    int (*attr_create)(void **attr);
    int (*attr_destroy)(void *attr);
    int (*attr_set_scratchpad)(void *attr, int mode);
    int (*attr_set_post_ops)(void *attr, const void *post_ops);
    int (*post_ops_create)(void **post_ops);
    int (*post_ops_destroy)(void *post_ops);
    int (*post_ops_append_sum)(void *post_ops, float scale);
    int (*primitive_desc_create)(void **desc, const matmul_desc *op,
                                 const void *attr, void *engine,
                                 const void *hint);
    int (*primitive_desc_destroy)(void *desc);
    const memory_desc *(*primitive_desc_query)(const void *desc, int what,
                                               int index);
    int (*primitive_create)(void **primitive, const void *desc);
    int (*primitive_destroy)(void *primitive);
    int (*primitive_execute)(const void *primitive, void *stream, int count,
                             const exec_arg *args);
    int (*memory_create)(void **memory, const memory_desc *desc, void *engine,
                         void *handle);
    int (*memory_destroy)(void *memory);
    int (*memory_set_handle)(void *memory, void *handle);
} dnnl = {.once = PTHREAD_ONCE_INIT};

/* ---- finding it ---- */

/* ISO C has no conversion from dlsym's result to a function; POSIX has this. */
static bool find(const char *name, void *out_function) {
    void *symbol = tsr_cpu_library_find(name);
    memcpy(out_function, &symbol, sizeof symbol);
    return symbol != NULL;
}

static bool find_all(void) {
    const struct {
        const char *name;
        void *function;
    } symbols[] = {
        {"dnnl_version", &dnnl.version},
        {"dnnl_engine_create", &dnnl.engine_create},
        {"dnnl_stream_create", &dnnl.stream_create},
        {"dnnl_memory_desc_init_by_strides", &dnnl.memory_desc_init},
        {"dnnl_memory_desc_get_size", &dnnl.memory_desc_size},
        {"dnnl_matmul_desc_init", &dnnl.matmul_desc_init},
        {"dnnl_primitive_attr_create", &dnnl.attr_create},
        {"dnnl_primitive_attr_destroy", &dnnl.attr_destroy},
        {"dnnl_primitive_attr_set_scratchpad_mode", &dnnl.attr_set_scratchpad},
        {"dnnl_primitive_attr_set_post_ops", &dnnl.attr_set_post_ops},
        {"dnnl_post_ops_create", &dnnl.post_ops_create},
        {"dnnl_post_ops_destroy", &dnnl.post_ops_destroy},
        {"dnnl_post_ops_append_sum", &dnnl.post_ops_append_sum},
        {"dnnl_primitive_desc_create", &dnnl.primitive_desc_create},
        {"dnnl_primitive_desc_destroy", &dnnl.primitive_desc_destroy},
        {"dnnl_primitive_desc_query_md", &dnnl.primitive_desc_query},
        {"dnnl_primitive_create", &dnnl.primitive_create},
        {"dnnl_primitive_destroy", &dnnl.primitive_destroy},
        {"dnnl_primitive_execute", &dnnl.primitive_execute},
        {"dnnl_memory_create", &dnnl.memory_create},
        {"dnnl_memory_destroy", &dnnl.memory_destroy},
        {"dnnl_memory_set_data_handle", &dnnl.memory_set_handle},
    };
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++)
        if (!find(symbols[i].name, symbols[i].function))
            return false;
    return dnnl.version()->major == 2;
}

static void load(void) {
    tsr_cpu_gemm_load();
    dnnl.found =
        find_all() && dnnl.engine_create(&dnnl.engine, DNNL_CPU, 0) == 0 &&
        dnnl.stream_create(&dnnl.stream, dnnl.engine, DNNL_STREAM_DEFAULT) == 0;
}

bool tsr_matmul_possible(void) {
    pthread_once(&dnnl.once, load);
    return dnnl.found;
}

/* ---- making a product ----
 *
 * Products of one shape share code in the library's cache, which guards it by
 * means that ThreadSanitizer does not see; one thread at a time makes them. */

static pthread_mutex_t making =
    PTHREAD_MUTEX_INITIALIZER; /* guards the cache */

static int begin_making(void) {
    pthread_mutex_lock(&making);
    return tsr_cpu_one_thread_begin();
}

static void end_making(int threads) {
    tsr_cpu_one_thread_end(threads);
    pthread_mutex_unlock(&making);
}

enum { A, B, C, BIAS, SCRATCH, MEMORIES };
static const int args[MEMORIES] = {DNNL_SRC, DNNL_WEIGHTS, DNNL_DST, DNNL_BIAS,
                                   DNNL_SCRATCHPAD};

struct tsr_matmul {
    void *primitive;
    exec_arg memories[MEMORIES]; /* without memory: left out */
    int count;                   /* of those in use, moved to the front */
    int place[MEMORIES];         /* of each in `memories`; -1: left out */
};

static tsr_status dnnl_error(int code, const tsr_matmul_shape *shape) {
    if (code == 0)
        return TSR_OK;
    return tsr_error(
        code == DNNL_OUT_OF_MEMORY ? TSR_OUT_OF_MEMORY : TSR_UNSUPPORTED,
        "oneDNN fails (%d) at a bf16 product of %lld x %lld x "
        "%lld; TESSERA_BF16=f32 does without",
        code, (long long)shape->m, (long long)shape->n, (long long)shape->k);
}

/* (rows, columns) of an operand; `ld` apart, or transposed in memory. */
static int init_matrix(memory_desc *desc, int64_t rows, int64_t columns,
                       int64_t ld, bool transposed) {
    const int64_t shape[DNNL_MAX_DIMS] = {rows, columns};
    const int64_t strides[DNNL_MAX_DIMS] = {transposed ? 1 : ld,
                                            transposed ? ld : 1};
    return dnnl.memory_desc_init(desc, 2, shape, DNNL_BF16, strides);
}

/* What a product of this shape is, before its code is made. */
typedef struct recipe {
    memory_desc matrices[SCRATCH]; /* A to BIAS */
    void *desc;                    /* owned */
    const memory_desc *scratch;    /* the library's, while desc lives */
} recipe;

static int init_matrices(const tsr_matmul_shape *s, memory_desc *matrices) {
    int code = init_matrix(&matrices[A], s->m, s->k, s->lda, s->trans_a);
    if (code == 0)
        code = init_matrix(&matrices[B], s->k, s->n, s->ldb, s->trans_b);
    if (code == 0)
        code = init_matrix(&matrices[C], s->m, s->n, s->ldc, false);
    if (code == 0 && s->has_bias)
        code = init_matrix(&matrices[BIAS], 1, s->n, s->n, false);
    return code;
}

static int create_attr(bool accumulate, void **out_attr) {
    void *post_ops = NULL;
    int code = dnnl.attr_create(out_attr);
    if (code != 0)
        *out_attr = NULL;
    if (code == 0)
        code = dnnl.attr_set_scratchpad(*out_attr, DNNL_SCRATCHPAD_USER);
    if (code != 0 || !accumulate)
        return code;
    code = dnnl.post_ops_create(&post_ops);
    if (code != 0)
        return code;
    code = dnnl.post_ops_append_sum(post_ops, 1.0f);
    if (code == 0)
        code = dnnl.attr_set_post_ops(*out_attr, post_ops);
    dnnl.post_ops_destroy(post_ops);
    return code;
}

static int recipe_init(const tsr_matmul_shape *shape, recipe *self) {
    matmul_desc matmul = {0};
    void *attr = NULL;
    int code = init_matrices(shape, self->matrices);
    if (code == 0)
        code = dnnl.matmul_desc_init(
            &matmul, &self->matrices[A], &self->matrices[B],
            shape->has_bias ? &self->matrices[BIAS] : NULL, &self->matrices[C]);
    if (code == 0)
        code = create_attr(shape->accumulate, &attr);
    if (code == 0)
        code = dnnl.primitive_desc_create(&self->desc, &matmul, attr,
                                          dnnl.engine, NULL);
    if (attr)
        dnnl.attr_destroy(attr);
    if (code != 0)
        return code;
    self->scratch =
        dnnl.primitive_desc_query(self->desc, DNNL_QUERY_SCRATCHPAD, 0);
    return self->scratch ? 0 : DNNL_INVALID_ARGUMENTS;
}

size_t tsr_matmul_scratch_bytes(const tsr_matmul_shape *shape) {
    recipe made = {0};
    size_t bytes = 0;
    if (!tsr_matmul_possible())
        return 0;
    const int threads = begin_making();
    if (recipe_init(shape, &made) == 0)
        bytes = dnnl.memory_desc_size(made.scratch);
    if (made.desc)
        dnnl.primitive_desc_destroy(made.desc);
    end_making(threads);
    return bytes;
}

static int create_memories(tsr_matmul *self, const recipe *made,
                           bool has_bias) {
    for (int i = 0; i < MEMORIES; i++) {
        exec_arg *arg = &self->memories[self->count];
        self->place[i] = -1;
        if (i == BIAS && !has_bias)
            continue;
        arg->arg = args[i];
        int code = dnnl.memory_create(
            &arg->memory, i == SCRATCH ? made->scratch : &made->matrices[i],
            dnnl.engine, NULL);
        if (code != 0)
            return code;
        self->place[i] = self->count++;
    }
    return 0;
}

static void destroy(tsr_matmul *self) {
    if (!self)
        return;
    for (int i = 0; i < self->count; i++)
        dnnl.memory_destroy(self->memories[i].memory);
    if (self->primitive)
        dnnl.primitive_destroy(self->primitive);
    tsr_free(self);
}

tsr_status tsr_matmul_create(const tsr_matmul_shape *shape,
                             tsr_matmul **out_matmul) {
    tsr_status status = TSR_OK;
    tsr_matmul *self = NULL;
    recipe made = {0};

    *out_matmul = NULL;
    if (!tsr_matmul_possible())
        return tsr_error(TSR_UNSUPPORTED,
                         "bf16 products need oneDNN 2; install libdnnl2 or "
                         "leave TESSERA_BF16 unset");
    const int threads = begin_making();
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *self, (void **)&self));
    TSR_TRY_GOTO(dnnl_error(recipe_init(shape, &made), shape));
    TSR_TRY_GOTO(
        dnnl_error(dnnl.primitive_create(&self->primitive, made.desc), shape));
    TSR_TRY_GOTO(
        dnnl_error(create_memories(self, &made, shape->has_bias), shape));
    *out_matmul = self;
    self = NULL; /* now the caller's */
done:
    if (made.desc)
        dnnl.primitive_desc_destroy(made.desc);
    destroy(self);
    end_making(threads);
    return status;
}

void tsr_matmul_release(tsr_matmul *self) {
    if (!self)
        return;
    const int threads = begin_making();
    destroy(self);
    end_making(threads);
}

static void set(tsr_matmul *self, int which, const void *address) {
    if (self->place[which] >= 0)
        dnnl.memory_set_handle(self->memories[self->place[which]].memory,
                               (void *)(uintptr_t)address);
}

tsr_status tsr_matmul_run(tsr_matmul *self,
                          const tsr_matmul_operands *operands) {
    set(self, A, operands->a);
    set(self, B, operands->b);
    set(self, C, operands->c);
    set(self, BIAS, operands->bias);
    set(self, SCRATCH, operands->scratch);
    const int threads = tsr_cpu_one_thread_begin();
    const int code = dnnl.primitive_execute(self->primitive, dnnl.stream,
                                            self->count, self->memories);
    tsr_cpu_one_thread_end(threads);
    return code == 0 ? TSR_OK
                     : tsr_error(TSR_OUT_OF_MEMORY,
                                 "oneDNN fails (%d) at a bf16 product", code);
}
