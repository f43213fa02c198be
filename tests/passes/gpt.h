/* GPT graphs and their plans, for tests of passes. */
#ifndef TSR_TESTS_GPT_H
#define TSR_TESTS_GPT_H

#include "check.h"
#include "tessera/models.h"
#include "tessera/passes.h"

static const tsr_gpt_config small_gpt = {
    .layers = 2, .heads = 2, .dim = 8, .vocab = 11, .seq = 4, .norm_eps = 1e-5};

static const tsr_training gpt_training = {.micro_steps = 2,
                                          .adamw = {.beta1 = 0.9,
                                                    .beta2 = 0.95,
                                                    .eps = 1e-8,
                                                    .weight_decay = 0.1,
                                                    .max_norm = 1}};

static inline tsr_graph *gpt_graph(const tsr_op_table *ops,
                                   const tsr_gpt_config *config, int64_t batch,
                                   int64_t seq) {
    tsr_graph *graph;
    CHECK_OK(tsr_graph_create(ops, &graph));
    CHECK_OK(tsr_gpt_build(graph, config, batch, seq, 1));
    return graph;
}

/* A plan around the graph with nothing done yet. */
static inline tsr_plan *plan_of(tsr_graph *graph, int world, bool alias) {
    tsr_target target = {
        .world = world, .shared = alias, .gather_alias = alias};
    tsr_plan *plan;
    CHECK_OK(tsr_plan_create(graph, &target, &plan));
    return plan;
}

static inline char *text_of(const tsr_plan *plan) {
    char *text;
    CHECK_OK(tsr_plan_print(plan, &text));
    return text;
}

#endif
