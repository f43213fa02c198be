/* Memory that runs out at every allocation of a test, one after the other. */
#ifndef TSR_TESTS_ZERO_EAGER_FAILING_H
#define TSR_TESTS_ZERO_EAGER_FAILING_H

#include "base/memory.h"
#include "zero/eager_rank.h"

typedef struct failing {
    int stage;
    bool heap;    /* the test's allocator fails, else tsr_alloc */
    long n;       /* that allocation from failing_begin on, counted from 1 */
    bool reached; /* out */
} failing;

static inline void failing_begin(const failing *at, eager_rank *rank) {
    if (at->heap)
        rank->heap.fail_at = rank->heap.allocs + (int)at->n;
    else
        tsr_alloc_fail_at(at->n);
}

/* status: of what was tried since */
static inline void failing_end(failing *at, eager_rank *rank,
                               tsr_status status) {
    tsr_alloc_fail_at(0);
    rank->heap.fail_at = 0;
    at->reached = status != TSR_OK;
    CHECK(status == TSR_OK || status == TSR_OUT_OF_MEMORY);
}

/* Runs the body, on one rank, until an allocation is not reached. Returns how
 * many were tried. */
static inline int failing_each(rank_body body, int stage) {
    int points = 0;
    for (int heap = 0; heap < 2; heap++) {
        failing at = {.stage = stage, .heap = heap, .reached = true};
        while (at.reached) {
            at.n++;
            run_threads(1, body, &at);
        }
        CHECK(at.n > 2);
        points += (int)at.n;
    }
    return points;
}

#endif
