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

/* Takes a quoted string of one line; the word is what is between the quotes. It
 * has no escapes: backslashes are refused. */
tsr_status tsr_lexer_string(tsr_lexer *lexer, tsr_word *out_word);

/* Takes a whole number in [low, most]; `what` names it in the message. */
tsr_status tsr_lexer_size(tsr_lexer *lexer, const char *what, size_t low,
                          size_t most, size_t *out_value);
/* The same for digits after a one-letter prefix: "n12", "p3". */
tsr_status tsr_lexer_ref(const tsr_lexer *lexer, const tsr_word *word,
                         const char *what, size_t most, size_t *out_value);

/* Takes a signed number: real if it has one of ". e E n i", else an integer.
 * Sets is_real, integer and real of the attribute. */
tsr_status tsr_lexer_number(tsr_lexer *lexer, tsr_attr *out_number);

/* Line and column, from 1, of an offset. */
void tsr_lexer_place(const tsr_lexer *lexer, size_t at, size_t *out_line,
                     size_t *out_column);

/* INVALID_DATA "line L, column C: ...". */
tsr_status tsr_lexer_error(const tsr_lexer *lexer, size_t at,
                           const char *format, ...) TSR_PRINTF(3, 4);
/* INVALID_DATA "line L, column C: found '...', expected EXPECTED" at the next
 * byte that counts. */
tsr_status tsr_lexer_unexpected(tsr_lexer *lexer, const char *expected);

#endif
