#include "cli/options.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <xxhash.h>

#include "base/status.h"
#include "base/text.h"
#include "tessera/comm.h"

#define EXIT_USAGE 2

static const option_row *find_row(const cli_command *command, const char *name,
                                  size_t length) {
    for (size_t i = 0; i < command->row_count; i++)
        if (strncmp(command->rows[i].name, name, length) == 0 &&
            command->rows[i].name[length] == '\0')
            return &command->rows[i];
    return NULL;
}

/* In one write: a line is whole, also when an MPI launcher ends this process
 * meanwhile. */
void print_problem(const char *command, const char *message, const char *hint) {
    char line[TSR_MESSAGE_BYTES + 256];
    int length = snprintf(line, sizeof line - 1, "tessera%s%s: %s%s",
                          command[0] ? " " : "", command, message, hint);
    size_t count =
        (size_t)length < sizeof line - 1 ? (size_t)length : sizeof line - 2;
    for (size_t i = 0; i < count; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    line[count++] = '\n';
    fwrite(line, 1, count, stderr);
}

/* Every rank that an MPI launcher started parses the same line: the first
 * speaks. */
static bool speaks(void) {
    int rank;
    return !tsr_mpi_launched(&rank, NULL) || rank <= 0;
}

static int mistake(const cli_command *command, const char *format, ...)
    TSR_PRINTF(2, 3);

static int mistake(const cli_command *command, const char *format, ...) {
    char message[TSR_MESSAGE_BYTES], hint[64];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    snprintf(hint, sizeof hint, "; see tessera %s --help", command->name);
    (void)tsr_error(TSR_INVALID_ARGUMENT, "%s%s", message, hint);
    if (speaks())
        print_problem(command->name, message, hint);
    return EXIT_USAGE;
}

static int out_of_range(const cli_command *command, const option_row *row,
                        const char *value) {
    return mistake(command, "--%s is '%s', must be %s in [%.16g, %.16g]",
                   row->name, value,
                   row->kind == OPTION_INT ? "a whole number" : "a number",
                   row->low, row->high);
}

static int store(const cli_command *command, const option_row *row,
                 const char *value, void *values) {
    void *at = (char *)values + row->offset;
    int64_t integer;
    double real;
    if (row->kind != OPTION_FLAG && row->kind != OPTION_PROSE && !value[0])
        return mistake(command, "--%s has an empty value", row->name);
    switch (row->kind) {
    case OPTION_INT:
        if (!tsr_parse_int64(value, &integer) || (double)integer < row->low ||
            (double)integer > row->high)
            return out_of_range(command, row, value);
        *(int64_t *)at = integer;
        return -1;
    case OPTION_REAL:
        if (!tsr_parse_double(value, &real) ||
            !(real >= row->low && real <= row->high))
            return out_of_range(command, row, value);
        *(double *)at = real;
        return -1;
    case OPTION_BYTES:
        if (!tsr_parse_bytes(value, (size_t *)at))
            return mistake(command,
                           "--%s is '%s', must be a number of bytes such as "
                           "8G or 512MiB",
                           row->name, value);
        return -1;
    case OPTION_TEXT:
    case OPTION_PROSE:
        *(const char **)at = value;
        return -1;
    case OPTION_LIST: {
        option_list *list = at;
        if (list->count == sizeof list->data / sizeof *list->data)
            return mistake(command, "--%s has more than %zu values", row->name,
                           list->count);
        list->data[list->count++] = value;
        return -1;
    }
    case OPTION_FLAG:
        *(bool *)at = true;
        return -1;
    }
    return -1;
}

static void print_help(const cli_command *command) {
    printf("Usage: tessera %s %s\n%s\n\n", command->name, command->usage,
           command->summary);
    for (size_t i = 0; i < command->row_count; i++) {
        const option_row *row = &command->rows[i];
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", row->name,
                 row->argument ? " " : "", row->argument ? row->argument : "");
        printf("  %-22s %s\n", left, row->help);
    }
    printf("  %-22s %s\n", "--help", "this text");
    if (command->examples)
        printf("\nExamples:\n%s", command->examples);
}

/* An option where a value should be: the value was forgotten. One that looks
 * like it can still be given as --name=value. */
static bool is_option(const cli_command *command, const char *argument) {
    return strncmp(argument, "--", 2) == 0 &&
           (strcmp(argument, "--help") == 0 ||
            find_row(command, argument + 2, strcspn(argument + 2, "=")));
}

int options_parse(const cli_command *command, int argc, char **argv,
                  void *values) {
    const option_row *list =
        NULL; /* takes the plain arguments that follow it */
    option_list *operands =
        command->operands
            ? (option_list *)(void *)((char *)values + command->operand_offset)
            : NULL;
    for (int i = 0; i < argc; i++) {
        const char *argument = argv[i];
        int code = -1;
        if (strcmp(argument, "--help") == 0) {
            if (speaks())
                print_help(command);
            return 0;
        }
        if (strncmp(argument, "-", 1) != 0) {
            if (!argument[0] && !list)
                return mistake(command, "an argument is empty");
            if (list)
                code = store(command, list, argument, values);
            else if (operands && operands->count < (size_t)command->operands)
                operands->data[operands->count++] = argument;
            else
                return mistake(command, "unexpected argument '%s'", argument);
        } else {
            size_t length = strncmp(argument, "--", 2) == 0
                                ? strcspn(argument + 2, "=")
                                : 0;
            const option_row *row =
                length ? find_row(command, argument + 2, length) : NULL;
            const char *value = row && argument[2 + length] == '='
                                    ? argument + 3 + length
                                    : NULL;
            if (!row)
                return mistake(command, "unknown option '%s'", argument);
            if (row->kind == OPTION_FLAG && value)
                return mistake(command, "--%s takes no value", row->name);
            if (row->kind != OPTION_FLAG && !value &&
                (++i == argc || is_option(command, argv[i])))
                return mistake(command, "--%s needs a value", row->name);
            list = row->kind == OPTION_LIST ? row : NULL;
            code = store(command, row,
                         row->kind == OPTION_FLAG ? ""
                         : value                  ? value
                                                  : argv[i],
                         values);
        }
        if (code >= 0)
            return code;
    }
    return -1;
}

uint64_t options_digest(const option_row *row, const void *values) {
    const void *at = (const char *)values + row->offset;
    const char *text;
    switch (row->kind) {
    case OPTION_INT:
        return XXH3_64bits(at, sizeof(int64_t));
    case OPTION_REAL:
        return XXH3_64bits(at, sizeof(double));
    case OPTION_BYTES:
        return XXH3_64bits(at, sizeof(size_t));
    case OPTION_FLAG:
        return *(const bool *)at;
    case OPTION_TEXT:
    case OPTION_PROSE:
        text = *(const char *const *)at;
        return text ? XXH3_64bits(text, strlen(text)) : 0;
    case OPTION_LIST:
        return 0;
    }
    return 0;
}

tsr_status options_dtype(const char *name, tsr_dtype *out_dtype) {
    for (int dtype = 0; dtype < TSR_DTYPE_COUNT; dtype++)
        if (strcmp(tsr_dtype_name((tsr_dtype)dtype), name) == 0) {
            *out_dtype = (tsr_dtype)dtype;
            return TSR_OK;
        }
    return tsr_error(TSR_INVALID_ARGUMENT,
                     "--dtype '%s' is unknown; known: f32, bf16", name);
}

int options_mistake(const cli_command *command, const char *message) {
    return mistake(command, "%s", message);
}

int fail(const cli_command *command, const char *message) {
    print_problem(command->name, message, "");
    return 1;
}
