/* What train and bench share: a model's flags, its plans, kernels, and the
 * trainer's options made of them. */
#ifndef TSR_CLI_SESSION_H
#define TSR_CLI_SESSION_H

#include "cli/launch.h"
#include "cli/ranks.h"
#include "tessera/train.h"

/* As given on the command line; 0: the preset's or the default. */
typedef struct session_flags {
    const char *model;
    int64_t layers, heads, dim, seq, vocab;
    int64_t ranks, threads, batch, accumulate;
    const char *gather; /* "alias" or "copy"; NULL: alias where possible */
    const char *comm;   /* "host" or "mpi"; NULL: host where possible */
    int64_t prefetch;   /* -1: not given */
    double wire;        /* GB/s */
    const char *dtype;  /* "f32" or "bf16" */
    size_t memory, host_memory;
    const char *plan; /* a file to run instead of what is compiled, or NULL */
    double weight_decay, beta1, beta2, clip;
} session_flags;

#define SESSION_ROWS(type, member)                                             \
    {"model",                                                                  \
     OPTION_TEXT,                                                              \
     offsetof(type, member.model),                                             \
     0,                                                                        \
     0,                                                                        \
     "NAME",                                                                   \
     "gpt2, gpt2-medium, gpt2-large, gpt2-xl or gpt2-tiny (default gpt2)"},    \
        {"layers", OPTION_INT, offsetof(type, member.layers), 1,               \
         4096,     "N",        "transformer blocks"},                          \
        {"heads", OPTION_INT, offsetof(type, member.heads),   1,               \
         4096,    "N",        "attention heads; divide --dim"},                \
        {"dim", OPTION_INT, offsetof(type, member.dim), 1, 1048576,            \
         "N",   "channels"},                                                   \
        {"seq",    OPTION_INT, offsetof(type, member.seq),        1,           \
         16777216, "N",        "tokens a sequence, and positions"},            \
        {"vocab", OPTION_INT,    offsetof(type, member.vocab), 1, 16777216,    \
         "N",     "tokens known"},                                             \
        {"ranks",                                                              \
         OPTION_INT,                                                           \
         offsetof(type, member.ranks),                                         \
         1,                                                                    \
         256, /* TSR_HOST_RANKS */                                             \
         "N",                                                                  \
         "local processes (default 1); none under mpirun"},                    \
        {"threads",                                                            \
         OPTION_INT,                                                           \
         offsetof(type, member.threads),                                       \
         1,                                                                    \
         1024,                                                                 \
         "N",                                                                  \
         "threads a rank (default: processors / ranks)"},                      \
        {"batch",                                                              \
         OPTION_INT,                                                           \
         offsetof(type, member.batch),                                         \
         1,                                                                    \
         1048576,                                                              \
         "N",                                                                  \
         "sequences a rank and micro-step (default 4)"},                       \
        {"accumulate", OPTION_INT, offsetof(type, member.accumulate), 1,       \
         65536,        "N",        "micro-steps a step (default 1)"},          \
        {"gather",                                                             \
         OPTION_TEXT,                                                          \
         offsetof(type, member.gather),                                        \
         0,                                                                    \
         0,                                                                    \
         "HOW",                                                                \
         "alias: use the shared weights in place (default); copy: gather "     \
         "them"},                                                              \
        {"prefetch",                                                           \
         OPTION_INT,                                                           \
         offsetof(type, member.prefetch),                                      \
         0,                                                                    \
         4096,                                                                 \
         "N",                                                                  \
         "groups gathered ahead of their use (default 1); needs --gather "     \
         "copy"},                                                              \
        {"wire",                                                               \
         OPTION_REAL,                                                          \
         offsetof(type, member.wire),                                          \
         1e-6,                                                                 \
         1e6,                                                                  \
         "GB/S",                                                               \
         "pretend that ranks are linked this fast: their calls take longer"},  \
        {"dtype",                                                              \
         OPTION_TEXT,                                                          \
         offsetof(type, member.dtype),                                         \
         0,                                                                    \
         0,                                                                    \
         "TYPE",                                                               \
         "f32 (default), or bf16: gathered weights, activations and whole "    \
         "gradients in bf16, all that is kept in f32"},                        \
        {"comm",                                                               \
         OPTION_TEXT,                                                          \
         offsetof(type, member.comm),                                          \
         0,                                                                    \
         0,                                                                    \
         "HOW",                                                                \
         "under mpirun: host, over shared memory (default on one host); mpi"}, \
        {"weight-decay",                                                       \
         OPTION_REAL,                                                          \
         offsetof(type, member.weight_decay),                                  \
         0,                                                                    \
         10,                                                                   \
         "X",                                                                  \
         "of matrices (default 0.1)"},                                         \
        {"beta1",  OPTION_REAL, offsetof(type, member.beta1), 0,               \
         0.999999, "X",         "AdamW's (default 0.9)"},                      \
        {"beta2",  OPTION_REAL, offsetof(type, member.beta2), 0,               \
         0.999999, "X",         "AdamW's (default 0.95)"},                     \
        {"clip",                                                               \
         OPTION_REAL,                                                          \
         offsetof(type, member.clip),                                          \
         0,                                                                    \
         1e9,                                                                  \
         "X",                                                                  \
         "largest gradient norm; 0: no clipping (default 1)"},                 \
        {"memory",                                                             \
         OPTION_BYTES,                                                         \
         offsetof(type, member.memory),                                        \
         0,                                                                    \
         0,                                                                    \
         "BYTES",                                                              \
         "budget of one rank, such as 2G; more is refused"},                   \
        {"host-memory",                                                        \
         OPTION_BYTES,                                                         \
         offsetof(type, member.host_memory),                                   \
         0,                                                                    \
         0,                                                                    \
         "BYTES",                                                              \
         "budget of one rank for what its plan keeps on the host"},            \
    {                                                                          \
        "plan", OPTION_TEXT, offsetof(type, member.plan), 0, 0, "FILE",        \
            "run this plan, edited by hand, instead of the compiled one"       \
    }

#define SESSION_DEFAULTS                                                       \
    {                                                                          \
        .model = "gpt2", .batch = 4, .accumulate = 1, .prefetch = -1,          \
        .dtype = "f32", .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.95,      \
        .clip = 1                                                              \
    }

typedef struct cli_session {
    session_flags flags;    /* ranks and threads are what they came to be */
    const cli_ranks *ranks; /* borrowed */
    bool over_mpi;          /* messages, not shared memory */
    tsr_gpt_config model;
    tsr_op_table *ops; /* owned, like all below */
    tsr_kernel_table *kernels;
    tsr_plan *plan, *eval_plan; /* eval_plan: NULL when not asked for */
} cli_session;

/* Checks the flags against each other, compiles the plans, and refuses what
 * this machine's memory cannot hold. Messages name flags. */
tsr_status session_open(const session_flags *flags, const cli_ranks *ranks,
                        bool evaluate, cli_session *out_session);
void session_close(cli_session *session);

/* The training plan that the flags compile to, up to `stage` (below PLACED);
 * the caller's to release. */
tsr_status session_compile_until(const cli_session *session, tsr_stage stage,
                                 tsr_plan **out_plan);

/* What the kernels are and how they multiply, for people: "avx512, oneDNN
 * 2.6.3", "avx512, oneDNN 2.6.3, products in bf16: oneDNN 2.6.3". Returns
 * buffer. */
#define SESSION_KERNELS_BYTES 192
char *session_kernels(const cli_session *session,
                      char buffer[SESSION_KERNELS_BYTES]);

/* The trainer's options; samples, rates and seed are the caller's to add. */
tsr_trainer_options session_trainer(const cli_session *session);

#endif
