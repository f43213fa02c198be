/* Initial values of parameters. */
#ifndef TSR_TRAIN_INITIALIZE_H
#define TSR_TRAIN_INITIALIZE_H

#include "tessera/graph.h"

/* Writes elements [first, first + count) of the whole parameter into shard;
 * those past its end become 0. Normal values are Box-Muller over Philox4x32-10
 * (Salmon et al. 2011), key from seed and name, counter from the flat index:
 * the same numbers on any number of ranks. */
void tsr_initialize(const tsr_param *param, uint64_t seed, int64_t first,
                    int64_t count, float *shard);

#endif
