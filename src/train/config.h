/* A model's configuration as Hugging Face's GPT-2 keeps it: config.json and
 * generation_config.json.
 *
 * Source: transformers' GPT2Config (configuration_gpt2.py): names, defaults. */
#ifndef TSR_TRAIN_CONFIG_H
#define TSR_TRAIN_CONFIG_H

#include "tessera/models.h"

#define TSR_CONFIG_MODEL "config.json"
#define TSR_CONFIG_GENERATION "generation_config.json"

/* Reads folder/config.json. Only what changes the function that the model
 * computes is looked at; out_config is written on success only.
 * Errors: NOT_FOUND, IO (the file); INVALID_DATA (no JSON object, a field that
 * is missing, of the wrong type or out of range); UNSUPPORTED (another model
 * type or activation, or a variant of GPT-2 that we do not build). Each names
 * file and field. */
tsr_status tsr_config_read(const char *folder, tsr_gpt_config *out_config);

/* Writes folder/config.json and folder/generation_config.json, synced. The end
 * of a text is token 50256 for GPT-2's own vocabulary of 50257, else the
 * corpus's separator, and unset where the vocabulary ends before it.
 * Errors: INVALID_ARGUMENT (config is not valid); IO; OUT_OF_MEMORY. */
tsr_status tsr_config_write(const char *folder, const tsr_gpt_config *config);

#endif
