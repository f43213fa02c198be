/* A run that was saved and resumed is the run that was not: bit for bit at the
 * same world size, within rounding at another. */
#include <sys/stat.h>

#include "folder.h"
#include "graph/offload_edit.h"
#include "runs.h"

enum { HALF = 3, WHOLE = 6 };

/* Of losses of ranks that sum in another order. */
#define RELATIVE 1e-5

/* A folder for checkpoints, and what a save leaves in it. */
static char folder[FOLDER_BYTES];

static void remove_checkpoint(int step) {
    static const char *const files[] = {
        "config.json", "generation_config.json", "model.safetensors",
        "optimizer.safetensors", "trainer.json"};
    char path[FOLDER_BYTES + 64];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/step-%d/%s", folder, step, files[i]);
        CHECK_MESSAGE(unlink(path) == 0, "%s", path);
    }
    snprintf(path, sizeof path, "%s/step-%d", folder, step);
    CHECK(rmdir(path) == 0);
}

static tsr_run make_run(int world, int batch, int micro_steps) {
    return (tsr_run){.model = {.layers = 2,
                               .heads = 2,
                               .dim = 10,
                               .vocab = 23,
                               .seq = 9,
                               .norm_eps = 1e-5},
                     .world = world,
                     .batch = batch,
                     .micro_steps = micro_steps,
                     .steps = WHOLE,
                     .kernels = TSR_KERNELS_CPU};
}

/* HALF steps of `first`, saved; then `second` from there to WHOLE steps. */
static outcome *interrupt(tsr_run first, tsr_run second) {
    first.steps = HALF;
    first.save = folder;
    outcome_release(train(&first));
    second.load = folder;
    outcome *made = train(&second);
    remove_checkpoint(HALF);
    return made;
}

static void check_same(int world, run_memory memory, bool processes,
                       tsr_dtype dtype) {
    char what[96];
    tsr_run run = make_run(world, 12 / world, 2);
    run.memory = memory;
    run.processes = processes;
    run.model.dtype = dtype;
    snprintf(what, sizeof what, "%d ranks, %s, %s, %s, resumed", world,
             run_memory_names[memory], processes ? "processes" : "threads",
             tsr_dtype_name(dtype));
    outcome *whole = train(&run), *resumed = interrupt(run, run);
    check_same_bits(whole, resumed, HALF, what);
    CHECK(!(resumed->losses[0][HALF - 1] > 0)); /* not trained once more */
    outcome_release(resumed);
    outcome_release(whole);
}

/* Saved by ranks of `first`, resumed by those of `second`. */
static void check_other_world(tsr_run first, tsr_run second) {
    outcome *whole = train(&first), *resumed = interrupt(first, second);
    for (int s = HALF; s < WHOLE; s++) {
        double a = whole->losses[0][s], b = resumed->losses[0][s];
        CHECK_MESSAGE(fabs(a - b) <= RELATIVE * fabs(a),
                      "%d ranks, then %d: step %d: loss %.9g, not %.9g",
                      first.world, second.world, s + 1, b, a);
    }
    for (size_t i = 0; i < RUN_KINDS * whole->elements; i++)
        CHECK_MESSAGE(fabsf(whole->state[i] - resumed->state[i]) <= 1e-5f,
                      "%d ranks, then %d: element %zu of kind %zu: %g, not %g",
                      first.world, second.world, i % whole->elements,
                      i / whole->elements, (double)resumed->state[i],
                      (double)whole->state[i]);
    outcome_release(resumed);
    outcome_release(whole);
}

/* Nothing changes by saving and loading alone, at any world size. */
static void check_reload(int world) {
    tsr_run run = make_run(3, 4, 2);
    run.steps = HALF;
    run.save = folder;
    outcome *saved = train(&run);
    run = make_run(world, 24 / world, 1);
    run.steps = HALF;
    run.load = folder;
    outcome *loaded = train(&run);
    CHECK(memcmp(saved->state, loaded->state,
                 RUN_KINDS * saved->elements * sizeof(float)) == 0);
    remove_checkpoint(HALF);
    outcome_release(loaded);
    outcome_release(saved);
}

static void weights_and_moments_to_host(plan_text *t) {
    shards_to_host(t);
    moments_to_host(t);
}

/* Checkpoints do not know where weights and moments lie. */
static void check_host(int world) {
    tsr_run device = make_run(world, 12 / world, 2), host;
    device.memory = RUN_COPY;
    host = device;
    host.edit = weights_and_moments_to_host;
    outcome *whole = train(&device), *resumed = interrupt(host, device);
    check_same_bits(whole, resumed, HALF, "saved from the host");
    outcome_release(resumed);
    resumed = interrupt(device, host);
    check_same_bits(whole, resumed, HALF, "loaded to the host");
    outcome_release(resumed);
    outcome_release(whole);
}

int main(void) {
    folder_create(folder);
    for (int world = 1; world <= 3; world++)
        for (int memory = 0; memory < RUN_MEMORIES; memory++)
            for (int dtype = TSR_F32; dtype <= TSR_BF16; dtype++)
                check_same(world, (run_memory)memory, false, (tsr_dtype)dtype);
    check_same(2, RUN_ALIAS, true, TSR_F32);
    check_same(2, RUN_ALIAS, true, TSR_BF16);
    check_same(2, RUN_PRIVATE, true, TSR_F32);
    check_host(1);
    check_host(3);
    for (int world = 1; world <= 8; world *= 2)
        check_reload(world);
    check_other_world(make_run(2, 6, 2), make_run(1, 24, 1));
    check_other_world(make_run(1, 12, 2), make_run(3, 2, 4));
    check_other_world(make_run(8, 3, 1), make_run(2, 4, 3));
    CHECK(rmdir(folder) == 0); /* a save leaves nothing else */
    return 0;
}
