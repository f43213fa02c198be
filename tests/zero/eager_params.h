/* Parameters of many sizes in two graphs, for tests of gradients. */
#ifndef TSR_TESTS_ZERO_EAGER_PARAMS_H
#define TSR_TESTS_ZERO_EAGER_PARAMS_H

#include "zero/eager_rank.h"

enum { PARAMS = 5 };

static const int worlds[] = {1, 2, 3, 5};

static inline void on_worlds(rank_body body, void *argument) {
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++)
        run_threads(worlds[w], body, argument);
}

/* Sizes 0, 1 and odd ones; slots of parameter 4 are the largest. */
static inline void open_params(eager_rank *rank, test_param *params,
                               tsr_dtype communicated, tsr_dtype accumulated) {
    static const int64_t rows[PARAMS] = {0, 1, 5, 11, 40};
    int64_t ids[PARAMS];
    for (int p = 0; p < PARAMS; p++) {
        params[p] = p == 1 ? param_of(p, 1, 1) : param_of(p, rows[p], 3);
        params[p].desc.communicated_dtype = communicated;
        params[p].desc.accumulated_dtype = accumulated;
        param_register(rank, &params[p]);
        ids[p] = p;
    }
    CHECK_OK(tsr_zero_register_graph(rank->zero, 1, ids, PARAMS));
    CHECK_OK(tsr_zero_register_graph(rank->zero, 2, ids, PARAMS));
}

static inline void close_params(eager_rank *rank, test_param *params) {
    rank_close(rank);
    for (int p = 0; p < PARAMS; p++)
        param_release(&params[p]);
}

static inline float scale_of(int world, tsr_average average) {
    return average == TSR_AVERAGE_NONE ? 1 : 1 / (float)world;
}

#endif
