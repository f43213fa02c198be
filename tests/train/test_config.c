/* config.json: round trip, Hugging Face's own files, refusals. */
#include "train/config.h"

#include "temp.h"

static const tsr_gpt_config tiny = {.layers = 2,
                                    .heads = 4,
                                    .dim = 32,
                                    .vocab = 257,
                                    .seq = 64,
                                    .norm_eps = 1e-5};

static char *read_text(const temp *files, const char *name) {
    static char text[4096];
    FILE *file = fopen(temp_path(files, name), "r");
    CHECK(file != NULL);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

static void check_equal(const tsr_gpt_config *a, const tsr_gpt_config *b) {
    CHECK(a->layers == b->layers && a->heads == b->heads && a->dim == b->dim);
    CHECK(a->vocab == b->vocab && a->seq == b->seq);
    CHECK(a->norm_eps == b->norm_eps);
}

static void test_round_trip(const temp *files) {
    static const double epsilons[] = {1e-5, 1e-12, 0.1, 1.0 / 3.0, 3e-6};
    for (size_t i = 0; i < sizeof epsilons / sizeof *epsilons; i++) {
        tsr_gpt_config config = tiny, read;
        config.norm_eps = epsilons[i];
        CHECK_OK(tsr_config_write(files->folder, &config));
        CHECK_OK(tsr_config_read(files->folder, &read));
        check_equal(&config, &read);
    }
}

static void test_fields(const temp *files) {
    static const char *const expected[] = {
        "\"model_type\": \"gpt2\"",
        "\"architectures\": [\"GPT2LMHeadModel\"]",
        "\"n_layer\": 2,",
        "\"n_head\": 4,",
        "\"n_embd\": 32,",
        "\"vocab_size\": 257\n",
        "\"n_positions\": 64,",
        "\"n_ctx\": 64,",
        "\"layer_norm_epsilon\": 1e-05,",
        "\"activation_function\": \"gelu_new\"",
        "\"tie_word_embeddings\": true",
        "\"attn_pdrop\": 0.0,",
        "\"embd_pdrop\": 0.0,",
        "\"resid_pdrop\": 0.0,",
        "\"torch_dtype\": \"float32\"",
    };
    CHECK_OK(tsr_config_write(files->folder, &tiny));
    const char *text = read_text(files, "config.json");
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        CHECK_MESSAGE(strstr(text, expected[i]), "%s", expected[i]);
}

static void test_end_of_text(const temp *files) {
    static const struct {
        int64_t vocab;
        const char *end;
    } cases[] = {{256, "\"eos_token_id\": null,"},
                 {257, "\"eos_token_id\": 256,"},
                 {320, "\"eos_token_id\": 256,"},
                 {50257, "\"eos_token_id\": 50256,"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tsr_gpt_config config = tiny;
        config.vocab = cases[i].vocab;
        CHECK_OK(tsr_config_write(files->folder, &config));
        CHECK(strstr(read_text(files, "config.json"), cases[i].end));
        CHECK(strstr(read_text(files, "generation_config.json"), cases[i].end));
    }
}

/* openai-community/gpt2's file, shortened by what is not about the function. */
static void test_hugging_face(const temp *files) {
    tsr_gpt_config config;
    temp_text(files, "config.json",
              "{\"activation_function\": \"gelu_new\","
              " \"architectures\": [\"GPT2LMHeadModel\"],"
              " \"attn_pdrop\": 0.1, \"bos_token_id\": 50256,"
              " \"embd_pdrop\": 0.1, \"eos_token_id\": 50256,"
              " \"initializer_range\": 0.02, \"layer_norm_epsilon\": 1e-05,"
              " \"model_type\": \"gpt2\", \"n_ctx\": 1024, \"n_embd\": 768,"
              " \"n_head\": 12, \"n_layer\": 12, \"n_positions\": 1024,"
              " \"resid_pdrop\": 0.1, \"summary_first_dropout\": 0.1,"
              " \"task_specific_params\": {\"text-generation\":"
              " {\"do_sample\": true, \"max_length\": 50}},"
              " \"vocab_size\": 50257}");
    CHECK_OK(tsr_config_read(files->folder, &config));
    check_equal(&config, &(tsr_gpt_config){.layers = 12,
                                           .heads = 12,
                                           .dim = 768,
                                           .vocab = 50257,
                                           .seq = 1024,
                                           .norm_eps = 1e-5});
    temp_text(files, "config.json",
              "{\"model_type\": \"gpt2\", \"n_embd\": 8, \"n_head\": 2,"
              " \"n_layer\": 1, \"n_positions\": 4, \"n_inner\": 32,"
              " \"activation_function\": \"gelu_pytorch_tanh\","
              " \"vocab_size\": 257}");
    CHECK_OK(tsr_config_read(files->folder, &config));
    CHECK(config.norm_eps == 1e-5);
}

/* A good configuration with one field replaced, or left out (NULL). */
static const struct {
    const char *key, *value;
    tsr_status status;
    const char *message;
} refusals[] = {
    {"model_type", NULL, TSR_INVALID_DATA, "no \"model_type\""},
    {"model_type", "7", TSR_INVALID_DATA, "no \"model_type\""},
    {"model_type", "\"llama\"", TSR_UNSUPPORTED, "type \"llama\"; only"},
    {"activation_function", "\"relu\"", TSR_UNSUPPORTED, "\"relu\"; only"},
    {"activation_function", "\"gelu\"", TSR_UNSUPPORTED, "\"gelu\"; only"},
    {"activation_function", "1", TSR_INVALID_DATA, "not a string"},
    {"tie_word_embeddings", "false", TSR_UNSUPPORTED, "\" is false; only"},
    {"tie_word_embeddings", "1", TSR_INVALID_DATA, "neither true nor false"},
    {"scale_attn_weights", "false", TSR_UNSUPPORTED, "\" is false; only"},
    {"scale_attn_by_inverse_layer_idx", "true", TSR_UNSUPPORTED, "is true"},
    {"add_cross_attention", "true", TSR_UNSUPPORTED, "is true; only"},
    {"n_inner", "33", TSR_UNSUPPORTED, "\"n_inner\" is 33"},
    {"n_inner", "\"32\"", TSR_INVALID_DATA, "\"n_inner\" is not an integer"},
    {"n_layer", NULL, TSR_INVALID_DATA, "has no \"n_layer\""},
    {"n_layer", "0", TSR_INVALID_DATA, "\"n_layer\" is 0"},
    {"n_layer", "1.0", TSR_INVALID_DATA, "\"n_layer\" is not an integer"},
    {"n_layer", "null", TSR_INVALID_DATA, "\"n_layer\" is not an integer"},
    {"n_head", "-2", TSR_INVALID_DATA, "\"n_head\" is -2"},
    {"n_head", "3", TSR_INVALID_DATA, "heads"},
    {"n_embd", "true", TSR_INVALID_DATA, "\"n_embd\" is not an integer"},
    {"vocab_size", "\"257\"", TSR_INVALID_DATA, "\"vocab_size\" is not an"},
    {"n_positions", "[4]", TSR_INVALID_DATA, "\"n_positions\" is not an"},
    {"n_positions", "99999999999999999999", TSR_INVALID_DATA, "too big"},
    {"layer_norm_epsilon", "\"1e-5\"", TSR_INVALID_DATA, "not a number"},
    {"layer_norm_epsilon", "-1e-5", TSR_INVALID_DATA, "epsilon"},
};

static void test_refusals(const temp *files) {
    static const char *const good[][2] = {{"model_type", "\"gpt2\""},
                                          {"n_layer", "1"},
                                          {"n_head", "2"},
                                          {"n_embd", "8"},
                                          {"n_positions", "4"},
                                          {"vocab_size", "9"}};
    char path[512];
    strcpy(path, temp_path(files, "config.json"));
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        char text[1024];
        tsr_gpt_config config = tiny;
        size_t used = (size_t)snprintf(text, sizeof text, "{\"x\": 0");
        for (size_t k = 0; k < sizeof good / sizeof *good; k++)
            if (strcmp(good[k][0], refusals[i].key) != 0)
                used +=
                    (size_t)snprintf(text + used, sizeof text - used,
                                     ", \"%s\": %s", good[k][0], good[k][1]);
        if (refusals[i].value)
            used += (size_t)snprintf(text + used, sizeof text - used,
                                     ", \"%s\": %s", refusals[i].key,
                                     refusals[i].value);
        snprintf(text + used, sizeof text - used, "}");
        temp_text(files, "config.json", text);
        CHECK_FAILS(tsr_config_read(files->folder, &config), refusals[i].status,
                    refusals[i].message);
        CHECK(strstr(tsr_last_error(), path));
        check_equal(&config, &tiny); /* untouched */
    }
}

static void test_bad_files(const temp *files) {
    tsr_gpt_config config;
    CHECK_FAILS(tsr_config_read(temp_path(files, "no"), &config), TSR_NOT_FOUND,
                "no/config.json");
    temp_text(files, "config.json", "{\"n_layer\": 1,\n nonsense}");
    CHECK_FAILS(tsr_config_read(files->folder, &config), TSR_INVALID_DATA,
                "config.json: line 2, column");
    temp_text(files, "config.json", "[1]");
    CHECK_FAILS(tsr_config_read(files->folder, &config), TSR_INVALID_DATA,
                "not a JSON object");
    temp_text(files, "config.json", "");
    CHECK_FAILS(tsr_config_read(files->folder, &config), TSR_INVALID_DATA,
                "config.json");
    temp_text(files, "config.json",
              "{\"model_type\": \"gpt2\", \"model_type\": \"gpt2\"}");
    CHECK_FAILS(tsr_config_read(files->folder, &config), TSR_INVALID_DATA,
                "duplicate");
    config = tiny;
    config.heads = 5;
    CHECK_FAILS(tsr_config_write(files->folder, &config), TSR_INVALID_ARGUMENT,
                "heads");
    CHECK_FAILS(tsr_config_write(temp_path(files, "no"), &tiny), TSR_NOT_FOUND,
                "no/config.json");
}

static void test_allocations(const temp *files) {
    tsr_gpt_config config;
    CHECK_EVERY_ALLOCATION(tsr_config_write(files->folder, &tiny), (void)0);
    CHECK_EVERY_ALLOCATION(tsr_config_read(files->folder, &config), (void)0);
}

int main(void) {
    temp files;
    temp_create(&files);
    test_round_trip(&files);
    test_fields(&files);
    test_end_of_text(&files);
    test_hugging_face(&files);
    test_refusals(&files);
    test_bad_files(&files);
    test_allocations(&files);
    temp_release(&files);
    return 0;
}
