/* The parts of a plan's text that say what a value is. */
#include "graph/parse.h"

#define MOST_COUNT (INT64_C(1) << 48) /* elements of a value, as in graph.c */

static const char *dtype_at(int i) { return tsr_dtype_name((tsr_dtype)i); }
static const char *role_at(int i) { return tsr_role_name((tsr_role)i); }
static const char *space_at(int i) { return tsr_space_name((tsr_space)i); }

static const tsr_word_set dtypes = {"a dtype", dtype_at, 0, TSR_DTYPE_COUNT};
static const tsr_word_set roles = {"a role", role_at, 0, TSR_ROLE_COUNT};
static const tsr_word_set spaces = {"a space", space_at, TSR_SPACE_WEIGHTS,
                                    TSR_SPACE_COUNT};

tsr_status tsr_parse_string(tsr_parser *self, const char **out_string) {
    tsr_word word;
    TSR_TRY(tsr_lexer_string(self->lexer, &word));
    *out_string = tsr_graph_intern(self->graph, word.text, word.length);
    return *out_string ? TSR_OK : tsr_graph_status(self->graph);
}

tsr_status tsr_parse_dtype(tsr_parser *self, tsr_dtype *out_dtype) {
    int dtype;
    TSR_TRY(tsr_lexer_name(self->lexer, &dtypes, &dtype));
    *out_dtype = (tsr_dtype)dtype;
    return TSR_OK;
}

tsr_status tsr_parse_type(tsr_parser *self, tsr_type *out_type) {
    size_t extent, most = (size_t)MOST_COUNT;
    *out_type = (tsr_type){0};
    TSR_TRY(tsr_parse_dtype(self, &out_type->dtype));
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
static tsr_status take_place(tsr_parser *self, tsr_value *value) {
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

bool tsr_parse_at_word(tsr_parser *self, const char *text) {
    tsr_word word;
    return tsr_lexer_peek_word(self->lexer, &word) && tsr_word_is(&word, text);
}

/* host */
static tsr_status take_host(tsr_parser *self, tsr_value *value) {
    if (!tsr_parse_at_word(self, "host"))
        return TSR_OK;
    value->place = TSR_PLACE_HOST;
    return tsr_lexer_keyword(self->lexer, "host");
}

/* role? host? pN? */
static tsr_status take_role(tsr_parser *self, tsr_value *value) {
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

tsr_status tsr_parse_value_label(tsr_parser *self, int32_t *out_number,
                                 size_t *out_at) {
    size_t number;
    tsr_lexer_peek(self->lexer);
    *out_at = self->lexer->at;
    TSR_TRY(tsr_lexer_expect(self->lexer, '%', "a value: %N"));
    TSR_TRY(tsr_lexer_size(self->lexer, "the number of a value", 0,
                           TSR_MOST_LABEL, &number));
    *out_number = (int32_t)number;
    return TSR_OK;
}

tsr_status tsr_parse_value(tsr_parser *self, tsr_node_id producer,
                           tsr_label *out_label) {
    tsr_graph *graph = self->graph;
    tsr_value value = {.name = "", .param = TSR_NO_PARAM, .producer = producer};
    out_label->ordinal = (int32_t)graph->values.count;
    TSR_TRY(tsr_parse_value_label(self, &out_label->number, &out_label->at));
    if (tsr_lexer_peek(self->lexer) == '"')
        TSR_TRY(tsr_parse_string(self, &value.name));
    TSR_TRY(tsr_parse_type(self, &value.type));
    TSR_TRY(take_role(self, &value));
    TSR_TRY(take_place(self, &value));
    TSR_TRY(TSR_ARRAY_RESERVE(&self->values, 1));
    TSR_TRY(TSR_ARRAY_RESERVE(&graph->values, 1));
    TSR_ARRAY_PUSH(&self->values, *out_label);
    TSR_ARRAY_PUSH(&graph->values, value);
    return TSR_OK;
}
