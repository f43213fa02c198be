/* The kernel table: what is in it, who wins, how it fails. */
#include "base/memory.h"
#include "check.h"
#include "tessera/ops.h"

static const char *const ops[] = {"embedding",
                                  "embedding_grad",
                                  "position_add",
                                  "position_grad",
                                  "layer_norm",
                                  "layer_norm_grad",
                                  "linear",
                                  "linear_grad_input",
                                  "linear_grad_weight",
                                  "bias_grad",
                                  "attention",
                                  "attention_grad",
                                  "attention_cached",
                                  "gelu",
                                  "gelu_grad",
                                  "add",
                                  "store",
                                  "cast",
                                  "cross_entropy",
                                  "cross_entropy_grad",
                                  "adamw",
                                  "sum",
                                  "clip_scale"};

static tsr_status nothing(const tsr_kernel_call *call) {
    (void)call;
    return TSR_OK;
}

static void check_complete(tsr_kernel_set set, const char *description) {
    tsr_kernel_table *table = NULL;
    CHECK_OK(tsr_kernel_table_create(set, &table));
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        const tsr_kernel *kernel = tsr_kernel_table_find(table, ops[i]);
        CHECK_MESSAGE(kernel != NULL && kernel->run != NULL, "%s", ops[i]);
        CHECK(strcmp(kernel->op, ops[i]) == 0);
    }
    CHECK(tsr_kernel_table_find(table, "gather") == NULL);
    CHECK(tsr_kernel_table_find(table, "") == NULL);
    CHECK_MESSAGE(strstr(tsr_kernel_table_describe(table), description),
                  "described as %s", tsr_kernel_table_describe(table));
    printf("%s\n", tsr_kernel_table_describe(table));
    tsr_kernel_table_release(table);
}

static void check_add(void) {
    static const tsr_kernel newer = {.op = "gelu", .run = nothing};
    static const tsr_kernel newest = {.op = "gelu", .run = nothing};
    static const tsr_kernel foreign = {.op = "mine", .run = nothing};
    static const tsr_kernel nameless = {.run = nothing};
    static const tsr_kernel idle = {.op = "idle"};
    tsr_kernel_table *table = NULL;
    CHECK_OK(tsr_kernel_table_create(TSR_KERNELS_CPU, &table));
    CHECK_OK(tsr_kernel_table_add(table, &newer));
    CHECK(tsr_kernel_table_find(table, "gelu") == &newer);
    CHECK_OK(tsr_kernel_table_add(table, &newest));
    CHECK(tsr_kernel_table_find(table, "gelu") == &newest);
    CHECK_OK(tsr_kernel_table_add(table, &foreign));
    CHECK(tsr_kernel_table_find(table, "mine") == &foreign);
    CHECK_FAILS(tsr_kernel_table_add(table, &nameless), TSR_INVALID_ARGUMENT,
                "op name");
    CHECK_FAILS(tsr_kernel_table_add(table, &idle), TSR_INVALID_ARGUMENT,
                "idle");
    CHECK(tsr_kernel_table_find(table, "idle") == NULL);
    tsr_kernel_table_release(table);
}

/* Every allocation fails in turn; nothing leaks (ASan) or stays behind. */
static void check_out_of_memory(tsr_kernel_set set) {
    long calls = 0;
    do {
        tsr_kernel_table *table = (tsr_kernel_table *)&calls;
        tsr_alloc_fail_at(++calls);
        const tsr_status status = tsr_kernel_table_create(set, &table);
        tsr_alloc_fail_at(0);
        CHECK(status == TSR_OK || status == TSR_OUT_OF_MEMORY);
        CHECK((table != NULL) == (status == TSR_OK));
        tsr_kernel_table_release(table);
        if (status == TSR_OK)
            break;
    } while (calls < 100);
    CHECK(calls > 2 && calls < 100);
}

int main(void) {
    tsr_kernel_table *table = NULL;
    check_complete(TSR_KERNELS_REF, "reference C");
    check_complete(TSR_KERNELS_CPU, ", ");
    check_add();
    check_out_of_memory(TSR_KERNELS_REF);
    check_out_of_memory(TSR_KERNELS_CPU);
    CHECK_FAILS(tsr_kernel_table_create((tsr_kernel_set)7, &table),
                TSR_INVALID_ARGUMENT, "7");
    CHECK(table == NULL);
    tsr_kernel_table_release(NULL);
    return 0;
}
