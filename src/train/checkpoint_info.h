/* trainer.json of a checkpoint, as save writes it. Reading: checkpoint.h. */
#ifndef TSR_TRAIN_CHECKPOINT_INFO_H
#define TSR_TRAIN_CHECKPOINT_INFO_H

#include "base/text.h"
#include "train/checkpoint.h"

/* INVALID_ARGUMENT if a field cannot be, or numbers is no object of numbers. */
tsr_status tsr_checkpoint_check_info(const tsr_checkpoint_info *info);

/* Appends the file's text. info was checked. */
void tsr_checkpoint_print_info(const tsr_checkpoint_info *info, tsr_text *text);

#endif
