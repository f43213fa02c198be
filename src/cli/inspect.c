/* tessera inspect: what a checkpoint, a safetensors file or a plan file holds.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/text.h"
#include "cli/options.h"
#include "cli/plan_file.h"
#include "train/checkpoint.h"
#include "train/config.h"
#include "train/file.h"
#include "train/safetensors.h"

typedef struct inspect_flags {
    option_list paths;
} inspect_flags;

static int run(int argc, char **argv);

const cli_command inspect_command = {
    .name = "inspect",
    .summary = "Shows a checkpoint (config, step, tensors), a safetensors file "
               "or a plan file.",
    .usage = "DIR|FILE",
    .examples = "  tessera inspect run\n  tessera inspect "
                "run/step-500/model.safetensors\n  tessera inspect plan.txt\n",
    .operands = 1,
    .operand_offset = offsetof(inspect_flags, paths),
    .run = run,
};

/* ---- tensors ---- */

static tsr_status show_tensors(const char *path) {
    tsr_safetensors *file;
    size_t bytes = 0;
    int64_t elements = 0;
    char total[TSR_BYTES_TEXT];
    TSR_TRY(tsr_safetensors_open(path, &file));
    printf("%s\n", path);
    for (size_t i = 0; i < tsr_safetensors_count(file); i++) {
        const tsr_safetensors_tensor *tensor = tsr_safetensors_at(file, i);
        int64_t count = 1;
        printf("  %-36s %-5s [", tensor->name, tensor->dtype);
        for (size_t d = 0; d < tensor->dims; d++) {
            printf(d ? ", %" PRId64 : "%" PRId64, tensor->shape[d]);
            count *= tensor->shape[d];
        }
        printf("]\n");
        elements += count;
        bytes += tensor->bytes;
    }
    printf("  %zu tensors, %" PRId64 " elements, %s\n",
           tsr_safetensors_count(file), elements,
           tsr_format_bytes(bytes, total));
    tsr_safetensors_release(file);
    return TSR_OK;
}

static tsr_status show_file_of(const char *folder, const char *name) {
    char *path;
    TSR_TRY(tsr_file_join(folder, name, &path));
    tsr_status status = show_tensors(path);
    tsr_free(path);
    return status;
}

static tsr_status show_training(const char *folder) {
    tsr_checkpoint_info info;
    tsr_status status = tsr_checkpoint_read_info(folder, &info);
    if (status == TSR_OK)
        printf("training   step %" PRId64 ", %" PRId64 " sequences of %" PRId64
               " tokens seen, seed %" PRIu64 "; written by %" PRId64
               " ranks x batch %" PRId64 " x accumulate %" PRId64 "\n",
               info.step, info.samples, info.seq, info.seed, info.world,
               info.batch, info.accumulate);
    /* A model from elsewhere has no such file. */
    return status == TSR_NOT_FOUND ? TSR_OK : status;
}

static tsr_status show_checkpoint(const char *path) {
    char *folder;
    tsr_gpt_config config;
    TSR_TRY(tsr_checkpoint_find(path, &folder));
    tsr_status status = tsr_config_read(folder, &config);
    if (status == TSR_OK) {
        printf("checkpoint %s\n", folder);
        printf("model      gpt2: %" PRId64 " layers, %" PRId64
               " heads, dim %" PRId64 ", seq %" PRId64 ", vocab %" PRId64
               "; %" PRId64 " parameters\n",
               config.layers, config.heads, config.dim, config.seq,
               config.vocab, tsr_gpt_param_count(&config));
        status = show_training(folder);
    }
    if (status == TSR_OK)
        status = show_file_of(folder, TSR_CHECKPOINT_MODEL);
    tsr_free(folder);
    return status;
}

/* ---- plans ---- */

static void show_memory(const tsr_plan *plan) {
    char text[TSR_BYTES_TEXT];
    for (int s = TSR_SPACE_WEIGHTS; s < TSR_SPACE_COUNT; s++)
        printf("  %-15s %12zu  %s%s\n", tsr_space_name((tsr_space)s),
               plan->bytes[s], tsr_format_bytes(plan->bytes[s], text),
               s == TSR_SPACE_WEIGHTS && plan->target.shared
                   ? ", one for all ranks of the host"
                   : "");
    size_t rank = tsr_plan_rank_bytes(plan),
           on_host = tsr_plan_rank_host_bytes(plan),
           all = tsr_plan_host_bytes(plan);
    printf("  %-15s %12zu  %s\n", "a rank", rank, tsr_format_bytes(rank, text));
    printf("  %-15s %12zu  %s\n", "a rank, host", on_host,
           tsr_format_bytes(on_host, text));
    printf("  %-15s %12zu  %s\n", "the host", all, tsr_format_bytes(all, text));
}

static void show_sections(const tsr_plan *plan) {
    const tsr_graph *graph = plan->graph;
    for (int section = 0; section < TSR_SECTIONS; section++) {
        int nodes = 0, waits = 0, streams[TSR_STREAM_CLASSES] = {0};
        for (int n = 0; n < tsr_graph_node_count(graph); n++) {
            const tsr_node *node = tsr_graph_node_at(graph, (tsr_node_id){n});
            if (node->section != (tsr_section)section)
                continue;
            nodes++;
            waits += node->after.count;
            streams[node->stream]++;
        }
        if (nodes == 0)
            continue;
        printf("  %-12s %5d nodes, %d waits between streams;",
               tsr_section_name((tsr_section)section), nodes, waits);
        for (int s = 0; s < TSR_STREAM_CLASSES; s++)
            if (streams[s])
                printf(" %s %d", tsr_stream_class_name((tsr_stream_class)s),
                       streams[s]);
        printf("\n");
    }
}

/* The smallest group above `group`; -1: none. A file may leave numbers out. */
static int next_group(const tsr_graph *graph, int group) {
    int next = -1;
    for (int p = 0; p < tsr_graph_param_count(graph); p++) {
        int at = tsr_graph_param_at(graph, (tsr_param_id){p})->group;
        if (at > group && (next < 0 || at < next))
            next = at;
    }
    return next;
}

static void show_groups(const tsr_graph *graph) {
    for (int group = next_group(graph, -1); group >= 0;
         group = next_group(graph, group)) {
        int count = 0;
        size_t bytes = 0;
        const char *first = "";
        char text[TSR_BYTES_TEXT];
        for (int p = 0; p < tsr_graph_param_count(graph); p++) {
            const tsr_param *param =
                tsr_graph_param_at(graph, (tsr_param_id){p});
            if (param->group != group)
                continue;
            first = count++ ? first : param->name;
            bytes += tsr_type_bytes(&param->type);
        }
        printf("  group %-4d %3d parameters from %-28s %s\n", group, count,
               first, tsr_format_bytes(bytes, text));
    }
}

static tsr_status show_plan(const char *path, const char *text, size_t length) {
    tsr_op_table *ops = NULL;
    tsr_plan *plan = NULL;
    tsr_status status = TSR_OK;
    TSR_TRY_GOTO(tsr_op_table_create(&ops));
    status = tsr_plan_parse(ops, text, length, &plan);
    if (status != TSR_OK) {
        tsr_error_at(status, "%s", path);
        goto done;
    }
    printf("plan %s: %d ranks%s%s\n", path, plan->target.world,
           plan->target.shared ? ", shared memory" : "",
           plan->target.gather_alias ? ", gathers alias the weights" : "");
    tsr_stage stage = tsr_plan_stage(plan);
    status = tsr_plan_verify(plan, stage);
    printf("stage      %s\n", plan_stage_name(stage));
    printf("verified   %s\n", status == TSR_OK ? "yes" : tsr_last_error());
    if (status != TSR_OK)
        tsr_error_at(status, "%s does not verify", path);
    printf("memory     bytes\n");
    show_memory(plan);
    printf("nodes      %d\n", tsr_graph_node_count(plan->graph));
    show_sections(plan);
    printf("groups     gathered and reduced by one call each\n");
    show_groups(plan->graph);
done:
    tsr_plan_release(plan);
    tsr_op_table_release(ops);
    return status;
}

#define PLAN_BYTES ((size_t)1 << 30) /* more is no plan */

static tsr_status inspect(const char *path) {
    struct stat info;
    char *text = NULL;
    size_t length = 0;
    if (stat(path, &info) != 0)
        return tsr_error(TSR_NOT_FOUND, "%s does not exist", path);
    if (S_ISDIR(info.st_mode))
        return show_checkpoint(path);
    if (!S_ISREG(info.st_mode))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%s is neither a file nor a folder", path);
    FILE *file = fopen(path, "r");
    char head[13] = "";
    size_t got = file ? fread(head, 1, sizeof head - 1, file) : 0;
    if (file)
        fclose(file);
    if (got != sizeof head - 1 ||
        memcmp(head, "tessera plan", sizeof head - 1) != 0)
        return show_tensors(path);
    TSR_TRY(tsr_file_read(path, PLAN_BYTES, &text, &length));
    tsr_status status = show_plan(path, text, length);
    tsr_free(text);
    return status;
}

static int run(int argc, char **argv) {
    inspect_flags flags = {0};
    int code = options_parse(&inspect_command, argc, argv, &flags);
    if (code >= 0)
        return code;
    if (flags.paths.count == 0)
        return fail(&inspect_command,
                    "name a checkpoint's folder, a safetensors file or a plan "
                    "file; see tessera inspect --help");
    return inspect(flags.paths.data[0]) == TSR_OK
               ? 0
               : fail(&inspect_command, tsr_last_error());
}
