/* Failures: an op without kernel, a kernel that fails on one rank, a rank that
 * stays away, ranks with different plans, memory that runs out. Every rank gets
 * an error that says what happened, soon, and nobody hangs. */
#include "base/memory.h"
#include "runs.h"

/* A rank learns of another's failure within so many seconds; on a busy
 * machine. */
#define SOON_S 10

static const tsr_gpt_config small = {
    .layers = 2, .heads = 1, .dim = 6, .vocab = 11, .seq = 5, .norm_eps = 1e-5};

static tsr_run make_run(int world, run_memory memory) {
    return (tsr_run){.model = small,
                     .world = world,
                     .batch = 2,
                     .micro_steps = 2,
                     .steps = 6,
                     .memory = memory,
                     .kernels = TSR_KERNELS_REF};
}

/* ---- an op without kernel ---- */

static tsr_status same_type(const tsr_op_view *view, tsr_type *outputs,
                            size_t *out_count) {
    outputs[0] = view->inputs[0];
    *out_count = 1;
    return TSR_OK;
}

static const tsr_op mystery = {.name = "mystery",
                               .signature = "x[...] -> y[...]",
                               .min_inputs = 1,
                               .max_inputs = 1,
                               .outputs = 1,
                               .attrs = "",
                               .infer = same_type};

static tsr_status twice(const tsr_kernel_call *call) {
    const float *x = call->in[0];
    float *y = call->out[0];
    for (int64_t i = 0; i < tsr_type_count(&call->view.inputs[0]); i++)
        y[i] = 2 * x[i];
    return TSR_OK;
}

/* state = mystery(x) */
static tsr_plan *compile_mystery(const tsr_op_table *ops) {
    tsr_graph *graph;
    tsr_plan *plan;
    tsr_type type = {.dtype = TSR_F32, .dims = 1, .shape = {5}};
    tsr_target target = {.world = 1};
    CHECK_OK(tsr_graph_create(ops, &graph));
    tsr_graph_set_layer(graph, "cellar");
    tsr_value_id x = tsr_graph_declare(graph, "x", TSR_ROLE_INPUT, &type),
                 state = tsr_graph_declare(graph, "y", TSR_ROLE_STATE, &type);
    tsr_store(graph, tsr_graph_node(graph, "mystery", &x, 1, NULL, 0, NULL),
              state);
    CHECK_OK(tsr_graph_status(graph));
    CHECK_OK(tsr_compile_forward(graph, &target, &plan));
    return plan;
}

static size_t much_workspace(const tsr_op_view *view, int threads) {
    (void)view;
    (void)threads;
    return 192;
}

static void check_unknown_op(void) {
    static const tsr_kernel kernel = {.op = "mystery", .run = twice},
                            hungry = {.op = "mystery",
                                      .run = twice,
                                      .workspace = much_workspace};
    tsr_op_table *ops;
    tsr_kernel_table *kernels;
    tsr_device *device;
    tsr_arena *arena;
    tsr_executor *executor;
    CHECK_OK(tsr_op_table_create(&ops));
    CHECK_OK(tsr_op_table_add(ops, &mystery));
    CHECK_OK(tsr_kernel_table_create(TSR_KERNELS_REF, &kernels));
    CHECK_OK(tsr_device_create_cpu(NULL, &device));
    tsr_plan *plan = compile_mystery(ops);
    const tsr_plan *plans[] = {plan};
    CHECK_OK(tsr_arena_create(device, NULL, plans, 1, &arena));
    tsr_executor_options options = {
        .arena = arena, .kernels = kernels, .device = device};
    CHECK_FAILS(tsr_executor_create(&options, &executor), TSR_NOT_FOUND,
                "'mystery'");
    CHECK(executor == NULL && strstr(tsr_last_error(), "cellar"));

    CHECK_OK(tsr_kernel_table_add(kernels, &hungry));
    CHECK_FAILS(tsr_executor_create(&options, &executor), TSR_INVALID_ARGUMENT,
                "needs 192 bytes of workspace here, the plan has 0");
    CHECK(executor == NULL && strstr(tsr_last_error(), "cellar"));

    CHECK_OK(tsr_kernel_table_add(kernels, &kernel));
    CHECK_OK(tsr_executor_create(&options, &executor));
    float *x = tsr_arena_address(arena, 0, tsr_graph_find(plan->graph, "x")),
          *y = tsr_arena_address(arena, 0, tsr_graph_find(plan->graph, "y"));
    for (int i = 0; i < 5; i++)
        x[i] = (float)i;
    CHECK_OK(tsr_executor_walk(executor, TSR_MICRO_FIRST));
    CHECK_OK(tsr_executor_walk(executor, TSR_UPDATE)); /* without nodes */
    CHECK_OK(tsr_executor_synchronize(executor));
    for (int i = 0; i < 5; i++)
        CHECK(y[i] == 2 * x[i]);
    tsr_executor_release(executor);
    tsr_arena_release(arena);
    tsr_plan_release(plan);
    tsr_device_release(device);
    tsr_kernel_table_release(kernels);
    tsr_op_table_release(ops);
}

/* ---- a kernel that fails on one rank ---- */

/* How the ranks of one run ended; in memory that processes share. */
typedef struct ending {
    tsr_status status;
    int64_t steps;
    double loss;
    int64_t at_ns;
    uint64_t weights[2]; /* hashes of this rank's: after the last good step, at
                            the end */
    char message[1024];
} ending;

typedef struct failing_job {
    const run_session *session;
    ending *endings; /* (world) */
    const char *op;  /* whose kernel fails */
    int victim;      /* the rank; -1: none */
    int absent;      /* rank that leaves after two steps; -1: none */
    int timeout_ms;
} failing_job;

/* Of the victim alone; one run at a time. */
static tsr_status (*usual_run)(const tsr_kernel_call *call);
static int calls_left;

static tsr_status failing_run(const tsr_kernel_call *call) {
    if (calls_left-- > 0)
        return usual_run(call);
    return tsr_error(TSR_IO, "the kernel broke");
}

/* The victim's table: fails at the first call of the third step. */
static tsr_kernel_table *sabotage(const failing_job *job, tsr_kernel *kernel) {
    tsr_kernel_table *table;
    CHECK_OK(tsr_kernel_table_create(job->session->run->kernels, &table));
    *kernel = *tsr_kernel_table_find(table, job->op);
    usual_run = kernel->run;
    kernel->run = failing_run;
    CHECK_OK(tsr_kernel_table_add(table, kernel));
    return table;
}

static int calls_a_step(const tsr_plan *plan, const char *op) {
    int calls = 0;
    for (int32_t n = 0; n < tsr_graph_node_count(plan->graph); n++)
        calls +=
            strcmp(tsr_graph_op(plan->graph, tsr_graph_node_at(
                                                 plan->graph, (tsr_node_id){n}))
                       ->name,
                   op) == 0;
    return calls;
}

static uint64_t hash_weights(const tsr_trainer *trainer) {
    uint64_t hash = 0;
    for (size_t t = 0; t < trainer->tensors.count; t++)
        for (size_t i = 0; i < trainer->tensors.data[t].shard_count; i++) {
            uint32_t bits;
            memcpy(&bits, &trainer->tensors.data[t].weights[i], sizeof bits);
            hash = run_random(hash ^ bits);
        }
    return hash;
}

static void end(ending *self, int rank, tsr_status status) {
    self->status = status;
    self->at_ns = tsr_os_now_ns();
    snprintf(self->message, sizeof self->message, "rank %d: %s: %s", rank,
             tsr_status_name(status), status == TSR_OK ? "" : tsr_last_error());
}

static void failing_rank(rank_context *rank) {
    const failing_job *job = rank->argument;
    const tsr_run *run = job->session->run;
    ending *mine = &job->endings[rank->rank];
    tsr_trainer_options options = run_options(job->session, rank->rank);
    tsr_kernel_table *table = NULL;
    tsr_kernel kernel;
    tsr_trainer *trainer;
    tsr_step_metrics metrics;
    tsr_status status = TSR_OK;
    options.timeout_ms = job->timeout_ms;
    if (rank->rank == job->victim) {
        calls_left = 2 * calls_a_step(job->session->plan, job->op);
        options.kernels = table = sabotage(job, &kernel);
    }
    CHECK_OK(tsr_trainer_create(&options, rank->bootstrap, &trainer));
    while (status == TSR_OK && tsr_trainer_steps(trainer) < run->steps) {
        mine->weights[0] = hash_weights(trainer);
        if (rank->rank == job->absent && tsr_trainer_steps(trainer) == 2)
            break;
        status = tsr_trainer_step(trainer, &metrics);
        if (status == TSR_OK)
            mine->loss = metrics.loss;
    }
    end(mine, rank->rank, status);
    mine->steps = tsr_trainer_steps(trainer);
    mine->weights[1] = hash_weights(trainer);
    if (status != TSR_OK) /* and so it stays */
        CHECK(tsr_trainer_step(trainer, &metrics) != TSR_OK);
    tsr_trainer_release(trainer);
    tsr_kernel_table_release(table);
}

static ending *run_failing(failing_job *job, bool processes) {
    int world = job->session->run->world;
    job->endings = shared_memory((size_t)world * sizeof *job->endings);
    if (processes)
        run_processes(world, failing_rank, job);
    else
        run_threads(world, failing_rank, job);
    return job->endings;
}

/* What the others of three ranks say when `gone` fails or leaves in the third
 * step. Nobody counts it as done, and no rank's weights are touched, unless the
 * failure is in the update itself. */
static void check_others(const ending *all, int gone, bool in_update,
                         const char *what) {
    for (int r = 0; r < 3; r++) {
        double late = (double)(all[r].at_ns - all[gone].at_ns) * 1e-9;
        if (r == gone)
            continue;
        CHECK_MESSAGE(all[r].status == TSR_UNAVAILABLE, "%s: %s", what,
                      all[r].message);
        CHECK_MESSAGE(all[r].steps == 2 || (in_update && all[r].steps == 3),
                      "%s: rank %d counts step %d as done, with a loss of %g",
                      what, r, (int)all[r].steps, all[r].loss);
        CHECK_MESSAGE(in_update || all[r].weights[0] == all[r].weights[1],
                      "%s: rank %d has changed its weights", what, r);
        CHECK_MESSAGE(late < SOON_S, "%s: rank %d knew after %g s", what, r,
                      late);
    }
}

static void check_failing_kernel(const char *op, const char *layer,
                                 run_memory memory, bool processes) {
    tsr_run run = make_run(3, memory);
    run_session session;
    char what[96];
    snprintf(what, sizeof what, "%s fails, %s, %s", op,
             run_memory_names[memory], processes ? "processes" : "threads");
    run_session_open(&run, &session);
    failing_job job = {.session = &session,
                       .op = op,
                       .victim = 1,
                       .absent = -1,
                       .timeout_ms = 120000};
    const ending *all = run_failing(&job, processes);
    CHECK_MESSAGE(all[1].status == TSR_IO && all[1].steps == 2 &&
                      strstr(all[1].message, "the kernel broke") &&
                      strstr(all[1].message, op) &&
                      strstr(all[1].message, layer),
                  "%s: %s", what, all[1].message);
    check_others(all, 1, strcmp(layer, "update") == 0, what);
    for (int r = 0; r < 3; r += 2)
        CHECK_MESSAGE(strstr(all[r].message, "rank 1 gave up") &&
                          strstr(all[r].message, "the kernel broke"),
                      "%s: %s", what, all[r].message);
    run_session_close(&session);
}

/* ---- a rank that leaves, or does nothing ---- */

static void check_absent(run_memory memory, bool processes) {
    tsr_run run = make_run(3, memory);
    run_session session;
    run_session_open(&run, &session);
    failing_job job = {
        .session = &session, .victim = -1, .absent = 2, .timeout_ms = 120000};
    const ending *all = run_failing(&job, processes);
    CHECK(all[2].status == TSR_OK && all[2].steps == 2);
    check_others(all, 2, false, "rank 2 leaves");
    for (int r = 0; r < 2; r++)
        CHECK_MESSAGE(strstr(all[r].message, "rank 2"), "%s", all[r].message);
    run_session_close(&session);
}

static void sleeping_rank(rank_context *rank) {
    const run_session *session = rank->argument;
    tsr_trainer_options options = run_options(session, rank->rank);
    tsr_trainer *trainer;
    tsr_step_metrics metrics;
    char mine = 0, all[RANKS_MAX];
    options.timeout_ms = 300;
    CHECK_OK(tsr_trainer_create(&options, rank->bootstrap, &trainer));
    if (rank->rank != 2)
        CHECK_FAILS(tsr_trainer_step(trainer, &metrics), TSR_UNAVAILABLE,
                    "rank 2 has not joined");
    CHECK_OK(tsr_bootstrap_exchange(rank->bootstrap, &mine, 1, all, 60000));
    tsr_trainer_release(trainer);
}

static void check_sleeping(void) {
    tsr_run run = make_run(3, RUN_ALIAS);
    run_session session;
    run_session_open(&run, &session);
    run_threads(3, sleeping_rank, &session);
    run_session_close(&session);
}

/* ---- different plans ---- */

typedef struct plans_job {
    const run_session *sessions; /* (2): of the odd rank and of the others */
    int odd;
    size_t line; /* the first that differs, from 1 */
} plans_job;

/* Line `line` (from 1) of a text, without its end. */
static void copy_line(const char *text, size_t line, char *to, size_t bytes) {
    while (--line > 0)
        text += strcspn(text, "\n") + 1;
    snprintf(to, bytes, "%.*s", (int)strcspn(text, "\n"), text);
}

static size_t first_difference(const char *a, const char *b) {
    size_t line = 1;
    for (; *a && *a == *b; a++, b++)
        line += *a == '\n';
    return line;
}

static void disagreeing_rank(rank_context *rank) {
    const plans_job *job = rank->argument;
    const run_session *session = &job->sessions[rank->rank == job->odd ? 0 : 1];
    tsr_trainer_options options = run_options(session, rank->rank);
    tsr_trainer *trainer;
    char *text, own[160], place[64];
    CHECK_OK(tsr_plan_print(session->plan, &text));
    copy_line(text, job->line, own, sizeof own);
    snprintf(place, sizeof place, "line %zu: ", job->line);
    tsr_plan_text_release(text);

    CHECK_FAILS(tsr_plan_agree(session->plan, rank->bootstrap, 30000),
                TSR_FAILED_PRECONDITION, place);
    CHECK_MESSAGE(strstr(tsr_last_error(), own), "%s", tsr_last_error());
    char odd[16];
    snprintf(odd, sizeof odd, "%d", job->odd);
    CHECK_MESSAGE(strstr(tsr_last_error(), odd), "%s", tsr_last_error());
    CHECK_FAILS(tsr_trainer_create(&options, rank->bootstrap, &trainer),
                TSR_FAILED_PRECONDITION, place);
    CHECK(trainer == NULL);
    /* Who holds the same goes on. */
    CHECK_OK(tsr_plan_agree(job->sessions[0].plan, rank->bootstrap, 30000));
}

static void check_disagreement(int world, int odd, const tsr_run *other) {
    tsr_run run = make_run(world, RUN_ALIAS);
    run_session sessions[2];
    char *texts[2];
    run_session_open(other, &sessions[0]);
    run_session_open(&run, &sessions[1]);
    for (int i = 0; i < 2; i++)
        CHECK_OK(tsr_plan_print(sessions[i].plan, &texts[i]));
    plans_job job = {.sessions = sessions,
                     .odd = odd,
                     .line = first_difference(texts[0], texts[1])};
    run_threads(world, disagreeing_rank, &job);
    run_processes(world, disagreeing_rank, &job);
    for (int i = 0; i < 2; i++) {
        tsr_plan_text_release(texts[i]);
        run_session_close(&sessions[i]);
    }
}

static void check_disagreements(void) {
    for (int odd = 0; odd < 3; odd++) {
        tsr_run other = make_run(3, RUN_ALIAS);
        other.model.layers = 1; /* far shorter */
        check_disagreement(3, odd, &other);
        other = make_run(3, RUN_COPY); /* another target */
        check_disagreement(3, odd, &other);
        other = make_run(3, RUN_ALIAS);
        other.micro_steps = 4; /* one scale */
        check_disagreement(3, odd, &other);
    }
}

/* ---- memory that runs out ---- */

/* Every allocation that making a trainer needs, one after the other. */
static void check_allocations(run_memory memory) {
    tsr_run run = make_run(1, memory);
    tsr_bootstrap *bootstrap;
    tsr_trainer *trainer;
    run_session session;
    run.model.layers = 1;
    run.threads = 2;
    run_session_open(&run, &session);
    tsr_trainer_options options = run_options(&session, 0);
    CHECK_OK(tsr_bootstrap_create_solo(&bootstrap));
    int threads = count_entries("/proc/self/task"),
        files = count_entries("/proc/self/fd");
    tsr_status status = TSR_OUT_OF_MEMORY;
    long n = 0;
    while (status != TSR_OK) {
        tsr_alloc_fail_at(++n);
        status = tsr_trainer_create(&options, bootstrap, &trainer);
        long calls = tsr_alloc_fail_at(0);
        CHECK_MESSAGE((status == TSR_OK) == (calls < n) &&
                          (status == TSR_OK) == (trainer != NULL),
                      "allocation %ld of %ld: %s", n, calls,
                      tsr_status_name(status));
        CHECK_MESSAGE(status == TSR_OK ||
                          (status == TSR_OUT_OF_MEMORY &&
                           strstr(tsr_last_error(), "could not allocate")),
                      "allocation %ld: %s: %s", n, tsr_status_name(status),
                      tsr_last_error());
    }
    tsr_step_metrics metrics;
    CHECK_OK(tsr_trainer_step(trainer, &metrics));
    tsr_trainer_release(trainer);
    CHECK_MESSAGE(n > 100, "%ld", n);
    printf("%s: %ld allocations failed, one after the other\n",
           run_memory_names[memory], n - 1);
    CHECK(count_entries("/proc/self/task") == threads);
    CHECK(count_entries("/proc/self/fd") == files);
    tsr_bootstrap_release(bootstrap);
    run_session_close(&session);
}

/* An arena and an executor by themselves do not need the trainer's agreement.
 */
static void check_small_allocations(void) {
    tsr_run run = make_run(1, RUN_PRIVATE);
    run_session session;
    tsr_device *device;
    tsr_bootstrap *bootstrap;
    tsr_comm *comm;
    tsr_arena *arena;
    tsr_executor *executor;
    tsr_status status = TSR_OUT_OF_MEMORY;
    run_session_open(&run, &session);
    const tsr_plan *plans[] = {session.plan};
    CHECK_OK(tsr_device_create_cpu(NULL, &device));
    CHECK_OK(tsr_bootstrap_create_solo(&bootstrap));
    CHECK_OK(tsr_comm_create_host(bootstrap, NULL, &comm));
    for (long n = 1; status != TSR_OK; n++) {
        tsr_alloc_fail_at(n);
        status = tsr_arena_create(device, comm, plans, 1, &arena);
        tsr_alloc_fail_at(0);
        CHECK((status == TSR_OK) == (arena != NULL));
        CHECK(status == TSR_OK || status == TSR_OUT_OF_MEMORY);
    }
    tsr_executor_options options = {.arena = arena,
                                    .kernels = session.kernels,
                                    .device = device,
                                    .gather_comm = comm,
                                    .reduce_comm = comm};
    status = TSR_OUT_OF_MEMORY;
    for (long n = 1; status != TSR_OK; n++) {
        tsr_alloc_fail_at(n);
        status = tsr_executor_create(&options, &executor);
        tsr_alloc_fail_at(0);
        CHECK((status == TSR_OK) == (executor != NULL));
        CHECK(status == TSR_OK || status == TSR_OUT_OF_MEMORY);
    }
    tsr_executor_release(executor);
    tsr_arena_release(arena);
    tsr_comm_release(comm);
    tsr_bootstrap_release(bootstrap);
    tsr_device_release(device);
    run_session_close(&session);
}

int main(void) {
    static const struct {
        const char *op, *layer;
    } failing[] = {{"gelu", "h.0.mlp"},
                   {"bias_grad", "h.1.mlp"},
                   {"clip_scale", "update"}};
    alarm(2 * RANKS_ALARM);
    check_unknown_op();
    check_disagreements();
    check_allocations(RUN_ALIAS);
    check_allocations(RUN_COPY);
    check_small_allocations();
    for (int memory = 0; memory < RUN_MEMORIES; memory++) {
        check_absent((run_memory)memory, false);
        check_absent((run_memory)memory, true);
    }
    check_sleeping();
    for (size_t i = 0; i < sizeof failing / sizeof *failing; i++)
        for (int form = 0; form < 4; form++)
            check_failing_kernel(failing[i].op, failing[i].layer,
                                 form < 2 ? RUN_ALIAS : RUN_PRIVATE,
                                 form % 2 == 1);
    return 0;
}
