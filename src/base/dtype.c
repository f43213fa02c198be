#include "tessera/dtype.h"

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
