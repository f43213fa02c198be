/* libFuzzer: any bytes parse or are refused; what parses is printed, and that
 * text parses into a plan with the same text. Built by the preset asan. */
#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "tessera/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static tsr_op_table *ops; /* of the process */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tsr_plan *plan, *again;
    char *text, *text_again;
    if (!ops)
        CHECK_OK(tsr_op_table_create(&ops));
    if (tsr_plan_parse(ops, (const char *)data, size, &plan) != TSR_OK) {
        CHECK(plan == NULL);
        CHECK(tsr_last_error()[0] != '\0');
        return 0;
    }
    CHECK_OK(tsr_plan_print(plan, &text));
    CHECK_OK(tsr_plan_parse(ops, text, strlen(text), &again));
    CHECK_OK(tsr_plan_print(again, &text_again));
    CHECK(strcmp(text, text_again) == 0);
    tsr_plan_text_release(text);
    tsr_plan_text_release(text_again);
    tsr_plan_release(plan);
    tsr_plan_release(again);
    return 0;
}
