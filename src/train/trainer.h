/* Inside of a trainer. */
#ifndef TSR_TRAIN_TRAINER_H
#define TSR_TRAIN_TRAINER_H

#include "base/array.h"
#include "tessera/train.h"
#include "train/checkpoint.h"

/* The inputs of one micro-step, filled by a task on the compute stream. */
typedef struct tsr_feed {
    const tsr_samples *samples;
    int64_t first; /* global index of this rank's first sample */
    int64_t batch, seq;
    int32_t *tokens, *targets; /* (batch, seq) in the arena */
} tsr_feed;

struct tsr_trainer {
    tsr_trainer_options options;
    tsr_bootstrap *bootstrap; /* borrowed */
    int rank, world;
    tsr_device *device;
    tsr_comm *reduce_comm,
        *gather_comm; /* gather_comm is split from reduce_comm */
    tsr_arena *arena;
    tsr_executor *executor, *evaluator; /* evaluator: NULL without eval_plan */
    int64_t batch, seq;                 /* of one rank and micro-step */
    tsr_feed *feeds;                    /* (micro_steps) */
    tsr_feed eval_feed;
    float *schedule, *loss, *grad_norm, *eval_loss; /* in the arena */
    int64_t step;                                   /* updates done */
    TSR_ARRAY(tsr_checkpoint_tensor) tensors; /* (params) this rank's shards */
};

/* One outcome for all ranks; what each wrote before is seen by all after. */
tsr_status tsr_trainer_agree(tsr_trainer *trainer, tsr_status mine);

int64_t
tsr_trainer_global_batch(const tsr_trainer *trainer); /* samples a step */

#endif
