/* Faults planted in a plan's text, and what the verifier must say of them. The
 * plan is a small GPT's, over shared memory, with kernels that want workspaces.
 */
#ifndef TSR_TESTS_FAULTS_H
#define TSR_TESTS_FAULTS_H

#include "graph/plan_edit.h"
#include "tessera/models.h"
#include "tessera/passes.h"

#define FIRST "micro_first"
#define NEXT "micro_next"
#define UPDATE "update"
#define WORKSPACE 256 /* bytes, of each linear */

/* What the verifier must say. */
typedef struct finding {
    const char *rule;
    int line;         /* of the node; NO_NODE, ANY_NODE */
    int value;        /* its label; NO_VALUE, ANY_VALUE */
    const char *also; /* part of the message */
} finding;

enum { NO_NODE = -1, ANY_NODE = -2, NO_VALUE = -1, ANY_VALUE = -2 };

/* Kinds of plans that a fault fits. PADDED: where shards of 32 elements are. */
enum { ALIAS = 1, COPY = 2, BOTH = 3, PADDED = 4 };

typedef struct fault {
    const char *name;
    unsigned modes;
    finding (*plant)(plan_text *text);
} fault;

#define FAULT(plant, modes)                                                    \
    { #plant, modes, plant }

static inline size_t linear_workspace(const void *context,
                                      const tsr_op_view *view) {
    (void)context;
    return strcmp(view->op->name, "linear") == 0 ? WORKSPACE : 0;
}

/* The plan of a model in `dtype` up to `stage`. */
static inline tsr_plan *compiled_plan_in(const tsr_op_table *ops,
                                         tsr_dtype dtype, int world, bool alias,
                                         tsr_stage stage) {
    const tsr_gpt_config config = {.layers = 2,
                                   .heads = 2,
                                   .dim = 8,
                                   .vocab = 11,
                                   .seq = 4,
                                   .norm_eps = 1e-5,
                                   .dtype = dtype};
    static const tsr_training training = {
        .micro_steps = 2,
        .adamw = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .max_norm = 1}};
    tsr_target target = {.world = world,
                         .shared = true,
                         .gather_alias = alias,
                         .workspace = linear_workspace};
    tsr_graph *graph;
    tsr_plan *plan;
    CHECK_OK(tsr_graph_create(ops, &graph));
    CHECK_OK(tsr_gpt_build(graph, &config, 2, 4, 0.125));
    CHECK_OK(
        tsr_compile_training_until(graph, &target, &training, stage, &plan));
    return plan;
}

static inline tsr_plan *compiled_plan(const tsr_op_table *ops, int world,
                                      bool alias, tsr_stage stage) {
    return compiled_plan_in(ops, TSR_F32, world, alias, stage);
}

/* The text of the plan, owned by the caller (tsr_plan_text_release). */
typedef char *(*text_maker)(const tsr_op_table *ops, int world, bool alias);

static inline char *compiled_text(const tsr_op_table *ops, int world,
                                  bool alias) {
    char *text;
    tsr_plan *plan = compiled_plan(ops, world, alias, TSR_STAGE_PLACED);
    CHECK_OK(tsr_plan_print(plan, &text));
    tsr_plan_release(plan);
    return text;
}

/* Parses (which must work) and verifies. */
static inline tsr_status verify_text(const tsr_op_table *ops,
                                     const char *text) {
    tsr_plan *plan;
    CHECK_OK(tsr_plan_parse(ops, text, strlen(text), &plan));
    plan->target.workspace = linear_workspace;
    tsr_status status = tsr_plan_verify(plan, TSR_STAGE_PLACED);
    tsr_plan_release(plan);
    return status;
}

/* The message begins with rule, node and value, and holds the rest. */
static inline void check_message(const char *name, const plan_text *text,
                                 const finding *found) {
    char expected[512], node[160] = "plan";
    const char *message = tsr_last_error(), *value;
    if (found->line >= 0)
        node_name(text, found->line, node);
    snprintf(expected, sizeof expected, "%s: node %s", found->rule,
             found->line == ANY_NODE ? "" : node);
    CHECK_MESSAGE(strncmp(message, expected, strlen(expected)) == 0,
                  "%s: expected '%s...', got '%s'", name, expected, message);
    value = strstr(message, ", value %");
    CHECK_MESSAGE((value != NULL) == (found->value != NO_VALUE), "%s: %s", name,
                  message);
    if (found->value >= 0)
        CHECK_MESSAGE(atoi(value + strlen(", value %")) ==
                          value_id(text, found->value),
                      "%s: expected value %%%d, got '%s'", name,
                      value_id(text, found->value), message);
    CHECK_MESSAGE(strstr(message, found->also) != NULL,
                  "%s: expected '%s' in '%s'", name, found->also, message);
}

static inline void check_fault(const tsr_op_table *ops, const char *base,
                               const fault *planted) {
    plan_text text;
    text_load(&text, base);
    finding found = planted->plant(&text);
    char *edited = text_join(&text);
    CHECK_MESSAGE(strcmp(edited, base) != 0, "%s edits nothing", planted->name);
    tsr_status status = verify_text(ops, edited);
    CHECK_MESSAGE(status == TSR_INVALID_DATA, "%s: got %s", planted->name,
                  status == TSR_OK ? "OK" : tsr_last_error());
    check_message(planted->name, &text, &found);
    free(edited);
    text_release(&text);
}

/* Every fault in every plan of `make` that it fits. */
static inline void check_faults(const tsr_op_table *ops, text_maker make,
                                const fault *faults, size_t count) {
    for (int world = 2; world <= 3; world++)
        for (int alias = 0; alias < 2; alias++) {
            char *base = make(ops, world, alias);
            CHECK_OK(verify_text(ops, base));
            for (size_t i = 0; i < count; i++)
                if ((faults[i].modes & (alias ? ALIAS : COPY)) &&
                    (!(faults[i].modes & PADDED) || world == 3))
                    check_fault(ops, base, &faults[i]);
            tsr_plan_text_release(base);
        }
}

/* ---- waits ---- */

/* Whether node `to` ends up behind `from` without its edge to `skipped`. */
static inline bool is_ordered(const tsr_graph *graph, int from, int to,
                              int skipped) {
    bool *seen = calloc((size_t)to + 1, sizeof *seen), found;
    CHECK(seen != NULL);
    seen[to] = true;
    for (int n = to; n > from; n--) {
        const tsr_node *node = tsr_graph_node_at(graph, (tsr_node_id){n});
        if (!seen[n])
            continue;
        for (int32_t i = 0; i < node->after.count; i++) {
            int before = tsr_graph_after(graph, node)[i].index;
            if (n != to || before != skipped)
                seen[before] = true;
        }
        for (int before = n - 1; before >= 0; before--) {
            const tsr_node *other =
                tsr_graph_node_at(graph, (tsr_node_id){before});
            if (other->section != node->section)
                break;
            if (other->stream != node->stream)
                continue;
            seen[before] = true;
            break;
        }
    }
    found = seen[from];
    free(seen);
    return found;
}

static inline void check_order_message(const char *text) {
    static const char *const rules[] = {
        "use before wait: ", "overwritten while read: ",
        "reused without wait: "};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (strncmp(tsr_last_error(), rules[i], strlen(rules[i])) == 0)
            return;
    CHECK_MESSAGE(false, "%s: %s", text, tsr_last_error());
}

/* Every `after` of the plan, taken away alone, is missed, unless others give
 * the same order: the passes add none for nothing. */
static inline int check_every_after(const tsr_op_table *ops, const char *base) {
    plan_text text;
    tsr_plan *plan;
    int needed = 0, n = 0;
    CHECK_OK(tsr_plan_parse(ops, base, strlen(base), &plan));
    text_load(&text, base);
    for (int line = 0; line < text.count; line++) {
        if (!is_node(text.line[line]))
            continue;
        const tsr_node *node = tsr_graph_node_at(plan->graph, (tsr_node_id){n});
        for (int32_t i = 0; i < node->after.count; i++) {
            int before = tsr_graph_after(plan->graph, node)[i].index;
            char *kept = copy_text(text.line[line], strlen(text.line[line]));
            bool ordered = is_ordered(plan->graph, before, n, before);
            drop_one_after(&text, line, i);
            char *edited = text_join(&text);
            tsr_status status = verify_text(ops, edited);
            CHECK_MESSAGE((status == TSR_OK) == ordered, "after=n%d: %s",
                          before, kept);
            if (status != TSR_OK)
                check_order_message(kept);
            needed += status != TSR_OK;
            free(edited);
            free(text.line[line]);
            text.line[line] = kept;
        }
        n++;
    }
    text_release(&text);
    tsr_plan_release(plan);
    return needed;
}

#endif
