#include "cli/session.h"

#include <stdio.h>
#include <string.h>

#include "base/os.h"
#include "base/text.h"

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

static tsr_status compile(cli_session *self, const tsr_workspace_query *query,
                          bool evaluate) {
    const session_flags *flags = &self->flags;
    tsr_graph *graph;
    bool alias = strcmp(flags->gather, "alias") == 0;
    tsr_target target = {
        .world = (int)flags->ranks,
        .shared = true,
        .gather_alias = alias,
        .prefetch = flags->prefetch ? (int)flags->prefetch : -1,
        .memory = flags->memory,
        .workspace = tsr_kernel_workspace,
        .workspace_context = query,
        .products =
            tsr_kernel_table_products(self->kernels, self->model.dtype)};
    tsr_training training = {.micro_steps = (int)flags->accumulate,
                             .adamw = {.beta1 = flags->beta1,
                                       .beta2 = flags->beta2,
                                       .eps = 1e-8,
                                       .weight_decay = flags->weight_decay,
                                       .max_norm = flags->clip}};
    if (!alias && strcmp(flags->gather, "copy") != 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--gather '%s' is unknown; known: alias, copy",
                         flags->gather);
    double tokens = (double)flags->ranks * (double)flags->batch *
                    (double)flags->accumulate * (double)self->model.seq;
    TSR_TRY(tsr_graph_create(self->ops, &graph));
    tsr_status status = tsr_gpt_build(graph, &self->model, flags->batch,
                                      self->model.seq, 1 / tokens);
    if (status != TSR_OK) {
        tsr_graph_release(graph);
        return status;
    }
    TSR_TRY(tsr_compile_training(graph, &target, &training, &self->plan));
    if (!evaluate)
        return TSR_OK;
    TSR_TRY(tsr_graph_create(self->ops, &graph));
    status =
        tsr_gpt_build(graph, &self->model, flags->batch, self->model.seq, 1);
    if (status != TSR_OK) {
        tsr_graph_release(graph);
        return status;
    }
    return tsr_compile_forward(graph, &target, &self->eval_plan);
}

static tsr_status check_memory(const cli_session *self, size_t needed) {
    size_t available = tsr_os_memory_available();
    char need[TSR_BYTES_TEXT], have[TSR_BYTES_TEXT];
    if (needed <= available)
        return TSR_OK;
    return tsr_error(
        TSR_OUT_OF_MEMORY,
        "%lld ranks need %s%s of memory together, %s are available: lower "
        "--batch, --seq or the model's size",
        (long long)self->flags.ranks, self->plan ? "" : "more than ",
        tsr_format_bytes(needed, need), tsr_format_bytes(available, have));
}

/* What no plan can do without: weight, gradient and two moments, four bytes
 * each, and every token's embedding. Spares compiling what cannot run, or is
 * too large to be counted. */
static size_t least_bytes(const cli_session *self) {
    const session_flags *flags = &self->flags;
    double tokens =
        (double)flags->ranks * (double)flags->batch * (double)self->model.seq;
    double bytes = 16.0 * (double)tsr_gpt_param_count(&self->model) +
                   (double)tsr_dtype_bytes(self->model.dtype) * tokens *
                       (double)self->model.dim;
    return bytes < 1e18 ? (size_t)bytes : (size_t)1e18;
}

static size_t plan_bytes(const cli_session *self) {
    size_t bytes = tsr_plan_host_bytes(self->plan);
    if (self->eval_plan)
        bytes += self->eval_plan->bytes[TSR_SPACE_PERSISTENT] *
                 (size_t)self->flags.ranks;
    return bytes;
}

tsr_status session_open(const session_flags *flags, bool evaluate,
                        cli_session *out_session) {
    tsr_status status = TSR_OK;
    cli_session self = {.flags = *flags};
    memset(out_session, 0, sizeof *out_session);
    if (self.flags.threads == 0) {
        self.flags.threads = tsr_os_processors() / self.flags.ranks;
        self.flags.threads = self.flags.threads < 1 ? 1 : self.flags.threads;
    }
    TSR_TRY_GOTO(choose_model(flags, &self.model));
    TSR_TRY_GOTO(check_memory(&self, least_bytes(&self)));
    TSR_TRY_GOTO(tsr_op_table_create(&self.ops));
    TSR_TRY_GOTO(tsr_kernel_table_create(TSR_KERNELS_CPU, &self.kernels));
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
                 self->plan->target.products);
    return buffer;
}

/* Only a job that fills the machine does: two smaller ones would otherwise
 * share the first processors. */
void session_pin(const cli_session *self, int rank) {
    int threads = (int)self->flags.threads;
    if (self->flags.ranks * threads == tsr_os_processors())
        tsr_os_pin(rank * threads, threads);
}

tsr_trainer_options session_trainer(const cli_session *self) {
    return (tsr_trainer_options){.plan = self->plan,
                                 .eval_plan = self->eval_plan,
                                 .micro_steps = (int)self->flags.accumulate,
                                 .kernels = self->kernels,
                                 .wire_bytes_per_s = self->flags.wire * 1e9,
                                 .cpu = {.threads = (int)self->flags.threads}};
}
