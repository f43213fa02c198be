/* Gathers that copy run while the group before them computes. No timing
 * decides: the last kernel of each group does not end before the next group's
 * gather has begun on its rank. Were that gather held up by this group, neither
 * would go on (and the test says so after a while). The recorded times then
 * show the order. Bits are those of the weights used in place, without any of
 * this. */
#include "runs.h"

#include "comm/host.h"
#include "graph/graph.h"

/* Longer than any gather is on its way, on a machine that is busy. */
#define PATIENCE_S 60

enum { MOST_GROUPS = 32, MOST_KERNELS = 2048 };

/* The gathers of one section in their order, with the last kernel that uses
 * what they bring. */
typedef struct group {
    int32_t gather, wait, kernel, release;
} group;

static size_t find_groups(const tsr_graph *graph, tsr_section section,
                          group groups[MOST_GROUPS]) {
    size_t count = 0;
    for (int32_t n = 0; n < tsr_graph_node_count(graph); n++) {
        const tsr_node *node = &graph->nodes.data[n];
        bool wait = tsr_node_is(graph, node, "wait"),
             release = tsr_node_is(graph, node, "release");
        if (node->section != section)
            continue;
        if (tsr_node_is(graph, node, "gather")) {
            CHECK(count < MOST_GROUPS);
            groups[count++] = (group){n, -1, -1, -1};
        }
        for (size_t g = 0; g < count; g++) {
            int32_t from =
                wait || release
                    ? tsr_graph_value(graph, tsr_graph_inputs(graph, node)[0])
                          ->producer.index
                    : -1;
            if (wait && from == groups[g].gather)
                groups[g].wait = n;
            else if (release && from == groups[g].wait)
                groups[g].release = n;
            else if (!wait && !release && node->stream == TSR_ON_COMPUTE &&
                     groups[g].wait >= 0 && groups[g].release < 0)
                groups[g].kernel = n;
        }
    }
    return count;
}

/* ---- kernels that wait ---- */

/* One rank's compute stream, which runs the step's kernels in order. */
typedef struct rank_kernels {
    const tsr_device *device;
    const tsr_host_comm *comm; /* of gathers */
    uint64_t gathers_before;   /* calls of it before the first step */
    int64_t done;              /* kernels, of all steps */
} rank_kernels;

static tsr_kernel_table *plain_kernels; /* of the process, like all below */
static rank_kernels ranks[RANKS_MAX];
static int world;
/* Of one step: the gather, counted from 1 over the step, that the i-th kernel
 * does not end before; 0: it ends when it is done. */
static int64_t waits_for[MOST_KERNELS];
static int64_t kernels_a_step, gathers_a_step;

static void wait_for_gather(const rank_kernels *self, uint64_t sequence) {
    const tsr_host_line *line =
        &self->comm->control->lines[self->comm->base.rank];
    int64_t since = tsr_os_now_ns();
    while (atomic_load_explicit(&line->at, memory_order_relaxed) >> 8 <
           sequence) {
        CHECK_MESSAGE(tsr_os_now_ns() - since <
                          (int64_t)PATIENCE_S * 1000000000,
                      "gather %llu does not begin while the group before it "
                      "computes",
                      (unsigned long long)sequence);
        sleep_ms(1);
    }
}

static tsr_status run_and_wait(const tsr_kernel_call *call) {
    int r = 0;
    while (ranks[r].device != call->device)
        CHECK(++r < world);
    rank_kernels *self = &ranks[r];
    TSR_TRY(
        tsr_kernel_table_find(plain_kernels, call->view.op->name)->run(call));
    int64_t step = self->done / kernels_a_step;
    int64_t gather = waits_for[self->done % kernels_a_step];
    self->done++;
    if (gather > 0)
        wait_for_gather(self, self->gathers_before +
                                  (uint64_t)(step * gathers_a_step + gather));
    return TSR_OK;
}

/* Every kernel of the plan, wrapped. The rows outlive the table. */
static void wrap_kernels(const run_session *session, tsr_kernel *rows) {
    const tsr_graph *graph = session->plan->graph;
    size_t count = 0;
    for (int32_t n = 0; n < tsr_graph_node_count(graph); n++) {
        const char *op = tsr_graph_op(graph, &graph->nodes.data[n])->name;
        const tsr_kernel *kernel = tsr_kernel_table_find(session->kernels, op);
        if (!kernel || kernel->run == run_and_wait)
            continue;
        rows[count] = *kernel;
        rows[count].run = run_and_wait;
        CHECK_OK(tsr_kernel_table_add(session->kernels, &rows[count++]));
        CHECK(count < MOST_GROUPS);
    }
}

static void add_section_waits(const tsr_plan *plan, tsr_section section,
                              bool waiting) {
    const tsr_graph *graph = plan->graph;
    group groups[MOST_GROUPS];
    size_t count = find_groups(graph, section, groups);
    for (int32_t n = 0; n < tsr_graph_node_count(graph); n++) {
        const tsr_node *node = &graph->nodes.data[n];
        if (node->section != section ||
            !tsr_kernel_table_find(plain_kernels,
                                   tsr_graph_op(graph, node)->name))
            continue;
        CHECK(kernels_a_step < MOST_KERNELS);
        waits_for[kernels_a_step] = 0;
        for (size_t g = 0; waiting && g + 1 < count; g++)
            if (groups[g].kernel == n)
                waits_for[kernels_a_step] = gathers_a_step + (int64_t)g + 2;
        kernels_a_step++;
    }
    gathers_a_step += (int64_t)count;
}

/* ---- what the timeline says ---- */

static tsr_node_time time_of(const tsr_trainer *trainer, int32_t node,
                             int back) {
    tsr_node_time time;
    CHECK(tsr_executor_node_time(trainer->executor, (tsr_node_id){node}, back,
                                 &time));
    CHECK(time.begin_ns > 0 && time.begin_ns <= time.end_ns);
    return time;
}

/* Gathers that began only after the group before them had computed, in one walk
 * of the section. */
static int count_late(const tsr_trainer *trainer, tsr_section section,
                      int back) {
    group groups[MOST_GROUPS];
    size_t count = find_groups(trainer->options.plan->graph, section, groups);
    int late = 0;
    CHECK(count > 4);
    for (size_t g = 0; g + 1 < count; g++) {
        tsr_node_time next = time_of(trainer, groups[g + 1].gather, back),
                      computes = time_of(trainer, groups[g].kernel, back),
                      gather = time_of(trainer, groups[g].gather, back);
        CHECK(gather.end_ns <= computes.end_ns);
        CHECK(gather.end_ns <= next.begin_ns);
        late += next.begin_ns > computes.end_ns;
    }
    return late;
}

static int count_late_in_step(const tsr_trainer *trainer) {
    int late = count_late(trainer, TSR_MICRO_FIRST, 0),
        micro_steps = trainer->options.micro_steps;
    for (int k = 1; k < micro_steps; k++)
        late += count_late(trainer, TSR_MICRO_NEXT, k - 1);
    return late;
}

/* Only what is asked for is kept: of the four walks, three. */
static void check_kept(const tsr_trainer *trainer) {
    tsr_node_time time;
    int micro_steps = trainer->options.micro_steps;
    group groups[MOST_GROUPS];
    find_groups(trainer->options.plan->graph, TSR_MICRO_NEXT, groups);
    tsr_node_id gather = {groups[0].gather}, release = {groups[0].release};
    CHECK(tsr_executor_node_time(trainer->executor, gather, micro_steps - 1,
                                 &time));
    CHECK(
        !tsr_executor_node_time(trainer->executor, gather, micro_steps, &time));
    CHECK(!tsr_executor_node_time(trainer->executor, gather, -1, &time));
    CHECK(!tsr_executor_node_time(trainer->executor, release, 0, &time));
}

/* ---- runs ---- */

typedef struct overlap_job {
    const run_session *session;
    outcome *outcome;
    pthread_barrier_t together;
    int late[RANKS_MAX]; /* in the last step */
} overlap_job;

static void overlap_rank(rank_context *rank) {
    overlap_job *job = rank->argument;
    const tsr_run *run = job->session->run;
    tsr_trainer_options options = run_options(job->session, rank->rank);
    tsr_trainer *trainer;
    tsr_step_metrics metrics;
    CHECK_OK(tsr_trainer_create(&options, rank->bootstrap, &trainer));
    const tsr_host_comm *comm = (const tsr_host_comm *)trainer->gather_comm;
    ranks[rank->rank] = (rank_kernels){.device = trainer->device,
                                       .comm = comm,
                                       .gathers_before = comm->ring.issued};
    pthread_barrier_wait(&job->together);
    for (int s = 0; s < run->steps; s++) {
        CHECK_OK(tsr_trainer_step(trainer, &metrics));
        job->outcome->losses[rank->rank][s] = metrics.loss;
        job->outcome->norms[rank->rank][s] = metrics.grad_norm;
    }
    CHECK(ranks[rank->rank].done == run->steps * kernels_a_step);
    job->late[rank->rank] = count_late_in_step(trainer);
    check_kept(trainer);
    outcome_collect(job->outcome, trainer);
    tsr_trainer_release(trainer);
}

/* Trains; *out_late: the fewest late gathers of any rank, `waiting`: the most.
 */
static outcome *train_over_wire(const tsr_run *run, bool waiting,
                                int *out_late) {
    static tsr_kernel rows[MOST_GROUPS];
    run_session session;
    overlap_job job = {.session = &session, .outcome = outcome_create(run)};
    run_session_open(run, &session);
    CHECK_OK(tsr_kernel_table_create(run->kernels, &plain_kernels));
    wrap_kernels(&session, rows);
    world = run->world;
    kernels_a_step = gathers_a_step = 0;
    add_section_waits(session.plan, TSR_MICRO_FIRST, waiting);
    for (int k = 1; k < run->micro_steps; k++)
        add_section_waits(session.plan, TSR_MICRO_NEXT, waiting);
    add_section_waits(session.plan, TSR_UPDATE, false);
    CHECK(pthread_barrier_init(&job.together, NULL, (unsigned)world) == 0);
    run_threads(world, overlap_rank, &job);
    pthread_barrier_destroy(&job.together);
    *out_late = job.late[0];
    for (int r = 1; r < world; r++)
        if (waiting == (job.late[r] > *out_late))
            *out_late = job.late[r];
    tsr_kernel_table_release(plain_kernels);
    run_session_close(&session);
    outcome_check(job.outcome);
    return job.outcome;
}

static void check_overlap(int ranks_count, run_memory memory,
                          uint64_t delay_seed) {
    tsr_run run = {.model = {.layers = 2,
                             .heads = 2,
                             .dim = 16,
                             .vocab = 29,
                             .seq = 8,
                             .norm_eps = 1e-5},
                   .world = ranks_count,
                   .batch = 2,
                   .micro_steps = 3,
                   .steps = 2,
                   .kernels = TSR_KERNELS_REF};
    int late;
    char what[64];
    snprintf(what, sizeof what, "%d ranks, %s, delays %d", ranks_count,
             run_memory_names[memory], (int)delay_seed);
    outcome *alias = train(&run);
    run.memory = memory;
    run.delay_seed = delay_seed;
    run.max_delay_us = 200;
    run.wire_bytes_per_s = 1e7; /* a layer in a millisecond */
    run.timeline = true;
    outcome *ahead = train_over_wire(&run, true, &late);
    CHECK_MESSAGE(late == 0, "%s: %d late gathers", what, late);
    check_same_bits(alias, ahead, 0, what);
    run.prefetch = -1;
    outcome *behind = train_over_wire(&run, false, &late);
    CHECK_MESSAGE(late > 0, "%s: nothing shows that the check can fail", what);
    check_same_bits(alias, behind, 0, what);
    outcome_release(behind);
    outcome_release(ahead);
    outcome_release(alias);
}

int main(void) {
    alarm(2 * RANKS_ALARM);
    check_overlap(2, RUN_COPY, 0);
    check_overlap(2, RUN_PRIVATE, 21);
    check_overlap(3, RUN_COPY, 22);
    return 0;
}
