#include "cli/plan_file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"
#include "graph/graph.h"
#include "train/file.h"

/* Bytes; the text of gpt2-xl's plan has 2 MB. */
#define MOST_BYTES ((size_t)1 << 30)

static const char *const stage_names[] = {
    [TSR_STAGE_GRAPH] = "graph",
    [TSR_STAGE_SHARDED] = "sharded",
    [TSR_STAGE_SCHEDULED] = "scheduled",
    [TSR_STAGE_PLACED] = "placed",
};

const char *plan_stage_name(tsr_stage stage) { return stage_names[stage]; }

tsr_status plan_stage_parse(const char *name, tsr_stage *out_stage) {
    for (int s = TSR_STAGE_SHARDED; s <= TSR_STAGE_PLACED; s++) {
        *out_stage = (tsr_stage)s;
        if (strcmp(name, stage_names[s]) == 0)
            return TSR_OK;
    }
    return tsr_error(TSR_INVALID_ARGUMENT,
                     "--stage '%s' is unknown; known: sharded, scheduled, "
                     "placed",
                     name);
}

tsr_status plan_file_write(const tsr_plan *plan, const char *option,
                           const char *path) {
    char *text;
    FILE *file;
    TSR_TRY(tsr_plan_print(plan, &text));
    tsr_status status = tsr_file_open_output(path, false, &file);
    bool written = file && fputs(text, file) >= 0;
    if (file && (fclose(file) != 0 || !written))
        status = tsr_file_error("write", path, errno);
    tsr_plan_text_release(text);
    return status == TSR_OK ? TSR_OK : tsr_error_at(status, "%s", option);
}

/* ---- whether a plan is of the same thing ---- */

typedef struct matcher {
    const tsr_plan *plan, *compiled;
    const tsr_graph *graph, *model; /* theirs */
} matcher;

static tsr_status check_target(const matcher *self) {
    const tsr_target *plan = &self->plan->target,
                     *run = &self->compiled->target;
    if (plan->world != run->world)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "it is a plan for %d ranks, --ranks is %d",
                         plan->world, run->world);
    if (plan->shared != run->shared)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "its ranks %s memory (shared=%d), those of this "
                         "command %s",
                         plan->shared ? "share" : "do not share", plan->shared,
                         run->shared ? "do" : "do not");
    if (plan->gather_alias != run->gather_alias)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "it was compiled with --gather %s; give that here too",
                         plan->gather_alias ? "alias" : "copy");
    return TSR_OK;
}

/* A plan says its type in its parameters only. */
static tsr_status check_dtype(const matcher *self) {
    const tsr_param_id first = {0};
    if (tsr_graph_param_count(self->graph) == 0 ||
        tsr_graph_param_count(self->model) == 0)
        return TSR_OK; /* another model: check_params says so */
    tsr_dtype plan = tsr_graph_param_at(self->graph, first)->type.dtype,
              run = tsr_graph_param_at(self->model, first)->type.dtype;
    if (plan != run)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "it was compiled with --dtype %s, this run's is %s",
                         tsr_dtype_name(plan), tsr_dtype_name(run));
    return TSR_OK;
}

static tsr_status check_products(const matcher *self) {
    const tsr_target *plan = &self->plan->target,
                     *run = &self->compiled->target;
    if (plan->products && strcmp(plan->products, run->products) != 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "its products are \"%s\", this run's \"%s\": set "
                         "TESSERA_BF16 as it was there, or take its products "
                         "line out",
                         plan->products, run->products);
    return TSR_OK;
}

static bool same_param(const tsr_param *a, const tsr_param *b) {
    return strcmp(a->name, b->name) == 0 &&
           tsr_type_equal(&a->type, &b->type) && a->granule == b->granule &&
           a->init == b->init && a->init_value == b->init_value &&
           a->decay == b->decay;
}

static tsr_status check_params(const matcher *self) {
    int count = tsr_graph_param_count(self->model);
    if (tsr_graph_param_count(self->graph) != count)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "it has %d parameters, the model has %d",
                         tsr_graph_param_count(self->graph), count);
    for (int p = 0; p < count; p++) {
        const tsr_param *param =
            tsr_graph_param_at(self->model, (tsr_param_id){p});
        if (!same_param(param,
                        tsr_graph_param_at(self->graph, (tsr_param_id){p})))
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "its parameter p%d is not the model's, '%s': "
                             "name, type, granule, initial value and decay "
                             "must be",
                             p, param->name);
    }
    return TSR_OK;
}

/* Each declared value of `from` is one of `in`, the same but for its place. */
static tsr_status check_declared(const tsr_graph *from, const tsr_graph *in,
                                 const char *whose) {
    for (int v = 0; v < tsr_graph_value_count(from); v++) {
        const tsr_value *value = tsr_graph_value(from, (tsr_value_id){v});
        if (value->producer.index >= 0)
            continue;
        tsr_value_id found = tsr_graph_find(in, value->name);
        const tsr_value *other =
            found.index < 0 ? NULL : tsr_graph_value(in, found);
        if (tsr_graph_find(from, value->name).index != v)
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "'%s' is declared twice in %s", value->name,
                             whose);
        if (!other || !tsr_type_equal(&value->type, &other->type) ||
            value->role != other->role ||
            value->param.index != other->param.index)
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "the %s '%s' of %s is not in the other, or has "
                             "another type, role or parameter there",
                             tsr_role_name(value->role), value->name, whose);
    }
    return TSR_OK;
}

static bool same_attrs(const matcher *self, const tsr_node *a,
                       const tsr_node *b) {
    const tsr_attr *x = tsr_graph_attrs(self->model, a),
                   *y = tsr_graph_attrs(self->graph, b);
    if (a->attrs.count != b->attrs.count)
        return false;
    for (int32_t i = 0; i < a->attrs.count; i++)
        if (strcmp(x[i].name, y[i].name) != 0 || x[i].is_real != y[i].is_real ||
            (x[i].is_real ? x[i].real != y[i].real
                          : x[i].integer != y[i].integer))
            return false;
    return true;
}

static bool same_node(const matcher *self, const tsr_node *a,
                      const tsr_node *b) {
    return a->section == b->section &&
           strcmp(tsr_graph_op(self->model, a)->name,
                  tsr_graph_op(self->graph, b)->name) == 0 &&
           strcmp(a->layer, b->layer) == 0 && same_attrs(self, a, b);
}

/* The settings of a run (rates of decay, clipping, the scale of the loss,
 * heads) are attributes of nodes: each node of the model that has any is in the
 * plan, wherever. The plan may have more. Cost: about linear where the order is
 * much the same. */
static tsr_status check_settings(const matcher *self) {
    int32_t count = tsr_graph_node_count(self->graph), next = 0;
    bool *taken; /* (count) stands for a node of the model */
    tsr_status status = TSR_OK;
    TSR_TRY(tsr_alloc((size_t)count, sizeof *taken, (void **)&taken));
    for (int32_t n = 0; n < tsr_graph_node_count(self->model); n++) {
        const tsr_node *node = tsr_graph_node_at(self->model, (tsr_node_id){n});
        int32_t looked = 0;
        if (node->attrs.count == 0)
            continue;
        for (; looked < count; looked++, next = (next + 1) % count)
            if (!taken[next] &&
                same_node(self, node,
                          tsr_graph_node_at(self->graph, (tsr_node_id){next})))
                break;
        if (looked == count) {
            status = tsr_error(
                TSR_INVALID_ARGUMENT,
                "it has no %s of layer '%s' in section %s with the attributes "
                "that this run's options give it: were model, --batch, "
                "--accumulate, --clip, --beta1, --beta2 or --weight-decay "
                "others?",
                tsr_graph_op(self->model, node)->name, node->layer,
                tsr_section_name(node->section));
            break;
        }
        taken[next] = true;
    }
    tsr_free(taken);
    return status;
}

/* A section too many would never be walked: one that the model has not. */
static tsr_status check_sections(const matcher *self) {
    bool there[2][TSR_SECTIONS] = {{false}};
    for (int32_t n = 0; n < tsr_graph_node_count(self->graph); n++)
        there[0][tsr_graph_node_at(self->graph, (tsr_node_id){n})->section] =
            true;
    for (int32_t n = 0; n < tsr_graph_node_count(self->model); n++)
        there[1][tsr_graph_node_at(self->model, (tsr_node_id){n})->section] =
            true;
    for (int s = 0; s < TSR_SECTIONS; s++)
        if (there[0][s] != there[1][s])
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "it has %s section %s: --accumulate was another",
                             there[0][s] ? "a" : "no",
                             tsr_section_name((tsr_section)s));
    return TSR_OK;
}

static tsr_status check_fits(const tsr_plan *plan, const tsr_plan *compiled) {
    matcher self = {.plan = plan,
                    .compiled = compiled,
                    .graph = plan->graph,
                    .model = compiled->graph};
    TSR_TRY(check_target(&self));
    TSR_TRY(check_dtype(&self));
    TSR_TRY(check_products(&self));
    TSR_TRY(check_params(&self));
    TSR_TRY(check_declared(self.model, self.graph, "the model"));
    TSR_TRY(check_declared(self.graph, self.model, "the file"));
    TSR_TRY(check_sections(&self));
    return check_settings(&self);
}

tsr_status plan_file_read(const char *path, const tsr_plan *compiled,
                          tsr_plan **out_plan) {
    const tsr_target *target = &compiled->target;
    tsr_status status = TSR_OK;
    tsr_plan *plan = NULL;
    char *text = NULL;
    size_t length;
    *out_plan = NULL;
    TSR_TRY_GOTO(tsr_file_read(path, MOST_BYTES, &text, &length));
    TSR_TRY_GOTO(
        tsr_plan_parse(tsr_graph_ops(compiled->graph), text, length, &plan));
    TSR_TRY_GOTO(check_fits(plan, compiled));
    if (target->memory)
        plan->target.memory = target->memory;
    if (target->host_memory)
        plan->target.host_memory = target->host_memory;
    /* The same, or not said. */
    plan->target.products = tsr_graph_intern(plan->graph, target->products,
                                             strlen(target->products));
    TSR_TRY_GOTO(tsr_graph_status(plan->graph));
    plan->target.prefetch = target->prefetch;
    plan->target.workspace = target->workspace;
    plan->target.workspace_context = target->workspace_context;
    TSR_TRY_GOTO(tsr_plan_complete(plan));
    *out_plan = plan;
    plan = NULL;
done:
    tsr_plan_release(plan);
    tsr_free(text);
    return status == TSR_OK ? TSR_OK : tsr_error_at(status, "%s", path);
}
