/* The verifier catches planted faults of masters and twins: a plan of a model
 * in bf16, edited, must be rejected with the rule that was broken. */
#include "graph/faults.h"

/* Operands of an adamw with a twin. */
enum { MASTER_IN = 0, TWIN_IN = 6, MASTER_OUT = 0, TWIN_OUT = 3 };

/* Takes the last output, ", %672 bf16[...] ...", out of a node. */
static void drop_last_output(plan_text *t, int line) {
    int last = operand_count(t, line, false) - 1;
    const char *at = output_at(t, line, last) - 2;
    text_splice(t, line, at, (size_t)(strstr(at, " = ") - at), "");
}

static finding twin_not_written(plan_text *t) {
    int adamw = text_find(t, UPDATE, "adamw", NULL, 2),
        twin = input_of(t, adamw, TWIN_IN),
        written = output_of(t, adamw, TWIN_OUT);
    drop_last_output(t, adamw);
    drop_last_input(t, adamw);
    use_instead(t, adamw + 1, written, twin);
    return (finding){"twin not written", adamw, output_of(t, adamw, MASTER_OUT),
                     "param_shard"};
}

/* A node that writes the twin, the master knowing nothing of it. */
static finding twin_written_alone(plan_text *t) {
    int adamw = text_find(t, UPDATE, "adamw", NULL, 2),
        twin = input_of(t, adamw, TWIN_IN), rounded = fresh_label(t),
        written = fresh_label(t);
    char type[32], rest[96];
    const char *output = strchr(output_at(t, adamw, TWIN_OUT), ' ') + 1,
               *role = strchr(output, ' ') + 1;
    snprintf(type, sizeof type, "%.*s", (int)strcspn(output, " "), output);
    snprintf(rest, sizeof rest, "%.*s", (int)(strstr(role, " = ") - role),
             role);
    text_insert(t, adamw, "n%d: %%%d %s %s = store(%%%d, %%%d)", fresh_label(t),
                written, type, rest, rounded, twin);
    text_insert(t, adamw, "n%d: %%%d %s @transient+0 = cast(%%%d) {dtype=1}",
                fresh_label(t), rounded, type,
                input_of(t, adamw + 1, MASTER_IN));
    set_input(t, adamw + 2, TWIN_IN, written);
    return (finding){"twin not written", adamw + 1, written, "master"};
}

/* Two parameters of one shape, each with the other's twin. */
static finding twins_swapped(plan_text *t) {
    int a = text_find(t, UPDATE, "adamw", NULL, 2),
        b = text_find(t, UPDATE, "adamw", NULL, 3),
        twin_a = input_of(t, a, TWIN_IN), twin_b = input_of(t, b, TWIN_IN);
    char output_a[128], output_b[128];
    const char *at_a = output_at(t, a, TWIN_OUT),
               *at_b = output_at(t, b, TWIN_OUT);
    size_t length_a = (size_t)(strstr(at_a, " = ") - at_a),
           length_b = (size_t)(strstr(at_b, " = ") - at_b);
    snprintf(output_a, sizeof output_a, "%.*s", (int)length_a, at_a);
    snprintf(output_b, sizeof output_b, "%.*s", (int)length_b, at_b);
    text_splice(t, a, at_a, length_a, output_b);
    text_splice(t, b, at_b, length_b, output_a);
    set_input(t, a, TWIN_IN, twin_b);
    set_input(t, b, TWIN_IN, twin_a);
    return (finding){"twin not written", a, output_of(t, a, MASTER_OUT), ""};
}

static finding gather_of_the_master(plan_text *t) {
    int gather = text_find(t, FIRST, "gather", "h.0.attn", 0);
    set_input(t, gather, 0, value_named(t, "h.0.ln_1.weight"));
    return (finding){"type mismatch", gather, NO_VALUE,
                     "of the gathered copy's dtype"};
}

static finding master_in_bf16(plan_text *t) {
    int master = value_named(t, "h.0.ln_1.weight");
    edit_value(t, master, "f32", "bf16");
    return (finding){"type mismatch", NO_NODE, master,
                     "a master of its parameter is f32"};
}

static finding twin_in_f32(plan_text *t) {
    int twin = value_named(t, "h.0.ln_1.weight.bf16");
    edit_value(t, twin, "bf16[", "f32[");
    return (finding){"type mismatch", NO_NODE, twin,
                     "a param_shard of its parameter is bf16"};
}

static finding master_without_need(plan_text *t) {
    int param = text_line(t, "param \"h.0.ln_1.weight\"");
    text_replace(t, param, "bf16[8] stored=f32", "f32[8]");
    edit_value(t, value_named(t, "h.0.ln_1.weight.bf16"), "bf16[", "f32[");
    return (finding){"wrong role", NO_NODE, value_named(t, "h.0.ln_1.weight"),
                     "stored as it is used, in f32, and has no master"};
}

static finding master_in_the_weights(plan_text *t) {
    int master = value_named(t, "h.0.ln_1.weight");
    edit_value(t, master, "@persistent", "@weights");
    return (finding){"wrong space", NO_NODE, master,
                     "a master belongs into persistent"};
}

static finding twins_not_fenced(plan_text *t) {
    int fence = text_find(t, UPDATE, "fence_readers", NULL, 0), adamw;
    for (int i = 0; i < operand_count(t, fence, false); i++)
        use_instead(t, fence + 1, output_of(t, fence, i),
                    input_of(t, fence, i));
    drop_node(t, fence);
    adamw = text_find(t, UPDATE, "adamw", NULL, 0);
    return (finding){"write without fence", adamw, input_of(t, adamw, TWIN_IN),
                     "fence_readers"};
}

static finding twins_not_seen(plan_text *t) {
    int adamw = text_find(t, UPDATE, "adamw", NULL, 0);
    drop_node(t, text_find(t, UPDATE, "fence_writers", NULL, 0));
    return (finding){"write without fence", adamw,
                     output_of(t, adamw, TWIN_OUT), "fence_writers"};
}

static finding adamw_removed(plan_text *t) {
    int adamw = text_find(t, UPDATE, "adamw", NULL, 2),
        grad = input_of(t, adamw, 1);
    use_instead(t, adamw + 1, output_of(t, adamw, TWIN_OUT),
                input_of(t, adamw, TWIN_IN));
    drop_node(t, adamw);
    return (finding){"shard never updated", NO_NODE, grad, ""};
}

/* bf16 is for activations alone. */
static finding statistic_in_bf16(plan_text *t) {
    int norm = text_find(t, FIRST, "layer_norm", "h.0.attn", 0);
    edit_value(t, output_of(t, norm, 1), "f32", "bf16");
    return (finding){"type mismatch", norm, NO_VALUE, "bf16[2, 4], but f32"};
}

static const fault faults[] = {
    FAULT(twin_not_written, BOTH),    FAULT(twin_written_alone, BOTH),
    FAULT(twins_swapped, BOTH),       FAULT(gather_of_the_master, BOTH),
    FAULT(master_in_bf16, BOTH),      FAULT(twin_in_f32, BOTH),
    FAULT(master_without_need, BOTH), FAULT(master_in_the_weights, BOTH),
    FAULT(twins_not_fenced, ALIAS),   FAULT(twins_not_seen, ALIAS),
    FAULT(adamw_removed, BOTH),       FAULT(statistic_in_bf16, BOTH),
};

static char *bf16_text(const tsr_op_table *ops, int world, bool alias) {
    char *text;
    tsr_plan *plan =
        compiled_plan_in(ops, TSR_BF16, world, alias, TSR_STAGE_PLACED);
    CHECK_OK(tsr_plan_print(plan, &text));
    tsr_plan_release(plan);
    return text;
}

int main(void) {
    tsr_op_table *ops;
    CHECK_OK(tsr_op_table_create(&ops));
    check_faults(ops, bf16_text, faults, sizeof faults / sizeof *faults);
    tsr_op_table_release(ops);
    return 0;
}
