/* Inference of every op: operands that fit, and each one not fitting once. */
#include "graph/build.h"

static tsr_op_table *ops;

#define MOST_INPUTS 7

/* Attributes in a constant table. */
#define INT(attr, value)                                                       \
    { .name = (attr), .integer = (value) }
#define REAL(attr, value)                                                      \
    { .name = (attr), .is_real = true, .real = (value) }

/* Operands that fit, and for each one that does not, with what is said. */
static const struct op_case {
    const char *op;
    tsr_attr attrs[2];
    const char *types[MOST_INPUTS];
    const char *wrong[MOST_INPUTS], *messages[MOST_INPUTS];
} op_cases[] = {
    {"embedding",
     {{0}},
     {"i32[2,4]", "f32[11,8]"},
     {"f32[2,4]", "f32[11]"},
     {"tokens must be i32", "the weight must be f32 or bf16 [V, C]"}},
    {"embedding_grad",
     {INT("rows", 11)},
     {"i32[2,4]", "f32[2,4,8]", "f32[11,8]"},
     {"i32[2,3]", "f32[8]", "f32[10,8]"},
     {"dy needs one row a token", "dy must be f32 or bf16 [..., C]",
      "the accumulator is not like the weight"}},
    {"position_add",
     {{0}},
     {"f32[2,4,8]", "f32[16,8]", "i32[1]"},
     {"f32[2,17,8]", "f32[16,7]", "f32[1]"},
     {"17 tokens do not fit 16 positions", "the weight must be f32 [P, 8]",
      "position must be i32 [1]"}},
    {"position_grad",
     {INT("rows", 16)},
     {"f32[2,4,8]", "f32[16,8]"},
     {"f32[2,17,8]", "f32[16,7]"},
     {"with T <= rows", "the accumulator is not like the weight"}},
    {"layer_norm",
     {REAL("eps", 1e-5)},
     {"f32[2,4,8]", "f32[8]", "f32[8]"},
     {"i32[2,4,8]", "f32[7]", "i32[8]"},
     {"x must be f32", "weight and bias must be f32 [8]",
      "weight and bias must be f32 [8]"}},
    {"layer_norm_grad",
     {{0}},
     {"f32[2,4,8]", "f32[8]", "f32[2,4]", "f32[2,4]", "f32[2,4,8]",
      "f32[2,4,8]"},
     {"bf16[2,4,8]", "f32[7]", "f32[2,3]", "f32[8]", "f32[2,4,7]", "f32[8]"},
     {"do not fit x", "do not fit x", "do not fit x", "do not fit x",
      "do not fit x", "do not fit x"}},
    {"linear",
     {INT("weight_layout", 0)},
     {"f32[2,4,8]", "f32[8,16]", "f32[16]"},
     {"f32[2,4,7]", "f32[8]", "f32[15]"},
     {"x has 7 features, the weight takes 8",
      "the weight must be f32 or bf16 with 2 dimensions",
      "the bias must be f32 [16]"}},
    {"linear_grad_input",
     {INT("weight_layout", 1)},
     {"f32[2,4,16]", "f32[16,8]", "f32[2,4,8]"},
     {"f32[2,4,15]", "i32[16,8]", "f32[2,4,9]"},
     {"dy has 15 features, the weight gives 16", "the weight must be f32",
      "the accumulator is not like dx"}},
    {"linear_grad_weight",
     {{0}},
     {"f32[2,4,8]", "f32[2,4,16]", "f32[8,16]"},
     {"f32[2,3,8]", "i32[2,4,16]", "f32[16,8]"},
     {"with as many rows", "x and dy must be f32",
      "the accumulator is not like the weight"}},
    {"bias_grad",
     {{0}},
     {"f32[2,4,16]", "f32[16]"},
     {"i32[2,4,16]", "f32[15]"},
     {"dy must be f32", "the accumulator is not like the bias"}},
    {"attention",
     {INT("heads", 2), INT("kv_heads", 1)},
     {"f32[2,4,16]"},
     {"f32[2,4,15]"},
     {"qkv must be f32 or bf16 [B, T, (2 + 2 * 1) * D]"}},
    {"attention_grad",
     {INT("heads", 2)},
     {"f32[2,4,24]", "f32[2,4,8]", "f32[2,2,4]", "f32[2,4,8]"},
     {"f32[4,24]", "f32[2,4,7]", "f32[2,4,2]", "i32[2,4,8]"},
     {"qkv must be f32", "do not fit qkv", "do not fit qkv", "do not fit qkv"}},
    {"attention_cached",
     {INT("heads", 2), INT("kv_heads", 1)},
     {"f32[1,1,16]", "f32[1,1,6,4]", "f32[1,1,6,4]", "i32[1]"},
     {"f32[1,2,16]", "f32[1,2,6,4]", "f32[1,1,7,4]", "i32[2]"},
     {"one token at a time", "the caches must be f32 [1, 1, P, 4]",
      "the caches must be f32 [1, 1, P, 4]", "position must be i32 [1]"}},
    {"gelu", {{0}}, {"f32[4]"}, {"i32[4]"}, {"x must be f32"}},
    {"gelu_grad",
     {{0}},
     {"f32[4]", "f32[4]"},
     {"f32[3]", "i32[4]"},
     {"both inputs must be f32, or both bf16, of one shape",
      "both inputs must be f32"}},
    {"add",
     {{0}},
     {"f32[2,4]", "f32[2,4]"},
     {"f32[4,2]", "f32[8]"},
     {"both inputs must be f32, or both bf16, of one shape",
      "both inputs must be f32"}},
    {"cast",
     {INT("dtype", TSR_BF16)},
     {"f32[2,4]"},
     {"i32[2,4]"},
     {"x and the attribute dtype must be f32, bf16 or f16"}},
    {"store",
     {{0}},
     {"i32[4]", "i32[4]"},
     {"f32[4]", "i32[5]"},
     {"x and state must be of one type", "x and state must be of one type"}},
    {"cross_entropy",
     {INT("vocab", 11), REAL("scale", 1)},
     {"f32[2,4,12]", "i32[2,4]", "f32[1]"},
     {"i32[2,4,12]", "i32[2,3]", "f32[2]"},
     {"logits must be f32 or bf16 [..., V]", "targets must be i32, one a row",
      "the loss must be f32 [1]"}},
    {"cross_entropy_grad",
     {INT("vocab", 11)},
     {"f32[2,4,12]", "i32[2,4]", "f32[2,4]"},
     {"f32[2,4,10]", "f32[2,4]", "f32[8]"},
     {"vocab is 11, must be in [1, 10]", "targets must be i32, one a row",
      "lse must be f32, one a row"}},
    {"adamw",
     {REAL("eps", 1e-8)},
     {"f32[6]", "f32[6]", "f32[6]", "f32[6]", "f32[2]", "f32[1]"},
     {"bf16[6]", "f32[5]", "f32[6,1]", "i32[6]", "f32[1]", "f32[2]"},
     {"of one shape", "of one shape", "of one shape", "of one shape",
      "schedule must be f32 [2]", "clip must be f32 [1]"}},
    {"sum", {{0}}, {"f32[3]"}, {"i32[3]"}, {"every input must be f32"}},
    {"clip_scale",
     {REAL("max_norm", 1)},
     {"f32[1]", "f32[1]"},
     {"f32[2]", "i32[1]"},
     {"square_sum and norm must be f32 [1]", "square_sum and norm must be"}},
    {"reduce",
     {INT("accumulate", 0)},
     {"f32[4,4]", "f32[8]", "f32[1]"},
     {"i32[4,4]", "f32[8,1]", "f32[2]"},
     {"gradient 0 must be f32 or bf16", "its flat shard f32",
      "square_sum must be f32 [1]"}},
    /* bf16: all of a node alike, but for statistics and what is kept */
    {"embedding_grad",
     {INT("rows", 11)},
     {"i32[2,4]", "bf16[2,4,8]", "bf16[11,8]"},
     {"i32[2,3]", "f16[2,4,8]", "f32[11,8]"},
     {"dy needs one row a token", "dy must be f32 or bf16",
      "the accumulator is not like the weight"}},
    {"position_add",
     {{0}},
     {"bf16[2,4,8]", "bf16[16,8]", "i32[1]"},
     {"f16[2,4,8]", "f32[16,8]"},
     {"x must be f32 or bf16", "the weight must be bf16 [P, 8]"}},
    {"position_grad",
     {INT("rows", 16)},
     {"bf16[2,4,8]", "bf16[16,8]"},
     {"f16[2,4,8]", "f32[16,8]"},
     {"dy must be f32 or bf16", "the accumulator is not like the weight"}},
    {"layer_norm",
     {REAL("eps", 1e-5)},
     {"bf16[2,4,8]", "bf16[8]", "bf16[8]"},
     {"f32[2,4,8]", "f32[8]", "f32[8]"},
     {"weight and bias must be f32 [8]", "weight and bias must be bf16 [8]",
      "weight and bias must be bf16 [8]"}},
    {"layer_norm_grad",
     {{0}},
     {"bf16[2,4,8]", "bf16[8]", "f32[2,4]", "f32[2,4]", "bf16[2,4,8]",
      "bf16[2,4,8]"},
     {"f32[2,4,8]", "f32[8]", "bf16[2,4]", "bf16[2,4]", "f32[2,4,8]",
      "f32[2,4,8]"},
     {"do not fit x", "do not fit x", "do not fit x", "do not fit x",
      "do not fit x", "do not fit x"}},
    {"linear",
     {INT("weight_layout", 0)},
     {"bf16[2,4,8]", "bf16[8,16]", "bf16[16]"},
     {"f32[2,4,8]", "f16[8,16]", "f32[16]"},
     {"x is f32, the weight bf16", "the weight must be f32 or bf16",
      "the bias must be bf16 [16]"}},
    {"linear_grad_input",
     {INT("weight_layout", 1)},
     {"bf16[2,4,16]", "bf16[16,8]", "bf16[2,4,8]"},
     {"f32[2,4,16]", "f32[16,8]", "f32[2,4,8]"},
     {"dy is f32, the weight bf16", "dy is bf16, the weight f32",
      "the accumulator is not like dx"}},
    {"linear_grad_weight",
     {{0}},
     {"bf16[2,4,8]", "bf16[2,4,16]", "bf16[8,16]"},
     {"f32[2,4,8]", "f32[2,4,16]", "f32[8,16]"},
     {"or both bf16", "or both bf16",
      "the accumulator is not like the weight"}},
    {"bias_grad",
     {{0}},
     {"bf16[2,4,16]", "bf16[16]"},
     {"f16[2,4,16]", "f32[16]"},
     {"dy must be f32 or bf16", "the accumulator is not like the bias"}},
    {"attention",
     {INT("heads", 2), INT("kv_heads", 1)},
     {"bf16[2,4,16]"},
     {"f16[2,4,16]"},
     {"qkv must be f32 or bf16"}},
    {"attention_grad",
     {INT("heads", 2)},
     {"bf16[2,4,24]", "bf16[2,4,8]", "f32[2,2,4]", "bf16[2,4,8]"},
     {"f32[2,4,24]", "f32[2,4,8]", "bf16[2,2,4]", "f32[2,4,8]"},
     {"do not fit qkv", "do not fit qkv", "do not fit qkv", "do not fit qkv"}},
    {"attention_cached",
     {INT("heads", 2), INT("kv_heads", 1)},
     {"bf16[1,1,16]", "bf16[1,1,6,4]", "bf16[1,1,6,4]", "i32[1]"},
     {"f32[1,1,16]", "f32[1,1,6,4]", "f32[1,1,6,4]"},
     {"the caches must be f32 [1, 1, P, 4]",
      "the caches must be bf16 [1, 1, P, 4]",
      "the caches must be bf16 [1, 1, P, 4]"}},
    {"gelu", {{0}}, {"bf16[4]"}, {"f16[4]"}, {"x must be f32 or bf16"}},
    {"gelu_grad",
     {{0}},
     {"bf16[4]", "bf16[4]"},
     {"f32[4]", "f32[4]"},
     {"or both bf16", "or both bf16"}},
    {"add",
     {{0}},
     {"bf16[2,4]", "bf16[2,4]"},
     {"f32[2,4]", "f32[2,4]"},
     {"or both bf16", "or both bf16"}},
    {"cross_entropy",
     {INT("vocab", 11), REAL("scale", 1)},
     {"bf16[2,4,12]", "i32[2,4]", "f32[1]"},
     {"f16[2,4,12]", "i32[2,3]", "bf16[1]"},
     {"logits must be f32 or bf16", "targets must be i32, one a row",
      "the loss must be f32 [1]"}},
    {"cross_entropy_grad",
     {INT("vocab", 11)},
     {"bf16[2,4,12]", "i32[2,4]", "f32[2,4]"},
     {"f16[2,4,12]", "f32[2,4]", "bf16[2,4]"},
     {"logits must be f32 or bf16", "targets must be i32, one a row",
      "lse must be f32, one a row"}},
    {"adamw",
     {REAL("eps", 1e-8)},
     {"f32[6]", "f32[6]", "f32[6]", "f32[6]", "f32[2]", "f32[1]", "bf16[6]"},
     {"bf16[6]", "bf16[6]", "bf16[6]", "bf16[6]", "bf16[2]", "bf16[1]",
      "f32[6]"},
     {"of one shape", "of one shape", "of one shape", "of one shape",
      "schedule must be f32 [2]", "clip must be f32 [1]",
      "the twin must be bf16"}},
    {"reduce",
     {INT("accumulate", 0)},
     {"bf16[4,4]", "f32[8]", "f32[1]"},
     {"f16[4,4]", "bf16[8]", "bf16[1]"},
     {"gradient 0 must be f32 or bf16", "its flat shard f32",
      "square_sum must be f32 [1]"}},
};

/* Builds the node with input `wrong` (-1: none) not fitting. */
static void check_case(const struct op_case *at, int wrong) {
    tsr_graph *graph = new_graph(ops);
    tsr_value_id inputs[MOST_INPUTS];
    size_t inputs_given = 0, attrs = 0;
    for (; inputs_given < MOST_INPUTS && at->types[inputs_given];
         inputs_given++) {
        char name[8];
        int i = (int)inputs_given;
        snprintf(name, sizeof name, "x%d", i);
        inputs[i] =
            declare(graph, name, i == wrong ? at->wrong[i] : at->types[i]);
    }
    while (attrs < 2 && at->attrs[attrs].name)
        attrs++;
    tsr_value_id made = tsr_graph_node(graph, at->op, inputs, inputs_given,
                                       at->attrs, attrs, NULL);
    if (wrong < 0) {
        CHECK_OK(tsr_graph_status(graph));
        CHECK(made.index == (int)inputs_given);
    } else {
        CHECK(made.index < 0);
        CHECK_FAILS(tsr_graph_status(graph), TSR_INVALID_ARGUMENT,
                    at->messages[wrong]);
        CHECK(strncmp(tsr_last_error(), at->op, strlen(at->op)) == 0);
    }
    tsr_graph_release(graph);
}

/* Rows that order or move values take any; gather has a test of its own. */
static bool takes_anything(const tsr_op *op) {
    return (op->flags & (TSR_OP_ORDERING | TSR_OP_OFFLOADS | TSR_OP_RELOADS)) ||
           strncmp(op->name, "fence_", 6) == 0 ||
           strcmp(op->name, "all_reduce") == 0 ||
           strcmp(op->name, "gather") == 0;
}

static void test_inference(void) {
    size_t count = sizeof op_cases / sizeof *op_cases;
    for (size_t i = 0; i < count; i++) {
        check_case(&op_cases[i], -1);
        for (int wrong = 0; wrong < MOST_INPUTS && op_cases[i].wrong[wrong];
             wrong++)
            check_case(&op_cases[i], wrong);
    }
    for (int row = 0; row < tsr_op_table_count(ops); row++) {
        const tsr_op *op = tsr_op_table_row(ops, row);
        int inputs =
            op->flags & TSR_OP_VARIADIC ? op->min_inputs : op->max_inputs;
        bool wrong[MOST_INPUTS] = {false}, found = false;
        for (size_t i = 0; i < count; i++) {
            bool same = strcmp(op_cases[i].op, op->name) == 0;
            found = found || same;
            for (int k = 0; same && k < MOST_INPUTS; k++)
                wrong[k] = wrong[k] || op_cases[i].wrong[k];
        }
        CHECK_MESSAGE(found || takes_anything(op), "no case of %s", op->name);
        for (int k = 0; found && k < inputs; k++)
            CHECK_MESSAGE(wrong[k], "%s: no wrong input %d", op->name, k);
    }
}

/* One node over inputs of these types fails with this message. */
static void check_refused(const char *op, tsr_attr attr, const char *first,
                          const char *second, const char *message) {
    tsr_graph *graph = new_graph(ops);
    tsr_value_id inputs[2] = {declare(graph, "a", first),
                              declare(graph, "b", second)};
    tsr_graph_node(graph, op, inputs, 2, &attr, 1, NULL);
    CHECK_FAILS(tsr_graph_status(graph), TSR_INVALID_ARGUMENT, message);
    tsr_graph_release(graph);
}

static void test_attributes(void) {
    check_refused("linear", TSR_ATTR_INT("weight_layout", 2), "f32[4]",
                  "f32[4,4]", "weight_layout is 2, must be 0 or 1");
    check_refused("embedding_grad", TSR_ATTR_INT("rows", 0), "i32[2]",
                  "f32[2,4]", "rows is missing or not positive");
    check_refused("clip_scale", TSR_ATTR_REAL("max_norm", -1), "f32[1]",
                  "f32[1]", "max_norm must not be negative");
    check_refused("reduce", TSR_ATTR_INT("accumulate", 0), "f32[4]", "f32[4]",
                  "2 inputs do not fit");
}

/* Reals into each other, nothing else. */
static void test_cast(void) {
    static const char *const from[] = {"f32[3]", "bf16[3]", "f16[3]"};
    static const tsr_dtype to[] = {TSR_F32, TSR_BF16, TSR_F16};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            tsr_graph *graph = new_graph(ops);
            tsr_value_id x = declare(graph, "x", from[i]);
            tsr_attr dtype = TSR_ATTR_INT("dtype", to[j]);
            tsr_value_id y =
                tsr_graph_node(graph, "cast", &x, 1, &dtype, 1, NULL);
            CHECK_OK(tsr_graph_status(graph));
            tsr_type type = type_of(from[i]);
            type.dtype = to[j];
            CHECK(tsr_type_equal(&tsr_graph_value(graph, y)->type, &type));
            tsr_graph_release(graph);
        }
    static const int64_t wrong[] = {-1, TSR_I32, TSR_U8, TSR_DTYPE_COUNT};
    for (int i = 0; i < 4; i++) {
        tsr_graph *graph = new_graph(ops);
        tsr_value_id x = declare(graph, "x", "f32[3]");
        tsr_attr dtype = TSR_ATTR_INT("dtype", wrong[i]);
        tsr_graph_node(graph, "cast", &x, 1, &dtype, 1, NULL);
        CHECK_FAILS(tsr_graph_status(graph), TSR_INVALID_ARGUMENT,
                    "dtype must be f32, bf16 or f16");
        tsr_graph_release(graph);
    }
}

static void test_gather(void) {
    tsr_graph *graph = new_graph(ops);
    tsr_type type = type_of("f32[4,4]");
    tsr_value_id flat = declare(graph, "flat", "f32[8]"),
                 square = declare(graph, "square", "f32[4,2]");
    tsr_value copy = {.type = type, .param = TSR_NO_PARAM};
    tsr_value_id output = tsr_graph_add_value(graph, &copy);
    tsr_node_desc desc = {.op = "gather",
                          .inputs = &flat,
                          .input_count = 1,
                          .outputs = &output,
                          .output_count = 1};
    CHECK_OK(tsr_graph_append(graph, &desc, NULL));
    desc.inputs = &square;
    CHECK_FAILS(tsr_graph_append(graph, &desc, NULL), TSR_INVALID_ARGUMENT,
                "shard 0 must be flat");
    tsr_graph_node(graph, "gather", &flat, 1, NULL, 0, NULL);
    CHECK_FAILS(tsr_graph_status(graph), TSR_INVALID_ARGUMENT,
                "1 shards give 0 gathered copies");
    tsr_graph_release(graph);
}

/* Copies have type, role and parameter of what they are copies of. */
static void test_moves(void) {
    tsr_graph *graph = new_graph(ops);
    tsr_type type = type_of("f32[4]");
    tsr_value shard = {.type = type,
                       .role = TSR_ROLE_PARAM_SHARD,
                       .name = "shard",
                       .param = {0},
                       .producer = TSR_NO_NODE};
    tsr_value_id there, back, moved[2] = {tsr_graph_add_value(graph, &shard)};
    there = tsr_graph_node(graph, "offload", moved, 1, NULL, 0, NULL);
    back = tsr_graph_node(graph, "reload", &there, 1, NULL, 0, NULL);
    CHECK_OK(tsr_graph_status(graph));
    const tsr_value *host = tsr_graph_value(graph, there),
                    *device = tsr_graph_value(graph, back);
    CHECK(host->place == TSR_PLACE_HOST && device->place == TSR_PLACE_DEVICE);
    CHECK(host->role == TSR_ROLE_PARAM_SHARD && host->param.index == 0 &&
          device->role == TSR_ROLE_PARAM_SHARD && device->param.index == 0);
    CHECK(tsr_type_equal(&host->type, &type) &&
          tsr_type_equal(&device->type, &type));
    const tsr_node *node = tsr_graph_node_at(graph, host->producer);
    CHECK(tsr_graph_must_alias(graph, node, 0).index < 0 &&
          node->stream == TSR_ON_COPY_OUT);
    moved[0] = back;
    moved[1] = there;
    there = tsr_graph_node(graph, "offload", moved, 2, NULL, 0, NULL);
    CHECK_OK(tsr_graph_status(graph));
    node = tsr_graph_node_at(graph, tsr_graph_value(graph, there)->producer);
    CHECK(tsr_graph_must_alias(graph, node, 0).index == moved[1].index);
    moved[1] = declare(graph, "other", "f32[5]");
    tsr_graph_node(graph, "offload", moved, 2, NULL, 0, NULL);
    CHECK_FAILS(tsr_graph_status(graph), TSR_INVALID_ARGUMENT,
                "must have the type of what comes");
    tsr_graph_release(graph);
}

int main(void) {
    CHECK_OK(tsr_op_table_create(&ops));
    test_moves();
    test_inference();
    test_attributes();
    test_cast();
    test_gather();
    tsr_op_table_release(ops);
    return 0;
}
