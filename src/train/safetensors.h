/* Reading safetensors: 8 bytes of little-endian header length, a JSON header
 * that names tensors, then their bytes without a hole.
 *
 * Source: the format's description and limits in
 * https://github.com/huggingface/safetensors (README, "Format"). */
#ifndef TSR_TRAIN_SAFETENSORS_H
#define TSR_TRAIN_SAFETENSORS_H

#include "tessera/graph.h"

#define TSR_SAFETENSORS_HEADER_BYTES 100000000 /* the format's limit */
#define TSR_SAFETENSORS_DIMS 8 /* more are refused; torch seldom has over 5 */

/* One file, memory-mapped. Immutable after open; thread-safe. It must not be
 * truncated while it is open: touching what is gone raises SIGBUS. */
typedef struct tsr_safetensors tsr_safetensors;

/* Pointers are borrowed from the file. */
typedef struct tsr_safetensors_tensor {
    const char *name;
    const char *dtype; /* as in the file: "F32" */
    size_t dims;
    int64_t shape[TSR_SAFETENSORS_DIMS]; /* each >= 0 */
    const unsigned char *data;           /* any alignment: memcpy */
    size_t bytes;
} tsr_safetensors_tensor;

/* Opens a file and checks all of its header: limits, JSON without duplicate
 * keys, shapes, that each tensor has the bytes its shape asks for, and that
 * they fill the file in some order without hole or overlap. Element types that
 * we lack are no error here. Values are not looked at.
 * Errors: NOT_FOUND; IO; INVALID_DATA (damaged or lying; names file and tensor
 * and what is wrong); UNSUPPORTED (over TSR_SAFETENSORS_DIMS dimensions);
 * OUT_OF_MEMORY. */
tsr_status tsr_safetensors_open(const char *path, tsr_safetensors **out_file);

/* The same for a file in memory. name: for messages; copied. bytes: borrowed,
 * outlives the file. */
tsr_status tsr_safetensors_parse(const char *name, const void *bytes,
                                 size_t count, tsr_safetensors **out_file);
void tsr_safetensors_release(tsr_safetensors *file); /* takes NULL */

const char *tsr_safetensors_path(const tsr_safetensors *file);
size_t tsr_safetensors_count(const tsr_safetensors *file);

/* index in [0, count), in the order of the bytes in the file. */
const tsr_safetensors_tensor *tsr_safetensors_at(const tsr_safetensors *file,
                                                 size_t index);
/* NULL: no such tensor. */
const tsr_safetensors_tensor *tsr_safetensors_find(const tsr_safetensors *file,
                                                   const char *name);
/* The value of a key of __metadata__; NULL: none. Borrowed. */
const char *tsr_safetensors_metadata(const tsr_safetensors *file,
                                     const char *key);

/* The tensor's type in our terms. Errors: UNSUPPORTED (an element type, a
 * number of dimensions or an empty shape that tsr_type cannot say; names file
 * and tensor). */
tsr_status tsr_safetensors_type(const tsr_safetensors *file,
                                const tsr_safetensors_tensor *tensor,
                                tsr_type *out_type);

/* The format's name of a type: "BF16". NULL for a value outside the enum. */
const char *tsr_safetensors_dtype_name(tsr_dtype dtype);

#endif
