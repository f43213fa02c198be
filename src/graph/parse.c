/* The text form of a plan, read. Its grammar is in docs/plan-format.md; print.c
 * writes it.
 *
 * A label may be used before its definition, so the lists of the graph first
 * hold labels; resolve_values and resolve_nodes turn them into ids at the end.
 * Values get ids in the order of their labels: what print.c wrote keeps its
 * ids. Nodes get theirs in the order of the text, for that is the schedule. */
#include "graph/graph.h"
#include "graph/lexer.h"
#include "tessera/plan.h"

#define FORMAT_VERSION 1
#define MOST_LABEL 16777215             /* of values and nodes: 2^24 - 1 */
#define MOST_COUNT (INT64_C(1) << 48)   /* elements of a value, as in graph.c */
#define MOST_GRANULE (INT64_C(1) << 40) /* times 2^20 ranks fits 64 bits */

typedef struct parser {
    tsr_lexer *lexer;
    const tsr_op_table *ops;
    tsr_plan *plan;   /* owned; NULL until the target was read */
    tsr_graph *graph; /* the plan's */
    int stage;        /* the latest statement's row in `statements`; -1: none */
    int section;      /* the latest; -1: none */
    TSR_ARRAY(tsr_label) values;
    TSR_ARRAY(tsr_label) nodes;   /* those with a label */
    TSR_ARRAY(size_t) operand_at; /* (graph->operands) place of each */
    TSR_ARRAY(size_t) after_at;   /* (graph->afters) place of each */
    size_t loss_at;
} parser;

/* ---- names ---- */

static const char *dtype_at(int i) { return tsr_dtype_name((tsr_dtype)i); }
static const char *role_at(int i) { return tsr_role_name((tsr_role)i); }
static const char *space_at(int i) { return tsr_space_name((tsr_space)i); }
static const char *section_at(int i) {
    return tsr_section_name((tsr_section)i);
}
static const char *stream_at(int i) {
    return tsr_stream_class_name((tsr_stream_class)i);
}
static const char *init_at(int i) {
    return i == TSR_INIT_NORMAL ? "normal" : "constant";
}

static const tsr_word_set dtypes = {"a dtype", dtype_at, 0, TSR_DTYPE_COUNT};
static const tsr_word_set roles = {"a role", role_at, 0, TSR_ROLE_COUNT};
static const tsr_word_set spaces = {"a space", space_at, TSR_SPACE_WEIGHTS,
                                    TSR_SPACE_COUNT};
static const tsr_word_set sections = {"a section", section_at, 0, TSR_SECTIONS};
static const tsr_word_set streams = {"a stream", stream_at, 0,
                                     TSR_STREAM_CLASSES};
static const tsr_word_set inits = {"an initial value", init_at, 0,
                                   TSR_INIT_NORMAL + 1};

/* A quoted name, kept by the graph. */
static tsr_status take_string(parser *self, const char **out_string) {
    tsr_word word;
    TSR_TRY(tsr_lexer_string(self->lexer, &word));
    *out_string = tsr_graph_intern(self->graph, word.text, word.length);
    return *out_string ? TSR_OK : tsr_graph_status(self->graph);
}

/* ---- values ---- */

/* dtype[2, 3] */
static tsr_status take_type(parser *self, tsr_type *out_type) {
    int dtype;
    size_t extent, most = (size_t)MOST_COUNT;
    *out_type = (tsr_type){0};
    TSR_TRY(tsr_lexer_name(self->lexer, &dtypes, &dtype));
    out_type->dtype = (tsr_dtype)dtype;
    TSR_TRY(tsr_lexer_expect(self->lexer, '[', "'['"));
    if (tsr_lexer_take(self->lexer, ']'))
        return TSR_OK;
    do {
        if (out_type->dims == TSR_MAX_DIMS)
            return tsr_lexer_error(
                self->lexer, self->lexer->at,
                "found one dimension more, expected at most %d", TSR_MAX_DIMS);
        TSR_TRY(tsr_lexer_size(self->lexer,
                               "a dimension (2^48 elements in all)", 1, most,
                               &extent));
        most /= extent;
        out_type->shape[out_type->dims++] = (int64_t)extent;
    } while (tsr_lexer_take(self->lexer, ','));
    return tsr_lexer_expect(self->lexer, ']', "',' or ']'");
}

/* @space+offset */
static tsr_status take_place(parser *self, tsr_value *value) {
    int space;
    if (!tsr_lexer_take(self->lexer, '@'))
        return TSR_OK;
    TSR_TRY(tsr_lexer_name(self->lexer, &spaces, &space));
    value->space = (tsr_space)space;
    TSR_TRY(tsr_lexer_expect(self->lexer, '+', "'+' and an offset"));
    return tsr_lexer_size(self->lexer, "an offset before the end of memory", 0,
                          SIZE_MAX - tsr_type_bytes(&value->type),
                          &value->offset);
}

static bool at_word(parser *self, const char *text) {
    tsr_word word;
    return tsr_lexer_peek_word(self->lexer, &word) && tsr_word_is(&word, text);
}

/* host */
static tsr_status take_host(parser *self, tsr_value *value) {
    if (!at_word(self, "host"))
        return TSR_OK;
    value->place = TSR_PLACE_HOST;
    return tsr_lexer_keyword(self->lexer, "host");
}

/* role? host? pN? */
static tsr_status take_role(parser *self, tsr_value *value) {
    int role = TSR_ROLE_ACTIVATION;
    size_t param, params = self->graph->params.count;
    tsr_word word;
    bool more = tsr_lexer_peek_word(self->lexer, &word);
    if (more && !tsr_word_ref(&word, 'p', &param) &&
        !tsr_word_is(&word, "host"))
        TSR_TRY(tsr_lexer_name(self->lexer, &roles, &role));
    value->role = (tsr_role)role;
    TSR_TRY(take_host(self, value));
    more = tsr_lexer_peek_word(self->lexer, &word);
    if (!more || !tsr_word_ref(&word, 'p', &param))
        return TSR_OK;
    if (param >= params)
        return tsr_lexer_error(self->lexer, word.at,
                               "found p%zu, expected one of the %zu param "
                               "lines, the first being p0",
                               param, params);
    self->lexer->at += word.length;
    value->param = (tsr_param_id){(int32_t)param};
    return TSR_OK;
}

/* %N, defined or used. */
static tsr_status take_value_label(parser *self, int32_t *out_number,
                                   size_t *out_at) {
    size_t number;
    tsr_lexer_peek(self->lexer);
    *out_at = self->lexer->at;
    TSR_TRY(tsr_lexer_expect(self->lexer, '%', "a value: %N"));
    TSR_TRY(tsr_lexer_size(self->lexer, "the number of a value", 0, MOST_LABEL,
                           &number));
    *out_number = (int32_t)number;
    return TSR_OK;
}

/* A definition: %N "name"? type role? host? pN? @space+offset? */
static tsr_status take_value(parser *self, tsr_node_id producer,
                             tsr_label *out_label) {
    tsr_graph *graph = self->graph;
    tsr_value value = {.name = "", .param = TSR_NO_PARAM, .producer = producer};
    out_label->ordinal = (int32_t)graph->values.count;
    TSR_TRY(take_value_label(self, &out_label->number, &out_label->at));
    if (tsr_lexer_peek(self->lexer) == '"')
        TSR_TRY(take_string(self, &value.name));
    TSR_TRY(take_type(self, &value.type));
    TSR_TRY(take_role(self, &value));
    TSR_TRY(take_place(self, &value));
    TSR_TRY(TSR_ARRAY_RESERVE(&self->values, 1));
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->values, 1));
    TSR_ARRAY_PUSH(&self->values, *out_label);
    TSR_ARRAY_PUSH(&graph->values, value);
    return TSR_OK;
}

/* ---- nodes ---- */

static tsr_status push_operand(parser *self, int32_t number, size_t at,
                               tsr_span *span) {
    TSR_TRY(TSR_ARRAY_RESERVE(&self->graph->operands, 1));
    TSR_TRY(TSR_ARRAY_RESERVE(&self->operand_at, 1));
    TSR_ARRAY_PUSH(&self->graph->operands, (tsr_value_id){number});
    TSR_ARRAY_PUSH(&self->operand_at, at);
    span->count++;
    return TSR_OK;
}

/* nN: */
static tsr_status take_node_label(parser *self, int32_t ordinal) {
    size_t start = self->lexer->at, number;
    tsr_word word;
    tsr_lexer_peek_word(self->lexer, &word);
    self->lexer->at += word.length;
    if (word.length == 0 || !tsr_lexer_take(self->lexer, ':')) {
        self->lexer->at = start;
        return TSR_OK;
    }
    TSR_TRY(tsr_lexer_ref(self->lexer, &word, 'n', "the label of a node",
                          MOST_LABEL, &number));
    TSR_TRY(TSR_ARRAY_RESERVE(&self->nodes, 1));
    TSR_ARRAY_PUSH(&self->nodes,
                   ((tsr_label){(int32_t)number, ordinal, word.at}));
    return TSR_OK;
}

/* value, value = */
static tsr_status take_outputs(parser *self, tsr_node_id id, tsr_node *node) {
    tsr_label made;
    node->outputs.first = (int32_t)self->graph->operands.count;
    if (tsr_lexer_peek(self->lexer) != '%')
        return TSR_OK;
    do {
        TSR_TRY(take_value(self, id, &made));
        TSR_TRY(push_operand(self, made.number, made.at, &node->outputs));
    } while (tsr_lexer_take(self->lexer, ','));
    return tsr_lexer_expect(self->lexer, '=', "',' or '='");
}

static tsr_status take_op(parser *self, tsr_node *node) {
    tsr_word word;
    tsr_lexer_peek_word(self->lexer, &word);
    node->op = tsr_op_table_find(self->ops, word.text, word.length);
    if (node->op < 0)
        return tsr_lexer_unexpected(self->lexer, "an op of the table");
    self->lexer->at += word.length;
    return TSR_OK;
}

/* (%N, %N) */
static tsr_status take_inputs(parser *self, tsr_node *node) {
    int32_t number;
    size_t at;
    node->inputs.first = (int32_t)self->graph->operands.count;
    TSR_TRY(tsr_lexer_expect(self->lexer, '(', "'('"));
    if (tsr_lexer_take(self->lexer, ')'))
        return TSR_OK;
    do {
        TSR_TRY(take_value_label(self, &number, &at));
        TSR_TRY(push_operand(self, number, at, &node->inputs));
    } while (tsr_lexer_take(self->lexer, ','));
    return tsr_lexer_expect(self->lexer, ')', "',' or ')'");
}

static tsr_status take_attr(parser *self, tsr_node *node) {
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
static tsr_status take_attrs(parser *self, tsr_node *node) {
    node->attrs.first = (int32_t)self->graph->attrs.count;
    if (!tsr_lexer_take(self->lexer, '{'))
        return TSR_OK;
    do {
        TSR_TRY(take_attr(self, node));
    } while (tsr_lexer_take(self->lexer, ','));
    return tsr_lexer_expect(self->lexer, '}', "',' or '}'");
}

static tsr_status parse_on(parser *self, tsr_node *node) {
    int stream;
    TSR_TRY(tsr_lexer_name(self->lexer, &streams, &stream));
    node->stream = (tsr_stream_class)stream;
    return TSR_OK;
}

static tsr_status parse_layer(parser *self, tsr_node *node) {
    return take_string(self, &node->layer);
}

static tsr_status parse_after(parser *self, tsr_node *node) {
    tsr_graph *graph = self->graph;
    size_t number;
    tsr_word word;
    do {
        TSR_TRY(tsr_lexer_word(self->lexer, "the label of a node", &word));
        TSR_TRY(tsr_lexer_ref(self->lexer, &word, 'n', "the label of a node",
                              MOST_LABEL, &number));
        TSR_TRY(TSR_ARRAY_RESERVE(&graph->afters, 1));
        TSR_TRY(TSR_ARRAY_RESERVE(&self->after_at, 1));
        TSR_ARRAY_PUSH(&graph->afters, (tsr_node_id){(int32_t)number});
        TSR_ARRAY_PUSH(&self->after_at, word.at);
        node->after.count++;
    } while (tsr_lexer_take(self->lexer, ','));
    return TSR_OK;
}

static tsr_status parse_workspace(parser *self, tsr_node *node) {
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
    tsr_status (*parse)(parser *self, tsr_node *node); /* NULL: backward */
} modifiers[] = {
    {"backward", NULL},
    {"on", parse_on},
    {"layer", parse_layer},
    {"after", parse_after},
    {"workspace", parse_workspace},
};
#define MODIFIERS (sizeof modifiers / sizeof *modifiers)

static tsr_status take_modifiers(parser *self, tsr_node *node) {
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

static tsr_status parse_node(parser *self) {
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

/* ---- other statements; their keyword was taken ---- */

static tsr_status parse_target(parser *self) {
    size_t start = self->lexer->at, world, shared, alias;
    tsr_target target = {0};
    TSR_TRY(tsr_lexer_setting(self->lexer, "world", 1, INT32_MAX, &world));
    TSR_TRY(tsr_lexer_setting(self->lexer, "shared", 0, 1, &shared));
    TSR_TRY(tsr_lexer_setting(self->lexer, "gather_alias", 0, 1, &alias));
    TSR_TRY(tsr_lexer_setting(self->lexer, "alignment", 0, SIZE_MAX,
                              &target.alignment));
    TSR_TRY(
        tsr_lexer_setting(self->lexer, "memory", 0, SIZE_MAX, &target.memory));
    if (at_word(self, "host_memory"))
        TSR_TRY(tsr_lexer_setting(self->lexer, "host_memory", 0, SIZE_MAX,
                                  &target.host_memory));
    target.world = (int)world;
    target.shared = shared != 0;
    target.gather_alias = alias != 0;
    TSR_TRY(tsr_graph_create(self->ops, &self->graph));
    tsr_status status = tsr_plan_create(self->graph, &target, &self->plan);
    if (status != TSR_INVALID_ARGUMENT)
        return status;
    return tsr_lexer_error(self->lexer, start, "%s", tsr_last_error());
}

static tsr_status parse_products(parser *self) {
    tsr_lexer_peek(self->lexer);
    size_t at = self->lexer->at;
    TSR_TRY(take_string(self, &self->plan->target.products));
    return self->plan->target.products[0]
               ? TSR_OK
               : tsr_lexer_error(self->lexer, at,
                                 "found an empty name, expected how matrices "
                                 "are multiplied");
}

static tsr_status parse_bytes(parser *self) {
    for (int s = TSR_SPACE_WEIGHTS; s < TSR_SPACE_COUNT; s++) {
        const char *name = tsr_space_name((tsr_space)s);
        if (s >= TSR_SPACE_HOST_PERSISTENT && !at_word(self, name))
            continue;
        TSR_TRY(tsr_lexer_setting(self->lexer, name, 0, SIZE_MAX,
                                  &self->plan->bytes[s]));
    }
    return TSR_OK;
}

/* normal(0.02) */
static tsr_status take_init(parser *self, tsr_param *param) {
    tsr_attr number = {0};
    int init;
    TSR_TRY(tsr_lexer_name(self->lexer, &inits, &init));
    param->init = (tsr_init_kind)init;
    TSR_TRY(tsr_lexer_expect(self->lexer, '(', "'('"));
    TSR_TRY(tsr_lexer_number(self->lexer, &number));
    param->init_value = number.is_real ? number.real : (double)number.integer;
    return tsr_lexer_expect(self->lexer, ')', "')'");
}

static tsr_status take_param_name(parser *self, const char **out_name) {
    const tsr_graph *graph = self->graph;
    tsr_lexer_peek(self->lexer);
    size_t at = self->lexer->at;
    TSR_TRY(take_string(self, out_name));
    if (!**out_name)
        return tsr_lexer_error(self->lexer, at,
                               "found an empty name, expected a parameter's");
    for (size_t i = 0; i < graph->params.count; i++)
        if (strcmp(graph->params.data[i].name, *out_name) == 0)
            return tsr_lexer_error(
                self->lexer, at,
                "found '%.100s' again, expected it once: as p%zu", *out_name,
                i);
    return TSR_OK;
}

/* stored=dtype? */
static tsr_status take_stored(parser *self, tsr_param *param) {
    int stored = (int)param->type.dtype;
    tsr_word word;
    tsr_lexer_peek_word(self->lexer, &word);
    if (tsr_word_is(&word, "stored")) {
        self->lexer->at += word.length;
        TSR_TRY(tsr_lexer_expect(self->lexer, '=', "'='"));
        TSR_TRY(tsr_lexer_name(self->lexer, &dtypes, &stored));
    }
    param->stored = (tsr_dtype)stored;
    return tsr_check_stored(param) == TSR_OK
               ? TSR_OK
               : tsr_lexer_error(self->lexer, word.at, "%s", tsr_last_error());
}

static tsr_status parse_param(parser *self) {
    tsr_param param = {0};
    size_t group, granule;
    tsr_word word;
    TSR_TRY(take_param_name(self, &param.name));
    TSR_TRY(take_type(self, &param.type));
    TSR_TRY(take_stored(self, &param));
    TSR_TRY(tsr_lexer_setting(self->lexer, "group", 0, INT32_MAX, &group));
    TSR_TRY(tsr_lexer_setting(self->lexer, "granule", 1, (size_t)MOST_GRANULE,
                              &granule));
    param.group = (int)group;
    param.granule = (int64_t)granule;
    TSR_TRY(take_init(self, &param));
    param.decay = tsr_lexer_peek_word(self->lexer, &word);
    if (param.decay)
        TSR_TRY(tsr_lexer_keyword(self->lexer, "decay"));
    TSR_TRY(TSR_ARRAY_RESERVE(&self->graph->params, 1));
    TSR_ARRAY_PUSH(&self->graph->params, param);
    return TSR_OK;
}

static tsr_status parse_value(parser *self) {
    tsr_label made;
    return take_value(self, TSR_NO_NODE, &made);
}

static tsr_status parse_loss(parser *self) {
    return take_value_label(self, &self->graph->loss.index, &self->loss_at);
}

static tsr_status parse_section(parser *self) {
    int section;
    tsr_lexer_peek(self->lexer);
    size_t at = self->lexer->at;
    TSR_TRY(tsr_lexer_name(self->lexer, &sections, &section));
    if (section <= self->section)
        return tsr_lexer_error(
            self->lexer, at,
            "found section '%s' after section '%s', expected each once: "
            "micro_first, micro_next, update",
            section_at(section), section_at(self->section));
    self->section = section;
    return TSR_OK;
}

/* In the order in which they must come. */
static const struct {
    const char *keyword;
    bool once;
    tsr_status (*parse)(parser *self);
} statements[] = {
    {"target", true, parse_target},    {"products", true, parse_products},
    {"bytes", true, parse_bytes},      {"param", false, parse_param},
    {"value", false, parse_value},     {"loss", true, parse_loss},
    {"section", false, parse_section},
};
#define STATEMENTS ((int)(sizeof statements / sizeof *statements))

/* ---- the text ---- */

static tsr_status parse_statement(parser *self) {
    tsr_word word;
    int row = 0;
    tsr_lexer_peek_word(self->lexer, &word);
    while (row < STATEMENTS && !tsr_word_is(&word, statements[row].keyword))
        row++;
    if (!self->plan && row != 0)
        return tsr_lexer_unexpected(self->lexer, "the target line");
    if (row == STATEMENTS)
        return parse_node(self);
    if (row < self->stage || (row == self->stage && statements[row].once))
        return tsr_lexer_error(
            self->lexer, word.at,
            "found '%s' too late or twice, expected the order target, "
            "products, bytes, param, value, loss, sections",
            statements[row].keyword);
    self->stage = row;
    self->lexer->at += word.length;
    return statements[row].parse(self);
}

static tsr_status end_line(parser *self) {
    return tsr_lexer_peek(self->lexer) == '\0'
               ? TSR_OK
               : tsr_lexer_expect(self->lexer, '\n', "the end of the line");
}

/* Blank lines; false at the end of the text. */
static bool skip_lines(parser *self) {
    while (tsr_lexer_take(self->lexer, '\n'))
        ;
    return tsr_lexer_peek(self->lexer) != '\0';
}

static tsr_status parse_text(parser *self) {
    const char *nul = memchr(self->lexer->text, '\0', self->lexer->length);
    size_t version;
    if (nul)
        return tsr_lexer_error(self->lexer, (size_t)(nul - self->lexer->text),
                               "found a NUL byte, expected text");
    if (self->lexer->length > INT32_MAX) /* spans count in int32_t */
        return tsr_lexer_error(self->lexer, 0,
                               "found %zu bytes, expected at most %d",
                               self->lexer->length, INT32_MAX);
    skip_lines(self);
    TSR_TRY(tsr_lexer_keyword(self->lexer, "tessera"));
    TSR_TRY(tsr_lexer_keyword(self->lexer, "plan"));
    TSR_TRY(tsr_lexer_size(self->lexer, "the version of the format",
                           FORMAT_VERSION, FORMAT_VERSION, &version));
    TSR_TRY(end_line(self));
    while (skip_lines(self)) {
        TSR_TRY(parse_statement(self));
        TSR_TRY(end_line(self));
    }
    return self->plan ? TSR_OK
                      : tsr_lexer_unexpected(self->lexer, "the target line");
}

/* ---- labels to ids ---- */

static tsr_status resolve_value(parser *self, tsr_value_id *id, size_t at) {
    int32_t found =
        tsr_label_find(self->values.data, self->values.count, id->index);
    if (found < 0)
        return tsr_lexer_error(
            self->lexer, at,
            "found %%%d, expected a value that the text defines", id->index);
    id->index = found;
    return TSR_OK;
}

/* Puts values in the order of their labels, then names them by id. */
static tsr_status resolve_values(parser *self) {
    tsr_graph *graph = self->graph;
    size_t count = graph->values.count;
    tsr_value *sorted;
    TSR_TRY(tsr_lexer_sort_labels(self->lexer, self->values.data, count, '%'));
    TSR_TRY(tsr_alloc(count, sizeof *sorted, (void **)&sorted));
    for (size_t i = 0; i < count; i++)
        sorted[i] = graph->values.data[self->values.data[i].ordinal];
    tsr_free(graph->values.data);
    graph->values.data = sorted;
    graph->values.capacity = count;
    for (size_t i = 0; i < graph->operands.count; i++)
        TSR_TRY(resolve_value(self, &graph->operands.data[i],
                              self->operand_at.data[i]));
    if (tsr_has_value(graph->loss))
        TSR_TRY(resolve_value(self, &graph->loss, self->loss_at));
    return TSR_OK;
}

static tsr_status resolve_nodes(parser *self) {
    tsr_graph *graph = self->graph;
    const tsr_label *labels = self->nodes.data;
    TSR_TRY(tsr_lexer_sort_labels(self->lexer, self->nodes.data,
                                  self->nodes.count, 'n'));
    for (size_t i = 0; i < graph->afters.count; i++) {
        int32_t *index = &graph->afters.data[i].index;
        int32_t found = tsr_label_find(labels, self->nodes.count, *index);
        if (found < 0)
            return tsr_lexer_error(
                self->lexer, self->after_at.data[i],
                "found n%d, expected a node that the text defines", *index);
        *index = labels[found].ordinal;
    }
    return TSR_OK;
}

tsr_status tsr_plan_parse(const tsr_op_table *ops, const char *text,
                          size_t length, tsr_plan **out_plan) {
    tsr_status status = TSR_OK;
    tsr_lexer lexer = {.text = length ? text : "", .length = length};
    parser self = {.lexer = &lexer, .ops = ops, .stage = -1, .section = -1};
    *out_plan = NULL;
    TSR_TRY_GOTO(parse_text(&self));
    TSR_TRY_GOTO(resolve_values(&self));
    TSR_TRY_GOTO(resolve_nodes(&self));
    *out_plan = self.plan;
    self.plan = NULL; /* now the caller's */
done:
    tsr_plan_release(self.plan);
    TSR_ARRAY_FREE(&self.values);
    TSR_ARRAY_FREE(&self.nodes);
    TSR_ARRAY_FREE(&self.operand_at);
    TSR_ARRAY_FREE(&self.after_at);
    return status;
}
