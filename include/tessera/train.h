/* Training: a trainer runs steps of a plan over the ranks of a bootstrap. */
#ifndef TESSERA_TRAIN_H
#define TESSERA_TRAIN_H

#include "tessera/models.h"
#include "tessera/passes.h"
#include "tessera/zero.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Learning rate: linear from 0 over `warmup` steps to `peak`, then a half
 * cosine down to `floor` at step `steps`. */
typedef struct tsr_rates {
    double peak, floor;
    int64_t warmup, steps;
} tsr_rates;

/* The rate of a step counted from 1; `floor` after the last. */
TSR_API double tsr_rate_at(const tsr_rates *rates, int64_t step);

/* Fills the plan's inputs of one sequence: tokens and targets (seq each) of the
 * sample with this global index. Called on a worker thread, for different
 * samples one after another; a pure function of `sample`. */
typedef void (*tsr_read_sample)(const void *context, int64_t sample,
                                int32_t *tokens, int32_t *targets);

typedef struct tsr_samples {
    tsr_read_sample read;
    const void *context; /* borrowed */
} tsr_samples;

typedef struct tsr_trainer_options {
    const tsr_plan *plan;      /* from tsr_compile_training; inputs "tokens",
                                  "targets" i32 [batch, seq], state "loss" */
    const tsr_plan *eval_plan; /* NULL: no evaluation; from tsr_compile_forward,
                                  same target, loss_scale 1 */
    tsr_samples samples;
    tsr_samples eval_samples;
    int micro_steps; /* as compiled */
    tsr_rates rates;
    uint64_t seed; /* of the initial weights */
    const tsr_kernel_table *kernels;
    tsr_cpu_options cpu;
    int timeout_ms;          /* of a silent peer; 0: 60,000 */
    double wire_bytes_per_s; /* an injected wire: see tsr_comm_options */
    int64_t wire_latency_ns;
    bool timeline;  /* keep the times of the latest step's nodes */
    bool over_mpi;  /* tsr_comm_create_mpi, for a plan whose target shares no
                       memory; else tsr_comm_create_host */
    int host_ranks; /* ranks on this rank's host; 0: all */
} tsr_trainer_options;

/* What one step did. */
typedef struct tsr_step_metrics {
    int64_t step; /* counted from 1 */
    double loss;  /* mean over the global batch's tokens, before the update */
    double lr;
    double grad_norm; /* before clipping */
    int64_t tokens;   /* of all ranks */
    double seconds;
} tsr_step_metrics;

typedef struct tsr_trainer tsr_trainer; /* one thread at a time */

/* Everything in `options` and the bootstrap is borrowed and outlives the
 * trainer. Weights are the random ones of the seed until tsr_trainer_load.
 * Collective. Errors: FAILED_PRECONDITION (ranks hold different plans),
 * OUT_OF_MEMORY, UNAVAILABLE. */
TSR_API tsr_status tsr_trainer_create(const tsr_trainer_options *options,
                                      tsr_bootstrap *bootstrap,
                                      tsr_trainer **out_trainer);
TSR_API void tsr_trainer_release(tsr_trainer *trainer); /* takes NULL */

/* One step: micro_steps times forward and backward, then the update.
 * Collective. Errors: INVALID_DATA when loss or gradient norm is not finite
 * (the weights then are those before the step), UNAVAILABLE (a peer is gone).
 */
TSR_API tsr_status tsr_trainer_step(tsr_trainer *trainer,
                                    tsr_step_metrics *out_metrics);

/* Writes when each node of the latest step ran, on all ranks, as a Chrome trace
 * (ui.perfetto.dev): process = rank, thread = stream, name = op and layer; a
 * wait shows how long compute stood still. Rank 0 writes `path`; ranks' clocks
 * must be of one host. Collective. Errors: FAILED_PRECONDITION (made without
 * options.timeline), IO, OUT_OF_MEMORY, UNAVAILABLE. */
TSR_API tsr_status tsr_trainer_write_timeline(tsr_trainer *trainer,
                                              const char *path);

/* Errors as tsr_trainer_step; FAILED_PRECONDITION without an evaluation plan.
 * Mean loss over `batches` batches of every rank, from sample 0 of the
 * evaluation samples on. Collective. */
TSR_API tsr_status tsr_trainer_evaluate(tsr_trainer *trainer, int64_t batches,
                                        double *out_loss);

/* Writes DIR/step-N (safetensors under Hugging Face's names, config.json,
 * optimizer state, position), published by a rename. Collective. Errors: IO,
 * UNAVAILABLE; older checkpoints stay. */
TSR_API tsr_status tsr_trainer_save(tsr_trainer *trainer, const char *dir,
                                    const tsr_gpt_config *model);

/* Loads weights, optimizer state and position from a step folder or DIR's
 * newest complete one. Collective. Errors: NOT_FOUND, INVALID_DATA,
 * INVALID_ARGUMENT (seed, sequence or global batch differ from the run that
 * wrote it). */
TSR_API tsr_status tsr_trainer_load(tsr_trainer *trainer, const char *path);

TSR_API int64_t
tsr_trainer_steps(const tsr_trainer *trainer); /* updates done */
TSR_API size_t tsr_trainer_arena_bytes(const tsr_trainer *trainer);

/* The shard of a declared value ("wte.weight", "wte.weight.grad"): address and
 * elements on this rank; NULL: no such value, or not f32. Valid between steps.
 */
TSR_API float *tsr_trainer_value(tsr_trainer *trainer, const char *name,
                                 int64_t *out_count);

/* Floating-point operations a second that the ranks can do together, measured
 * now with a matrix product on every rank at once: the best call of each in
 * about 0.1 s, and no more than the processors allow where ranks share them.
 * Collective. Errors: OUT_OF_MEMORY, UNAVAILABLE. */
TSR_API tsr_status tsr_trainer_measure_peak(tsr_trainer *trainer,
                                            double *out_flops_per_s);

/* Operations of forward and backward a token: 6 a parameter, and 6 * layers *
 * dim * seq for causal attention. Recomputation does not count (PaLM's model
 * flops, Chowdhery et al. 2022, appendix B, with causal attention's half). */
TSR_API double tsr_gpt_flops_per_token(const tsr_gpt_config *model,
                                       int64_t seq);

#ifdef __cplusplus
}
#endif
#endif
