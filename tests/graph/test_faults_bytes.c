/* The verifier catches planted faults of order, types and bytes (test_faults.c
 * has those of the ZeRO protocol), and needs every wait of a plan. */
#include "graph/faults.h"

/* ---- order ---- */

static finding section_crossed(plan_text *t) {
    int use = text_find(t, NEXT, "gelu", "h.0.mlp", 0),
        other = input_of(t, text_find(t, FIRST, "gelu", "h.0.mlp", 0), 0);
    set_input(t, use, 0, other);
    return (finding){"section crossed", use, other, "made in section " FIRST};
}

static finding lines_swapped(plan_text *t) {
    int use = text_find(t, FIRST, "gelu", "h.1.mlp", 0);
    use = text_move(t, use, use - 1);
    return (finding){"use before definition", use, input_of(t, use, 0), ""};
}

static finding waits_for_the_future(plan_text *t) {
    int wait = text_find(t, FIRST, "wait", "h.0.attn", 0);
    add_after(t, wait,
              node_label(t, text_find(t, FIRST, "reduce", "h.0.attn", 0)));
    return (finding){"wait for the future", wait, NO_VALUE, "reduce (h.0"};
}

static finding waits_across_sections(plan_text *t) {
    int wait = text_find(t, NEXT, "wait", "h.0.attn", 0);
    add_after(t, wait,
              node_label(t, text_find(t, FIRST, "gather", "h.0.attn", 0)));
    return (finding){"wait across sections", wait, NO_VALUE, "gather (h.0"};
}

/* ---- types, attributes, roles ---- */

static finding shape_edited(plan_text *t) {
    int linear = text_find(t, FIRST, "linear", "h.0.attn", 0);
    edit_value(t, output_of(t, linear, 0), "f32[2, 4, 24]", "f32[2, 4, 23]");
    return (finding){"type mismatch", linear, NO_VALUE,
                     "f32[2, 4, 23], but f32[2, 4, 24] follows"};
}

static finding dtype_edited(plan_text *t) {
    int gelu = text_find(t, NEXT, "gelu", "h.1.mlp", 0);
    edit_value(t, output_of(t, gelu, 0), "f32", "bf16");
    return (finding){"type mismatch", gelu, NO_VALUE, "bf16[2, 4, 32], but"};
}

static finding world_edited(plan_text *t) {
    text_replace(t, text_line(t, "target"), "world=", "world=1");
    return (finding){"type mismatch", NO_NODE, value_named(t, "wte.weight"),
                     "a shard of its parameter has"};
}

static finding shard_of_no_parameter(plan_text *t) {
    int shard = value_named(t, "h.0.ln_1.weight");
    edit_value(t, shard, " p2", "");
    return (finding){"wrong parameter", NO_NODE, shard,
                     "a param_shard must name its parameter"};
}

static finding operand_dropped(plan_text *t) {
    int adamw = text_find(t, UPDATE, "adamw", NULL, 0);
    drop_last_input(t, adamw);
    return (finding){"type mismatch", adamw, NO_VALUE, "5 inputs do not fit"};
}

static finding attribute_unknown(plan_text *t) {
    int norm = text_find(t, FIRST, "layer_norm", "h.0.attn", 0);
    text_replace(t, norm, "{eps=", "{epsilon=");
    return (finding){"type mismatch", norm, NO_VALUE, "'epsilon' is unknown"};
}

static finding attribute_of_wrong_kind(plan_text *t) {
    int attention = text_find(t, FIRST, "attention", "h.0.attn", 0);
    text_replace(t, attention, "{heads=2", "{heads=2.0");
    return (finding){"type mismatch", attention, NO_VALUE, "'heads'"};
}

static finding activation_called_weights(plan_text *t) {
    int linear = text_find(t, FIRST, "linear", "h.0.mlp", 0),
        value = output_of(t, linear, 0);
    edit_value(t, value, "]", "] gathered p4");
    return (finding){"wrong role", linear, value, "makes no new gathered"};
}

static finding waited_copy_called_activation(plan_text *t) {
    int wait = text_find(t, FIRST, "wait", "embed", 0),
        value = output_of(t, wait, 0);
    edit_value(t, value, " gathered p0", "");
    return (finding){"wrong role", wait, value, ""};
}

/* ---- bytes ---- */

static finding two_in_transient(plan_text *t) {
    int attention = text_find(t, FIRST, "attention", "h.0.attn", 0),
        value = output_of(t, attention, 0);
    set_offset(t, value, offset_of(t, input_of(t, attention, 0)));
    return (finding){"two live values on one byte", attention, value, ""};
}

static finding two_in_grads(plan_text *t) {
    int bias = text_find(t, FIRST, "bias_grad", "h.0.mlp", 0),
        weight = text_find(t, FIRST, "linear_grad_weight", "h.0.mlp", 0);
    bool swapped = bias < weight;
    set_offset(t, output_of(t, bias, 0), offset_of(t, output_of(t, weight, 0)));
    return (finding){"two live values on one byte", swapped ? weight : bias,
                     output_of(t, swapped ? weight : bias, 0), ""};
}

static finding two_in_persistent(plan_text *t) {
    int value = value_named(t, "h.1.attn.c_attn.weight.exp_avg");
    set_offset(t, value,
               offset_of(t, value_named(t, "h.0.attn.c_attn.weight.grad")));
    return (finding){"two live values on one byte", NO_NODE, value,
                     "\"h.0.attn.c_attn.weight.grad\""};
}

static finding two_in_weights(plan_text *t) {
    int value = value_named(t, "h.1.ln_1.bias");
    set_offset(t, value, offset_of(t, value_named(t, "h.0.ln_1.bias")));
    return (finding){"two live values on one byte", NO_NODE, value,
                     "\"h.0.ln_1.bias\""};
}

/* Shards of all ranks: the second rank's lies under the next parameter. */
static finding shards_of_one_rank_only(plan_text *t) {
    int value = value_named(t, "wpe.weight");
    set_offset(t, value, offset_of(t, value_named(t, "wte.weight")) + 192);
    return (finding){"two live values on one byte", NO_NODE, value,
                     "\"wte.weight\""};
}

/* A copy that is moved has its padding too: 3 * 11 elements of 32. */
static finding padding_forgotten(plan_text *t) {
    int gather = text_find(t, FIRST, "gather", "h.0.attn", 0),
        wait = text_find(t, FIRST, "wait", "h.0.attn", 0), bias = 9,
        next = 10; /* c_fc's bias, c_proj's weight */
    size_t offset = offset_of(t, output_of(t, gather, bias)) + 32 * 4;
    set_offset(t, output_of(t, gather, next), offset);
    set_offset(t, output_of(t, wait, next), offset);
    return (finding){"two live values on one byte", gather,
                     output_of(t, gather, next), "\"h.0.mlp.c_fc.bias\""};
}

/* The first node that waits only because it gets bytes of another stream. */
static finding reused_without_event(plan_text *t, const char *op) {
    for (int line = text_line(t, "section " FIRST) + 1;; line++) {
        CHECK_MESSAGE(is_node(t->line[line]), "no %s waits for bytes", op);
        if (!line_is(t->line[line], op) || !after_of(t, line))
            continue;
        drop_after(t, line);
        return (finding){"reused without wait", line, ANY_VALUE,
                         "nothing orders it after"};
    }
}
static finding grads_reused_without_event(plan_text *t) {
    return reused_without_event(t, "linear_grad_weight");
}
static finding copies_reused_without_event(plan_text *t) {
    return reused_without_event(t, "gather");
}

static finding wait_moved_elsewhere(plan_text *t) {
    int wait = text_find(t, FIRST, "wait", "embed", 0),
        value = output_of(t, wait, 0);
    set_offset(t, value, offset_of(t, value) + 64);
    return (finding){"not in place", wait, value, ""};
}

static finding moment_moved_elsewhere(plan_text *t) {
    int adamw = text_find(t, UPDATE, "adamw", NULL, 4),
        value = output_of(t, adamw, 1);
    set_offset(t, value, 0);
    return (finding){"not in place", adamw, value, ""};
}

static finding alias_moved_elsewhere(plan_text *t) {
    int gather = text_find(t, FIRST, "gather", "h.0.attn", 0),
        wait = text_find(t, FIRST, "wait", "h.0.attn", 0);
    set_offset(t, output_of(t, gather, 3), 0);
    set_offset(t, output_of(t, wait, 3), 0);
    return (finding){"not in place", gather, output_of(t, gather, 3), ""};
}

static finding misaligned(plan_text *t) {
    int gelu = text_find(t, FIRST, "gelu", "h.0.mlp", 0),
        value = output_of(t, gelu, 0);
    set_offset(t, value, offset_of(t, value) + 4);
    return (finding){"misaligned", gelu, value, ""};
}

static finding alignment_raised(plan_text *t) {
    text_replace(t, text_line(t, "target"), "alignment=64", "alignment=4096");
    return (finding){"misaligned", NO_NODE, value_named(t, "targets"), ""};
}

static finding out_of_bounds(plan_text *t) {
    int gelu = text_find(t, FIRST, "gelu", "h.0.mlp", 0),
        value = output_of(t, gelu, 0);
    set_offset(t, value, 1 << 20);
    return (finding){"out of bounds", gelu, value, ""};
}

static finding space_too_small(plan_text *t) {
    int line = text_line(t, "bytes");
    const char *at = strstr(t->line[line], " grads=");
    text_splice(t, line, at, 1 + strcspn(at + 1, " "), " grads=64");
    return (finding){"out of bounds", ANY_NODE, ANY_VALUE, "the 64 of grads"};
}

static finding wrong_space(plan_text *t) {
    int gelu = text_find(t, FIRST, "gelu", "h.0.mlp", 0),
        value = output_of(t, gelu, 0);
    edit_value(t, value, "@transient", "@persistent");
    return (finding){"wrong space", gelu, value, "belongs into transient"};
}

/* ---- workspaces ---- */

static int workspace_user(const plan_text *t) {
    int linear = text_find(t, FIRST, "linear", "h.0.attn", 0);
    CHECK(strstr(t->line[linear], " workspace=") != NULL);
    return linear;
}

static void set_workspace(plan_text *t, int line, size_t bytes, size_t offset) {
    char with[64];
    const char *at = strstr(t->line[line], " workspace=");
    snprintf(with, sizeof with, " workspace=%zu@%zu", bytes, offset);
    text_splice(t, line, at, 1 + strcspn(at + 1, " "), with);
}

static finding workspace_on_input(plan_text *t) {
    int linear = workspace_user(t);
    set_workspace(t, linear, WORKSPACE, offset_of(t, input_of(t, linear, 0)));
    return (finding){"two live values on one byte", linear, NO_VALUE, ""};
}

static finding workspace_out_of_bounds(plan_text *t) {
    int linear = workspace_user(t);
    set_workspace(t, linear, WORKSPACE, 1 << 20);
    return (finding){"out of bounds", linear, NO_VALUE, "its workspace"};
}

static finding workspace_misaligned(plan_text *t) {
    int linear = workspace_user(t);
    set_workspace(t, linear, WORKSPACE, 32);
    return (finding){"misaligned", linear, NO_VALUE, "its workspace"};
}

static finding workspace_too_small(plan_text *t) {
    int linear = workspace_user(t);
    set_workspace(t, linear, 64, 0);
    return (finding){"workspace too small", linear, NO_VALUE,
                     "needs 256 bytes, 64 are planned"};
}

/* ---- the whole plan ---- */

static void test_budget(const tsr_op_table *ops) {
    plan_text text;
    char *base = compiled_text(ops, 2, true);
    text_load(&text, base);
    text_replace(&text, text_line(&text, "target"), "memory=0", "memory=4096");
    char *edited = text_join(&text);
    CHECK_FAILS(verify_text(ops, edited), TSR_OUT_OF_MEMORY,
                "the budget is 4096 (4.00 KiB)");
    free(edited);
    text_release(&text);
    tsr_plan_text_release(base);
}

static void test_every_after(const tsr_op_table *ops) {
    for (int alias = 0; alias < 2; alias++) {
        char *base = compiled_text(ops, 2, alias);
        CHECK(check_every_after(ops, base) > 20);
        tsr_plan_text_release(base);
    }
}

static const fault faults[] = {
    FAULT(section_crossed, BOTH),
    FAULT(lines_swapped, BOTH),
    FAULT(waits_for_the_future, BOTH),
    FAULT(waits_across_sections, BOTH),
    FAULT(shape_edited, BOTH),
    FAULT(dtype_edited, BOTH),
    FAULT(world_edited, BOTH),
    FAULT(shard_of_no_parameter, BOTH),
    FAULT(operand_dropped, BOTH),
    FAULT(attribute_unknown, BOTH),
    FAULT(attribute_of_wrong_kind, BOTH),
    FAULT(activation_called_weights, BOTH),
    FAULT(waited_copy_called_activation, BOTH),
    FAULT(two_in_transient, BOTH),
    FAULT(two_in_grads, BOTH),
    FAULT(two_in_persistent, BOTH),
    FAULT(two_in_weights, BOTH),
    FAULT(shards_of_one_rank_only, BOTH),
    FAULT(padding_forgotten, COPY | PADDED),
    FAULT(grads_reused_without_event, BOTH),
    FAULT(copies_reused_without_event, COPY),
    FAULT(wait_moved_elsewhere, BOTH),
    FAULT(moment_moved_elsewhere, BOTH),
    FAULT(alias_moved_elsewhere, ALIAS),
    FAULT(misaligned, BOTH),
    FAULT(alignment_raised, BOTH),
    FAULT(out_of_bounds, BOTH),
    FAULT(space_too_small, BOTH),
    FAULT(wrong_space, BOTH),
    FAULT(workspace_on_input, BOTH),
    FAULT(workspace_out_of_bounds, BOTH),
    FAULT(workspace_misaligned, BOTH),
    FAULT(workspace_too_small, BOTH),
};

int main(void) {
    tsr_op_table *ops;
    CHECK_OK(tsr_op_table_create(&ops));
    check_faults(ops, compiled_text, faults, sizeof faults / sizeof *faults);
    test_budget(ops);
    test_every_after(ops);
    tsr_op_table_release(ops);
    return 0;
}
