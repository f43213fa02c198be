#include "base/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool reserve(tsr_text *text, size_t extra) {
    if (text->status == TSR_OK)
        text->status = tsr_array_reserve(
            (void **)&text->data, text->count + extra, &text->capacity, 1);
    return text->status == TSR_OK;
}

void tsr_text_append(tsr_text *text, const char *format, ...) {
    char small[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(small, sizeof small, format, arguments);
    va_end(arguments);
    if (length < 0 || !reserve(text, (size_t)length + 1))
        return;
    if ((size_t)length < sizeof small) {
        memcpy(text->data + text->count, small, (size_t)length + 1);
    } else {
        va_start(arguments, format);
        vsnprintf(text->data + text->count, (size_t)length + 1, format,
                  arguments);
        va_end(arguments);
    }
    text->count += (size_t)length;
}

void tsr_text_append_bytes(tsr_text *text, const char *bytes, size_t count) {
    if (!reserve(text, count + 1))
        return;
    memcpy(text->data + text->count, bytes, count);
    text->count += count;
    text->data[text->count] = '\0';
}

tsr_status tsr_text_status(const tsr_text *text) { return text->status; }

void tsr_text_release(tsr_text *text) {
    tsr_free(text->data);
    memset(text, 0, sizeof *text);
}

bool tsr_parse_int64(const char *text, int64_t *out_value) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' ||
        strchr(" \t\n\v\f\r", text[0]))
        return false;
    *out_value = value;
    return true;
}

bool tsr_parse_double(const char *text, double *out_value) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (errno != 0 || end == text || *end != '\0' ||
        strchr(" \t\n\v\f\r", text[0]))
        return false;
    *out_value = value;
    return true;
}

bool tsr_parse_bytes(const char *text, size_t *out_bytes) {
    static const char *const suffixes[] = {"", "K", "M", "G", "T"};
    char *end;
    double value = strtod(text, &end);
    if (end == text || !(value >= 0) || value > 1e15)
        return false;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes;
         i++, value *= 1024.0) {
        size_t length = strlen(suffixes[i]);
        const char *rest = end + length;
        if (strncmp(end, suffixes[i], length) != 0 ||
            (*rest != '\0' && strcmp(rest, "B") != 0 &&
             strcmp(rest, "iB") != 0))
            continue;
        if (value < 1 || value > 9e18)
            return false;
        *out_bytes = (size_t)value;
        return true;
    }
    return false;
}

char *tsr_format_bytes(size_t bytes, char buffer[TSR_BYTES_TEXT]) {
    static const char *const units[] = {"B",   "KiB", "MiB", "GiB",
                                        "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1024 && unit + 1 < sizeof units / sizeof *units) {
        value /= 1024;
        unit++;
    }
    snprintf(buffer, TSR_BYTES_TEXT, unit == 0 ? "%.0f %s" : "%.2f %s", value,
             units[unit]);
    return buffer;
}
