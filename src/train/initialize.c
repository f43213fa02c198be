#include "train/initialize.h"

#include <math.h>
#include <string.h>

#include <Random123/philox.h>
#include <xxhash.h>

/* Two normal numbers from two of Philox's words. */
static void box_muller(uint32_t a, uint32_t b, double out[2]) {
    static const double two_pi = 6.28318530717958647692;
    double u = ((double)a + 0.5) / 4294967296.0,
           angle = two_pi * ((double)b + 0.5) / 4294967296.0;
    double radius = sqrt(-2.0 * log(u));
    out[0] = radius * cos(angle);
    out[1] = radius * sin(angle);
}

void tsr_initialize(const tsr_param *param, uint64_t seed, int64_t first,
                    int64_t count, float *shard) {
    int64_t total = tsr_type_count(&param->type);
    uint64_t key_bits = XXH64(param->name, strlen(param->name), seed);
    philox4x32_key_t key = {{(uint32_t)key_bits, (uint32_t)(key_bits >> 32)}};
    int64_t drawn = -1; /* the block of four numbers in `normal` */
    double normal[4] = {0};
    for (int64_t i = 0; i < count; i++) {
        int64_t index = first + i;
        if (index >= total) {
            shard[i] = 0;
        } else if (param->init == TSR_INIT_CONSTANT) {
            shard[i] = (float)param->init_value;
        } else {
            if (index / 4 != drawn) {
                drawn = index / 4;
                philox4x32_ctr_t counter = {
                    {(uint32_t)drawn, (uint32_t)(drawn >> 32), 0, 0}};
                philox4x32_ctr_t bits = philox4x32(counter, key);
                box_muller(bits.v[0], bits.v[1], normal);
                box_muller(bits.v[2], bits.v[3], normal + 2);
            }
            shard[i] = (float)(param->init_value * normal[index % 4]);
        }
    }
}
