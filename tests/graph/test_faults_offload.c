/* The verifier catches planted faults of offload: the text of a plan that keeps
 * activations, moments and (where weights are gathered) shards on the host is
 * edited, parsed, and must be rejected with rule, node and value. */
#include "graph/faults.h"
#include "graph/offload_edit.h"

#define MOMENT "h.0.attn.c_attn.weight.exp_avg"
#define SHARD "h.1.attn.c_proj.weight"

/* The plan with everything on the host that can be, placed. */
static char *offloaded_text(const tsr_op_table *ops, int world, bool alias) {
    char *printed, *joined;
    plan_text text;
    tsr_plan *plan = compiled_plan(ops, world, alias, TSR_STAGE_SHARDED);
    CHECK_OK(tsr_plan_print(plan, &printed));
    tsr_plan_release(plan);
    text_load(&text, printed);
    tsr_plan_text_release(printed);
    offload_activations(&text);
    moments_to_host(&text);
    if (!alias)
        shards_to_host(&text);
    joined = text_join(&text);
    text_release(&text);
    CHECK_OK(tsr_plan_parse(ops, joined, strlen(joined), &plan));
    free(joined);
    plan->target.workspace = linear_workspace;
    CHECK_OK(tsr_plan_complete(plan));
    CHECK_OK(tsr_plan_print(plan, &printed));
    tsr_plan_release(plan);
    return printed;
}

/* ---- finding lines ---- */

/* The node with this op that takes the value, in the section. */
static int taker(const plan_text *t, const char *section, const char *op,
                 int label) {
    for (int nth = 0;; nth++) {
        int line = text_find(t, section, op, NULL, nth);
        if (line_takes(t, line, label))
            return line;
    }
}

static int reload_of(const plan_text *t, const char *section,
                     const char *name) {
    return taker(t, section, "reload", value_named(t, name));
}
static int offload_into(const plan_text *t, const char *name) {
    return taker(t, UPDATE, "offload", value_named(t, name));
}

/* Of an activation, what a GELU took: the offload, and its reload. */
static int some_offload(const plan_text *t) {
    int value = input_of(t, text_find(t, FIRST, "gelu", "h.0.mlp", 0), 0);
    return taker(t, FIRST, "offload", value);
}
static int its_reload(const plan_text *t, int offload) {
    return taker(t, FIRST, "reload", output_of(t, offload, 0));
}

/* ---- places ---- */

static finding host_value_used(plan_text *t) {
    int offload = some_offload(t), reload = its_reload(t, offload),
        copy = output_of(t, reload, 0), use = reload + 1;
    while (!line_takes(t, use, copy))
        use++;
    set_input(t, use, input_index(t, use, copy), output_of(t, offload, 0));
    return (finding){"value on the host", use, output_of(t, offload, 0),
                     "runs on the device: reload it first"};
}

static finding host_moment_used(plan_text *t) {
    int reload = reload_of(t, UPDATE, MOMENT),
        adamw = taker(t, UPDATE, "adamw", output_of(t, reload, 0));
    set_input(t, adamw, 2, value_named(t, MOMENT));
    return (finding){"value on the host", adamw, value_named(t, MOMENT),
                     "adamw runs on the device"};
}

static finding host_shard_gathered(plan_text *t) {
    int reload = reload_of(t, FIRST, SHARD),
        gather = taker(t, FIRST, "gather", output_of(t, reload, 0));
    set_input(t, gather, input_index(t, gather, output_of(t, reload, 0)),
              value_named(t, SHARD));
    return (finding){"value on the host", gather, value_named(t, SHARD),
                     "gather runs on the device"};
}

static finding offloaded_again(plan_text *t) {
    int first = some_offload(t),
        again = clone_node(t, its_reload(t, first), first + 1);
    text_replace(t, again, "reload(", "offload(");
    text_replace(t, again, "on=copy_in", "on=copy_out");
    return (finding){"value on the host", again, output_of(t, first, 0),
                     "it is there already"};
}

static finding reload_of_the_device(plan_text *t) {
    int offload = some_offload(t), reload = its_reload(t, offload);
    set_input(t, reload, 0, input_of(t, offload, 0));
    return (finding){"wrong place", reload, input_of(t, offload, 0),
                     "it is on the device, a reload takes"};
}

static finding offload_into_the_device(plan_text *t) {
    int offload = offload_into(t, MOMENT);
    set_input(t, offload, 1, value_named(t, "h.0.attn.c_attn.weight.grad"));
    return (finding){"wrong place", offload, input_of(t, offload, 1),
                     "an offload writes over what is on the host"};
}

static finding host_word_forgotten(plan_text *t) {
    int offload = some_offload(t), value = output_of(t, offload, 0);
    edit_value(t, value, " host @host_transient", " @transient");
    return (finding){"wrong place", offload, value,
                     "offload makes values on the host"};
}

static finding host_word_too_many(plan_text *t) {
    int reload = its_reload(t, some_offload(t)),
        value = output_of(t, reload, 0);
    edit_value(t, value, " @transient", " host @host_transient");
    return (finding){"wrong place", reload, value,
                     "reload makes values on the device"};
}

static finding kernel_on_the_host(plan_text *t) {
    int gelu = text_find(t, FIRST, "gelu", "h.0.mlp", 0),
        value = output_of(t, gelu, 0);
    edit_value(t, value, " @transient", " host @host_transient");
    return (finding){"wrong place", gelu, value,
                     "gelu makes values on the device"};
}

static finding gradient_on_the_host(plan_text *t) {
    int grad = text_find(t, FIRST, "bias_grad", "h.0.mlp", 0),
        value = output_of(t, grad, 0);
    edit_value(t, value, " full_grad", " full_grad host");
    return (finding){"wrong place", grad, value,
                     "a full_grad is never on the host"};
}

static finding declared_on_the_device(plan_text *t) {
    int value = value_named(t, MOMENT), reload = reload_of(t, UPDATE, MOMENT);
    edit_value(t, value, " host", "");
    return (finding){"wrong place", reload, value, "it is on the device"};
}

static finding copy_loses_its_role(plan_text *t) {
    int reload = reload_of(t, UPDATE, MOMENT), value = output_of(t, reload, 0);
    edit_value(t, value, " state", "");
    return (finding){"wrong role", reload, value, "it is a copy of"};
}

/* The parameter in the definition of a state. */
static int param_of_state(const plan_text *t, int value) {
    int line;
    const char *at = strstr(definition_of(t, value, &line), " state ");
    at = at ? strstr(at, " p") : NULL;
    CHECK_MESSAGE(at != NULL, "no state: %s", t->line[line]);
    return atoi(at + 2);
}

/* Read as another parameter's moment of the same shape. */
static finding copy_of_another_parameter(plan_text *t) {
    char old[16], with[16];
    int reload = reload_of(t, UPDATE, MOMENT), value = output_of(t, reload, 0);
    snprintf(old, sizeof old, " p%d ", param_of_state(t, value));
    snprintf(
        with, sizeof with, " p%d ",
        param_of_state(t, value_named(t, "h.1.attn.c_attn.weight.exp_avg")));
    edit_value(t, value, old, with);
    return (finding){"wrong role", reload, value, "it is a copy of"};
}

static finding copy_of_another_shape(plan_text *t) {
    int offload = some_offload(t), value = output_of(t, offload, 0);
    edit_value(t, value, "f32[2, ", "f32[3, ");
    return (finding){"type mismatch", offload, NO_VALUE, "follows from"};
}

static finding copy_on_compute(plan_text *t) {
    int offload = some_offload(t);
    text_replace(t, offload, " on=copy_out", "");
    return (finding){"wrong stream", offload, NO_VALUE, "copy_out"};
}

/* ---- data flow ---- */

static finding reload_before_offload(plan_text *t) {
    int offload = some_offload(t), reload = its_reload(t, offload),
        value = output_of(t, offload, 0);
    reload = text_move(t, reload, offload);
    return (finding){"use before definition", reload, value, "offload"};
}

static finding moment_read_after_offload(plan_text *t) {
    int offload = offload_into(t, MOMENT),
        again = clone_node(t, reload_of(t, UPDATE, MOMENT), offload + 1);
    return (finding){"use after overwrite", again, value_named(t, MOMENT),
                     "offload"};
}

/* One parameter's moment over another's of the same shape. */
static finding into_another_parameter(plan_text *t) {
    int one = offload_into(t, MOMENT),
        two = offload_into(t, "h.1.attn.c_attn.weight.exp_avg"),
        value = input_of(t, two, 1);
    set_input(t, two, 1, input_of(t, one, 1));
    set_input(t, one, 1, value);
    one = one < two ? one : two;
    return (finding){"wrong role", one, output_of(t, one, 0),
                     "of the same parameter"};
}

static finding moments_swapped(plan_text *t) {
    int one = offload_into(t, MOMENT), two = offload_into(t, MOMENT "_sq"),
        into = input_of(t, one, 1);
    set_input(t, one, 1, input_of(t, two, 1));
    set_input(t, two, 1, into);
    one = one < two ? one : two;
    return (finding){"wrong source", one, input_of(t, one, 1),
                     "which did not come from it"};
}

static finding moment_never_brought_home(plan_text *t) {
    int offload = offload_into(t, MOMENT), line;
    int lost = input_of(t, offload, 0);
    drop_node(t, offload);
    definition_of(t, lost, &line);
    return (finding){"write lost", line, lost, "\"" MOMENT "\""};
}

static finding shard_never_brought_home(plan_text *t) {
    int offload = offload_into(t, SHARD), line;
    int lost = input_of(t, offload, 0);
    drop_node(t, offload);
    definition_of(t, lost, &line);
    return (finding){"write lost", line, lost, "\"" SHARD "\""};
}

/* Brought to the host, but not home. */
static finding moment_brought_elsewhere(plan_text *t) {
    int offload = offload_into(t, MOMENT), line;
    int lost = input_of(t, offload, 0);
    drop_last_input(t, offload);
    edit_value(t, output_of(t, offload, 0), "host_persistent",
               "host_transient");
    definition_of(t, lost, &line);
    return (finding){"write lost", line, lost, "\"" MOMENT "\""};
}

/* Copies the value to the host, and back unless `back` is NULL, before a line;
 * returns the line after. */
static int insert_copies(plan_text *t, int line, int label, int *back) {
    int at, host = fresh_label(t);
    char type[64];
    const char *text = strstr(definition_of(t, label, &at), " f32["),
               *end = strchr(text, '@');
    snprintf(type, sizeof type, "%.*s", (int)(end - text - 2), text + 1);
    text_insert(t, line++,
                back ? "n%d: %%%d %s @host_transient+0 = offload(%%%d) "
                       "on=copy_out"
                     : "n%d: %%%d %s host @host_transient+0 = offload(%%%d) "
                       "on=copy_out",
                fresh_label(t), host, type, label);
    if (!back)
        return line;
    /* The word goes between role and parameter. */
    char *role = strstr(t->line[line - 1], " p");
    CHECK(role != NULL);
    text_splice(t, line - 1, role, 0, " host");
    *back = fresh_label(t);
    text_insert(t, line++,
                "n%d: %%%d %s @transient+0 = reload(%%%d) on=copy_in",
                fresh_label(t), *back, type, host);
    return line;
}

/* A gradient that is on the device is reduced into a copy. */
static finding reduced_into_a_copy(plan_text *t) {
    int reduce = text_find(t, FIRST, "reduce", "h.0.attn", 0),
        nth = operand_count(t, reduce, true) / 2, copy;
    reduce = insert_copies(t, reduce, input_of(t, reduce, nth), &copy);
    set_input(t, reduce, nth, copy);
    return (finding){"write lost", reduce, output_of(t, reduce, 0),
                     "which is on the device, where nothing writes it back"};
}

/* A copy that nobody reads is no reader. */
static finding norm_read_by_a_copy_alone(plan_text *t) {
    int sum = text_find(t, UPDATE, "sum", NULL, 0), clip,
        label = input_of(t, sum, operand_count(t, sum, true) - 1);
    drop_last_input(t, sum);
    insert_copies(t, sum, label, NULL);
    clip = text_find(t, UPDATE, "clip_scale", NULL, 0);
    return (finding){"norm incomplete", clip, label,
                     "no node of the update reads it"};
}

/* The moment as it was before the update is brought home after it. */
static finding stale_moment_brought_home(plan_text *t) {
    int reload = reload_of(t, UPDATE, MOMENT),
        offload = offload_into(t, MOMENT);
    set_input(t, offload, 0, output_of(t, reload, 0));
    return (finding){"use after overwrite", offload, output_of(t, reload, 0),
                     "adamw"};
}

static finding shard_written_in_micro_step(plan_text *t) {
    int reload = reload_of(t, FIRST, SHARD), end = text_section_end(t, FIRST),
        offload = clone_node(t, offload_into(t, SHARD), end);
    drop_after(t, offload);
    set_input(t, offload, 0, output_of(t, reload, 0));
    return (finding){"shard written in a micro-step", offload,
                     output_of(t, offload, 0), ""};
}

static finding shard_updated_twice(plan_text *t) {
    int reload = reload_of(t, UPDATE, SHARD),
        adamw = taker(t, UPDATE, "adamw", output_of(t, reload, 0)),
        again = clone_node(t, adamw, adamw + 1);
    for (int i = 0; i < 3; i++) {
        static const int over[] = {0, 2, 3};
        use_instead(t, again + 1, output_of(t, adamw, i),
                    output_of(t, again, i));
        set_input(t, again, over[i], output_of(t, adamw, i));
    }
    return (finding){"shard updated twice", again, output_of(t, again, 0), ""};
}

/* The weights themselves, in the shared segment, must be what is aliased. */
static finding gather_of_a_copy(plan_text *t) {
    int gather = text_find(t, FIRST, "gather", "h.0.attn", 0),
        shard = input_of(t, gather, 0), line, host, copy;
    char type[64];
    const char *at = strchr(definition_of(t, shard, &line), 'f');
    snprintf(type, sizeof type, "%.*s param_shard",
             (int)(strchr(at, ']') + 1 - at), at);
    const char *param = strstr(at, " p2") ? "p2" : NULL;
    CHECK_MESSAGE(param != NULL, "%s", at);
    host = fresh_label(t);
    text_insert(t, gather++,
                "n%d: %%%d %s host %s @host_transient+0 = offload(%%%d) "
                "on=copy_out",
                fresh_label(t), host, type, param, shard);
    copy = fresh_label(t);
    text_insert(t, gather++,
                "n%d: %%%d %s %s @transient+0 = reload(%%%d) on=copy_in",
                fresh_label(t), copy, type, param, host);
    set_input(t, gather, 0, copy);
    return (finding){"gather outside the weights", gather, copy,
                     "compile with gather copy"};
}

/* ---- waits ---- */

static finding offload_without_event(plan_text *t) {
    int offload = text_find(t, FIRST, "offload", NULL, 0);
    drop_after(t, offload);
    return (finding){"use before wait", offload, input_of(t, offload, 0),
                     "on the compute stream"};
}

static finding reload_without_event(plan_text *t) {
    int reload = reload_of(t, UPDATE, MOMENT),
        adamw = taker(t, UPDATE, "adamw", output_of(t, reload, 0));
    drop_after(t, adamw);
    return (finding){"use before wait", adamw, ANY_VALUE,
                     "on the copy_in stream"};
}

/* The bytes of what is offloaded get a new owner while the copy may still read
 * them: the wait for it is taken away. */
static finding source_reused_before_copy(plan_text *t) {
    for (int line = text_line(t, "section " FIRST) + 1; is_node(t->line[line]);
         line++) {
        const char *after = after_of(t, line);
        if (!after || strstr(t->line[line], "on="))
            continue;
        after += strlen(" after=");
        for (int nth = 0; *after == 'n'; nth++) {
            int label = atoi(after + 1), waited = 0;
            while (!is_node(t->line[waited]) || node_label(t, waited) != label)
                waited++;
            if (line_is(t->line[waited], "offload")) {
                drop_one_after(t, line, nth);
                return (finding){"reused without wait", line, ANY_VALUE,
                                 "on the copy_out stream"};
            }
            after += strcspn(after, ", ");
            after += *after == ',';
        }
    }
    CHECK_MESSAGE(false, "no kernel waits for an offload");
    return (finding){"", NO_NODE, NO_VALUE, ""};
}

/* ---- bytes ---- */

static finding two_in_host_persistent(plan_text *t) {
    int low = value_named(t, MOMENT), high = value_named(t, MOMENT "_sq");
    set_offset(t, high, offset_of(t, low));
    return (finding){"two live values on one byte", NO_NODE, high,
                     "\"" MOMENT "\""};
}

static finding two_in_host_transient(plan_text *t) {
    int first = text_find(t, FIRST, "offload", NULL, 0),
        second = text_find(t, FIRST, "offload", NULL, 1);
    set_offset(t, output_of(t, second, 0),
               offset_of(t, output_of(t, first, 0)));
    return (finding){"two live values on one byte", second,
                     output_of(t, second, 0), ""};
}

/* What came back, and what the same kernel takes beside it. */
static finding live_value_on_a_reloaded(plan_text *t) {
    int value = output_of(t, its_reload(t, some_offload(t)), 0), beside,
        use = taker(t, FIRST, "gelu_grad", value);
    beside = input_of(t, use, input_of(t, use, 0) == value ? 1 : 0);
    set_offset(t, beside, offset_of(t, value));
    return (finding){"two live values on one byte", ANY_NODE, ANY_VALUE, ""};
}

static finding moment_in_the_wrong_space(plan_text *t) {
    int value = value_named(t, MOMENT);
    edit_value(t, value, "@host_persistent", "@persistent");
    return (finding){"wrong space", NO_NODE, value,
                     "belongs into host_persistent"};
}

static finding copy_in_the_wrong_space(plan_text *t) {
    int reload = reload_of(t, UPDATE, MOMENT), value = output_of(t, reload, 0);
    edit_value(t, value, "@transient", "@persistent");
    return (finding){"wrong space", reload, value, "belongs into transient"};
}

static finding offload_not_in_place(plan_text *t) {
    int offload = offload_into(t, MOMENT), value = output_of(t, offload, 0);
    set_offset(t, value, offset_of(t, value_named(t, MOMENT "_sq")));
    return (finding){"not in place", offload, value, ""};
}

static finding host_space_too_small(plan_text *t) {
    int line = text_line(t, "bytes");
    const char *at = strstr(t->line[line], " host_transient=");
    text_splice(t, line, at, 1 + strcspn(at + 1, " "), " host_transient=64");
    return (finding){"out of bounds", ANY_NODE, ANY_VALUE,
                     "the 64 of host_transient"};
}

/* ---- the whole plan ---- */

static void check_budget(const tsr_op_table *ops, const char *base,
                         const char *budget, const char *message) {
    plan_text text;
    text_load(&text, base);
    text_replace(&text, text_line(&text, "target"), "host_memory=0", budget);
    char *edited = text_join(&text);
    if (message)
        CHECK_FAILS(verify_text(ops, edited), TSR_OUT_OF_MEMORY, message);
    else
        CHECK_OK(verify_text(ops, edited));
    free(edited);
    text_release(&text);
}

/* To the byte, and apart from the device's. */
static void test_budget(const tsr_op_table *ops) {
    char *base = offloaded_text(ops, 2, false), budget[64], message[96];
    tsr_plan *plan;
    CHECK_OK(tsr_plan_parse(ops, base, strlen(base), &plan));
    size_t needed = tsr_plan_rank_host_bytes(plan);
    CHECK(needed > 0 && needed < tsr_plan_host_bytes(plan) / 2);
    tsr_plan_release(plan);
    snprintf(budget, sizeof budget, "host_memory=%zu", needed);
    check_budget(ops, base, budget, NULL);
    snprintf(budget, sizeof budget, "host_memory=%zu", needed - 1);
    snprintf(message, sizeof message, "the plan needs %zu bytes (", needed);
    check_budget(ops, base, budget, message);
    CHECK(strstr(tsr_last_error(), "a rank on the host, the budget is"));
    tsr_plan_text_release(base);
}

static void test_every_after(const tsr_op_table *ops) {
    for (int alias = 0; alias < 2; alias++) {
        char *base = offloaded_text(ops, 2, alias);
        CHECK(check_every_after(ops, base) > 100);
        tsr_plan_text_release(base);
    }
}

static const fault faults[] = {
    FAULT(host_value_used, BOTH),
    FAULT(host_moment_used, BOTH),
    FAULT(host_shard_gathered, COPY),
    FAULT(offloaded_again, BOTH),
    FAULT(reload_of_the_device, BOTH),
    FAULT(offload_into_the_device, BOTH),
    FAULT(host_word_forgotten, BOTH),
    FAULT(host_word_too_many, BOTH),
    FAULT(kernel_on_the_host, BOTH),
    FAULT(gradient_on_the_host, BOTH),
    FAULT(declared_on_the_device, BOTH),
    FAULT(copy_loses_its_role, BOTH),
    FAULT(copy_of_another_parameter, BOTH),
    FAULT(copy_of_another_shape, BOTH),
    FAULT(copy_on_compute, BOTH),
    FAULT(reload_before_offload, BOTH),
    FAULT(moment_read_after_offload, BOTH),
    FAULT(into_another_parameter, BOTH),
    FAULT(moments_swapped, BOTH),
    FAULT(moment_never_brought_home, BOTH),
    FAULT(shard_never_brought_home, COPY),
    FAULT(moment_brought_elsewhere, BOTH),
    FAULT(reduced_into_a_copy, BOTH),
    FAULT(norm_read_by_a_copy_alone, BOTH),
    FAULT(stale_moment_brought_home, BOTH),
    FAULT(shard_written_in_micro_step, COPY),
    FAULT(shard_updated_twice, COPY),
    FAULT(gather_of_a_copy, ALIAS),
    FAULT(offload_without_event, BOTH),
    FAULT(reload_without_event, BOTH),
    FAULT(source_reused_before_copy, BOTH),
    FAULT(two_in_host_persistent, BOTH),
    FAULT(two_in_host_transient, BOTH),
    FAULT(live_value_on_a_reloaded, BOTH),
    FAULT(moment_in_the_wrong_space, BOTH),
    FAULT(copy_in_the_wrong_space, BOTH),
    FAULT(offload_not_in_place, BOTH),
    FAULT(host_space_too_small, BOTH),
};

int main(void) {
    tsr_op_table *ops;
    CHECK_OK(tsr_op_table_create(&ops));
    check_faults(ops, offloaded_text, faults, sizeof faults / sizeof *faults);
    test_budget(ops);
    test_every_after(ops);
    tsr_op_table_release(ops);
    return 0;
}
