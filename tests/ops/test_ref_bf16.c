/* The reference on bf16 is the reference on the same numbers in f32, its
 * results rounded once: to the bit, forward and backward. The backward in f32
 * is the derivative of the forward (test_ref_grad.c), so this one is, rounded.
 */
#include "op_run.h"

static runner reference;

static double rounded(double value) {
    return (double)tsr_from_bf16(tsr_to_bf16((float)value));
}

/* Which operands are bf16; the others are statistics, losses and integers. */
typedef struct halves {
    unsigned in, out; /* bit i: operand i */
} halves;

static void set_dtypes(const op_call *call, halves which, tsr_dtype dtype) {
    for (int i = 0; i < MAX_INPUTS && call->in[i]; i++)
        if (which.in >> i & 1)
            ((tensor *)(uintptr_t)call->in[i])->type.dtype = dtype;
    for (int i = 0; i < TSR_MAX_OUTPUTS && call->out[i]; i++)
        if (which.out >> i & 1)
            call->out[i]->type.dtype = dtype;
}

/* Inputs are numbers that bf16 has. */
static void check_rounds(const op_call *call, halves which) {
    tensor f32[TSR_MAX_OUTPUTS];
    int outputs = 0;
    for (int i = 0; i < MAX_INPUTS && call->in[i]; i++)
        for (int64_t k = 0; which.in >> i & 1 && k < tensor_count(call->in[i]);
             k++)
            call->in[i]->data[k] = rounded(call->in[i]->data[k]);
    run_op(&reference, call);
    for (; outputs < TSR_MAX_OUTPUTS && call->out[outputs]; outputs++)
        f32[outputs] = tensor_copy(call->out[outputs]);
    set_dtypes(call, which, TSR_BF16);
    run_op(&reference, call);
    set_dtypes(call, which, TSR_F32);
    for (int j = 0; j < outputs; j++) {
        bool exact = true;
        for (int64_t k = 0; k < tensor_count(&f32[j]); k++) {
            exact = exact && f32[j].data[k] == rounded(f32[j].data[k]);
            if (which.out >> j & 1)
                f32[j].data[k] = rounded(f32[j].data[k]);
        }
        CHECK_MESSAGE(!exact || strcmp(call->op, "embedding") == 0,
                      "%s: nothing was rounded", call->op);
        check_same(call->out[j], &f32[j], call->op);
        tensor_free(&f32[j]);
    }
}

static void check_tokens(void) {
    tensor tokens = INTS(3, 7), weight = RANDOM(5, 9), y = ZEROS(3, 7, 9);
    tensor dy = RANDOM(3, 7, 9), acc = RANDOM(5, 9), dweight = ZEROS(5, 9);
    tensor positions = RANDOM(8, 9), dpositions = ZEROS(7, 9);
    tensor acc_positions = RANDOM(7, 9);
    tensor_randomize_ints(&tokens, -1, 6);
    tensor known = tensor_copy(&tokens);
    tensor_randomize_ints(&known, 0, 5);
    check_rounds(&(op_call){"embedding", .in = {&known, &weight}, .out = {&y}},
                 (halves){2, 1});
    check_rounds(&(op_call){"embedding_grad", .in = {&tokens, &dy, &acc},
                            .out = {&dweight},
                            .attrs = {TSR_ATTR_INT("rows", 5)}},
                 (halves){6, 1});
    check_rounds(
        &(op_call){"position_add", .in = {&dy, &positions}, .out = {&y}},
        (halves){3, 1});
    check_rounds(&(op_call){"position_grad", .in = {&dy, &acc_positions},
                            .out = {&dpositions},
                            .attrs = {TSR_ATTR_INT("rows", 7)}},
                 (halves){3, 1});
    FREE(&tokens, &known, &weight, &y, &dy, &acc, &dweight, &positions,
         &dpositions, &acc_positions);
}

static void check_layer_norm(void) {
    tensor x = RANDOM(6, 11), weight = RANDOM(11), bias = RANDOM(11);
    tensor y = ZEROS(6, 11), mean = ZEROS(6), rstd = ZEROS(6);
    tensor dy = RANDOM(6, 11), acc = RANDOM(6, 11), dx = ZEROS(6, 11);
    tensor dweight = ZEROS(11), dbias = ZEROS(11);
    check_rounds(&(op_call){"layer_norm", .in = {&x, &weight, &bias},
                            .out = {&y, &mean, &rstd},
                            .attrs = {TSR_ATTR_REAL("eps", 1e-5)}},
                 (halves){7, 1});
    check_rounds(&(op_call){"layer_norm_grad",
                            .in = {&x, &weight, &mean, &rstd, &dy, &acc},
                            .out = {&dx, &dweight, &dbias}},
                 (halves){1 | 2 | 16 | 32, 7});
    FREE(&x, &weight, &bias, &y, &mean, &rstd, &dy, &acc, &dx, &dweight,
         &dbias);
}

static void check_linear(tsr_weight_layout layout) {
    const tsr_attr attr = TSR_ATTR_INT("weight_layout", layout);
    const bool out_in = layout == TSR_WEIGHT_OUT_IN;
    tensor x = RANDOM(6, 7), bias = RANDOM(5), y = ZEROS(6, 5);
    tensor weight = out_in ? RANDOM(5, 7) : RANDOM(7, 5);
    tensor dy = RANDOM(6, 5), acc = RANDOM(6, 7), dx = ZEROS(6, 7);
    tensor acc_weight = tensor_randomized(tensor_copy(&weight));
    tensor dweight = tensor_copy(&weight), dbias = ZEROS(5);
    check_rounds(&(op_call){"linear", .in = {&x, &weight, &bias}, .out = {&y},
                            .attrs = {attr}},
                 (halves){7, 1});
    check_rounds(&(op_call){"linear_grad_input", .in = {&dy, &weight, &acc},
                            .out = {&dx}, .attrs = {attr}},
                 (halves){7, 1});
    check_rounds(&(op_call){"linear_grad_weight", .in = {&x, &dy, &acc_weight},
                            .out = {&dweight}, .attrs = {attr}},
                 (halves){7, 1});
    check_rounds(&(op_call){"bias_grad", .in = {&dy, &bias}, .out = {&dbias}},
                 (halves){3, 1});
    FREE(&x, &bias, &y, &weight, &dy, &acc, &dx, &acc_weight, &dweight, &dbias);
}

static void check_attention(void) {
    enum { B = 2, T = 5, H = 4, G = 2, D = 3, P = 7, ROW = (H + 2 * G) * D };
    const tsr_attr heads = TSR_ATTR_INT("heads", H);
    const tsr_attr kv_heads = TSR_ATTR_INT("kv_heads", G);
    tensor qkv = RANDOM(B, T, ROW), y = ZEROS(B, T, H * D);
    tensor lse = ZEROS(B, H, T), dy = RANDOM(B, T, H * D);
    tensor dqkv = ZEROS(B, T, ROW), token = RANDOM(B, 1, ROW);
    tensor k = RANDOM(B, G, P, D), v = RANDOM(B, G, P, D), at = INTS(1);
    tensor y_token = ZEROS(B, 1, H * D);
    check_rounds(&(op_call){"attention", .in = {&qkv}, .out = {&y, &lse},
                            .attrs = {heads, kv_heads}},
                 (halves){1, 1});
    check_rounds(&(op_call){"attention_grad", .in = {&qkv, &y, &lse, &dy},
                            .out = {&dqkv}, .attrs = {heads, kv_heads}},
                 (halves){1 | 2 | 8, 1});
    /* The caches are what they were, and this token's, which bf16 has. */
    tensor k_f32 = tensor_copy(&k), v_f32 = tensor_copy(&v);
    at.data[0] = 4;
    const op_call cached = {"attention_cached", .in = {&token, &k, &v, &at},
                            .out = {&y_token, &k_f32, &v_f32},
                            .attrs = {heads, kv_heads}, .over = {0, 2, 3}};
    for (int64_t i = 0; i < tensor_count(&token); i++)
        token.data[i] = rounded(token.data[i]);
    for (int64_t i = 0; i < tensor_count(&k); i++) {
        k.data[i] = rounded(k.data[i]);
        v.data[i] = rounded(v.data[i]);
    }
    run_op(&reference, &cached);
    tensor expected = tensor_copy(&y_token);
    for (int64_t i = 0; i < tensor_count(&expected); i++)
        expected.data[i] = rounded(expected.data[i]);
    set_dtypes(&cached, (halves){7, 7}, TSR_BF16);
    run_op(&reference, &cached);
    check_same(&y_token, &expected, "attention_cached");
    FREE(&qkv, &y, &lse, &dy, &dqkv, &token, &k, &v, &at, &y_token, &k_f32,
         &v_f32, &expected);
}

static void check_elements(void) {
    tensor a = RANDOM(50), b = RANDOM(50), y = ZEROS(50);
    check_rounds(&(op_call){"gelu", .in = {&a}, .out = {&y}}, (halves){1, 1});
    check_rounds(&(op_call){"gelu_grad", .in = {&a, &b}, .out = {&y}},
                 (halves){3, 1});
    check_rounds(&(op_call){"add", .in = {&a, &b}, .out = {&y}},
                 (halves){3, 1});
    FREE(&a, &b, &y);
}

static void check_cross_entropy(void) {
    const tsr_attr vocab = TSR_ATTR_INT("vocab", 9);
    const tsr_attr scale = TSR_ATTR_REAL("scale", 0.37);
    tensor logits = RANDOM(6, 11), targets = INTS(6), loss = RANDOM(1);
    tensor out = ZEROS(1), lse = ZEROS(6), dlogits = ZEROS(6, 11);
    tensor_randomize_ints(&targets, -1, 9);
    check_rounds(&(op_call){"cross_entropy", .in = {&logits, &targets, &loss},
                            .out = {&out, &lse}, .attrs = {vocab, scale},
                            .over = {3}},
                 (halves){1, 0});
    check_rounds(&(op_call){"cross_entropy_grad",
                            .in = {&logits, &targets, &lse}, .out = {&dlogits},
                            .attrs = {vocab, scale}},
                 (halves){1, 1});
    FREE(&logits, &targets, &loss, &out, &lse, &dlogits);
}

int main(void) {
    tsr_device *device = device_with(1);
    reference = ref_runner(device);
    check_tokens();
    check_layer_norm();
    check_linear(TSR_WEIGHT_IN_OUT);
    check_linear(TSR_WEIGHT_OUT_IN);
    check_attention();
    check_elements();
    check_cross_entropy();
    tsr_device_release(device);
    return 0;
}
