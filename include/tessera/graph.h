/* The graph: values, nodes, parameters, and the table of ops they are made of.
 *
 * A graph is built forward by a model, extended backwards by autodiff, and
 * rewritten by passes until it is a plan: its node order is then the schedule,
 * each node has a stream and the nodes it must wait for, each value a place in
 * memory. One data structure serves all stages; verify (plan.h) says which of
 * its promises hold. Shapes are static.
 *
 * A tsr_graph is used by one thread at a time, also where it is const: checks
 * keep scratch in it. What it says never changes behind a const. */
#ifndef TESSERA_GRAPH_H
#define TESSERA_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tessera/dtype.h"
#include "tessera/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TSR_MAX_DIMS 5    /* of a value */
#define TSR_MAX_OUTPUTS 4 /* of an op that is not variadic */

/* Ids are indices into one graph. index < 0: none. */
typedef struct tsr_value_id {
    int32_t index;
} tsr_value_id;
typedef struct tsr_node_id {
    int32_t index;
} tsr_node_id;
typedef struct tsr_param_id {
    int32_t index;
} tsr_param_id;

typedef struct tsr_type {
    tsr_dtype dtype;
    int dims;
    int64_t shape[TSR_MAX_DIMS]; /* [0, dims) are used; each >= 1 */
} tsr_type;

TSR_API int64_t
tsr_type_count(const tsr_type *type); /* elements; 1 for dims == 0 */
TSR_API size_t tsr_type_bytes(const tsr_type *type);
TSR_API bool tsr_type_equal(const tsr_type *a, const tsr_type *b);

/* What a value is. */
typedef enum tsr_role {
    TSR_ROLE_ACTIVATION = 0,
    TSR_ROLE_INPUT, /* written by the host before a walk: tokens, learning rate
                     */
    TSR_ROLE_CONSTANT,    /* never written after it was loaded */
    TSR_ROLE_STATE,       /* lives across walks: moments, caches, the loss */
    TSR_ROLE_PARAMETER,   /* a whole parameter; the shard pass replaces it */
    TSR_ROLE_PARAM_SHARD, /* this rank's part of a parameter: (shard elements),
                             flat; what gathers read, in the dtype that the
                             model computes with */
    TSR_ROLE_GATHERED,    /* the gathered copy of a parameter */
    TSR_ROLE_FULL_GRAD,   /* a whole gradient, on one rank, of one micro-step */
    TSR_ROLE_GRAD_SHARD,  /* the reduced gradient of this rank's shard */
    TSR_ROLE_MASTER,      /* the shard as it is stored, where that is more
                             precise than what the model computes with; the
                             optimizer writes it and, rounded, its twin: the
                             param_shard */
    TSR_ROLE_COUNT
} tsr_role;

/* Queues that a node may run on. Each communicator belongs to one: gather and
 * reduce. */
typedef enum tsr_stream_class {
    TSR_ON_COMPUTE = 0,
    TSR_ON_GATHER,
    TSR_ON_REDUCE,
    TSR_ON_COPY_OUT, /* device to host */
    TSR_ON_COPY_IN,  /* host to device */
    TSR_STREAM_CLASSES
} tsr_stream_class;

typedef enum tsr_section {
    TSR_MICRO_FIRST = 0,
    TSR_MICRO_NEXT,
    TSR_UPDATE,
    TSR_SECTIONS
} tsr_section;
typedef enum tsr_phase { TSR_FORWARD = 0, TSR_BACKWARD } tsr_phase;

/* Which memory a value is in. Kernels and collectives work on the device's;
 * offload and reload copy between the two. */
typedef enum tsr_place { TSR_PLACE_DEVICE = 0, TSR_PLACE_HOST } tsr_place;

/* Where a value lies (docs/architecture.md, "memory"). */
typedef enum tsr_space {
    TSR_SPACE_NONE = 0, /* not placed yet */
    TSR_SPACE_WEIGHTS,  /* the parameter segment: one a host where memory is
                           shared */
    TSR_SPACE_GRADS, /* full gradients: this rank's part of the shared memory */
    TSR_SPACE_PERSISTENT,      /* private, lives across walks */
    TSR_SPACE_TRANSIENT,       /* private, one section */
    TSR_SPACE_HOST_PERSISTENT, /* on the host, private, lives across walks */
    TSR_SPACE_HOST_TRANSIENT,  /* on the host, private, one section */
    TSR_SPACE_COUNT
} tsr_space;

typedef struct tsr_attr {
    const char *name; /* in a graph: owned by it */
    bool is_real;
    int64_t integer; /* when !is_real */
    double real;     /* when is_real */
} tsr_attr;

#define TSR_ATTR_INT(attr_name, attr_value)                                    \
    ((tsr_attr){.name = (attr_name), .integer = (attr_value)})
#define TSR_ATTR_REAL(attr_name, attr_value)                                   \
    ((tsr_attr){.name = (attr_name), .is_real = true, .real = (attr_value)})

typedef struct tsr_value {
    tsr_type type;
    tsr_role role;
    const char
        *name; /* of a declared value ("tokens"); "" for what a node makes */
    tsr_param_id param;   /* of a parameter, its shard, gathered copy or
                             gradients; else none */
    tsr_node_id producer; /* none: declared */
    tsr_place place;
    tsr_space space;
    size_t offset; /* bytes from the start of the space */
} tsr_value;

typedef enum tsr_init_kind {
    TSR_INIT_CONSTANT = 0,
    TSR_INIT_NORMAL
} tsr_init_kind;

/* A parameter of the model. */
typedef struct tsr_param {
    const char
        *name;     /* as in the file it is saved to: "h.0.attn.c_attn.weight" */
    tsr_type type; /* as the model computes with it */
    tsr_dtype stored; /* of the shard that is trained and saved: type.dtype,
                         or f32 for a parameter that is used in bf16 */
    int group; /* parameters of one group are gathered and reduced by one call
                  each */
    int64_t granule; /* a shard is a multiple of so many elements */
    tsr_init_kind init;
    double init_value; /* the constant, or the standard deviation around 0 */
    bool decay;        /* takes part in weight decay */
} tsr_param;

/* A slice of one of the graph's lists. */
typedef struct tsr_span {
    int32_t first, count;
} tsr_span;

typedef struct tsr_node {
    int32_t op; /* row of the graph's op table */
    tsr_section section;
    tsr_phase phase;
    tsr_stream_class stream;
    const char *layer; /* "h.3.attn" */
    tsr_span inputs, outputs, attrs;
    tsr_span after; /* nodes on other streams whose end this one waits for */
    size_t workspace_bytes;  /* of the kernel, in TRANSIENT */
    size_t workspace_offset; /* set by layout */
} tsr_node;

/* ---- ops ---- */

/* One application of an op: what inference, cost and kernels see. */
typedef struct tsr_op_view {
    const struct tsr_op *op;
    const tsr_type *inputs;
    size_t input_count;
    const tsr_type *outputs;
    size_t output_count;
    const tsr_attr *attrs;
    size_t attr_count;
} tsr_op_view;

/* The attribute called `name`, or `fallback`. */
TSR_API int64_t tsr_view_int(const tsr_op_view *view, const char *name,
                             int64_t fallback);
TSR_API double tsr_view_real(const tsr_op_view *view, const char *name,
                             double fallback);

typedef struct tsr_cost {
    double flops; /* multiplications and additions counted apart */
    double bytes; /* least memory traffic: each input read once, each output
                     written once */
} tsr_cost;

typedef struct tsr_graph tsr_graph;

/* The backward of one node. `in_grads[i]` comes in with the gradient found so
 * far (or none) and goes out with this node's part added. Outputs without a
 * gradient have none; a row may leave inputs alone that are not `wanted`. */
typedef struct tsr_vjp {
    tsr_graph *graph;
    tsr_op_view view;
    const tsr_value_id *inputs;
    const tsr_value_id *outputs;
    const tsr_value_id *out_grads;
    const bool *wanted;
    tsr_value_id *in_grads;
} tsr_vjp;

typedef enum tsr_op_flag {
    TSR_OP_COLLECTIVE = 1, /* all ranks must issue it in the same order */
    TSR_OP_ORDERING = 2,   /* moves no data: wait, release */
    TSR_OP_VARIADIC = 4,   /* any number of inputs from min_inputs up */
    TSR_OP_FREES = 8,      /* ends its inputs: nobody may read them later */
    TSR_OP_OFFLOADS = 16,  /* copies its first input to the host; a second one,
                              on the host, is written over */
    TSR_OP_RELOADS = 32,   /* copies its input from the host to the device */
} tsr_op_flag;

typedef struct tsr_op {
    const char *name;
    const char *signature; /* for people: "x[..., I], weight[I, O], bias[O]? ->
                              y[..., O]" */
    int min_inputs, max_inputs;
    int outputs;       /* -1: as many as infer says (variadic) */
    const char *attrs; /* allowed attributes, space-separated; reals end in '~':
                          "heads kv_heads eps~" */
    unsigned flags;    /* OR of tsr_op_flag */
    tsr_stream_class stream;
    unsigned saved; /* bit i: output i exists for the backward alone and has no
                       gradient */
    /* Types of the outputs, *out_count of them (room for max(TSR_MAX_OUTPUTS,
     * input_count)). view->outputs holds the types the caller expects, where it
     * named outputs. Errors: INVALID_ARGUMENT naming the input or attribute
     * that does not fit. */
    tsr_status (*infer)(const tsr_op_view *view, tsr_type *outputs,
                        size_t *out_count);
    void (*cost)(const tsr_op_view *view,
                 tsr_cost *out_cost); /* NULL: 0 flops, bytes of all operands */
    tsr_status (*vjp)(const tsr_vjp *vjp); /* NULL: no gradient */
    /* The input whose memory output i takes over where nobody reads it later;
     * -1: none. NULL: none. */
    int (*may_alias)(const tsr_op_view *view, int output);
    /* The input that output i is written over, always (states, shards,
     * accumulators); -1: none. NULL: none. */
    int (*must_alias)(const tsr_op_view *view, int output);
} tsr_op;

typedef struct tsr_op_table
    tsr_op_table; /* immutable after the last add; then thread-safe */

/* A copy of the standard rows. */
TSR_API tsr_status tsr_op_table_create(tsr_op_table **out_table);
TSR_API void tsr_op_table_release(tsr_op_table *table); /* takes NULL */
/* Adds a row; its pointers are borrowed and outlive the table. Errors:
 * INVALID_ARGUMENT (name taken, or no infer). */
TSR_API tsr_status tsr_op_table_add(tsr_op_table *table, const tsr_op *row);
TSR_API int tsr_op_table_find(const tsr_op_table *table, const char *name,
                              size_t length); /* row, or -1 */
TSR_API const tsr_op *tsr_op_table_row(const tsr_op_table *table, int row);
TSR_API int tsr_op_table_count(const tsr_op_table *table);

/* ---- building ---- */

/* An empty graph over `ops` (borrowed, outlives the graph). */
TSR_API tsr_status tsr_graph_create(const tsr_op_table *ops,
                                    tsr_graph **out_graph);
TSR_API void tsr_graph_release(tsr_graph *graph); /* takes NULL */

/* Builder calls return an id; the first failure sticks to the graph, later
 * calls then return none and change nothing, so that a model reads like a
 * formula. Check once at the end. */
TSR_API tsr_status tsr_graph_status(const tsr_graph *graph);

/* Nodes added from now on carry this layer name (copied) and phase. */
TSR_API void tsr_graph_set_layer(tsr_graph *graph, const char *layer);
TSR_API void tsr_graph_set_phase(tsr_graph *graph, tsr_phase phase);

/* Declares a parameter (copied) and returns its whole value. Errors:
 * INVALID_ARGUMENT (name twice; a dimension < 1; a stored dtype that does not
 * fit). */
TSR_API tsr_value_id tsr_graph_param(tsr_graph *graph, const tsr_param *param);

/* Declares an input, constant or state. */
TSR_API tsr_value_id tsr_graph_declare(tsr_graph *graph, const char *name,
                                       tsr_role role, const tsr_type *type);

/* Adds a node; returns its first output. outputs may be NULL, else receives
 * them all. Trailing optional inputs may be none and are dropped. Errors:
 * NOT_FOUND (op), INVALID_ARGUMENT (arity, types, attributes). */
TSR_API tsr_value_id tsr_graph_node(tsr_graph *graph, const char *op,
                                    const tsr_value_id *inputs,
                                    size_t input_count, const tsr_attr *attrs,
                                    size_t attr_count, tsr_value_id *outputs);

/* The value (f32 [1]) that autodiff differentiates and training minimises. */
TSR_API void tsr_graph_set_loss(tsr_graph *graph, tsr_value_id loss);
TSR_API tsr_value_id tsr_graph_loss(const tsr_graph *graph);

/* ---- reading; pointers are borrowed until the graph next changes ---- */

TSR_API const tsr_op_table *tsr_graph_ops(const tsr_graph *graph);
TSR_API int tsr_graph_value_count(const tsr_graph *graph);
TSR_API int tsr_graph_node_count(const tsr_graph *graph);
TSR_API int tsr_graph_param_count(const tsr_graph *graph);
TSR_API const tsr_value *tsr_graph_value(const tsr_graph *graph,
                                         tsr_value_id value);
TSR_API const tsr_node *tsr_graph_node_at(const tsr_graph *graph,
                                          tsr_node_id node);
TSR_API const tsr_param *tsr_graph_param_at(const tsr_graph *graph,
                                            tsr_param_id param);
TSR_API const tsr_value_id *
tsr_graph_inputs(const tsr_graph *graph,
                 const tsr_node *node); /* node->inputs.count */
TSR_API const tsr_value_id *
tsr_graph_outputs(const tsr_graph *graph,
                  const tsr_node *node); /* node->outputs.count */
TSR_API const tsr_node_id *
tsr_graph_after(const tsr_graph *graph,
                const tsr_node *node); /* node->after.count */
TSR_API const tsr_attr *
tsr_graph_attrs(const tsr_graph *graph,
                const tsr_node *node); /* node->attrs.count */
TSR_API const tsr_op *tsr_graph_op(const tsr_graph *graph,
                                   const tsr_node *node);
/* The declared value called `name`, or none. */
TSR_API tsr_value_id tsr_graph_find(const tsr_graph *graph, const char *name);

/* ---- autodiff ---- */

/* Appends the backward of the loss, phase BACKWARD, from the ops' vjp rows: for
 * each parameter one value with role FULL_GRAD. Errors: INVALID_ARGUMENT (no
 * loss; a parameter the loss does not depend on, named); UNSUPPORTED (an op
 * without vjp on the way to a parameter, named). Cost: linear in nodes. */
TSR_API tsr_status tsr_graph_differentiate(tsr_graph *graph);

#ifdef __cplusplus
}
#endif
#endif
