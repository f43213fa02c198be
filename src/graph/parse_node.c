/* A line of a plan's text that is a node. */
#include "graph/parse.h"

static const char *stream_at(int i) {
    return tsr_stream_class_name((tsr_stream_class)i);
}

static const tsr_word_set streams = {"a stream", stream_at, 0,
                                     TSR_STREAM_CLASSES};

static tsr_status push_operand(tsr_parser *self, int32_t number, size_t at,
                               tsr_span *span) {
    TSR_TRY(TSR_ARRAY_RESERVE(&self->graph->operands, 1));
    TSR_TRY(TSR_ARRAY_RESERVE(&self->operand_at, 1));
    TSR_ARRAY_PUSH(&self->graph->operands, (tsr_value_id){number});
    TSR_ARRAY_PUSH(&self->operand_at, at);
    span->count++;
    return TSR_OK;
}

/* nN: */
static tsr_status take_node_label(tsr_parser *self, int32_t ordinal) {
    size_t start = self->lexer->at, number;
    tsr_word word;
    tsr_lexer_peek_word(self->lexer, &word);
    self->lexer->at += word.length;
    if (word.length == 0 || !tsr_lexer_take(self->lexer, ':')) {
        self->lexer->at = start;
        return TSR_OK;
    }
    TSR_TRY(tsr_lexer_ref(self->lexer, &word, 'n', "the label of a node",
                          TSR_MOST_LABEL, &number));
    TSR_TRY(TSR_ARRAY_RESERVE(&self->nodes, 1));
    TSR_ARRAY_PUSH(&self->nodes,
                   ((tsr_label){(int32_t)number, ordinal, word.at}));
    return TSR_OK;
}

/* value, value = */
static tsr_status take_outputs(tsr_parser *self, tsr_node_id id,
                               tsr_node *node) {
    tsr_label made;
    node->outputs.first = (int32_t)self->graph->operands.count;
    if (tsr_lexer_peek(self->lexer) != '%')
        return TSR_OK;
    do {
        TSR_TRY(tsr_parse_value(self, id, &made));
        TSR_TRY(push_operand(self, made.number, made.at, &node->outputs));
    } while (tsr_lexer_take(self->lexer, ','));
    return tsr_lexer_expect(self->lexer, '=', "',' or '='");
}

static tsr_status take_op(tsr_parser *self, tsr_node *node) {
    tsr_word word;
    tsr_lexer_peek_word(self->lexer, &word);
    node->op = tsr_op_table_find(self->ops, word.text, word.length);
    if (node->op < 0)
        return tsr_lexer_unexpected(self->lexer, "an op of the table");
    self->lexer->at += word.length;
    return TSR_OK;
}

/* (%N, %N) */
static tsr_status take_inputs(tsr_parser *self, tsr_node *node) {
    int32_t number;
    size_t at;
    node->inputs.first = (int32_t)self->graph->operands.count;
    TSR_TRY(tsr_lexer_expect(self->lexer, '(', "'('"));
    if (tsr_lexer_take(self->lexer, ')'))
        return TSR_OK;
    do {
        TSR_TRY(tsr_parse_value_label(self, &number, &at));
        TSR_TRY(push_operand(self, number, at, &node->inputs));
    } while (tsr_lexer_take(self->lexer, ','));
    return tsr_lexer_expect(self->lexer, ')', "',' or ')'");
}

static tsr_status take_attr(tsr_parser *self, tsr_node *node) {
    tsr_graph *graph = self->graph;
    tsr_attr attr = {0};
    tsr_word word;
    TSR_TRY(tsr_lexer_word(self->lexer, "the name of an attribute", &word));
    for (int32_t i = 0; i < node->attrs.count; i++)
        if (tsr_word_is(&word, graph->attrs.data[node->attrs.first + i].name))
            return tsr_lexer_error(
                self->lexer, word.at,
                "found attribute '%s' twice, expected it once",
                graph->attrs.data[node->attrs.first + i].name);
    TSR_TRY(tsr_lexer_expect(self->lexer, '=', "'='"));
    TSR_TRY(tsr_lexer_number(self->lexer, &attr));
    attr.name = tsr_graph_intern(graph, word.text, word.length);
    if (!attr.name)
        return tsr_graph_status(graph);
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->attrs, 1));
    TSR_ARRAY_PUSH(&graph->attrs, attr);
    node->attrs.count++;
    return TSR_OK;
}

/* {name=number, name=number} */
static tsr_status take_attrs(tsr_parser *self, tsr_node *node) {
    node->attrs.first = (int32_t)self->graph->attrs.count;
    if (!tsr_lexer_take(self->lexer, '{'))
        return TSR_OK;
    do {
        TSR_TRY(take_attr(self, node));
    } while (tsr_lexer_take(self->lexer, ','));
    return tsr_lexer_expect(self->lexer, '}', "',' or '}'");
}

static tsr_status parse_on(tsr_parser *self, tsr_node *node) {
    int stream;
    TSR_TRY(tsr_lexer_name(self->lexer, &streams, &stream));
    node->stream = (tsr_stream_class)stream;
    return TSR_OK;
}

static tsr_status parse_layer(tsr_parser *self, tsr_node *node) {
    return tsr_parse_string(self, &node->layer);
}

static tsr_status parse_after(tsr_parser *self, tsr_node *node) {
    tsr_graph *graph = self->graph;
    size_t number;
    tsr_word word;
    do {
        TSR_TRY(tsr_lexer_word(self->lexer, "the label of a node", &word));
        TSR_TRY(tsr_lexer_ref(self->lexer, &word, 'n', "the label of a node",
                              TSR_MOST_LABEL, &number));
        TSR_TRY(TSR_ARRAY_RESERVE(&graph->afters, 1));
        TSR_TRY(TSR_ARRAY_RESERVE(&self->after_at, 1));
        TSR_ARRAY_PUSH(&graph->afters, (tsr_node_id){(int32_t)number});
        TSR_ARRAY_PUSH(&self->after_at, word.at);
        node->after.count++;
    } while (tsr_lexer_take(self->lexer, ','));
    return TSR_OK;
}

static tsr_status parse_workspace(tsr_parser *self, tsr_node *node) {
    TSR_TRY(tsr_lexer_size(self->lexer, "the bytes of a workspace", 0, SIZE_MAX,
                           &node->workspace_bytes));
    TSR_TRY(tsr_lexer_expect(self->lexer, '@', "'@' and an offset"));
    return tsr_lexer_size(self->lexer, "an offset before the end of memory", 0,
                          SIZE_MAX - node->workspace_bytes,
                          &node->workspace_offset);
}

/* What may follow a node, each once, in any order. */
static const struct {
    const char *name;
    tsr_status (*parse)(tsr_parser *self, tsr_node *node); /* NULL: backward */
} modifiers[] = {
    {"backward", NULL},
    {"on", parse_on},
    {"layer", parse_layer},
    {"after", parse_after},
    {"workspace", parse_workspace},
};
#define MODIFIERS (sizeof modifiers / sizeof *modifiers)

static tsr_status take_modifiers(tsr_parser *self, tsr_node *node) {
    unsigned seen = 0;
    tsr_word word;
    while (tsr_lexer_peek_word(self->lexer, &word)) {
        size_t row = 0;
        while (row < MODIFIERS && !tsr_word_is(&word, modifiers[row].name))
            row++;
        if (row == MODIFIERS)
            return tsr_lexer_unexpected(self->lexer,
                                        "backward, on=, layer=, after=, "
                                        "workspace= or the end of the line");
        if (seen >> row & 1)
            return tsr_lexer_error(self->lexer, word.at,
                                   "found '%s' twice, expected it once",
                                   modifiers[row].name);
        seen |= 1u << row;
        self->lexer->at += word.length;
        if (!modifiers[row].parse) {
            node->phase = TSR_BACKWARD;
            continue;
        }
        TSR_TRY(tsr_lexer_expect(self->lexer, '=', "'='"));
        TSR_TRY(modifiers[row].parse(self, node));
    }
    return TSR_OK;
}

tsr_status tsr_parse_node(tsr_parser *self) {
    if (self->section < 0)
        return tsr_lexer_unexpected(
            self->lexer, "a section line before the first node, or one of: "
                         "target, bytes, param, value, loss");
    tsr_graph *graph = self->graph;
    tsr_node_id id = {(int32_t)graph->nodes.count};
    tsr_node node = {.section = (tsr_section)self->section,
                     .stream = TSR_ON_COMPUTE,
                     .layer = "",
                     .after = {.first = (int32_t)graph->afters.count}};
    TSR_TRY(take_node_label(self, id.index));
    TSR_TRY(take_outputs(self, id, &node));
    TSR_TRY(take_op(self, &node));
    TSR_TRY(take_inputs(self, &node));
    TSR_TRY(take_attrs(self, &node));
    TSR_TRY(take_modifiers(self, &node));
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->nodes, 1));
    TSR_ARRAY_PUSH(&graph->nodes, node);
    return TSR_OK;
}
