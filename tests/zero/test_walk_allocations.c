/* Walking allocates nothing: between the begin of a step and its end, on no
 * thread, does libtessera ask for memory. With reference kernels nobody does;
 * matrix libraries may, but what they hold does not grow. */
#define _GNU_SOURCE
#include "graph/offload_edit.h"
#include "runs.h"

#include "heap.h"

#if defined(HEAP_COUNTS)

/* Steps after which libraries have what they want, and at the end. */
enum { WARM = 5, LAST = 50 };

typedef struct counted_job {
    const run_session *session;
    pthread_barrier_t together;
    long outstanding[2]; /* bytes after WARM, after LAST */
} counted_job;

static void step_until(tsr_trainer *trainer, int64_t last) {
    tsr_step_metrics metrics;
    while (tsr_trainer_steps(trainer) < last)
        CHECK_OK(tsr_trainer_step(trainer, &metrics));
}

static void counted_rank(rank_context *rank) {
    counted_job *job = rank->argument;
    tsr_trainer_options options = run_options(job->session, rank->rank);
    tsr_trainer *trainer;
    CHECK_OK(tsr_trainer_create(&options, rank->bootstrap, &trainer));
    step_until(trainer, WARM);
    pthread_barrier_wait(&job->together);
    if (rank->rank == 0) {
        job->outstanding[0] = atomic_load(&heap_outstanding);
        heap_begin();
    }
    pthread_barrier_wait(&job->together);
    step_until(trainer, LAST);
    pthread_barrier_wait(&job->together);
    if (rank->rank == 0) {
        heap_end();
        job->outstanding[1] = atomic_load(&heap_outstanding);
    }
    pthread_barrier_wait(&job->together);
    tsr_trainer_release(trainer);
}

static void everything_to_host(plan_text *t) {
    offload_activations(t);
    shards_to_host(t);
    moments_to_host(t);
}

static void check_walks(int world, int threads, run_memory memory,
                        tsr_kernel_set kernels, tsr_dtype dtype) {
    tsr_run run = {.model = {.layers = 2,
                             .heads = 2,
                             .dim = 16,
                             .vocab = 29,
                             .seq = 8,
                             .norm_eps = 1e-5,
                             .dtype = dtype},
                   .world = world,
                   .batch = 2,
                   .micro_steps = 2,
                   .memory = memory,
                   .kernels = kernels,
                   .threads = threads,
                   .timeline = memory == RUN_COPY,
                   .edit = memory == RUN_PRIVATE ? everything_to_host : NULL};
    run_session session;
    counted_job job = {.session = &session};
    run_session_open(&run, &session);
    CHECK(pthread_barrier_init(&job.together, NULL, (unsigned)world) == 0);
    run_threads(world, counted_rank, &job);
    pthread_barrier_destroy(&job.together);

    long own = heap_calls(true), others = heap_calls(false);
    printf("%d ranks of %d threads, %s, %s, %s: %ld calls of our own, %ld of "
           "others, %ld bytes more held\n",
           world, threads, run_memory_names[memory],
           tsr_kernel_table_describe(session.kernels),
           tsr_kernel_table_products(session.kernels, dtype), own, others,
           job.outstanding[1] - job.outstanding[0]);
    heap_print();
    CHECK(own == 0);
    CHECK(kernels == TSR_KERNELS_CPU || others == 0);
    CHECK(job.outstanding[1] == job.outstanding[0]);
    run_session_close(&session);
}

/* Counting works: the program's own calls, and others'. */
static void check_counting(void) {
    long before = atomic_load(&heap_outstanding);
    void *memory, *mapped;
    heap_begin();
    CHECK_OK(tsr_alloc(3, 100, &memory)); /* within libtessera */
    CHECK_OK(tsr_os_map(5 * 4096, false, &mapped));
    char *copy = strdup("asked for by the C library");
    heap_end();
    CHECK(heap_calls(true) == 2 && heap_calls(false) == 1);
    CHECK(atomic_load(&heap_outstanding) - before >= 300 + 5 * 4096);
    free(copy);
    tsr_os_unmap(mapped, 5 * 4096);
    tsr_free(memory);
    CHECK(atomic_load(&heap_outstanding) == before);
}

int main(void) {
    check_counting();
    for (int memory = 0; memory < RUN_MEMORIES; memory++) {
        check_walks(1, 1, (run_memory)memory, TSR_KERNELS_REF, TSR_F32);
        check_walks(2, 1, (run_memory)memory, TSR_KERNELS_REF, TSR_F32);
    }
    check_walks(1, 2, RUN_ALIAS, TSR_KERNELS_CPU, TSR_F32);
    check_walks(2, 1, RUN_ALIAS, TSR_KERNELS_CPU, TSR_F32);
    check_walks(2, 2, RUN_COPY, TSR_KERNELS_CPU, TSR_F32);
    check_walks(2, 1, RUN_ALIAS, TSR_KERNELS_REF, TSR_BF16);
    tsr_cpu_bf16_prefer(TSR_BF16_F32);
    check_walks(2, 2, RUN_COPY, TSR_KERNELS_CPU, TSR_BF16);
    tsr_cpu_bf16_prefer(TSR_BF16_NATIVE);
    if (tsr_matmul_possible())
        check_walks(2, 2, RUN_ALIAS, TSR_KERNELS_CPU, TSR_BF16);
    return 0;
}

#else

int main(void) {
    SKIP("allocations are counted with glibc, and not under a sanitizer, "
         "which brings its own");
}

#endif
