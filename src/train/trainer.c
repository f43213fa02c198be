/* Runs steps of a training plan.
 *
 * Sample indices, with G = world * micro_steps * batch:
 *
 *   step s (from 0)            takes samples [s * G, (s + 1) * G)
 *   micro-step k of rank r     begins at s * G + (k * world + r) * batch
 *
 * So the order of samples does not depend on the world. */
#include "train/trainer.h"

#include <math.h>
#include <string.h>

#include "base/half.h"
#include "base/os.h"
#include "train/agree.h"
#include "train/initialize.h"

static const char *const exp_avg = ".exp_avg";
static const char *const exp_avg_sq = ".exp_avg_sq";
static const char *const twin = ".bf16";

int64_t tsr_trainer_global_batch(const tsr_trainer *self) {
    return self->batch * self->world * self->options.micro_steps;
}

/* ---- finding values ---- */

static void *find(const tsr_trainer *self, size_t plan, const char *name) {
    const tsr_graph *graph =
        (plan == 0 ? self->options.plan : self->options.eval_plan)->graph;
    tsr_value_id value = tsr_graph_find(graph, name);
    return value.index < 0 ? NULL : tsr_arena_address(self->arena, plan, value);
}

float *tsr_trainer_value(tsr_trainer *self, const char *name,
                         int64_t *out_count) {
    const tsr_graph *graph = self->options.plan->graph;
    tsr_value_id value = tsr_graph_find(graph, name);
    if (value.index < 0 || tsr_graph_value(graph, value)->type.dtype != TSR_F32)
        return NULL;
    if (out_count)
        *out_count = tsr_type_count(&tsr_graph_value(graph, value)->type);
    return tsr_arena_address(self->arena, 0, value);
}

static void *find_with_suffix(const tsr_trainer *self, const char *name,
                              const char *suffix) {
    char full[256];
    size_t length = strlen(name), rest = strlen(suffix);
    if (length + rest >= sizeof full)
        return NULL;
    memcpy(full, name, length);
    memcpy(full + length, suffix, rest + 1);
    return find(self, 0, full);
}

static tsr_status find_feed(const tsr_trainer *self, size_t plan,
                            const tsr_samples *samples, tsr_feed *feed) {
    *feed = (tsr_feed){.samples = samples,
                       .batch = self->batch,
                       .seq = self->seq,
                       .tokens = find(self, plan, "tokens"),
                       .targets = find(self, plan, "targets")};
    if (!feed->tokens || !feed->targets)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "the plan has no inputs 'tokens' and 'targets'");
    return TSR_OK;
}

static tsr_status find_shapes(tsr_trainer *self) {
    const tsr_graph *graph = self->options.plan->graph;
    tsr_value_id tokens = tsr_graph_find(graph, "tokens");
    const tsr_type *type =
        tokens.index < 0 ? NULL : &tsr_graph_value(graph, tokens)->type;
    if (!type || type->dims != 2)
        return tsr_error(
            TSR_INVALID_ARGUMENT,
            "the plan has no input 'tokens' of shape [batch, seq]");
    self->batch = type->shape[0];
    self->seq = type->shape[1];
    return TSR_OK;
}

static tsr_status find_values(tsr_trainer *self) {
    for (int k = 0; k < self->options.micro_steps; k++)
        TSR_TRY(find_feed(self, 0, &self->options.samples, &self->feeds[k]));
    self->schedule = find(self, 0, "schedule");
    self->loss = find(self, 0, "loss");
    self->grad_norm = find(self, 0, "grad_norm");
    if (!self->schedule || !self->loss || !self->grad_norm)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "the plan is no training plan: 'schedule', 'loss' or "
                         "'grad_norm' is missing");
    if (!self->options.eval_plan)
        return TSR_OK;
    self->eval_loss = find(self, 1, "loss");
    if (!self->eval_loss)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "the evaluation plan has no state 'loss'");
    return find_feed(self, 1, &self->options.eval_samples, &self->eval_feed);
}

/* ---- weights ---- */

static tsr_status list_tensors(tsr_trainer *self) {
    const tsr_graph *graph = self->options.plan->graph;
    size_t count = (size_t)tsr_graph_param_count(graph);
    TSR_TRY(TSR_ARRAY_RESERVE(&self->tensors, count));
    for (size_t p = 0; p < count; p++) {
        const tsr_param *param =
            tsr_graph_param_at(graph, (tsr_param_id){(int32_t)p});
        tsr_checkpoint_tensor tensor = {
            .name = param->name,
            .type = param->type,
            .shard_count = (size_t)tsr_shard_count(param, self->world),
            .weights = find(self, 0, param->name),
            .twin = find_with_suffix(self, param->name, twin),
            .exp_avg = find_with_suffix(self, param->name, exp_avg),
            .exp_avg_sq = find_with_suffix(self, param->name, exp_avg_sq)};
        tensor.type.dtype = param->stored;
        if (!tensor.weights || !tensor.exp_avg || !tensor.exp_avg_sq ||
            (tensor.twin != NULL) != (param->stored != param->type.dtype))
            return tsr_error(TSR_INVALID_ARGUMENT,
                             "the plan lacks the shard, the moments or the "
                             "bf16 twin of '%s'",
                             param->name);
        TSR_ARRAY_PUSH(&self->tensors, tensor);
    }
    return TSR_OK;
}

tsr_status tsr_trainer_agree(tsr_trainer *self, tsr_status mine) {
    char *messages = NULL;
    tsr_status room =
        tsr_alloc((size_t)self->world, TSR_AGREE_BYTES, (void **)&messages);
    tsr_status status =
        tsr_agree(self->bootstrap, mine != TSR_OK ? mine : room, messages);
    tsr_free(messages);
    return status;
}

static tsr_status initialize(tsr_trainer *self) {
    const tsr_graph *graph = self->options.plan->graph;
    for (size_t p = 0; p < self->tensors.count; p++) {
        const tsr_checkpoint_tensor *tensor = &self->tensors.data[p];
        int64_t count = (int64_t)tensor->shard_count;
        tsr_initialize(tsr_graph_param_at(graph, (tsr_param_id){(int32_t)p}),
                       self->options.seed, self->rank * count, count,
                       tensor->weights);
        for (int64_t i = 0; tensor->twin && i < count; i++)
            tensor->twin[i] = tsr_to_bf16(tensor->weights[i]);
    }
    return tsr_trainer_agree(self, TSR_OK);
}

/* ---- making ---- */

static tsr_status create_runtime(tsr_trainer *self) {
    const tsr_trainer_options *options = &self->options;
    const tsr_plan *plans[2] = {options->plan, options->eval_plan};
    tsr_comm_options comm_options = {
        .timeout_ms = options->timeout_ms,
        .wire_bytes_per_s = options->wire_bytes_per_s,
        .wire_latency_ns = options->wire_latency_ns};
    tsr_executor_options executor = {
        .kernels = options->kernels,
        .timeline = options->timeline ? options->micro_steps : 0};
    TSR_TRY(
        tsr_plan_agree(options->plan, self->bootstrap, options->timeout_ms));
    TSR_TRY(tsr_device_create_cpu(&options->cpu, &self->device));
    TSR_TRY((options->over_mpi ? tsr_comm_create_mpi : tsr_comm_create_host)(
        self->bootstrap, &comm_options, &self->reduce_comm));
    TSR_TRY(tsr_comm_split(self->reduce_comm, &self->gather_comm));
    TSR_TRY(tsr_arena_create(self->device, self->reduce_comm, plans,
                             options->eval_plan ? 2 : 1, &self->arena));
    executor.arena = self->arena;
    executor.device = self->device;
    executor.gather_comm = self->gather_comm;
    executor.reduce_comm = self->reduce_comm;
    TSR_TRY(tsr_executor_create(&executor, &self->executor));
    executor.plan = 1;
    executor.timeline = 0;
    return options->eval_plan ? tsr_executor_create(&executor, &self->evaluator)
                              : TSR_OK;
}

tsr_status tsr_trainer_create(const tsr_trainer_options *options,
                              tsr_bootstrap *bootstrap,
                              tsr_trainer **out_trainer) {
    tsr_status status = TSR_OK;
    tsr_trainer *self = NULL;
    *out_trainer = NULL;
    if (options->micro_steps < 1)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%d micro-steps a step: at least 1 is needed",
                         options->micro_steps);
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *self, (void **)&self));
    self->options = *options;
    if (self->options.timeout_ms == 0)
        self->options.timeout_ms = 60000;
    if (self->options.host_ranks == 0)
        self->options.host_ranks = tsr_bootstrap_world(bootstrap);
    self->bootstrap = bootstrap;
    self->rank = tsr_bootstrap_rank(bootstrap);
    self->world = tsr_bootstrap_world(bootstrap);
    TSR_TRY_GOTO(tsr_alloc((size_t)options->micro_steps, sizeof *self->feeds,
                           (void **)&self->feeds));
    TSR_TRY_GOTO(find_shapes(self));
    TSR_TRY_GOTO(create_runtime(self));
    TSR_TRY_GOTO(find_values(self));
    TSR_TRY_GOTO(list_tensors(self));
    TSR_TRY_GOTO(initialize(self));
    *out_trainer = self;
    self = NULL;
done:
    tsr_trainer_release(self);
    return status;
}

void tsr_trainer_release(tsr_trainer *self) {
    if (!self)
        return;
    tsr_executor_release(self->evaluator);
    tsr_executor_release(self->executor);
    tsr_arena_release(self->arena);
    tsr_comm_release(self->gather_comm);
    tsr_comm_release(self->reduce_comm);
    tsr_device_release(self->device);
    TSR_ARRAY_FREE(&self->tensors);
    tsr_free(self->feeds);
    tsr_free(self);
}

int64_t tsr_trainer_steps(const tsr_trainer *self) { return self->step; }
size_t tsr_trainer_arena_bytes(const tsr_trainer *self) {
    return tsr_arena_bytes(self->arena);
}

/* ---- steps ---- */

static tsr_status fill(void *context) {
    const tsr_feed *feed = context;
    for (int64_t b = 0; b < feed->batch; b++)
        feed->samples->read(feed->samples->context, feed->first + b,
                            feed->tokens + b * feed->seq,
                            feed->targets + b * feed->seq);
    return TSR_OK;
}

static tsr_status enqueue_step(tsr_trainer *self) {
    int64_t first = self->step * tsr_trainer_global_batch(self);
    for (int k = 0; k < self->options.micro_steps; k++) {
        tsr_feed *feed = &self->feeds[k];
        feed->first =
            first + ((int64_t)k * self->world + self->rank) * self->batch;
        TSR_TRY(tsr_executor_enqueue(self->executor, fill, feed));
        TSR_TRY(tsr_executor_walk(self->executor,
                                  k == 0 ? TSR_MICRO_FIRST : TSR_MICRO_NEXT));
    }
    return tsr_executor_walk(self->executor, TSR_UPDATE);
}

tsr_status tsr_trainer_step(tsr_trainer *self, tsr_step_metrics *out_metrics) {
    int64_t begin = tsr_os_now_ns();
    double rate = tsr_rate_at(&self->options.rates, self->step + 1);
    self->schedule[0] = (float)rate;
    self->schedule[1] = (float)(self->step + 1);
    tsr_status enqueued = enqueue_step(self);
    tsr_status status = tsr_executor_synchronize(self->executor);
    TSR_TRY(status != TSR_OK ? status : enqueued);
    if (!isfinite(*self->loss) || !isfinite(*self->grad_norm))
        return tsr_error(
            TSR_INVALID_DATA,
            "step %lld: loss %g, gradient norm %g; not finite, so the weights "
            "were left as they "
            "were: lower --lr or resume from an earlier checkpoint",
            (long long)self->step + 1, (double)*self->loss,
            (double)*self->grad_norm);
    self->step++;
    *out_metrics =
        (tsr_step_metrics){.step = self->step,
                           .loss = *self->loss,
                           .lr = rate,
                           .grad_norm = *self->grad_norm,
                           .tokens = tsr_trainer_global_batch(self) * self->seq,
                           .seconds = (double)(tsr_os_now_ns() - begin) * 1e-9};
    return TSR_OK;
}

/* Sum of a number over all ranks, in rank order. */
static tsr_status sum_over_ranks(tsr_trainer *self, double mine,
                                 double *out_sum) {
    double *all;
    TSR_TRY(tsr_alloc((size_t)self->world, sizeof *all, (void **)&all));
    tsr_status status = tsr_bootstrap_exchange(
        self->bootstrap, &mine, sizeof mine, all, self->options.timeout_ms);
    *out_sum = 0;
    for (int r = 0; status == TSR_OK && r < self->world; r++)
        *out_sum += all[r];
    tsr_free(all);
    return status;
}

tsr_status tsr_trainer_evaluate(tsr_trainer *self, int64_t batches,
                                double *out_loss) {
    double sum = 0;
    if (!self->evaluator)
        return tsr_error(TSR_FAILED_PRECONDITION,
                         "the trainer was made without an evaluation plan");
    if (batches < 1)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%lld batches: at least 1 is needed",
                         (long long)batches);
    for (int64_t i = 0; i < batches; i++) {
        self->eval_feed.first = (i * self->world + self->rank) * self->batch;
        TSR_TRY(tsr_executor_enqueue(self->evaluator, fill, &self->eval_feed));
        TSR_TRY(tsr_executor_walk(self->evaluator, TSR_MICRO_FIRST));
        TSR_TRY(tsr_executor_synchronize(self->evaluator));
        sum += *self->eval_loss;
    }
    TSR_TRY(sum_over_ranks(self, sum, out_loss));
    *out_loss /= (double)(batches * self->world * self->batch * self->seq);
    return TSR_OK;
}

/* ---- checkpoints ---- */

tsr_status tsr_trainer_save(tsr_trainer *self, const char *dir,
                            const tsr_gpt_config *model) {
    tsr_checkpoint_info info = {.step = self->step,
                                .samples =
                                    self->step * tsr_trainer_global_batch(self),
                                .seed = self->options.seed,
                                .world = self->world,
                                .batch = self->batch,
                                .accumulate = self->options.micro_steps,
                                .seq = self->seq};
    return tsr_checkpoint_save(dir, &info, model, self->tensors.data,
                               self->tensors.count, self->bootstrap);
}

static tsr_status load(tsr_trainer *self, const char *path) {
    tsr_status status = TSR_OK;
    char *folder = NULL;
    tsr_checkpoint_info info;
    int64_t global = tsr_trainer_global_batch(self);
    TSR_TRY_GOTO(tsr_checkpoint_find(path, &folder));
    TSR_TRY_GOTO(tsr_checkpoint_read_info(folder, &info));
    if (info.seed != self->options.seed || info.seq != self->seq ||
        info.world * info.batch * info.accumulate != global) {
        status = tsr_error(
            TSR_INVALID_ARGUMENT,
            "%s was written with --seed %llu --seq %lld and %lld sequences a "
            "step (--ranks x --batch x --accumulate), this run has --seed %llu "
            "--seq %lld and %lld: the order of samples would change",
            folder, (unsigned long long)info.seed, (long long)info.seq,
            (long long)(info.world * info.batch * info.accumulate),
            (unsigned long long)self->options.seed, (long long)self->seq,
            (long long)global);
        goto done;
    }
    TSR_TRY_GOTO(tsr_checkpoint_load(folder, self->tensors.data,
                                     self->tensors.count, self->rank, true));
    self->step = info.step;
done:
    tsr_free(folder);
    return status;
}

tsr_status tsr_trainer_load(tsr_trainer *self, const char *path) {
    return tsr_trainer_agree(self, load(self, path));
}
