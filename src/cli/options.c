#include "cli/options.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"

#define EXIT_USAGE 2

static const option_row *find_row(const cli_command *command, const char *name,
                                  size_t length) {
    for (size_t i = 0; i < command->row_count; i++)
        if (strncmp(command->rows[i].name, name, length) == 0 &&
            command->rows[i].name[length] == '\0')
            return &command->rows[i];
    return NULL;
}

static int mistake(const cli_command *command, const char *option,
                   const char *what, const char *value) {
    fprintf(stderr, "tessera %s: %s%s%s%s%s; see tessera %s --help\n",
            command->name, option, what[0] ? " " : "", what, value ? " " : "",
            value ? value : "", command->name);
    return EXIT_USAGE;
}

static int out_of_range(const cli_command *command, const option_row *row,
                        const char *value) {
    char text[192];
    snprintf(text, sizeof text, "is '%s', must be %s in [%.10g, %.10g]", value,
             row->kind == OPTION_INT ? "a whole number" : "a number", row->low,
             row->high);
    char option[64];
    snprintf(option, sizeof option, "--%s", row->name);
    return mistake(command, option, text, NULL);
}

static int store(const cli_command *command, const option_row *row,
                 const char *value, void *values) {
    void *at = (char *)values + row->offset;
    int64_t integer;
    double real;
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
            return mistake(
                command, "--memory",
                "must be a number of bytes such as 8G or 512MiB, not", value);
        return -1;
    case OPTION_TEXT:
        if (!value[0])
            return mistake(command, "",
                           "an option has an empty value:", row->name);
        *(const char **)at = value;
        return -1;
    case OPTION_LIST: {
        option_list *list = at;
        if (list->count == sizeof list->data / sizeof *list->data)
            return mistake(command, "", "too many arguments for", row->name);
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
            print_help(command);
            return 0;
        }
        if (strncmp(argument, "-", 1) != 0) {
            if (list)
                code = store(command, list, argument, values);
            else if (operands && operands->count < (size_t)command->operands)
                operands->data[operands->count++] = argument;
            else
                return mistake(command, "", "unexpected argument", argument);
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
                return mistake(command, "unknown option", argument, NULL);
            if (row->kind == OPTION_FLAG && value)
                return mistake(command, argument, "takes no value", NULL);
            if (row->kind != OPTION_FLAG && !value && ++i == argc)
                return mistake(command, argument, "needs a value", NULL);
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

int fail(const cli_command *command, const char *message) {
    fprintf(stderr, "tessera %s: %s\n", command->name, message);
    return 1;
}
