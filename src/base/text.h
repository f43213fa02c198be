/* Growing text, numbers from text, byte counts for people. */
#ifndef TSR_BASE_TEXT_H
#define TSR_BASE_TEXT_H

#include <stdbool.h>

#include "base/array.h"

/* Text under construction, always terminated once something was appended;
 * release with tsr_text_release. The first failed append sticks and is returned
 * by tsr_text_status, so that a printer need not check each line.
 * Zero-initialise. */
typedef struct tsr_text {
    char *data; /* owned; NULL while empty */
    size_t count, capacity;
    tsr_status status;
} tsr_text;

void tsr_text_append(tsr_text *text, const char *format, ...) TSR_PRINTF(2, 3);
void tsr_text_append_bytes(tsr_text *text, const char *bytes, size_t count);
tsr_status tsr_text_status(const tsr_text *text);
void tsr_text_release(tsr_text *text);

/* The whole of `text` as a decimal number; false if anything else is in it, or
 * it is out of range. */
bool tsr_parse_int64(const char *text, int64_t *out_value);
bool tsr_parse_double(const char *text, double *out_value);

/* Decimal with a binary suffix: "12", "4K", "3.5GiB", "2G". False if it is not
 * a positive byte count. */
bool tsr_parse_bytes(const char *text, size_t *out_bytes);

/* "1.50 GiB" in `buffer`; returns buffer. */
#define TSR_BYTES_TEXT 24
char *tsr_format_bytes(size_t bytes, char buffer[TSR_BYTES_TEXT]);

#endif
