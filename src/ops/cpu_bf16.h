/* How bf16 matrices are multiplied on this machine: as they are, or in f32.
 * Bits depend on it, so plans say it. */
#ifndef TSR_OPS_CPU_BF16_H
#define TSR_OPS_CPU_BF16_H

#include <stdbool.h>

#include "tessera/status.h"

/* Whether this processor's bf16 products are faster than f32 ones, by timing a
 * small product of each at the first call, a few ms. TESSERA_BF16=native or f32
 * in the environment decides instead. Thread-safe. */
bool tsr_cpu_bf16_native(void);

/* INVALID_ARGUMENT when TESSERA_BF16 is neither; UNSUPPORTED when it asks for
 * what this machine lacks. Thread-safe. */
tsr_status tsr_cpu_bf16_check(void);

typedef enum tsr_bf16_choice {
    TSR_BF16_PROBE = 0,
    TSR_BF16_NATIVE,
    TSR_BF16_F32,
} tsr_bf16_choice;
/* From now on as if TESSERA_BF16 were this; PROBE: as at first. For the ranks
 * of one job, which must choose alike, and tests. Thread-safe. */
void tsr_cpu_bf16_prefer(tsr_bf16_choice choice);
/* Whether NATIVE or F32 may be preferred: this machine can, and TESSERA_BF16
 * does not say the other. Thread-safe. */
bool tsr_cpu_bf16_allows(tsr_bf16_choice asked);

#endif
