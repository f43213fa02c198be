/* GPT-2 as a graph. Letters: B sequences, T tokens, C = dim, V = vocab. */
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "tessera/models.h"
#include "tessera/ops.h"

static const struct {
    const char *name;
    tsr_gpt_config config;
} presets[] = {
    {"gpt2", {12, 12, 768, 50257, 1024, 1e-5, TSR_F32}},
    {"gpt2-medium", {24, 16, 1024, 50257, 1024, 1e-5, TSR_F32}},
    {"gpt2-large", {36, 20, 1280, 50257, 1024, 1e-5, TSR_F32}},
    {"gpt2-xl", {48, 25, 1600, 50257, 1024, 1e-5, TSR_F32}},
    {"gpt2-tiny", {2, 2, 64, 257, 64, 1e-5, TSR_F32}},
};

tsr_status tsr_gpt_preset(const char *name, tsr_gpt_config *out_config) {
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        if (strcmp(presets[i].name, name) == 0) {
            *out_config = presets[i].config;
            return TSR_OK;
        }
    }
    return tsr_error(TSR_NOT_FOUND,
                     "unknown model '%s'; known: gpt2, gpt2-medium, "
                     "gpt2-large, gpt2-xl, gpt2-tiny",
                     name);
}

static tsr_status check_field(const char *name, int64_t value, int64_t most) {
    if (value < 1 || value > most)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%s is %lld, must be in [1, %lld]", name,
                         (long long)value, (long long)most);
    return TSR_OK;
}

/* Bounds far above any model, low enough that sizes in bytes fit 64 bits. */
tsr_status tsr_gpt_validate(const tsr_gpt_config *config) {
    TSR_TRY(check_field("layers", config->layers, 4096));
    TSR_TRY(check_field("heads", config->heads, 4096));
    TSR_TRY(check_field("dim", config->dim, 1 << 20));
    TSR_TRY(check_field("vocab", config->vocab, 1 << 24));
    TSR_TRY(check_field("seq", config->seq, 1 << 24));
    if (config->dim % config->heads != 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "dim %lld is not divisible by heads %lld",
                         (long long)config->dim, (long long)config->heads);
    if (!(config->norm_eps > 0 && config->norm_eps < 1))
        return tsr_error(
            TSR_INVALID_ARGUMENT,
            "the layer norm's epsilon is %g, must be between 0 and 1",
            config->norm_eps);
    if (config->dtype != TSR_F32 && config->dtype != TSR_BF16)
        return tsr_error(TSR_UNSUPPORTED,
                         "a model cannot be computed in %s; it can in f32 and "
                         "bf16%s",
                         tsr_dtype_name(config->dtype),
                         config->dtype == TSR_F16
                             ? " (f16's small gradients would be lost without "
                               "scaling of the loss)"
                             : "");
    return TSR_OK;
}

int64_t tsr_gpt_param_count(const tsr_gpt_config *config) {
    int64_t dim = config->dim;
    return (config->vocab + config->seq) * dim +
           config->layers * (12 * dim * dim + 13 * dim) + 2 * dim;
}

/* ---- parameters ---- */

/* Standard deviation of GPT-2's weights; the projections into the residual
 * stream get 1/sqrt(2 * layers) of it. */
#define WEIGHT_STD 0.02

typedef struct builder {
    tsr_graph *graph;
    const tsr_gpt_config *config;
    int group;         /* of the next parameter */
    const char *block; /* "h.3" */
} builder;

static tsr_value_id matrix(builder *self, const char *name, int64_t rows,
                           int64_t columns, double std) {
    return tsr_graph_param(self->graph,
                           &(tsr_param){.name = name,
                                        .type = {.dtype = self->config->dtype,
                                                 .dims = 2,
                                                 .shape = {rows, columns}},
                                        .stored = TSR_F32,
                                        .group = self->group,
                                        .init = TSR_INIT_NORMAL,
                                        .init_value = std,
                                        .decay = true});
}

static tsr_value_id vector(builder *self, const char *name, int64_t count,
                           double value) {
    return tsr_graph_param(
        self->graph,
        &(tsr_param){
            .name = name,
            .type = {.dtype = self->config->dtype, .dims = 1, .shape = {count}},
            .stored = TSR_F32,
            .group = self->group,
            .init_value = value});
}

#define NAME_BYTES 64

static const char *block_name(const builder *self, const char *rest,
                              char buffer[NAME_BYTES]) {
    snprintf(buffer, NAME_BYTES, "%.24s.%.32s", self->block, rest);
    return buffer;
}

static tsr_value_id norm(builder *self, const char *weight, const char *bias,
                         tsr_value_id x) {
    tsr_value_id scale = vector(self, weight, self->config->dim, 1),
                 shift = vector(self, bias, self->config->dim, 0);
    return tsr_layer_norm(self->graph, x, scale, shift, self->config->norm_eps);
}

static tsr_value_id block_norm(builder *self, const char *weight,
                               const char *bias, tsr_value_id x) {
    char first[NAME_BYTES], second[NAME_BYTES];
    return norm(self, block_name(self, weight, first),
                block_name(self, bias, second), x);
}

static tsr_value_id block_linear(builder *self, const char *weight,
                                 const char *bias, tsr_value_id x, int64_t in,
                                 int64_t out, double std) {
    char name[NAME_BYTES];
    tsr_value_id w = matrix(self, block_name(self, weight, name), in, out, std);
    tsr_value_id b = vector(self, block_name(self, bias, name), out, 0);
    return tsr_linear(self->graph, x, w, b, TSR_WEIGHT_IN_OUT);
}

/* ---- layers ---- */

/* 1/sqrt(2n) without libm's rounding differences: Newton's iteration in double.
 */
static double residual_std(int64_t layers) {
    double target = 2.0 * (double)layers, root = target;
    for (int i = 0; i < 64; i++)
        root = 0.5 * (root + target / root);
    return WEIGHT_STD / root;
}

/* Key and value caches of a block for decoding; none while training. */
typedef struct caches {
    tsr_value_id position;
    int64_t capacity;
} caches;

static tsr_value_id attend(builder *self, tsr_value_id qkv,
                           const caches *cached) {
    int heads = (int)self->config->heads;
    char name[NAME_BYTES];
    if (!cached)
        return tsr_attention(self->graph, qkv, heads, heads);
    tsr_type type = {.dtype = self->config->dtype,
                     .dims = 4,
                     .shape = {1, heads, cached->capacity,
                               self->config->dim / self->config->heads}};
    tsr_value_id k = tsr_graph_declare(self->graph, block_name(self, "k", name),
                                       TSR_ROLE_STATE, &type);
    tsr_value_id v = tsr_graph_declare(self->graph, block_name(self, "v", name),
                                       TSR_ROLE_STATE, &type);
    return tsr_attention_cached(self->graph, qkv, k, v, cached->position, heads,
                                heads);
}

/* x (B, T, C) -> (B, T, C) */
static tsr_value_id block(builder *self, tsr_value_id x, const caches *cached) {
    tsr_graph *graph = self->graph;
    int64_t dim = self->config->dim;
    double std = residual_std(self->config->layers);
    char layer[NAME_BYTES];

    tsr_graph_set_layer(graph, block_name(self, "attn", layer));
    tsr_value_id y = block_norm(self, "ln_1.weight", "ln_1.bias", x);
    y = block_linear(self, "attn.c_attn.weight", "attn.c_attn.bias", y, dim,
                     3 * dim, WEIGHT_STD); /* (B, T, 3C) */
    y = attend(self, y, cached);
    y = block_linear(self, "attn.c_proj.weight", "attn.c_proj.bias", y, dim,
                     dim, std);
    x = tsr_add(graph, y, x);

    tsr_graph_set_layer(graph, block_name(self, "mlp", layer));
    y = block_norm(self, "ln_2.weight", "ln_2.bias", x);
    y = block_linear(self, "mlp.c_fc.weight", "mlp.c_fc.bias", y, dim, 4 * dim,
                     WEIGHT_STD); /* (B, T, 4C) */
    y = tsr_gelu(graph, y);
    y = block_linear(self, "mlp.c_proj.weight", "mlp.c_proj.bias", y, 4 * dim,
                     dim, std);
    return tsr_add(graph, y, x);
}

/* Logits (B, T, V) of tokens (B, T). */
static tsr_value_id forward(builder *self, tsr_value_id tokens,
                            const caches *cached) {
    tsr_graph *graph = self->graph;
    const tsr_gpt_config *config = self->config;

    tsr_graph_set_layer(graph, "embed");
    tsr_value_id wte =
        matrix(self, "wte.weight", config->vocab, config->dim, WEIGHT_STD);
    self->group++;
    tsr_value_id wpe =
        matrix(self, "wpe.weight", config->seq, config->dim, WEIGHT_STD / 2);
    tsr_value_id x = tsr_embedding(graph, tokens, wte);
    x = tsr_position_add(graph, x, wpe,
                         cached ? cached->position : (tsr_value_id){-1});
    for (int64_t i = 0; i < config->layers; i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "h.%lld", (long long)i);
        self->block = name;
        self->group++;
        x = block(self, x, cached);
    }
    tsr_graph_set_layer(graph, "head");
    self->group++;
    x = norm(self, "ln_f.weight", "ln_f.bias", x);
    return tsr_linear(graph, x, wte, (tsr_value_id){-1}, TSR_WEIGHT_OUT_IN);
}

tsr_status tsr_gpt_build(tsr_graph *graph, const tsr_gpt_config *config,
                         int64_t batch, int64_t seq, double loss_scale) {
    builder self = {.graph = graph, .config = config};
    TSR_TRY(tsr_gpt_validate(config));
    if (batch < 1 || batch > 1 << 24)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "batch is %lld, must be in [1, 2^24]",
                         (long long)batch);
    if (seq < 1 || seq > config->seq)
        return tsr_error(
            TSR_INVALID_ARGUMENT,
            "sequences of %lld tokens do not fit the model's %lld positions",
            (long long)seq, (long long)config->seq);
    tsr_type ids = {.dtype = TSR_I32, .dims = 2, .shape = {batch, seq}};
    tsr_type scalar = {.dtype = TSR_F32, .dims = 1, .shape = {1}};
    tsr_value_id tokens =
        tsr_graph_declare(graph, "tokens", TSR_ROLE_INPUT, &ids);
    tsr_value_id targets =
        tsr_graph_declare(graph, "targets", TSR_ROLE_INPUT, &ids);
    tsr_value_id loss =
        tsr_graph_declare(graph, "loss", TSR_ROLE_STATE, &scalar);
    tsr_value_id logits = forward(&self, tokens, NULL);
    tsr_graph_set_loss(graph, tsr_cross_entropy(graph, logits, targets, loss,
                                                config->vocab, loss_scale));
    return tsr_graph_status(graph);
}

tsr_status tsr_gpt_build_decode(tsr_graph *graph, const tsr_gpt_config *config,
                                int64_t capacity) {
    builder self = {.graph = graph, .config = config};
    TSR_TRY(tsr_gpt_validate(config));
    if (capacity < 1 || capacity > config->seq)
        return tsr_error(
            TSR_INVALID_ARGUMENT,
            "a cache of %lld tokens does not fit the model's %lld positions",
            (long long)capacity, (long long)config->seq);
    tsr_type token = {.dtype = TSR_I32, .dims = 2, .shape = {1, 1}};
    tsr_type position = {.dtype = TSR_I32, .dims = 1, .shape = {1}};
    tsr_value_id tokens =
        tsr_graph_declare(graph, "tokens", TSR_ROLE_INPUT, &token);
    caches cached = {.position = tsr_graph_declare(graph, "position",
                                                   TSR_ROLE_INPUT, &position),
                     .capacity = capacity};
    tsr_type logits = {
        .dtype = TSR_F32, .dims = 3, .shape = {1, 1, config->vocab}};
    tsr_value_id made = forward(&self, tokens, &cached);
    if (config->dtype != TSR_F32)
        made = tsr_cast(graph, made, TSR_F32);
    tsr_store(graph, made,
              tsr_graph_declare(graph, "logits", TSR_ROLE_STATE, &logits));
    return tsr_graph_status(graph);
}
