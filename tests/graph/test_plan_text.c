/* The text form of plans: printed and parsed again, edited by hand, damaged. */
#include "base/memory.h"
#include "check.h"
#include "tessera/models.h"
#include "tessera/plan.h"

#define HEAD                                                                   \
    "tessera plan 1\n"                                                         \
    "target world=2 shared=0 gather_alias=0 alignment=64 memory=0 "            \
    "host_memory=0\n"
#define BYTES                                                                  \
    "bytes weights=0 grads=0 persistent=0 transient=0 host_persistent=0 "      \
    "host_transient=0\n"

static tsr_op_table *ops;

static tsr_status parse(const char *text, tsr_plan **out_plan) {
    return tsr_plan_parse(ops, text, strlen(text), out_plan);
}

static void check_same(const char *got, const char *expected) {
    size_t same = 0;
    while (got[same] && got[same] == expected[same])
        same++;
    CHECK_MESSAGE(got[same] == expected[same],
                  "texts differ at byte %zu: '%.60s', expected '%.60s'", same,
                  got + same, expected + same);
}

/* `text` parses into a plan that prints as `expected`. */
static void check_prints(const char *text, const char *expected) {
    tsr_plan *plan;
    char *printed;
    CHECK_OK(parse(text, &plan));
    CHECK(plan->live_bytes == 0);
    CHECK_OK(tsr_plan_print(plan, &printed));
    check_same(printed, expected);
    tsr_plan_text_release(printed);
    tsr_plan_release(plan);
}

/* ---- round trips ---- */

/* Every field that the format has. */
static const char everything[] =
    "tessera plan 1\n"
    "target world=4 shared=1 gather_alias=1 alignment=4096 memory=123456789 "
    "host_memory=987654321\n"
    "products \"bf16: by hand\"\n"
    "bytes weights=1024 grads=512 persistent=18446744073709551615 "
    "transient=4096 host_persistent=640 host_transient=192\n"
    "param \"h.0.w\" f32[8, 4] group=0 granule=4 normal(0.02) decay\n"
    "param \"h.0.b # no comment\" bf16[4] group=3 granule=1 constant(-0.0)\n"
    "param \"h.0.c\" bf16[4] stored=f32 group=3 granule=1 constant(0.0)\n"
    "value %0 \"tokens\" i32[2, 8] input\n"
    "value %1 \"rope\" f32[] constant\n"
    "value %2 \"m\" f16[1, 2, 3, 4, 5] state @persistent+0\n"
    "value %3 \"h.0.w\" f32[8, 4] parameter p0 @weights+64\n"
    "value %4 \"h.0.b\" f32[4] param_shard p1 @weights+0\n"
    "value %5 u8[281474976710656] host\n"
    "value %11 f32[1]\n"
    "loss %11\n"
    "section micro_first\n"
    "n0: %6 f32[8, 4] gathered p0 @transient+128, %7 \"named\" f32[4] p1 = "
    "gather(%3, %4) on=gather layer=\"h.0.attn\"\n"
    "n1: %8 f32[8, 4] full_grad p0 @grads+256 = gelu(%9) layer=\"h.0\" "
    "after=n0,n3 workspace=64@192\n"
    "section micro_next\n"
    "n2: release(%6, %7)\n"
    "n3: %9 f32[2] grad_shard p0 = adamw(%10, %8) {beta1=0.90000000000000002, "
    "step=-3, big=9223372036854775807, low=-9223372036854775808, whole=1.0, "
    "zero=-0.0, up=inf, down=-inf, small=4.9406564584124654e-324, "
    "large=1.7976931348623157e+308, wide=10000000000000000.0} backward "
    "on=copy_out\n"
    "section update\n"
    "n4: %10 f32[2] = linear() backward on=reduce after=n4\n"
    "n5: fence_readers() on=copy_in\n"
    "n6: %12 f32[1] host @host_transient+128 = offload(%10) on=copy_out\n"
    "n7: %13 f32[2] state host p0 @host_persistent+64 = reload(%12) "
    "on=copy_in after=n6\n";

static void test_everything(void) {
    tsr_plan *plan;
    check_prints(everything, everything);
    CHECK_OK(parse(everything, &plan));
    const tsr_graph *graph = plan->graph;
    CHECK(plan->target.world == 4 && plan->target.shared &&
          plan->target.gather_alias && plan->target.alignment == 4096 &&
          plan->target.memory == 123456789 &&
          plan->target.host_memory == 987654321);
    CHECK(plan->bytes[TSR_SPACE_HOST_PERSISTENT] == 640 &&
          plan->bytes[TSR_SPACE_HOST_TRANSIENT] == 192);
    CHECK(tsr_graph_value(graph, (tsr_value_id){5})->place == TSR_PLACE_HOST &&
          tsr_graph_value(graph, (tsr_value_id){6})->place == TSR_PLACE_DEVICE);
    CHECK(plan->bytes[TSR_SPACE_PERSISTENT] == SIZE_MAX);
    CHECK(strcmp(plan->target.products, "bf16: by hand") == 0);
    CHECK(tsr_graph_param_count(graph) == 3);
    CHECK(tsr_graph_param_at(graph, (tsr_param_id){0})->decay);
    CHECK(tsr_graph_param_at(graph, (tsr_param_id){1})->stored == TSR_BF16);
    CHECK(tsr_graph_param_at(graph, (tsr_param_id){2})->stored == TSR_F32);
    CHECK(signbit(tsr_graph_param_at(graph, (tsr_param_id){1})->init_value));
    CHECK(tsr_graph_loss(graph).index == 11);
    const tsr_value *value = tsr_graph_value(graph, (tsr_value_id){8});
    CHECK(value->producer.index == 1 && value->role == TSR_ROLE_FULL_GRAD &&
          value->space == TSR_SPACE_GRADS && value->offset == 256);
    const tsr_node *node = tsr_graph_node_at(graph, (tsr_node_id){1});
    CHECK(node->section == TSR_MICRO_FIRST && node->stream == TSR_ON_COMPUTE &&
          node->phase == TSR_FORWARD && strcmp(node->layer, "h.0") == 0 &&
          node->workspace_bytes == 64 && node->workspace_offset == 192);
    CHECK(node->after.count == 2 && tsr_graph_after(graph, node)[1].index == 3);
    CHECK(tsr_graph_inputs(graph, node)[0].index == 9);
    node = tsr_graph_node_at(graph, (tsr_node_id){3});
    const tsr_attr *attrs = tsr_graph_attrs(graph, node);
    CHECK(node->attrs.count == 11 && node->phase == TSR_BACKWARD &&
          node->section == TSR_MICRO_NEXT);
    CHECK(attrs[0].is_real && attrs[0].real == 0.9);
    CHECK(!attrs[1].is_real && attrs[1].integer == -3);
    CHECK(attrs[4].is_real && attrs[4].real == 1);
    CHECK(attrs[6].is_real && isinf(attrs[6].real));
    tsr_plan_release(plan);
}

static void test_not_a_number(void) {
    tsr_plan *plan;
    CHECK_OK(
        parse(HEAD "section update\nn0: release(){a=nan, b=-nan}\n", &plan));
    const tsr_attr *attrs = tsr_graph_attrs(
        plan->graph, tsr_graph_node_at(plan->graph, (tsr_node_id){0}));
    CHECK(attrs[0].is_real && isnan(attrs[0].real));
    CHECK(attrs[1].is_real && isnan(attrs[1].real));
    tsr_plan_release(plan);
}

/* The backward of a small GPT, as text. */
static char *built_text(int64_t seq) {
    tsr_graph *graph;
    tsr_plan *plan;
    tsr_gpt_config config;
    tsr_target target = {.world = 2, .memory = 1 << 30};
    char *text;
    CHECK_OK(tsr_gpt_preset("gpt2-tiny", &config));
    CHECK_OK(tsr_graph_create(ops, &graph));
    CHECK_OK(tsr_gpt_build(graph, &config, 2, seq, 1.0));
    CHECK_OK(tsr_graph_differentiate(graph));
    CHECK_OK(tsr_plan_create(graph, &target, &plan));
    CHECK_OK(tsr_plan_print(plan, &text));
    tsr_plan_release(plan);
    return text;
}

static void test_built(void) {
    for (int64_t seq = 1; seq <= 7; seq += 3) {
        tsr_plan *plan;
        char *text = built_text(seq);
        uint64_t hash = 0, hash_again = 1;
        check_prints(text, text);
        CHECK_OK(parse(text, &plan));
        CHECK(tsr_graph_node_count(plan->graph) > 20);
        CHECK(tsr_graph_find(plan->graph, "tokens").index >= 0);
        CHECK_OK(tsr_plan_hash(plan, &hash));
        tsr_plan_release(plan);
        CHECK_OK(parse(text, &plan));
        CHECK_OK(tsr_plan_hash(plan, &hash_again));
        CHECK(hash == hash_again);
        tsr_plan_release(plan);
        tsr_plan_text_release(text);
    }
}

/* ---- edited by hand ---- */

static void test_edited(void) {
    /* Sparse labels in any order, labels left out, blanks and comments. */
    check_prints(
        "# a plan\n\n \ttessera   plan\t1 # version\r\n"
        "target world = 2 shared=0 gather_alias=0 alignment=0 memory=0\n"
        "value %900\"x\"f32[ 2,3 ]input#in\n"
        "value %16777215 f32[2, 3] activation\n"
        "section micro_first\n"
        "%7 f32[2,3]=gelu ( %900 ) {  a = 1 , b=1e0 } after = n16777215 , n0\n"
        "\n"
        "n16777215 : %3 f32[2, 3] = add(%7, %7) workspace=0@8 on=compute\n"
        "section micro_next # empty\n"
        "section update\n"
        "n0: release(%3) layer=\"\" backward",
        HEAD BYTES "value %2 \"x\" f32[2, 3] input\n"
                   "value %3 f32[2, 3]\n"
                   "section micro_first\n"
                   "n0: %1 f32[2, 3] = gelu(%2) {a=1, b=1.0} after=n1,n2\n"
                   "n1: %0 f32[2, 3] = add(%1, %1)\n"
                   "section update\n"
                   "n2: release(%0) backward\n");
    check_prints(HEAD, HEAD BYTES);
    /* Modifiers in any order; a text that does not end its last line. */
    check_prints(HEAD "section update\n"
                      "release() workspace=8@16 after=n5 backward on=copy_in\n"
                      "n5: release() # the last",
                 HEAD BYTES
                 "section update\n"
                 "n0: release() backward on=copy_in after=n1 workspace=8@16\n"
                 "n1: release()\n");
}

/* ---- damaged ---- */

#define VALUES HEAD "value %0 f32[2]\nvalue %1 f32[2]\n"
#define NODES VALUES "section micro_first\n"
#define PARAM "param \"w\" f32[4] group=0 granule=1 constant(0)\n"

static const struct {
    const char *text, *message;
} damaged[] = {
    /* header */
    {"", "line 1, column 1: found the end of the text, expected 'tessera'"},
    {"\n#\n plan 1", "line 3, column 2: found 'plan', expected 'tessera'"},
    {"tessera graph 1", "column 9: found 'graph', expected 'plan'"},
    {"tessera plan", "found the end of the text, expected the version"},
    {"tessera plan\n1", "found the end of the line, expected the version"},
    {"tessera plan 2\n", "found '2', expected the version of the format: a "
                         "whole number in [1, 1]"},
    {"tessera plan 1 x", "found 'x', expected the end of the line"},
    {"tessera plan 1\n", "line 2, column 1: found the end of the text, "
                         "expected the target line"},
    {"tessera plan 1\nbytes", "found 'bytes', expected the target line"},
    /* target and bytes */
    {"tessera plan 1\ntarget world=0", "line 2, column 14: found '0'"},
    {"tessera plan 1\ntarget world=-1", "found '-1', expected world: a whole"},
    {"tessera plan 1\ntarget world=2147483648", "found '2147483648'"},
    {"tessera plan 1\ntarget world 2", "found '2', expected '='"},
    {"tessera plan 1\ntarget world=", "found the end of the text, expected"},
    {"tessera plan 1\ntarget shared=0", "found 'shared', expected 'world'"},
    {"tessera plan 1\ntarget world=1 shared=2",
     "expected shared: a whole number in [0, 1]"},
    {"tessera plan 1\ntarget world=1 shared=0 gather_alias=1 alignment=0 "
     "memory=0",
     "line 2, column 7: gather_alias needs shared memory"},
    {"tessera plan 1\ntarget world=1048577 shared=0 gather_alias=0 "
     "alignment=0 memory=0",
     "line 2, column 7: a world of 1048577 ranks"},
    {"tessera plan 1\ntarget world=1 shared=0 gather_alias=0 alignment=96 "
     "memory=0",
     "alignment 96 is not a power of two"},
    {"tessera plan 1\ntarget world=1 shared=0 gather_alias=0 alignment=0 "
     "memory=18446744073709551616",
     "found '18446744073709551616', expected memory"},
    {HEAD "target", "line 3, column 1: found 'target' too late or twice"},
    {HEAD BYTES BYTES, "line 4, column 1: found 'bytes' too late or twice"},
    {HEAD "bytes weights=0 grads=0 transient=0",
     "found 'transient', expected 'persistent'"},
    {HEAD "bytes weights=1e3", "found '1e3', expected weights"},
    /* params */
    {HEAD "param w f32[4]", "found 'w', expected a name in double quotes"},
    {HEAD "param \"w f32[4]\n\"", "line 3, column 7: found an unterminated"},
    {HEAD "param \"w", "line 3, column 7: found an unterminated string"},
    {HEAD "param \"a\\\"b\" f32[4]", "column 9: found a backslash"},
    {HEAD "param \"\" f32[4]", "found an empty name"},
    {HEAD "param \"w\" f33[4]",
     "found 'f33', expected a dtype: f32, bf16, f16, i32, u8"},
    {HEAD "param \"w\" [4]", "found '[', expected a dtype"},
    {HEAD "param \"w\" f32 4", "found '4', expected '['"},
    {HEAD "param \"w\" f32[4) ", "found ')', expected ',' or ']'"},
    {HEAD "param \"w\" f32[4,]", "found ']', expected a dimension"},
    {HEAD "param \"w\" f32[0]", "found '0', expected a dimension"},
    {HEAD "param \"w\" f32[-4]", "found '-4', expected a dimension"},
    {HEAD "param \"w\" f32[99999999999999999999]", "expected a dimension"},
    {HEAD "param \"w\" f32[2, 140737488355329]",
     "expected a dimension (2^48 elements in all): a whole number in [1, "
     "140737488355328]"},
    {HEAD "param \"w\" f32[1, 2, 3, 4, 5, 6]", "expected at most 5"},
    {HEAD "param \"w\" bf16[4] stored=f33", "found 'f33', expected a dtype"},
    {HEAD "param \"w\" bf16[4] stored f32", "found 'f32', expected '='"},
    {HEAD "param \"w\" bf16[4] stored=f16",
     "line 3, column 19: parameter 'w' is used in bf16 and stored in f16"},
    {HEAD "param \"w\" f32[4] stored=bf16", "used in f32 and stored in bf16"},
    {HEAD "param \"w\" f16[4] stored=f32", "used in f16 and stored in f32"},
    {HEAD "products", "expected a name in double quotes"},
    {HEAD "products \"\"", "found an empty name"},
    {HEAD "products \"a\"\nproducts \"b\"", "found 'products' too late"},
    {HEAD BYTES "products \"a\"", "found 'products' too late"},
    {HEAD "param \"w\" f32[4] group=-1", "found '-1', expected group"},
    {HEAD "param \"w\" f32[4] group=0 granule=0", "found '0', expected gran"},
    {HEAD "param \"w\" f32[4] group=0 granule=1099511627777",
     "expected granule: a whole number in [1, 1099511627776]"},
    {HEAD "param \"w\" f32[4] group=0 granule=1 uniform(1)",
     "found 'uniform', expected an initial value: constant, normal"},
    {HEAD "param \"w\" f32[4] group=0 granule=1 normal 1", "expected '('"},
    {HEAD "param \"w\" f32[4] group=0 granule=1 normal(1", "expected ')'"},
    {HEAD "param \"w\" f32[4] group=0 granule=1 normal()", "a number"},
    {HEAD "param \"w\" f32[4] group=0 granule=1 normal(1) decayed",
     "found 'decayed', expected 'decay'"},
    {HEAD "param \"w\" f32[4] group=0 granule=1 normal(1) decay 1",
     "found '1', expected the end of the line"},
    {HEAD PARAM PARAM, "line 4, column 7: found 'w' again, expected it once: "
                       "as p0"},
    {VALUES PARAM, "found 'param' too late"},
    /* values */
    {HEAD "value 0 f32[4]", "found '0', expected a value: %N"},
    {HEAD "value %x f32[4]", "found 'x', expected the number of a value"},
    {HEAD "value %-1 f32[4]", "found '-1', expected the number of a value"},
    {HEAD "value %16777216 f32[4]", "in [0, 16777215]"},
    {HEAD "value %0", "found the end of the text, expected a dtype"},
    {HEAD "value %0 f32[4] weight",
     "line 3, column 17: found 'weight', expected a role: activation, input, "
     "constant, state, parameter, param_shard, gathered, full_grad, "
     "grad_shard, master"},
    {HEAD "value %0 f32[4] p0", "found p0, expected one of the 0 param lines"},
    {HEAD PARAM "value %0 f32[4] parameter p1", "found p1, expected one of"},
    {HEAD PARAM "value %0 f32[4] p99999999999999999999", "expected a role"},
    {HEAD PARAM "value %0 f32[4] p-1", "found 'p', expected a role"},
    {HEAD "value %0 f32[4] @none+0",
     "found 'none', expected a space: weights, grads, persistent, transient"},
    {HEAD "value %0 f32[4] @heap+0", "found 'heap', expected a space"},
    {HEAD "value %0 f32[4] @grads", "expected '+' and an offset"},
    {HEAD "value %0 f32[4] @grads-8", "found '-', expected '+'"},
    {HEAD "value %0 f32[4] @grads+-8", "found '-8', expected an offset"},
    {HEAD "value %0 f32[4] @grads+18446744073709551600",
     "expected an offset before the end of memory"},
    {HEAD "value %0 f32[4], %1 f32[4]", "found ',', expected the end of the"},
    {VALUES "value %0 f32[2]", "line 5, column 7: found a second definition "
                               "of %0, expected only the one in line 3"},
    /* loss */
    {VALUES "loss 1", "found '1', expected a value: %N"},
    {VALUES "loss %2", "line 5, column 6: found %2, expected a value that"},
    {VALUES "loss %1\nloss %1", "found 'loss' too late or twice"},
    {VALUES "loss %1\nvalue %2 f32[1]", "found 'value' too late"},
    /* sections */
    {VALUES "n0: release(%0)", "found 'n0', expected a section line before"},
    {VALUES "%2 f32[2] = gelu(%0)", "found '%', expected a section line"},
    {VALUES "section\n", "found the end of the line, expected a section"},
    {VALUES "section backward",
     "expected a section: micro_first, micro_next, update"},
    {NODES "section micro_first", "found section 'micro_first' after section "
                                  "'micro_first', expected each once"},
    {VALUES "section update\nsection micro_next", "after section 'update'"},
    {NODES "value %2 f32[2]", "found 'value' too late"},
    /* nodes */
    {NODES "n0: %2 f32[2] = gulp(%0)",
     "line 6, column 17: found 'gulp', expected an op of the table"},
    {NODES "gulp(%0)", "found 'gulp', expected an op of the table"},
    {NODES "?", "found '?', expected an op of the table"},
    {NODES "\xff\x01", "found '?', expected an op of the table"},
    {NODES "n0: %2 f32[2] = (%0)", "found '(', expected an op"},
    {NODES "n0: %2 f32[2] gelu(%0)", "found 'gelu', expected a role"},
    {NODES "n0: %2 f32[2] (%0)", "found '(', expected ',' or '='"},
    {NODES "n0: %2 f32[2], = gelu(%0)", "found '=', expected a value: %N"},
    {NODES "n0: %2 f32[2] = gelu %0", "found '%', expected '('"},
    {NODES "n0: %2 f32[2] = gelu(%0 %1)", "found '%', expected ',' or ')'"},
    {NODES "n0: %2 f32[2] = gelu(%0,)", "found ')', expected a value: %N"},
    {NODES "n0: %2 f32[2] = gelu(%0\n)", "found the end of the line"},
    {NODES "n0: %2 f32[2] = gelu(%3)", "line 6, column 22: found %3, expected"},
    {NODES "n0: %1 f32[2] = gelu(%0)", "line 6, column 5: found a second "
                                       "definition of %1, expected only the "
                                       "one in line 4"},
    {NODES "n0: %2 f32[2], %2 f32[2] = gelu(%0)", "second definition of %2"},
    {NODES "n0: release(%0)\nn0: release(%1)",
     "line 7, column 1: found a second definition of n0"},
    {NODES "m0: release(%0)", "found 'm0', expected the label of a node"},
    {NODES "n: release(%0)", "found 'n', expected the label of a node: nN"},
    {NODES "n16777216: release(%0)", "with N in [0, 16777215]"},
    {NODES ": release(%0)", "found ':', expected an op"},
    {NODES "n0: release(%0) {}", "found '}', expected the name of an attr"},
    {NODES "n0: release(%0) {a}", "found '}', expected '='"},
    {NODES "n0: release(%0) {a=}", "found '}', expected a number"},
    {NODES "n0: release(%0) {a=1", "expected ',' or '}'"},
    {NODES "n0: release(%0) {a=1, a=2}", "found attribute 'a' twice"},
    {NODES "n0: release(%0) {a=one}", "found 'one', expected a number of 64"},
    {NODES "n0: release(%0) {a=0x10}", "found '0x10', expected a number"},
    {NODES "n0: release(%0) {a=+1}", "found '+1', expected a number"},
    {NODES "n0: release(%0) {a=--1}", "found '--1', expected a number"},
    {NODES "n0: release(%0) {a=1.2.3}", "found '1.2.3', expected a number"},
    {NODES "n0: release(%0) {a=.}", "found '.', expected a number"},
    {NODES "n0: release(%0) {a=1e}", "found '1e', expected a number"},
    {NODES "n0: release(%0) {a=1e+}", "found '1e+', expected a number"},
    {NODES "n0: release(%0) {a=infinity}", "found 'infinity', expected a num"},
    {NODES "n0: release(%0) {a=1e999}", "found '1e999', expected a number"},
    {NODES "n0: release(%0) {a=1e-999}", "found '1e-999', expected a number"},
    {NODES "n0: release(%0) {a=9223372036854775808}", "expected a number"},
    {NODES "n0: release(%0) {a=000000000000000000000000000000000000000000000"
           "0000000000000000000000000000000000}",
     "found '0000000000000000000000000000000000...', expected a number"},
    {NODES "n0: release(%0) backwards", "found 'backwards', expected backward"},
    {NODES "n0: release(%0) backward backward", "found 'backward' twice"},
    {NODES "n0: release(%0) on=disk",
     "found 'disk', expected a stream: compute, gather, reduce, copy_out, "
     "copy_in"},
    {NODES "n0: release(%0) on compute", "found 'compute', expected '='"},
    {NODES "n0: release(%0) layer=h", "found 'h', expected a name in double"},
    {NODES "n0: release(%0) layer=\"h", "column 23: found an unterminated"},
    {NODES "n0: release(%0) after=n1", "line 6, column 23: found n1, expected "
                                       "a node that the text defines"},
    {NODES "n0: release(%0) after=n0,", "found the end of the text, expected "
                                        "the label of a node"},
    {NODES "n0: release(%0) after=0", "found '0', expected the label of a"},
    {NODES "n0: release(%0) after=n-1", "found 'n', expected the label of a"},
    {NODES "n0: release(%0) workspace=8", "expected '@' and an offset"},
    {NODES "n0: release(%0) workspace=-8@0", "found '-8', expected the bytes"},
    {NODES "n0: release(%0) workspace=18446744073709551616@0",
     "expected the bytes of a workspace"},
    {NODES "n0: release(%0) workspace=16@18446744073709551600",
     "expected an offset before the end of memory"},
    {NODES "n0: release(%0) ;", "found ';', expected the end of the line"},
    {NODES "n0: release(%0) n1: release(%1)", "found 'n1', expected backward"},
};

static void test_damaged(void) {
    for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++) {
        tsr_plan *plan = (tsr_plan *)&ops; /* anything but NULL */
        CHECK_FAILS(parse(damaged[i].text, &plan), TSR_INVALID_DATA,
                    damaged[i].message);
        CHECK(plan == NULL);
        CHECK(strncmp(tsr_last_error(), "line ", 5) == 0);
    }
}

static void test_nul(void) {
    static const char text[] = HEAD "# a comment with a \0 byte\n";
    tsr_plan *plan;
    CHECK_FAILS(tsr_plan_parse(ops, text, sizeof text - 1, &plan),
                TSR_INVALID_DATA, "line 3, column 20: found a NUL byte");
    CHECK_FAILS(tsr_plan_parse(ops, NULL, 0, &plan), TSR_INVALID_DATA,
                "expected 'tessera'");
    /* Bytes past `length` do not count. */
    CHECK_OK(tsr_plan_parse(ops, text, strlen(HEAD), &plan));
    tsr_plan_release(plan);
}

/* A text cut anywhere parses or is refused, and reads nothing past its end:
 * each is a heap block of its own, for the sanitizer. */
static void test_cut(void) {
    size_t length = strlen(everything), refused = 0;
    for (size_t cut = 0; cut < length; cut++) {
        tsr_plan *plan;
        char *block = malloc(cut ? cut : 1);
        CHECK(block != NULL);
        memcpy(block, everything, cut);
        tsr_status status = tsr_plan_parse(ops, block, cut, &plan);
        CHECK(status == TSR_OK || status == TSR_INVALID_DATA);
        refused += status != TSR_OK;
        tsr_plan_release(plan);
        free(block);
    }
    CHECK(refused > length / 2);
}

/* Whichever allocation fails, the parser says so and keeps nothing (the leak
 * sanitizer looks). */
static void test_allocation_failures(const char *text) {
    long failures = 0;
    for (;; failures++) {
        tsr_plan *plan = (tsr_plan *)&ops;
        tsr_alloc_fail_at(failures + 1);
        tsr_status status = parse(text, &plan);
        tsr_alloc_fail_at(0);
        if (status == TSR_OK) {
            tsr_plan_release(plan);
            break;
        }
        CHECK_MESSAGE(status == TSR_OUT_OF_MEMORY, "allocation %ld: %s: %s",
                      failures + 1, tsr_status_name(status), tsr_last_error());
        CHECK(plan == NULL);
    }
    CHECK(failures > 15);
}

int main(void) {
    CHECK_OK(tsr_op_table_create(&ops));
    test_everything();
    test_not_a_number();
    test_built();
    test_edited();
    test_damaged();
    test_nul();
    test_cut();
    test_allocation_failures(everything);
    char *text = built_text(4);
    test_allocation_failures(text);
    tsr_plan_text_release(text);
    tsr_op_table_release(ops);
    return 0;
}
