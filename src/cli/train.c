/* tessera train */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/os.h"
#include "base/text.h"
#include "cli/guard.h"
#include "cli/metrics.h"
#include "cli/out_folder.h"
#include "cli/plan_file.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "train/checkpoint.h"
#include "train/config.h"
#include "train/file.h"
#include "train/sampler.h"

typedef struct train_flags {
    session_flags session;
    option_list data, eval_data;
    int64_t steps, warmup, seed, save_every, eval_every, eval_batches;
    double lr, min_lr, max_time;
    const char *out, *metrics, *print_plan, *stage, *timeline;
    bool resume;
} train_flags;

#define AT(member) offsetof(train_flags, member)

static const option_row rows[] = {
    {"data", OPTION_LIST, AT(data), 0, 0, "FILE|DIR...",
     "text to train on; a folder is read whole"},
    SESSION_ROWS(train_flags, session),
    {"steps", OPTION_INT, AT(steps), 1, 1e12, "N", "updates (default 1000)"},
    {"max-time", OPTION_REAL, AT(max_time), 0.001, 1e9, "SECONDS",
     "stop early, with a checkpoint, when so much time is gone"},
    {"lr", OPTION_REAL, AT(lr), 0, 1e3, "X",
     "highest learning rate (default 3e-4)"},
    {"min-lr", OPTION_REAL, AT(min_lr), 0, 1e3, "X",
     "learning rate at the end (default a tenth of --lr)"},
    {"warmup", OPTION_INT, AT(warmup), 0, 1e12, "N",
     "steps until --lr is reached (default 100, at most a tenth of --steps)"},
    {"seed", OPTION_INT, AT(seed), 0, 9e15, "N",
     "of initial weights and sample order (default 1)"},
    {"out", OPTION_TEXT, AT(out), 0, 0, "DIR",
     "where checkpoints go: DIR/step-N"},
    {"resume", OPTION_FLAG, AT(resume), 0, 0, NULL,
     "go on from the newest checkpoint in --out"},
    {"save-every", OPTION_INT, AT(save_every), 1, 1e12, "N",
     "steps between checkpoints (default: only the last)"},
    {"eval-data", OPTION_LIST, AT(eval_data), 0, 0, "FILE|DIR...",
     "text to evaluate on"},
    {"eval-every", OPTION_INT, AT(eval_every), 1, 1e12, "N",
     "steps between evaluations (default: only at the end)"},
    {"eval-batches", OPTION_INT, AT(eval_batches), 1, 1e9, "N",
     "batches of every rank in one evaluation (default 8)"},
    {"metrics", OPTION_TEXT, AT(metrics), 0, 0, "FILE.jsonl",
     "one JSON object a step"},
    {"print-plan", OPTION_TEXT, AT(print_plan), 0, 0, "FILE",
     "the plan as text (docs/plan-format.md)"},
    {"stage", OPTION_TEXT, AT(stage), 0, 0, "STAGE",
     "of the printed plan: sharded (to edit), scheduled or placed (default)"},
    {"timeline", OPTION_TEXT, AT(timeline), 0, 0, "FILE.json",
     "when each node of the last step ran, as a Chrome trace"},
};

static int run(int argc, char **argv);

const cli_command train_command = {
    .name = "train",
    .summary = "Trains a GPT on text, sharded over ranks.",
    .usage = "--data FILE|DIR... [--out DIR] [options]",
    .examples = "  tessera train --data book.txt --model gpt2-tiny --seq 256 "
                "--steps 200 --out run\n"
                "  tessera train --data book.txt --model gpt2-tiny --seq 256 "
                "--steps 400 --out run --resume \\\n"
                "      --ranks 2 --threads 1 --batch 2\n",
    .rows = rows,
    .row_count = sizeof rows / sizeof *rows,
    .run = run,
};

/* What all ranks share; made before they start. */
typedef struct train_job {
    train_flags flags;
    cli_ranks ranks;
    cli_session session;
    tsr_corpus *corpus, *eval_corpus;
    tsr_sampler sampler, eval_sampler;
    FILE *metrics;
    out_folder out; /* closed without --out */
} train_job;

#define EXCHANGE_TIMEOUT_MS 60000
#define EVAL_BATCHES 8 /* where --eval-batches does not say */

/* ---- in each rank ---- */

static void read_sample(const void *context, int64_t sample, int32_t *tokens,
                        int32_t *targets) {
    tsr_sampler_read(context, sample, tokens, targets);
}

/* One rank at work. */
typedef struct worker {
    const train_job *job;
    tsr_bootstrap *bootstrap;
    tsr_trainer *trainer;
    bool first; /* rank 0 speaks */
    cli_progress progress;
    double flops_per_token;
    int64_t begin_ns;
    int64_t
        last_step; /* of this run: --steps, or sooner when --max-time says so */
} worker;

static tsr_status write_metrics(const worker *self,
                                const tsr_step_metrics *metrics,
                                const double *eval_loss) {
    const train_job *job = self->job;
    metrics_extra extra = {.flops_per_token = self->flops_per_token,
                           .peak_flops = self->progress.peak_flops,
                           .eval_loss = eval_loss};
    return job->metrics ? metrics_write(job->metrics, job->flags.metrics,
                                        metrics, &extra)
                        : TSR_OK;
}

static tsr_status save(worker *self) {
    TSR_TRY(tsr_trainer_save(self->trainer, self->job->flags.out,
                             &self->job->session.model));
    if (self->first) {
        progress_pause(&self->progress);
        printf("saved %s/step-%lld\n", self->job->flags.out,
               (long long)tsr_trainer_steps(self->trainer));
        fflush(stdout);
    }
    return TSR_OK;
}

/* Rank 0's clock decides for all, so that they stop after the same step. */
static tsr_status check_time(worker *self) {
    const train_flags *flags = &self->job->flags;
    uint8_t over = (double)(tsr_os_now_ns() - self->begin_ns) * 1e-9 >=
                   flags->max_time,
            *all;
    if (flags->max_time == 0)
        return TSR_OK;
    TSR_TRY(tsr_alloc((size_t)self->job->ranks.world, 1, (void **)&all));
    tsr_status status = tsr_bootstrap_exchange(self->bootstrap, &over, 1, all,
                                               EXCHANGE_TIMEOUT_MS);
    if (status == TSR_OK && all[0])
        self->last_step = self->progress.last_step =
            tsr_trainer_steps(self->trainer);
    tsr_free(all);
    return status;
}

static bool due(int64_t step, int64_t every, int64_t last) {
    return step == last || (every > 0 && step % every == 0);
}

static tsr_status step(worker *self) {
    const train_flags *flags = &self->job->flags;
    tsr_step_metrics metrics;
    double eval_loss;
    TSR_TRY(tsr_trainer_step(self->trainer, &metrics));
    TSR_TRY(check_time(self));
    if (self->first)
        progress_step(&self->progress, &metrics);
    bool evaluate = flags->eval_data.count > 0 &&
                    due(metrics.step, flags->eval_every, self->last_step);
    if (evaluate)
        TSR_TRY(tsr_trainer_evaluate(self->trainer,
                                     flags->eval_batches ? flags->eval_batches
                                                         : EVAL_BATCHES,
                                     &eval_loss));
    if (evaluate && self->first) {
        progress_pause(&self->progress);
        printf("step %lld  evaluation loss %.4f\n", (long long)metrics.step,
               eval_loss);
        fflush(stdout);
    }
    if (self->first)
        TSR_TRY(write_metrics(self, &metrics, evaluate ? &eval_loss : NULL));
    return flags->out && due(metrics.step, flags->save_every, self->last_step)
               ? save(self)
               : TSR_OK;
}

/* In rank 0, once a checkpoint is loaded. */
static tsr_status go_on(const train_job *job, int64_t step) {
    if (job->metrics)
        TSR_TRY(metrics_cut(job->metrics, job->flags.metrics, step));
    printf("resumed at step %lld\n", (long long)step);
    return TSR_OK;
}

static tsr_status work(worker *self) {
    const train_job *job = self->job;
    double peak;
    if (job->flags.resume)
        TSR_TRY(tsr_trainer_load(self->trainer, job->flags.out));
    TSR_TRY(tsr_trainer_measure_peak(self->trainer, &peak));
    int64_t first_step = tsr_trainer_steps(self->trainer);
    self->flops_per_token =
        tsr_gpt_flops_per_token(&job->session.model, job->session.model.seq);
    progress_begin(&self->progress, first_step, job->flags.steps,
                   self->flops_per_token, peak,
                   tsr_trainer_arena_bytes(self->trainer));
    if (job->flags.max_time > 0)
        self->progress.end_ns =
            self->begin_ns + (int64_t)(job->flags.max_time * 1e9);
    if (self->first && job->flags.resume)
        TSR_TRY(go_on(job, first_step));
    if (self->first && first_step >= job->flags.steps)
        printf("nothing to do: %lld steps are done, --steps is %lld\n",
               (long long)first_step, (long long)job->flags.steps);
    while (tsr_trainer_steps(self->trainer) < self->last_step)
        TSR_TRY(step(self));
    return job->flags.timeline && tsr_trainer_steps(self->trainer) > first_step
               ? tsr_trainer_write_timeline(self->trainer, job->flags.timeline)
               : TSR_OK;
}

static tsr_status run_rank(tsr_bootstrap *bootstrap, void *context) {
    const train_job *job = context;
    worker self = {.job = job,
                   .bootstrap = bootstrap,
                   .first = tsr_bootstrap_rank(bootstrap) == 0,
                   .begin_ns = tsr_os_now_ns(),
                   .last_step = job->flags.steps};
    tsr_trainer_options options = session_trainer(&job->session);
    ranks_pin(&job->ranks, tsr_bootstrap_rank(bootstrap),
              (int)job->session.flags.threads);
    options.samples = (tsr_samples){read_sample, &job->sampler};
    options.eval_samples = (tsr_samples){read_sample, &job->eval_sampler};
    options.seed = (uint64_t)job->flags.seed;
    options.timeline = job->flags.timeline != NULL;
    options.rates = (tsr_rates){.peak = job->flags.lr,
                                .floor = job->flags.min_lr,
                                .warmup = job->flags.warmup,
                                .steps = job->flags.steps};
    TSR_TRY(tsr_trainer_create(&options, bootstrap, &self.trainer));
    tsr_status status = work(&self);
    if (self.first)
        progress_pause(&self.progress);
    tsr_trainer_release(self.trainer);
    return status;
}

/* ---- before the ranks start ---- */

static tsr_status open_texts(const train_job *self, const char *option,
                             const option_list *paths, tsr_corpus **out_corpus,
                             tsr_sampler *out_sampler) {
    tsr_status status = tsr_corpus_open(paths->data, paths->count, out_corpus);
    if (status == TSR_OK)
        status =
            tsr_sampler_init(out_sampler, *out_corpus, self->session.model.seq,
                             (uint64_t)self->flags.seed);
    return status == TSR_OK ? TSR_OK : tsr_error_at(status, "%s", option);
}

static tsr_status open_data(train_job *self) {
    const train_flags *flags = &self->flags;
    int64_t vocab = self->session.model.vocab;
    if (vocab < TSR_CORPUS_VOCAB)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--vocab %lld is too small: bytes and the mark "
                         "between documents need %d",
                         (long long)vocab, TSR_CORPUS_VOCAB);
    TSR_TRY(open_texts(self, "--data", &flags->data, &self->corpus,
                       &self->sampler));
    return flags->eval_data.count == 0
               ? TSR_OK
               : open_texts(self, "--eval-data", &flags->eval_data,
                            &self->eval_corpus, &self->eval_sampler);
}

/* Another number of heads has tensors of the same shapes, so loading alone
 * would not notice. */
static tsr_status check_model(const char *folder, const tsr_gpt_config *model) {
    tsr_gpt_config saved;
    TSR_TRY(tsr_config_read(folder, &saved));
    if (saved.layers == model->layers && saved.heads == model->heads &&
        saved.dim == model->dim && saved.seq == model->seq &&
        saved.vocab == model->vocab && saved.norm_eps == model->norm_eps)
        return TSR_OK;
    return tsr_error(
        TSR_INVALID_ARGUMENT,
        "%s is of a model with --layers %lld --heads %lld --dim %lld "
        "--seq %lld --vocab %lld and norm epsilon %g; this run's has %lld, "
        "%lld, %lld, %lld, %lld and %g",
        folder, (long long)saved.layers, (long long)saved.heads,
        (long long)saved.dim, (long long)saved.seq, (long long)saved.vocab,
        saved.norm_eps, (long long)model->layers, (long long)model->heads,
        (long long)model->dim, (long long)model->seq, (long long)model->vocab,
        model->norm_eps);
}

static tsr_status check_resumed(const train_job *self) {
    char *folder;
    if (tsr_checkpoint_find(self->flags.out, &folder) != TSR_OK)
        return tsr_error_at(TSR_NOT_FOUND, "--resume");
    tsr_status status = check_model(folder, &self->session.model);
    tsr_free(folder);
    return status == TSR_OK ? TSR_OK : tsr_error_at(status, "--resume");
}

static tsr_status open_out(train_job *self) {
    bool resume = self->flags.resume;
    tsr_status status = out_folder_open(self->flags.out, resume, &self->out);
    if (!resume)
        return status;
    return status == TSR_OK ? check_resumed(self)
                            : tsr_error_at(status, "--resume");
}

/* The folder that a path's last name lies in. */
static bool stat_parent(const char *path, struct stat *out_info) {
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (!slash)
        return stat(".", out_info) == 0;
    return snprintf(folder, sizeof folder, "%.*s/", (int)(slash - path), path) <
               (int)sizeof folder &&
           stat(folder, out_info) == 0;
}

/* Two names of one file on disk, or of one that both would make. */
static bool same_file(const char *a, const char *b) {
    const char *slash_a = strrchr(a, '/'), *slash_b = strrchr(b, '/');
    struct stat info_a, info_b;
    bool there_a = stat(a, &info_a) == 0, there_b = stat(b, &info_b) == 0;
    if (there_a != there_b)
        return false;
    if (!there_a &&
        (strcmp(slash_a ? slash_a + 1 : a, slash_b ? slash_b + 1 : b) != 0 ||
         !stat_parent(a, &info_a) || !stat_parent(b, &info_b)))
        return false;
    return info_a.st_dev == info_b.st_dev && info_a.st_ino == info_b.st_ino &&
           !(there_a && !S_ISREG(info_a.st_mode));
}

/* Whether the path lies where a checkpoint in `out`, which may not be there
 * yet, has its folder. */
static bool is_checkpoint(const char *out, const char *path) {
    while (strncmp(out, "./", 2) == 0)
        out += 2;
    while (strncmp(path, "./", 2) == 0)
        path += 2;
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    size_t out_length = strlen(out), length = (size_t)(name - path);
    struct stat folder, parent;
    if (strncmp(name, "step-", 5) != 0)
        return false;
    if (stat(out, &folder) == 0)
        return stat_parent(path, &parent) && folder.st_dev == parent.st_dev &&
               folder.st_ino == parent.st_ino;
    while (out_length > 0 && out[out_length - 1] == '/')
        out_length--;
    while (length > 0 && path[length - 1] == '/')
        length--;
    return length == out_length && strncmp(out, path, length) == 0;
}

static tsr_status check_output(const train_job *self, const char *option,
                               const char *path) {
    if (!path)
        return TSR_OK;
    if (self->flags.out && is_checkpoint(self->flags.out, path))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%s %s: names step-N in --out are those of "
                         "checkpoints: choose another",
                         option, path);
    bool data = tsr_corpus_has_file(self->corpus, path),
         eval =
             self->eval_corpus && tsr_corpus_has_file(self->eval_corpus, path);
    if (!data && !eval)
        return TSR_OK;
    return tsr_error(TSR_INVALID_ARGUMENT,
                     "%s %s is a file of %s: it would be written over", option,
                     path, data ? "--data" : "--eval-data");
}

/* Nothing that is written may take the place of something else. */
static tsr_status check_outputs(const train_job *self) {
    const struct {
        const char *option, *path;                       /* path: may be NULL */
    } outputs[] = {{"--plan", self->flags.session.plan}, /* is read */
                   {"--metrics", self->flags.metrics},
                   {"--print-plan", self->flags.print_plan},
                   {"--timeline", self->flags.timeline}};
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
        if (i > 0)
            TSR_TRY(check_output(self, outputs[i].option, outputs[i].path));
        for (size_t j = 0; j < i; j++)
            if (outputs[i].path && outputs[j].path &&
                same_file(outputs[j].path, outputs[i].path))
                return tsr_error(TSR_INVALID_ARGUMENT,
                                 "%s %s and %s %s are the same file",
                                 outputs[j].option, outputs[j].path,
                                 outputs[i].option, outputs[i].path);
    }
    return TSR_OK;
}

static tsr_status parse_stage(const train_flags *flags, tsr_stage *out_stage) {
    return plan_stage_parse(flags->stage ? flags->stage
                                         : plan_stage_name(TSR_STAGE_PLACED),
                            out_stage);
}

static tsr_status print_plan(const train_job *self) {
    const train_flags *flags = &self->flags;
    tsr_plan *plan;
    tsr_stage stage;
    TSR_TRY(parse_stage(flags, &stage));
    if (stage == TSR_STAGE_PLACED)
        return plan_file_write(self->session.plan, "--print-plan",
                               flags->print_plan);
    TSR_TRY(session_compile_until(&self->session, stage, &plan));
    tsr_status status =
        plan_file_write(plan, "--print-plan", flags->print_plan);
    tsr_plan_release(plan);
    return status;
}

/* It is written at the end; that it can be is known before. */
static tsr_status check_timeline(const char *path) {
    tsr_status status = tsr_file_check_writable(path);
    return status == TSR_OK ? TSR_OK : tsr_error_at(status, "--timeline");
}

/* Before anything is compiled. */
static tsr_status check_flags(const train_flags *flags) {
    tsr_stage stage = TSR_STAGE_PLACED;
    if (flags->data.count == 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--data is missing: name files or folders with text");
    if (flags->resume && !flags->out)
        return tsr_error(
            TSR_INVALID_ARGUMENT,
            "--resume needs --out, the folder with the checkpoints");
    if (flags->save_every && !flags->out)
        return tsr_error(
            TSR_INVALID_ARGUMENT,
            "--save-every needs --out, the folder for the checkpoints");
    if (flags->min_lr > flags->lr)
        return tsr_error(TSR_INVALID_ARGUMENT, "--min-lr %g is above --lr %g",
                         flags->min_lr, flags->lr);
    if (flags->eval_data.count == 0 &&
        (flags->eval_every || flags->eval_batches))
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "%s needs --eval-data, the text to evaluate on",
                         flags->eval_every ? "--eval-every" : "--eval-batches");
    TSR_TRY(parse_stage(flags, &stage));
    if (flags->stage && !flags->print_plan)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--stage %s needs --print-plan, the file to print to",
                         flags->stage);
    if (stage != TSR_STAGE_PLACED && flags->session.plan)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "--stage %s prints what is compiled, but --plan gives "
                         "another plan",
                         flags->stage);
    return TSR_OK;
}

/* A rank that differed would learn something else. */
static tsr_status check_texts(const train_job *self) {
    const tsr_corpus *eval = self->eval_corpus;
    if (!self->ranks.mpi)
        return TSR_OK; /* the corpora need not be read */
    const rank_term terms[] = {
        {"the text of --data", tsr_corpus_hash(self->corpus)},
        {"the text of --eval-data", eval ? tsr_corpus_hash(eval) : 0},
    };
    return ranks_agree(&self->ranks, terms, sizeof terms / sizeof *terms);
}

static tsr_status open_job(train_job *self) {
    const train_flags *flags = &self->flags;
    TSR_TRY(ranks_agree_on_options(&self->ranks, &train_command, flags));
    TSR_TRY(check_flags(flags));
    TSR_TRY(session_open(&flags->session, &self->ranks,
                         flags->eval_data.count > 0, &self->session));
    TSR_TRY(open_data(self));
    TSR_TRY(check_outputs(self));
    TSR_TRY(check_texts(self));
    if (!self->ranks.first)
        return TSR_OK; /* what is written is rank 0's */
    if (flags->out)
        TSR_TRY(open_out(self));
    if (flags->timeline)
        TSR_TRY(check_timeline(flags->timeline));
    if (flags->print_plan)
        TSR_TRY(print_plan(self));
    /* Last: it may hold an earlier run's. */
    return flags->metrics
               ? metrics_open(flags->metrics, flags->resume, &self->metrics)
               : TSR_OK;
}

static void close_job(train_job *self, bool failed) {
    if (self->metrics)
        fclose(self->metrics);
    tsr_corpus_release(self->eval_corpus);
    tsr_corpus_release(self->corpus);
    session_close(&self->session);
    out_folder_close(&self->out, failed);
}

static void describe(const train_job *self) {
    const cli_session *session = &self->session;
    char weights[TSR_BYTES_TEXT], rank[TSR_BYTES_TEXT], host[TSR_BYTES_TEXT];
    char kernels[SESSION_KERNELS_BYTES];
    printf("model    %lld layers, %lld heads, dim %lld, seq %lld, vocab %lld: "
           "%.1f M parameters\n",
           (long long)session->model.layers, (long long)session->model.heads,
           (long long)session->model.dim, (long long)session->model.seq,
           (long long)session->model.vocab,
           (double)tsr_gpt_param_count(&session->model) * 1e-6);
    printf("data     %lld tokens in %zu documents%s\n",
           (long long)tsr_corpus_tokens(self->corpus),
           tsr_corpus_documents(self->corpus),
           tsr_corpus_skipped(self->corpus) ? " (some files skipped)" : "");
    size_t shard_bytes = session->plan->bytes[TSR_SPACE_WEIGHTS] /
                         (session->over_mpi ? 1 : (size_t)session->flags.ranks);
    printf("plan     %lld ranks x %lld threads%s, %s; %s a rank, of it %s %s "
           "weights; %d nodes\n",
           (long long)session->flags.ranks, (long long)session->flags.threads,
           session->over_mpi ? " over MPI" : "",
           session_kernels(session, kernels),
           tsr_format_bytes(tsr_plan_rank_bytes(session->plan), rank),
           tsr_format_bytes(shard_bytes, weights),
           session->over_mpi ? "sharded" : "shared",
           tsr_graph_node_count(session->plan->graph));
    if (tsr_plan_rank_host_bytes(session->plan) > 0)
        printf("         and %s a rank on the host\n",
               tsr_format_bytes(tsr_plan_rank_host_bytes(session->plan), host));
    if (!self->flags.out)
        printf("         no --out: nothing will be saved\n");
    fflush(stdout);
}

static int run(int argc, char **argv) {
    train_job self = {.flags = {.session = SESSION_DEFAULTS,
                                .steps = 1000,
                                .warmup = -1,
                                .seed = 1,
                                .lr = 3e-4,
                                .min_lr = -1}};
    int code = options_parse(&train_command, argc, argv, &self.flags);
    if (code >= 0)
        return ranks_mistake(&train_command, code);
    if (self.flags.warmup < 0)
        self.flags.warmup =
            self.flags.steps / 10 < 100 ? self.flags.steps / 10 : 100;
    if (self.flags.min_lr < 0)
        self.flags.min_lr = self.flags.lr / 10;
    guard_install();
    tsr_status status =
        ranks_open(&train_command, self.flags.session.ranks, &self.ranks);
    if (status == TSR_OK)
        status = open_job(&self);
    if (status != TSR_OK) {
        code = ranks_fail(&self.ranks, &train_command, status);
    } else {
        if (self.ranks.first)
            describe(&self);
        code = launch(&train_command, &self.ranks, run_rank, &self);
    }
    close_job(&self, code != 0);
    return ranks_close(&self.ranks, code);
}
