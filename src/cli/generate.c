/* tessera generate: text from a checkpoint, one byte after the other, through a
 * decode plan with a key/value cache. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <Random123/philox.h>

#include "base/os.h"
#include "base/text.h"
#include "cli/options.h"
#include "tessera/train.h"
#include "train/checkpoint.h"
#include "train/config.h"
#include "train/corpus.h"

typedef struct generate_flags {
    const char *model, *prompt, *dtype;
    int64_t tokens, top_k, seed, threads;
    double temperature;
} generate_flags;

#define DEFAULT_TOKENS 200 /* what a screen shows at a glance */

#define AT(member) offsetof(generate_flags, member)

static const option_row rows[] = {
    {"model", OPTION_TEXT, AT(model), 0, 0, "DIR",
     "a checkpoint: DIR/step-N, or DIR for its newest"},
    {"prompt", OPTION_PROSE, AT(prompt), 0, 0, "TEXT",
     "what the text begins with (default: a new document)"},
    {"tokens", OPTION_INT, AT(tokens), 1, 16777216, "N",
     "bytes to generate (default: as many as fit, at most 200)"},
    {"temperature", OPTION_REAL, AT(temperature), 0, 100, "T",
     "0: always the likeliest byte (default 0.8)"},
    {"top-k", OPTION_INT, AT(top_k), 0, 16777216, "K",
     "choose among the K likeliest; 0: all (default 40)"},
    {"seed", OPTION_INT, AT(seed), 0, 9e15, "S", "of the choices (default 1)"},
    {"dtype", OPTION_TEXT, AT(dtype), 0, 0, "TYPE",
     "to compute in: f32 (default) or bf16"},
    {"threads", OPTION_INT, AT(threads), 1, 1024, "N",
     "threads (default: all processors)"},
};

static int run(int argc, char **argv);

const cli_command generate_command = {
    .name = "generate",
    .summary = "Continues a text with a trained model.",
    .usage = "--model DIR [--prompt TEXT] [options]",
    .examples =
        "  tessera generate --model run --prompt \"The \" --tokens 100\n"
        "  tessera generate --model run/step-200 --temperature 0 --prompt "
        "\"Once\"\n",
    .rows = rows,
    .row_count = sizeof rows / sizeof *rows,
    .run = run,
};

typedef struct decoder {
    generate_flags flags;
    char *folder; /* owned, like all below */
    tsr_gpt_config config;
    tsr_op_table *ops;
    tsr_kernel_table *kernels;
    tsr_plan *plan;
    tsr_bootstrap *bootstrap;
    tsr_comm *comm;
    tsr_device *device;
    tsr_arena *arena;
    tsr_executor *executor;
    int32_t *token, *position; /* in the arena */
    float *logits;             /* (vocab) in the arena */
    int32_t *order;            /* (vocab) scratch of top-k */
} decoder;

/* ---- making ---- */

static tsr_status compile(decoder *self, int64_t capacity) {
    tsr_graph *graph;
    tsr_workspace_query query = {.threads = (int)self->flags.threads};
    tsr_target target = {.world = 1,
                         .shared = true,
                         .gather_alias = true,
                         .workspace = tsr_kernel_workspace,
                         .workspace_context = &query};
    TSR_TRY(tsr_op_table_create(&self->ops));
    TSR_TRY(tsr_kernel_table_create(TSR_KERNELS_CPU, &self->kernels));
    query.kernels = self->kernels;
    target.products =
        tsr_kernel_table_products(self->kernels, self->config.dtype);
    TSR_TRY(tsr_graph_create(self->ops, &graph));
    tsr_status status = tsr_gpt_build_decode(graph, &self->config, capacity);
    if (status != TSR_OK) {
        tsr_graph_release(graph);
        return status;
    }
    TSR_TRY(tsr_compile_forward(graph, &target, &self->plan));
    self->plan->target.workspace = NULL; /* the query was ours, and is over */
    size_t needed = tsr_plan_host_bytes(self->plan),
           available = tsr_os_memory_available();
    if (needed > available)
        return tsr_error(
            TSR_OUT_OF_MEMORY,
            "the model needs %zu bytes of memory, %zu are available", needed,
            available);
    return TSR_OK;
}

static void *find(const decoder *self, const char *name) {
    return tsr_arena_address(self->arena, 0,
                             tsr_graph_find(self->plan->graph, name));
}

/* Where the plan keeps what its gathers read. */
static tsr_value_id param_shard(const tsr_graph *graph, int param) {
    tsr_value_id id = {0};
    while (tsr_graph_value(graph, id)->role != TSR_ROLE_PARAM_SHARD ||
           tsr_graph_value(graph, id)->param.index != param)
        id.index++;
    return id;
}

static tsr_status load(decoder *self) {
    const tsr_graph *graph = self->plan->graph;
    size_t count = (size_t)tsr_graph_param_count(graph);
    tsr_checkpoint_tensor *tensors;
    TSR_TRY(tsr_alloc(count, sizeof *tensors, (void **)&tensors));
    for (size_t p = 0; p < count; p++) {
        const tsr_param *param =
            tsr_graph_param_at(graph, (tsr_param_id){(int32_t)p});
        tsr_value_id shard = param_shard(graph, (int)p);
        void *memory = tsr_arena_address(self->arena, 0, shard);
        bool rounded = tsr_graph_value(graph, shard)->type.dtype == TSR_BF16;
        tensors[p] = (tsr_checkpoint_tensor){
            .name = param->name,
            .type = param->type,
            .shard_count = (size_t)tsr_shard_count(param, 1),
            .weights = rounded ? NULL : memory,
            .twin = rounded ? memory : NULL};
        tensors[p].type.dtype = param->stored;
    }
    tsr_status status =
        tsr_checkpoint_load(self->folder, tensors, count, 0, false);
    tsr_free(tensors);
    return status;
}

static tsr_status start(decoder *self) {
    const tsr_plan *plans[1] = {self->plan};
    tsr_cpu_options cpu = {.threads = (int)self->flags.threads};
    TSR_TRY(tsr_bootstrap_create_solo(&self->bootstrap));
    TSR_TRY(tsr_device_create_cpu(&cpu, &self->device));
    TSR_TRY(tsr_comm_create_host(self->bootstrap, &(tsr_comm_options){0},
                                 &self->comm));
    TSR_TRY(tsr_arena_create(self->device, self->comm, plans, 1, &self->arena));
    tsr_executor_options options = {.arena = self->arena,
                                    .kernels = self->kernels,
                                    .device = self->device,
                                    .gather_comm = self->comm,
                                    .reduce_comm = self->comm};
    TSR_TRY(tsr_executor_create(&options, &self->executor));
    TSR_TRY(load(self));
    self->token = find(self, "tokens");
    self->position = find(self, "position");
    self->logits = find(self, "logits");
    return tsr_alloc((size_t)self->config.vocab, sizeof *self->order,
                     (void **)&self->order);
}

/* The tokens to generate, where --tokens does not say, and the positions they
 * take together with the prompt, or with the separator in its place. */
static tsr_status choose_length(decoder *self, int64_t *out_capacity) {
    generate_flags *flags = &self->flags;
    int64_t prompt = flags->prompt ? (int64_t)strlen(flags->prompt) : 0,
            first = prompt > 0 ? prompt : 1, room = self->config.seq - first;
    if (room < 1)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "a prompt of %lld bytes leaves none of the model's "
                         "%lld positions for an answer: shorten it",
                         (long long)prompt, (long long)self->config.seq);
    if (flags->tokens > room)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "a prompt of %lld bytes and --tokens %lld exceed the "
                         "model's %lld positions",
                         (long long)prompt, (long long)flags->tokens,
                         (long long)self->config.seq);
    if (flags->tokens == 0)
        flags->tokens = room < DEFAULT_TOKENS ? room : DEFAULT_TOKENS;
    *out_capacity = first + flags->tokens;
    return TSR_OK;
}

static tsr_status open_decoder(decoder *self) {
    generate_flags *flags = &self->flags;
    int64_t capacity = 0;
    if (!flags->model)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--model is missing: name a checkpoint's folder");
    tsr_status status = tsr_checkpoint_find(flags->model, &self->folder);
    if (status != TSR_OK)
        return tsr_error_at(status, "--model");
    TSR_TRY(tsr_config_read(self->folder, &self->config));
    TSR_TRY(options_dtype(flags->dtype, &self->config.dtype));
    if (self->config.vocab < TSR_CORPUS_VOCAB)
        return tsr_error(TSR_UNSUPPORTED,
                         "%s knows %lld tokens; bytes and the mark between "
                         "documents need %d",
                         self->folder, (long long)self->config.vocab,
                         TSR_CORPUS_VOCAB);
    TSR_TRY(choose_length(self, &capacity));
    TSR_TRY(compile(self, capacity));
    return start(self);
}

static void close_decoder(decoder *self) {
    tsr_free(self->order);
    tsr_executor_release(self->executor);
    tsr_arena_release(self->arena);
    tsr_comm_release(self->comm);
    tsr_device_release(self->device);
    tsr_bootstrap_release(self->bootstrap);
    tsr_plan_release(self->plan);
    tsr_kernel_table_release(self->kernels);
    tsr_op_table_release(self->ops);
    tsr_free(self->folder);
}

/* ---- choosing ---- */

/* Moves the `count` likeliest tokens to the front of `order` (quickselect; ties
 * by token). */
static void select_top(int32_t *order, int64_t total, int64_t count,
                       const float *logits) {
    int64_t low = 0, high = total - 1;
    while (low < high) {
        float pivot = logits[order[(low + high) / 2]];
        int64_t i = low, j = high;
        while (i <= j) {
            while (logits[order[i]] > pivot)
                i++;
            while (logits[order[j]] < pivot)
                j--;
            if (i > j)
                break;
            int32_t swapped = order[i];
            order[i++] = order[j];
            order[j--] = swapped;
        }
        if (count - 1 <= j)
            high = j;
        else if (count - 1 >= i)
            low = i;
        else
            return;
    }
}

static double uniform(int64_t seed, int64_t draw) {
    philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    philox4x32_ctr_t counter = {{(uint32_t)draw, (uint32_t)(draw >> 32), 0, 0}};
    return ((double)philox4x32(counter, key).v[0] + 0.5) / 4294967296.0;
}

static tsr_status choose(decoder *self, int64_t draw, int32_t *out_token) {
    const generate_flags *flags = &self->flags;
    int64_t vocab = self->config.vocab,
            count =
                flags->top_k > 0 && flags->top_k < vocab ? flags->top_k : vocab;
    int32_t best = 0;
    for (int32_t i = 0; i < vocab; i++) {
        if (!isfinite(self->logits[i]))
            return tsr_error(
                TSR_INVALID_DATA,
                "%s gives logits that are not finite: its weights are damaged",
                self->folder);
        self->order[i] = i;
        best = self->logits[i] > self->logits[best] ? i : best;
    }
    *out_token = best;
    if (flags->temperature == 0)
        return TSR_OK;
    select_top(self->order, vocab, count, self->logits);
    double sum = 0, highest = self->logits[best];
    for (int64_t i = 0; i < count; i++)
        sum +=
            exp((self->logits[self->order[i]] - highest) / flags->temperature);
    double target = uniform(flags->seed, draw) * sum;
    for (int64_t i = 0; i < count; i++) {
        target -=
            exp((self->logits[self->order[i]] - highest) / flags->temperature);
        *out_token = self->order[i];
        if (target < 0)
            break;
    }
    return TSR_OK;
}

static tsr_status decode(decoder *self, int32_t token, int32_t position) {
    *self->token = token;
    *self->position = position;
    TSR_TRY(tsr_executor_walk(self->executor, TSR_MICRO_FIRST));
    return tsr_executor_synchronize(self->executor);
}

static void print_token(int32_t token) {
    if (token == TSR_CORPUS_SEPARATOR)
        putchar('\n');
    else
        putchar(token < 256 ? token : '?');
    fflush(stdout);
}

static tsr_status generate(decoder *self) {
    const unsigned char *prompt =
        (const unsigned char *)(self->flags.prompt ? self->flags.prompt : "");
    int32_t position = 0, token = prompt[0] ? prompt[0] : TSR_CORPUS_SEPARATOR;
    fputs((const char *)prompt, stdout);
    TSR_TRY(decode(self, token, position++));
    for (size_t i = 1; prompt[0] && prompt[i]; i++)
        TSR_TRY(decode(self, prompt[i], position++));
    for (int64_t i = 0; i < self->flags.tokens; i++) {
        TSR_TRY(choose(self, i, &token));
        print_token(token);
        if (i + 1 < self->flags.tokens)
            TSR_TRY(decode(self, token, position++));
    }
    putchar('\n');
    return TSR_OK;
}

static int run(int argc, char **argv) {
    decoder self = {
        .flags = {.dtype = "f32", .top_k = 40, .seed = 1, .temperature = 0.8}};
    int code = options_parse(&generate_command, argc, argv, &self.flags);
    if (code >= 0)
        return code;
    int rank, world;
    if (tsr_mpi_launched(&rank, &world) && world > 1)
        return rank > 0 ? 2
                        : options_mistake(&generate_command,
                                          "an MPI launcher started several of "
                                          "it, and it runs as one: leave the "
                                          "launcher out");
    if (self.flags.threads == 0)
        self.flags.threads = tsr_os_processors();
    tsr_status status = open_decoder(&self);
    if (status == TSR_OK)
        status = generate(&self);
    code = status == TSR_OK ? 0 : fail(&generate_command, tsr_last_error());
    close_decoder(&self);
    return code;
}
