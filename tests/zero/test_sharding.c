/* Sharding changes nothing: at an equal global batch, losses, gradient norms
 * and weights do not depend on the number of ranks, nor on how the batch is
 * split into ranks, micro-steps and sequences. */
#include "runs.h"

/* Sequences a step, whatever the split. */
#define GLOBAL_BATCH 120

/* How far runs that differ in their split may be apart. */
typedef struct bounds {
    double loss, norm; /* relative */
    double weight;     /* absolute, but for one weight in `rare` */
    size_t rare;
    double largest; /* absolute, of any weight */
} bounds;

/* AdamW divides a gradient by its own size, so that of terms that cancel (of
 * keys' biases: to 0, as the softmax takes no notice of them) the rounding
 * shows. No weight differs by more than a hundredth of the step that the
 * highest learning rate makes. */
static const bounds f32_bounds = {1e-5, 1e-5, 1e-5, 1000, 5e-5};

/* Whole gradients are rounded to bf16 before they are summed, so that another
 * split has other roundings, of up to u = 2^-8 of each part. A gradient's norm
 * moves by u times the sum of the parts' norms were all roundings alike. They
 * are independent, and the norm is over thousands of elements: 2u is allowed.
 * The loss of the first step knows no gradient, and differs by the order of f32
 * sums alone. Those of later steps move by the gradient times the difference of
 * the weights, which is noise that mostly cancels: u / 4 is allowed. A weight
 * whose gradient is lost in roundings may go either way in each step, and be
 * off by twice the sum of the learning rates, 2 * 20 * 5e-3; few are off by
 * more than one step of the highest rate. */
#define U 0x1p-8
static const bounds bf16_bounds = {U / 4, 2 * U, 5e-3, 50, 0.2};

typedef struct split {
    int world, batch, micro_steps;
} split;

static double worst_loss, worst_norm, worst_weight, worst_rare;

static double relative(double a, double b) { return fabs(a - b) / fabs(b); }

static void raise_to(double *worst, double value) {
    *worst = value > *worst ? value : *worst;
}

static void check_steps(const bounds *limits, const outcome *one,
                        const outcome *many, const split *how) {
    for (int s = 0; s < one->steps; s++) {
        double loss = relative(many->losses[0][s], one->losses[0][s]),
               norm = relative(many->norms[0][s], one->norms[0][s]),
               eval = relative(many->eval_losses[0][s], one->eval_losses[0][s]);
        raise_to(&worst_loss, loss);
        raise_to(&worst_norm, norm);
        CHECK_MESSAGE(loss <= (s == 0 ? f32_bounds.loss : limits->loss) &&
                          norm <= limits->norm,
                      "%d ranks, batch %d x %d, step %d: loss %.9g, one rank "
                      "%.9g; gradient norm %.9g, one rank %.9g",
                      how->world, how->batch, how->micro_steps, s + 1,
                      many->losses[0][s], one->losses[0][s], many->norms[0][s],
                      one->norms[0][s]);
        CHECK_MESSAGE(eval <= limits->loss,
                      "%d ranks, batch %d, step %d: evaluated %.9g, one rank "
                      "%.9g",
                      how->world, how->batch, s + 1, many->eval_losses[0][s],
                      one->eval_losses[0][s]);
    }
}

static void check_weights(const bounds *limits, const outcome *one,
                          const outcome *many, const split *how) {
    size_t rare = 0;
    for (size_t i = 0; i < one->elements; i++) {
        double difference =
            fabs((double)many->state[i] - (double)one->state[i]);
        raise_to(&worst_weight, difference);
        rare += difference > limits->weight;
        CHECK_MESSAGE(
            difference <= limits->largest,
            "%d ranks, batch %d x %d: weight %zu is %.9g, of one rank %.9g",
            how->world, how->batch, how->micro_steps, i, (double)many->state[i],
            (double)one->state[i]);
    }
    raise_to(&worst_rare, (double)rare / (double)one->elements);
    CHECK_MESSAGE(rare <= one->elements / limits->rare,
                  "%d ranks, batch %d x %d: %zu of %zu weights differ",
                  how->world, how->batch, how->micro_steps, rare,
                  one->elements);
}

static outcome *train_split(tsr_run run, const split *how) {
    CHECK(how->world * how->batch * how->micro_steps == GLOBAL_BATCH);
    run.world = how->world;
    run.batch = how->batch;
    run.micro_steps = how->micro_steps;
    run.evaluate = true;
    return train(&run);
}

/* splits[0] is what the others are compared with. */
static void check_splits(const char *name, const tsr_run *run,
                         const split *splits, size_t count) {
    const bounds *limits =
        run->model.dtype == TSR_BF16 ? &bf16_bounds : &f32_bounds;
    outcome *one = train_split(*run, &splits[0]);
    const double *losses = one->losses[0];
    CHECK_MESSAGE(losses[run->steps - 1] < losses[0],
                  "%s: nothing was learnt: loss %g, then %g", name, losses[0],
                  losses[run->steps - 1]);
    worst_loss = worst_norm = worst_weight = worst_rare = 0;
    for (size_t i = 1; i < count; i++) {
        outcome *many = train_split(*run, &splits[i]);
        check_steps(limits, one, many, &splits[i]);
        check_weights(limits, one, many, &splits[i]);
        outcome_release(many);
    }
    printf("%s: loss %.3f -> %.3f; worst differences: loss %.1e, gradient "
           "norm %.1e, weight %.1e; %.2f %% of the weights over %.0e\n",
           name, losses[0], losses[run->steps - 1], worst_loss, worst_norm,
           worst_weight, 100 * worst_rare, limits->weight);
    outcome_release(one);
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

int main(void) {
    static const split even[] = {{1, 24, 5}, {2, 15, 4},  {3, 8, 5}, {5, 24, 1},
                                 {8, 5, 3},  {1, 120, 1}, {2, 5, 12}};
    static const split wide[] = {{1, 24, 5}, {5, 24, 1}, {8, 5, 3}};
    static const split odd[] = {{1, 40, 3}, {2, 30, 2}, {3, 40, 1},
                                {5, 12, 2}, {8, 15, 1}, {5, 4, 6}};
    static const split few[] = {{1, 120, 1}, {2, 10, 6}, {3, 10, 4},
                                {5, 4, 6},   {8, 15, 1}, {8, 3, 5}};
    tsr_run usual = {.model = {.layers = 2,
                               .heads = 2,
                               .dim = 24,
                               .vocab = 50,
                               .seq = 16,
                               .norm_eps = 1e-5},
                     .steps = 20,
                     .kernels = TSR_KERNELS_CPU};
    /* No size is a multiple of another, or of a vector. */
    tsr_run uneven = {.model = {.layers = 1,
                                .heads = 5,
                                .dim = 35,
                                .vocab = 101,
                                .seq = 37,
                                .norm_eps = 1e-5},
                      .steps = 20,
                      .kernels = TSR_KERNELS_CPU};
    /* Parameters of 5 elements: of 8 ranks, three hold nothing but padding. */
    tsr_run tiny = {.model = {.layers = 2,
                              .heads = 1,
                              .dim = 5,
                              .vocab = 11,
                              .seq = 7,
                              .norm_eps = 1e-5},
                    .steps = 20,
                    .kernels = TSR_KERNELS_REF};
    check_splits("usual", &usual, even, COUNT(even));
    check_splits("uneven", &uneven, odd, COUNT(odd));
    check_splits("tiny", &tiny, few, COUNT(few));
    /* With the bits of `usual` (test_same_bits); here over eight ranks. */
    for (int memory = RUN_COPY; memory < RUN_MEMORIES; memory++) {
        char name[32];
        snprintf(name, sizeof name, "usual, %s", run_memory_names[memory]);
        usual.memory = (run_memory)memory;
        check_splits(name, &usual, wide, COUNT(wide));
    }
    usual.memory = RUN_ALIAS;
    usual.model.dtype = uneven.model.dtype = tiny.model.dtype = TSR_BF16;
    check_splits("usual, bf16", &usual, even, COUNT(even));
    check_splits("uneven, bf16", &uneven, odd, COUNT(odd));
    check_splits("tiny, bf16", &tiny, few, COUNT(few));
    return 0;
}
