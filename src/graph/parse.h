/* Reading the text form of a plan: what parse.c, parse_value.c and parse_node.c
 * share. Its grammar is in docs/plan-format.md; print.c writes it.
 *
 * A label may be used before its definition, so the lists of the graph first
 * hold labels; parse.c turns them into ids at the end. Values get ids in the
 * order of their labels: what print.c wrote keeps its ids. Nodes get theirs in
 * the order of the text, for that is the schedule. */
#ifndef TSR_GRAPH_PARSE_H
#define TSR_GRAPH_PARSE_H

#include "graph/graph.h"
#include "graph/lexer.h"
#include "tessera/plan.h"

#define TSR_MOST_LABEL 16777215 /* of values and nodes: 2^24 - 1 */

typedef struct tsr_parser {
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
} tsr_parser;

/* Each reads on from the lexer's place; INVALID_DATA says where and why. */

/* ---- parse_value.c ---- */

/* A quoted name, kept by the graph. */
tsr_status tsr_parse_string(tsr_parser *self, const char **out_string);
/* Whether the word `text` is next; it is not taken. */
bool tsr_parse_at_word(tsr_parser *self, const char *text);
tsr_status tsr_parse_dtype(tsr_parser *self, tsr_dtype *out_dtype);
/* dtype[2, 3] */
tsr_status tsr_parse_type(tsr_parser *self, tsr_type *out_type);
/* %N, defined or used; *out_at is its place. */
tsr_status tsr_parse_value_label(tsr_parser *self, int32_t *out_number,
                                 size_t *out_at);
/* A definition: %N "name"? type role? host? pN? @space+offset? */
tsr_status tsr_parse_value(tsr_parser *self, tsr_node_id producer,
                           tsr_label *out_label);

/* ---- parse_node.c ---- */

/* nN: outputs = op(inputs) {attributes} modifiers, of the latest section. */
tsr_status tsr_parse_node(tsr_parser *self);

#endif
