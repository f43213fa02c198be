/* Edits of a plan's text, as a careless hand would make them. Lines are found
 * by section, op and layer, operands by their place, so that edits survive
 * changes of ids; an edit that changes nothing fails the test. */
#ifndef TSR_TESTS_PLAN_EDIT_H
#define TSR_TESTS_PLAN_EDIT_H

#include <stdarg.h>
#include <stdbool.h>

#include "check.h"

#define PLAN_LINES 2048
#define FIRST_FREE_LABEL 1000000 /* of values and nodes that edits add */

typedef struct plan_text {
    char *line[PLAN_LINES]; /* owned */
    int count;
    int fresh; /* labels handed out */
} plan_text;

/* ---- lines ---- */

static inline char *new_text(size_t length) {
    char *text = malloc(length + 1);
    CHECK(text != NULL);
    text[length] = '\0';
    return text;
}

static inline char *copy_text(const char *text, size_t length) {
    char *copy = new_text(length);
    memcpy(copy, text, length);
    return copy;
}

static inline void text_load(plan_text *self, const char *printed) {
    self->count = self->fresh = 0;
    while (*printed) {
        size_t length = strcspn(printed, "\n");
        CHECK(self->count < PLAN_LINES);
        self->line[self->count++] = copy_text(printed, length);
        printed += length + (printed[length] == '\n');
    }
}

static inline void text_release(plan_text *self) {
    for (int i = 0; i < self->count; i++)
        free(self->line[i]);
    self->count = 0;
}

static inline char *text_join(const plan_text *self) {
    size_t length = 0, at = 0;
    for (int i = 0; i < self->count; i++)
        length += strlen(self->line[i]) + 1;
    char *joined = new_text(length);
    for (int i = 0; i < self->count; i++) {
        size_t bytes = strlen(self->line[i]);
        memcpy(joined + at, self->line[i], bytes);
        joined[at + bytes] = '\n';
        at += bytes + 1;
    }
    return joined;
}

static inline void text_insert(plan_text *self, int at, const char *format,
                               ...) {
    char line[16384];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    CHECK(length > 0 && (size_t)length < sizeof line);
    CHECK(self->count < PLAN_LINES);
    memmove(self->line + at + 1, self->line + at,
            (size_t)(self->count - at) * sizeof *self->line);
    self->line[at] = copy_text(line, (size_t)length);
    self->count++;
}

static inline void text_remove(plan_text *self, int at) {
    free(self->line[at]);
    memmove(self->line + at, self->line + at + 1,
            (size_t)(self->count - at - 1) * sizeof *self->line);
    self->count--;
}

/* Moves a line to just before line `to`; returns where it is then. */
static inline int text_move(plan_text *self, int from, int to) {
    char *line = self->line[from];
    CHECK(from != to && from + 1 != to);
    if (from < to) {
        to--;
        memmove(self->line + from, self->line + from + 1,
                (size_t)(to - from) * sizeof *self->line);
    } else {
        memmove(self->line + to + 1, self->line + to,
                (size_t)(from - to) * sizeof *self->line);
    }
    self->line[to] = line;
    return to;
}

/* Puts `with` in the place of `length` bytes at `at` of the line. */
static inline void text_splice(plan_text *self, int line, const char *at,
                               size_t length, const char *with) {
    char *old = self->line[line];
    size_t before = (size_t)(at - old), after = strlen(at + length),
           bytes = strlen(with);
    CHECK(strlen(with) != length || memcmp(at, with, length) != 0);
    char *changed = new_text(before + bytes + after);
    memcpy(changed, old, before);
    memcpy(changed + before, with, bytes);
    memcpy(changed + before + bytes, at + length, after);
    self->line[line] = changed;
    free(old);
}

static inline void text_replace(plan_text *self, int line, const char *old,
                                const char *with) {
    const char *at = strstr(self->line[line], old);
    CHECK_MESSAGE(at != NULL, "'%s' is not in: %s", old, self->line[line]);
    text_splice(self, line, at, strlen(old), with);
}

/* The line that begins with `start`. */
static inline int text_line(const plan_text *self, const char *start) {
    for (int i = 0; i < self->count; i++)
        if (strncmp(self->line[i], start, strlen(start)) == 0)
            return i;
    CHECK_MESSAGE(false, "no line begins with '%s'", start);
    return -1;
}

/* ---- nodes ---- */

static inline bool is_node(const char *line) {
    return line[0] == 'n' && line[1] >= '0' && line[1] <= '9';
}

/* The op's name within a node's line. */
static inline const char *op_of(const char *line) {
    const char *paren = strchr(line, '('), *at = paren;
    CHECK(is_node(line) && paren != NULL);
    while (at[-1] != ' ')
        at--;
    return at;
}

static inline bool line_is(const char *line, const char *op) {
    size_t length = strlen(op);
    return is_node(line) && strncmp(op_of(line), op, length) == 0 &&
           op_of(line)[length] == '(';
}

/* Line of the nth node (from 0) of the section with this op, and this layer
 * unless NULL. */
static inline int text_find(const plan_text *self, const char *section,
                            const char *op, const char *layer, int nth) {
    char start[64], in_layer[64] = "";
    snprintf(start, sizeof start, "section %s", section);
    if (layer)
        snprintf(in_layer, sizeof in_layer, "layer=\"%s\"", layer);
    for (int i = text_line(self, start) + 1;
         i < self->count && is_node(self->line[i]); i++)
        if (line_is(self->line[i], op) && strstr(self->line[i], in_layer) &&
            nth-- == 0)
            return i;
    CHECK_MESSAGE(false, "no %s of layer %s in %s", op, layer ? layer : "any",
                  section);
    return -1;
}

/* The line after the section's last. */
static inline int text_section_end(const plan_text *self, const char *section) {
    char start[64];
    snprintf(start, sizeof start, "section %s", section);
    int i = text_line(self, start) + 1;
    while (i < self->count && is_node(self->line[i]))
        i++;
    return i;
}

static inline int node_label(const plan_text *self, int line) {
    return atoi(self->line[line] + 1);
}

/* The nth operand ("%7") from `at` on, before `end`. */
static inline const char *nth_operand(const char *at, const char *end,
                                      int nth) {
    for (; *at && (!end || at < end); at++)
        if (*at == '%' && nth-- == 0)
            return at;
    return NULL;
}

static inline const char *output_at(const plan_text *self, int line, int nth) {
    return nth_operand(self->line[line], op_of(self->line[line]), nth);
}
static inline const char *input_at(const plan_text *self, int line, int nth) {
    const char *op = op_of(self->line[line]);
    return nth_operand(op, strchr(op, ')'), nth);
}
static inline int operand_count(const plan_text *self, int line, bool inputs) {
    int count = 0;
    while ((inputs ? input_at : output_at)(self, line, count))
        count++;
    return count;
}

static inline int output_of(const plan_text *self, int line, int nth) {
    const char *at = output_at(self, line, nth);
    CHECK_MESSAGE(at != NULL, "no output %d: %s", nth, self->line[line]);
    return atoi(at + 1);
}
static inline int input_of(const plan_text *self, int line, int nth) {
    const char *at = input_at(self, line, nth);
    CHECK_MESSAGE(at != NULL, "no input %d: %s", nth, self->line[line]);
    return atoi(at + 1);
}

static inline void set_operand(plan_text *self, int line, const char *at,
                               int label) {
    char with[16];
    snprintf(with, sizeof with, "%%%d", label);
    text_splice(self, line, at, 1 + strspn(at + 1, "0123456789"), with);
}
static inline void set_input(plan_text *self, int line, int nth, int label) {
    CHECK(input_at(self, line, nth) != NULL);
    set_operand(self, line, input_at(self, line, nth), label);
}
/* Inputs i and j change places. */
static inline void swap_inputs(plan_text *self, int line, int i, int j) {
    int first = input_of(self, line, i), second = input_of(self, line, j);
    set_input(self, line, i, second);
    set_input(self, line, j, first);
}
static inline void drop_last_input(plan_text *self, int line) {
    const char *at = input_at(self, line, operand_count(self, line, true) - 1);
    CHECK(at != NULL && at[-2] == ',');
    text_splice(self, line, at - 2, strcspn(at, ")") + 2, "");
}

/* From line `from` on, nodes take `label` where they took `old`. */
static inline void use_instead(plan_text *self, int from, int old, int label) {
    for (int line = from; line < self->count; line++)
        for (int i = 0; is_node(self->line[line]) && input_at(self, line, i);
             i++)
            if (input_of(self, line, i) == old)
                set_input(self, line, i, label);
}

static inline const char *after_of(const plan_text *self, int line) {
    return strstr(self->line[line], " after=");
}
static inline void drop_after(plan_text *self, int line) {
    const char *at = after_of(self, line);
    CHECK_MESSAGE(at != NULL, "waits for nothing: %s", self->line[line]);
    text_splice(self, line, at, 1 + strcspn(at + 1, " "), "");
}
/* Makes the node wait for one more. */
static inline void add_after(plan_text *self, int line, int node) {
    char with[32];
    const char *at = after_of(self, line);
    snprintf(with, sizeof with, at ? " after=n%d," : " after=n%d", node);
    if (at)
        text_splice(self, line, at, strlen(" after="), with);
    else
        text_splice(self, line, self->line[line] + strlen(self->line[line]), 0,
                    with);
}

/* The node waits for its nth no more. */
static inline void drop_one_after(plan_text *self, int line, int nth) {
    const char *at = after_of(self, line) + strlen(" after=");
    bool first = nth == 0;
    while (nth-- > 0)
        at += strcspn(at, ",") + 1;
    size_t word = strcspn(at, ", ");
    if (first && at[word] != ',')
        drop_after(self, line);
    else
        text_splice(self, line, first ? at : at - 1, word + 1, "");
}

/* No node waits for node `label` any more. */
static inline void forget_node(plan_text *self, int label) {
    for (int line = 0; line < self->count; line++) {
        const char *at = after_of(self, line);
        at = at ? at + strlen(" after=") : "";
        for (int nth = 0; *at == 'n'; nth++) {
            if (atoi(at + 1) == label) {
                drop_one_after(self, line, nth);
                break;
            }
            at += strcspn(at, ", ");
            at += *at == ',';
        }
    }
}
static inline void drop_node(plan_text *self, int line) {
    forget_node(self, node_label(self, line));
    text_remove(self, line);
}

static inline int fresh_label(plan_text *self) {
    return FIRST_FREE_LABEL + self->fresh++;
}

/* A copy of a node with new outputs, before line `at`; returns its line. */
static inline int clone_node(plan_text *self, int line, int at) {
    char name[16];
    text_insert(self, at, "%s", self->line[line]);
    snprintf(name, sizeof name, "n%d", fresh_label(self));
    text_splice(self, at, self->line[at], strcspn(self->line[at], ":"), name);
    for (int i = 0; i < operand_count(self, at, false); i++)
        set_operand(self, at, output_at(self, at, i), fresh_label(self));
    return at;
}

/* ---- values ---- */

/* Where the definition of a value begins, and its line. */
static inline const char *definition_of(const plan_text *self, int label,
                                        int *out_line) {
    for (int line = 0; line < self->count; line++) {
        const char *text = self->line[line];
        if (strncmp(text, "value %", 7) == 0 && atoi(text + 7) == label) {
            *out_line = line;
            return text + 6;
        }
        for (int i = 0; is_node(text) && output_at(self, line, i); i++)
            if (output_of(self, line, i) == label) {
                *out_line = line;
                return output_at(self, line, i);
            }
    }
    CHECK_MESSAGE(false, "%%%d is not defined", label);
    return NULL;
}

/* The value declared as `name`. */
static inline int value_named(const plan_text *self, const char *name) {
    char quoted[80];
    snprintf(quoted, sizeof quoted, " \"%s\" ", name);
    for (int i = 0; i < self->count; i++)
        if (strncmp(self->line[i], "value ", 6) == 0 &&
            strstr(self->line[i], quoted))
            return atoi(self->line[i] + 7);
    CHECK_MESSAGE(false, "no value is called '%s'", name);
    return -1;
}

/* Replaces `old` in the definition of the value. */
static inline void edit_value(plan_text *self, int label, const char *old,
                              const char *with) {
    int line;
    const char *at = strstr(definition_of(self, label, &line), old);
    CHECK_MESSAGE(at != NULL, "'%s' is not in: %s", old, self->line[line]);
    text_splice(self, line, at, strlen(old), with);
}

static inline size_t offset_of(const plan_text *self, int label) {
    int line;
    return strtoull(strchr(definition_of(self, label, &line), '+') + 1, NULL,
                    10);
}
static inline void set_offset(plan_text *self, int label, size_t offset) {
    int line;
    char with[32];
    const char *at = strchr(definition_of(self, label, &line), '+') + 1;
    snprintf(with, sizeof with, "%zu", offset);
    text_splice(self, line, at, strspn(at, "0123456789"), with);
}

/* ---- after parsing ---- */

/* The id that parsing gives to the value: the rank of its label. */
static inline int value_id(const plan_text *self, int label) {
    int id = 0;
    for (int line = 0; line < self->count; line++) {
        const char *text = self->line[line];
        id += strncmp(text, "value %", 7) == 0 && atoi(text + 7) < label;
        for (int i = 0; is_node(text) && output_at(self, line, i); i++)
            id += output_of(self, line, i) < label;
    }
    return id;
}

/* The name that messages give to the node of a line: "n12 linear (h.0.attn)".
 */
static inline const char *node_name(const plan_text *self, int line,
                                    char buffer[160]) {
    int id = 0;
    const char *text = self->line[line], *op = op_of(text),
               *layer = strstr(text, "layer=\"");
    for (int i = 0; i < line; i++)
        id += is_node(self->line[i]);
    int used = snprintf(buffer, 160, "n%d %.*s", id, (int)strcspn(op, "("), op);
    if (layer) {
        layer += strlen("layer=\"");
        snprintf(buffer + used, 160 - (size_t)used, " (%.*s)",
                 (int)strcspn(layer, "\""), layer);
    }
    return buffer;
}

#endif
