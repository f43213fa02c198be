/* The text of a plan, statement by statement, and its labels turned into ids
 * (parse.h says how). */
#include "graph/parse.h"

#define FORMAT_VERSION 1
#define MOST_GRANULE (INT64_C(1) << 40) /* times 2^20 ranks fits 64 bits */

static const char *section_at(int i) {
    return tsr_section_name((tsr_section)i);
}
static const char *init_at(int i) {
    return i == TSR_INIT_NORMAL ? "normal" : "constant";
}

static const tsr_word_set sections = {"a section", section_at, 0, TSR_SECTIONS};
static const tsr_word_set inits = {"an initial value", init_at, 0,
                                   TSR_INIT_NORMAL + 1};

/* ---- statements; their keyword was taken ---- */

static tsr_status parse_target(tsr_parser *self) {
    size_t start = self->lexer->at, world, shared, alias;
    tsr_target target = {0};
    TSR_TRY(tsr_lexer_setting(self->lexer, "world", 1, INT32_MAX, &world));
    TSR_TRY(tsr_lexer_setting(self->lexer, "shared", 0, 1, &shared));
    TSR_TRY(tsr_lexer_setting(self->lexer, "gather_alias", 0, 1, &alias));
    TSR_TRY(tsr_lexer_setting(self->lexer, "alignment", 0, SIZE_MAX,
                              &target.alignment));
    TSR_TRY(
        tsr_lexer_setting(self->lexer, "memory", 0, SIZE_MAX, &target.memory));
    if (tsr_parse_at_word(self, "host_memory"))
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

static tsr_status parse_products(tsr_parser *self) {
    tsr_lexer_peek(self->lexer);
    size_t at = self->lexer->at;
    TSR_TRY(tsr_parse_string(self, &self->plan->target.products));
    return self->plan->target.products[0]
               ? TSR_OK
               : tsr_lexer_error(self->lexer, at,
                                 "found an empty name, expected how matrices "
                                 "are multiplied");
}

static tsr_status parse_bytes(tsr_parser *self) {
    for (int s = TSR_SPACE_WEIGHTS; s < TSR_SPACE_COUNT; s++) {
        const char *name = tsr_space_name((tsr_space)s);
        if (s >= TSR_SPACE_HOST_PERSISTENT && !tsr_parse_at_word(self, name))
            continue;
        TSR_TRY(tsr_lexer_setting(self->lexer, name, 0, SIZE_MAX,
                                  &self->plan->bytes[s]));
    }
    return TSR_OK;
}

/* normal(0.02) */
static tsr_status take_init(tsr_parser *self, tsr_param *param) {
    tsr_attr number = {0};
    int init;
    TSR_TRY(tsr_lexer_name(self->lexer, &inits, &init));
    param->init = (tsr_init_kind)init;
    TSR_TRY(tsr_lexer_expect(self->lexer, '(', "'('"));
    TSR_TRY(tsr_lexer_number(self->lexer, &number));
    param->init_value = number.is_real ? number.real : (double)number.integer;
    return tsr_lexer_expect(self->lexer, ')', "')'");
}

static tsr_status take_param_name(tsr_parser *self, const char **out_name) {
    const tsr_graph *graph = self->graph;
    tsr_lexer_peek(self->lexer);
    size_t at = self->lexer->at;
    TSR_TRY(tsr_parse_string(self, out_name));
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
static tsr_status take_stored(tsr_parser *self, tsr_param *param) {
    tsr_word word;
    param->stored = param->type.dtype;
    tsr_lexer_peek_word(self->lexer, &word);
    if (tsr_word_is(&word, "stored")) {
        self->lexer->at += word.length;
        TSR_TRY(tsr_lexer_expect(self->lexer, '=', "'='"));
        TSR_TRY(tsr_parse_dtype(self, &param->stored));
    }
    return tsr_check_stored(param) == TSR_OK
               ? TSR_OK
               : tsr_lexer_error(self->lexer, word.at, "%s", tsr_last_error());
}

static tsr_status parse_param(tsr_parser *self) {
    tsr_param param = {0};
    size_t group, granule;
    tsr_word word;
    TSR_TRY(take_param_name(self, &param.name));
    TSR_TRY(tsr_parse_type(self, &param.type));
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

static tsr_status parse_value(tsr_parser *self) {
    tsr_label made;
    return tsr_parse_value(self, TSR_NO_NODE, &made);
}

static tsr_status parse_loss(tsr_parser *self) {
    return tsr_parse_value_label(self, &self->graph->loss.index,
                                 &self->loss_at);
}

static tsr_status parse_section(tsr_parser *self) {
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
    tsr_status (*parse)(tsr_parser *self);
} statements[] = {
    {"target", true, parse_target},    {"products", true, parse_products},
    {"bytes", true, parse_bytes},      {"param", false, parse_param},
    {"value", false, parse_value},     {"loss", true, parse_loss},
    {"section", false, parse_section},
};
#define STATEMENTS ((int)(sizeof statements / sizeof *statements))

/* ---- the text ---- */

static tsr_status parse_statement(tsr_parser *self) {
    tsr_word word;
    int row = 0;
    tsr_lexer_peek_word(self->lexer, &word);
    while (row < STATEMENTS && !tsr_word_is(&word, statements[row].keyword))
        row++;
    if (!self->plan && row != 0)
        return tsr_lexer_unexpected(self->lexer, "the target line");
    if (row == STATEMENTS)
        return tsr_parse_node(self);
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

static tsr_status end_line(tsr_parser *self) {
    return tsr_lexer_peek(self->lexer) == '\0'
               ? TSR_OK
               : tsr_lexer_expect(self->lexer, '\n', "the end of the line");
}

/* Blank lines; false at the end of the text. */
static bool skip_lines(tsr_parser *self) {
    while (tsr_lexer_take(self->lexer, '\n'))
        ;
    return tsr_lexer_peek(self->lexer) != '\0';
}

static tsr_status parse_text(tsr_parser *self) {
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

static tsr_status resolve_value(tsr_parser *self, tsr_value_id *id, size_t at) {
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
static tsr_status resolve_values(tsr_parser *self) {
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

static tsr_status resolve_nodes(tsr_parser *self) {
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
    tsr_parser self = {.lexer = &lexer, .ops = ops, .stage = -1, .section = -1};
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
