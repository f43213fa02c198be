/* Bytes: little waste over the lower bound, the same every time, within the
 * budget, in place only where that is safe. */
#include "passes/gpt.h"

#include "graph/graph.h"
#include "tessera/ops.h"

static tsr_op_table *ops;

static tsr_status compile_gpt(const char *name, int64_t batch, int64_t seq,
                              const tsr_target *target, tsr_plan **out_plan) {
    tsr_gpt_config config;
    CHECK_OK(tsr_gpt_preset(name, &config));
    return tsr_compile_training(gpt_graph(ops, &config, batch, seq), target,
                                &gpt_training, out_plan);
}

/* ---- waste ---- */

static void check_same_plan(const tsr_plan *a, const tsr_plan *b) {
    char *text = text_of(a), *again = text_of(b);
    uint64_t hash, hash_again;
    CHECK_OK(tsr_plan_hash(a, &hash));
    CHECK_OK(tsr_plan_hash(b, &hash_again));
    CHECK(strcmp(text, again) == 0 && hash == hash_again);
    CHECK(memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0 &&
          a->live_bytes == b->live_bytes);
    tsr_plan_text_release(text);
    tsr_plan_text_release(again);
}

static void check_waste(int64_t batch, int64_t seq, int world, bool alias) {
    tsr_target target = {
        .world = world, .shared = alias, .gather_alias = alias};
    tsr_plan *plan, *again;
    CHECK_OK(compile_gpt("gpt2", batch, seq, &target, &plan));
    CHECK_OK(compile_gpt("gpt2", batch, seq, &target, &again));
    check_same_plan(plan, again);
    size_t bytes =
        plan->bytes[TSR_SPACE_TRANSIENT] + plan->bytes[TSR_SPACE_GRADS];
    CHECK(plan->live_bytes > 0 && bytes >= plan->live_bytes);
    double waste =
        100.0 * (double)(bytes - plan->live_bytes) / (double)plan->live_bytes;
    printf("gpt2 %lld x %4lld, world %d, %s: %6.1f MiB, waste %.2f %%\n",
           (long long)batch, (long long)seq, world, alias ? "alias" : "copy ",
           (double)bytes / (1 << 20), waste);
    CHECK(waste <= 5);
    tsr_plan_release(plan);
    tsr_plan_release(again);
}

static void test_waste(void) {
    static const int64_t shapes[][2] = {{2, 64}, {4, 256}, {1, 1024}};
    static const int worlds[] = {1, 2, 8};
    for (int s = 0; s < 3; s++)
        for (int w = 0; w < 3; w++)
            for (int alias = 0; alias < 2; alias++)
                check_waste(shapes[s][0], shapes[s][1], worlds[w], alias);
}

/* Different batches are different plans. */
static void test_hash_differs(void) {
    tsr_target target = {.world = 2};
    uint64_t hashes[2];
    for (int i = 0; i < 2; i++) {
        tsr_plan *plan;
        CHECK_OK(compile_gpt("gpt2-tiny", 1 + i, 8, &target, &plan));
        CHECK_OK(tsr_plan_hash(plan, &hashes[i]));
        tsr_plan_release(plan);
    }
    CHECK(hashes[0] != hashes[1]);
}

/* ---- budget ---- */

static void test_budget(void) {
    tsr_target target = {.world = 2, .shared = true, .gather_alias = true};
    tsr_plan *plan;
    char needed[64];
    CHECK_OK(compile_gpt("gpt2-tiny", 2, 16, &target, &plan));
    target.memory = tsr_plan_rank_bytes(plan);
    CHECK(target.memory < tsr_plan_host_bytes(plan));
    snprintf(needed, sizeof needed, "the plan needs %zu bytes (",
             target.memory);
    tsr_plan_release(plan);
    CHECK_OK(compile_gpt("gpt2-tiny", 2, 16, &target, &plan));
    tsr_plan_release(plan);
    target.memory--;
    CHECK_FAILS(compile_gpt("gpt2-tiny", 2, 16, &target, &plan),
                TSR_OUT_OF_MEMORY, needed);
    CHECK(plan == NULL &&
          strncmp(tsr_last_error(), needed, strlen(needed)) == 0);
    CHECK(strstr(tsr_last_error(), "a rank, the budget is") != NULL);
}

/* ---- places ---- */

static size_t workspace_of(const void *context, const tsr_op_view *view) {
    (void)context;
    return strcmp(view->op->name, "attention") == 0 ? 1000 : 0;
}

/* Workspaces are planned, rounded up, and everything is aligned. */
static void test_alignment(void) {
    tsr_target target = {
        .world = 3, .alignment = 4096, .workspace = workspace_of};
    tsr_plan *plan;
    int with_workspace = 0;
    CHECK_OK(compile_gpt("gpt2-tiny", 1, 8, &target, &plan));
    const tsr_graph *graph = plan->graph;
    for (int32_t v = 0; v < tsr_graph_value_count(graph); v++)
        CHECK(tsr_graph_value(graph, (tsr_value_id){v})->offset % 4096 == 0);
    for (int32_t n = 0; n < tsr_graph_node_count(graph); n++) {
        const tsr_node *node = tsr_graph_node_at(graph, (tsr_node_id){n});
        bool attention = tsr_node_is(graph, node, "attention");
        CHECK(node->workspace_bytes == (attention ? 4096 : 0));
        CHECK(node->workspace_offset % 4096 == 0);
        with_workspace += attention;
    }
    CHECK(with_workspace == 4);
    tsr_plan_release(plan);
}

/* y = x + linear(x) with a frozen weight: the gradient of x starts as dy
 * itself, which the product still reads while it writes. Not in place, then;
 * and verify knows. */
static void test_residual_around_linear(void) {
    tsr_graph *graph;
    tsr_type type = {.dtype = TSR_F32, .dims = 2, .shape = {4, 4}},
             ids = {.dtype = TSR_I32, .dims = 1, .shape = {4}},
             scalar = {.dtype = TSR_F32, .dims = 1, .shape = {1}};
    tsr_target target = {.world = 2};
    tsr_plan *plan;
    CHECK_OK(tsr_graph_create(ops, &graph));
    tsr_value_id none = {-1}, w, frozen, targets, loss,
                 x = tsr_graph_declare(graph, "x", TSR_ROLE_INPUT, &type);
    w = tsr_graph_param(graph, &(tsr_param){.name = "w", .type = type});
    frozen = tsr_graph_declare(graph, "frozen", TSR_ROLE_CONSTANT, &type);
    x = tsr_linear(graph, x, w, none, TSR_WEIGHT_IN_OUT);
    x = tsr_add(graph, tsr_linear(graph, x, frozen, none, TSR_WEIGHT_IN_OUT),
                x);
    targets = tsr_graph_declare(graph, "targets", TSR_ROLE_INPUT, &ids);
    loss = tsr_graph_declare(graph, "loss", TSR_ROLE_STATE, &scalar);
    tsr_graph_set_loss(graph,
                       tsr_cross_entropy(graph, x, targets, loss, 4, 0.25));
    CHECK_OK(tsr_compile_training(graph, &target, &gpt_training, &plan));
    for (int32_t n = 0; n < tsr_graph_node_count(plan->graph); n++) {
        const tsr_node *node = tsr_graph_node_at(plan->graph, (tsr_node_id){n});
        const tsr_value_id *in = tsr_graph_inputs(plan->graph, node);
        if (!tsr_node_is(plan->graph, node, "linear_grad_input"))
            continue;
        tsr_value *dx = tsr_value_of(plan->graph,
                                     tsr_graph_outputs(plan->graph, node)[0]),
                  *dy = tsr_value_of(plan->graph, in[0]);
        CHECK(node->inputs.count == 3 && in[0].index == in[2].index);
        CHECK(dx->offset != dy->offset);
        dx->offset = dy->offset;
        CHECK_FAILS(tsr_plan_verify(plan, TSR_STAGE_PLACED), TSR_INVALID_DATA,
                    "two live values on one byte: node n");
        tsr_plan_release(plan);
        return;
    }
    CHECK(false);
}

/* Plans without a backward: evaluation, and decoding with caches as states. */
static void test_forward(void) {
    for (int alias = 0; alias < 2; alias++) {
        tsr_target target = {
            .world = 3, .shared = alias, .gather_alias = alias};
        tsr_graph *graph;
        tsr_plan *plan;
        CHECK_OK(tsr_compile_forward(gpt_graph(ops, &small_gpt, 2, 3), &target,
                                     &plan));
        CHECK(plan->bytes[TSR_SPACE_GRADS] == 0);
        tsr_plan_release(plan);
        CHECK_OK(tsr_graph_create(ops, &graph));
        CHECK_OK(tsr_gpt_build_decode(graph, &small_gpt, 4));
        CHECK_OK(tsr_compile_forward(graph, &target, &plan));
        CHECK_OK(tsr_plan_verify(plan, TSR_STAGE_PLACED));
        tsr_plan_release(plan);
    }
}

int main(void) {
    CHECK_OK(tsr_op_table_create(&ops));
    test_waste();
    test_hash_differs();
    test_budget();
    test_alignment();
    test_residual_around_linear();
    test_forward();
    tsr_op_table_release(ops);
    return 0;
}
