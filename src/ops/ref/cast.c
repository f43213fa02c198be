/* Conversions between f32, bf16 and f16. */
#include "base/half.h"
#include "ops/ref/ref.h"

static float load(const void *from, tsr_dtype dtype, int64_t i) {
    if (dtype == TSR_F32)
        return ((const float *)from)[i];
    uint16_t half = ((const uint16_t *)from)[i];
    return dtype == TSR_BF16 ? tsr_from_bf16(half) : tsr_from_f16(half);
}

static void store(void *to, tsr_dtype dtype, int64_t i, float value) {
    if (dtype == TSR_F32)
        ((float *)to)[i] = value;
    else
        ((uint16_t *)to)[i] =
            dtype == TSR_BF16 ? tsr_to_bf16(value) : tsr_to_f16(value);
}

tsr_status TSR_REF(cast)(const tsr_kernel_call *call) {
    const tsr_type *from = &call->view.inputs[0], *to = &call->view.outputs[0];
    const int64_t count = tsr_type_count(from);
    for (int64_t i = 0; i < count; i++)
        store(call->out[0], to->dtype, i, load(call->in[0], from->dtype, i));
    return TSR_OK;
}
