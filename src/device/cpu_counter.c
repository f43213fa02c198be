#include "device/cpu_counter.h"

#include <stdbool.h>

#include "base/os.h"

/* A pause is 10 to 50 ns on x86-64, so this is 2 to 10 us: about the cost of
 * sleeping and being woken, hence at most twice the best wait (Karlin et al.
 * 1991); short, since threads may outnumber processors. */
#define SPIN_ITERATIONS 200

#define SLEEPING ((uint32_t)1)

/* Signed distance modulo 2^32, so that the order survives wrapping. */
static bool is_at(uint32_t word, uint32_t count) {
    return (int32_t)((word & ~SLEEPING) - count * 2) >= 0;
}

void cpu_counter_raise(cpu_counter *counter, uint32_t count) {
    uint32_t word = atomic_load_explicit(&counter->word, memory_order_relaxed);
    do {
        if (is_at(word, count))
            return;
    } while (!atomic_compare_exchange_weak_explicit(
        &counter->word, &word, count * 2, memory_order_release,
        memory_order_relaxed));
    /* The counter may be gone from here on; waking an address that nobody
     * sleeps on is harmless. */
    if (word & SLEEPING)
        tsr_os_futex_wake(&counter->word, false);
}

void cpu_counter_reach(cpu_counter *counter, uint32_t count) {
    uint32_t word;
    for (int i = 0; i < SPIN_ITERATIONS; i++) {
        word = atomic_load_explicit(&counter->word, memory_order_acquire);
        if (is_at(word, count))
            return;
        tsr_os_relax();
    }
    word = atomic_load_explicit(&counter->word, memory_order_acquire);
    while (!is_at(word, count)) {
        /* On failure the exchange has read the word again. */
        if (!(word & SLEEPING) &&
            !atomic_compare_exchange_weak_explicit(
                &counter->word, &word, word | SLEEPING, memory_order_acquire,
                memory_order_acquire))
            continue;
        tsr_os_futex_wait(&counter->word, word | SLEEPING, -1, false);
        word = atomic_load_explicit(&counter->word, memory_order_acquire);
    }
}
