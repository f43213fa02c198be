/* Whether all ranks hold the same plan. */
#include <string.h>

#include <xxhash.h>

#include "base/memory.h"
#include "tessera/zero.h"

typedef struct summary {
    uint64_t hash;
    uint64_t line_count;
} summary;

static size_t count_lines(const char *text) {
    size_t count = 0;
    for (; *text; text++)
        count += *text == '\n';
    return count;
}

static void hash_lines(const char *text, uint64_t *hashes) {
    for (size_t i = 0; *text; i++) {
        size_t length = strcspn(text, "\n");
        hashes[i] = XXH3_64bits(text, length);
        text += length + (text[length] == '\n');
    }
}

static const char *line_at(const char *text, size_t line, size_t *out_length) {
    while (line-- > 0 && *text)
        text += strcspn(text, "\n") + 1;
    *out_length = strcspn(text, "\n");
    return text;
}

/* The plans differ: finds the first line in which this rank's differs from rank
 * `other`'s. Collective over all ranks. */
static tsr_status name_difference(const char *text, const summary *all,
                                  int world, int rank, int other,
                                  tsr_bootstrap *bootstrap, int timeout_ms) {
    tsr_status status = TSR_OK;
    size_t lines = 0, length;
    uint64_t *mine = NULL, *theirs = NULL;
    for (int r = 0; r < world; r++)
        lines = all[r].line_count > lines ? (size_t)all[r].line_count : lines;
    TSR_TRY_GOTO(tsr_alloc(lines, sizeof *mine, (void **)&mine));
    TSR_TRY_GOTO(
        tsr_alloc(lines * (size_t)world, sizeof *theirs, (void **)&theirs));
    hash_lines(text, mine);
    TSR_TRY_GOTO(tsr_bootstrap_exchange(bootstrap, mine, lines * sizeof *mine,
                                        theirs, timeout_ms));
    size_t line = 0;
    while (line < lines && theirs[(size_t)rank * lines + line] ==
                               theirs[(size_t)other * lines + line])
        line++;
    const char *at = line_at(text, line, &length);
    status = tsr_error(TSR_FAILED_PRECONDITION,
                       "ranks %d and %d hold different plans; the first "
                       "difference is in line %zu: %.*s",
                       rank, other, line + 1,
                       (int)(length < 200 ? length : 200), at);
done:
    tsr_free(theirs);
    tsr_free(mine);
    return status;
}

tsr_status tsr_plan_agree(const tsr_plan *plan, tsr_bootstrap *bootstrap,
                          int timeout_ms) {
    tsr_status status = TSR_OK;
    int world = tsr_bootstrap_world(bootstrap),
        rank = tsr_bootstrap_rank(bootstrap);
    char *text = NULL;
    summary *all = NULL;
    TSR_TRY_GOTO(tsr_plan_print(plan, &text));
    TSR_TRY_GOTO(tsr_alloc((size_t)world, sizeof *all, (void **)&all));
    summary mine = {.hash = XXH3_64bits(text, strlen(text)),
                    .line_count = count_lines(text)};
    TSR_TRY_GOTO(
        tsr_bootstrap_exchange(bootstrap, &mine, sizeof mine, all, timeout_ms));
    for (int r = 1; r < world; r++) {
        if (all[r].hash == all[0].hash)
            continue;
        /* Every rank compares with rank 0; those that agree with it name the
         * first rank that does not. */
        int other = all[rank].hash != all[0].hash ? 0 : r;
        status = name_difference(text, all, world, rank, other, bootstrap,
                                 timeout_ms);
        break;
    }
done:
    tsr_free(all);
    tsr_plan_text_release(text);
    return status;
}
