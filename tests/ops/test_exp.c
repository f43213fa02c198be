/* exp of every instruction set, seen through cross_entropy_grad: with scale 1
 * and lse 0, each column but the target's is exp(logit). */
#include "op_run.h"

#include <float.h>

#define MAX_ULP 2.0
#define COLUMNS 20011 /* with a tail after every vector width */

static tsr_device *device;

/* Distance in units of the last place of the exact result. */
static double ulp_error(double got, double exact) {
    int exponent;
    frexp(exact, &exponent);
    const int least = -149; /* the smallest denormal is 2^-149 */
    const int unit = exponent - 24 < least ? least : exponent - 24;
    return fabs(got - exact) / ldexp(1.0, unit);
}

static tensor exp_of(const tsr_cpu_kernel_set *set, const tensor *x) {
    const runner fast = cpu_runner(set, device);
    tensor targets = INTS(1), lse = ZEROS(1);
    tensor y = ZEROS(1, tensor_count(x));
    run_op(&fast,
           &(op_call){"cross_entropy_grad", .in = {x, &targets, &lse},
                      .out = {&y}, .attrs = {TSR_ATTR_REAL("scale", 1)}});
    FREE(&targets, &lse);
    return y;
}

static void check_range(const tsr_cpu_kernel_set *set, double low,
                        double high) {
    tensor x = ZEROS(1, COLUMNS);
    for (int64_t i = 0; i < COLUMNS; i++)
        x.data[i] =
            (double)(float)(low + (high - low) * (double)i / (COLUMNS - 1));
    tensor y = exp_of(set, &x);
    double worst = 0;
    for (int64_t i = 1; i < COLUMNS; i++) {
        const double error = ulp_error(y.data[i], exp(x.data[i]));
        CHECK_MESSAGE(error <= MAX_ULP, "%s: exp(%.9g) is %.9g, %g ulp off",
                      set->isa, x.data[i], y.data[i], error);
        worst = error > worst ? error : worst;
    }
    printf("%s: exp on [%g, %g]: %.3f ulp\n", set->isa, low, high, worst);
    FREE(&x, &y);
}

/* The edge cases sit in a vector and, repeated, in the scalar tail. */
static void check_edges(const tsr_cpu_kernel_set *set) {
    static const struct {
        double x, y;
    } cases[] = {{0, 1},
                 {-0.0, 1},
                 {INFINITY, INFINITY},
                 {-INFINITY, 0},
                 {88.8, INFINITY},
                 {1e30, INFINITY},
                 {FLT_MAX, INFINITY},
                 {-104.5, 0},
                 {-1e30, 0},
                 {-FLT_MAX, 0},
                 {1e-40, 1},
                 {NAN, NAN},
                 {-NAN, NAN}};
    const int64_t count = sizeof cases / sizeof *cases;
    tensor x = ZEROS(1, 1 + 3 * count);
    for (int64_t i = 0; i < 3 * count; i++)
        x.data[1 + i] = cases[i % count].x;
    tensor y = exp_of(set, &x);
    for (int64_t i = 0; i < 3 * count; i++) {
        const double expected = cases[i % count].y, got = y.data[1 + i];
        CHECK_MESSAGE(isnan(expected) ? isnan(got) : got == expected,
                      "%s: exp(%g) is %g", set->isa, cases[i % count].x, got);
    }
    FREE(&x, &y);
}

int main(void) {
    const tsr_cpu_kernel_set *const *sets;
    const size_t count = tsr_cpu_kernel_sets(&sets);
    device = device_with(1);
    for (size_t i = 0; i < count; i++) {
        check_range(sets[i], -1, 1);
        check_range(sets[i], -87.3, 88.72);
        check_range(sets[i], -103.9, -87); /* denormal results */
        check_range(sets[i], 87, 88.7228);
        check_edges(sets[i]);
    }
    tsr_device_release(device);
    return 0;
}
