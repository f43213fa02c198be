/* Element types. */
#ifndef TESSERA_DTYPE_H
#define TESSERA_DTYPE_H

#include <stddef.h>
#include <stdint.h>

#include "tessera/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tsr_dtype {
    TSR_F32 = 0,
    TSR_BF16,
    TSR_F16,
    TSR_I32,
    TSR_U8,
    TSR_DTYPE_COUNT
} tsr_dtype;

/* Bytes of one element; 0 for a value outside the enum. Thread-safe. */
TSR_API size_t tsr_dtype_bytes(tsr_dtype dtype);

/* "f32", "bf16", "f16", "i32", "u8"; "?" for a value outside the enum.
 * Thread-safe. */
TSR_API const char *tsr_dtype_name(tsr_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
