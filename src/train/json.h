/* JSON files with errors that name file and field. */
#ifndef TSR_TRAIN_JSON_H
#define TSR_TRAIN_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "tessera/status.h"

/* The object that a file holds. out_object: owned, json_decref.
 * Errors: NOT_FOUND; IO; INVALID_DATA (no JSON, a key twice, no object);
 * OUT_OF_MEMORY. */
tsr_status tsr_json_read(const char *path, json_t **out_object);

/* An integer member of at least `low`. path: for messages.
 * Errors: INVALID_DATA (missing, no integer, too small). */
tsr_status tsr_json_int(const json_t *object, const char *path, const char *key,
                        int64_t low, int64_t *out_value);

#endif
