/* Programs as text: a list of calls, as printed for a failure and as read by
 * test_eager_model --program. */
#ifndef TSR_TESTS_ZERO_EAGER_PROGRAM_TEXT_H
#define TSR_TESTS_ZERO_EAGER_PROGRAM_TEXT_H

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "tessera/dtype.h"
#include "zero/eager_program.h"

static const char *const op_names[] = {
#define ROW(name, weight, arguments) #name,
    PROGRAM_KINDS(ROW)
#undef ROW
};
static const char *const op_arguments[] = {
#define ROW(name, weight, arguments) arguments,
    PROGRAM_KINDS(ROW)
#undef ROW
};
static const char *const param_flag_names[] = {"persistent", "frozen",
                                               "swapped", "uneven"};

#define SETUP_FORMAT                                                           \
    "setup(world %d, seed %llu, zero_delay %d, caller_delay %d, slow_rank "    \
    "%d, inline %d %d %d);"
#define ZERO_FORMAT                                                            \
    "zero(%c, stage %d, bucket %zu, host %zu, average %d, double_buffer %d, "  \
    "symmetric %d, sync %d %d %d %d, heap %d);"

/* ---- printing ---- */

static inline void print_set(FILE *to, char name, unsigned mask) {
    const char *between = "";
    fputc('{', to);
    for (int i = 0; mask >> i; i++)
        if (mask >> i & 1) {
            fprintf(to, "%s%c%d", between, name, i);
            between = " ";
        }
    fputc('}', to);
}

static inline void print_flags(FILE *to, unsigned mask) {
    const char *between = "";
    for (int i = 0; i < PARAM_FLAGS; i++)
        if (mask >> i & 1) {
            fprintf(to, "%s%s", between, param_flag_names[i]);
            between = "|";
        }
    if (mask == 0)
        fputs("plain", to);
}

static inline void print_dtypes(FILE *to, const op *at) {
    for (int i = 0; i < 4; i++)
        fprintf(to, "%s%s", i ? " " : "", tsr_dtype_name(at->dtypes[i]));
}

static inline void print_list(FILE *to, const op *at) {
    fputc('[', to);
    for (int i = 0; i < at->list_count; i++)
        fprintf(to, "%sp%d %s", i ? ", " : "", at->list[i],
                tsr_dtype_name(at->dtypes[i]));
    fputc(']', to);
}

static inline void print_argument(FILE *to, char code, const op *at) {
    switch (code) {
    case 'z':
        fputc('a' + at->zero, to);
        break;
    case 'g':
        fprintf(to, "g%d", at->graph);
        break;
    case 'p':
    case 't':
        fprintf(to, "%c%d", code, at->id);
        break;
    case 's':
        fprintf(to, "s%d", at->stream);
        break;
    case 'n':
    case 'k':
        fprintf(to, "%d", code == 'n' ? at->n : at->k);
        break;
    case 'h':
        fprintf(to, "%d", at->other);
        break;
    case 'd':
        fputs(tsr_dtype_name(at->dtypes[0]), to);
        break;
    case 'D':
        print_dtypes(to, at);
        break;
    case 'l':
        print_list(to, at);
        break;
    case 'f':
        print_flags(to, at->mask);
        break;
    default: /* P, T */
        print_set(to, (char)tolower(code), at->mask);
        break;
    }
}

static inline void print_op(FILE *to, const op *at) {
    fprintf(to, "%s(", op_names[at->kind]);
    for (const char *c = op_arguments[at->kind]; *c; c++) {
        if (*c == '%')
            print_argument(to, *++c, at);
        else
            fputc(*c, to);
    }
    fputs(");\n", to);
}

static inline void print_program(FILE *to, const program *at) {
    fprintf(to, SETUP_FORMAT "\n", at->world, at->seed, at->zero_delay,
            at->caller_delay, at->slow_rank, at->is_inline[0], at->is_inline[1],
            at->is_inline[2]);
    for (int z = 0; z < at->zero_count; z++) {
        const tsr_zero_settings *s = &at->zeros[z].settings;
        fprintf(to, ZERO_FORMAT "\n", 'a' + z, s->stage, s->bucket_bytes,
                s->host_bytes, (int)s->average, s->double_buffer,
                s->symmetric_memory, s->sync_before_allgather,
                s->sync_after_allgather, s->sync_before_reduce,
                s->sync_after_reduce, at->zeros[z].heap);
    }
    for (int i = 0; i < at->count; i++)
        print_op(to, &at->ops[i]);
}

/* ---- parsing ---- */

/* Each takes what it knows from *at; false: something else is there. */

static inline bool take_text(const char **at, const char *text) {
    size_t length = strlen(text);
    if (strncmp(*at, text, length) != 0)
        return false;
    *at += length;
    return true;
}

static inline bool take_number(const char **at, int limit, int *out) {
    char *end;
    long value = strtol(*at, &end, 10);
    if (end == *at || value < 0 || value >= limit)
        return false;
    *at = end;
    *out = (int)value;
    return true;
}

static inline bool take_name(const char **at, char name, int limit, int *out) {
    return *(*at)++ == name && take_number(at, limit, out);
}

static inline bool take_dtype(const char **at, tsr_dtype *out) {
    static const tsr_dtype dtypes[] = {TSR_F32, TSR_BF16, TSR_F16};
    for (int i = 0; i < 3; i++)
        if (take_text(at, tsr_dtype_name(dtypes[i]))) {
            *out = dtypes[i];
            return true;
        }
    return false;
}

static inline bool take_dtypes(const char **at, op *to) {
    for (int i = 0; i < 4; i++)
        if ((i > 0 && !take_text(at, " ")) || !take_dtype(at, &to->dtypes[i]))
            return false;
    return true;
}

static inline bool take_set(const char **at, char name, unsigned *out) {
    int i;
    if (!take_text(at, "{"))
        return false;
    while (!take_text(at, "}")) {
        (void)take_text(at, " ");
        if (!take_name(at, name, PROGRAM_PARAMS + 1, &i))
            return false;
        *out |= 1u << i;
    }
    return true;
}

static inline bool take_list(const char **at, op *to) {
    if (!take_text(at, "["))
        return false;
    for (; !take_text(at, "]"); to->list_count++) {
        int i = to->list_count;
        (void)take_text(at, ", ");
        if (i == PROGRAM_LIST ||
            !take_name(at, 'p', PROGRAM_PARAMS + 1, &to->list[i]) ||
            !take_text(at, " ") || !take_dtype(at, &to->dtypes[i]))
            return false;
    }
    return true;
}

static inline bool take_flags(const char **at, unsigned *out) {
    if (take_text(at, "plain"))
        return true;
    do {
        int i = 0;
        while (i < PARAM_FLAGS && !take_text(at, param_flag_names[i]))
            i++;
        if (i == PARAM_FLAGS)
            return false;
        *out |= 1u << i;
    } while (take_text(at, "|"));
    return true;
}

static inline bool take_argument(const char **at, char code, op *to) {
    switch (code) {
    case 'z':
        to->zero = *(*at)++ - 'a';
        return to->zero >= 0 && to->zero < PROGRAM_ZEROS;
    case 'g':
        return take_name(at, 'g', PROGRAM_GRAPHS, &to->graph);
    case 'p': /* one beyond: it is never registered */
        return take_name(at, 'p', PROGRAM_PARAMS + 1, &to->id);
    case 't':
        return take_name(at, 't', PROGRAM_TENSORS, &to->id);
    case 's':
        return take_name(at, 's', PROGRAM_STREAMS, &to->stream);
    case 'n':
    case 'k':
        return take_number(at, 1 << 20, code == 'n' ? &to->n : &to->k);
    case 'h':
        return take_number(at, 2, &to->other);
    case 'd':
        return take_dtype(at, &to->dtypes[0]);
    case 'D':
        return take_dtypes(at, to);
    case 'l':
        return take_list(at, to);
    case 'f':
        return take_flags(at, &to->mask);
    default:
        return take_set(at, (char)tolower(code), &to->mask);
    }
}

/* Tests and model have room for so much. */
static inline bool fits(const op *at) {
    if (at->kind == OP_register_param)
        return at->id < PROGRAM_PARAMS && at->n <= PROGRAM_NUMEL && at->k <= 8;
    if (at->kind == OP_offload_tensor)
        return at->n > 0 && at->n <= PROGRAM_TENSOR_BYTES;
    return true;
}

static inline bool parse_op(const char *line, op *to) {
    for (int kind = 0; kind < OP_KINDS; kind++) {
        const char *at = line;
        if (!take_text(&at, op_names[kind]) || !take_text(&at, "("))
            continue;
        *to = (op){.kind = (op_kind)kind};
        for (const char *c = op_arguments[kind]; *c; c++) {
            if (*c == '%' ? !take_argument(&at, *++c, to) : *at++ != *c)
                return false;
        }
        return take_text(&at, ");") && fits(to);
    }
    return false;
}

static inline bool parse_setup(const char *line, program *to) {
    int is_inline[PROGRAM_STREAMS];
    if (sscanf(line, SETUP_FORMAT, &to->world, &to->seed, &to->zero_delay,
               &to->caller_delay, &to->slow_rank, &is_inline[0], &is_inline[1],
               &is_inline[2]) != 8)
        return false;
    for (int s = 0; s < PROGRAM_STREAMS; s++)
        to->is_inline[s] = is_inline[s] != 0;
    return to->world >= 1 && to->world <= 8;
}

static inline bool parse_zero(const char *line, program *to) {
    program_zero *zero = &to->zeros[to->zero_count];
    tsr_zero_settings *s = &zero->settings;
    char name;
    int average, flags[7];
    if (to->zero_count == PROGRAM_ZEROS ||
        sscanf(line, ZERO_FORMAT, &name, &s->stage, &s->bucket_bytes,
               &s->host_bytes, &average, &flags[0], &flags[1], &flags[2],
               &flags[3], &flags[4], &flags[5], &flags[6]) != 12)
        return false;
    s->average = (tsr_average)average;
    s->double_buffer = flags[0] != 0;
    s->symmetric_memory = flags[1] != 0;
    s->sync_before_allgather = flags[2] != 0;
    s->sync_after_allgather = flags[3] != 0;
    s->sync_before_reduce = flags[4] != 0;
    s->sync_after_reduce = flags[5] != 0;
    zero->heap = flags[6] != 0;
    to->zero_count++;
    return true;
}

static inline bool parse_line(const char *line, program *to) {
    if (strncmp(line, "setup(", 6) == 0)
        return parse_setup(line, to);
    if (strncmp(line, "zero(", 5) == 0)
        return parse_zero(line, to);
    return to->count < PROGRAM_OPS && parse_op(line, &to->ops[to->count++]);
}

/* Comments and empty lines are passed over. */
static inline program read_program(FILE *from) {
    program made = {0};
    char line[400];
    while (fgets(line, sizeof line, from)) {
        const char *at = line + strspn(line, " \t");
        if (*at != '/' && *at != '\n')
            CHECK_MESSAGE(parse_line(at, &made), "not a call of a program: %s",
                          line);
    }
    CHECK_MESSAGE(made.world && made.zero_count,
                  "a program begins with setup(...) and zero(...)");
    return made;
}

#endif
