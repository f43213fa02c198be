/* Copies of any size and alignment give what memcpy gives, and touch nothing
 * around. */
#include "comm/copy.h"

#include "contract.h"

enum { LONGEST = 600001, EDGE = 128 };

static unsigned char from[LONGEST + EDGE], to[LONGEST + 2 * EDGE];

static void check_copy(size_t bytes, size_t from_shift, size_t to_shift,
                       bool past_caches) {
    unsigned char *begin = to + EDGE / 2 + to_shift;
    memset(to, 0xa5, sizeof to);
    tsr_copy(begin, from + from_shift, bytes, past_caches);
    CHECK(memcmp(begin, from + from_shift, bytes) == 0);
    for (unsigned char *at = to; at < begin; at++)
        CHECK(*at == 0xa5);
    for (unsigned char *at = begin + bytes; at < to + sizeof to; at++)
        CHECK(*at == 0xa5);
}

int main(void) {
    static const size_t sizes[] = {1,      15,     63,     64,
                                   65,     1000,   65536,  262143,
                                   262144, 262145, 524288, LONGEST};
    fill(TSR_U8, from, sizeof from, 0, 1);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t shift = 0; shift < 64; shift += 7)
            for (int past = 0; past < 2; past++) {
                check_copy(sizes[i], shift, 0, past);
                check_copy(sizes[i], 3, shift, past);
            }
    for (int past = 0; past < 2; past++) {
        tsr_copy(NULL, NULL, 0, past);
        tsr_copy(from, from, sizeof from, past);
    }
    return 0;
}
