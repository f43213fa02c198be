/* Words, strings and numbers of a text whose statements end with their line.
 *
 * Spaces, tabs, carriage returns and comments ('#' to the end of the line) are
 * skipped before whatever is read. Places are byte offsets into the text; line
 * and column are counted only when an error needs them. */
#ifndef TSR_GRAPH_LEXER_H
#define TSR_GRAPH_LEXER_H

#include "tessera/graph.h"

/* Zero-initialise `at`. */
typedef struct tsr_lexer {
    const char *text; /* borrowed, outlives the lexer and its words */
    size_t length;
    size_t at; /* the next byte */
} tsr_lexer;

/* A piece of the text, not terminated. */
typedef struct tsr_word {
    const char *text;
    size_t length;
    size_t at; /* of its first byte, or of a string's quote */
} tsr_word;

/* The next byte that counts: '\n' at the end of a line, '\0' at the end of the
 * text. */
char tsr_lexer_peek(tsr_lexer *lexer);

/* Takes the next byte if it is `byte`. */
bool tsr_lexer_take(tsr_lexer *lexer, char byte);
tsr_status tsr_lexer_expect(tsr_lexer *lexer, char byte, const char *expected);

/* The next run of letters, digits, '_' and '.', left where it is; false if
 * there is none. */
bool tsr_lexer_peek_word(tsr_lexer *lexer, tsr_word *out_word);
/* Takes a word; `expected` is for the message. */
tsr_status tsr_lexer_word(tsr_lexer *lexer, const char *expected,
                          tsr_word *out_word);
bool tsr_word_is(const tsr_word *word, const char *text);
tsr_status tsr_lexer_keyword(tsr_lexer *lexer, const char *keyword);

/* The names [first, count) of an enumeration. */
typedef struct tsr_word_set {
    const char *what;
    const char *(*name)(int index);
    int first, count;
} tsr_word_set;

/* Takes one of the names. */
tsr_status tsr_lexer_name(tsr_lexer *lexer, const tsr_word_set *set,
                          int *out_index);

/* Takes a quoted string of one line; the word is what is between the quotes. It
 * has no escapes: backslashes are refused. */
tsr_status tsr_lexer_string(tsr_lexer *lexer, tsr_word *out_word);

/* Takes a whole number in [low, most]; `what` names it in the message. */
tsr_status tsr_lexer_size(tsr_lexer *lexer, const char *what, size_t low,
                          size_t most, size_t *out_value);
/* key=NUMBER, likewise. */
tsr_status tsr_lexer_setting(tsr_lexer *lexer, const char *key, size_t low,
                             size_t most, size_t *out_value);

/* Whether a word is `prefix` and a number: "n12", "p3". */
bool tsr_word_ref(const tsr_word *word, char prefix, size_t *out_number);
/* The number, at most `most`, of such a word; `what` names it in the message.
 */
tsr_status tsr_lexer_ref(const tsr_lexer *lexer, const tsr_word *word,
                         char prefix, const char *what, size_t most,
                         size_t *out_number);

/* Takes a signed number: real if it has one of ". e E n i", else an integer.
 * Sets is_real, integer and real of the attribute. */
tsr_status tsr_lexer_number(tsr_lexer *lexer, tsr_attr *out_number);

/* Where a label of the text (%12, n12) is defined. */
typedef struct tsr_label {
    int32_t number;
    int32_t ordinal; /* of the definition, in the order of the text */
    size_t at;       /* of the definition */
} tsr_label;

/* Sorts by number. Errors: INVALID_DATA (a number twice). */
tsr_status tsr_lexer_sort_labels(const tsr_lexer *lexer, tsr_label *labels,
                                 size_t count, char prefix);
/* Index of `number` in sorted labels, or -1. */
int32_t tsr_label_find(const tsr_label *labels, size_t count, int32_t number);

/* INVALID_DATA "line L, column C: ...". */
tsr_status tsr_lexer_error(const tsr_lexer *lexer, size_t at,
                           const char *format, ...) TSR_PRINTF(3, 4);
/* INVALID_DATA "line L, column C: found '...', expected EXPECTED" at the next
 * byte that counts. */
tsr_status tsr_lexer_unexpected(tsr_lexer *lexer, const char *expected);

#endif
