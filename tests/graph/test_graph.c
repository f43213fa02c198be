/* Building graphs: errors stick and name things, rows of users, autodiff, and
 * every allocation failing once. */
#include "base/memory.h"
#include "graph/build.h"
#include "tessera/models.h"
#include "tessera/ops.h"
#include "tessera/passes.h"

static tsr_op_table *ops;

static const tsr_node *node_of(const tsr_graph *graph, tsr_value_id value) {
    return tsr_graph_node_at(graph, tsr_graph_value(graph, value)->producer);
}

/* ---- builder errors ---- */

/* The graph has failed so, stays as it was, and says so for ever. */
static void check_stuck(tsr_graph *graph, tsr_status expected,
                        const char *message) {
    int nodes = tsr_graph_node_count(graph),
        values = tsr_graph_value_count(graph),
        params = tsr_graph_param_count(graph);
    CHECK_FAILS(tsr_graph_status(graph), expected, message);
    CHECK(declare(graph, "later", "f32[1]").index < 0);
    CHECK(param(graph, "later.weight", "f32[0]").index < 0);
    CHECK(tsr_gelu(graph, (tsr_value_id){0}).index < 0);
    CHECK(tsr_graph_node(graph, "gulp", NULL, 0, NULL, 0, NULL).index < 0);
    tsr_graph_set_loss(graph, (tsr_value_id){99});
    CHECK(tsr_graph_loss(graph).index < 0);
    CHECK(tsr_graph_node_count(graph) == nodes &&
          tsr_graph_value_count(graph) == values &&
          tsr_graph_param_count(graph) == params);
    CHECK_FAILS(tsr_graph_status(graph), expected, message);
    CHECK_FAILS(tsr_graph_differentiate(graph), expected, message);
    tsr_graph_release(graph);
}

/* A graph with x f32 [2, 4] as value 0 and tokens i32 [2] as value 1. */
static tsr_graph *small_graph(void) {
    tsr_graph *graph = new_graph(ops);
    CHECK(declare(graph, "x", "f32[2,4]").index == 0);
    CHECK(declare(graph, "tokens", "i32[2]").index == 1);
    return graph;
}

static void test_declarations_stick(void) {
    static const struct {
        const char *name, *type, *message;
    } wrong[] = {
        {"x", "f32[1]", "the name 'x' is declared twice"},
        {"", "f32[1]", "a declared value needs a name"},
        {"a\"b", "f32[1]", "without quotes"},
        {"a\\b", "f32[1]", "without quotes"},
        {"a\nb", "f32[1]", "line ends"},
        {"y", "f32[2,0]", "'y': dimension 1 is 0"},
        {"y", "f32[-1]", "'y': dimension 0 is -1"},
        {"y", "f32[281474976710656,2]", "'y': dimension 1 is 2"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tsr_graph *graph = small_graph();
        CHECK(declare(graph, wrong[i].name, wrong[i].type).index < 0);
        check_stuck(graph, TSR_INVALID_ARGUMENT, wrong[i].message);
        graph = small_graph();
        CHECK(param(graph, wrong[i].name, wrong[i].type).index < 0);
        check_stuck(graph, TSR_INVALID_ARGUMENT, wrong[i].message);
    }
    tsr_graph *graph = small_graph();
    tsr_type type = {.dtype = TSR_F32, .dims = TSR_MAX_DIMS + 1};
    tsr_graph_declare(graph, "y", TSR_ROLE_STATE, &type);
    check_stuck(graph, TSR_INVALID_ARGUMENT, "'y' has an unknown dtype or");
    graph = small_graph();
    type = type_of("f32[1]");
    tsr_graph_declare(graph, "y", TSR_ROLE_PARAMETER, &type);
    check_stuck(graph, TSR_INVALID_ARGUMENT, "'y': only inputs, constants");
    graph = small_graph();
    tsr_graph_param(graph,
                    &(tsr_param){.name = "w", .type = type, .group = -1});
    check_stuck(graph, TSR_INVALID_ARGUMENT, "'w': group -1 is negative");
    graph = small_graph();
    tsr_graph_set_layer(graph, "a\"b");
    check_stuck(graph, TSR_INVALID_ARGUMENT, "a layer's name must be without");
}

static void test_nodes_stick(void) {
    tsr_value_id x = {0}, tokens = {1}, none = {-1};
    tsr_attr eps = TSR_ATTR_REAL("epsilon", 1),
             heads = TSR_ATTR_REAL("heads", 1);
    tsr_graph *graph = small_graph();
    tsr_graph_node(graph, "gulp", &x, 1, NULL, 0, NULL);
    check_stuck(graph, TSR_NOT_FOUND, "op 'gulp' is not in the op table");
    graph = small_graph();
    tsr_graph_node(graph, "add", &x, 1, NULL, 0, NULL);
    check_stuck(graph, TSR_INVALID_ARGUMENT, "add: 1 inputs do not fit a[...]");
    graph = small_graph();
    tsr_add(graph, none, x);
    check_stuck(graph, TSR_INVALID_ARGUMENT, "operand 0 is no value");
    graph = small_graph();
    tsr_add(graph, x, (tsr_value_id){2});
    check_stuck(graph, TSR_INVALID_ARGUMENT, "operand 1 is no value");
    graph = small_graph();
    tsr_graph_node(graph, "gelu", &x, 1, &eps, 1, NULL);
    check_stuck(graph, TSR_INVALID_ARGUMENT,
                "gelu: attribute 'epsilon' is unknown or of the wrong kind");
    graph = small_graph();
    tsr_graph_node(graph, "attention", &x, 1, &heads, 1, NULL);
    check_stuck(graph, TSR_INVALID_ARGUMENT, "attention: attribute 'heads'");
    graph = small_graph();
    tsr_gelu(graph, tokens);
    check_stuck(graph, TSR_INVALID_ARGUMENT,
                "gelu: x[...] -> y[...]: x must be f32");
    graph = small_graph();
    tsr_graph_set_loss(graph, x);
    check_stuck(graph, TSR_INVALID_ARGUMENT, "the loss must be one f32 value");
    graph = small_graph();
    CHECK(tsr_graph_find(graph, "tokens").index == 1);
    CHECK(tsr_graph_find(graph, "nothing").index < 0);
    tsr_graph_release(graph);
    tsr_graph_release(NULL);
}

/* ---- the op table ---- */

static tsr_status double_infer(const tsr_op_view *view, tsr_type *outputs,
                               size_t *out_count) {
    outputs[0] = view->inputs[0];
    *out_count = 1;
    return TSR_OK;
}

/* y = 2 x: dx = 2 dy, added to what there is. */
static tsr_status double_vjp(const tsr_vjp *vjp) {
    if (!vjp->wanted[0])
        return TSR_OK;
    tsr_value_id part =
        tsr_graph_node(vjp->graph, "double", vjp->out_grads, 1, NULL, 0, NULL);
    vjp->in_grads[0] = vjp->in_grads[0].index < 0
                           ? part
                           : tsr_add(vjp->graph, part, vjp->in_grads[0]);
    return tsr_graph_status(vjp->graph);
}

static const tsr_op double_row = {.name = "double",
                                  .signature = "x[...] -> y[...]",
                                  .min_inputs = 1,
                                  .max_inputs = 1,
                                  .outputs = 1,
                                  .infer = double_infer,
                                  .vjp = double_vjp};

static void test_op_table(void) {
    tsr_op_table *table;
    tsr_op row = double_row;
    CHECK_OK(tsr_op_table_create(&table));
    int count = tsr_op_table_count(table);
    CHECK_OK(tsr_op_table_add(table, &double_row));
    CHECK_FAILS(tsr_op_table_add(table, &double_row), TSR_INVALID_ARGUMENT,
                "op 'double' is in the table already");
    row.name = "gelu";
    CHECK_FAILS(tsr_op_table_add(table, &row), TSR_INVALID_ARGUMENT, "'gelu'");
    row.name = "";
    CHECK_FAILS(tsr_op_table_add(table, &row), TSR_INVALID_ARGUMENT, "a name");
    row.name = "half";
    row.outputs = TSR_MAX_OUTPUTS + 1;
    CHECK_FAILS(tsr_op_table_add(table, &row), TSR_INVALID_ARGUMENT,
                "op 'half' has 5 outputs, at most 4");
    row.infer = NULL;
    CHECK_FAILS(tsr_op_table_add(table, &row), TSR_INVALID_ARGUMENT, "infer");
    CHECK(tsr_op_table_count(table) == count + 1);
    CHECK(tsr_op_table_find(table, "double", 6) == count);
    CHECK(tsr_op_table_find(table, "doubles", 7) < 0);
    CHECK(tsr_op_table_find(table, "double", 5) < 0);
    CHECK(tsr_op_table_row(table, count)->vjp == double_vjp);
    CHECK(tsr_op_table_find(ops, "double", 6) < 0); /* tables are copies */

    tsr_graph *graph = new_graph(table);
    tsr_value_id x = declare(graph, "x", "f32[3]");
    tsr_value_id y = tsr_graph_node(graph, "double", &x, 1, NULL, 0, NULL);
    CHECK_OK(tsr_graph_status(graph));
    CHECK(tsr_graph_value(graph, y)->type.shape[0] == 3);
    tsr_graph_release(graph);
    tsr_op_table_release(table);
    tsr_op_table_release(NULL);
}

/* ---- autodiff ---- */

/* The loss of logits (n, 4). */
static void add_loss(tsr_graph *graph, tsr_value_id logits, int64_t rows) {
    tsr_type type = {.dtype = TSR_I32, .dims = 1, .shape = {rows}};
    tsr_value_id targets =
                     tsr_graph_declare(graph, "targets", TSR_ROLE_INPUT, &type),
                 loss = declare(graph, "loss", "f32[1]");
    tsr_graph_set_loss(graph,
                       tsr_cross_entropy(graph, logits, targets, loss, 4, 1));
}

/* The gradient of the nth parameter: its last full gradient. */
static tsr_value_id gradient_of(const tsr_graph *graph, int32_t nth) {
    tsr_value_id found = TSR_NO_VALUE;
    for (int32_t v = 0; v < tsr_graph_value_count(graph); v++) {
        const tsr_value *value = tsr_graph_value(graph, (tsr_value_id){v});
        if (value->role == TSR_ROLE_FULL_GRAD && value->param.index == nth)
            found.index = v;
    }
    CHECK(tsr_has_value(found));
    return found;
}

static int count_nodes(const tsr_graph *graph, const char *op) {
    int count = 0;
    for (int32_t n = 0; n < tsr_graph_node_count(graph); n++)
        count +=
            tsr_node_is(graph, tsr_graph_node_at(graph, (tsr_node_id){n}), op);
    return count;
}

static void test_user_vjp(void) {
    tsr_op_table *table;
    CHECK_OK(tsr_op_table_create(&table));
    CHECK_OK(tsr_op_table_add(table, &double_row));
    tsr_graph *graph = new_graph(table);
    tsr_value_id x = declare(graph, "x", "f32[2,3]"),
                 w = param(graph, "w", "f32[3,4]");
    tsr_graph_set_layer(graph, "twice");
    w = tsr_graph_node(graph, "double", &w, 1, NULL, 0, NULL);
    tsr_graph_set_layer(graph, "");
    add_loss(graph, tsr_linear(graph, x, w, TSR_NO_VALUE, TSR_WEIGHT_IN_OUT),
             2);
    CHECK_OK(tsr_graph_differentiate(graph));
    tsr_value_id grad = gradient_of(graph, 0);
    const tsr_node *node = node_of(graph, grad);
    CHECK(tsr_node_is(graph, node, "double") && node->phase == TSR_BACKWARD &&
          strcmp(node->layer, "twice") == 0);
    CHECK(tsr_node_is(graph, node_of(graph, tsr_graph_inputs(graph, node)[0]),
                      "linear_grad_weight"));
    CHECK(tsr_graph_value(graph, grad)->type.shape[1] == 4);
    /* x leads to no parameter, so nobody asks for its gradient. */
    CHECK(count_nodes(graph, "linear_grad_input") == 0);
    tsr_graph_release(graph);
    tsr_op_table_release(table);
}

/* A weight used by two layers: the second part is added to the first in place,
 * and both are full gradients of it. */
static void test_shared_parameter(void) {
    tsr_graph *graph = new_graph(ops);
    tsr_value_id x = declare(graph, "x", "f32[2,4]"),
                 w = param(graph, "w", "f32[4,4]"),
                 b = param(graph, "b", "f32[4]");
    x = tsr_gelu(graph, tsr_linear(graph, x, w, b, TSR_WEIGHT_IN_OUT));
    add_loss(graph, tsr_linear(graph, x, w, b, TSR_WEIGHT_IN_OUT), 2);
    CHECK_OK(tsr_graph_differentiate(graph));
    for (int32_t p = 0; p < 2; p++) {
        tsr_value_id grad = gradient_of(graph, p);
        const tsr_node *last = node_of(graph, grad);
        tsr_value_id part = tsr_graph_must_alias(graph, last, 0);
        CHECK(tsr_has_value(part));
        CHECK(tsr_graph_value(graph, part)->role == TSR_ROLE_FULL_GRAD &&
              tsr_graph_value(graph, part)->param.index == p);
        CHECK(!tsr_has_value(
            tsr_graph_must_alias(graph, node_of(graph, part), 0)));
    }
    tsr_graph_release(graph);
}

/* p + q would give both one gradient, to be reduced twice. */
/* y = l + l: the gradient of l is dy + dy. */
static void test_value_taken_twice(void) {
    tsr_graph *graph = new_graph(ops);
    tsr_value_id x = declare(graph, "x", "f32[2,4]"),
                 w = param(graph, "w", "f32[4,4]");
    tsr_value_id l =
        tsr_linear(graph, x, w, (tsr_value_id){-1}, TSR_WEIGHT_IN_OUT);
    add_loss(graph, tsr_add(graph, l, l), 2);
    CHECK_OK(tsr_graph_differentiate(graph));
    const tsr_node *weight_grad = node_of(graph, gradient_of(graph, 0));
    tsr_value_id dl = tsr_graph_inputs(graph, weight_grad)[1];
    const tsr_node *sum = node_of(graph, dl);
    CHECK(strcmp(tsr_graph_op(graph, sum)->name, "add") == 0);
    const tsr_value_id *parts = tsr_graph_inputs(graph, sum);
    CHECK(parts[0].index == parts[1].index);
    CHECK(strcmp(tsr_graph_op(graph, node_of(graph, parts[0]))->name,
                 "cross_entropy_grad") == 0);
    tsr_graph_release(graph);
}

static void test_parameters_added(void) {
    tsr_graph *graph = new_graph(ops);
    tsr_value_id p = param(graph, "p", "f32[2,4]");
    add_loss(graph, tsr_add(graph, p, param(graph, "q", "f32[2,4]")), 2);
    CHECK_FAILS(tsr_graph_differentiate(graph), TSR_UNSUPPORTED,
                "parameters 'q' and 'p' share one gradient");
    tsr_graph_release(graph);
}

static void test_autodiff_errors(void) {
    tsr_graph *graph = new_graph(ops);
    CHECK_FAILS(tsr_graph_differentiate(graph), TSR_INVALID_ARGUMENT,
                "no loss");
    tsr_graph_set_loss(graph, declare(graph, "loss", "f32[1]"));
    CHECK_FAILS(tsr_graph_differentiate(graph), TSR_INVALID_ARGUMENT,
                "no loss that a node makes");
    tsr_graph_release(graph);

    graph = new_graph(ops);
    param(graph, "lonely.weight", "f32[4]");
    add_loss(graph, param(graph, "p", "f32[2,4]"), 2);
    CHECK_FAILS(tsr_graph_differentiate(graph), TSR_INVALID_ARGUMENT,
                "does not depend on parameter 'lonely.weight'");
    tsr_graph_release(graph);

    graph = new_graph(ops);
    tsr_value_id p = param(graph, "p", "f32[2,4]");
    tsr_graph_set_layer(graph, "h.7");
    p = tsr_graph_node(graph, "gelu_grad", (tsr_value_id[]){p, p}, 2, NULL, 0,
                       NULL);
    add_loss(graph, p, 2);
    CHECK_FAILS(tsr_graph_differentiate(graph), TSR_UNSUPPORTED,
                "op 'gelu_grad' (layer 'h.7') lies between");
    tsr_graph_release(graph);

    graph = new_graph(ops);
    p = param(graph, "p", "f32[1,2,4]");
    tsr_value_id position = declare(graph, "position", "i32[1]"),
                 w = param(graph, "w", "f32[8,4]");
    add_loss(graph, tsr_position_add(graph, p, w, position), 2);
    CHECK_FAILS(tsr_graph_differentiate(graph), TSR_INVALID_ARGUMENT,
                "position_add has no gradient when it is given a position");
    tsr_graph_release(graph);
}

/* ---- allocations ---- */

static tsr_status build_and_compile(bool alias, tsr_plan **out_plan) {
    static const tsr_gpt_config config = {.layers = 1,
                                          .heads = 2,
                                          .dim = 4,
                                          .vocab = 5,
                                          .seq = 4,
                                          .norm_eps = 1e-5};
    static const tsr_training training = {.micro_steps = 2};
    tsr_target target = {.world = 2, .shared = alias, .gather_alias = alias};
    tsr_graph *graph;
    *out_plan = NULL;
    TSR_TRY(tsr_graph_create(ops, &graph));
    tsr_status status = tsr_gpt_build(graph, &config, 1, 4, 1);
    if (status != TSR_OK)
        tsr_graph_release(graph);
    else
        status = tsr_compile_training(graph, &target, &training, out_plan);
    return status;
}

/* Whichever allocation fails between the empty graph and the plan, the caller
 * hears of it and nothing is kept (the leak sanitizer looks). */
static void test_allocation_failures(bool alias) {
    long failures = 0;
    for (;; failures++) {
        tsr_plan *plan = (tsr_plan *)&ops; /* anything but NULL */
        tsr_alloc_fail_at(failures + 1);
        tsr_status status = build_and_compile(alias, &plan);
        tsr_alloc_fail_at(0);
        if (status == TSR_OK) {
            tsr_plan_release(plan);
            break;
        }
        CHECK_MESSAGE(status == TSR_OUT_OF_MEMORY, "allocation %ld: %s: %s",
                      failures + 1, tsr_status_name(status), tsr_last_error());
        CHECK(plan == NULL);
    }
    CHECK(failures > 300);
}

static void test_table_allocation_failures(void) {
    for (long n = 1;; n++) {
        tsr_op_table *table = ops;
        tsr_alloc_fail_at(n);
        tsr_status status = tsr_op_table_create(&table);
        tsr_alloc_fail_at(0);
        if (status == TSR_OK) {
            tsr_op_table_release(table);
            CHECK(n > 2);
            return;
        }
        CHECK(status == TSR_OUT_OF_MEMORY && table == NULL);
    }
}

int main(void) {
    CHECK_OK(tsr_op_table_create(&ops));
    test_declarations_stick();
    test_nodes_stick();
    test_op_table();
    test_user_vjp();
    test_shared_parameter();
    test_value_taken_twice();
    test_parameters_added();
    test_autodiff_errors();
    test_table_allocation_failures();
    test_allocation_failures(true);
    test_allocation_failures(false);
    tsr_op_table_release(ops);
    return 0;
}
