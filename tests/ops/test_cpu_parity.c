/* The fast kernels against the reference, in f32 and bf16: every instruction
 * set this machine has, odd sizes, 1, 2, 3 and 5 threads, with oneDNN and with
 * our own products, with and without accumulators and memory taken over. */
#include "op_run.h"

#include "ops/cpu_bf16.h"
#include "ops/cpu_matmul.h"

/* Of activations, weights and their gradients. */
static tsr_dtype real;

#undef ZEROS
#undef RANDOM
#define ZEROS(...) tensor_of(real, SHAPE_(__VA_ARGS__))
#define RANDOM(...) tensor_randomized(tensor_of(real, SHAPE_(__VA_ARGS__)))
/* Statistics, and what the update works on. */
#define F32_ZEROS(...) tensor_of(TSR_F32, SHAPE_(__VA_ARGS__))
#define F32_RANDOM(...)                                                        \
    tensor_randomized(tensor_of(TSR_F32, SHAPE_(__VA_ARGS__)))

#define THREAD_COUNTS 4
static const int thread_counts[THREAD_COUNTS] = {1, 2, 3, 5};
static tsr_device *devices[THREAD_COUNTS];

/* Reassociated f32 sums of up to 700 terms; the reference sums in double. */
#define TOLERANCE 2e-6

enum {
    ANY_BITS = 1,     /* bits may depend on the number of threads */
    OWN_PRODUCTS = 2, /* also runs without oneDNN */
    CANCELS = 4,      /* small differences, or exponentials, of large numbers */
};

typedef struct results {
    tensor out[TSR_MAX_OUTPUTS];
    size_t count;
} results;

static results run_on(const runner *r, const op_call *call) {
    results got = {.count = 0};
    op_call copy = *call;
    for (; got.count < TSR_MAX_OUTPUTS && call->out[got.count]; got.count++) {
        got.out[got.count] = tensor_copy(call->out[got.count]);
        copy.out[got.count] = &got.out[got.count];
    }
    run_op(r, &copy);
    return got;
}

static void results_release(results *r) {
    for (size_t j = 0; j < r->count; j++)
        tensor_free(&r->out[j]);
}

static void check_set(const tsr_cpu_kernel_set *set, const op_call *call,
                      const results *expected, unsigned flags) {
    results first = {.count = 0};
    for (int t = 0; t < THREAD_COUNTS; t++) {
        const runner fast = cpu_runner(set, devices[t]);
        results got = run_on(&fast, call);
        char what[128];
        snprintf(what, sizeof what, "%s of %s, %d threads", call->op, set->isa,
                 thread_counts[t]);
        for (size_t j = 0; j < got.count; j++) {
            const double tolerance =
                flags & CANCELS ? 20 * TOLERANCE : TOLERANCE;
            if (got.out[j].type.dtype == TSR_BF16)
                check_close_bf16(&got.out[j], &expected->out[j], tolerance,
                                 what);
            else
                check_close(&got.out[j], &expected->out[j], tolerance, what);
            if (t > 0 && !(flags & ANY_BITS))
                check_same(&got.out[j], &first.out[j], what);
        }
        if (t == 0)
            first = got;
        else
            results_release(&got);
    }
    results_release(&first);
}

/* Leaves the reference's outputs in the call's. */
static void check_parity(const op_call *call, unsigned flags) {
    const tsr_cpu_kernel_set *const *sets;
    const size_t set_count = tsr_cpu_kernel_sets(&sets);
    const runner reference = ref_runner(devices[0]);
    results expected = run_on(&reference, call);
    for (size_t i = 0; i < set_count; i++) {
        tsr_cpu_bf16_prefer(TSR_BF16_F32);
        check_set(sets[i], call, &expected, flags);
        if (flags & OWN_PRODUCTS) {
            tsr_cpu_gemm_prefer_own(true);
            check_set(sets[i], call, &expected, flags);
            tsr_cpu_gemm_prefer_own(false);
        }
        tsr_cpu_bf16_prefer(TSR_BF16_NATIVE);
        if ((flags & OWN_PRODUCTS) && real == TSR_BF16 && tsr_matmul_possible())
            check_set(sets[i], call, &expected, flags);
    }
    for (size_t j = 0; j < expected.count; j++)
        memcpy(call->out[j]->data, expected.out[j].data,
               (size_t)tensor_count(call->out[j]) * sizeof(double));
    results_release(&expected);
}

/* The same with output 0 over input `input`. */
static void check_parity_over(op_call call, int input, unsigned flags) {
    call.over[0] = 1 + input;
    check_parity(&call, flags);
}

static void check_embedding(int64_t N, int64_t V_, int64_t C_) {
    tensor tokens = INTS(N), weight = RANDOM(V_, C_), y = ZEROS(N, C_);
    tensor dy = RANDOM(N, C_), acc = RANDOM(V_, C_), dweight = ZEROS(V_, C_);
    tensor_randomize_ints(&tokens, 0, V_);
    check_parity(&(op_call){"embedding", .in = {&tokens, &weight}, .out = {&y}},
                 0);

    tensor_randomize_ints(&tokens, -1, V_ + 1); /* some are skipped */
    const op_call grad = {"embedding_grad", .in = {&tokens, &dy, &acc},
                          .out = {&dweight},
                          .attrs = {TSR_ATTR_INT("rows", V_)}};
    op_call without = grad;
    without.in[2] = NULL;
    check_parity(&without, 0);
    check_parity(&grad, 0);
    check_parity_over(grad, 2, 0);
    FREE(&tokens, &weight, &y, &dy, &acc, &dweight);
}

static void check_position(int64_t B, int64_t T, int64_t C, int64_t P) {
    tensor x = RANDOM(B, T, C), weight = RANDOM(P + T, C), y = ZEROS(B, T, C);
    tensor position = INTS(1), acc = RANDOM(P, C), dweight = ZEROS(P, C);
    tensor_randomize_ints(&position, 0, P + 1);
    const op_call forward = {"position_add", .in = {&x, &weight, &position},
                             .out = {&y}};
    op_call at_start = forward;
    at_start.in[2] = NULL;
    check_parity(&forward, 0);
    check_parity(&at_start, 0);
    check_parity_over(forward, 0, 0);

    const op_call grad = {"position_grad", .in = {&x, &acc}, .out = {&dweight},
                          .attrs = {TSR_ATTR_INT("rows", P)}};
    op_call without = grad;
    without.in[1] = NULL;
    check_parity(&grad, 0);
    check_parity(&without, 0);
    check_parity_over(grad, 1, 0);
    FREE(&x, &weight, &y, &position, &acc, &dweight);
}

static void check_layer_norm(int64_t N, int64_t C) {
    /* With few channels little is left after the two means. */
    const unsigned flags = C <= 3 ? CANCELS : 0;
    tensor x = RANDOM(N, C), weight = RANDOM(C), bias = RANDOM(C);
    tensor y = ZEROS(N, C), mean = F32_ZEROS(N), rstd = F32_ZEROS(N);
    tensor dy = RANDOM(N, C), acc = RANDOM(N, C), dx = ZEROS(N, C);
    tensor dweight = ZEROS(C), dbias = ZEROS(C);
    check_parity(&(op_call){"layer_norm", .in = {&x, &weight, &bias},
                            .out = {&y, &mean, &rstd},
                            .attrs = {TSR_ATTR_REAL("eps", 1e-2)}},
                 0);

    const op_call grad = {"layer_norm_grad",
                          .in = {&x, &weight, &mean, &rstd, &dy, &acc},
                          .out = {&dx, &dweight, &dbias}};
    op_call without = grad;
    without.in[5] = NULL;
    check_parity(&without, flags);
    check_parity_over(without, 4, flags);
    check_parity(&grad, flags);
    check_parity_over(grad, 5, flags);
    FREE(&x, &weight, &bias, &y, &mean, &rstd, &dy, &acc, &dx, &dweight,
         &dbias);
}

static void check_linear(int64_t N, int64_t I, int64_t O,
                         tsr_weight_layout layout) {
    const unsigned flags = OWN_PRODUCTS | (real == TSR_F32 ? ANY_BITS : 0);
    const tsr_attr attr = TSR_ATTR_INT("weight_layout", layout);
    tensor x = RANDOM(N, I), y = RANDOM(N, O), bias = RANDOM(O);
    tensor weight = layout == TSR_WEIGHT_OUT_IN ? RANDOM(O, I) : RANDOM(I, O);
    tensor acc_weight = tensor_randomized(tensor_copy(&weight));
    tensor dweight = tensor_copy(&weight), dx = ZEROS(N, I), dy = RANDOM(N, O);
    op_call forward = {"linear", .in = {&x, &weight, &bias}, .out = {&y},
                       .attrs = {attr}};
    op_call grad_input = {"linear_grad_input", .in = {&dy, &weight, &x},
                          .out = {&dx}, .attrs = {attr}};
    op_call grad_weight = {"linear_grad_weight", .in = {&x, &dy, &acc_weight},
                           .out = {&dweight}, .attrs = {attr}};
    check_parity(&forward, flags);
    check_parity(&grad_input, flags);
    check_parity(&grad_weight, flags);
    check_parity_over(grad_input, 2, flags);
    check_parity_over(grad_weight, 2, flags);
    forward.in[2] = grad_input.in[2] = grad_weight.in[2] = NULL;
    check_parity(&forward, flags);
    check_parity(&grad_input, flags);
    check_parity(&grad_weight, flags);
    FREE(&x, &y, &bias, &weight, &acc_weight, &dweight, &dx, &dy);
}

static void check_bias_grad(int64_t N, int64_t O) {
    tensor dy = RANDOM(N, O), acc = RANDOM(O), dbias = ZEROS(O);
    const op_call grad = {"bias_grad", .in = {&dy, &acc}, .out = {&dbias}};
    op_call without = grad;
    without.in[1] = NULL;
    check_parity(&grad, 0);
    check_parity(&without, 0);
    check_parity_over(grad, 1, 0);
    FREE(&dy, &acc, &dbias);
}

typedef struct attention_case {
    int64_t B, T, H, G, D;
} attention_case;

static void check_attention(attention_case s) {
    const int64_t row = (s.H + 2 * s.G) * s.D;
    const tsr_attr heads = TSR_ATTR_INT("heads", s.H);
    const tsr_attr kv_heads = TSR_ATTR_INT("kv_heads", s.G);
    tensor qkv = RANDOM(s.B, s.T, row), y = ZEROS(s.B, s.T, s.H * s.D);
    tensor lse = F32_ZEROS(s.B, s.H, s.T), dy = RANDOM(s.B, s.T, s.H * s.D);
    tensor dqkv = ZEROS(s.B, s.T, row);
    for (int64_t i = 0; i < tensor_count(&qkv); i++)
        qkv.data[i] *= 3; /* softmax far from uniform */
    check_parity(&(op_call){"attention", .in = {&qkv}, .out = {&y, &lse},
                            .attrs = {heads, kv_heads}},
                 OWN_PRODUCTS | CANCELS);
    check_parity(&(op_call){"attention_grad", .in = {&qkv, &y, &lse, &dy},
                            .out = {&dqkv}, .attrs = {heads, kv_heads}},
                 OWN_PRODUCTS | CANCELS);
    FREE(&qkv, &y, &lse, &dy, &dqkv);
}

static void check_attention_cached(attention_case s, int64_t P, double at) {
    tensor qkv = RANDOM(s.B, 1, (s.H + 2 * s.G) * s.D);
    tensor k = RANDOM(s.B, s.G, P, s.D), v = RANDOM(s.B, s.G, P, s.D);
    tensor k_out = tensor_copy(&k), v_out = tensor_copy(&v);
    tensor position = INTS(1), y = ZEROS(s.B, 1, s.H * s.D);
    position.data[0] = at;
    check_parity(&(op_call){"attention_cached", .in = {&qkv, &k, &v, &position},
                            .out = {&y, &k_out, &v_out},
                            .attrs = {TSR_ATTR_INT("heads", s.H),
                                      TSR_ATTR_INT("kv_heads", s.G)},
                            .over = {0, 2, 3}},
                 0);
    FREE(&qkv, &k, &v, &k_out, &v_out, &position, &y);
}

static void check_elements(int64_t count) {
    tensor a = RANDOM(count), b = RANDOM(count), y = ZEROS(count);
    for (int64_t i = 0; i < count; i++)
        a.data[i] = (float)(a.data[i] * 9);
    const op_call gelu = {"gelu", .in = {&a}, .out = {&y}};
    const op_call gelu_grad = {"gelu_grad", .in = {&a, &b}, .out = {&y}};
    const op_call add = {"add", .in = {&a, &b}, .out = {&y}};
    check_parity(&gelu, 0);
    check_parity_over(gelu, 0, 0);
    check_parity(&gelu_grad, 0);
    check_parity_over(gelu_grad, 1, 0);
    check_parity(&add, 0);
    check_parity_over(add, 0, 0);
    check_parity_over(add, 1, 0);
    FREE(&a, &b, &y);
}

static void check_cross_entropy(int64_t N, int64_t vocab, int64_t V) {
    tensor logits = RANDOM(N, V), targets = INTS(N), loss = F32_RANDOM(1);
    tensor out = F32_ZEROS(1), lse = F32_ZEROS(N), dlogits = ZEROS(N, V);
    tensor_randomize_ints(&targets, -1, vocab);
    for (int64_t i = 0; i < tensor_count(&logits); i++)
        logits.data[i] = (float)(logits.data[i] * 12);
    op_call forward = {
        "cross_entropy", .in = {&logits, &targets, &loss}, .out = {&out, &lse},
        .attrs = {TSR_ATTR_INT("vocab", vocab), TSR_ATTR_REAL("scale", 0.37)},
        .over = {3}};
    check_parity(&forward, 0);
    forward.attrs[2] = TSR_ATTR_INT("accumulate", 1);
    check_parity(&forward, 0);

    const op_call grad = {
        "cross_entropy_grad", .in = {&logits, &targets, &lse},
        .out = {&dlogits},
        .attrs = {TSR_ATTR_INT("vocab", vocab), TSR_ATTR_REAL("scale", 0.37)}};
    check_parity(&grad, 0);
    check_parity_over(grad, 0, 0);
    FREE(&logits, &targets, &loss, &out, &lse, &dlogits);
}

/* With a twin when `real` is bf16. */
static void check_adamw(int64_t count, double step) {
    tensor param = F32_RANDOM(count), grad = F32_RANDOM(count);
    tensor m = F32_RANDOM(count), v = F32_RANDOM(count);
    tensor schedule = F32_ZEROS(2), clip = F32_ZEROS(1), twin = RANDOM(count);
    tensor param_out = F32_ZEROS(count), m_out = F32_ZEROS(count);
    tensor v_out = F32_ZEROS(count), twin_out = ZEROS(count);
    tensor_set(&schedule, (double)3e-2f, step);
    tensor_set(&clip, 0.625);
    for (int64_t i = 0; i < count; i++)
        v.data[i] = fabs(v.data[i]);
    op_call call = {"adamw", .in = {&param, &grad, &m, &v, &schedule, &clip},
                    .out = {&param_out, &m_out, &v_out},
                    .attrs = {TSR_ATTR_REAL("beta1", 0.9),
                              TSR_ATTR_REAL("beta2", 0.95),
                              TSR_ATTR_REAL("eps", 1e-8),
                              TSR_ATTR_REAL("weight_decay", 0.1)},
                    .over = {1, 3, 4}};
    if (real == TSR_BF16) {
        call.in[6] = &twin;
        call.out[3] = &twin_out;
        call.over[3] = 7;
    }
    check_parity(&call, 0);
    for (int64_t i = 0; real == TSR_BF16 && i < count; i++)
        CHECK(twin_out.data[i] ==
              (double)tsr_from_bf16(tsr_to_bf16((float)param_out.data[i])));
    FREE(&param, &grad, &m, &v, &schedule, &clip, &twin);
    FREE(&param_out, &m_out, &v_out, &twin_out);
}

/* ---- sizes ---- */

static void check_rows(void) {
    static const int64_t sizes[] = {1, 3, 35, 37, 257};
    const size_t count = sizeof sizes / sizeof *sizes;
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < count; j++) {
            const int64_t N = sizes[i], C = sizes[j];
            check_embedding(N, 37, C);
            check_layer_norm(N, C == 1 ? 2 : C); /* of 1, dx is noise */
            check_bias_grad(N, C);
            check_cross_entropy(N, C, C);
            check_cross_entropy(N, C, C + 7);
        }
    check_cross_entropy(3, 5000, 5056); /* several chunks of columns */
    check_bias_grad(130, 700);
    check_position(1, 1, 1, 1);
    check_position(3, 5, 37, 9);
    check_position(2, 37, 257, 37);
    check_position(2, 9, 3, 5);
}

static void check_linears(void) {
    static const int64_t sizes[] = {1, 3, 37};
    static const int64_t more[][3] = {{257, 35, 130}, {35, 257, 300},
                                      {130, 300, 37}, {3, 35, 257},
                                      {257, 1, 3},    {100, 600, 65}};
    for (int layout = 0; layout < 2; layout++) {
        for (int i = 0; i < 27; i++)
            check_linear(sizes[i % 3], sizes[i / 3 % 3], sizes[i / 9],
                         (tsr_weight_layout)layout);
        for (size_t i = 0; i < sizeof more / sizeof *more; i++)
            check_linear(more[i][0], more[i][1], more[i][2],
                         (tsr_weight_layout)layout);
    }
}

static void check_attentions(void) {
    static const attention_case cases[] = {
        {1, 1, 1, 1, 1},  {2, 1, 3, 1, 3},   {3, 5, 4, 2, 8},
        {2, 37, 3, 3, 5}, {1, 63, 2, 1, 16}, {1, 64, 2, 2, 16},
        {2, 65, 4, 2, 7}, {1, 129, 6, 3, 4}, {1, 257, 1, 1, 35}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_attention(cases[i]);
        check_attention_cached(cases[i], 37, 0);
        check_attention_cached(cases[i], 37, 36);
        check_attention_cached(cases[i], 37, 12);
    }
}

static void check_all(tsr_dtype dtype) {
    static const int64_t counts[] = {1, 3, 37, 1023, 1025, 5000};
    real = dtype;
    check_rows();
    check_linears();
    check_attentions();
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        check_elements(counts[i]);
        check_adamw(counts[i], 1);
        check_adamw(counts[i], 1000);
    }
}

int main(void) {
    tsr_cpu_gemm_load();
    for (int t = 0; t < THREAD_COUNTS; t++)
        devices[t] = device_with(thread_counts[t]);

    check_all(TSR_F32);
    check_all(TSR_BF16);
    for (int t = 0; t < THREAD_COUNTS; t++)
        tsr_device_release(devices[t]);
    return 0;
}
