/* Ops as functions that build nodes, and kernels that run them.
 *
 * Letters: B sequences, T tokens of one, N = B*T rows, C channels, I / O
 * features in / out, V vocabulary, P positions, H query heads, G key/value
 * heads (G divides H), D = head size. Tensors are dense, last dimension
 * fastest.
 * `[...]` stands for any leading dimensions. `?` marks an optional last input:
 * where it is an accumulator, the result is added to it.
 *
 * Activations, weights and their gradients are f32 or bf16, all of one node
 * alike. Statistics (mean, rstd, lse), losses and the update are f32. A kernel
 * on bf16 computes in f32 or better, sums too, and rounds to nearest even once,
 * where it writes; NaN stays NaN. */
#ifndef TESSERA_OPS_H
#define TESSERA_OPS_H

#include "tessera/device.h"
#include "tessera/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tsr_weight_layout {
    TSR_WEIGHT_IN_OUT = 0, /* weight[I, O], as GPT-2's files have it */
    TSR_WEIGHT_OUT_IN =
        1, /* weight[O, I], as torch.nn.Linear and Llama's files have it */
} tsr_weight_layout;

/* ---- what each op means ---- */

/* clang-format off */
/* embedding           tokens i32[...], weight[V, C] -> y[..., C]
 *                     y[n] = weight[tokens[n]]; token outside [0, V): row of NaN
 * embedding_grad      tokens i32[...], dy[..., C], acc[V, C]? -> dweight[V, C]
 *                     {rows=V}; over acc when given; tokens outside [0, V) are
 *                     skipped; rows are added in token order
 * position_add        x[B, T, C], weight[P, C], position i32[1]? -> y[B, T, C]
 *                     y[b, t] = x[b, t] + weight[position + t]; position 0 when
 *                     absent; position + t outside [0, P): NaN; y may take x's
 *                     memory
 * position_grad       dy[B, T, C], acc[P, C]? -> dweight[P, C]
 *                     {rows=P}; for position 0; rows past T are 0 (or acc)
 * layer_norm          x[..., C], weight[C], bias[C] -> y[..., C], mean[...], rstd[...]
 *                     {eps~}; biased variance; rstd = 1 / sqrt(variance + eps)
 * layer_norm_grad     x, weight, mean, rstd, dy, acc[..., C]? -> dx, dweight[C], dbias[C]
 *                     dx may take acc's (else dy's) memory
 * linear              x[..., I], weight, bias[O]? -> y[..., O]   {weight_layout}
 * linear_grad_input   dy[..., O], weight, acc[..., I]? -> dx[..., I]
 *                     {weight_layout}; dx may take acc's memory
 * linear_grad_weight  x[..., I], dy[..., O], acc? -> dweight
 *                     {weight_layout}; over acc when given
 * bias_grad           dy[..., O], acc[O]? -> dbias[O]            over acc when given
 * attention           qkv[B, T, (H + 2G) * D] -> y[B, T, H * D], lse[B, H, T]
 *                     {heads=H, kv_heads=G}; a row of qkv is q heads, then k heads,
 *                     then v heads; causal; scores * 1/sqrt(D); query head h uses
 *                     key/value head h / (H / G); lse = log sum exp of the scores
 * attention_grad      qkv, y, lse, dy -> dqkv                    {heads, kv_heads}
 * attention_cached    qkv[B, 1, (H + 2G) * D], k[B, G, P, D], v[B, G, P, D],
 *                     position i32[1] -> y[B, 1, H * D], k, v    {heads, kv_heads}
 *                     writes this token's k and v at `position` of the caches, in
 *                     place, and attends to [0, position]; position outside
 *                     [0, P): y is NaN and nothing is written
 * gelu                x[...] -> y[...]
 *                     0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))); y may take
 *                     x's memory
 * gelu_grad           x[...], dy[...] -> dx[...]                 dx may take dy's memory
 * add                 a[...], b[...] -> y[...]                   y may take a's memory
 * cast                x[...] -> y[...]   {dtype}; f32, bf16 and f16 into each
 *                     other, to nearest even
 * store               x[...], state[...] -> state[...]         writes x over a state, for
 *                     the host to read after the walk
 * cross_entropy       logits[..., V], targets i32[...], loss[1] -> loss[1], lse[...]
 *                     {vocab, scale~, accumulate}; loss = (accumulate ? loss : 0) +
 *                     scale * sum over rows with target in [0, vocab) of
 *                     (lse - logits[target]), in double in row order; columns past
 *                     vocab are padding, masked; rows with a negative target are
 *                     ignored; a target >= vocab makes the loss NaN; in place
 * cross_entropy_grad  logits, targets, lse -> dlogits
 *                     {vocab, scale~}; scale * (softmax - onehot); padding and
 *                     ignored rows 0; dlogits may take logits' memory
 * adamw               param[n], grad[n], m[n], v[n], schedule[2], clip[1], twin bf16[n]?
 *                     -> param, m, v, twin?
 *                     {beta1~, beta2~, eps~, weight_decay~}; schedule = {learning
 *                     rate, step counted from 1}; g = grad * clip; the formula of
 *                     torch.optim.AdamW, bias correction in double; twin = param
 *                     rounded; in place; clip not finite: everything is left as it
 *                     is
 * sum                 x_0, x_1, ... (any shapes) -> y[1]         in order, in double
 * clip_scale          square_sum[1], norm[1] -> norm[1], clip[1]
 *                     {max_norm~}; norm = sqrt; clip = min(1, max_norm / (norm +
 *                     1e-6)); 1 when max_norm is 0; NaN when the norm is not finite;
 *                     in place over norm, whose old value is not read
 *
 * ZeRO (inserted by passes; run by zero/core, without kernels):
 * gather              shard_0, ... -> gathering_0, ...
 *                     one communicator call; where memory is shared, the copies are
 *                     the weights' own place and nothing moves
 * wait                gathering_0, ... -> gathered_0, ...
 *                     the compute stream waits for that gather; uses take its outputs
 * release             gathered_0, ... ->                         end of the copies
 * reduce              full_0, ..., grad_shard_0, ..., square_sum[n]
 *                     -> grad_shard_0, ..., square_sum[n]        {accumulate}
 *                     one reduce-scatter call, in place; square_sum[i] of shard i
 * all_reduce          x_0, ... -> x_0, ...                       in place
 * fence_readers       shard_0, ... -> shard_0, ...
 *                     no rank goes on before all have finished reading weights
 * fence_writers       shard_0, ... -> shard_0, ...
 *                     no rank goes on before all have finished writing shards */
/* clang-format on */

/* ---- builders (see tsr_graph_status for failures) ---- */

TSR_API tsr_value_id tsr_embedding(tsr_graph *graph, tsr_value_id tokens,
                                   tsr_value_id weight);
TSR_API tsr_value_id tsr_position_add(tsr_graph *graph, tsr_value_id x,
                                      tsr_value_id weight,
                                      tsr_value_id position);
TSR_API tsr_value_id tsr_layer_norm(tsr_graph *graph, tsr_value_id x,
                                    tsr_value_id weight, tsr_value_id bias,
                                    double eps);
TSR_API tsr_value_id tsr_linear(tsr_graph *graph, tsr_value_id x,
                                tsr_value_id weight, tsr_value_id bias,
                                tsr_weight_layout layout);
TSR_API tsr_value_id tsr_attention(tsr_graph *graph, tsr_value_id qkv,
                                   int heads, int kv_heads);
TSR_API tsr_value_id tsr_attention_cached(tsr_graph *graph, tsr_value_id qkv,
                                          tsr_value_id k_cache,
                                          tsr_value_id v_cache,
                                          tsr_value_id position, int heads,
                                          int kv_heads);
TSR_API tsr_value_id tsr_gelu(tsr_graph *graph, tsr_value_id x);
TSR_API tsr_value_id tsr_cast(tsr_graph *graph, tsr_value_id x,
                              tsr_dtype dtype);
TSR_API tsr_value_id tsr_store(tsr_graph *graph, tsr_value_id x,
                               tsr_value_id state);
TSR_API tsr_value_id tsr_add(tsr_graph *graph, tsr_value_id a, tsr_value_id b);
/* `loss` is a declared state f32 [1]; returns the written loss. */
TSR_API tsr_value_id tsr_cross_entropy(tsr_graph *graph, tsr_value_id logits,
                                       tsr_value_id targets, tsr_value_id loss,
                                       int64_t vocab, double scale);

/* ---- kernels ---- */

typedef struct tsr_kernel_call {
    tsr_op_view view; /* types and attributes of this node; outlives the call */
    const void *state;     /* what prepare made, or NULL */
    const void *const *in; /* view.input_count addresses; in[i] may equal an
                              out[j] where the op's row allows it */
    void *const *out;      /* view.output_count addresses, 64-byte aligned */
    void *workspace; /* as many bytes as the kernel asked for, 64-byte aligned;
                        contents undefined */
    tsr_device *device; /* for tsr_device_parallel */
} tsr_kernel_call;

/* How one op runs on one device; `threads` are the device's. `run` never
 * allocates, never waits, and decides nothing from data that other ranks lack.
 */
typedef struct tsr_kernel {
    const char *op;
    tsr_status (*prepare)(const tsr_op_view *view, int threads,
                          void **out_state); /* NULL: no state */
    void (*unprepare)(void *state);          /* takes NULL; NULL with prepare */
    size_t (*workspace)(const tsr_op_view *view,
                        int threads); /* bytes; NULL: 0 */
    tsr_status (*run)(const tsr_kernel_call *call);
} tsr_kernel;

typedef struct tsr_kernel_table
    tsr_kernel_table; /* immutable after the last add; then thread-safe */

typedef enum tsr_kernel_set {
    TSR_KERNELS_REF = 0, /* naive C, the definition of every op */
    TSR_KERNELS_CPU,     /* the widest instruction set of this processor; matrix
                            products by oneDNN where it is installed */
} tsr_kernel_set;

TSR_API tsr_status tsr_kernel_table_create(tsr_kernel_set set,
                                           tsr_kernel_table **out_table);
TSR_API void tsr_kernel_table_release(tsr_kernel_table *table); /* takes NULL */
/* Adds a kernel, before those of the same op (borrowed; outlives the table). */
TSR_API tsr_status tsr_kernel_table_add(tsr_kernel_table *table,
                                        const tsr_kernel *kernel);
TSR_API const tsr_kernel *
tsr_kernel_table_find(const tsr_kernel_table *table,
                      const char *op); /* NULL: none */
/* For tsr_target: bytes of workspace that the kernels will ask for. `query` is
 * a tsr_workspace_query. */
typedef struct tsr_workspace_query {
    const tsr_kernel_table *kernels; /* borrowed */
    int threads;                     /* of the device they will run on */
} tsr_workspace_query;
TSR_API size_t tsr_kernel_workspace(const void *query, const tsr_op_view *view);
/* What the kernels are and run on, for people: "avx512, oneDNN 2.6.3". */
TSR_API const char *tsr_kernel_table_describe(const tsr_kernel_table *table);
/* How matrices of this dtype (f32 or bf16) are multiplied, which bits depend
 * on, for tsr_target: "f32: oneDNN 2.6.3", "bf16: oneDNN 2.6.3", "f32 over
 * bf16: own products". Borrowed from the table. The first call for bf16 in a
 * process times a product of each kind, unless TESSERA_BF16=native or f32 is in
 * the environment. */
TSR_API const char *tsr_kernel_table_products(const tsr_kernel_table *table,
                                              tsr_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
