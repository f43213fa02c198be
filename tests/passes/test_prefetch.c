/* Gathers ahead of their use: no further than asked, as far as that and the
 * budget allow, and on bytes that hold them up for nothing later than the group
 * before the one in use. */
#include "passes/gpt.h"

#include "graph/order.h"
#include "passes/prefetch.h"

static tsr_op_table *ops;

static tsr_gpt_config gpt_of(int64_t layers) {
    tsr_gpt_config config = small_gpt;
    config.layers = layers;
    return config;
}

static tsr_status compile_gpt(int64_t layers, const tsr_target *target,
                              tsr_plan **out_plan) {
    tsr_gpt_config config = gpt_of(layers);
    return tsr_compile_training(gpt_graph(ops, &config, 2, 4), target,
                                &gpt_training, out_plan);
}

/* ---- groups ---- */

enum { MOST_GROUPS = 64 };

/* A gather's way through its section. */
typedef struct group {
    int32_t gather, wait, release;
} group;

/* The gathers of one section, in the order in which they run. */
static size_t find_groups(const tsr_plan *plan, tsr_section section,
                          group groups[MOST_GROUPS]) {
    const tsr_graph *graph = plan->graph;
    size_t count = 0;
    for (int32_t n = 0; n < tsr_graph_node_count(graph); n++) {
        const tsr_node *node = &graph->nodes.data[n];
        if (node->section != section)
            continue;
        if (tsr_node_is(graph, node, "gather")) {
            CHECK(count < MOST_GROUPS);
            groups[count++] = (group){n, -1, -1};
        }
        if (!tsr_node_is(graph, node, "wait") &&
            !tsr_node_is(graph, node, "release"))
            continue;
        tsr_value_id input = tsr_graph_inputs(graph, node)[0];
        int32_t from = tsr_graph_value(graph, input)->producer.index;
        for (size_t g = 0; g < count; g++) {
            if (groups[g].gather == from)
                groups[g].wait = n;
            else if (groups[g].wait == from)
                groups[g].release = n;
        }
    }
    for (size_t g = 0; g < count; g++)
        CHECK(groups[g].gather < groups[g].wait &&
              groups[g].wait < groups[g].release);
    return count;
}

/* The latest node of compute that must end before the gather starts: through
 * any chain of streams and waits. */
static int32_t held_up_by(const tsr_order *order, int32_t gather) {
    return order->clock[gather][TSR_ON_COMPUTE];
}

/* Gathers of a section that are held up by the group computing before them. */
static int count_held_up(const tsr_plan *plan) {
    int held_up = 0;
    tsr_order order;
    CHECK_OK(tsr_order_create(plan->graph, &order));
    for (size_t n = 0; n < plan->graph->nodes.count; n++)
        tsr_order_push(&order);
    for (int s = TSR_MICRO_FIRST; s < TSR_UPDATE; s++) {
        group groups[MOST_GROUPS];
        size_t count = find_groups(plan, (tsr_section)s, groups);
        CHECK(count > 1);
        for (size_t g = 0; g < count; g++) {
            int32_t allowed = g > 1 ? groups[g - 2].release : -1;
            held_up += held_up_by(&order, groups[g].gather) > allowed;
        }
    }
    tsr_order_release(&order);
    return held_up;
}

/* No more than depth + 1 groups' copies at a time; and no gather could go up
 * further. */
static void check_depth(const tsr_plan *plan, int depth) {
    for (int s = TSR_MICRO_FIRST; s < TSR_UPDATE; s++) {
        group groups[MOST_GROUPS];
        size_t count = find_groups(plan, (tsr_section)s, groups);
        for (size_t g = 0; g < count; g++) {
            int open = 0;
            for (size_t h = 0; h < g; h++)
                open += groups[h].release > groups[g].gather;
            CHECK(open <= depth);
            int32_t above = groups[g].gather - 1;
            bool behind_release =
                g > (size_t)depth &&
                groups[g - (size_t)depth - 1].release == above;
            CHECK(behind_release || g == 0 || groups[g - 1].gather == above);
        }
    }
}

static void test_depths(void) {
    for (int64_t layers = 1; layers <= 20; layers = layers * 3 + 1)
        for (int world = 2; world < 4; world++)
            for (int depth = 1; depth < 4; depth++) {
                tsr_target target = {.world = world, .prefetch = depth};
                tsr_plan *plan;
                CHECK_OK(compile_gpt(layers, &target, &plan));
                check_depth(plan, depth);
                CHECK(count_held_up(plan) == 0);
                tsr_plan_release(plan);
            }
}

/* Without, every gather but those with bytes to themselves waits for the group
 * before it: what count_held_up is there to see. */
static void test_off(void) {
    tsr_target target = {.world = 2, .prefetch = -1};
    tsr_plan *plan;
    CHECK_OK(compile_gpt(7, &target, &plan));
    CHECK_MESSAGE(count_held_up(plan) > 7, "%d", count_held_up(plan));
    tsr_plan_release(plan);
}

/* ---- where there is nothing to do ---- */

static void check_same(const tsr_plan *a, const tsr_plan *b) {
    char *one = text_of(a), *other = text_of(b);
    CHECK(strcmp(one, other) == 0);
    tsr_plan_text_release(one);
    tsr_plan_text_release(other);
}

/* Aliases move nothing, and one rank has nobody to get bytes from. */
static void test_nothing_to_do(void) {
    for (int alias = 0; alias < 2; alias++) {
        tsr_target target = {
            .world = alias ? 2 : 1, .shared = alias, .gather_alias = alias};
        tsr_plan *with, *without;
        CHECK_OK(compile_gpt(3, &target, &with));
        target.prefetch = -1;
        CHECK_OK(compile_gpt(3, &target, &without));
        check_same(with, without);
        tsr_plan_release(with);
        tsr_plan_release(without);
    }
}

/* Back to the waits is back to what the schedule said, also once laid out. */
static void test_back(void) {
    tsr_target target = {.world = 2, .prefetch = 2};
    tsr_plan *with, *without;
    CHECK_OK(compile_gpt(3, &target, &with));
    target.prefetch = -1;
    CHECK_OK(compile_gpt(3, &target, &without));
    CHECK_OK(tsr_prefetch(with, 0, 0));
    CHECK_OK(tsr_pass_layout()->run(with, NULL));
    CHECK_OK(tsr_plan_verify(with, TSR_STAGE_PLACED));
    check_same(with, without);
    tsr_plan_release(with);
    tsr_plan_release(without);
}

/* ---- the budget ---- */

/* From what the plan without needs to what the plan with needs: every budget
 * has its plan; at both ends it is that plan; and more memory never takes
 * prefetching away altogether. */
static void test_budget(void) {
    tsr_target target = {.world = 2, .prefetch = -1};
    tsr_plan *with, *without, *plan;
    int partly = 0;
    CHECK_OK(compile_gpt(4, &target, &without));
    target.prefetch = 1;
    CHECK_OK(compile_gpt(4, &target, &with));
    size_t least = tsr_plan_rank_bytes(without),
           most = tsr_plan_rank_bytes(with);
    CHECK(least < most);
    for (target.memory = least; target.memory <= most; target.memory += 64) {
        CHECK_OK(compile_gpt(4, &target, &plan));
        CHECK(tsr_plan_rank_bytes(plan) <= target.memory);
        plan->target.memory = 0; /* the text has it */
        if (target.memory == most)
            check_same(plan, with);
        partly += count_held_up(plan) > 0 &&
                  count_held_up(plan) < count_held_up(without);
        tsr_plan_release(plan);
    }
    CHECK(partly > 0);
    target.memory = least - 1;
    CHECK_FAILS(compile_gpt(4, &target, &plan), TSR_OUT_OF_MEMORY,
                "the plan needs");
    char needed[64];
    snprintf(needed, sizeof needed, "the plan needs %zu bytes (", least);
    CHECK_MESSAGE(strncmp(tsr_last_error(), needed, strlen(needed)) == 0, "%s",
                  tsr_last_error());
    tsr_plan_release(with);
    tsr_plan_release(without);
}

/* What must be there at once, as layout counts it. */
static size_t live_bytes(const tsr_plan *plan) {
    return plan->live_bytes + plan->bytes[TSR_SPACE_WEIGHTS] +
           plan->bytes[TSR_SPACE_PERSISTENT];
}

/* No more is alive than was allowed, whatever packing makes of it; and with
 * what all gathers need, all go up. */
static void test_live_bytes(void) {
    tsr_target target = {.world = 2, .prefetch = -1};
    tsr_plan *plan;
    CHECK_OK(compile_gpt(4, &target, &plan));
    size_t least = live_bytes(plan);
    CHECK_OK(tsr_prefetch(plan, 1, 0));
    CHECK_OK(tsr_pass_layout()->run(plan, NULL));
    size_t most = live_bytes(plan);
    CHECK(least < most);
    for (size_t memory = least; memory <= most; memory += 64) {
        CHECK_OK(tsr_prefetch(plan, 0, 0));
        CHECK_OK(tsr_prefetch(plan, 1, memory));
        CHECK_OK(tsr_pass_layout()->run(plan, NULL));
        CHECK_MESSAGE(live_bytes(plan) <= memory, "%zu of %zu bytes are alive",
                      live_bytes(plan), memory);
        CHECK(memory < most || count_held_up(plan) == 0);
    }
    tsr_plan_release(plan);
}

/* ---- plans made by hand ---- */

#define HEAD                                                                   \
    "tessera plan 1\n"                                                         \
    "target world=2 shared=0 gather_alias=0 alignment=64 memory=0\n"           \
    "param \"a\" f32[4, 4] group=0 granule=1 constant(0.0)\n"                  \
    "param \"b\" f32[4, 4] group=1 granule=1 constant(0.0)\n"                  \
    "value %0 \"x\" f32[4, 4] input\n"                                         \
    "value %1 \"a\" f32[8] param_shard p0\n"                                   \
    "value %2 \"b\" f32[8] param_shard p1\n"                                   \
    "section micro_first\n"

static void check_order(const char *text, const char *expected) {
    char order[256] = "";
    tsr_plan *plan;
    const tsr_pass *prefetch = tsr_pass_prefetch();
    CHECK_OK(tsr_plan_parse(ops, text, strlen(text), &plan));
    CHECK_OK(prefetch->run(plan, NULL));
    CHECK_OK(tsr_plan_verify(plan, TSR_STAGE_SCHEDULED));
    for (int32_t n = 0; n < tsr_graph_node_count(plan->graph); n++) {
        size_t used = strlen(order);
        snprintf(order + used, sizeof order - used, n ? " %s" : "%s",
                 tsr_graph_node_at(plan->graph, (tsr_node_id){n})->layer);
    }
    CHECK_MESSAGE(strcmp(order, expected) == 0, "%s", order);
    tsr_plan_release(plan);
}

/* A gather stays behind what makes its shard. */
static void test_made_shard(void) {
    check_order(HEAD
                "%10 f32[4, 4] gathered p0 = gather(%1) on=gather layer=\"a\"\n"
                "%20 f32[4, 4] gathered p0 = wait(%10) layer=\"wait.a\"\n"
                "%30 f32[4, 4] = add(%20, %0) layer=\"use.a\"\n"
                "release(%20) layer=\"free.a\"\n"
                "%3 f32[8] param_shard p1 = fence_writers(%2) on=reduce "
                "layer=\"fence\"\n"
                "%31 f32[4, 4] = gelu(%30) layer=\"gelu\"\n"
                "%11 f32[4, 4] gathered p1 = gather(%3) on=gather layer=\"b\"\n"
                "%21 f32[4, 4] gathered p1 = wait(%11) layer=\"wait.b\"\n"
                "%32 f32[4, 4] = add(%31, %21) layer=\"use.b\"\n"
                "release(%21) layer=\"free.b\"\n",
                "a wait.a use.a free.a fence b gelu wait.b use.b free.b");
}

/* A copy that is held for long keeps later gathers from going up only as far as
 * to the wait before them. */
static void test_held_copy(void) {
    check_order(
        HEAD "%10 f32[4, 4] gathered p0 = gather(%1) on=gather layer=\"a\"\n"
             "%20 f32[4, 4] gathered p0 = wait(%10) layer=\"wait.a\"\n"
             "%30 f32[4, 4] = add(%20, %0) layer=\"use.a\"\n"
             "%11 f32[4, 4] gathered p1 = gather(%2) on=gather layer=\"b\"\n"
             "%21 f32[4, 4] gathered p1 = wait(%11) layer=\"wait.b\"\n"
             "%31 f32[4, 4] = add(%30, %21) layer=\"use.b\"\n"
             "release(%21) layer=\"free.b\"\n"
             "%32 f32[4, 4] = gelu(%31) layer=\"gelu\"\n"
             "%12 f32[4, 4] gathered p1 = gather(%2) on=gather layer=\"c\"\n"
             "%22 f32[4, 4] gathered p1 = wait(%12) layer=\"wait.c\"\n"
             "%33 f32[4, 4] = add(%32, %22) layer=\"use.c\"\n"
             "%34 f32[4, 4] = add(%33, %20) layer=\"last.a\"\n"
             "release(%20) layer=\"free.a\"\n"
             "release(%22) layer=\"free.c\"\n",
        "a b wait.a use.a wait.b c use.b free.b gelu wait.c use.c last.a "
        "free.a free.c");
}

/* Every allocation of the pass fails once: a status, nothing lost. */
static void test_no_memory(void) {
    const tsr_pass *passes[] = {tsr_pass_differentiate(), tsr_pass_shard(),
                                tsr_pass_update(), tsr_pass_schedule()};
    for (long fail = 1;; fail++) {
        tsr_gpt_config config = gpt_of(2);
        tsr_plan *plan = plan_of(gpt_graph(ops, &config, 2, 4), 2, false);
        CHECK_OK(tsr_pipeline_run(plan, passes, sizeof passes / sizeof *passes,
                                  &gpt_training));
        tsr_alloc_fail_at(fail);
        tsr_status status = tsr_prefetch(plan, 1, 1 << 20);
        bool reached = tsr_alloc_fail_at(0) >= fail;
        CHECK(status == (reached ? TSR_OUT_OF_MEMORY : TSR_OK));
        tsr_plan_release(plan);
        if (!reached)
            return;
    }
}

int main(void) {
    CHECK_OK(tsr_op_table_create(&ops));
    test_depths();
    test_off();
    test_nothing_to_do();
    test_back();
    test_budget();
    test_live_bytes();
    test_made_shard();
    test_held_copy();
    test_no_memory();
    tsr_op_table_release(ops);
    return 0;
}
