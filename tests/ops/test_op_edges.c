/* What tessera/ops.h says about the edges of each op, for the reference and for
 * every instruction set. */
#include "op_run.h"

static runner kernels; /* under test */

#define CHECK_VALUE(got, expected)                                             \
    CHECK_MESSAGE((got) == (expected), "%s: %.9g, not %.9g", kernels.name,     \
                  (double)(got), (double)(expected))
#define CHECK_NAN(got)                                                         \
    CHECK_MESSAGE(isnan(got), "%s: %.9g, not NaN", kernels.name, (double)(got))

static void check_embedding(void) {
    enum { N = 5, V = 3, C = 2 };
    tensor tokens = INTS(N), weight = RANDOM(V, C), y = ZEROS(N, C);
    tensor_set(&tokens, 2.0, -1.0, 3.0, 0.0, 2147483647.0);
    run_op(&kernels,
           &(op_call){"embedding", .in = {&tokens, &weight}, .out = {&y}});
    for (int c = 0; c < C; c++) {
        CHECK_VALUE(y.data[0 * C + c], weight.data[2 * C + c]);
        CHECK_NAN(y.data[1 * C + c]);
        CHECK_NAN(y.data[2 * C + c]);
        CHECK_VALUE(y.data[3 * C + c], weight.data[0 * C + c]);
        CHECK_NAN(y.data[4 * C + c]);
    }
    FREE(&tokens, &weight, &y);
}

/* Unknown tokens are skipped, the others added in token order: in f32,
 * (1e8 - 1e8) + 1 is 1, and 0 in any other order. */
static void check_embedding_grad(void) {
    tensor tokens = INTS(6), dy = ZEROS(6, 1), dweight = ZEROS(3, 1);
    tensor_set(&tokens, 1.0, -1.0, 1.0, 3.0, 1.0, 2.0);
    tensor_set(&dy, 1e8, 5.0, -1e8, 5.0, 1.0, 4.0);
    run_op(&kernels,
           &(op_call){"embedding_grad", .in = {&tokens, &dy}, .out = {&dweight},
                      .attrs = {TSR_ATTR_INT("rows", 3)}});
    CHECK_VALUE(dweight.data[0], 0);
    CHECK_VALUE(dweight.data[1], 1);
    CHECK_VALUE(dweight.data[2], 4);
    FREE(&tokens, &dy, &dweight);
}

static void check_position_add(void) {
    enum { B = 2, T = 3, C = 2, P = 4 };
    tensor x = RANDOM(B, T, C), weight = RANDOM(P, C), y = ZEROS(B, T, C);
    tensor position = INTS(1);
    const op_call call = {"position_add", .in = {&x, &weight, &position},
                          .out = {&y}};
    for (int first = -2; first <= P; first++) {
        position.data[0] = first;
        run_op(&kernels, &call);
        for (int i = 0; i < B * T * C; i++) {
            const int p = first + i / C % T;
            if (p < 0 || p >= P)
                CHECK_NAN(y.data[i]);
            else
                CHECK_VALUE((float)y.data[i],
                            (float)x.data[i] +
                                (float)weight.data[p * C + i % C]);
        }
    }
    FREE(&x, &weight, &y, &position);
}

static void check_position_grad(void) {
    tensor dy = RANDOM(2, 2, 1), acc = RANDOM(3, 1), dweight = ZEROS(3, 1);
    op_call call = {"position_grad", .in = {&dy, &acc}, .out = {&dweight},
                    .attrs = {TSR_ATTR_INT("rows", 3)}};
    run_op(&kernels, &call);
    CHECK_VALUE(dweight.data[2], acc.data[2]);
    call.in[1] = NULL;
    run_op(&kernels, &call);
    CHECK_VALUE(dweight.data[2], 0);
    CHECK_VALUE((float)dweight.data[1], (float)dy.data[1] + (float)dy.data[3]);
    FREE(&dy, &acc, &dweight);
}

static void check_layer_norm(void) {
    tensor x = ZEROS(2, 4), weight = RANDOM(4), bias = RANDOM(4);
    tensor y = ZEROS(2, 4), mean = ZEROS(2), rstd = ZEROS(2);
    tensor_set(&x, 3.0, 3.0, 3.0, 3.0, 0.0, 2.0, 0.0, 2.0);
    run_op(&kernels, &(op_call){"layer_norm", .in = {&x, &weight, &bias},
                                .out = {&y, &mean, &rstd},
                                .attrs = {TSR_ATTR_REAL("eps", 0.25)}});
    CHECK_VALUE(mean.data[0], 3);
    CHECK_VALUE(rstd.data[0], 2); /* 1 / sqrt(0 + eps) */
    CHECK_VALUE(mean.data[1], 1); /* biased variance: 4 / 4 */
    CHECK(fabs(rstd.data[1] - 1 / sqrt(1.25)) < 1e-6);
    for (int c = 0; c < 4; c++)
        CHECK_VALUE(y.data[c], bias.data[c]);
    FREE(&x, &weight, &bias, &y, &mean, &rstd);
}

/* Head h reads key/value head h / (H / G); a later token changes nothing before
 * it; the first token sees itself alone. */
static void check_attention(void) {
    enum { T = 70, H = 4, G = 2, D = 3, ROW = (H + 2 * G) * D };
    tensor qkv = RANDOM(1, T, ROW), y = ZEROS(1, T, H * D);
    tensor lse = ZEROS(1, H, T);
    const op_call call = {
        "attention", .in = {&qkv}, .out = {&y, &lse},
        .attrs = {TSR_ATTR_INT("heads", H), TSR_ATTR_INT("kv_heads", G)}};
    run_op(&kernels, &call);
    for (int h = 0; h < H; h++) {
        const int v_head = H + G + h / (H / G), k_head = H + h / (H / G);
        double score = 0;
        for (int d = 0; d < D; d++) {
            CHECK_VALUE(y.data[h * D + d], qkv.data[v_head * D + d]);
            score += qkv.data[h * D + d] * qkv.data[k_head * D + d];
        }
        CHECK(fabs(lse.data[h * T] - score / sqrt(D)) < 1e-6);
    }
    tensor before = tensor_copy(&y);
    for (int i = 0; i < ROW; i++)
        qkv.data[(T - 2) * ROW + i] = 1e4 * random_real();
    run_op(&kernels, &call);
    for (int i = 0; i < T * H * D; i++)
        CHECK(isfinite(y.data[i]) && /* though scores are near 1e8 */
              (y.data[i] == before.data[i]) == (i < (T - 2) * H * D));
    FREE(&qkv, &y, &lse, &before);
}

/* Token by token over a cache is attention over the sequence. */
static void check_attention_cached(void) {
    enum { B = 2, T = 9, H = 4, G = 2, D = 3, P = 9, ROW = (H + 2 * G) * D };
    tensor qkv = RANDOM(B, T, ROW), y = ZEROS(B, T, H * D);
    tensor lse = ZEROS(B, H, T), token = ZEROS(B, 1, ROW);
    tensor k = ZEROS(B, G, P, D), v = ZEROS(B, G, P, D), position = INTS(1);
    tensor k_out = ZEROS(B, G, P, D), v_out = ZEROS(B, G, P, D);
    tensor row = ZEROS(B, 1, H * D);
    const tsr_attr heads = TSR_ATTR_INT("heads", H);
    const tsr_attr kv_heads = TSR_ATTR_INT("kv_heads", G);
    const op_call cached = {"attention_cached",
                            .in = {&token, &k, &v, &position},
                            .out = {&row, &k_out, &v_out},
                            .attrs = {heads, kv_heads}, .over = {0, 2, 3}};
    run_op(&kernels, &(op_call){"attention", .in = {&qkv}, .out = {&y, &lse},
                                .attrs = {heads, kv_heads}});
    for (int t = 0; t < T; t++) {
        position.data[0] = t;
        for (int i = 0; i < B * ROW; i++)
            token.data[i] = qkv.data[(i / ROW * T + t) * ROW + i % ROW];
        run_op(&kernels, &cached);
        for (int i = 0; i < B * H * D; i++) {
            const int at = (i / (H * D) * T + t) * H * D + i % (H * D);
            CHECK(fabs(row.data[i] - y.data[at]) < 1e-5);
        }
        memcpy(k.data, k_out.data, sizeof(double) * B * G * P * D);
        memcpy(v.data, v_out.data, sizeof(double) * B * G * P * D);
    }
    for (int i = 0; i < B * ROW; i++)
        token.data[i] *= 1e4; /* exp of such a score is infinite */
    run_op(&kernels, &cached);
    for (int i = 0; i < B * H * D; i++)
        CHECK(isfinite(row.data[i]));
    static const double outside[] = {-1, P, 2147483647};
    for (int o = 0; o < 3; o++) {
        position.data[0] = outside[o];
        run_op(&kernels, &cached);
        for (int i = 0; i < B * H * D; i++)
            CHECK_NAN(row.data[i]);
        check_same(&k_out, &k, "cache of k");
        check_same(&v_out, &v, "cache of v");
    }
    FREE(&qkv, &y, &lse, &token, &k, &v, &position, &k_out, &v_out, &row);
}

static void check_gelu(void) {
    tensor x = ZEROS(8), y = ZEROS(8), dy = ZEROS(8), dx = ZEROS(8);
    tensor_set(&x, 0.0, 30.0, -30.0, 1e10, -1e10, 3e38, -3e38, (double)NAN);
    tensor_set(&dy, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0);
    run_op(&kernels, &(op_call){"gelu", .in = {&x}, .out = {&y}});
    run_op(&kernels, &(op_call){"gelu_grad", .in = {&x, &dy}, .out = {&dx}});
    CHECK_VALUE(y.data[0], 0);
    CHECK_VALUE(dx.data[0], 1);
    for (int i = 1; i < 7; i++) {
        CHECK_VALUE(y.data[i], x.data[i] > 0 ? (float)x.data[i] : 0);
        CHECK_VALUE(dx.data[i], x.data[i] > 0 ? 2 : 0);
    }
    CHECK_NAN(y.data[7]);
    CHECK_NAN(dx.data[7]);
    FREE(&x, &y, &dy, &dx);
}

typedef struct loss_case {
    tensor logits, targets, before, loss, lse, dlogits;
} loss_case;

/* Rows of three classes and one column of padding. */
static loss_case run_loss(const double *targets, int64_t N, bool accumulate) {
    loss_case c = {ZEROS(N, 4), INTS(N),  ZEROS(1),
                   ZEROS(1),    ZEROS(N), ZEROS(N, 4)};
    const tsr_attr vocab = TSR_ATTR_INT("vocab", 3);
    const tsr_attr scale = TSR_ATTR_REAL("scale", 0.5);
    for (int64_t n = 0; n < N; n++) {
        c.targets.data[n] = targets[n];
        c.logits.data[n * 4 + 3] = n % 2 ? 1e30 : (double)NAN; /* padding */
        if (targets[n] < 0)
            c.logits.data[n * 4] = NAN; /* nobody looks at an ignored row */
    }
    c.before.data[0] = 10;
    run_op(&kernels,
           &(op_call){
               "cross_entropy", .in = {&c.logits, &c.targets, &c.before},
               .out = {&c.loss, &c.lse},
               .attrs = {vocab, scale, TSR_ATTR_INT("accumulate", accumulate)},
               .over = {3}});
    run_op(&kernels, &(op_call){"cross_entropy_grad",
                                .in = {&c.logits, &c.targets, &c.lse},
                                .out = {&c.dlogits}, .attrs = {vocab, scale}});
    return c;
}

static void loss_release(loss_case *c) {
    FREE(&c->logits, &c->targets, &c->before, &c->loss, &c->lse, &c->dlogits);
}

static void check_cross_entropy(void) {
    loss_case c = run_loss((double[]){0, -1, 2}, 3, false);
    CHECK(fabs(c.loss.data[0] - 0.5 * 2 * log(3)) < 1e-6);
    for (int n = 0; n < 3; n++)
        for (int v = 0; v < 4; v++) {
            double expected = 0.5 * (1.0 / 3 - (v == c.targets.data[n]));
            if (n == 1 || v == 3)
                CHECK_VALUE(c.dlogits.data[n * 4 + v], 0);
            else
                CHECK(fabs(c.dlogits.data[n * 4 + v] - expected) < 1e-6);
        }
    loss_release(&c);

    c = run_loss((double[]){1}, 1, true);
    CHECK(fabs(c.loss.data[0] - (10 + 0.5 * log(3))) < 1e-6);
    loss_release(&c);

    c = run_loss((double[]){-1, -5}, 2, false); /* nothing to learn from */
    CHECK_VALUE(c.loss.data[0], 0);
    loss_release(&c);

    static const double past[] = {3, 4, 2147483647};
    for (int i = 0; i < 3; i++) {
        c = run_loss((double[]){0, past[i], 1}, 3, true);
        CHECK_NAN(c.loss.data[0]);
        CHECK_NAN(c.dlogits.data[4]);
        CHECK_VALUE(c.dlogits.data[7], 0); /* padding stays 0 */
        CHECK(isfinite(c.dlogits.data[0]) && isfinite(c.dlogits.data[8]));
        loss_release(&c);
    }
}

typedef struct adamw_case {
    tensor param, grad, m, v, schedule, clip, param_out, m_out, v_out;
} adamw_case;

static adamw_case adamw_create(int64_t count, double step, double clip) {
    adamw_case c = {RANDOM(count), RANDOM(count), RANDOM(count),
                    RANDOM(count), ZEROS(2),      ZEROS(1),
                    ZEROS(count),  ZEROS(count),  ZEROS(count)};
    tensor_set(&c.schedule, 0.125, step);
    tensor_set(&c.clip, clip);
    for (int64_t i = 0; i < count; i++)
        c.v.data[i] = fabs(c.v.data[i]);
    return c;
}

static void run_adamw(adamw_case *c) {
    run_op(&kernels, &(op_call){"adamw",
                                .in = {&c->param, &c->grad, &c->m, &c->v,
                                       &c->schedule, &c->clip},
                                .out = {&c->param_out, &c->m_out, &c->v_out},
                                .attrs = {TSR_ATTR_REAL("beta1", 0.9),
                                          TSR_ATTR_REAL("beta2", 0.99),
                                          TSR_ATTR_REAL("eps", 1e-8),
                                          TSR_ATTR_REAL("weight_decay", 0.1)},
                                .over = {1, 3, 4}});
}

static void adamw_release(adamw_case *c) {
    FREE(&c->param, &c->grad, &c->m, &c->v, &c->schedule, &c->clip,
         &c->param_out, &c->m_out, &c->v_out);
}

static void check_adamw(void) {
    static const double bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        adamw_case c = adamw_create(37, 3, bad[i]);
        run_adamw(&c);
        check_same(&c.param_out, &c.param, "param");
        check_same(&c.m_out, &c.m, "m");
        check_same(&c.v_out, &c.v, "v");
        adamw_release(&c);
    }

    adamw_case c = adamw_create(37, 1, 1); /* the padding of a shard */
    for (int i = 20; i < 37; i++)
        c.param.data[i] = c.grad.data[i] = c.m.data[i] = c.v.data[i] = 0;
    run_adamw(&c);
    for (int i = 20; i < 37; i++) {
        CHECK_VALUE(c.param_out.data[i], 0);
        CHECK_VALUE(c.m_out.data[i], 0);
        CHECK_VALUE(c.v_out.data[i], 0);
    }
    CHECK(c.param_out.data[0] != c.param.data[0]);
    adamw_release(&c);

    /* Step 1 from rest: m / correction is g, sqrt(v / correction) is |g|. */
    c = adamw_create(3, 1, 0.5);
    tensor_set(&c.param, 1.0, -2.0, 0.0);
    tensor_set(&c.grad, 4.0, -6.0, 0.25);
    tensor_set(&c.m, 0.0, 0.0, 0.0);
    tensor_set(&c.v, 0.0, 0.0, 0.0);
    run_adamw(&c);
    for (int i = 0; i < 3; i++) {
        const double g = c.grad.data[i] * 0.5;
        const double shrunk = c.param.data[i] * (1 - 0.125 * 0.1);
        const double expected = shrunk - (g > 0 ? 0.125 : -0.125);
        CHECK(fabs(c.param_out.data[i] - expected) < 1e-6);
        CHECK(fabs(c.m_out.data[i] - 0.1 * g) < 1e-6);
        CHECK(fabs(c.v_out.data[i] - 0.01 * g * g) < 1e-6);
    }
    adamw_release(&c);
}

static void check_sum(void) {
    tensor a = ZEROS(2), b = ZEROS(1, 2), one = ZEROS(1), y = ZEROS(1);
    tensor_set(&a, 1e8, 1.0);
    tensor_set(&b, -1e8, 0.5);
    tensor_set(&one, 0.25);
    run_op(&kernels, &(op_call){"sum", .in = {&a, &b, &one}, .out = {&y}});
    CHECK_VALUE(y.data[0], 1.75); /* in f32 the 1 would be lost */
    FREE(&a, &b, &one, &y);
}

static void check_clip_scale(void) {
    static const struct {
        double square_sum, max_norm, norm, clip;
    } cases[] = {{16, 1, 4, 1 / (4 + 1e-6)},
                 {0.25, 1, 0.5, 1},
                 {16, 0, 4, 1},
                 {0, 1, 0, 1},
                 {INFINITY, 1, INFINITY, NAN},
                 {NAN, 1, NAN, NAN},
                 {NAN, 0, NAN, NAN},
                 {-1, 1, NAN, NAN}};
    tensor square_sum = ZEROS(1), norm = ZEROS(1), clip = ZEROS(1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        square_sum.data[0] = cases[i].square_sum;
        run_op(&kernels,
               &(op_call){
                   "clip_scale", .in = {&square_sum}, .out = {&norm, &clip},
                   .attrs = {TSR_ATTR_REAL("max_norm", cases[i].max_norm)}});
        if (isnan(cases[i].norm))
            CHECK_NAN(norm.data[0]);
        else
            CHECK_VALUE(norm.data[0], cases[i].norm);
        if (isnan(cases[i].clip))
            CHECK_NAN(clip.data[0]);
        else
            CHECK(fabs(clip.data[0] - cases[i].clip) < 1e-7);
    }
    FREE(&square_sum, &norm, &clip);
}

/* What x becomes on its way through halves, to nearest even; worked out by hand
 * from the formats: bf16 has 8 significant bits, f16 has 11, its largest is
 * 65504, its smallest 2^-24. */
static void check_cast(void) {
    static const struct {
        double x, bf16, f16;
    } cases[] = {
        {1, 1, 1},
        {-0.0, -0.0, -0.0},
        {1 + 0x1p-8, 1, 1 + 0x1p-8},          /* a tie of bf16: to even */
        {1 + 0x3p-8, 1 + 0x1p-6, 1 + 0x3p-8}, /* the other way */
        {-1 - 0x1p-11, -1, -1},               /* a tie of f16 */
        {1 + 0x3p-11, 1, 1 + 0x1p-9},
        {1 + 0x1.01p-8, 1 + 0x1p-7, 1 + 0x1p-8}, /* just past a tie */
        {65504, 65536, 65504},
        {65519, 65536, 65504},
        {65520, 65536, INFINITY},
        {0x1p-24, 0x1p-24, 0x1p-24},
        {0x1p-25, 0x1p-25, 0},
        {0x3p-25, 0x3p-25, 0x1p-23},
        {0x1.fffffep127, INFINITY, INFINITY},
        {0x1p-149, 0, 0},
        {-INFINITY, -INFINITY, -INFINITY},
        {NAN, NAN, NAN},
    };
    enum { COUNT = sizeof cases / sizeof *cases };
    const int64_t shape[] = {COUNT};
    tensor x = ZEROS(COUNT), y = ZEROS(COUNT);
    const tsr_attr back = TSR_ATTR_INT("dtype", TSR_F32);
    for (int i = 0; i < COUNT; i++)
        x.data[i] = cases[i].x;
    for (int f16 = 0; f16 < 2; f16++) {
        const tsr_dtype dtype = f16 ? TSR_F16 : TSR_BF16;
        tensor half = tensor_of(dtype, 1, shape);
        run_op(&kernels, &(op_call){"cast", .in = {&x}, .out = {&half},
                                    .attrs = {TSR_ATTR_INT("dtype", dtype)}});
        run_op(&kernels,
               &(op_call){"cast", .in = {&half}, .out = {&y}, .attrs = {back}});
        for (int i = 0; i < COUNT; i++) {
            const double expected = f16 ? cases[i].f16 : cases[i].bf16;
            if (isnan(expected)) {
                CHECK_NAN(y.data[i]);
            } else {
                CHECK_VALUE(y.data[i], expected);
                CHECK(signbit(y.data[i]) == signbit(expected));
            }
        }
        tensor_free(&half);
    }
    run_op(&kernels,
           &(op_call){"cast", .in = {&x}, .out = {&y}, .attrs = {back}});
    for (int i = 0; i < COUNT - 1; i++)
        CHECK_VALUE(y.data[i], (double)(float)x.data[i]);
    FREE(&x, &y);
}

/* ---- a NaN in an input reaches every output of the definition ---- */

/* Where the reference gives NaN, so does the kernel (products may spread one
 * further: a masked probability of 0 times NaN). */
static void check_nan_reaches(const op_call *call, const tensor *input) {
    const runner reference = ref_runner(kernels.device);
    for (int trial = 0; trial < 4; trial++) {
        const int64_t at =
            (int64_t)(next_random() % (uint64_t)tensor_count(input));
        const double before = input->data[at];
        input->data[at] = NAN;
        run_op(&reference, call);
        tensor expected = tensor_copy(call->out[0]);
        run_op(&kernels, call);
        for (int64_t i = 0; i < tensor_count(&expected); i++)
            if (isnan(expected.data[i]))
                CHECK_NAN(call->out[0]->data[i]);
        tensor_free(&expected);
        input->data[at] = before;
    }
}

static void check_nans(tsr_dtype real) {
    enum { B = 2, T = 37, H = 2, C = 24 };
#define REALS(...) tensor_randomized(tensor_of(real, SHAPE_(__VA_ARGS__)))
    tensor x = REALS(B, T, C), w = REALS(C, C), b = REALS(C);
    tensor y = REALS(B, T, C), mean = ZEROS(B, T), rstd = RANDOM(B, T);
    tensor qkv = REALS(B, T, 3 * C), dqkv = REALS(B, T, 3 * C);
    tensor lse = ZEROS(B, H, T), dw = REALS(C, C), targets = INTS(B, T);
    tensor loss = ZEROS(1), row_lse = ZEROS(B, T), dc = REALS(C), db = REALS(C);
#undef REALS
    const tsr_attr heads = TSR_ATTR_INT("heads", H);
    const tsr_attr kv_heads = TSR_ATTR_INT("kv_heads", H);
    const tsr_attr eps = TSR_ATTR_REAL("eps", 1e-5);

    check_nan_reaches(&(op_call){"layer_norm", .in = {&x, &w, &b},
                                 .out = {&y, &mean, &rstd}, .attrs = {eps}},
                      &x);
    check_nan_reaches(&(op_call){"layer_norm_grad",
                                 .in = {&x, &b, &mean, &rstd, &x},
                                 .out = {&y, &dc, &db}},
                      &x);
    check_nan_reaches(&(op_call){"linear", .in = {&x, &w, &b}, .out = {&y}},
                      &w);
    check_nan_reaches(
        &(op_call){"linear_grad_weight", .in = {&x, &x}, .out = {&dw}}, &x);
    check_nan_reaches(&(op_call){"bias_grad", .in = {&x}, .out = {&db}}, &x);
    const op_call attention = {"attention", .in = {&qkv}, .out = {&y, &lse},
                               .attrs = {heads, kv_heads}};
    check_nan_reaches(&attention, &qkv);
    run_op(&kernels, &attention);
    check_nan_reaches(&(op_call){"attention_grad", .in = {&qkv, &y, &lse, &x},
                                 .out = {&dqkv}, .attrs = {heads, kv_heads}},
                      &x);
    check_nan_reaches(&(op_call){"gelu", .in = {&x}, .out = {&y}}, &x);
    check_nan_reaches(&(op_call){"gelu_grad", .in = {&x, &x}, .out = {&y}}, &x);
    check_nan_reaches(&(op_call){"cross_entropy", .in = {&x, &targets, &loss},
                                 .out = {&loss, &row_lse}, .over = {3}},
                      &x);
    FREE(&x, &w, &b, &y, &mean, &rstd, &qkv, &dqkv, &lse, &dw, &targets, &loss,
         &row_lse, &dc, &db);
}

/* What is too large for bf16 becomes infinite, and the largest of bf16 stays:
 * 0x1.fep127, after which f32 has a few more. */
static void check_infinities(void) {
    enum { COUNT = 6 };
    const int64_t shape[] = {COUNT};
    static const double a_values[COUNT] = {0x1.fep127, -0x1.fep127, 0x1.fep127,
                                           INFINITY,   -INFINITY,   INFINITY};
    static const double b_values[COUNT] = {0,         -0x1.fep127, 0x1p118,
                                           -INFINITY, 1,           2};
    static const double sums[COUNT] = {0x1.fep127, -INFINITY, 0x1.fep127,
                                       NAN,        -INFINITY, INFINITY};
    tensor a = tensor_of(TSR_BF16, 1, shape), b = tensor_of(TSR_BF16, 1, shape);
    tensor y = tensor_of(TSR_BF16, 1, shape);
    memcpy(a.data, a_values, sizeof a_values);
    memcpy(b.data, b_values, sizeof b_values);
    run_op(&kernels, &(op_call){"add", .in = {&a, &b}, .out = {&y}});
    for (int i = 0; i < COUNT; i++)
        if (isnan(sums[i]))
            CHECK_NAN(y.data[i]);
        else
            CHECK_VALUE(y.data[i], sums[i]);
    FREE(&a, &b, &y);
}

static void check_all(void) {
    check_embedding();
    check_embedding_grad();
    check_position_add();
    check_position_grad();
    check_layer_norm();
    check_attention();
    check_attention_cached();
    check_gelu();
    check_cross_entropy();
    check_adamw();
    check_nans(TSR_F32);
    check_nans(TSR_BF16);
    check_infinities();
}

int main(void) {
    const tsr_cpu_kernel_set *const *sets;
    const size_t count = tsr_cpu_kernel_sets(&sets);
    tsr_device *device = device_with(2);
    tsr_cpu_gemm_load();

    kernels = ref_runner(device);
    check_all();
    check_sum();
    check_clip_scale();
    check_cast();
    for (size_t i = 0; i < count; i++) {
        kernels = cpu_runner(sets[i], device);
        check_all();
    }
    tsr_device_release(device);
    return 0;
}
