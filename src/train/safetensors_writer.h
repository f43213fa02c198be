/* Writing safetensors from many ranks: one creates the file with its header and
 * all of its space, then each opens it and writes its elements in place. */
#ifndef TSR_TRAIN_SAFETENSORS_WRITER_H
#define TSR_TRAIN_SAFETENSORS_WRITER_H

#include "train/safetensors.h"

typedef struct tsr_safetensors_entry {
    const char *name; /* UTF-8; borrowed for the call */
    tsr_type type;
} tsr_safetensors_entry;

typedef struct tsr_safetensors_pair {
    const char *key, *value; /* UTF-8; borrowed for the call */
} tsr_safetensors_pair;

/* Creates a file of zeros with a header; tensors lie in the order given, the
 * first at a multiple of 8 bytes. All space is reserved, so that a full disk is
 * noticed now. The file is removed again on failure. Not synced: close of a
 * writer does that.
 * metadata  (pair_count), may be NULL for 0
 * Errors: INVALID_ARGUMENT (a name twice, reserved or not UTF-8; a shape that
 * cannot be); IO (names the file and the reason: it exists, disk full);
 * OUT_OF_MEMORY. */
tsr_status tsr_safetensors_create(const char *path,
                                  const tsr_safetensors_entry *entries,
                                  size_t count,
                                  const tsr_safetensors_pair *metadata,
                                  size_t pair_count);

/* An open file that can be written. One thread at a time per writer; any number
 * of writers per file, as long as they write different elements. */
typedef struct tsr_safetensors_writer tsr_safetensors_writer;

/* Opens what tsr_safetensors_create made. Errors: those of
 * tsr_safetensors_open. */
tsr_status tsr_safetensors_writer_open(const char *path,
                                       tsr_safetensors_writer **out_writer);

/* Writes elements [first, first + count) of a tensor.
 * index  of the tensor, as in `entries`
 * data   (count) of the tensor's dtype; borrowed for the call
 * Errors: INVALID_ARGUMENT (index or range); IO (file, tensor and reason). */
tsr_status tsr_safetensors_write(tsr_safetensors_writer *writer, size_t index,
                                 int64_t first, size_t count, const void *data);

/* Makes what was written (by anybody) durable. Errors: IO. */
tsr_status tsr_safetensors_writer_sync(tsr_safetensors_writer *writer);
void tsr_safetensors_writer_release(
    tsr_safetensors_writer *writer); /* takes NULL; does not sync */

#endif
