/* Checkpoints: folders DIR/step-N in Hugging Face's layout, readable at any
 * world size.
 *
 *   model.safetensors       the parameters under their names, f32
 *   optimizer.safetensors   exp_avg.<name>, exp_avg_sq.<name>, full shapes, f32
 *   config.json, generation_config.json   (config.h)
 *   trainer.json            tsr_checkpoint_info
 *
 * Rank r of a world holds elements [r * shard_count, (r + 1) * shard_count) of
 * each tensor, flat; those past the tensor's end exist in the shard only, and
 * are zero. */
#ifndef TSR_TRAIN_CHECKPOINT_H
#define TSR_TRAIN_CHECKPOINT_H

#include <stdbool.h>

#include "tessera/comm.h"
#include "tessera/models.h"

#define TSR_CHECKPOINT_MODEL "model.safetensors"
#define TSR_CHECKPOINT_OPTIMIZER "optimizer.safetensors"
#define TSR_CHECKPOINT_TRAINER "trainer.json"

/* What a training run must know to go on. */
typedef struct tsr_checkpoint_info {
    int64_t step;        /* updates done, >= 0 */
    int64_t samples;     /* sequences seen: the next global sample index */
    uint64_t seed;       /* at most INT64_MAX */
    int64_t world;       /* ranks that wrote it */
    int64_t batch;       /* sequences a rank and micro-step */
    int64_t accumulate;  /* micro-steps a step */
    int64_t seq;         /* tokens a sequence */
    const char *numbers; /* save: the caller's own, a JSON object of numbers, or
                            NULL; borrowed. read_info: NULL */
} tsr_checkpoint_info;

/* One parameter and this rank's part of it. Pointers are borrowed. */
typedef struct tsr_checkpoint_tensor {
    const char *name; /* as in the file */
    tsr_type type;    /* of the whole parameter, as in the file; f32 */
    size_t shard_count;
    float *weights;    /* (shard_count); NULL: load leaves them out */
    uint16_t *twin;    /* (shard_count) the weights rounded to bf16, which load
                          writes too; or NULL */
    float *exp_avg;    /* (shard_count); load without optimizer: unused */
    float *exp_avg_sq; /* (shard_count); load without optimizer: unused */
} tsr_checkpoint_tensor;

/* Writes DIR/step-N, N = info->step; DIR is created if need be.
 *
 * Rank 0 creates the files under DIR/.step-N.tmp and reserves their space, all
 * ranks write their parts and sync them, then rank 0 renames the folder. A
 * reader therefore sees a whole checkpoint or none, and older ones stay. One of
 * the same step is moved aside to DIR/.step-N.old first and removed last; a
 * crash between leaves it there, and the next save of that step restores it
 * before anything else.
 *
 * dir      a folder that all ranks see
 * tensors  (count); names, types and shard counts equal on all ranks, with
 *          world * shard_count >= elements
 * Errors: the lowest failing rank's, on every rank alike, with "rank R: "
 * before its message when the world has more than one; DIR is then as before,
 * without the temporary folder. INVALID_ARGUMENT; IO (disk full: before
 * anything was written); OUT_OF_MEMORY; UNAVAILABLE (a peer is gone; if that
 * happened after the rename, the checkpoint is there, and whole). Collective.
 * Blocking. */
tsr_status tsr_checkpoint_save(const char *dir, const tsr_checkpoint_info *info,
                               const tsr_gpt_config *config,
                               const tsr_checkpoint_tensor *tensors,
                               size_t count, tsr_bootstrap *bootstrap);

/* The folder to load from: `path` itself if it holds a model (ours or one from
 * Hugging Face), else the complete step-N in it with the largest N. Temporary
 * folders, names that are not a step and incomplete ones are passed over.
 * out_folder: owned; tsr_free.
 * Errors: NOT_FOUND (says what was looked for); IO; OUT_OF_MEMORY. */
tsr_status tsr_checkpoint_find(const char *path, char **out_folder);

/* Reads folder/trainer.json. Errors: NOT_FOUND, IO, INVALID_DATA (names file
 * and field), UNSUPPORTED (a newer format), OUT_OF_MEMORY. */
tsr_status tsr_checkpoint_read_info(const char *folder,
                                    tsr_checkpoint_info *out_info);

/* The caller's own number called `key` in folder/trainer.json. Errors: those of
 * read_info; NOT_FOUND also when there is no such number. */
tsr_status tsr_checkpoint_read_number(const char *folder, const char *key,
                                      double *out_number);

/* Reads this rank's parts, at whatever world size shard_count belongs to, and
 * zeroes what a shard has past its tensor's end. Everything is checked before
 * anything is written.
 *
 * folder  of a step, or a GPT-2 folder from Hugging Face: "transformer." before
 *         the names is accepted. Other tensors in the file are ignored (tied
 *         heads, masks), unless they belong to blocks ("h.N...") that `tensors`
 *         lacks: then the model is another one.
 * rank    of the world that shard_count belongs to
 * Errors: INVALID_ARGUMENT (tensors); NOT_FOUND (a file; the first missing
 * tensor, named); INVALID_DATA (damaged; shape or type differ, both said);
 * UNSUPPORTED; IO; OUT_OF_MEMORY. Local: ranks should agree on the outcome. */
tsr_status tsr_checkpoint_load(const char *folder,
                               const tsr_checkpoint_tensor *tensors,
                               size_t count, int rank, bool with_optimizer);

/* For save and load. Elements of the tensor that rank's shard holds, from
 * element rank * shard_count on; 0 when it lies past the end. */
size_t tsr_checkpoint_part(const tsr_checkpoint_tensor *tensor, int rank);

/* For save and load. INVALID_ARGUMENT naming the first tensor whose name, type
 * or pointers cannot be. */
tsr_status tsr_checkpoint_check(const tsr_checkpoint_tensor *tensors,
                                size_t count, bool with_optimizer);

#endif
