/* Conversions between f32, bf16 and f16. */
#include "base/half.h"
#include "ops/ref/ref.h"

tsr_status TSR_REF(cast)(const tsr_kernel_call *call) {
    const tsr_type *from = &call->view.inputs[0], *to = &call->view.outputs[0];
    const size_t count = (size_t)tsr_type_count(from);
    for (size_t i = 0; i < count; i++)
        tsr_store_real(call->out[0], to->dtype, i,
                       tsr_load_real(call->in[0], from->dtype, i));
    return TSR_OK;
}
