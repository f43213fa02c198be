/* Command lines from tables: one row an option feeds parser, bounds and help.
 */
#ifndef TSR_CLI_OPTIONS_H
#define TSR_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/array.h"
#include "tessera/dtype.h"

typedef enum option_kind {
    OPTION_INT,   /* int64_t in [low, high] */
    OPTION_REAL,  /* double in [low, high] */
    OPTION_BYTES, /* size_t: "8G" */
    OPTION_TEXT,  /* const char *, not empty */
    OPTION_PROSE, /* const char *, may be empty */
    OPTION_LIST, /* option_list: may be given several times, and takes the plain
                    arguments that follow it */
    OPTION_FLAG, /* bool */
} option_kind;

typedef struct option_row {
    const char *name; /* without dashes */
    option_kind kind;
    size_t offset;        /* in the struct that parsing fills */
    double low, high;     /* of numbers */
    const char *argument; /* for help: "N" */
    const char *help;
} option_row;

typedef struct option_list {
    const char *data[256]; /* borrowed from argv */
    size_t count;
} option_list;

typedef struct cli_command {
    const char *name;    /* "train" */
    const char *summary; /* one line */
    const char *usage;   /* after the name: "--data FILE|DIR... [options]" */
    const char *examples;
    const option_row *rows;
    size_t row_count;
    int operands; /* plain arguments allowed, into `operand_offset` as
                     option_list */
    size_t operand_offset;
    int (*run)(int argc, char **argv); /* exit code */
} cli_command;

/* Fills `values` from the arguments. Returns -1 to go on, or the exit code: 0
 * after --help, 2 after a mistake, which is then tsr_last_error(): one line on
 * standard error names it, of rank 0 where an MPI launcher started ranks. */
int options_parse(const cli_command *command, int argc, char **argv,
                  void *values);

/* Equal for equal values of an option; 0 for lists, whose files are what
 * counts. */
uint64_t options_digest(const option_row *row, const void *values);

/* The same for a mistake that the table cannot find. Returns 2. */
int options_mistake(const cli_command *command, const char *message);

/* Prints "tessera COMMAND: message" and the hint as one line on standard error.
 * Control characters in the message, which may come with arguments and file
 * names, are replaced: they would break the line or talk to the terminal.
 * command: "" before there is one. */
void print_problem(const char *command, const char *message, const char *hint);

/* The value of --dtype. INVALID_ARGUMENT for a type that is none; the model
 * says which ones it can be computed in. */
tsr_status options_dtype(const char *name, tsr_dtype *out_dtype);

/* Prints the problem and returns 1. */
int fail(const cli_command *command, const char *message);

extern const cli_command train_command, generate_command, inspect_command,
    bench_command;

#endif
