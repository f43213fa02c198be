#include "train/config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "train/corpus.h"
#include "train/file.h"
#include "train/json.h"

/* GPT-2's own tokens, and its end of text. */
#define GPT2_VOCAB 50257
#define GPT2_END 50256
/* GPT2Config's default. */
#define DEFAULT_NORM_EPS 1e-5

/* Fields of one value each: with any other, the model is not the one we build.
 * All may be absent. */
static const struct {
    const char *key;
    bool value;
} switches[] = {
    {"tie_word_embeddings", true},
    {"scale_attn_weights", true},
    {"scale_attn_by_inverse_layer_idx", false},
    {"add_cross_attention", false},
};

static tsr_status check_type(const json_t *object, const char *path) {
    const json_t *value = json_object_get(object, "model_type");
    if (!json_is_string(value))
        return tsr_error(TSR_INVALID_DATA, "%s has no \"model_type\"", path);
    if (strcmp(json_string_value(value), "gpt2") != 0)
        return tsr_error(TSR_UNSUPPORTED,
                         "%s describes a model of type \"%.80s\"; only "
                         "\"gpt2\" can be read",
                         path, json_string_value(value));
    return TSR_OK;
}

/* "gelu_pytorch_tanh" is transformers' other name of the same function. */
static tsr_status check_activation(const json_t *object, const char *path) {
    const json_t *value = json_object_get(object, "activation_function");
    if (!value)
        return TSR_OK;
    if (!json_is_string(value))
        return tsr_error(TSR_INVALID_DATA,
                         "%s: \"activation_function\" is not a string", path);
    const char *name = json_string_value(value);
    if (strcmp(name, "gelu_new") != 0 && strcmp(name, "gelu_pytorch_tanh") != 0)
        return tsr_error(TSR_UNSUPPORTED,
                         "%s asks for the activation \"%.80s\"; only "
                         "\"gelu_new\" can be computed",
                         path, name);
    return TSR_OK;
}

static tsr_status check_switches(const json_t *object, const char *path) {
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++) {
        const json_t *value = json_object_get(object, switches[i].key);
        if (!value)
            continue;
        if (!json_is_boolean(value))
            return tsr_error(TSR_INVALID_DATA,
                             "%s: \"%s\" is neither true nor false", path,
                             switches[i].key);
        if (json_is_true(value) != switches[i].value)
            return tsr_error(TSR_UNSUPPORTED,
                             "%s: \"%s\" is %s; only models where it is %s can "
                             "be built",
                             path, switches[i].key,
                             switches[i].value ? "false" : "true",
                             switches[i].value ? "true" : "false");
    }
    return TSR_OK;
}

/* The inner width of a block's MLP is 4 * dim, which is what null means. */
static tsr_status check_inner(const json_t *object, const char *path,
                              int64_t dim) {
    const json_t *value = json_object_get(object, "n_inner");
    int64_t inner;
    if (!value || json_is_null(value))
        return TSR_OK;
    TSR_TRY(tsr_json_int(object, path, "n_inner", 1, &inner));
    if (inner % 4 != 0 || inner / 4 != dim)
        return tsr_error(TSR_UNSUPPORTED,
                         "%s: \"n_inner\" is %lld; only 4 * n_embd can be "
                         "built",
                         path, (long long)inner);
    return TSR_OK;
}

static tsr_status read_norm_eps(const json_t *object, const char *path,
                                double *out_eps) {
    const json_t *value = json_object_get(object, "layer_norm_epsilon");
    *out_eps = DEFAULT_NORM_EPS;
    if (!value)
        return TSR_OK;
    if (!json_is_number(value))
        return tsr_error(TSR_INVALID_DATA,
                         "%s: \"layer_norm_epsilon\" is not a number", path);
    *out_eps = json_number_value(value);
    return TSR_OK;
}

static tsr_status read_fields(const json_t *object, const char *path,
                              tsr_gpt_config *config) {
    TSR_TRY(check_type(object, path));
    TSR_TRY(check_activation(object, path));
    TSR_TRY(check_switches(object, path));
    TSR_TRY(tsr_json_int(object, path, "n_layer", 1, &config->layers));
    TSR_TRY(tsr_json_int(object, path, "n_head", 1, &config->heads));
    TSR_TRY(tsr_json_int(object, path, "n_embd", 1, &config->dim));
    TSR_TRY(tsr_json_int(object, path, "vocab_size", 1, &config->vocab));
    TSR_TRY(tsr_json_int(object, path, "n_positions", 1, &config->seq));
    TSR_TRY(check_inner(object, path, config->dim));
    TSR_TRY(read_norm_eps(object, path, &config->norm_eps));
    if (tsr_gpt_validate(config) != TSR_OK)
        return tsr_error_at(TSR_INVALID_DATA, "%s", path);
    return TSR_OK;
}

tsr_status tsr_config_read(const char *folder, tsr_gpt_config *out_config) {
    tsr_status status = TSR_OK;
    tsr_gpt_config config = {0};
    json_t *object = NULL;
    char *path = NULL;

    TSR_TRY_GOTO(tsr_file_join(folder, TSR_CONFIG_MODEL, &path));
    TSR_TRY_GOTO(tsr_json_read(path, &object));
    TSR_TRY_GOTO(read_fields(object, path, &config));
    *out_config = config;
done:
    json_decref(object);
    tsr_free(path);
    return status;
}

/* The shortest decimal that reads back as the same value. */
static void append_real(tsr_text *text, double value) {
    char digits[40];
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    tsr_text_append(text, "%s", digits);
}

/* Both ends of a text, as two lines of an object. */
static void append_ends(tsr_text *text, int64_t vocab) {
    if (vocab < TSR_CORPUS_VOCAB) {
        tsr_text_append(text, "  \"bos_token_id\": null,\n"
                              "  \"eos_token_id\": null,\n");
        return;
    }
    int end = vocab == GPT2_VOCAB ? GPT2_END : TSR_CORPUS_SEPARATOR;
    tsr_text_append(text,
                    "  \"bos_token_id\": %d,\n"
                    "  \"eos_token_id\": %d,\n",
                    end, end);
}

static void print_model(tsr_text *text, const tsr_gpt_config *config) {
    tsr_text_append(text, "{\n"
                          "  \"activation_function\": \"gelu_new\",\n"
                          "  \"architectures\": [\"GPT2LMHeadModel\"],\n"
                          "  \"attn_pdrop\": 0.0,\n");
    append_ends(text, config->vocab);
    tsr_text_append(text, "  \"embd_pdrop\": 0.0,\n"
                          "  \"layer_norm_epsilon\": ");
    append_real(text, config->norm_eps);
    tsr_text_append(text,
                    ",\n"
                    "  \"model_type\": \"gpt2\",\n"
                    "  \"n_ctx\": %lld,\n"
                    "  \"n_embd\": %lld,\n"
                    "  \"n_head\": %lld,\n"
                    "  \"n_inner\": null,\n"
                    "  \"n_layer\": %lld,\n"
                    "  \"n_positions\": %lld,\n"
                    "  \"resid_pdrop\": 0.0,\n"
                    "  \"tie_word_embeddings\": true,\n"
                    "  \"torch_dtype\": \"float32\",\n"
                    "  \"use_cache\": true,\n"
                    "  \"vocab_size\": %lld\n"
                    "}\n",
                    (long long)config->seq, (long long)config->dim,
                    (long long)config->heads, (long long)config->layers,
                    (long long)config->seq, (long long)config->vocab);
}

static tsr_status write_text(const char *folder, const char *name,
                             const tsr_text *text) {
    char *path;
    TSR_TRY(tsr_text_status(text));
    TSR_TRY(tsr_file_join(folder, name, &path));
    tsr_status status = tsr_file_write(path, text->data, text->count);
    tsr_free(path);
    return status;
}

tsr_status tsr_config_write(const char *folder, const tsr_gpt_config *config) {
    tsr_status status = TSR_OK;
    tsr_text model = {0}, generation = {0};

    TSR_TRY_GOTO(tsr_gpt_validate(config));
    print_model(&model, config);
    tsr_text_append(&generation, "{\n");
    append_ends(&generation, config->vocab);
    tsr_text_append(&generation, "  \"_from_model_config\": true\n"
                                 "}\n");
    TSR_TRY_GOTO(write_text(folder, TSR_CONFIG_MODEL, &model));
    TSR_TRY_GOTO(write_text(folder, TSR_CONFIG_GENERATION, &generation));
done:
    tsr_text_release(&model);
    tsr_text_release(&generation);
    return status;
}
