/* One rank under an MPI launcher: mpi_ranks WHAT (see the table below). Started
 * by test_mpi.py, which also kills ranks and looks at what is left. */
#include <signal.h>

#include "base/memory.h"
#include "contract.h"
#include "station.h"

/* In place of the system's: MPI's plug-ins stay loaded, or LeakSanitizer could
 * not tell that what they leak is theirs (lsan.supp). */
int dlclose(void *handle);
int dlclose(void *handle) {
    (void)handle;
    return 0;
}

static void open_station(rank_context *rank, int timeout_ms, station *out) {
    station_open(rank, tsr_comm_create_mpi, timeout_ms, out);
}

/* ---- the contract, and the bits of `host` ---- */

static void run_contract(rank_context *rank) {
    contract_extent extent = rank->world == 2 ? CONTRACT_FULL : CONTRACT_ONCE;
    contract_options mpi = {.create = tsr_comm_create_mpi, .extent = extent},
                     host = {.extent = extent},
                     delayed = {.create = tsr_comm_create_mpi, .delays = true},
                     calm = {.create = tsr_comm_create_mpi};
    rank->argument = &mpi;
    contract_body(rank);
    rank->argument = &host;
    contract_body(rank);
    CHECK_MESSAGE(mpi.digests[rank->rank] == host.digests[rank->rank],
                  "rank %d of %d: other bits than host's", rank->rank,
                  rank->world);
    if (rank->world != 2)
        return;
    rank->argument = &delayed;
    contract_body(rank);
    rank->argument = &calm;
    contract_body(rank);
    CHECK(delayed.digests[rank->rank] == calm.digests[rank->rank]);
}

/* ---- random calls, on host and on MPI ---- */

enum { TENSORS = 5, ROUNDS = 60, MOST = 50000 };

typedef struct random_call {
    tsr_gather gathers[TENSORS];
    tsr_reduce reduces[TENSORS];
    float squares[TENSORS];
    size_t tensors;
    char *memory; /* (bytes) all tensors */
    size_t bytes;
} random_call;

static uint32_t draw(uint64_t *state, uint32_t below) {
    *state += 1;
    return noise(*state, 11) % below;
}

/* Sizes around what matters: 0, blocks, the opening, direct messages. */
static size_t draw_count(uint64_t *state) {
    static const size_t edges[] = {0,    1,    500,   1000,  4096,
                                   8192, 8193, 16384, 40000, MOST - 3};
    uint32_t edge = draw(state, 16);
    return edge < 10 ? edges[edge] + draw(state, 3) : draw(state, MOST);
}

/* Any bits but NaN's and infinity's, in whatever type they are read: which of
 * two NaNs a sum keeps is the compiler's choice. */
static void fill_bits(char *memory, size_t bytes, uint64_t seed) {
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
        uint32_t bits = noise(seed, i) & ~UINT32_C(0x04000400);
        memcpy(memory + i, &bits, sizeof bits);
    }
}

/* Equal on all ranks, but for `valid` and what the tensors hold. */
static void draw_call(random_call *call, uint64_t seed, int world, int rank) {
    static const tsr_dtype types[] = {TSR_F32, TSR_BF16, TSR_F16, TSR_I32};
    uint64_t state = seed * 1000;
    size_t used = 0, part = (size_t)MOST * 4;
    call->tensors = 1 + draw(&state, TENSORS);
    fill_bits(call->memory, call->bytes, seed * 64 + (uint64_t)rank);
    for (size_t i = 0; i < call->tensors; i++) {
        size_t count = draw_count(&state);
        tsr_dtype wire = types[draw(&state, 4)],
                  out = wire == TSR_I32 ? TSR_I32 : types[draw(&state, 3)];
        size_t full = count * (size_t)world,
               less = draw(&state, 2) * (size_t)rank * draw(&state, 20000);
        call->gathers[i] =
            (tsr_gather){call->memory + used, call->memory + used + part, count,
                         types[draw(&state, 4)]};
        call->reduces[i] = (tsr_reduce){
            .full = call->memory + used + part,
            .shard = call->memory + used,
            .count = count,
            .valid = full > less ? full - less : 0,
            .wire_dtype = wire,
            .out_dtype = out,
            .scale = wire == TSR_I32 ? 1.0f : 0.37f,
            .accumulate = (int)draw(&state, 2),
            .square_sum = draw(&state, 2) ? &call->squares[i] : NULL};
        used += part * ((size_t)world + 1);
    }
}

static uint64_t run_random(tsr_comm *comm, tsr_stream *stream, uint64_t seed,
                           random_call *call) {
    int world = tsr_comm_world(comm), rank = tsr_comm_rank(comm);
    contract self = {.digest = 0xcbf29ce484222325u};
    for (int i = 0; i < TENSORS; i++)
        call->squares[i] = 0;
    draw_call(call, seed, world, rank);
    switch (seed % 4) {
    case 0:
        CHECK_OK(tsr_comm_gather(comm, call->gathers, call->tensors, stream));
        break;
    case 1:
        CHECK_OK(tsr_comm_broadcast(
            comm, call->gathers[0].full, call->gathers[0].count * (size_t)world,
            call->gathers[0].dtype, (int)(seed / 4) % world, stream));
        break;
    case 2:
        CHECK_OK(
            tsr_comm_all_reduce(comm, call->gathers[0].full,
                                call->gathers[0].count + (size_t)(seed / 4 % 3),
                                call->gathers[0].dtype, stream));
        break;
    default:
        CHECK_OK(tsr_comm_reduce_scatter(comm, call->reduces, call->tensors,
                                         stream));
    }
    CHECK_OK(tsr_stream_synchronize(stream));
    digest(&self, call->memory, call->bytes);
    digest(&self, call->squares, sizeof call->squares);
    return self.digest;
}

static void run_bits(rank_context *rank) {
    station mpi;
    tsr_comm *host;
    random_call call = {.bytes = (size_t)MOST * 4 * TENSORS *
                                 ((size_t)rank->world + 1)};
    CHECK((call.memory = malloc(call.bytes)) != NULL);
    open_station(rank, 0, &mpi);
    CHECK_OK(tsr_comm_create_host(rank->bootstrap, NULL, &host));
    for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
        uint64_t a = run_random(mpi.comm, mpi.stream, seed, &call),
                 b = run_random(host, mpi.stream, seed, &call);
        CHECK_MESSAGE(a == b, "rank %d of %d: random call %llu: other bits",
                      rank->rank, rank->world, (unsigned long long)seed);
    }
    tsr_comm_release(host);
    close_station(&mpi);
    free(call.memory);
}

/* ---- disagreement ---- */

static void run_mismatch(rank_context *rank) {
    check_mismatches(rank, tsr_comm_create_mpi);
}

/* ---- giving up, lagging ---- */

static void run_abort(rank_context *rank) {
    check_abort(rank, tsr_comm_create_mpi);
}

static void run_late(rank_context *rank) {
    station at;
    int last = rank->world - 1;
    int culprit;
    /* The time-out of rank 0 is the shortest: it tells the others. */
    open_station(rank, rank->rank == 0 ? 400 : 20000, &at);
    CHECK_OK(barrier(&at));
    if (rank->rank == last)
        sleep_ms(1500);
    tsr_status status = barrier(&at);
    CHECK(status == TSR_UNAVAILABLE);
    char text[64];
    snprintf(text, sizeof text, "rank %d has not joined barrier #2", last);
    CHECK_MESSAGE(strstr(tsr_last_error(), text), "%s", tsr_last_error());
    CHECK(tsr_comm_poll(at.comm, &culprit) == TSR_UNAVAILABLE);
    CHECK(culprit == last);
    close_station(&at);
}

/* ---- bootstrap ---- */

static void run_bootstrap(rank_context *rank) {
    check_exchanges(rank, 3000000, 20);
}

/* The job cannot go on after these: it ends with 1, which test_mpi.py expects
 * together with the words. */
static void end_badly(rank_context *rank, tsr_status status) {
    tsr_status cause = tsr_bootstrap_conclude(rank->bootstrap, status);
    fprintf(stderr, "rank %d ends the job: %s: %s\n", rank->rank,
            tsr_status_name(cause), tsr_last_error());
    tsr_bootstrap_end_job(rank->bootstrap, 7);
}

static void run_bootstrap_sizes(rank_context *rank) {
    char mine[8] = {0}, all[8 * RANKS_MAX];
    CHECK_FAILS(tsr_bootstrap_exchange(rank->bootstrap, mine,
                                       rank->rank == 1 ? 5 : 8, all, 20000),
                TSR_FAILED_PRECONDITION, "rank 0 brings 8 bytes, rank 1 5");
    CHECK_FAILS(tsr_bootstrap_exchange(rank->bootstrap, mine, 8, all, 20000),
                TSR_FAILED_PRECONDITION, "rank 1 5");
    end_badly(rank, TSR_FAILED_PRECONDITION);
}

static void run_bootstrap_late(rank_context *rank) {
    int mine = 1, all[RANKS_MAX], last = rank->world - 1;
    char text[64];
    snprintf(text, sizeof text, "rank %d is silent", last);
    if (rank->rank == last)
        sleep_ms(1500);
    CHECK_FAILS(tsr_bootstrap_exchange(rank->bootstrap, &mine, sizeof mine, all,
                                       rank->rank == 0 ? 400 : 20000),
                TSR_UNAVAILABLE, text);
    end_badly(rank, TSR_UNAVAILABLE);
}

/* One rank fails by itself; the others are in a collective. Its reason is what
 * the job ends with, whichever rank says it. */
static void run_conclude(rank_context *rank) {
    station at;
    open_station(rank, 0, &at);
    CHECK_OK(barrier(&at));
    if (rank->rank == rank->world - 1) {
        tsr_status status = tsr_error(TSR_INVALID_DATA, "a broken file");
        end_badly(rank, status);
    }
    end_badly(rank, barrier(&at));
}

/* ---- for test_mpi.py to kill ---- */

static void run_loop(rank_context *rank) {
    enum { COUNT = 200003 };
    station at;
    float *shard, *full;
    CHECK((shard = calloc(COUNT, sizeof *shard)) != NULL);
    CHECK((full = calloc((size_t)COUNT * (size_t)rank->world, sizeof *full)) !=
          NULL);
    tsr_gather gather = {shard, full, COUNT, TSR_F32};
    tsr_reduce reduce = {
        full,    shard,   COUNT, (size_t)COUNT * (size_t)rank->world,
        TSR_F32, TSR_F32, 1e-3f, 0,
        NULL};
    open_station(rank, 0, &at);
    for (int i = 0;; i++) {
        CHECK_OK(tsr_comm_gather(at.comm, &gather, 1, at.stream));
        CHECK_OK(tsr_comm_reduce_scatter(at.comm, &reduce, 1, at.stream));
        CHECK_OK(tsr_comm_all_reduce(at.comm, full, COUNT, TSR_F32, at.stream));
        CHECK_OK(tsr_stream_synchronize(at.stream));
        if (i == 2) {
            printf("looping %d %ld\n", rank->rank, (long)getpid());
            fflush(stdout);
        }
    }
}

/* ---- allocations ---- */

/* The n-th allocation of one rank fails, for every n: all ranks fail alike. */
static void run_allocations(rank_context *rank) {
    tsr_comm *comm, *second;
    for (int victim = 0; victim < rank->world; victim++) {
        bool over = false;
        for (long n = 1; !over; n++) {
            if (rank->rank == victim)
                tsr_alloc_fail_at(n);
            tsr_status status =
                tsr_comm_create_mpi(rank->bootstrap, NULL, &comm);
            if (status == TSR_OK) {
                status = tsr_comm_split(comm, &second);
                tsr_comm_release(status == TSR_OK ? second : NULL);
                tsr_comm_release(comm);
            }
            if (rank->rank == victim)
                tsr_alloc_fail_at(0);
            CHECK_MESSAGE(status == TSR_OK || status == TSR_OUT_OF_MEMORY,
                          "allocation %ld: %s", n, tsr_last_error());
            int mine = (int)status, all[RANKS_MAX];
            CHECK_OK(tsr_bootstrap_exchange(rank->bootstrap, &mine, sizeof mine,
                                            all, 20000));
            for (int r = 0; r < rank->world; r++)
                CHECK(all[r] == mine);
            over = status == TSR_OK;
            CHECK(n > 3 || !over);
        }
    }
}

static const struct {
    const char *name;
    void (*run)(rank_context *rank);
} bodies[] = {
    {"contract", run_contract},
    {"bits", run_bits},
    {"mismatch", run_mismatch},
    {"abort", run_abort},
    {"late", run_late},
    {"bootstrap", run_bootstrap},
    {"bootstrap-sizes", run_bootstrap_sizes},
    {"bootstrap-late", run_bootstrap_late},
    {"conclude", run_conclude},
    {"loop", run_loop},
    {"allocations", run_allocations},
};

/* Several may be named; MPI is started once. */
int main(int argc, char **argv) {
    rank_context rank = {0};
    alarm(RANKS_ALARM);
    CHECK_OK(tsr_bootstrap_create_mpi(&rank.bootstrap));
    rank.rank = tsr_bootstrap_rank(rank.bootstrap);
    rank.world = tsr_bootstrap_world(rank.bootstrap);
    for (int a = 1; a < argc; a++) {
        size_t i = 0;
        while (i < sizeof bodies / sizeof *bodies &&
               strcmp(argv[a], bodies[i].name) != 0)
            i++;
        CHECK_MESSAGE(i < sizeof bodies / sizeof *bodies, "%s", argv[a]);
        bodies[i].run(&rank);
        printf("rank %d of %d: %s\n", rank.rank, rank.world, argv[a]);
        fflush(stdout);
    }
    tsr_bootstrap_release(rank.bootstrap);
    return 0;
}
