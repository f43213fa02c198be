#include "graph/lexer.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

/* Bytes of a piece of text quoted in a message, with its terminator. */
#define QUOTE_BYTES 40
/* Bytes of a number with its terminator. 17 digits, a sign and an exponent need
 * 24; the rest is for people who write more digits. */
#define NUMBER_BYTES 64
/* Bytes of the names of an enumeration in a message; the roles need 120. */
#define NAMES_BYTES 256

/* ---- errors ---- */

/* Line and column, from 1, of an offset. */
static void find_place(const tsr_lexer *lexer, size_t at, size_t *out_line,
                       size_t *out_column) {
    size_t line = 1, start = 0;
    for (size_t i = 0; i < at; i++) {
        if (lexer->text[i] != '\n')
            continue;
        line++;
        start = i + 1;
    }
    *out_line = line;
    *out_column = at - start + 1;
}

tsr_status tsr_lexer_error(const tsr_lexer *lexer, size_t at,
                           const char *format, ...) {
    char message[TSR_MESSAGE_BYTES / 2];
    size_t line, column;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    find_place(lexer, at, &line, &column);
    return tsr_error(TSR_INVALID_DATA, "line %zu, column %zu: %s", line, column,
                     message);
}

static bool is_digit(char byte) { return byte >= '0' && byte <= '9'; }
static bool is_word(char byte) {
    return is_digit(byte) || (byte >= 'a' && byte <= 'z') ||
           (byte >= 'A' && byte <= 'Z') || byte == '_' || byte == '.';
}
static bool is_number(char byte) {
    return is_word(byte) || byte == '-' || byte == '+';
}

/* The piece in quotes, cut where it is long, with '?' for what a terminal may
 * not show. */
static void quote(const char *text, size_t length, char buffer[QUOTE_BYTES]) {
    size_t shown = length < QUOTE_BYTES - 6 ? length : QUOTE_BYTES - 6;
    buffer[0] = '\'';
    for (size_t i = 0; i < shown; i++)
        buffer[i + 1] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    snprintf(buffer + shown + 1, QUOTE_BYTES - shown - 1, "%s",
             shown < length ? "...'" : "'");
}

/* Bytes from `at` on for which `belongs` holds. */
static size_t run_length(const tsr_lexer *lexer, bool (*belongs)(char byte)) {
    size_t end = lexer->at;
    while (end < lexer->length && belongs(lexer->text[end]))
        end++;
    return end - lexer->at;
}

tsr_status tsr_lexer_unexpected(tsr_lexer *lexer, const char *expected) {
    char found[QUOTE_BYTES] = "the end of the text";
    char next = tsr_lexer_peek(lexer);
    size_t length = run_length(lexer, is_word);
    if (lexer->at < lexer->length) {
        if (next == '\n')
            snprintf(found, sizeof found, "the end of the line");
        else
            quote(lexer->text + lexer->at, length ? length : 1, found);
    }
    return tsr_lexer_error(lexer, lexer->at, "found %s, expected %s", found,
                           expected);
}

/* ---- bytes, words, strings ---- */

char tsr_lexer_peek(tsr_lexer *lexer) {
    bool comment = false;
    for (; lexer->at < lexer->length; lexer->at++) {
        char byte = lexer->text[lexer->at];
        comment = comment || byte == '#';
        if (byte == '\n' ||
            (!comment && byte != ' ' && byte != '\t' && byte != '\r'))
            return byte;
    }
    return '\0';
}

bool tsr_lexer_take(tsr_lexer *lexer, char byte) {
    if (tsr_lexer_peek(lexer) != byte || lexer->at == lexer->length)
        return false;
    lexer->at++;
    return true;
}

tsr_status tsr_lexer_expect(tsr_lexer *lexer, char byte, const char *expected) {
    return tsr_lexer_take(lexer, byte) ? TSR_OK
                                       : tsr_lexer_unexpected(lexer, expected);
}

bool tsr_lexer_peek_word(tsr_lexer *lexer, tsr_word *out_word) {
    tsr_lexer_peek(lexer);
    *out_word = (tsr_word){.text = lexer->text + lexer->at,
                           .length = run_length(lexer, is_word),
                           .at = lexer->at};
    return out_word->length > 0;
}

tsr_status tsr_lexer_word(tsr_lexer *lexer, const char *expected,
                          tsr_word *out_word) {
    if (!tsr_lexer_peek_word(lexer, out_word))
        return tsr_lexer_unexpected(lexer, expected);
    lexer->at += out_word->length;
    return TSR_OK;
}

bool tsr_word_is(const tsr_word *word, const char *text) {
    return strlen(text) == word->length &&
           memcmp(text, word->text, word->length) == 0;
}

tsr_status tsr_lexer_keyword(tsr_lexer *lexer, const char *keyword) {
    char expected[QUOTE_BYTES];
    tsr_word word;
    if (tsr_lexer_peek_word(lexer, &word) && tsr_word_is(&word, keyword)) {
        lexer->at += word.length;
        return TSR_OK;
    }
    snprintf(expected, sizeof expected, "'%s'", keyword);
    return tsr_lexer_unexpected(lexer, expected);
}

tsr_status tsr_lexer_name(tsr_lexer *lexer, const tsr_word_set *set,
                          int *out_index) {
    char expected[NAMES_BYTES];
    tsr_word word;
    tsr_lexer_peek_word(lexer, &word);
    for (int i = set->first; i < set->count; i++) {
        if (tsr_word_is(&word, set->name(i))) {
            lexer->at += word.length;
            *out_index = i;
            return TSR_OK;
        }
    }
    int used = snprintf(expected, sizeof expected, "%s:", set->what);
    for (int i = set->first; i < set->count && (size_t)used < sizeof expected;
         i++)
        used += snprintf(expected + used, sizeof expected - (size_t)used,
                         i == set->first ? " %s" : ", %s", set->name(i));
    return tsr_lexer_unexpected(lexer, expected);
}

static bool is_string(char byte) {
    return byte != '"' && byte != '\n' && byte != '\\';
}

tsr_status tsr_lexer_string(tsr_lexer *lexer, tsr_word *out_word) {
    tsr_lexer_peek(lexer);
    size_t start = lexer->at;
    TSR_TRY(tsr_lexer_expect(lexer, '"', "a name in double quotes"));
    *out_word = (tsr_word){.text = lexer->text + lexer->at,
                           .length = run_length(lexer, is_string),
                           .at = start};
    lexer->at += out_word->length;
    if (lexer->at < lexer->length && lexer->text[lexer->at] == '\\')
        return tsr_lexer_error(lexer, lexer->at,
                               "found a backslash in a name, expected a name "
                               "without quotes, backslashes and line ends");
    if (lexer->at == lexer->length || lexer->text[lexer->at] != '"')
        return tsr_lexer_error(lexer, start,
                               "found an unterminated string, expected a "
                               "closing '\"' in the same line");
    lexer->at++;
    return TSR_OK;
}

/* ---- numbers ---- */

static bool parse_digits(const char *text, size_t length, size_t *out_value) {
    size_t value = 0;
    for (size_t i = 0; i < length; i++) {
        size_t digit = (size_t)(text[i] - '0');
        if (!is_digit(text[i]) || value > (SIZE_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    *out_value = value;
    return length > 0;
}

tsr_status tsr_lexer_size(tsr_lexer *lexer, const char *what, size_t low,
                          size_t most, size_t *out_value) {
    char found[QUOTE_BYTES];
    tsr_lexer_peek(lexer);
    const char *text = lexer->text + lexer->at;
    size_t length = run_length(lexer, is_number);
    if (length == 0)
        return tsr_lexer_unexpected(lexer, what);
    if (!parse_digits(text, length, out_value) || *out_value < low ||
        *out_value > most) {
        quote(text, length, found);
        return tsr_lexer_error(
            lexer, lexer->at,
            "found %s, expected %s: a whole number in [%zu, %zu]", found, what,
            low, most);
    }
    lexer->at += length;
    return TSR_OK;
}

tsr_status tsr_lexer_setting(tsr_lexer *lexer, const char *key, size_t low,
                             size_t most, size_t *out_value) {
    TSR_TRY(tsr_lexer_keyword(lexer, key));
    TSR_TRY(tsr_lexer_expect(lexer, '=', "'='"));
    return tsr_lexer_size(lexer, key, low, most, out_value);
}

bool tsr_word_ref(const tsr_word *word, char prefix, size_t *out_number) {
    return word->length > 0 && word->text[0] == prefix &&
           parse_digits(word->text + 1, word->length - 1, out_number);
}

tsr_status tsr_lexer_ref(const tsr_lexer *lexer, const tsr_word *word,
                         char prefix, const char *what, size_t most,
                         size_t *out_number) {
    char found[QUOTE_BYTES];
    if (tsr_word_ref(word, prefix, out_number) && *out_number <= most)
        return TSR_OK;
    quote(word->text, word->length, found);
    return tsr_lexer_error(lexer, word->at,
                           "found %s, expected %s: %cN with N in [0, %zu]",
                           found, what, prefix, most);
}

/* What strtod takes, without hexadecimal, blanks, "infinity" and payloads. */
static bool is_real(const char *text) {
    text += *text == '-';
    if (strcmp(text, "inf") == 0 || strcmp(text, "nan") == 0)
        return true;
    size_t whole = strspn(text, "0123456789"), fraction = 0;
    text += whole;
    if (*text == '.') {
        fraction = strspn(++text, "0123456789");
        text += fraction;
    }
    if (whole + fraction == 0)
        return false;
    if (*text == 'e' || *text == 'E') {
        text += text[1] == '-' || text[1] == '+' ? 2 : 1;
        if (!is_digit(*text))
            return false;
        text += strspn(text, "0123456789");
    }
    return *text == '\0';
}

/* tsr_parse_double refuses what underflows to a subnormal; a plan may hold one.
 */
static bool parse_real(const char *text, double *out_value) {
    if (!is_real(text))
        return false;
    errno = 0;
    *out_value = strtod(text, NULL);
    return errno != ERANGE || (*out_value != 0 && isfinite(*out_value));
}

tsr_status tsr_lexer_number(tsr_lexer *lexer, tsr_attr *out_number) {
    char text[NUMBER_BYTES], found[QUOTE_BYTES];
    tsr_lexer_peek(lexer);
    const char *start = lexer->text + lexer->at;
    size_t length = run_length(lexer, is_number);
    if (length == 0)
        return tsr_lexer_unexpected(lexer, "a number");
    bool good = length < sizeof text && start[0] != '+';
    if (good) {
        memcpy(text, start, length);
        text[length] = '\0';
        out_number->is_real = strpbrk(text, ".eEni") != NULL;
        good = out_number->is_real
                   ? parse_real(text, &out_number->real)
                   : tsr_parse_int64(text, &out_number->integer);
    }
    if (!good) {
        quote(start, length, found);
        return tsr_lexer_error(
            lexer, lexer->at,
            "found %s, expected a number of 64 bits: 12, -3, 0.5, 1e-05, inf "
            "or nan",
            found);
    }
    lexer->at += length;
    return TSR_OK;
}

/* ---- labels ---- */

static int by_number(const void *a, const void *b) {
    const tsr_label *left = a, *right = b;
    if (left->number != right->number)
        return left->number < right->number ? -1 : 1;
    return left->at < right->at ? -1 : left->at > right->at;
}

tsr_status tsr_lexer_sort_labels(const tsr_lexer *lexer, tsr_label *labels,
                                 size_t count, char prefix) {
    size_t line, column;
    if (count > 1)
        qsort(labels, count, sizeof *labels, by_number);
    for (size_t i = 1; i < count; i++) {
        if (labels[i].number != labels[i - 1].number)
            continue;
        find_place(lexer, labels[i - 1].at, &line, &column);
        return tsr_lexer_error(lexer, labels[i].at,
                               "found a second definition of %c%d, expected "
                               "only the one in line %zu",
                               prefix, labels[i].number, line);
    }
    return TSR_OK;
}

int32_t tsr_label_find(const tsr_label *labels, size_t count, int32_t number) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (labels[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && labels[low].number == number ? (int32_t)low : -1;
}
