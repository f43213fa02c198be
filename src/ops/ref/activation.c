/* Element by element: GELU, addition, copies. */
#include "ops/ref/ref.h"

#include <math.h>
#include <string.h>

#define SQRT_2_OVER_PI 0.79788456080286535588
#define GELU_CUBIC 0.044715 /* Hendrycks and Gimpel 2016 */

tsr_status TSR_REF(gelu)(const tsr_kernel_call *call) {
    const tsr_in x = tsr_in_of(call, 0);
    const tsr_out y = tsr_out_of(call, 0);
    const int64_t count = tsr_type_count(&call->view.inputs[0]);

    for (int64_t i = 0; i < count; i++) {
        const double v = tsr_get(x, i);
        const double u = SQRT_2_OVER_PI * (v + GELU_CUBIC * v * v * v);
        tsr_put(y, i, 0.5 * v * (1 + tanh(u)));
    }
    return TSR_OK;
}

tsr_status TSR_REF(gelu_grad)(const tsr_kernel_call *call) {
    const tsr_in x = tsr_in_of(call, 0), dy = tsr_in_of(call, 1);
    const tsr_out dx = tsr_out_of(call, 0);
    const int64_t count = tsr_type_count(&call->view.inputs[0]);

    for (int64_t i = 0; i < count; i++) {
        const double v = tsr_get(x, i);
        const double t = tanh(SQRT_2_OVER_PI * (v + GELU_CUBIC * v * v * v));
        const double du = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * v * v);
        tsr_put(dx, i,
                tsr_get(dy, i) * 0.5 * ((1 + t) + v * (1 - t) * (1 + t) * du));
    }
    return TSR_OK;
}

tsr_status TSR_REF(add)(const tsr_kernel_call *call) {
    const tsr_in a = tsr_in_of(call, 0), b = tsr_in_of(call, 1);
    const tsr_out y = tsr_out_of(call, 0);
    const int64_t count = tsr_type_count(&call->view.inputs[0]);

    for (int64_t i = 0; i < count; i++)
        tsr_put(y, i, tsr_get(a, i) + tsr_get(b, i));
    return TSR_OK;
}

tsr_status TSR_REF(store)(const tsr_kernel_call *call) {
    memcpy(call->out[0], call->in[0], tsr_type_bytes(&call->view.inputs[0]));
    return TSR_OK;
}
