/* The order of nodes: valid, gathers as late as they can be, and of several
 * that are ready the one whose memory is free again first. */
#include "passes/gpt.h"

#include "graph/graph.h"

static tsr_op_table *ops;

/* ---- GPT ---- */

static tsr_plan *scheduled_gpt(int64_t layers, int world, bool alias) {
    const tsr_pass *passes[] = {tsr_pass_differentiate(), tsr_pass_shard(),
                                tsr_pass_update(), tsr_pass_repeat(),
                                tsr_pass_schedule()};
    tsr_gpt_config config = small_gpt;
    config.layers = layers;
    tsr_plan *plan = plan_of(gpt_graph(ops, &config, 1, 4), world, alias);
    CHECK_OK(tsr_pipeline_run(plan, passes, sizeof passes / sizeof *passes,
                              &gpt_training));
    CHECK_OK(tsr_plan_verify(plan, TSR_STAGE_SCHEDULED));
    return plan;
}

/* A gather comes when all else waits for it, so that its wait follows; and in a
 * chain of layers no two copies of groups are open at once. */
static void check_late(const tsr_plan *plan, int expected_gathers) {
    const tsr_graph *graph = plan->graph;
    int open = 0, gathers = 0;
    for (int32_t n = 0; n < tsr_graph_node_count(graph); n++) {
        const tsr_node *node = tsr_graph_node_at(graph, (tsr_node_id){n});
        if (tsr_node_is(graph, node, "gather")) {
            CHECK(tsr_node_is(graph, node + 1, "wait"));
            CHECK(tsr_graph_inputs(graph, node + 1)[0].index ==
                  tsr_graph_outputs(graph, node)[0].index);
            CHECK(tsr_graph_after(graph, node + 1)[0].index == n);
            gathers++;
            open++;
        }
        open -= tsr_node_is(graph, node, "release");
        CHECK(open <= 1);
    }
    CHECK(open == 0);
    CHECK(gathers == expected_gathers);
}

static void test_gpt(void) {
    /* Tokens, positions, each layer forward and backward, the final norm, the
     * tied head: forward and backward are one run. Times two sections. */
    for (int64_t layers = 1; layers < 80; layers = layers * 4 + 1)
        for (int alias = 0; alias < 2; alias++) {
            tsr_plan *plan = scheduled_gpt(layers, 2, alias);
            check_late(plan, 2 * (2 + 2 * (int)layers + 3));
            tsr_plan_release(plan);
        }
}

/* ---- plans made by hand ---- */

#define HEAD                                                                   \
    "tessera plan 1\n"                                                         \
    "target world=1 shared=0 gather_alias=0 alignment=64 memory=0\n"           \
    "param \"a\" f32[4, 4] group=0 granule=1 constant(0.0)\n"                  \
    "param \"b\" f32[4, 4] group=1 granule=1 constant(0.0)\n"                  \
    "param \"c\" f32[4, 4] group=2 granule=1 constant(0.0)\n"                  \
    "value %0 \"x\" f32[4, 4] input\n"                                         \
    "value %1 \"a\" f32[16] param_shard p0\n"                                  \
    "value %2 \"b\" f32[16] param_shard p1\n"                                  \
    "value %3 \"c\" f32[16] param_shard p2\n"                                  \
    "section micro_first\n"

static tsr_plan *parse(const char *text) {
    tsr_plan *plan;
    CHECK_OK(tsr_plan_parse(ops, text, strlen(text), &plan));
    return plan;
}

/* The layers of the nodes, in the order of the schedule. */
static void check_order(const char *text, const char *expected) {
    char order[512] = "";
    const tsr_pass *schedule = tsr_pass_schedule();
    tsr_plan *plan = parse(text);
    CHECK_OK(tsr_plan_verify(plan, TSR_STAGE_SHARDED));
    CHECK_OK(schedule->run(plan, NULL));
    CHECK_OK(tsr_plan_verify(plan, TSR_STAGE_SCHEDULED));
    for (int32_t n = 0; n < tsr_graph_node_count(plan->graph); n++) {
        const tsr_node *node = tsr_graph_node_at(plan->graph, (tsr_node_id){n});
        size_t used = strlen(order);
        snprintf(order + used, sizeof order - used, n ? " %s" : "%s",
                 node->layer);
    }
    CHECK_MESSAGE(strcmp(order, expected) == 0, "%s", order);
    tsr_plan_release(plan);
}

/* a and b are released together, c alone: c comes first though it is last in
 * the text, since it is free again after one gather. */
static void test_frees_first(void) {
    check_order(HEAD
                "%10 f32[4, 4] gathered p0 = gather(%1) on=gather layer=\"a\"\n"
                "%11 f32[4, 4] gathered p1 = gather(%2) on=gather layer=\"b\"\n"
                "%12 f32[4, 4] gathered p2 = gather(%3) on=gather layer=\"c\"\n"
                "%20 f32[4, 4] gathered p0 = wait(%10) layer=\"wait.a\"\n"
                "%21 f32[4, 4] gathered p1 = wait(%11) layer=\"wait.b\"\n"
                "%22 f32[4, 4] gathered p2 = wait(%12) layer=\"wait.c\"\n"
                "%30 f32[4, 4] = add(%20, %21) layer=\"use.ab\"\n"
                "%31 f32[4, 4] = add(%22, %0) layer=\"use.c\"\n"
                "release(%20) layer=\"free.a\"\n"
                "release(%21) layer=\"free.b\"\n"
                "release(%22) layer=\"free.c\"\n",
                "c wait.c use.c free.c a wait.a b wait.b use.ab free.a free.b");
}

/* As many gathers for both: the one that is held for less time comes first. */
static void test_held_shortest(void) {
    check_order(HEAD
                "%10 f32[4, 4] gathered p0 = gather(%1) on=gather layer=\"a\"\n"
                "%11 f32[4, 4] gathered p1 = gather(%2) on=gather layer=\"b\"\n"
                "%21 f32[4, 4] gathered p1 = wait(%11) layer=\"wait.b\"\n"
                "%31 f32[4, 4] = add(%21, %0) layer=\"use.b\"\n"
                "release(%21) layer=\"free.b\"\n"
                "%20 f32[4, 4] gathered p0 = wait(%10) layer=\"wait.a\"\n"
                "%30 f32[4, 4] = linear(%0, %20) layer=\"use.a\"\n"
                "release(%20) layer=\"free.a\"\n",
                "b wait.b use.b free.b a wait.a use.a free.a");
}

/* Gathers that a release needs besides its own are counted: b and c are free
 * only together, so a comes first though it is last in the text; then b, which
 * is held for less time than c. */
static void test_needs_of_others(void) {
    check_order(HEAD
                "%12 f32[4, 4] gathered p2 = gather(%3) on=gather layer=\"c\"\n"
                "%11 f32[4, 4] gathered p1 = gather(%2) on=gather layer=\"b\"\n"
                "%10 f32[4, 4] gathered p0 = gather(%1) on=gather layer=\"a\"\n"
                "%20 f32[4, 4] gathered p0 = wait(%10) layer=\"wait.a\"\n"
                "%30 f32[4, 4] = add(%20, %0) layer=\"use.a\"\n"
                "release(%20) layer=\"free.a\"\n"
                "%21 f32[4, 4] gathered p1 = wait(%11) layer=\"wait.b\"\n"
                "%22 f32[4, 4] gathered p2 = wait(%12) layer=\"wait.c\"\n"
                "%31 f32[4, 4] = add(%21, %22) layer=\"use.bc\"\n"
                "%32 f32[4, 4] = add(%31, %30) layer=\"sum\"\n"
                "release(%21) layer=\"free.b\"\n"
                "release(%22) layer=\"free.c\"\n",
                "a wait.a use.a free.a b wait.b c wait.c use.bc sum free.b "
                "free.c");
}

/* Gathers that are done count no more: b's use needs what a gave, but a is done
 * when b and c are compared, and b is held for less time. */
static void test_done_gathers(void) {
    check_order(HEAD
                "%12 f32[4, 4] gathered p2 = gather(%3) on=gather layer=\"c\"\n"
                "%10 f32[4, 4] gathered p0 = gather(%1) on=gather layer=\"a\"\n"
                "%20 f32[4, 4] gathered p0 = wait(%10) layer=\"wait.a\"\n"
                "%30 f32[4, 4] = add(%20, %0) layer=\"use.a\"\n"
                "release(%20) layer=\"free.a\"\n"
                "%11 f32[4, 4] gathered p1 = gather(%2) on=gather layer=\"b\"\n"
                "%21 f32[4, 4] gathered p1 = wait(%11) layer=\"wait.b\"\n"
                "%31 f32[4, 4] = add(%21, %30) layer=\"use.b\"\n"
                "release(%21) layer=\"free.b\"\n"
                "%22 f32[4, 4] gathered p2 = wait(%12) layer=\"wait.c\"\n"
                "%32 f32[4, 4] = add(%22, %0) layer=\"use.c\"\n"
                "release(%22) layer=\"free.c\"\n",
                "a wait.a use.a free.a b wait.b use.b free.b c wait.c use.c "
                "free.c");
}

/* What ends a value comes after all that read it, whatever the text says. */
static void test_ends_come_last(void) {
    check_order(HEAD
                "%10 f32[4, 4] gathered p0 = gather(%1) on=gather layer=\"a\"\n"
                "%20 f32[4, 4] gathered p0 = wait(%10) layer=\"wait.a\"\n"
                "%30 f32[4, 4] = gelu(%20) layer=\"first\"\n"
                "%31 f32[4, 4] = gelu(%30) layer=\"second\"\n"
                "%32 f32[4, 4] = add(%31, %20) layer=\"third\"\n"
                "release(%20) layer=\"free.a\"\n",
                "a wait.a first second third free.a");
}

static void test_circle(void) {
    tsr_plan *plan = parse(HEAD "%10 f32[4, 4] = gelu(%11)\n"
                                "%11 f32[4, 4] = gelu(%10)\n");
    CHECK_FAILS(tsr_pass_schedule()->run(plan, NULL), TSR_INVALID_ARGUMENT,
                "the nodes of section micro_first wait for each other in a");
    tsr_plan_release(plan);
}

/* More gathers than fit a machine word of the sets, and one section alone. */
static void test_many_gathers(void) {
    tsr_gpt_config config = small_gpt;
    tsr_target target = {.world = 2, .prefetch = -1};
    tsr_plan *plan;
    config.layers = 130;
    CHECK_OK(
        tsr_compile_forward(gpt_graph(ops, &config, 1, 4), &target, &plan));
    check_late(plan, 2 + 130 + 2);
    tsr_plan_release(plan);
}

int main(void) {
    CHECK_OK(tsr_op_table_create(&ops));
    test_gpt();
    test_frees_first();
    test_held_shortest();
    test_needs_of_others();
    test_done_gathers();
    test_ends_come_last();
    test_circle();
    test_many_gathers();
    tsr_op_table_release(ops);
    return 0;
}
