/* Conversions between f32, bf16 and f16. */
#include "ops/ref/ref.h"

tsr_status TSR_REF(cast)(const tsr_kernel_call *call) {
    const tsr_in x = tsr_in_of(call, 0);
    const tsr_out y = tsr_out_of(call, 0);
    const int64_t count = tsr_type_count(&call->view.inputs[0]);
    for (int64_t i = 0; i < count; i++)
        tsr_put(y, i, tsr_get(x, i));
    return TSR_OK;
}
