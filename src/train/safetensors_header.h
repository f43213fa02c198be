/* A safetensors file in memory, and the parsing of its header. Private to
 * safetensors*.c. */
#ifndef TSR_TRAIN_SAFETENSORS_HEADER_H
#define TSR_TRAIN_SAFETENSORS_HEADER_H

#include <jansson.h>

#include "train/safetensors.h"

struct tsr_safetensors {
    char *path;                      /* owned */
    void *mapped;                    /* owned; NULL: the bytes are borrowed */
    const unsigned char *bytes;      /* the whole file */
    size_t byte_count;               /* of it */
    const unsigned char *data;       /* first byte after the header */
    json_t *header;                  /* owned; keeps names and metadata */
    tsr_safetensors_tensor *tensors; /* owned; by place in the file */
    const tsr_safetensors_tensor **by_name; /* owned */
    size_t count;
};

/* Bits of an element of the type called `name`; 0: none that we know. */
unsigned tsr_safetensors_bits(const char *name);

/* Fills in data, header, tensors, by_name and count of a file whose path and
 * bytes are set. On failure too, the file owns what was made so far. */
tsr_status tsr_safetensors_parse_header(tsr_safetensors *file);

#endif
