/* Trains a small GPT on given samples and writes down everything that another
 * implementation needs to follow it: OUT/dump.safetensors, all f32, with
 *
 *   logits, loss            of the first batch, before training
 *   init.NAME, grad.NAME    each parameter, and its gradient in the first step
 *   losses, rates, norms    (steps) what the trainer reported
 *   final.logits, final.NAME   after the last step
 *
 * and a checkpoint in OUT/step-N. One rank. test_parity.py calls it.
 *
 * The samples are rows of seq + 1 numbers i32 in a file; each token's
 * target is its successor. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "train/config.h"
#include "train/safetensors_writer.h"
#include "train/trainer.h"

/* ---- command line ---- */

typedef struct dump_flags {
    const char *kernels, *gather, *samples, *load, *out; /* load: "" for none */
    int64_t layers, heads, dim, vocab, positions; /* ignored with `load` */
    int64_t seq, batch, accumulate, steps, warmup, seed, threads;
    double lr, min_lr, beta1, beta2, eps, weight_decay, clip;
} dump_flags;

enum { TEXT, INT, REAL };
#define ROW(member, kind)                                                      \
    { #member, kind, offsetof(dump_flags, member) }
static const struct {
    const char *name;
    int kind;
    size_t offset;
} rows[] = {
    ROW(kernels, TEXT),   ROW(gather, TEXT), ROW(samples, TEXT),
    ROW(load, TEXT),      ROW(out, TEXT),    ROW(layers, INT),
    ROW(heads, INT),      ROW(dim, INT),     ROW(vocab, INT),
    ROW(positions, INT),  ROW(seq, INT),     ROW(batch, INT),
    ROW(accumulate, INT), ROW(steps, INT),   ROW(warmup, INT),
    ROW(seed, INT),       ROW(threads, INT), ROW(lr, REAL),
    ROW(min_lr, REAL),    ROW(beta1, REAL),  ROW(beta2, REAL),
    ROW(eps, REAL),       ROW(clip, REAL),   ROW(weight_decay, REAL),
};
enum { ROWS = sizeof rows / sizeof *rows };

/* name=value, all of them, in any order. */
static void read_flags(int argc, char **argv, dump_flags *out) {
    CHECK_MESSAGE(argc == ROWS + 1, "%d of %d flags given", argc - 1, ROWS);
    for (size_t r = 0; r < ROWS; r++) {
        size_t length = strlen(rows[r].name);
        const char *text = NULL;
        for (int i = 1; i < argc; i++)
            if (strncmp(argv[i], rows[r].name, length) == 0 &&
                argv[i][length] == '=')
                text = argv[i] + length + 1;
        CHECK_MESSAGE(text != NULL, "no %s=", rows[r].name);
        char *end = NULL;
        void *to = (char *)out + rows[r].offset;
        if (rows[r].kind == TEXT)
            *(const char **)to = text;
        else if (rows[r].kind == INT)
            *(int64_t *)to = strtoll(text, &end, 10);
        else
            *(double *)to = strtod(text, &end);
        CHECK_MESSAGE(!end || (end != text && *end == '\0'), "%s=%s",
                      rows[r].name, text);
    }
}

/* ---- samples ---- */

typedef struct sample_list {
    int32_t *data; /* (count, seq + 1); owned */
    int64_t count, seq;
} sample_list;

static void read_samples(const dump_flags *flags, sample_list *out) {
    FILE *file = fopen(flags->samples, "rb");
    CHECK_MESSAGE(file != NULL, "%s", flags->samples);
    CHECK(fseek(file, 0, SEEK_END) == 0);
    long bytes = ftell(file);
    size_t row_bytes = (size_t)(flags->seq + 1) * sizeof(int32_t);
    CHECK(bytes > 0 && (size_t)bytes % row_bytes == 0);
    rewind(file);
    *out = (sample_list){.data = malloc((size_t)bytes),
                         .count = (int64_t)((size_t)bytes / row_bytes),
                         .seq = flags->seq};
    CHECK(out->data != NULL);
    CHECK(fread(out->data, 1, (size_t)bytes, file) == (size_t)bytes);
    fclose(file);
}

static void copy_sample(const void *context, int64_t sample, int32_t *tokens,
                        int32_t *targets) {
    const sample_list *list = context;
    CHECK(sample >= 0 && sample < list->count);
    const int32_t *row = list->data + sample * (list->seq + 1);
    memcpy(tokens, row, (size_t)list->seq * sizeof *row);
    memcpy(targets, row + 1, (size_t)list->seq * sizeof *row);
}

/* ---- plans ---- */

typedef struct workspace_query {
    const tsr_kernel_table *kernels;
    int threads;
} workspace_query;

static size_t workspace(const void *context, const tsr_op_view *view) {
    const workspace_query *query = context;
    const tsr_kernel *kernel =
        tsr_kernel_table_find(query->kernels, view->op->name);
    return kernel && kernel->workspace ? kernel->workspace(view, query->threads)
                                       : 0;
}

/* Keeps the logits, which only the loss reads, in a state of that name. */
static void keep_logits(tsr_graph *graph) {
    for (int n = 0; n < tsr_graph_node_count(graph); n++) {
        const tsr_node *node = tsr_graph_node_at(graph, (tsr_node_id){n});
        if (strcmp(tsr_graph_op(graph, node)->name, "cross_entropy") != 0)
            continue;
        tsr_value_id logits = tsr_graph_inputs(graph, node)[0];
        tsr_type type = tsr_graph_value(graph, logits)->type;
        tsr_store(graph, logits,
                  tsr_graph_declare(graph, "logits", TSR_ROLE_STATE, &type));
        return;
    }
    CHECK_MESSAGE(false, "the model has no cross_entropy");
}

static tsr_plan *compile(const dump_flags *flags, const tsr_op_table *ops,
                         const tsr_gpt_config *model, const tsr_target *target,
                         bool training) {
    double tokens =
        (double)flags->batch * (double)flags->accumulate * (double)flags->seq;
    tsr_training update = {.micro_steps = (int)flags->accumulate,
                           .adamw = {.beta1 = flags->beta1,
                                     .beta2 = flags->beta2,
                                     .eps = flags->eps,
                                     .weight_decay = flags->weight_decay,
                                     .max_norm = flags->clip}};
    tsr_graph *graph;
    tsr_plan *plan;
    CHECK_OK(tsr_graph_create(ops, &graph));
    CHECK_OK(tsr_gpt_build(graph, model, flags->batch, flags->seq,
                           training ? 1 / tokens : 1));
    if (training) {
        CHECK_OK(tsr_compile_training(graph, target, &update, &plan));
    } else {
        keep_logits(graph);
        CHECK_OK(tsr_compile_forward(graph, target, &plan));
    }
    return plan;
}

/* ---- the dump ---- */

typedef struct run {
    dump_flags flags;
    tsr_gpt_config model;
    sample_list samples;
    tsr_plan *plan, *eval_plan; /* owned */
    tsr_trainer *trainer;       /* owned */
    tsr_safetensors_writer *writer;
    size_t next; /* tensor to write */
} run;

static void put(run *self, const void *data, int64_t count) {
    CHECK_OK(tsr_safetensors_write(self->writer, self->next++, 0, (size_t)count,
                                   data));
}

static tsr_type logits_type(const run *self) {
    return (tsr_type){
        .dtype = TSR_F32,
        .dims = 3,
        .shape = {self->flags.batch, self->flags.seq, self->model.vocab}};
}

/* Tensors in the order in which main writes them. */
static void create_dump(run *self, const char *path) {
    enum { NAME_BYTES = 128 };
    static const char *const kinds[] = {"init.", "grad.", "final."};
    const tsr_graph *graph = self->plan->graph;
    size_t params = (size_t)tsr_graph_param_count(graph), count = 0;
    size_t most = 6 + 3 * params;
    tsr_type scalar = {.dtype = TSR_F32, .dims = 1, .shape = {1}};
    tsr_type steps = {
        .dtype = TSR_F32, .dims = 1, .shape = {self->flags.steps}};
    tsr_safetensors_entry *entries = calloc(most, sizeof *entries);
    char(*names)[NAME_BYTES] = calloc(most, sizeof *names);
    CHECK(entries && names);
    entries[count++] = (tsr_safetensors_entry){"logits", logits_type(self)};
    entries[count++] = (tsr_safetensors_entry){"loss", scalar};
    for (size_t kind = 0; kind < 3; kind++) {
        for (size_t p = 0; p < params; p++, count++) {
            const tsr_param *param =
                tsr_graph_param_at(graph, (tsr_param_id){(int32_t)p});
            snprintf(names[count], NAME_BYTES, "%s%s", kinds[kind],
                     param->name);
            entries[count] = (tsr_safetensors_entry){names[count], param->type};
        }
    }
    entries[count++] =
        (tsr_safetensors_entry){"final.logits", logits_type(self)};
    entries[count++] = (tsr_safetensors_entry){"losses", steps};
    entries[count++] = (tsr_safetensors_entry){"rates", steps};
    entries[count++] = (tsr_safetensors_entry){"norms", steps};
    CHECK(count == most);
    CHECK_OK(tsr_safetensors_create(path, entries, count, NULL, 0));
    CHECK_OK(tsr_safetensors_writer_open(path, &self->writer));
    free(names);
    free(entries);
}

/* A value of every parameter: itself (suffix ""), or ".grad". */
static void put_params(run *self, const char *suffix) {
    const tsr_graph *graph = self->plan->graph;
    for (int32_t p = 0; p < tsr_graph_param_count(graph); p++) {
        const tsr_param *param = tsr_graph_param_at(graph, (tsr_param_id){p});
        char name[160];
        int64_t count;
        snprintf(name, sizeof name, "%s%s", param->name, suffix);
        const float *value = tsr_trainer_value(self->trainer, name, &count);
        CHECK_MESSAGE(value != NULL, "%s", name);
        CHECK(count == tsr_type_count(&param->type));
        put(self, value, count);
    }
}

/* Evaluates the first batch; its mean loss. */
static float put_logits(run *self) {
    tsr_type type = logits_type(self);
    tsr_value_id logits = tsr_graph_find(self->eval_plan->graph, "logits");
    double loss;
    CHECK_OK(tsr_trainer_evaluate(self->trainer, 1, &loss));
    put(self, tsr_arena_address(self->trainer->arena, 1, logits),
        tsr_type_count(&type));
    return (float)loss;
}

static void train(run *self) {
    size_t steps = (size_t)self->flags.steps;
    float *reported = calloc(3 * steps, sizeof *reported);
    CHECK(reported != NULL && steps > 0);
    for (size_t s = 0; s < steps; s++) {
        tsr_step_metrics metrics;
        CHECK_OK(tsr_trainer_step(self->trainer, &metrics));
        reported[s] = (float)metrics.loss;
        reported[steps + s] = (float)metrics.lr;
        reported[2 * steps + s] = (float)metrics.grad_norm;
        if (s == 0)
            put_params(self, ".grad");
    }
    put_params(self, "");
    put_logits(self);
    for (size_t k = 0; k < 3; k++)
        put(self, reported + k * steps, (int64_t)steps);
    free(reported);
}

static void dump(run *self) {
    char path[1024];
    CHECK(snprintf(path, sizeof path, "%s/dump.safetensors", self->flags.out) <
          (int)sizeof path);
    create_dump(self, path);
    float loss = put_logits(self);
    put(self, &loss, 1);
    put_params(self, "");
    train(self);
    CHECK_OK(tsr_safetensors_writer_sync(self->writer));
    tsr_safetensors_writer_release(self->writer);
    CHECK_OK(tsr_trainer_save(self->trainer, self->flags.out, &self->model));
}

/* ---- putting it together ---- */

static tsr_trainer *create_trainer(const run *self,
                                   const tsr_kernel_table *kernels,
                                   tsr_bootstrap *bootstrap) {
    const dump_flags *flags = &self->flags;
    tsr_trainer *trainer;
    tsr_samples samples = {copy_sample, &self->samples};
    tsr_trainer_options options = {.plan = self->plan,
                                   .eval_plan = self->eval_plan,
                                   .samples = samples,
                                   .eval_samples = samples,
                                   .micro_steps = (int)flags->accumulate,
                                   .rates = {.peak = flags->lr,
                                             .floor = flags->min_lr,
                                             .warmup = flags->warmup,
                                             .steps = flags->steps},
                                   .seed = (uint64_t)flags->seed,
                                   .kernels = kernels,
                                   .cpu = {.threads = (int)flags->threads}};
    CHECK_OK(tsr_trainer_create(&options, bootstrap, &trainer));
    if (flags->load[0] != '\0')
        CHECK_OK(tsr_checkpoint_load(flags->load, trainer->tensors.data,
                                     trainer->tensors.count, 0, false));
    return trainer;
}

static void choose_model(const dump_flags *flags, tsr_gpt_config *out) {
    if (flags->load[0] != '\0')
        CHECK_OK(tsr_config_read(flags->load, out));
    else
        *out = (tsr_gpt_config){.layers = flags->layers,
                                .heads = flags->heads,
                                .dim = flags->dim,
                                .vocab = flags->vocab,
                                .seq = flags->positions,
                                .norm_eps = 1e-5};
}

int main(int argc, char **argv) {
    run self = {0};
    tsr_op_table *ops;
    tsr_kernel_table *kernels;
    tsr_bootstrap *bootstrap;
    read_flags(argc, argv, &self.flags);
    const dump_flags *flags = &self.flags;
    bool ref = strcmp(flags->kernels, "ref") == 0,
         alias = strcmp(flags->gather, "alias") == 0;
    CHECK(ref || strcmp(flags->kernels, "cpu") == 0);
    CHECK(alias || strcmp(flags->gather, "copy") == 0);
    choose_model(flags, &self.model);
    read_samples(flags, &self.samples);
    CHECK_OK(tsr_op_table_create(&ops));
    CHECK_OK(tsr_kernel_table_create(ref ? TSR_KERNELS_REF : TSR_KERNELS_CPU,
                                     &kernels));
    tsr_target target = {.world = 1,
                         .shared = true,
                         .gather_alias = alias,
                         .workspace = workspace,
                         .workspace_context =
                             &(workspace_query){kernels, (int)flags->threads}};
    self.plan = compile(flags, ops, &self.model, &target, true);
    self.eval_plan = compile(flags, ops, &self.model, &target, false);
    CHECK_OK(tsr_bootstrap_create_solo(&bootstrap));
    self.trainer = create_trainer(&self, kernels, bootstrap);
    dump(&self);

    tsr_trainer_release(self.trainer);
    tsr_bootstrap_release(bootstrap);
    tsr_plan_release(self.eval_plan);
    tsr_plan_release(self.plan);
    tsr_kernel_table_release(kernels);
    tsr_op_table_release(ops);
    free(self.samples.data);
    return 0;
}
