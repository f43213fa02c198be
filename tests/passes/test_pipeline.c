/* The pipeline refuses passes that do not fit each other before it runs any,
 * and says which pass failed or broke the graph. */
#include "passes/gpt.h"

#include "graph/graph.h"

#define MOST_PASSES 8

static tsr_op_table *ops;

/* These passes are refused with this message, and the plan stays as it was. */
static void check_refused(const tsr_pass *const *passes, size_t count,
                          const char *message) {
    tsr_plan *plan = plan_of(gpt_graph(ops, &small_gpt, 1, 4), 2, true);
    char *before = text_of(plan), *after;
    CHECK_FAILS(tsr_pipeline_run(plan, passes, count, &gpt_training),
                TSR_FAILED_PRECONDITION, message);
    after = text_of(plan);
    CHECK(strcmp(before, after) == 0);
    tsr_plan_text_release(before);
    tsr_plan_text_release(after);
    tsr_plan_release(plan);
}

#define REFUSED(message, ...)                                                  \
    do {                                                                       \
        const tsr_pass *passes_[] = {__VA_ARGS__};                             \
        check_refused(passes_, sizeof passes_ / sizeof *passes_, message);     \
    } while (0)

static void test_preconditions(void) {
    const tsr_pass *differentiate = tsr_pass_differentiate(),
                   *shard = tsr_pass_shard(), *update = tsr_pass_update(),
                   *repeat = tsr_pass_repeat(), *schedule = tsr_pass_schedule(),
                   *prefetch = tsr_pass_prefetch(), *layout = tsr_pass_layout();
    REFUSED("pass 0 (update) needs", update);
    REFUSED("pass 1 (update) needs", differentiate, update);
    REFUSED("pass 1 (update) needs", shard, update);
    REFUSED("pass 2 (repeat) needs", differentiate, shard, repeat);
    REFUSED("pass 0 (schedule) needs", schedule);
    REFUSED("pass 1 (layout) needs", shard, layout);
    REFUSED("pass 1 (prefetch) needs", shard, prefetch);
    REFUSED("pass 1 (differentiate) comes too late", shard, differentiate);
    REFUSED("pass 1 (differentiate) comes too late", differentiate,
            differentiate);
    REFUSED("pass 1 (shard) comes too late", shard, shard);
    REFUSED("pass 3 (update) comes too late", differentiate, shard, update,
            update);
    REFUSED("pass 3 (update) comes too late", differentiate, shard, schedule,
            update);
    REFUSED("pass 4 (repeat) comes too late", differentiate, shard, update,
            schedule, repeat);
    REFUSED("pass 4 (repeat) comes too late", differentiate, shard, update,
            repeat, repeat);
    REFUSED("pass 2 (schedule) comes too late", shard, schedule, schedule);
    REFUSED("pass 3 (layout) comes too late", shard, schedule, layout, layout);
    REFUSED("pass 3 (prefetch) comes too late", shard, schedule, prefetch,
            prefetch);
    REFUSED("pass 3 (prefetch) comes too late", shard, schedule, layout,
            prefetch);
    /* Rows are checked together: what the last needs counts before the first
     * runs. */
    REFUSED("pass 4 (update) comes too late", differentiate, shard, schedule,
            layout, update);
}

/* ---- passes of users ---- */

static int runs;

static tsr_status count_run(tsr_plan *plan, const tsr_training *training) {
    (void)plan;
    (void)training;
    runs++;
    return TSR_OK;
}

static tsr_status break_graph(tsr_plan *plan, const tsr_training *training) {
    (void)training;
    plan->graph->nodes.data[0].stream = TSR_ON_REDUCE;
    return TSR_OK;
}

static tsr_status break_sections(tsr_plan *plan, const tsr_training *training) {
    (void)training;
    plan->graph->nodes.data[0].section = TSR_UPDATE;
    return TSR_OK;
}

static tsr_status give_up(tsr_plan *plan, const tsr_training *training) {
    (void)plan;
    (void)training;
    return tsr_error(TSR_UNSUPPORTED, "not on a Sunday");
}

static tsr_status run_after_shard(const tsr_pass *mine) {
    const tsr_pass *passes[] = {tsr_pass_shard(), mine};
    tsr_plan *plan = plan_of(gpt_graph(ops, &small_gpt, 1, 4), 2, true);
    tsr_status status = tsr_pipeline_run(plan, passes, 2, NULL);
    tsr_plan_release(plan);
    return status;
}

static void test_user_passes(void) {
    tsr_pass mine = {
        .name = "mine", .requires_ = TSR_HAS_SHARDS, .run = count_run};
    CHECK_OK(run_after_shard(&mine));
    CHECK(runs == 1);
    mine.run = give_up;
    CHECK_FAILS(run_after_shard(&mine), TSR_UNSUPPORTED,
                "pass mine: not on a Sunday");
    mine.run = break_graph;
    CHECK_FAILS(run_after_shard(&mine), TSR_INVALID_DATA,
                "after pass mine: wrong stream: node n0 gather (embed)");
    mine.run = break_sections;
    CHECK_FAILS(run_after_shard(&mine), TSR_INVALID_DATA,
                "section order: node n1 wait (embed): section micro_first "
                "comes after update");
    mine.requires_ = TSR_HAS_UPDATE;
    CHECK_FAILS(run_after_shard(&mine), TSR_FAILED_PRECONDITION,
                "pass 1 (mine) needs");
    mine.requires_ = 0;
    mine.conflicts = TSR_HAS_SHARDS;
    CHECK_FAILS(run_after_shard(&mine), TSR_FAILED_PRECONDITION,
                "pass 1 (mine) comes too late");
    CHECK(runs == 1);
}

/* ---- what the passes themselves refuse ---- */

static tsr_status compile(const tsr_target *target,
                          const tsr_training *training, tsr_plan **out_plan) {
    return tsr_compile_training(gpt_graph(ops, &small_gpt, 1, 4), target,
                                training, out_plan);
}

static void test_refusals(void) {
    tsr_plan *plan = (tsr_plan *)&ops; /* anything but NULL */
    tsr_target target = {.world = 2};
    tsr_training training = gpt_training;
    CHECK_FAILS(compile(&target, NULL, &plan), TSR_INVALID_ARGUMENT,
                "pass update: the plan of an update needs a tsr_training");
    CHECK(plan == NULL);
    training.micro_steps = 0;
    CHECK_FAILS(compile(&target, &training, &plan), TSR_INVALID_ARGUMENT,
                "pass repeat: 0 micro-steps");
    training.micro_steps = 1;
    training.adamw.max_norm = -1;
    CHECK_FAILS(compile(&target, &training, &plan), TSR_INVALID_ARGUMENT,
                "max_norm must not be negative");
    target.world = 0;
    CHECK_FAILS(compile(&target, &gpt_training, &plan), TSR_INVALID_ARGUMENT,
                "a world of 0 ranks");
    target = (tsr_target){.world = 2, .gather_alias = true};
    CHECK_FAILS(compile(&target, &gpt_training, &plan), TSR_INVALID_ARGUMENT,
                "gather_alias needs shared memory");
    target = (tsr_target){.world = 2, .alignment = 96};
    CHECK_FAILS(compile(&target, &gpt_training, &plan), TSR_INVALID_ARGUMENT,
                "alignment 96");
    CHECK(plan == NULL);
}

/* A graph that failed while it was built does, and is released. */
static void test_failed_graph(void) {
    tsr_graph *graph;
    tsr_plan *plan;
    tsr_target target = {.world = 2};
    CHECK_OK(tsr_graph_create(ops, &graph));
    tsr_graph_node(graph, "gulp", NULL, 0, NULL, 0, NULL);
    CHECK_FAILS(tsr_compile_training(graph, &target, &gpt_training, &plan),
                TSR_NOT_FOUND, "'gulp'");
    CHECK(plan == NULL);
    CHECK_OK(tsr_graph_create(ops, &graph));
    CHECK_FAILS(tsr_compile_training(graph, &target, &gpt_training, &plan),
                TSR_INVALID_ARGUMENT, "pass differentiate: the graph has no");
}

static int count_section(const tsr_plan *plan, tsr_section section) {
    int count = 0;
    for (int32_t n = 0; n < tsr_graph_node_count(plan->graph); n++)
        count += tsr_graph_node_at(plan->graph, (tsr_node_id){n})->section ==
                 section;
    return count;
}

/* The second micro-step is made once, whatever their number, and only if there
 * is one. */
static void test_micro_steps(void) {
    tsr_target target = {.world = 2};
    tsr_training training = gpt_training;
    for (training.micro_steps = 1; training.micro_steps < 4;
         training.micro_steps++) {
        tsr_plan *plan;
        CHECK_OK(compile(&target, &training, &plan));
        int first = count_section(plan, TSR_MICRO_FIRST);
        CHECK(first > 50 && count_section(plan, TSR_UPDATE) > 20);
        CHECK(count_section(plan, TSR_MICRO_NEXT) ==
              (training.micro_steps > 1 ? first : 0));
        tsr_plan_release(plan);
    }
}

int main(void) {
    CHECK_OK(tsr_op_table_create(&ops));
    test_preconditions();
    test_user_passes();
    test_refusals();
    test_failed_graph();
    test_micro_steps();
    tsr_op_table_release(ops);
    return 0;
}
