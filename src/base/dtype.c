#include "tessera/dtype.h"

#include <string.h>

#include "base/status.h"

static const struct {
    const char *name;
    size_t bytes;
} dtypes[TSR_DTYPE_COUNT] = {
    [TSR_F32] = {"f32", 4}, [TSR_BF16] = {"bf16", 2}, [TSR_F16] = {"f16", 2},
    [TSR_I32] = {"i32", 4}, [TSR_U8] = {"u8", 1},
};

size_t tsr_dtype_bytes(tsr_dtype dtype) {
    return (unsigned)dtype < TSR_DTYPE_COUNT ? dtypes[dtype].bytes : 0;
}

const char *tsr_dtype_name(tsr_dtype dtype) {
    return (unsigned)dtype < TSR_DTYPE_COUNT ? dtypes[dtype].name : "?";
}

tsr_status tsr_dtype_parse(const char *name, size_t length,
                           tsr_dtype *out_dtype) {
    for (int i = 0; i < TSR_DTYPE_COUNT; i++) {
        if (strlen(dtypes[i].name) == length &&
            memcmp(dtypes[i].name, name, length) == 0) {
            *out_dtype = (tsr_dtype)i;
            return TSR_OK;
        }
    }
    return tsr_error(TSR_INVALID_ARGUMENT,
                     "unknown dtype '%.*s'; known: f32, bf16, f16, i32, u8",
                     (int)length, name);
}
