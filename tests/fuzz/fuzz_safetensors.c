/* libFuzzer: no header, however damaged, makes the safetensors reader touch
 * what is not its own, and what it accepts is consistent. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "train/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
    tsr_safetensors *file;
    if (tsr_safetensors_parse("fuzz", bytes, count, &file) != TSR_OK) {
        assert(file == NULL);
        return 0;
    }
    const uint8_t *end = NULL;
    (void)end;
    unsigned sum = 0;
    for (size_t i = 0; i < tsr_safetensors_count(file); i++) {
        const tsr_safetensors_tensor *tensor = tsr_safetensors_at(file, i);
        tsr_type type;
        assert(tsr_safetensors_find(file, tensor->name) == tensor);
        assert(end == NULL || tensor->data == end);
        end = tensor->data + tensor->bytes;
        assert(end <= bytes + count);
        for (size_t k = 0; k < tensor->bytes; k++)
            sum += tensor->data[k];
        if (tsr_safetensors_type(file, tensor, &type) == TSR_OK)
            assert(tsr_type_bytes(&type) == tensor->bytes);
    }
    assert(end == NULL || end == bytes + count);
    (void)tsr_safetensors_metadata(file, "format");
    tsr_safetensors_release(file);
    return sum == UINT32_MAX ? -1 : 0; /* the sum is used: reads stay */
}
