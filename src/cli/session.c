#include "cli/session.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/os.h"
#include "base/text.h"
#include "cli/plan_file.h"
#include "ops/cpu_bf16.h"
#include "train/agree.h"

static tsr_status choose_model(const session_flags *flags,
                               tsr_gpt_config *model) {
    TSR_TRY(tsr_gpt_preset(flags->model, model));
    model->layers = flags->layers ? flags->layers : model->layers;
    model->heads = flags->heads ? flags->heads : model->heads;
    model->dim = flags->dim ? flags->dim : model->dim;
    model->seq = flags->seq ? flags->seq : model->seq;
    model->vocab = flags->vocab ? flags->vocab : model->vocab;
    TSR_TRY(options_dtype(flags->dtype, &model->dtype));
    if (model->dim % model->heads != 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--dim %lld is not divisible by --heads %lld",
                         (long long)model->dim, (long long)model->heads);
    return tsr_gpt_validate(model);
}

static tsr_status choose_comm(cli_session *self) {
    const cli_ranks *ranks = self->ranks;
    const char *comm = self->flags.comm, *gather = self->flags.gather;
    if (comm && strcmp(comm, "host") != 0 && strcmp(comm, "mpi") != 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--comm '%s' is unknown; known: host, mpi", comm);
    bool mpi = comm && strcmp(comm, "mpi") == 0;
    if (mpi && !ranks->mpi)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--comm mpi is for ranks that mpirun has started");
    if (comm && !mpi && !ranks->one_host)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--comm host: the %d ranks are on several hosts",
                         ranks->world);
    self->over_mpi = mpi || !ranks->one_host;
    if (!gather)
        gather = self->over_mpi ? "copy" : "alias";
    if (strcmp(gather, "alias") != 0 && strcmp(gather, "copy") != 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--gather '%s' is unknown; known: alias, copy",
                         gather);
    if (self->over_mpi && strcmp(gather, "alias") == 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--gather alias needs memory that all ranks share, "
                         "which there is none of over MPI: use copy");
    if (self->over_mpi && self->flags.wire > 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--wire pretends over shared memory: it needs --comm "
                         "host");
    self->flags.gather = gather;
    if (self->flags.prefetch >= 0 && strcmp(gather, "copy") != 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--prefetch %lld needs --gather copy: with alias, "
                         "weights are used where they are, and none are "
                         "gathered ahead",
                         (long long)self->flags.prefetch);
    if (self->flags.prefetch < 0)
        self->flags.prefetch = 1;
    return TSR_OK;
}

/* How a rank may multiply bf16 matrices. */
typedef struct rank_products {
    uint8_t chosen;      /* tsr_bf16_choice; PROBE: not for this rank to say */
    uint8_t native, f32; /* whether it may */
} rank_products;

/* all: (world). An f32 rank may do either; the trainer refuses it. */
static tsr_status follow_first(const rank_products *all, int world) {
    const tsr_bf16_choice chosen = (tsr_bf16_choice)all[0].chosen;
    if (chosen == TSR_BF16_PROBE)
        return TSR_OK; /* rank 0 is an f32 rank */
    for (int r = 1; r < world; r++)
        if (chosen == TSR_BF16_NATIVE ? !all[r].native : !all[r].f32)
            return tsr_error(
                TSR_FAILED_PRECONDITION,
                "rank 0 multiplies bf16 matrices in %s, which rank %d %s: set "
                "TESSERA_BF16=f32 on all ranks",
                chosen == TSR_BF16_NATIVE ? "bf16" : "f32", r,
                chosen == TSR_BF16_NATIVE
                    ? "cannot (no oneDNN 2) or may not (TESSERA_BF16=f32)"
                    : "may not (TESSERA_BF16=native)");
    tsr_cpu_bf16_prefer(chosen);
    return TSR_OK;
}

/* Ranks on machines of one kind may time their products differently: under MPI
 * rank 0 does for all. Forked ranks have what the parent timed. */
static tsr_status agree_on_products(const cli_session *self) {
    const cli_ranks *ranks = self->ranks;
    const bool bf16 = self->model.dtype == TSR_BF16;
    rank_products *all, mine = {.native = 1, .f32 = 1};
    if (!ranks->mpi)
        return TSR_OK;
    if (bf16) {
        mine.native = tsr_cpu_bf16_allows(TSR_BF16_NATIVE);
        mine.f32 = tsr_cpu_bf16_allows(TSR_BF16_F32);
    }
    if (bf16 && ranks->first)
        mine.chosen = tsr_cpu_bf16_native() ? TSR_BF16_NATIVE : TSR_BF16_F32;
    TSR_TRY(tsr_alloc((size_t)ranks->world, sizeof *all, (void **)&all));
    tsr_status status = tsr_bootstrap_exchange(ranks->mpi, &mine, sizeof mine,
                                               all, TSR_AGREE_TIMEOUT_MS);
    if (status == TSR_OK)
        status = follow_first(all, ranks->world);
    tsr_free(all);
    return status;
}

/* query: NULL below the stage that asks for workspaces. */
static tsr_target make_target(const cli_session *self,
                              const tsr_workspace_query *query) {
    const session_flags *flags = &self->flags;
    return (tsr_target){.world = (int)flags->ranks,
                        .shared = !self->over_mpi,
                        .gather_alias = strcmp(flags->gather, "alias") == 0,
                        .prefetch = flags->prefetch ? (int)flags->prefetch : -1,
                        .memory = flags->memory,
                        .host_memory = flags->host_memory,
                        .workspace = query ? tsr_kernel_workspace : NULL,
                        .workspace_context = query,
                        .products = tsr_kernel_table_products(
                            self->kernels, self->model.dtype)};
}

static tsr_status build(const cli_session *self, double loss_scale,
                        tsr_graph **out_graph) {
    TSR_TRY(tsr_graph_create(self->ops, out_graph));
    tsr_status status =
        tsr_gpt_build(*out_graph, &self->model, self->flags.batch,
                      self->model.seq, loss_scale);
    if (status != TSR_OK)
        tsr_graph_release(*out_graph);
    return status;
}

static tsr_status compile_training(const cli_session *self,
                                   const tsr_target *target, tsr_stage stage,
                                   tsr_plan **out_plan) {
    const session_flags *flags = &self->flags;
    tsr_training training = {.micro_steps = (int)flags->accumulate,
                             .adamw = {.beta1 = flags->beta1,
                                       .beta2 = flags->beta2,
                                       .eps = 1e-8,
                                       .weight_decay = flags->weight_decay,
                                       .max_norm = flags->clip}};
    double tokens = (double)flags->ranks * (double)flags->batch *
                    (double)flags->accumulate * (double)self->model.seq;
    tsr_graph *graph;
    *out_plan = NULL;
    TSR_TRY(build(self, 1 / tokens, &graph));
    return tsr_compile_training_until(graph, target, &training, stage,
                                      out_plan);
}

static tsr_status read_plan(cli_session *self, const tsr_target *target) {
    tsr_plan *compiled;
    TSR_TRY(compile_training(self, target, TSR_STAGE_SHARDED, &compiled));
    tsr_status status = plan_file_read(self->flags.plan, compiled, &self->plan);
    tsr_plan_release(compiled);
    return status == TSR_OK ? TSR_OK : tsr_error_at(status, "--plan");
}

static tsr_status compile(cli_session *self, const tsr_workspace_query *query,
                          bool evaluate) {
    tsr_target target = make_target(self, query);
    tsr_graph *graph;
    if (self->flags.plan)
        TSR_TRY(read_plan(self, &target));
    else
        TSR_TRY(compile_training(self, &target, TSR_STAGE_PLACED, &self->plan));
    if (!evaluate)
        return TSR_OK;
    TSR_TRY(build(self, 1, &graph));
    return tsr_compile_forward(graph, &target, &self->eval_plan);
}

tsr_status session_compile_until(const cli_session *self, tsr_stage stage,
                                 tsr_plan **out_plan) {
    tsr_target target = make_target(self, NULL);
    return compile_training(self, &target, stage, out_plan);
}

static tsr_status check_memory(const cli_session *self, size_t needed) {
    size_t available = tsr_os_memory_available();
    int ranks = self->ranks->host_ranks;
    char need[TSR_BYTES_TEXT], have[TSR_BYTES_TEXT];
    if (needed <= available)
        return TSR_OK;
    return tsr_error(
        TSR_OUT_OF_MEMORY,
        "%d rank%s of this host need%s %s%s of memory, %s are available: "
        "lower --batch, --seq or the model's size",
        ranks, ranks == 1 ? "" : "s", ranks == 1 ? "s" : "",
        self->plan ? "" : "more than ", tsr_format_bytes(needed, need),
        tsr_format_bytes(available, have));
}

/* What no plan of this host's ranks can do without: weight, gradient and two
 * moments, four bytes each, and every token's embedding. Spares compiling what
 * cannot run, or is too large to be counted. */
static size_t least_bytes(const cli_session *self) {
    const session_flags *flags = &self->flags;
    double params = (double)tsr_gpt_param_count(&self->model) /
                    (double)self->ranks->world,
           tokens = (double)flags->batch * (double)self->model.seq,
           element = (double)tsr_dtype_bytes(self->model.dtype);
    double bytes = (double)self->ranks->host_ranks *
                   (16.0 * params + element * tokens * (double)self->model.dim);
    return bytes < 1e18 ? (size_t)bytes : (size_t)1e18;
}

static size_t plan_bytes(const cli_session *self) {
    size_t ranks = (size_t)self->ranks->host_ranks;
    size_t bytes = self->over_mpi ? ranks * tsr_plan_rank_bytes(self->plan)
                                  : tsr_plan_host_bytes(self->plan);
    if (self->eval_plan)
        bytes += self->eval_plan->bytes[TSR_SPACE_PERSISTENT] * ranks;
    return bytes;
}

tsr_status session_open(const session_flags *flags, const cli_ranks *ranks,
                        bool evaluate, cli_session *out_session) {
    tsr_status status = TSR_OK;
    cli_session self = {.flags = *flags, .ranks = ranks};
    memset(out_session, 0, sizeof *out_session);
    self.flags.ranks = ranks->world;
    if (self.flags.threads == 0)
        self.flags.threads = ranks->threads;
    TSR_TRY_GOTO(choose_comm(&self));
    TSR_TRY_GOTO(choose_model(flags, &self.model));
    TSR_TRY_GOTO(check_memory(&self, least_bytes(&self)));
    TSR_TRY_GOTO(tsr_op_table_create(&self.ops));
    TSR_TRY_GOTO(tsr_kernel_table_create(TSR_KERNELS_CPU, &self.kernels));
    TSR_TRY_GOTO(agree_on_products(&self));
    TSR_TRY_GOTO(compile(
        &self, &(tsr_workspace_query){self.kernels, (int)self.flags.threads},
        evaluate));
    TSR_TRY_GOTO(check_memory(&self, plan_bytes(&self)));
    self.plan->target.workspace = NULL; /* the query was ours, and is over */
    if (self.eval_plan)
        self.eval_plan->target.workspace = NULL;
    *out_session = self;
    memset(&self, 0, sizeof self);
done:
    session_close(&self);
    return status;
}

void session_close(cli_session *self) {
    tsr_plan_release(self->eval_plan);
    tsr_plan_release(self->plan);
    tsr_kernel_table_release(self->kernels);
    tsr_op_table_release(self->ops);
    memset(self, 0, sizeof *self);
}

char *session_kernels(const cli_session *self,
                      char buffer[SESSION_KERNELS_BYTES]) {
    const char *kernels = tsr_kernel_table_describe(self->kernels);
    if (self->model.dtype == TSR_F32)
        snprintf(buffer, SESSION_KERNELS_BYTES, "%s", kernels);
    else
        snprintf(buffer, SESSION_KERNELS_BYTES, "%s, products in %s", kernels,
                 tsr_kernel_table_products(self->kernels, self->model.dtype));
    return buffer;
}

tsr_trainer_options session_trainer(const cli_session *self) {
    return (tsr_trainer_options){.plan = self->plan,
                                 .eval_plan = self->eval_plan,
                                 .micro_steps = (int)self->flags.accumulate,
                                 .kernels = self->kernels,
                                 .wire_bytes_per_s = self->flags.wire * 1e9,
                                 .cpu = {.threads = (int)self->flags.threads},
                                 .over_mpi = self->over_mpi,
                                 .host_ranks = self->ranks->host_ranks};
}
