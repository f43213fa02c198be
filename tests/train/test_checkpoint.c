/* Checkpoints: written by any number of ranks, read by any other. */
#include "base/half.h"
#include "ranks.h"
#include "train/config.h"
#include "train/safetensors_writer.h"

/* ---- saving and loading ---- */

/* From every world to every world, with shards of whole granules too. */
static void test_worlds(const temp *files) {
    static const int worlds[] = {1, 2, 3, 8};
    char dir[512], folder[600];
    strcpy(dir, temp_path(files, "deep/er/worlds"));
    for (int w = 0; w < 4; w++) {
        size_t granule = w % 2 == 0 ? 1 : 4;
        make_jobs(dir, 10 + w, worlds[w], granule, w);
        check_saves(worlds[w]);
        snprintf(folder, sizeof folder, "%s/step-%d", dir, 10 + w);
        check_found(dir, folder);
        check_found(folder, folder);
        CHECK(count_entries(dir) == w + 1); /* no temporaries */
        CHECK(count_entries(folder) == 5);
        for (int to = 0; to < 4; to++)
            check_loads(folder, worlds[to], 1 + (size_t)to % 3, w);
    }
}

/* A bf16 twin is loaded rounded, beside the weights or alone; what it has past
 * the tensor's end is 0. */
static void test_twins(const temp *files) {
    static shards loaded;
    static uint16_t twins[TENSORS][128];
    char folder[600];
    strcpy(folder, temp_path(files, "deep/er/worlds/step-11")); /* salt 1 */
    for (int rank = 0; rank < 3; rank++)
        for (int alone = 0; alone < 2; alone++) {
            make_shards(&loaded, 3, rank, 1);
            memset(twins, 0xff, sizeof twins);
            for (int t = 0; t < TENSORS; t++) {
                loaded.tensors[t].twin = twins[t];
                if (alone)
                    loaded.tensors[t].weights = NULL;
            }
            CHECK_OK(tsr_checkpoint_load(folder, loaded.tensors, TENSORS, rank,
                                         false));
            for (int t = 0; t < TENSORS; t++) {
                const tsr_checkpoint_tensor *tensor = &loaded.tensors[t];
                size_t part = tsr_checkpoint_part(tensor, rank),
                       first = (size_t)rank * tensor->shard_count;
                for (size_t k = 0; k < tensor->shard_count; k++) {
                    float expected = k < part ? value(t, 0, first + k, 1) : 0;
                    CHECK(twins[t][k] == tsr_to_bf16(expected));
                    CHECK(alone || tensor->weights[k] == expected);
                }
                CHECK(twins[t][tensor->shard_count] == 0xffff);
            }
        }
    CHECK_FAILS(tsr_checkpoint_load(folder, loaded.tensors, TENSORS, 0, true),
                TSR_INVALID_ARGUMENT, "a shard is missing");
}

/* The bytes of a checkpoint do not depend on who wrote it. */
static void test_same_bytes(const temp *files) {
    static unsigned char bytes[2][8192];
    static const char *const names[] = {"model.safetensors",
                                        "optimizer.safetensors", "config.json",
                                        "generation_config.json"};
    char dir[512], path[600];
    strcpy(dir, temp_path(files, "same"));
    make_jobs(dir, 1, 1, 1, 0);
    check_saves(1);
    make_jobs(dir, 2, 5, 1, 0);
    check_saves(5);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t counts[2];
        for (int step = 1; step <= 2; step++) {
            snprintf(path, sizeof path, "%s/step-%d/%s", dir, step, names[i]);
            FILE *file = fopen(path, "rb");
            CHECK(file != NULL);
            counts[step - 1] = fread(bytes[step - 1], 1, 8192, file);
            CHECK(counts[step - 1] > 20 && counts[step - 1] < 8192);
            fclose(file);
        }
        CHECK(counts[0] == counts[1]);
        CHECK(memcmp(bytes[0], bytes[1], counts[0]) == 0);
    }
}

static void test_layout(const temp *files) {
    char path[512];
    tsr_safetensors *file;
    strcpy(path, temp_path(files, "same/step-2/model.safetensors"));
    CHECK_OK(tsr_safetensors_open(path, &file));
    CHECK(tsr_safetensors_count(file) == TENSORS);
    for (int t = 0; t < TENSORS; t++) {
        tsr_type type;
        const tsr_safetensors_tensor *tensor =
            tsr_safetensors_find(file, model[t].name);
        CHECK(tensor != NULL);
        CHECK_OK(tsr_safetensors_type(file, tensor, &type));
        CHECK(tsr_type_equal(&type, &model[t].type));
    }
    CHECK(strcmp(tsr_safetensors_metadata(file, "format"), "pt") == 0);
    tsr_safetensors_release(file);

    strcpy(path, temp_path(files, "same/step-2/optimizer.safetensors"));
    CHECK_OK(tsr_safetensors_open(path, &file));
    CHECK(tsr_safetensors_count(file) == 2 * TENSORS);
    CHECK(tsr_safetensors_find(file, "exp_avg.wte.weight"));
    CHECK(tsr_safetensors_find(file, "exp_avg_sq.ln_f.bias"));
    tsr_safetensors_release(file);
}

static void test_info(const temp *files) {
    const char *folder = temp_path(files, "same/step-2");
    tsr_checkpoint_info info;
    tsr_gpt_config read;
    double number;
    CHECK_OK(tsr_checkpoint_read_info(folder, &info));
    CHECK(info.step == 2 && info.samples == 48 && info.seed == INT64_MAX);
    CHECK(info.world == 3 && info.batch == 4 && info.accumulate == 2);
    CHECK(info.seq == 8 && info.numbers == NULL);
    CHECK_OK(tsr_checkpoint_read_number(folder, "loss", &number));
    CHECK(number == 2.5);
    CHECK_OK(tsr_checkpoint_read_number(folder, "lr", &number));
    CHECK(number == 3e-4);
    CHECK_FAILS(tsr_checkpoint_read_number(folder, "none", &number),
                TSR_NOT_FOUND, "has no number \"none\"");
    CHECK_OK(tsr_config_read(folder, &read));
    CHECK(read.layers == 1 && read.vocab == 7);
}

static void test_bad_info(const temp *files) {
    static const struct {
        const char *text;
        tsr_status status;
        const char *message;
    } cases[] = {
        {"[]", TSR_INVALID_DATA, "not a JSON object"},
        {"{}", TSR_INVALID_DATA, "no \"version\""},
        {"{\"version\": 2}", TSR_UNSUPPORTED, "version 2"},
        {"{\"version\": 1, \"step\": -1}", TSR_INVALID_DATA, "\"step\" is -1"},
        {"{\"version\": 1, \"step\": 1, \"samples\": 1, \"seed\": 1.5}",
         TSR_INVALID_DATA, "\"seed\" is not an integer"},
        {"{\"version\": 1, \"step\": 1, \"samples\": 1, \"seed\": 1,"
         " \"world\": 0}",
         TSR_INVALID_DATA, "\"world\" is 0, less than 1"},
    };
    tsr_checkpoint_info info;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        temp_text(files, "trainer.json", cases[i].text);
        CHECK_FAILS(tsr_checkpoint_read_info(files->folder, &info),
                    cases[i].status, cases[i].message);
        CHECK(strstr(tsr_last_error(), "/trainer.json"));
    }
}

/* ---- which folder ---- */

static void test_find(const temp *files) {
    char dir[512], eight[512];
    strcpy(dir, temp_path(files, "find"));
    strcpy(eight, temp_path(files, "find/step-8"));
    CHECK_FAILS(tsr_checkpoint_find(dir, &(char *){NULL}), TSR_NOT_FOUND,
                "No such file");
    temp_folder(files, "find");
    CHECK_FAILS(tsr_checkpoint_find(dir, &(char *){NULL}), TSR_NOT_FOUND,
                "neither a model");
    static const int64_t steps[] = {8, 0, 7};
    for (int i = 0; i < 3; i++) {
        make_jobs(dir, steps[i], 1, 1, i);
        check_saves(1);
    }
    /* Newer by name only: incomplete, temporary, misnamed. */
    static const char *const others[] = {
        "step-9",    "step-09", "step--10",     ".step-11.tmp",
        "step-12.0", "step-",   ".step-13.old", "step-99999999999999999999",
        "xstep-14",  "step-+15"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        static const char *const names[] = {
            "model.safetensors", "optimizer.safetensors", "config.json",
            "generation_config.json", "trainer.json"};
        char name[128];
        snprintf(name, sizeof name, "find/%s", others[i]);
        temp_folder(files, name);
        for (size_t k = i == 0 ? 1 : 0; k < 5; k++) {
            snprintf(name, sizeof name, "find/%s/%s", others[i], names[k]);
            temp_text(files, name, "x");
        }
    }
    check_found(dir, eight);
    CHECK_FAILS(
        tsr_checkpoint_find(temp_path(files, "find/step-9"), &(char *){NULL}),
        TSR_NOT_FOUND, "find/step-9 holds neither");
    CHECK(unlink(temp_path(files, "find/step-8/trainer.json")) == 0);
    check_found(dir, temp_path(files, "find/step-7"));
    check_found(eight, eight); /* a model, if no place to go on from */
}

/* ---- loading what does not fit ---- */

static void check_load_fails(const char *folder, shards *read,
                             bool with_optimizer, tsr_status expected,
                             const char *text) {
    static shards before;
    for (size_t i = 0; i < sizeof read->memory / sizeof(float); i++)
        ((float *)read->memory)[i] = -1;
    before = *read;
    CHECK_FAILS(tsr_checkpoint_load(folder, read->tensors, TENSORS, read->rank,
                                    with_optimizer),
                expected, text);
    CHECK(memcmp(before.memory, read->memory, sizeof before.memory) == 0);
}

static void test_misfits(const temp *files) {
    static shards read;
    char folder[512];
    strcpy(folder, temp_path(files, "same/step-2"));
    make_shards(&read, 2, 0, 1);
    read.tensors[TENSORS - 1].name = "ln_g.bias";
    check_load_fails(folder, &read, true, TSR_NOT_FOUND,
                     "model.safetensors has no tensor \"ln_g.bias\"");
    make_shards(&read, 2, 0, 1);
    read.tensors[TENSORS - 1].type.shape[1] = 12;
    check_load_fails(folder, &read, true, TSR_INVALID_DATA,
                     "\"ln_f.bias\" is F32 (1, 13, 1), but the model's is F32 "
                     "(1, 12, 1)");
    make_shards(&read, 2, 0, 1);
    read.tensors[TENSORS - 1].weights = NULL;
    check_load_fails(folder, &read, false, TSR_INVALID_ARGUMENT, "missing");
    make_shards(&read, 2, 0, 1);
    check_load_fails("/nonexistent", &read, false, TSR_NOT_FOUND,
                     "/nonexistent/model.safetensors");

    CHECK(rename(temp_path(files, "same/step-2/optimizer.safetensors"),
                 temp_path(files, "same/step-2/aside")) == 0);
    check_load_fails(folder, &read, true, TSR_NOT_FOUND,
                     "optimizer.safetensors");
    temp_text(files, "same/step-2/optimizer.safetensors", "nonsense");
    check_load_fails(folder, &read, true, TSR_INVALID_DATA,
                     "optimizer.safetensors");
    CHECK_OK(tsr_safetensors_create(
        strcpy((char[512]){0}, temp_path(files, "same/opt")), NULL, 0, NULL,
        0));
    CHECK(rename(temp_path(files, "same/opt"),
                 temp_path(files, "same/step-2/optimizer.safetensors")) == 0);
    check_load_fails(folder, &read, true, TSR_NOT_FOUND,
                     "has no tensor \"exp_avg.wte.weight\"");
    CHECK(rename(temp_path(files, "same/step-2/aside"),
                 temp_path(files, "same/step-2/optimizer.safetensors")) == 0);
    check_loads(folder, 2, 1, 0);
}

/* A model.safetensors of zeros with these tensors after the model's own, whose
 * names get a prefix. */
static void write_hf(const temp *files, const char *prefix,
                     const char *const *extra, size_t extra_count,
                     tsr_dtype dtype) {
    tsr_safetensors_entry entries[TENSORS + 4];
    char names[TENSORS][64], path[512];
    strcpy(path, temp_path(files, "hf/model.safetensors"));
    unlink(path);
    for (int t = 0; t < TENSORS; t++) {
        snprintf(names[t], sizeof names[t], "%s%s", prefix, model[t].name);
        entries[t] = (tsr_safetensors_entry){names[t], model[t].type};
        entries[t].type.dtype = dtype;
    }
    for (size_t i = 0; i < extra_count; i++)
        entries[TENSORS + i] = (tsr_safetensors_entry){extra[i], model[0].type};
    CHECK_OK(
        tsr_safetensors_create(path, entries, TENSORS + extra_count, NULL, 0));
}

static void test_hugging_face(const temp *files) {
    static const char *const ignored[] = {
        "transformer.h.0.attn.bias", "h.0.attn.masked_bias", "lm_head.weight"};
    static const char *const block[] = {"transformer.h.1.mlp.c_fc.weight"};
    static shards read;
    char folder[512];
    temp_folder(files, "hf");
    strcpy(folder, temp_path(files, "hf"));
    make_shards(&read, 2, 1, 1);
    static const char *const prefixes[] = {"", "transformer."};
    for (int i = 0; i < 2; i++) {
        write_hf(files, prefixes[i], ignored, 3, TSR_F32);
        memset(read.memory, 0xff, sizeof read.memory);
        CHECK_OK(tsr_checkpoint_load(folder, read.tensors, TENSORS, 1, false));
        for (int t = 0; t < TENSORS; t++)
            for (size_t k = 0; k < read.tensors[t].shard_count; k++)
                CHECK(read.memory[t][0][k] == 0);
        write_hf(files, prefixes[i], block, 1, TSR_F32);
        check_load_fails(folder, &read, false, TSR_INVALID_DATA,
                         "no place for tensor \"transformer.h.1.mlp");
    }
    write_hf(files, "", NULL, 0, TSR_BF16);
    check_load_fails(folder, &read, false, TSR_INVALID_DATA,
                     "is BF16 (7, 4), but the model's is F32 (7, 4)");
    temp_text(files, "hf/config.json", "{}");
    check_found(folder, folder);
}

int main(void) {
    temp files;
    temp_create(&files);
    test_worlds(&files);
    test_twins(&files);
    test_same_bytes(&files);
    test_layout(&files);
    test_info(&files);
    test_bad_info(&files);
    test_find(&files);
    test_misfits(&files);
    test_hugging_face(&files);
    temp_release(&files);
    return 0;
}
