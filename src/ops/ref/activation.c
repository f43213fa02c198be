/* Element by element: GELU, addition, copies. */
#include "ops/ref/ref.h"

#include <math.h>
#include <string.h>

#define SQRT_2_OVER_PI 0.79788456080286535588
#define GELU_CUBIC 0.044715 /* Hendrycks and Gimpel 2016 */

tsr_status TSR_REF(gelu)(const tsr_kernel_call *call) {
    const tsr_real *x = call->in[0];
    tsr_real *y = call->out[0];
    const int64_t count = tsr_type_count(&call->view.inputs[0]);

    for (int64_t i = 0; i < count; i++) {
        const double v = x[i];
        const double u = SQRT_2_OVER_PI * (v + GELU_CUBIC * v * v * v);
        y[i] = (tsr_real)(0.5 * v * (1 + tanh(u)));
    }
    return TSR_OK;
}

tsr_status TSR_REF(gelu_grad)(const tsr_kernel_call *call) {
    const tsr_real *x = call->in[0];
    const tsr_real *dy = call->in[1];
    tsr_real *dx = call->out[0];
    const int64_t count = tsr_type_count(&call->view.inputs[0]);

    for (int64_t i = 0; i < count; i++) {
        const double v = x[i];
        const double t = tanh(SQRT_2_OVER_PI * (v + GELU_CUBIC * v * v * v));
        const double du = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * v * v);
        dx[i] =
            (tsr_real)(dy[i] * 0.5 * ((1 + t) + v * (1 - t) * (1 + t) * du));
    }
    return TSR_OK;
}

tsr_status TSR_REF(add)(const tsr_kernel_call *call) {
    const tsr_real *a = call->in[0];
    const tsr_real *b = call->in[1];
    tsr_real *y = call->out[0];
    const int64_t count = tsr_type_count(&call->view.inputs[0]);

    for (int64_t i = 0; i < count; i++)
        y[i] = a[i] + b[i];
    return TSR_OK;
}

tsr_status TSR_REF(store)(const tsr_kernel_call *call) {
    memcpy(call->out[0], call->in[0], tsr_type_bytes(&call->view.inputs[0]));
    return TSR_OK;
}
