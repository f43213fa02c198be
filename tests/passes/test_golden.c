/* Each pass on a tiny model, against its golden text: tests/golden/PASS.txt is
 * what the plan looks like after the pass. The model has tied weights, two
 * layers, a bias, a residual.
 *
 * After a change that is meant, look at the difference and keep it:
 *
 *   TESSERA_GOLDEN=write build/tests/test_golden && git diff tests/golden */
#include "passes/gpt.h"

#include "tessera/ops.h"

static tsr_op_table *ops;

/* "tests/golden/NAME.txt" beside this file's folder. */
static void golden_path(const char *name, char *path, size_t bytes) {
    const char *folder = strstr(__FILE__, "passes/test_golden.c");
    CHECK(folder != NULL);
    int length = snprintf(path, bytes, "%.*sgolden/%s.txt",
                          (int)(folder - __FILE__), __FILE__, name);
    CHECK(length > 0 && (size_t)length < bytes);
}

static void write_golden(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    CHECK_MESSAGE(file != NULL, "%s", path);
    CHECK(fputs(text, file) >= 0 && fclose(file) == 0);
}

static char *read_golden(const char *path) {
    FILE *file = fopen(path, "r");
    CHECK_MESSAGE(file != NULL, "%s", path);
    size_t capacity = 1 << 20;
    char *text = calloc(capacity, 1);
    CHECK(text != NULL);
    CHECK(fread(text, 1, capacity - 1, file) > 0 && fclose(file) == 0);
    return text;
}

static void check_golden(const tsr_plan *plan, const char *name) {
    char path[512];
    const char *mode = getenv("TESSERA_GOLDEN");
    char *text = text_of(plan);
    golden_path(name, path, sizeof path);
    if (mode && strcmp(mode, "write") == 0)
        write_golden(path, text);
    char *golden = read_golden(path);
    int line = 1;
    size_t at = 0;
    for (; text[at] && text[at] == golden[at]; at++)
        line += text[at] == '\n';
    CHECK_MESSAGE(text[at] == golden[at],
                  "%s:%d: golden '%.70s', after the pass '%.70s'", path, line,
                  golden + at, text + at);
    free(golden);
    tsr_plan_text_release(text);
}

static tsr_value_id matrix(tsr_graph *graph, const char *name, int group,
                           int64_t rows, int64_t columns, tsr_dtype dtype) {
    return tsr_graph_param(
        graph,
        &(tsr_param){
            .name = name,
            .type = {.dtype = dtype, .dims = 2, .shape = {rows, columns}},
            .group = group,
            .init = TSR_INIT_NORMAL,
            .init_value = 0.5,
            .decay = true});
}

/* 2 sequences of 3 tokens; vocabulary 5, 4 channels: no size divides by 3. */
static tsr_graph *tiny_graph(tsr_dtype dtype) {
    tsr_graph *graph;
    tsr_type ids = {.dtype = TSR_I32, .dims = 2, .shape = {2, 3}},
             scalar = {.dtype = TSR_F32, .dims = 1, .shape = {1}};
    CHECK_OK(tsr_graph_create(ops, &graph));
    tsr_value_id tokens =
                     tsr_graph_declare(graph, "tokens", TSR_ROLE_INPUT, &ids),
                 targets =
                     tsr_graph_declare(graph, "targets", TSR_ROLE_INPUT, &ids),
                 loss =
                     tsr_graph_declare(graph, "loss", TSR_ROLE_STATE, &scalar);
    tsr_graph_set_layer(graph, "embed");
    tsr_value_id table = matrix(graph, "table", 0, 5, 4, dtype),
                 x = tsr_embedding(graph, tokens, table);
    tsr_graph_set_layer(graph, "h.0");
    tsr_value_id bias = tsr_graph_param(
        graph, &(tsr_param){.name = "h.0.bias",
                            .type = {.dtype = dtype, .dims = 1, .shape = {4}},
                            .group = 1});
    tsr_value_id y =
        tsr_linear(graph, x, matrix(graph, "h.0.weight", 1, 4, 4, dtype), bias,
                   TSR_WEIGHT_IN_OUT);
    x = tsr_add(graph, tsr_gelu(graph, y), x);
    tsr_graph_set_layer(graph, "head");
    tsr_value_id logits =
        tsr_linear(graph, x, table, (tsr_value_id){-1}, TSR_WEIGHT_OUT_IN);
    tsr_graph_set_loss(
        graph, tsr_cross_entropy(graph, logits, targets, loss, 5, 0.125));
    CHECK_OK(tsr_graph_status(graph));
    return graph;
}

/* All passes over shared weights, one golden text each. */
static void test_passes(void) {
    const tsr_pass *passes[] = {tsr_pass_differentiate(), tsr_pass_shard(),
                                tsr_pass_update(),        tsr_pass_repeat(),
                                tsr_pass_schedule(),      tsr_pass_layout()};
    tsr_plan *plan = plan_of(tiny_graph(TSR_F32), 3, true);
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++) {
        CHECK_OK(passes[i]->run(plan, &gpt_training));
        check_golden(plan, passes[i]->name);
    }
    CHECK_OK(tsr_plan_verify(plan, TSR_STAGE_PLACED));
    tsr_plan_release(plan);
}

/* Over private memory, before bytes are given. */
static void test_prefetch(void) {
    const tsr_pass *passes[] = {tsr_pass_differentiate(), tsr_pass_shard(),
                                tsr_pass_update(), tsr_pass_schedule(),
                                tsr_pass_prefetch()};
    tsr_plan *plan = plan_of(tiny_graph(TSR_F32), 3, false);
    CHECK_OK(tsr_pipeline_run(plan, passes, sizeof passes / sizeof *passes,
                              &gpt_training));
    check_golden(plan, "prefetch");
    tsr_plan_release(plan);
}

/* Copies that are gathered need bytes of their own, and no fences. */
static void test_copies(void) {
    tsr_target target = {.world = 3};
    tsr_plan *plan;
    CHECK_OK(tsr_compile_training(tiny_graph(TSR_F32), &target, &gpt_training,
                                  &plan));
    check_golden(plan, "copies");
    tsr_plan_release(plan);
    CHECK_OK(tsr_compile_forward(tiny_graph(TSR_F32), &target, &plan));
    check_golden(plan, "forward");
    tsr_plan_release(plan);
}

/* Masters apart from what is gathered, and how matrices are multiplied. */
static void test_bf16(void) {
    tsr_target target = {.world = 3,
                         .shared = true,
                         .gather_alias = true,
                         .products = "bf16: by hand"};
    tsr_plan *plan;
    CHECK_OK(tsr_compile_training(tiny_graph(TSR_BF16), &target, &gpt_training,
                                  &plan));
    check_golden(plan, "bf16");
    tsr_plan_release(plan);
    CHECK_OK(tsr_compile_forward(tiny_graph(TSR_BF16), &target, &plan));
    check_golden(plan, "bf16_forward");
    tsr_plan_release(plan);
}

int main(void) {
    CHECK_OK(tsr_op_table_create(&ops));
    test_passes();
    test_prefetch();
    test_copies();
    test_bf16();
    tsr_op_table_release(ops);
    return 0;
}
