/* Makes a failing program short: leaves out and simplifies whatever it fails
 * without, as long as it goes on failing in the same way. */
#ifndef TSR_TESTS_ZERO_EAGER_SHRINK_H
#define TSR_TESTS_ZERO_EAGER_SHRINK_H

#include "zero/eager_worker.h"

typedef struct shrinker {
    program best;
    verdict why; /* best fails */
    int times;   /* runs of a candidate, each with other delays */
    int silence_ms;
    double deadline; /* seconds */
} shrinker;

static inline double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Fails as before within so many runs. */
static inline bool still_fails(shrinker *self, const program *candidate) {
    char times[20];
    snprintf(times, sizeof times, "%d", self->times);
    char *arguments[] = {"test_eager_model", "--program", "-",
                         "--times",          times,       NULL};
    verdict why = {0};
    if (seconds() > self->deadline)
        return false;
    FILE *text = tmpfile();
    CHECK(text);
    print_program(text, candidate);
    rewind(text);
    run_worker(arguments, fileno(text), self->silence_ms, &why);
    fclose(text);
    if (why.outcome != self->why.outcome)
        return false;
    self->best = *candidate;
    self->why = why;
    return true;
}

static inline bool without(shrinker *self, int begin, int count) {
    program less = self->best;
    less.count -= count;
    memmove(&less.ops[begin], &less.ops[begin + count],
            (size_t)(less.count - begin) * sizeof(op));
    return still_fails(self, &less);
}

/* In ever smaller pieces, from the end; again while single ops can go. */
static inline void leave_ops_out(shrinker *self) {
    int piece = self->best.count / 2;
    bool less = true;
    while (piece > 0 && (piece > 1 || less)) {
        less = false;
        for (int at = self->best.count - piece; at >= 0; at -= piece)
            less |= without(self, at, piece);
        if (piece > 1)
            less = true;
        piece = piece > 1 ? piece / 2 : 1;
    }
}

/* One simplification of the setup or of a zero's settings. */
static inline void simplify(program *at, int which, int zero) {
    tsr_zero_settings *settings = &at->zeros[zero].settings;
    switch (which) {
    case 0:
        at->world = 1;
        break;
    case 1:
        at->world = 2;
        break;
    case 2:
        at->zero_count = 1;
        break;
    case 3:
        at->zero_delay = 0;
        break;
    case 4:
        at->caller_delay = 0;
        break;
    case 5:
        settings->sync_before_allgather = settings->sync_after_allgather =
            settings->sync_before_reduce = settings->sync_after_reduce = false;
        break;
    case 6:
        settings->double_buffer = false;
        break;
    case 7:
        settings->symmetric_memory = false;
        break;
    case 8:
        settings->average = TSR_AVERAGE_AFTER;
        break;
    case 9:
        settings->bucket_bytes = 4096;
        break;
    case 10:
        settings->host_bytes = 65536;
        break;
    default:
        at->is_inline[which - 11] = false;
        break;
    }
}
enum { SIMPLIFICATIONS = 11 + PROGRAM_STREAMS };

/* One of an op's arguments. */
static inline void simplify_op(op *at, int which) {
    switch (which) {
    case 0:
        at->stream = 0;
        break;
    case 1:
        for (int i = 0; i < 4; i++)
            at->dtypes[i] = TSR_F32;
        break;
    case 2:
        at->mask = at->kind == OP_register_param ? 0 : at->mask;
        break;
    case 3:
        at->k = 0;
        break;
    case 4:
        at->n = at->kind == OP_reduce_grad ? 1 : at->n;
        break;
    case 5:
        at->other = 0;
        break;
    default: /* one bit of a set */
        if (at->kind != OP_register_param)
            at->mask &= ~(1u << (which - 6));
        break;
    }
}
enum { OP_SIMPLIFICATIONS = 6 + PROGRAM_PARAMS };

static inline void simplify_all(shrinker *self) {
    for (int zero = self->best.zero_count - 1; zero >= 0; zero--)
        for (int which = 0; which < SIMPLIFICATIONS; which++) {
            program simpler = self->best;
            simplify(&simpler, which, zero);
            if (simpler.world <= self->best.world &&
                memcmp(&simpler, &self->best, sizeof simpler) != 0)
                (void)still_fails(self, &simpler);
        }
    for (int i = 0; i < self->best.count; i++)
        for (int which = 0; which < OP_SIMPLIFICATIONS; which++) {
            program simpler = self->best;
            simplify_op(&simpler.ops[i], which);
            if (memcmp(&simpler, &self->best, sizeof simpler) != 0)
                (void)still_fails(self, &simpler);
        }
}

/* best and why are set. false: it does not fail again. */
static inline bool shrink(shrinker *self) {
    program whole = self->best;
    for (self->times = 1; !still_fails(self, &whole); self->times *= 4)
        if (self->times > 64 || seconds() > self->deadline)
            return false;
    self->times = self->times > 1 ? 3 * self->times : 3;
    leave_ops_out(self);
    simplify_all(self);
    leave_ops_out(self);
    return true;
}

#endif
