/* Backward kernels are the derivatives of forward ones: along random
 * directions, in double, against central differences. */
#include "op_run.h"

extern const tsr_kernel tsr_ref_kernels_double[];
extern const size_t tsr_ref_kernel_count_double;

#include "graph/graph.h"

#define STEP 1e-5 /* truncation h^2 and rounding 1e-16 / h both near 1e-10 */
#define TOLERANCE 1e-6

static runner reference;

static double dot(const tensor *a, const tensor *b) {
    double sum = 0;
    CHECK(tensor_count(a) == tensor_count(b));
    for (int64_t i = 0; i < tensor_count(a); i++)
        sum += a->data[i] * b->data[i];
    return sum;
}

static void move(tensor *x, const tensor *direction, double step) {
    for (int64_t i = 0; i < tensor_count(x); i++)
        x->data[i] += step * direction->data[i];
}

static double scalar_of(double (*function)(void *), void *context, tensor *x,
                        const tensor *direction, double step) {
    move(x, direction, step);
    const double value = function(context);
    move(x, direction, -step);
    return value;
}

/* `gradient` is that of function(context) by x, whose data function reads. */
static void check_gradient(double (*function)(void *), void *context, tensor *x,
                           const tensor *gradient, const char *what) {
    tensor direction = tensor_randomized(tensor_copy(x));
    const double slope = (scalar_of(function, context, x, &direction, STEP) -
                          scalar_of(function, context, x, &direction, -STEP)) /
                         (2 * STEP);
    const double expected = dot(gradient, &direction);
    CHECK_MESSAGE(fabs(slope - expected) <= TOLERANCE * fabs(slope),
                  "%s: slope %.12g, gradient says %.12g", what, slope,
                  expected);
    CHECK_MESSAGE(fabs(slope) > 1e-6, "%s: nothing was tested", what);
    tensor_free(&direction);
}

/* <dy, first output of call> */
typedef struct projected {
    const op_call *call;
    const tensor *dy;
} projected;

static double projection(void *context) {
    const projected *p = context;
    run_op(&reference, p->call);
    return dot(p->call->out[0], p->dy);
}

static void check_op(const op_call *call, const tensor *dy, tensor *x,
                     const tensor *dx, const char *what) {
    projected p = {call, dy};
    check_gradient(projection, &p, x, dx, what);
}

/* result[i] - acc[i] of a run with an accumulator is the run without one. */
static void check_accumulates(const op_call *with, const tensor *acc,
                              const tensor *without) {
    run_op(&reference, with);
    for (int64_t i = 0; i < tensor_count(acc); i++)
        CHECK_MESSAGE(fabs(with->out[0]->data[i] - acc->data[i] -
                           without->data[i]) <= 1e-12,
                      "%s does not add to its accumulator", with->op);
}

static void check_embedding(void) {
    tensor tokens = INTS(2, 5), weight = RANDOM(7, 3), y = ZEROS(2, 5, 3);
    tensor dy = RANDOM(2, 5, 3), dweight = ZEROS(7, 3), acc = RANDOM(7, 3);
    tensor sum = ZEROS(7, 3);
    tensor_randomize_ints(&tokens, 0, 7);
    const tsr_attr rows = TSR_ATTR_INT("rows", 7);

    run_op(&reference, &(op_call){"embedding_grad", .in = {&tokens, &dy},
                                  .out = {&dweight}, .attrs = {rows}});
    check_op(&(op_call){"embedding", .in = {&tokens, &weight}, .out = {&y}},
             &dy, &weight, &dweight, "embedding");
    check_accumulates(&(op_call){"embedding_grad", .in = {&tokens, &dy, &acc},
                                 .out = {&sum}, .attrs = {rows}},
                      &acc, &dweight);
    FREE(&tokens, &weight, &y, &dy, &dweight, &acc, &sum);
}

static void check_position(void) {
    tensor x = RANDOM(3, 4, 5), weight = RANDOM(6, 5), y = ZEROS(3, 4, 5);
    tensor dy = RANDOM(3, 4, 5), dweight = ZEROS(6, 5), acc = RANDOM(6, 5);
    tensor sum = ZEROS(6, 5);
    const tsr_attr rows = TSR_ATTR_INT("rows", 6);
    const op_call forward = {"position_add", .in = {&x, &weight}, .out = {&y}};

    run_op(&reference, &(op_call){"position_grad", .in = {&dy},
                                  .out = {&dweight}, .attrs = {rows}});
    check_op(&forward, &dy, &weight, &dweight, "position weight");
    check_op(&forward, &dy, &x, &dy, "position x");
    check_accumulates(&(op_call){"position_grad", .in = {&dy, &acc},
                                 .out = {&sum}, .attrs = {rows}},
                      &acc, &dweight);
    FREE(&x, &weight, &y, &dy, &dweight, &acc, &sum);
}

static void check_layer_norm(void) {
    tensor x = RANDOM(2, 5, 7), weight = RANDOM(7), bias = RANDOM(7);
    tensor y = ZEROS(2, 5, 7), mean = ZEROS(2, 5), rstd = ZEROS(2, 5);
    tensor dy = RANDOM(2, 5, 7), dx = ZEROS(2, 5, 7), acc = RANDOM(2, 5, 7);
    tensor dweight = ZEROS(7), dbias = ZEROS(7), sum = ZEROS(2, 5, 7);
    const op_call forward = {"layer_norm", .in = {&x, &weight, &bias},
                             .out = {&y, &mean, &rstd},
                             .attrs = {TSR_ATTR_REAL("eps", 1e-2)}};

    run_op(&reference, &forward);
    run_op(&reference,
           &(op_call){"layer_norm_grad", .in = {&x, &weight, &mean, &rstd, &dy},
                      .out = {&dx, &dweight, &dbias}});
    check_accumulates(&(op_call){"layer_norm_grad",
                                 .in = {&x, &weight, &mean, &rstd, &dy, &acc},
                                 .out = {&sum, &dweight, &dbias}},
                      &acc, &dx);
    check_op(&forward, &dy, &x, &dx, "layer_norm x");
    check_op(&forward, &dy, &weight, &dweight, "layer_norm weight");
    check_op(&forward, &dy, &bias, &dbias, "layer_norm bias");
    FREE(&x, &weight, &bias, &y, &mean, &rstd, &dy, &dx, &acc, &dweight, &dbias,
         &sum);
}

static void check_linear(tsr_weight_layout layout) {
    const bool out_in = layout == TSR_WEIGHT_OUT_IN;
    const tsr_attr attr = TSR_ATTR_INT("weight_layout", layout);
    tensor x = RANDOM(2, 3, 4), bias = RANDOM(5), y = ZEROS(2, 3, 5);
    tensor weight = out_in ? RANDOM(5, 4) : RANDOM(4, 5);
    tensor dweight = tensor_copy(&weight), sum_weight = tensor_copy(&weight);
    tensor dy = RANDOM(2, 3, 5), dx = ZEROS(2, 3, 4), dbias = ZEROS(5);
    tensor sum_x = ZEROS(2, 3, 4), sum_bias = ZEROS(5);
    const op_call forward = {"linear", .in = {&x, &weight, &bias}, .out = {&y},
                             .attrs = {attr}};

    run_op(&reference, &(op_call){"linear_grad_input", .in = {&dy, &weight},
                                  .out = {&dx}, .attrs = {attr}});
    run_op(&reference, &(op_call){"linear_grad_weight", .in = {&x, &dy},
                                  .out = {&dweight}, .attrs = {attr}});
    run_op(&reference, &(op_call){"bias_grad", .in = {&dy}, .out = {&dbias}});
    check_op(&forward, &dy, &x, &dx, "linear x");
    check_op(&forward, &dy, &weight, &dweight, "linear weight");
    check_op(&forward, &dy, &bias, &dbias, "linear bias");
    check_accumulates(&(op_call){"linear_grad_input", .in = {&dy, &weight, &x},
                                 .out = {&sum_x}, .attrs = {attr}},
                      &x, &dx);
    check_accumulates(&(op_call){"linear_grad_weight", .in = {&x, &dy, &weight},
                                 .out = {&sum_weight}, .attrs = {attr}},
                      &weight, &dweight);
    check_accumulates(
        &(op_call){"bias_grad", .in = {&dy, &bias}, .out = {&sum_bias}}, &bias,
        &dbias);
    FREE(&x, &bias, &y, &weight, &dweight, &sum_weight, &dy, &dx, &dbias,
         &sum_x, &sum_bias);
}

static void check_attention(int64_t H, int64_t G) {
    const int64_t B = 2, T = 5, D = 3, row = (H + 2 * G) * D;
    tensor qkv = RANDOM(B, T, row), y = ZEROS(B, T, H * D);
    tensor lse = ZEROS(B, H, T), dy = RANDOM(B, T, H * D);
    tensor dqkv = ZEROS(B, T, row);
    const op_call forward = {
        "attention", .in = {&qkv}, .out = {&y, &lse},
        .attrs = {TSR_ATTR_INT("heads", H), TSR_ATTR_INT("kv_heads", G)}};

    run_op(&reference, &forward);
    run_op(&reference, &(op_call){"attention_grad", .in = {&qkv, &y, &lse, &dy},
                                  .out = {&dqkv},
                                  .attrs = {TSR_ATTR_INT("heads", H),
                                            TSR_ATTR_INT("kv_heads", G)}});
    check_op(&forward, &dy, &qkv, &dqkv, "attention");
    FREE(&qkv, &y, &lse, &dy, &dqkv);
}

static void check_gelu(void) {
    tensor x = RANDOM(40), y = ZEROS(40), dy = RANDOM(40), dx = ZEROS(40);
    for (int64_t i = 0; i < tensor_count(&x); i++)
        x.data[i] *= 4;
    run_op(&reference, &(op_call){"gelu_grad", .in = {&x, &dy}, .out = {&dx}});
    check_op(&(op_call){"gelu", .in = {&x}, .out = {&y}}, &dy, &x, &dx, "gelu");
    FREE(&x, &y, &dy, &dx);
}

static void check_add(void) {
    tensor a = RANDOM(9), b = RANDOM(9), y = ZEROS(9), dy = RANDOM(9);
    const op_call forward = {"add", .in = {&a, &b}, .out = {&y}};
    check_op(&forward, &dy, &a, &dy, "add a");
    check_op(&forward, &dy, &b, &dy, "add b");
    FREE(&a, &b, &y, &dy);
}

static void check_cross_entropy(void) {
    tensor logits = RANDOM(2, 3, 11), targets = INTS(2, 3), loss = ZEROS(1);
    tensor out = ZEROS(1), lse = ZEROS(2, 3), dlogits = ZEROS(2, 3, 11);
    tensor one = ZEROS(1);
    const tsr_attr vocab = TSR_ATTR_INT("vocab", 9); /* two are padding */
    const tsr_attr scale = TSR_ATTR_REAL("scale", 0.3);
    const op_call forward = {"cross_entropy", .in = {&logits, &targets, &loss},
                             .out = {&out, &lse}, .attrs = {vocab, scale},
                             .over = {3}};
    tensor_set(&targets, 0.0, 8.0, -1.0, 4.0, -7.0, 4.0); /* two are ignored */
    tensor_set(&one, 1.0);

    run_op(&reference, &forward);
    run_op(&reference,
           &(op_call){"cross_entropy_grad", .in = {&logits, &targets, &lse},
                      .out = {&dlogits}, .attrs = {vocab, scale}});
    check_op(&forward, &one, &logits, &dlogits, "cross_entropy");
    FREE(&logits, &targets, &loss, &out, &lse, &dlogits, &one);
}

/* Appends y = cast(x) and its backward to an empty graph; returns the node
 * that makes dx of dy. */
static const tsr_node *cast_backward(tsr_graph *graph, tsr_dtype from,
                                     tsr_dtype to) {
    const tsr_type x_type = {.dtype = from, .dims = 1, .shape = {4}},
                   y_type = {.dtype = to, .dims = 1, .shape = {4}};
    const bool wanted = true;
    tsr_value_id dx = TSR_NO_VALUE,
                 x = tsr_graph_declare(graph, "x", TSR_ROLE_INPUT, &x_type),
                 dy = tsr_graph_declare(graph, "dy", TSR_ROLE_INPUT, &y_type),
                 y = tsr_graph_node(graph, "cast", &x, 1,
                                    &TSR_ATTR_INT("dtype", to), 1, NULL);
    const tsr_op *op = tsr_graph_op(
        graph, tsr_graph_node_at(graph, tsr_graph_value(graph, y)->producer));
    CHECK_OK(op->vjp(&(tsr_vjp){.graph = graph,
                                .view = {.op = op,
                                         .inputs = &x_type,
                                         .input_count = 1,
                                         .outputs = &y_type,
                                         .output_count = 1},
                                .inputs = &x,
                                .outputs = &y,
                                .out_grads = &dy,
                                .wanted = &wanted,
                                .in_grads = &dx}));
    CHECK(tsr_has_value(dx) &&
          tsr_type_equal(&tsr_graph_value(graph, dx)->type, &x_type));
    const tsr_node *back =
        tsr_graph_node_at(graph, tsr_graph_value(graph, dx)->producer);
    CHECK(tsr_node_is(graph, back, "cast") &&
          tsr_graph_inputs(graph, back)[0].index == dy.index);
    return back;
}

/* The gradient that autodiff makes of dy. */
static void run_cast_backward(const runner *floats, const tensor *dy,
                              tensor *dx) {
    tsr_op_table *ops;
    tsr_graph *graph;
    CHECK_OK(tsr_op_table_create(&ops));
    CHECK_OK(tsr_graph_create(ops, &graph));
    const tsr_node *back = cast_backward(graph, dx->type.dtype, dy->type.dtype);
    run_op(floats, &(op_call){"cast", .in = {dy}, .out = {dx},
                              .attrs = {tsr_graph_attrs(graph, back)[0]}});
    tsr_graph_release(graph);
    tsr_op_table_release(ops);
}

/* y = cast(x) is a staircase of slope 1: dx is dy, rounded to y's type and to
 * x's; exactly dy between floats, and to any float. By the kernels of floats:
 * cast knows no doubles. */
static void check_cast(const runner *floats, tsr_dtype from, tsr_dtype to) {
    /* Half a unit of the last place, relative. */
    static const double half_unit[TSR_DTYPE_COUNT] = {
        [TSR_BF16] = 0x1p-8, [TSR_F16] = 0x1p-11};
    const int64_t shape[] = {64};
    tensor dy = tensor_of(to, 1, shape), dx = tensor_of(from, 1, shape);
    for (int64_t i = 0; i < tensor_count(&dy); i++) { /* what y's type holds */
        const float value = (float)random_real();
        dy.data[i] = (double)(to == TSR_BF16 ? tsr_from_bf16(tsr_to_bf16(value))
                              : to == TSR_F16 ? tsr_from_f16(tsr_to_f16(value))
                                              : value);
    }
    run_cast_backward(floats, &dy, &dx);
    for (int64_t i = 0; i < tensor_count(&dx); i++) {
        /* Below 2^-14 the units of f16 are all 2^-24. */
        const double least = from == TSR_F16 ? 0x1p-25 : 0;
        CHECK_MESSAGE(fabs(dx.data[i] - dy.data[i]) <=
                          half_unit[from] * fabs(dy.data[i]) + least,
                      "gradient of %s to %s: %.9g of %.9g",
                      tsr_dtype_name(from), tsr_dtype_name(to), dx.data[i],
                      dy.data[i]);
    }
    FREE(&dy, &dx);
}

static void check_casts(void) {
    static const tsr_dtype reals[] = {TSR_F32, TSR_BF16, TSR_F16};
    const runner floats = ref_runner(reference.device);
    for (int from = 0; from < 3; from++)
        for (int to = 0; to < 3; to++)
            check_cast(&floats, reals[from], reals[to]);
}

/* ---- a chain of every op: one transformer block ---- */

enum { B = 2, T = 4, C = 6, V = 9, PADDED = 11, P = 5, H = 3 };

typedef struct chain {
    tensor tokens, targets;
    tensor wte, wpe, ln_w, ln_b, qkv_w, qkv_b, proj_w, fc_w, fc_b, head_w;
    tensor x0, x1, h, mean, rstd, qkv, y, lse, x2, x3, f, g, x4, logits, zero,
        loss, row_lse;
} chain;

static const tsr_attr out_in = {.name = "weight_layout",
                                .integer = TSR_WEIGHT_OUT_IN};

static chain chain_create(void) {
    chain c = {INTS(B, T),         INTS(B, T),          RANDOM(V, C),
               RANDOM(P, C),       RANDOM(C),           RANDOM(C),
               RANDOM(C, 3 * C),   RANDOM(3 * C),       RANDOM(C, C),
               RANDOM(2 * C, C),   RANDOM(2 * C),       RANDOM(PADDED, 2 * C),
               ZEROS(B, T, C),     ZEROS(B, T, C),      ZEROS(B, T, C),
               ZEROS(B, T),        ZEROS(B, T),         ZEROS(B, T, 3 * C),
               ZEROS(B, T, C),     ZEROS(B, H, T),      ZEROS(B, T, C),
               ZEROS(B, T, C),     ZEROS(B, T, 2 * C),  ZEROS(B, T, 2 * C),
               ZEROS(B, T, 2 * C), ZEROS(B, T, PADDED), ZEROS(1),
               ZEROS(1),           ZEROS(B, T)};
    tensor_randomize_ints(&c.tokens, 0, V);
    tensor_randomize_ints(&c.targets, -1, V);
    return c;
}

static void chain_release(chain *c) {
    tensor *first = &c->tokens;
    for (size_t i = 0; i < sizeof *c / sizeof(tensor); i++)
        tensor_free(first + i);
}

static double chain_forward(void *context) {
    chain *c = context;
    run_op(&reference, &(op_call){"embedding", .in = {&c->tokens, &c->wte},
                                  .out = {&c->x0}});
    run_op(&reference, &(op_call){"position_add", .in = {&c->x0, &c->wpe},
                                  .out = {&c->x1}});
    run_op(&reference,
           &(op_call){"layer_norm", .in = {&c->x1, &c->ln_w, &c->ln_b},
                      .out = {&c->h, &c->mean, &c->rstd},
                      .attrs = {TSR_ATTR_REAL("eps", 1e-5)}});
    run_op(&reference, &(op_call){"linear", .in = {&c->h, &c->qkv_w, &c->qkv_b},
                                  .out = {&c->qkv}});
    run_op(&reference,
           &(op_call){"attention", .in = {&c->qkv}, .out = {&c->y, &c->lse},
                      .attrs = {TSR_ATTR_INT("heads", H),
                                TSR_ATTR_INT("kv_heads", H)}});
    run_op(&reference,
           &(op_call){"linear", .in = {&c->y, &c->proj_w}, .out = {&c->x2}});
    run_op(&reference,
           &(op_call){"add", .in = {&c->x1, &c->x2}, .out = {&c->x3}});
    run_op(&reference, &(op_call){"linear", .in = {&c->x3, &c->fc_w, &c->fc_b},
                                  .out = {&c->f}, .attrs = {out_in}});
    run_op(&reference, &(op_call){"gelu", .in = {&c->f}, .out = {&c->g}});
    run_op(&reference, &(op_call){"linear", .in = {&c->g, &c->head_w},
                                  .out = {&c->logits}, .attrs = {out_in}});
    run_op(&reference,
           &(op_call){"cross_entropy",
                      .in = {&c->logits, &c->targets, &c->zero},
                      .out = {&c->loss, &c->row_lse},
                      .attrs = {TSR_ATTR_INT("vocab", V),
                                TSR_ATTR_REAL("scale", 1.0 / (B * T))},
                      .over = {3}});
    return c->loss.data[0];
}

/* Gradients into `d`, whose tensors have the shapes of c's. */
static void chain_backward(chain *c, chain *d) {
    run_op(&reference,
           &(op_call){"cross_entropy_grad",
                      .in = {&c->logits, &c->targets, &c->row_lse},
                      .out = {&d->logits},
                      .attrs = {TSR_ATTR_INT("vocab", V),
                                TSR_ATTR_REAL("scale", 1.0 / (B * T))}});
    run_op(&reference,
           &(op_call){"linear_grad_weight", .in = {&c->g, &d->logits},
                      .out = {&d->head_w}, .attrs = {out_in}});
    run_op(&reference,
           &(op_call){"linear_grad_input", .in = {&d->logits, &c->head_w},
                      .out = {&d->g}, .attrs = {out_in}});
    run_op(&reference, &(op_call){"gelu_grad", .in = {&c->f, &d->g},
                                  .out = {&d->f}, .over = {2}});
    run_op(&reference, &(op_call){"linear_grad_weight", .in = {&c->x3, &d->f},
                                  .out = {&d->fc_w}, .attrs = {out_in}});
    run_op(&reference,
           &(op_call){"bias_grad", .in = {&d->f}, .out = {&d->fc_b}});
    run_op(&reference, &(op_call){"linear_grad_input", .in = {&d->f, &c->fc_w},
                                  .out = {&d->x3}, .attrs = {out_in}});
    run_op(&reference, &(op_call){"linear_grad_weight", .in = {&c->y, &d->x3},
                                  .out = {&d->proj_w}});
    run_op(&reference, &(op_call){"linear_grad_input",
                                  .in = {&d->x3, &c->proj_w}, .out = {&d->y}});
    run_op(&reference,
           &(op_call){"attention_grad", .in = {&c->qkv, &c->y, &c->lse, &d->y},
                      .out = {&d->qkv},
                      .attrs = {TSR_ATTR_INT("heads", H),
                                TSR_ATTR_INT("kv_heads", H)}});
    run_op(&reference, &(op_call){"linear_grad_weight", .in = {&c->h, &d->qkv},
                                  .out = {&d->qkv_w}});
    run_op(&reference,
           &(op_call){"bias_grad", .in = {&d->qkv}, .out = {&d->qkv_b}});
    run_op(&reference, &(op_call){"linear_grad_input",
                                  .in = {&d->qkv, &c->qkv_w}, .out = {&d->h}});
    run_op(
        &reference,
        &(op_call){"layer_norm_grad",
                   .in = {&c->x1, &c->ln_w, &c->mean, &c->rstd, &d->h, &d->x3},
                   .out = {&d->x1, &d->ln_w, &d->ln_b}, .over = {6}});
    run_op(&reference,
           &(op_call){"position_grad", .in = {&d->x1}, .out = {&d->wpe}});
    run_op(&reference, &(op_call){"embedding_grad", .in = {&c->tokens, &d->x1},
                                  .out = {&d->wte}});
}

static void check_chain(void) {
    chain c = chain_create(), d = chain_create();
    chain_forward(&c);
    chain_backward(&c, &d);
#define CHECK_PARAMETER(name)                                                  \
    check_gradient(chain_forward, &c, &c.name, &d.name, "chain " #name)
    CHECK_PARAMETER(wte);
    CHECK_PARAMETER(wpe);
    CHECK_PARAMETER(ln_w);
    CHECK_PARAMETER(ln_b);
    CHECK_PARAMETER(qkv_w);
    CHECK_PARAMETER(qkv_b);
    CHECK_PARAMETER(proj_w);
    CHECK_PARAMETER(fc_w);
    CHECK_PARAMETER(fc_b);
    CHECK_PARAMETER(head_w);
    chain_release(&c);
    chain_release(&d);
}

/* ---- all rows ---- */

static void check_linears(void) {
    check_linear(TSR_WEIGHT_IN_OUT);
    check_linear(TSR_WEIGHT_OUT_IN);
}

static void check_attentions(void) {
    check_attention(3, 3);
    check_attention(4, 2);
    check_attention(3, 1);
}

static const struct row_case {
    const char *op;
    void (*check)(void);
} row_cases[] = {{"embedding", check_embedding},
                 {"position_add", check_position},
                 {"layer_norm", check_layer_norm},
                 {"linear", check_linears},
                 {"attention", check_attentions},
                 {"gelu", check_gelu},
                 {"add", check_add},
                 {"cast", check_casts},
                 {"cross_entropy", check_cross_entropy}};

/* Every row with a gradient has a case. */
static void check_rows(void) {
    const size_t count = sizeof row_cases / sizeof *row_cases;
    size_t with_gradient = 0;
    tsr_op_table *ops;
    CHECK_OK(tsr_op_table_create(&ops));
    for (int row = 0; row < tsr_op_table_count(ops); row++) {
        const tsr_op *op = tsr_op_table_row(ops, row);
        size_t i = 0;
        while (i < count && strcmp(row_cases[i].op, op->name) != 0)
            i++;
        CHECK_MESSAGE(!op->vjp || i < count, "no case of %s", op->name);
        with_gradient += op->vjp != NULL;
    }
    CHECK(with_gradient == count);
    tsr_op_table_release(ops);
    for (size_t i = 0; i < count; i++)
        row_cases[i].check();
}

int main(void) {
    tsr_device *device = device_with(1);
    reference = (runner){"ref in double", tsr_ref_kernels_double,
                         tsr_ref_kernel_count_double, device, sizeof(double)};

    check_rows();
    check_chain();
    tsr_device_release(device);
    return 0;
}
