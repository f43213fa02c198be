/* The threads that share a kernel: the caller forks, everybody runs one
 * contiguous range, the caller joins.
 *
 * Invariants
 *   1. Who holds `busy` owns the fork's fields (body, context, count, parts)
 *      while no fork is under way, and only that thread raises `forked`.
 *   2. Between forked and joined the fields do not change, and each worker runs
 *      exactly once; all are joined before the next fork, so each worker's own
 *      count of forks stays in step with `forked`.
 *
 *      idle --[cpu_pool_run: raises forked]--> forked
 *       ^                                         | the last worker raises
 *       +------------[cpu_pool_run]------------ joined <-+ joined [worker_main]
 *
 * Memory: a stack a worker, nothing per run. */
#include "base/memory.h"
#include "device/cpu.h"

#include <stdbool.h>

typedef struct pool_worker {
    cpu_pool *pool; /* borrowed; outlives the thread */
    int part;       /* 1 to workers; part 0 is the caller's */
    pthread_t thread;
} pool_worker;

struct cpu_pool {
    atomic_flag busy;

    tsr_parallel_body body;
    void *context; /* borrowed for one run */
    int64_t count;
    int64_t parts; /* ranges of this run, at most workers + 1 */
    bool stop;     /* workers end instead of running */

    uint32_t forks; /* what `forked` was last raised to; guarded by busy */
    cpu_counter forked;
    _Atomic int running; /* workers that have not yet finished this fork */
    cpu_counter joined;

    int workers; /* started */
    pool_worker worker[];
};

/* Ranges differ by at most one index; written so that nothing overflows. */
static int64_t part_begin(const cpu_pool *pool, int64_t part) {
    int64_t each = pool->count / pool->parts, left = pool->count % pool->parts;
    return part * each + (part < left ? part : left);
}

static void run_part(const cpu_pool *pool, int64_t part) {
    if (part < pool->parts)
        pool->body(pool->context, part_begin(pool, part),
                   part_begin(pool, part + 1));
}

static void *worker_main(void *context) {
    pool_worker *worker = context;
    cpu_pool *pool = worker->pool;
    for (uint32_t fork = 1;; fork++) {
        cpu_counter_reach(&pool->forked, fork);
        if (pool->stop)
            return NULL;
        run_part(pool, worker->part);
        /* Releases this range's writes, acquires the other workers', so that
         * the last one hands all of them to the caller. */
        if (atomic_fetch_sub_explicit(&pool->running, 1,
                                      memory_order_acq_rel) == 1)
            cpu_counter_raise(&pool->joined, fork);
    }
}

tsr_status cpu_pool_create(int threads, cpu_pool **out_pool) {
    tsr_status status = TSR_OK;
    cpu_pool *pool = NULL;
    size_t workers = (size_t)threads - 1;

    *out_pool = NULL;
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *pool + workers * sizeof(pool_worker),
                           (void **)&pool));
    atomic_flag_clear(&pool->busy);
    for (int i = 0; i < threads - 1; i++) {
        pool_worker *worker = &pool->worker[i];
        worker->pool = pool;
        worker->part = i + 1;
        TSR_TRY_GOTO(cpu_thread_start(worker_main, worker, &worker->thread));
        pool->workers = i + 1;
    }

    *out_pool = pool;
    pool = NULL; /* now the caller's */
done:
    cpu_pool_release(pool);
    return status;
}

void cpu_pool_release(cpu_pool *pool) {
    if (!pool)
        return;
    pool->stop = true;
    cpu_counter_raise(&pool->forked, pool->forks + 1);
    for (int i = 0; i < pool->workers; i++)
        pthread_join(pool->worker[i].thread, NULL);
    tsr_free(pool);
}

void cpu_pool_run(cpu_pool *pool, int64_t count, tsr_parallel_body body,
                  void *context) {
    if (count == 1 ||
        atomic_flag_test_and_set_explicit(&pool->busy, memory_order_acquire)) {
        body(context, 0, count);
        return;
    }
    int64_t threads = pool->workers + 1;
    pool->body = body;
    pool->context = context;
    pool->count = count;
    pool->parts = count < threads ? count : threads;
    atomic_store_explicit(&pool->running, pool->workers, memory_order_relaxed);
    cpu_counter_raise(&pool->forked, ++pool->forks);

    run_part(pool, 0);
    cpu_counter_reach(&pool->joined, pool->forks);
    atomic_flag_clear_explicit(&pool->busy, memory_order_release);
}
