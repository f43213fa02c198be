/* Models: graph builders from a configuration. */
#ifndef TESSERA_MODELS_H
#define TESSERA_MODELS_H

#include "tessera/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* GPT-2 (Radford et al. 2019): learned positions, pre-norm blocks, tanh GELU,
 * tied head. */
typedef struct tsr_gpt_config {
    int64_t layers;
    int64_t heads;
    int64_t dim;   /* channels; divisible by heads */
    int64_t vocab; /* tokens */
    int64_t seq;   /* positions */
    double norm_eps;
    tsr_dtype dtype; /* of weights as used, activations and whole gradients:
                        f32 or bf16. Parameters are stored in f32 */
} tsr_gpt_config;

/* "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", and "gpt2-tiny" for tests.
 * Errors: NOT_FOUND (names the known ones). */
TSR_API tsr_status tsr_gpt_preset(const char *name, tsr_gpt_config *out_config);

/* INVALID_ARGUMENT naming the first field that is out of range or does not fit
 * another. */
TSR_API tsr_status tsr_gpt_validate(const tsr_gpt_config *config);

/* Parameters (elements) of the model. The config must be valid. */
TSR_API int64_t tsr_gpt_param_count(const tsr_gpt_config *config);

/* Forward and loss for `batch` sequences of `seq` <= config->seq tokens into an
 * empty graph: inputs "tokens" and "targets" i32 [batch, seq], state "loss" f32
 * [1]. Parameters carry Hugging Face's names and layout. loss_scale: factor of
 * the summed token losses, 1 / (tokens of a global batch) for a mean. The loss
 * becomes the graph's loss. */
TSR_API tsr_status tsr_gpt_build(tsr_graph *graph, const tsr_gpt_config *config,
                                 int64_t batch, int64_t seq, double loss_scale);

/* One token of one sequence with a key/value cache of `capacity` <= config->seq
 * positions: inputs "tokens" i32 [1, 1], "position" i32 [1], states "h.N.k",
 * "h.N.v" of config->dtype; the state "logits" f32 [1, 1, vocab] receives the
 * next token's logits. */
TSR_API tsr_status tsr_gpt_build_decode(tsr_graph *graph,
                                        const tsr_gpt_config *config,
                                        int64_t capacity);

#ifdef __cplusplus
}
#endif
#endif
