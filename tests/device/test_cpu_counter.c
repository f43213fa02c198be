/* The counter under everything: order over wrapping, and many sleepers. */
#include "device/cpu_counter.h"

#include <pthread.h>
#include <unistd.h>

#include "check.h"

#define ROUNDS 2000u
#define WAITERS 4

static uint32_t count_of(cpu_counter *counter) {
    return atomic_load(&counter->word) / 2;
}

static void raises_but_never_lowers(void) {
    cpu_counter counter = {0};
    cpu_counter_reach(&counter, 0);
    cpu_counter_raise(&counter, 7);
    cpu_counter_raise(&counter, 5);
    CHECK(count_of(&counter) == 7);
    cpu_counter_reach(&counter, 5);
    cpu_counter_reach(&counter, 7);
}

/* From 0 the count goes around more than once, in steps below the span. */
static void survives_wrapping(void) {
    cpu_counter counter = {0};
    uint32_t count = 0;
    for (int i = 0; i < 20; i++) {
        uint32_t next = count + CPU_COUNTER_SPAN - 1;
        cpu_counter_raise(&counter, next);
        CHECK(count_of(&counter) == (next & 0x7FFFFFFFu));
        cpu_counter_reach(&counter, next);
        cpu_counter_reach(&counter, count);
        count = next;
    }
}

/* `value` is what the ball's raiser wrote before: plain, so that TSan sees a
 * missing order. */
typedef struct ball {
    cpu_counter there, back[WAITERS];
    uint32_t value;
} ball;

typedef struct waiter {
    ball *ball;
    int index;
} waiter;

static void *wait_main(void *context) {
    waiter *self = context;
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        cpu_counter_reach(&self->ball->there, round);
        CHECK(self->ball->value == round);
        cpu_counter_raise(&self->ball->back[self->index], round);
    }
    return NULL;
}

static void wakes_everybody_every_time(void) {
    ball shared = {0};
    waiter waiters[WAITERS];
    pthread_t threads[WAITERS];
    for (int i = 0; i < WAITERS; i++) {
        waiters[i] = (waiter){.ball = &shared, .index = i};
        CHECK(pthread_create(&threads[i], NULL, wait_main, &waiters[i]) == 0);
    }
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        shared.value = round;
        cpu_counter_raise(&shared.there, round);
        for (int i = 0; i < WAITERS; i++)
            cpu_counter_reach(&shared.back[i], round);
    }
    for (int i = 0; i < WAITERS; i++)
        pthread_join(threads[i], NULL);
}

int main(void) {
    alarm(120); /* a lost wake-up is a failure, not a hang */
    raises_but_never_lowers();
    survives_wrapping();
    wakes_everybody_every_time();
    return 0;
}
