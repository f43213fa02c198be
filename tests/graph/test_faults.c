/* The verifier catches planted faults of the ZeRO protocol: a plan's text is
 * edited as a careless hand or a wrong pass would, parsed, and must be rejected
 * with the rule that was broken, the node and the value. */
#include "graph/faults.h"

/* ---- gathered copies ---- */

static finding wait_removed(plan_text *t) {
    int gather = text_find(t, FIRST, "gather", "h.0.attn", 0),
        wait = text_find(t, FIRST, "wait", "h.0.attn", 0);
    for (int i = 0; i < operand_count(t, wait, false); i++)
        use_instead(t, wait + 1, output_of(t, wait, i),
                    output_of(t, gather, i));
    drop_node(t, wait);
    return (finding){"gather without wait", gather, output_of(t, gather, 0),
                     ""};
}

static finding wait_without_event(plan_text *t) {
    int wait = text_find(t, FIRST, "wait", "h.1.attn", 0);
    drop_after(t, wait);
    return (finding){"use before wait", wait, input_of(t, wait, 0),
                     "on the gather stream"};
}

static finding gathering_used_before_wait(plan_text *t) {
    int gather = text_find(t, FIRST, "gather", "embed", 0),
        wait = text_find(t, FIRST, "wait", "embed", 0),
        use = text_find(t, FIRST, "embedding", "embed", 0);
    set_input(t, use, 1, output_of(t, gather, 0));
    text_move(t, use, wait);
    return (finding){"use before wait", gather, output_of(t, gather, 0), ""};
}

static finding gathering_used_after_wait(plan_text *t) {
    int gather = text_find(t, FIRST, "gather", "h.0.attn", 0),
        use = text_find(t, FIRST, "layer_norm", "h.0.attn", 0);
    set_input(t, use, 1, output_of(t, gather, 0));
    return (finding){"use after overwrite", use, output_of(t, gather, 0), ""};
}

static finding wait_twice(plan_text *t) {
    int wait = text_find(t, FIRST, "wait", "h.0.attn", 0),
        second = clone_node(t, wait, wait + 1);
    return (finding){"use after overwrite", second, input_of(t, wait, 0), ""};
}

static finding wait_for_a_shard(plan_text *t) {
    int shard = value_named(t, "h.0.ln_1.weight"),
        end = text_section_end(t, FIRST), line;
    const char *place = strchr(definition_of(t, shard, &line), '@');
    text_insert(t, end, "n%d: %%%d f32[%lld] param_shard p2 %s = wait(%%%d)",
                fresh_label(t), fresh_label(t),
                atoll(strchr(t->line[line], '[') + 1), place, shard);
    return (finding){"wait without gather", end, shard, ""};
}

static finding used_after_release(plan_text *t) {
    int use = text_find(t, FIRST, "layer_norm", "h.1.attn", 0),
        wait = text_find(t, FIRST, "wait", "h.0.attn", 0);
    set_input(t, use, 1, output_of(t, wait, 0));
    return (finding){"use after release", use, output_of(t, wait, 0), ""};
}

static finding released_too_early(plan_text *t) {
    int release = text_find(t, FIRST, "release", "h.0.mlp", 0),
        wait = text_find(t, FIRST, "wait", "h.0.attn", 0),
        use = text_find(t, FIRST, "layer_norm", "h.0.attn", 0);
    text_move(t, release, wait + 1);
    return (finding){"use after release", use + 1, output_of(t, wait, 0), ""};
}

static finding released_again(plan_text *t) {
    int release = text_find(t, FIRST, "release", "h.0.mlp", 0),
        again = clone_node(t, release, release + 1);
    return (finding){"use after release", again, input_of(t, release, 0), ""};
}

static finding released_twice(plan_text *t) {
    int release = text_find(t, FIRST, "release", "h.0.mlp", 0),
        wait = text_find(t, FIRST, "wait", "h.0.attn", 0),
        twice = input_of(t, release, 0);
    set_input(t, release, 1, twice);
    CHECK(output_of(t, wait, 0) == twice);
    return (finding){"released twice", wait, twice, ""};
}

static finding release_removed(plan_text *t) {
    int wait = text_find(t, NEXT, "wait", "h.0.attn", 0);
    drop_node(t, text_find(t, NEXT, "release", "h.0.mlp", 0));
    return (finding){"gather without release", wait, output_of(t, wait, 0), ""};
}

static finding release_of_an_activation(plan_text *t) {
    int norm = text_find(t, FIRST, "layer_norm", "h.0.attn", 0),
        end = text_section_end(t, FIRST);
    text_insert(t, end, "n%d: release(%%%d)", fresh_label(t),
                output_of(t, norm, 0));
    return (finding){"release without gather", end, output_of(t, norm, 0), ""};
}

static finding gather_of_wrong_shard(plan_text *t) {
    int gather = text_find(t, FIRST, "gather", "h.0.attn", 0);
    swap_inputs(t, gather, 0, 1); /* scale and shift of the first norm */
    return (finding){"gather mismatch", gather, output_of(t, gather, 0), ""};
}

static finding gather_on_compute(plan_text *t) {
    int gather = text_find(t, FIRST, "gather", "h.1.attn", 0);
    text_replace(t, gather, " on=gather", " on=compute");
    return (finding){"wrong stream", gather, NO_VALUE,
                     "the order of collectives could differ"};
}

static finding gather_in_the_update(plan_text *t) {
    int fence = text_find(t, UPDATE, "fence_readers", NULL, 0),
        gather =
            clone_node(t, text_find(t, FIRST, "gather", "embed", 0), fence);
    return (finding){"read without fence", gather, input_of(t, gather, 0), ""};
}

static finding gather_before_writers_are_done(plan_text *t) {
    int adamw = text_find(t, UPDATE, "adamw", NULL, 0), gather;
    int written = output_of(t, adamw, 0);
    gather = clone_node(t, text_find(t, FIRST, "gather", "embed", 0),
                        text_find(t, UPDATE, "fence_writers", NULL, 0));
    set_input(t, gather, 0, written);
    return (finding){"read without fence", gather, written, ""};
}

static finding parameter_not_gathered(plan_text *t) {
    int use = text_find(t, FIRST, "embedding", "embed", 0),
        label = fresh_label(t);
    set_input(t, use, 1, label);
    text_insert(t, text_line(t, "loss"),
                "value %%%d \"whole\" f32[11, 8] parameter p0 @persistent+0",
                label);
    return (finding){"parameter not gathered", use + 1, label, ""};
}

/* No use looks at the number of rows, only the parameter knows it. */
static finding copy_of_another_shape(plan_text *t) {
    int gather = text_find(t, FIRST, "gather", "embed", 0),
        wait = text_find(t, FIRST, "wait", "embed", 0);
    edit_value(t, output_of(t, gather, 0), "f32[11, 8]", "f32[12, 8]");
    edit_value(t, output_of(t, wait, 0), "f32[11, 8]", "f32[12, 8]");
    return (finding){"type mismatch", gather, output_of(t, gather, 0),
                     "the copy has not its parameter's type"};
}

static finding copy_that_nobody_gathers(plan_text *t) {
    int use = text_find(t, FIRST, "embedding", "embed", 0),
        label = fresh_label(t);
    set_input(t, use, 1, label);
    text_insert(t, text_line(t, "loss"),
                "value %%%d f32[11, 8] gathered p0 @transient+0", label);
    return (finding){"use before definition", use + 1, label, ""};
}

/* ---- gradients ---- */

static finding reduce_removed(plan_text *t) {
    drop_node(t, text_find(t, FIRST, "reduce", "h.0.attn", 0));
    return (finding){"gradient never reduced", NO_NODE,
                     value_named(t, "h.0.ln_1.weight.grad"),
                     "no reduce of section micro_first writes it"};
}

static finding reduced_again(plan_text *t) {
    int reduce = text_find(t, FIRST, "reduce", "h.1.attn", 0),
        again = clone_node(t, reduce, reduce + 1), count;
    count = operand_count(t, reduce, false);
    for (int i = 0; i < count; i++)
        set_input(t, again, count - 1 + i, output_of(t, reduce, i));
    return (finding){"gradient reduced twice", reduce, input_of(t, reduce, 0),
                     ""};
}

/* The head's part of the tied gradient by one reduce, the embedding's by
 * another: the second overwrites the first. */
static finding parts_reduced_apart(plan_text *t) {
    int last = text_find(t, FIRST, "embedding_grad", "embed", 0),
        part = input_of(t, last, 2), reduce, early, made;
    drop_last_input(t, last);
    reduce = text_find(t, FIRST, "reduce", "embed", 1);
    CHECK(input_of(t, reduce, 0) == output_of(t, last, 0));
    definition_of(t, part, &made);
    early = clone_node(t, reduce, made + 1);
    reduce++;
    set_input(t, early, 0, part);
    drop_after(t, early);
    add_after(t, early, node_label(t, made));
    for (int i = 0; i < 2; i++)
        set_input(t, reduce, 1 + i, output_of(t, early, i));
    return (finding){"gradient reduced twice", reduce, input_of(t, reduce, 0),
                     "micro_first reduces this parameter's gradient before"};
}

static finding part_forgotten(plan_text *t) {
    int last = text_find(t, FIRST, "embedding_grad", "embed", 0),
        part = input_of(t, last, 2), made;
    drop_last_input(t, last);
    definition_of(t, part, &made);
    return (finding){"gradient never reduced", made, part, ""};
}

static finding reduce_into_wrong_shard(plan_text *t) {
    int reduce = text_find(t, FIRST, "reduce", "h.0.attn", 0),
        half = operand_count(t, reduce, true) / 2;
    swap_inputs(t, reduce, half, half + 1);
    return (finding){"wrong role", reduce, output_of(t, reduce, 0),
                     "of the same parameter"};
}

static finding reduce_of_wrong_gradient(plan_text *t) {
    int reduce = text_find(t, FIRST, "reduce", "h.0.attn", 0);
    swap_inputs(t, reduce, 0, 1);
    return (finding){"reduce mismatch", reduce, input_of(t, reduce, 0), ""};
}

static finding reduce_of_a_part(plan_text *t) {
    int last = text_find(t, FIRST, "embedding_grad", "embed", 0),
        reduce = text_find(t, FIRST, "reduce", "embed", 1),
        part = input_of(t, last, 2);
    set_input(t, reduce, 0, part);
    return (finding){"use after overwrite", reduce, part, ""};
}

static finding reduce_before_gradient(plan_text *t) {
    int reduce = text_find(t, NEXT, "reduce", "embed", 1),
        grad = text_find(t, NEXT, "embedding_grad", "embed", 0);
    reduce = text_move(t, reduce, grad);
    return (finding){"use before definition", reduce, input_of(t, reduce, 0),
                     ""};
}

static finding reduce_without_event(plan_text *t) {
    int reduce = text_find(t, FIRST, "reduce", "embed", 1);
    drop_after(t, reduce);
    return (finding){"use before wait", reduce, input_of(t, reduce, 0),
                     "on the compute stream"};
}

static finding accumulate_in_first(plan_text *t) {
    int reduce = text_find(t, FIRST, "reduce", "h.0.attn", 0);
    text_replace(t, reduce, "accumulate=0", "accumulate=1");
    return (finding){"wrong accumulation", reduce, output_of(t, reduce, 0), ""};
}

static finding overwrite_in_next(plan_text *t) {
    int reduce = text_find(t, NEXT, "reduce", "h.0.attn", 0);
    text_replace(t, reduce, "accumulate=1", "accumulate=0");
    return (finding){"wrong accumulation", reduce, output_of(t, reduce, 0), ""};
}

static finding accumulate_left_out(plan_text *t) {
    int reduce = text_find(t, NEXT, "reduce", "h.1.attn", 0);
    text_replace(t, reduce, " {accumulate=1}", "");
    return (finding){"wrong accumulation", reduce, output_of(t, reduce, 0), ""};
}

static finding loss_not_accumulated(plan_text *t) {
    int loss = text_find(t, NEXT, "cross_entropy", NULL, 0);
    text_replace(t, loss, "accumulate=1", "accumulate=0");
    return (finding){"wrong accumulation", loss, output_of(t, loss, 0), ""};
}

static finding square_sum_not_kept(plan_text *t) {
    int reduce = text_find(t, FIRST, "reduce", "embed", 0),
        label = fresh_label(t), made = output_of(t, reduce, 1), line;
    const char *role = strstr(definition_of(t, made, &line), " state");
    text_splice(t, line, role, strcspn(role + 1, "=") + 1, " @transient+0 ");
    set_input(t, reduce, 2, label);
    text_insert(t, reduce, "n%d: %%%d f32[1] @transient+0 = sum(%%%d)",
                fresh_label(t), label, value_named(t, "schedule"));
    return (finding){"reduce mismatch", reduce + 1, label, "square_sum"};
}

static finding reduce_in_the_update(plan_text *t) {
    int end = text_section_end(t, UPDATE), line, first, grad = fresh_label(t),
        shard = value_named(t, "h.0.ln_1.weight.grad"),
        sum = value_named(t, "group.0.square_sum"), count, place_of_sum;
    const char *place = strchr(definition_of(t, shard, &line), '@'),
               *sum_place = strchr(definition_of(t, sum, &place_of_sum), '@');
    count = atoi(strchr(t->line[line], '[') + 1);
    first = value_named(t, "h.0.ln_1.weight.exp_avg_sq");
    text_insert(t, end,
                "n%d: %%%d f32[%d] grad_shard p2 %s, %%%d f32[1] state %s = "
                "reduce(%%%d, %%%d, %%%d) on=reduce",
                fresh_label(t), fresh_label(t), count, place, fresh_label(t),
                sum_place, grad, shard, sum);
    text_insert(t, text_find(t, UPDATE, "adamw", NULL, 0),
                "n%d: %%%d f32[%d] full_grad p2 @grads+0 = bias_grad(%%%d)",
                fresh_label(t), grad, count, first);
    return (finding){"reduce outside a micro-step", end + 1, NO_VALUE, ""};
}

/* ---- the update ---- */

static finding fence_readers_removed(plan_text *t) {
    int fence = text_find(t, UPDATE, "fence_readers", NULL, 0), adamw;
    for (int i = 0; i < operand_count(t, fence, false); i++)
        use_instead(t, fence + 1, output_of(t, fence, i),
                    input_of(t, fence, i));
    drop_node(t, fence);
    adamw = text_find(t, UPDATE, "adamw", NULL, 0);
    return (finding){"write without fence", adamw, input_of(t, adamw, 0),
                     "fence_readers"};
}

static finding fence_writers_removed(plan_text *t) {
    int adamw = text_find(t, UPDATE, "adamw", NULL, 0);
    drop_node(t, text_find(t, UPDATE, "fence_writers", NULL, 0));
    return (finding){"write without fence", adamw, output_of(t, adamw, 0),
                     "fence_writers"};
}

static finding fence_writers_forgets_one(plan_text *t) {
    int fence = text_find(t, UPDATE, "fence_writers", NULL, 0),
        last = operand_count(t, fence, true) - 1,
        forgotten = input_of(t, fence, last), line;
    const char *at = output_at(t, fence, last) - 2; /* ", %672 ..." */
    text_splice(t, fence, at, (size_t)(strstr(at, " = ") - at), "");
    drop_last_input(t, fence);
    definition_of(t, forgotten, &line);
    return (finding){"write without fence", line, forgotten, "fence_writers"};
}

static finding adamw_removed(plan_text *t) {
    int adamw = text_find(t, UPDATE, "adamw", NULL, 2),
        grad = input_of(t, adamw, 1);
    use_instead(t, adamw + 1, output_of(t, adamw, 0), input_of(t, adamw, 0));
    drop_node(t, adamw);
    return (finding){"shard never updated", NO_NODE, grad, ""};
}

static finding adamw_again(plan_text *t) {
    int adamw = text_find(t, UPDATE, "adamw", NULL, 1),
        again = clone_node(t, adamw, adamw + 1);
    return (finding){"use after overwrite", again, input_of(t, adamw, 0), ""};
}

static finding adamw_twice(plan_text *t) {
    int adamw = text_find(t, UPDATE, "adamw", NULL, 1), again;
    again = clone_node(t, adamw, adamw + 1);
    use_instead(t, again + 1, output_of(t, adamw, 0), output_of(t, again, 0));
    set_input(t, again, 0, output_of(t, adamw, 0));
    set_input(t, again, 2, output_of(t, adamw, 1));
    set_input(t, again, 3, output_of(t, adamw, 2));
    return (finding){"shard updated twice", again, output_of(t, again, 0), ""};
}

static finding adamw_before_fence(plan_text *t) {
    int fence = text_find(t, UPDATE, "fence_readers", NULL, 0),
        adamw = text_find(t, UPDATE, "adamw", NULL, 0);
    adamw = text_move(t, adamw, fence);
    return (finding){"use before definition", adamw, input_of(t, adamw, 0), ""};
}

static finding adamw_after_fence(plan_text *t) {
    int fence = text_find(t, UPDATE, "fence_writers", NULL, 0),
        adamw = text_find(t, UPDATE, "adamw", NULL, 5),
        shard = output_of(t, adamw, 0);
    text_move(t, adamw, fence + 1);
    return (finding){"use before definition", fence - 1, shard, ""};
}

static finding adamw_without_event(plan_text *t) {
    int adamw = text_find(t, UPDATE, "adamw", NULL, 0);
    drop_after(t, adamw);
    return (finding){"use before wait", adamw, input_of(t, adamw, 0),
                     "on the reduce stream"};
}

static finding adamw_with_wrong_gradient(plan_text *t) {
    int adamw = text_find(t, UPDATE, "adamw", NULL, 2),
        other = text_find(t, UPDATE, "adamw", NULL, 3); /* of the same shape */
    set_input(t, adamw, 1, input_of(t, other, 1));
    return (finding){"wrong parameter", adamw, input_of(t, other, 1), ""};
}

static finding norm_of_one_rank(plan_text *t) {
    int sum = text_find(t, UPDATE, "sum", NULL, 0),
        all = text_find(t, UPDATE, "all_reduce", NULL, 0), clip;
    use_instead(t, all + 1, output_of(t, all, 1), output_of(t, sum, 0));
    drop_node(t, all);
    clip = text_find(t, UPDATE, "clip_scale", NULL, 0);
    return (finding){"rank-local value", clip, output_of(t, sum, 0), ""};
}

static finding norm_of_some_groups(plan_text *t) {
    int sum = text_find(t, UPDATE, "sum", NULL, 0),
        clip = text_find(t, UPDATE, "clip_scale", NULL, 0),
        left_out = input_of(t, sum, operand_count(t, sum, true) - 1);
    drop_last_input(t, sum);
    return (finding){"norm incomplete", clip, left_out, ""};
}

static finding summed_in_place_twice(plan_text *t) {
    int all = text_find(t, UPDATE, "all_reduce", NULL, 0);
    set_input(t, all, 0, input_of(t, all, 1));
    return (finding){"overwritten while read", all, input_of(t, all, 1),
                     "takes it 2 times"};
}

/* A reader on the compute stream that the reduce stream does not wait for. */
static finding overwritten_while_read(plan_text *t) {
    int all = text_find(t, UPDATE, "all_reduce", NULL, 0),
        summed = input_of(t, all, 1);
    text_insert(t, all, "n%d: %%%d f32[1] @transient+0 = sum(%%%d)",
                fresh_label(t), fresh_label(t), summed);
    return (finding){"overwritten while read", all + 1, summed, "its reader"};
}

static finding shard_written_in_micro_step(plan_text *t) {
    int end = text_section_end(t, FIRST), line,
        shard = value_named(t, "h.0.ln_1.weight"),
        moment = value_named(t, "h.0.ln_1.weight.exp_avg"), written;
    const char *place = strchr(definition_of(t, shard, &line), '@');
    written = fresh_label(t);
    text_insert(t, end,
                "n%d: %%%d f32[%lld] param_shard p2 %s = store(%%%d, %%%d)",
                fresh_label(t), written, atoll(strchr(t->line[line], '[') + 1),
                place, moment, shard);
    return (finding){"shard written in a micro-step", end, written, ""};
}

static finding input_written(plan_text *t) {
    int end = text_section_end(t, FIRST), tokens = value_named(t, "tokens"),
        line;
    const char *place = strchr(definition_of(t, tokens, &line), '@');
    text_insert(t, end, "n%d: %%%d i32[2, 4] input %s = store(%%%d, %%%d)",
                fresh_label(t), fresh_label(t), place,
                value_named(t, "targets"), tokens);
    return (finding){"read-only value written", end, tokens, ""};
}

static const fault faults[] = {
    FAULT(wait_removed, BOTH),
    FAULT(wait_without_event, BOTH),
    FAULT(gathering_used_before_wait, BOTH),
    FAULT(gathering_used_after_wait, BOTH),
    FAULT(wait_twice, BOTH),
    FAULT(wait_for_a_shard, BOTH),
    FAULT(used_after_release, BOTH),
    FAULT(released_too_early, BOTH),
    FAULT(released_again, BOTH),
    FAULT(released_twice, BOTH),
    FAULT(release_removed, BOTH),
    FAULT(release_of_an_activation, BOTH),
    FAULT(gather_of_wrong_shard, BOTH),
    FAULT(gather_on_compute, BOTH),
    FAULT(gather_in_the_update, ALIAS),
    FAULT(gather_before_writers_are_done, ALIAS),
    FAULT(parameter_not_gathered, BOTH),
    FAULT(copy_of_another_shape, BOTH),
    FAULT(copy_that_nobody_gathers, BOTH),
    FAULT(reduce_removed, BOTH),
    FAULT(reduced_again, BOTH),
    FAULT(parts_reduced_apart, BOTH),
    FAULT(part_forgotten, BOTH),
    FAULT(reduce_into_wrong_shard, BOTH),
    FAULT(reduce_of_wrong_gradient, BOTH),
    FAULT(reduce_of_a_part, BOTH),
    FAULT(reduce_before_gradient, BOTH),
    FAULT(reduce_without_event, BOTH),
    FAULT(accumulate_in_first, BOTH),
    FAULT(overwrite_in_next, BOTH),
    FAULT(accumulate_left_out, BOTH),
    FAULT(loss_not_accumulated, BOTH),
    FAULT(square_sum_not_kept, BOTH),
    FAULT(reduce_in_the_update, BOTH),
    FAULT(fence_readers_removed, ALIAS),
    FAULT(fence_writers_removed, ALIAS),
    FAULT(fence_writers_forgets_one, ALIAS),
    FAULT(adamw_removed, BOTH),
    FAULT(adamw_again, BOTH),
    FAULT(adamw_twice, BOTH),
    FAULT(adamw_before_fence, ALIAS),
    FAULT(adamw_after_fence, ALIAS),
    FAULT(adamw_without_event, ALIAS),
    FAULT(adamw_with_wrong_gradient, BOTH),
    FAULT(norm_of_one_rank, BOTH),
    FAULT(norm_of_some_groups, BOTH),
    FAULT(summed_in_place_twice, BOTH),
    FAULT(overwritten_while_read, BOTH),
    FAULT(shard_written_in_micro_step, BOTH),
    FAULT(input_written, BOTH),
};

int main(void) {
    tsr_op_table *ops;
    CHECK_OK(tsr_op_table_create(&ops));
    check_faults(ops, compiled_text, faults, sizeof faults / sizeof *faults);
    tsr_op_table_release(ops);
    return 0;
}
