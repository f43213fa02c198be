/* The latest step of all ranks in the Trace Event format (JSON Object Format;
 * Chrome, "Trace Event Format", 2016), which Perfetto opens: a process a rank,
 * a thread a stream, a complete event a node.
 *
 * Each rank sends its times in one flat list:
 *
 *   times[slot]   slot: nodes of micro_first and update once, those of
 *                 micro_next micro_steps - 1 times, in the order of the walks
 *
 * Times are in the clock of the host that ranks share. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "train/file.h"
#include "train/json.h"
#include "train/trainer.h"

/* A node's place in a step. */
typedef struct slot {
    tsr_node_id node;
    int back;  /* walks of its section after this one, in the same step */
    int micro; /* micro-step; -1: the update */
} slot;

typedef struct timeline {
    const tsr_plan *plan;
    int world;
    TSR_ARRAY(slot) slots;
    tsr_node_time *mine, *all; /* (slots), (world, slots); -1: not recorded */
    int64_t begin_ns;          /* the earliest of all */
} timeline;

static tsr_status add_section(timeline *self, tsr_section section, int back,
                              int micro) {
    const tsr_graph *graph = self->plan->graph;
    for (int32_t n = 0; n < tsr_graph_node_count(graph); n++) {
        if (tsr_graph_node_at(graph, (tsr_node_id){n})->section != section)
            continue;
        TSR_TRY(TSR_ARRAY_RESERVE(&self->slots, 1));
        TSR_ARRAY_PUSH(&self->slots, ((slot){{n}, back, micro}));
    }
    return TSR_OK;
}

static tsr_status collect(timeline *self, const tsr_trainer *trainer) {
    int micro_steps = trainer->options.micro_steps;
    TSR_TRY(add_section(self, TSR_MICRO_FIRST, 0, 0));
    for (int k = 1; k < micro_steps; k++)
        TSR_TRY(add_section(self, TSR_MICRO_NEXT, micro_steps - 1 - k, k));
    TSR_TRY(add_section(self, TSR_UPDATE, 0, -1));
    TSR_TRY(
        tsr_alloc(self->slots.count, sizeof *self->mine, (void **)&self->mine));
    TSR_TRY(tsr_alloc(self->slots.count * (size_t)self->world,
                      sizeof *self->all, (void **)&self->all));
    for (size_t i = 0; i < self->slots.count; i++)
        if (!tsr_executor_node_time(trainer->executor, self->slots.data[i].node,
                                    self->slots.data[i].back, &self->mine[i]))
            self->mine[i] = (tsr_node_time){-1, -1};
    return TSR_OK;
}

static void find_begin(timeline *self) {
    size_t count = self->slots.count * (size_t)self->world;
    self->begin_ns = INT64_MAX;
    for (size_t i = 0; i < count; i++)
        if (self->all[i].begin_ns >= 0 &&
            self->all[i].begin_ns < self->begin_ns)
            self->begin_ns = self->all[i].begin_ns;
}

/* ---- the file ---- */

/* Writes one element of the list. event: consumed; NULL: it could not be made.
 */
static tsr_status write_event(FILE *file, json_t *event, bool *first) {
    char *text = event
                     ? json_dumps(event, JSON_COMPACT | JSON_REAL_PRECISION(12))
                     : NULL;
    json_decref(event);
    if (!text)
        return tsr_error(TSR_OUT_OF_MEMORY,
                         "no memory for a trace event, or the name of its "
                         "layer is not UTF-8");
    fprintf(file, "%s\n%s", *first ? "" : ",", text);
    *first = false;
    free(text);
    return TSR_OK;
}

static tsr_status write_names(FILE *file, int rank, bool *first) {
    char name[32];
    snprintf(name, sizeof name, "rank %d", rank);
    TSR_TRY(write_event(file,
                        json_pack("{s:s,s:s,s:i,s:{s:s}}", "ph", "M", "name",
                                  "process_name", "pid", rank, "args", "name",
                                  name),
                        first));
    for (int s = 0; s < TSR_STREAM_CLASSES; s++)
        TSR_TRY(write_event(
            file,
            json_pack("{s:s,s:s,s:i,s:i,s:{s:s}}", "ph", "M", "name",
                      "thread_name", "pid", rank, "tid", s, "args", "name",
                      tsr_stream_class_name((tsr_stream_class)s)),
            first));
    return TSR_OK;
}

static tsr_status write_node(FILE *file, const timeline *self, int rank,
                             const slot *at, const tsr_node_time *time,
                             bool *first) {
    const tsr_graph *graph = self->plan->graph;
    const tsr_node *node = tsr_graph_node_at(graph, at->node);
    const char *layer = node->layer ? node->layer : "";
    return write_event(
        file,
        json_pack("{s:s,s:o,s:s,s:i,s:i,s:f,s:f,s:{s:i,s:i}}", "ph", "X",
                  "name",
                  json_sprintf("%s%s%s", tsr_graph_op(graph, node)->name,
                               layer[0] ? " " : "", layer),
                  "cat", tsr_section_name(node->section), "pid", rank, "tid",
                  (int)node->stream, "ts",
                  (double)(time->begin_ns - self->begin_ns) * 1e-3, "dur",
                  (double)(time->end_ns - time->begin_ns) * 1e-3, "args",
                  "node", (int)at->node.index, "micro_step", at->micro),
        first);
}

static tsr_status write_events(FILE *file, const timeline *self) {
    bool first = true;
    fprintf(file, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[");
    for (int r = 0; r < self->world; r++) {
        TSR_TRY(write_names(file, r, &first));
        for (size_t i = 0; i < self->slots.count; i++) {
            const tsr_node_time *time =
                &self->all[(size_t)r * self->slots.count + i];
            if (time->begin_ns >= 0)
                TSR_TRY(write_node(file, self, r, &self->slots.data[i], time,
                                   &first));
        }
    }
    fprintf(file, "\n]}\n");
    return TSR_OK;
}

static tsr_status write_file(const timeline *self, const char *path) {
    bool there = access(path, F_OK) == 0;
    FILE *file = fopen(path, "w");
    if (!file)
        return tsr_error(TSR_IO, "the timeline %s cannot be written: %s", path,
                         strerror(errno));
    tsr_status status = write_events(file, self);
    bool failed = fflush(file) != 0 || ferror(file) != 0;
    int error = errno;
    if (status != TSR_OK || failed) /* half of it helps nobody */
        (void)!ftruncate(fileno(file), 0);
    if (fclose(file) != 0 && !failed) {
        failed = true;
        error = errno;
    }
    if (status == TSR_OK && failed)
        status = tsr_error(TSR_IO, "could not write the timeline %s: %s", path,
                           strerror(error));
    if (status != TSR_OK && !there && tsr_file_exists(path))
        (void)unlink(path); /* it is ours, and no device */
    return status;
}

tsr_status tsr_trainer_write_timeline(tsr_trainer *trainer, const char *path) {
    tsr_status status = TSR_OK;
    timeline self = {.plan = trainer->options.plan, .world = trainer->world};
    if (!trainer->options.timeline)
        return tsr_error(TSR_FAILED_PRECONDITION,
                         "the trainer was made without a timeline");
    TSR_TRY_GOTO(tsr_trainer_agree(trainer, collect(&self, trainer)));
    TSR_TRY_GOTO(tsr_bootstrap_exchange(trainer->bootstrap, self.mine,
                                        self.slots.count * sizeof *self.mine,
                                        self.all, trainer->options.timeout_ms));
    find_begin(&self);
    status = tsr_trainer_agree(
        trainer, trainer->rank == 0 ? write_file(&self, path) : TSR_OK);
done:
    tsr_free(self.all);
    tsr_free(self.mine);
    TSR_ARRAY_FREE(&self.slots);
    return status;
}
