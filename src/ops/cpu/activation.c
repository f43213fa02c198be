/* Element by element: GELU and addition. One loop over memory each. */
#include "ops/cpu/element.h"
#include "ops/cpu/exp.h"
#include "ops/cpu/parallel.h"

#include <math.h>

typedef struct elements {
    const tsr_element *a, *b;
    tsr_element *y;
    int64_t count;
} elements;

static void run_elements(const tsr_kernel_call *call, tsr_parallel_body body) {
    const int64_t count = tsr_type_count(&call->view.inputs[0]);
    elements work = {call->in[0],
                     call->view.input_count > 1 ? call->in[1] : NULL,
                     call->out[0], count};
    tsr_device_parallel(call->device, tsr_ceil_div(count, TSR_ELEMENTS), body,
                        &work);
}

/* 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u)), with u = sqrt(2/pi) (x + 0.044715
 * x^3): one exp, and no cancellation where u is small or negative. */
#define TWICE_SQRT_2_OVER_PI 1.5957691216057308f
#define CUBIC 0.044715f

static void gelu_body(void *context, int64_t begin, int64_t end) {
    const elements *e = context;
    const tsr_element *x = e->a;
    tsr_element *y = e->y;
    const int64_t last = tsr_min(end * TSR_ELEMENTS, e->count);

#pragma omp simd
    for (int64_t i = begin * TSR_ELEMENTS; i < last; i++) {
        const float v = tsr_widen(x[i]);
        const float twice_u = TWICE_SQRT_2_OVER_PI * (v + CUBIC * v * v * v);
        y[i] = tsr_narrow(v / (1.0f + tsr_exp(-twice_u)));
    }
}

tsr_status TSR_KERNEL(gelu)(const tsr_kernel_call *call) {
    run_elements(call, gelu_body);
    return TSR_OK;
}

/* With s = 1 / (1 + exp(-2u)):  dgelu/dx = s + x s (1 - s) 2u'. */
static void gelu_grad_body(void *context, int64_t begin, int64_t end) {
    const elements *e = context;
    const tsr_element *x = e->a, *dy = e->b;
    tsr_element *dx = e->y;
    const int64_t last = tsr_min(end * TSR_ELEMENTS, e->count);

#pragma omp simd
    for (int64_t i = begin * TSR_ELEMENTS; i < last; i++) {
        /* Past 16, s is 0 or 1 in f32, and x^3 may overflow. */
        float v = tsr_widen(x[i]);
        v = v > 16.0f ? 16.0f : v;
        v = v < -16.0f ? -16.0f : v;
        const float twice_u = TWICE_SQRT_2_OVER_PI * (v + CUBIC * v * v * v);
        const float twice_du =
            TWICE_SQRT_2_OVER_PI * (1.0f + 3.0f * CUBIC * v * v);
        /* exp of a negative number, so that s (1 - s) cannot overflow. */
        const float t = tsr_exp(-fabsf(twice_u));
        const float inverse = 1.0f / (1.0f + t);
        const float s = (twice_u < 0.0f ? t : 1.0f) * inverse;
        dx[i] = tsr_narrow(tsr_widen(dy[i]) *
                           (s + v * twice_du * (t * inverse * inverse)));
    }
}

tsr_status TSR_KERNEL(gelu_grad)(const tsr_kernel_call *call) {
    run_elements(call, gelu_grad_body);
    return TSR_OK;
}

static void add_body(void *context, int64_t begin, int64_t end) {
    const elements *e = context;
    const tsr_element *a = e->a, *b = e->b;
    tsr_element *y = e->y;
    const int64_t last = tsr_min(end * TSR_ELEMENTS, e->count);

#pragma omp simd
    for (int64_t i = begin * TSR_ELEMENTS; i < last; i++)
        y[i] = tsr_narrow(tsr_widen(a[i]) + tsr_widen(b[i]));
}

tsr_status TSR_KERNEL(add)(const tsr_kernel_call *call) {
    run_elements(call, add_body);
    return TSR_OK;
}
