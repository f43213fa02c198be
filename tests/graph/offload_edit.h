/* Offload and reload, put into a plan's text as a person would: lines of a plan
 * that is sharded and neither ordered nor placed (tsr_compile_training_until).
 * Nothing of the graph is used. */
#ifndef TSR_TESTS_OFFLOAD_EDIT_H
#define TSR_TESTS_OFFLOAD_EDIT_H

#include "graph/plan_edit.h"

/* A definition taken apart: f32[7] state p0. */
typedef struct text_value {
    char type[64], role[32], param[16]; /* " state", " p0", or "" */
} text_value;

static inline text_value value_of(const plan_text *t, int label) {
    text_value value = {.role = "", .param = ""};
    int line;
    const char *at = definition_of(t, label, &line);
    at = strchr(at, ' ') + 1;
    if (*at == '"')
        at = strchr(at + 1, '"') + 2;
    size_t type = strcspn(at, "]") + 1;
    CHECK(type < sizeof value.type);
    memcpy(value.type, at, type);
    value.type[type] = '\0';
    at += type;
    while (*at == ' ' && at[1] != '=') {
        size_t word = 1 + strcspn(at + 1, " ,\n");
        bool is_param = at[1] == 'p' && at[2] >= '0' && at[2] <= '9';
        char *to = is_param ? value.param : value.role;
        CHECK(word < (is_param ? sizeof value.param : sizeof value.role));
        CHECK_MESSAGE(at[1] != '@' && strncmp(at, " host", 5) != 0,
                      "cannot edit: %s", t->line[line]);
        memcpy(to, at, word);
        to[word] = '\0';
        at += word;
    }
    return value;
}

/* Inserts a reload of `host` before line `at`; returns the label of the copy.
 */
static inline int insert_reload(plan_text *t, int at, int host,
                                const text_value *value, bool backward) {
    int copy = fresh_label(t);
    text_insert(t, at, "n%d: %%%d %s%s%s = reload(%%%d)%s on=copy_in",
                fresh_label(t), copy, value->type, value->role, value->param,
                host, backward ? " backward" : "");
    return copy;
}

/* Inserts an offload of `from`, over `into` unless that is negative. */
static inline int insert_offload(plan_text *t, int at, int from, int into,
                                 const text_value *value, bool backward) {
    int copy = fresh_label(t);
    char over[24] = "";
    if (into >= 0)
        snprintf(over, sizeof over, ", %%%d", into);
    text_insert(t, at, "n%d: %%%d %s%s host%s = offload(%%%d%s)%s on=copy_out",
                fresh_label(t), copy, value->type, value->role, value->param,
                from, over, backward ? " backward" : "");
    return copy;
}

/* ---- activations ---- */

static inline bool is_backward(const char *line) {
    return strstr(line, " backward") != NULL;
}

static inline bool line_takes(const plan_text *t, int line, int label) {
    for (int i = 0; is_node(t->line[line]) && input_at(t, line, i); i++)
        if (input_of(t, line, i) == label)
            return true;
    return false;
}

/* Leaves the device after its last use in the forward and comes back before its
 * first in the backward. */
static inline void offload_activation(plan_text *t, int label) {
    int last, first = -1;
    definition_of(t, label, &last);
    text_value value = value_of(t, label);
    CHECK(value.role[0] == '\0' && !is_backward(t->line[last]));
    for (int line = last + 1; line < t->count && is_node(t->line[line]);
         line++) {
        if (!line_takes(t, line, label))
            continue;
        if (!is_backward(t->line[line]))
            last = line;
        else if (first < 0)
            first = line;
    }
    CHECK_MESSAGE(first >= 0, "the backward does not use %%%d", label);
    int host = fresh_label(t),
        copy = insert_reload(t, first, host, &value, true);
    use_instead(t, first + 1, label, copy);
    int made = insert_offload(t, last + 1, label, -1, &value, false);
    set_operand(t, last + 1, output_at(t, last + 1, 0), host);
    CHECK(made != host);
}

/* The labels of what layer `layer` (a prefix) keeps for the backward in the
 * section; returns how many. */
static inline int saved_activations(const plan_text *t, const char *section,
                                    const char *layer, int *labels, int most) {
    char start[64], in_layer[64];
    int count = 0;
    snprintf(start, sizeof start, "section %s", section);
    snprintf(in_layer, sizeof in_layer, "layer=\"%s", layer);
    for (int line = text_line(t, start) + 1;
         line < t->count && is_node(t->line[line]); line++) {
        if (is_backward(t->line[line]) || !strstr(t->line[line], in_layer))
            continue;
        for (int i = 0; output_at(t, line, i); i++) {
            int label = output_of(t, line, i);
            bool kept = false;
            for (int use = line + 1; use < t->count && !kept; use++)
                kept = is_node(t->line[use]) && is_backward(t->line[use]) &&
                       !line_is(t->line[use], "release") &&
                       line_takes(t, use, label);
            if (!kept || value_of(t, label).role[0])
                continue;
            CHECK(count < most);
            labels[count++] = label;
        }
    }
    return count;
}

/* Everything that the blocks keep for the backward. Returns how many values. */
static inline int offload_activations(plan_text *t) {
    static const char *const sections[] = {"micro_first", "micro_next"};
    int labels[256], total = 0;
    for (int s = 0; s < 2; s++) {
        bool there = false;
        char start[32];
        snprintf(start, sizeof start, "section %s", sections[s]);
        for (int i = 0; i < t->count; i++)
            there = there || strcmp(t->line[i], start) == 0;
        if (!there)
            continue;
        int count = saved_activations(t, sections[s], "h.", labels, 256);
        for (int i = 0; i < count; i++)
            offload_activation(t, labels[i]);
        total += count;
    }
    CHECK(total > 0);
    return total;
}

/* ---- declared values ---- */

/* The output that the node writes over its input `i`; -1: none. */
static inline int output_over(const plan_text *t, int line, int i) {
    const char *text = t->line[line];
    int inputs = operand_count(t, line, true);
    if (line_is(text, "adamw"))
        return i == 0 ? 0 : i == 2 ? 1 : i == 3 ? 2 : i == 6 ? 3 : -1;
    if (line_is(text, "reduce"))
        return i - inputs / 2;
    if (line_is(text, "cross_entropy"))
        return i == 2 ? 0 : -1;
    if (line_is(text, "clip_scale"))
        return i == 1 ? 0 : -1;
    return line_is(text, "all_reduce") ? i : -1;
}

static inline int input_index(const plan_text *t, int line, int label) {
    for (int i = 0; is_node(t->line[line]) && input_at(t, line, i); i++)
        if (input_of(t, line, i) == label)
            return i;
    return -1;
}

/* The declared value is kept on the host: who takes it takes a copy, and brings
 * it back where it writes over it. */
static inline void keep_on_host(plan_text *t, int label) {
    text_value value = value_of(t, label);
    char with[48];
    snprintf(with, sizeof with, "%s host", value.role);
    edit_value(t, label, value.role, with);
    for (int line = 0; line < t->count; line++) {
        int i = input_index(t, line, label);
        bool backward = is_backward(t->line[line]);
        if (i < 0)
            continue;
        int copy = insert_reload(t, line++, label, &value, backward);
        set_input(t, line, i, copy);
        int over = output_over(t, line, i);
        if (over < 0)
            continue;
        int written = output_of(t, line, over),
            home =
                insert_offload(t, line + 1, written, label, &value, backward);
        /* Later nodes of the section that took what was written still do, from
         * the device; the value itself is at home. */
        CHECK(home != written);
        line++;
    }
}

/* All declared values whose line holds `what`. Returns how many. */
static inline int keep_all_on_host(plan_text *t, const char *what) {
    int count = 0;
    for (int i = 0; i < t->count; i++) {
        if (strncmp(t->line[i], "value %", 7) != 0 || !strstr(t->line[i], what))
            continue;
        keep_on_host(t, atoi(t->line[i] + 7));
        count++;
    }
    CHECK_MESSAGE(count > 0, "no value has '%s'", what);
    return count;
}

static inline void moments_to_host(plan_text *t) {
    keep_all_on_host(t, ".exp_avg");
}
static inline void shards_to_host(plan_text *t) {
    keep_all_on_host(t, " param_shard ");
}

#endif
