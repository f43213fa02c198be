/* Random programs over many streams, ordered by events alone, give what running
 * them one step after the other gives; cells are plain memory, so that
 * ThreadSanitizer sees a missing order even where the values agree. */
#include "tessera/device.h"

#include <unistd.h>

#include "check.h"

#define STREAMS 6 /* the last one inline */
#define CELLS 12
#define STEPS 1500

typedef struct cell {
    uint64_t value;
    tsr_event *touched; /* recorded after each step that uses the cell; by many
                           streams in turn, each of which waited for it */
} cell;

typedef struct step {
    cell *to;
    const cell *from;
    uint64_t salt;
    int stream;
    int is_copy;
} step;

static uint64_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static tsr_status run_step(void *context) {
    const step *self = context;
    self->to->value =
        self->to->value * 31 + self->from->value * 17 + self->salt;
    return TSR_OK;
}

static void make_steps(uint64_t seed, cell cells[CELLS], step steps[STEPS]) {
    for (int i = 0; i < STEPS; i++) {
        uint64_t to = next_random(&seed) % CELLS;
        uint64_t from = (to + 1 + next_random(&seed) % (CELLS - 1)) % CELLS;
        steps[i] = (step){.to = &cells[to],
                          .from = &cells[from],
                          .salt = next_random(&seed),
                          .stream = (int)(next_random(&seed) % STREAMS),
                          .is_copy = next_random(&seed) % 8 == 0};
    }
}

static void run_alone(const step steps[STEPS]) {
    for (int i = 0; i < STEPS; i++) {
        if (steps[i].is_copy)
            steps[i].to->value = steps[i].from->value;
        else
            run_step((void *)&steps[i]);
    }
}

static void run_on_streams(tsr_stream *streams[STREAMS], step steps[STEPS]) {
    for (int i = 0; i < STEPS; i++) {
        tsr_stream *stream = streams[steps[i].stream];
        CHECK_OK(tsr_stream_wait(stream, steps[i].to->touched));
        CHECK_OK(tsr_stream_wait(stream, steps[i].from->touched));
        if (steps[i].is_copy)
            CHECK_OK(tsr_stream_copy(stream, &steps[i].to->value,
                                     &steps[i].from->value,
                                     sizeof steps[i].to->value));
        else
            CHECK_OK(tsr_stream_enqueue(stream, run_step, &steps[i]));
        CHECK_OK(tsr_stream_record(stream, steps[i].to->touched));
        CHECK_OK(tsr_stream_record(stream, steps[i].from->touched));
    }
    for (int i = 0; i < STREAMS; i++)
        CHECK_OK(tsr_stream_synchronize(streams[i]));
}

static void agrees_with_running_alone(uint64_t seed, uint32_t max_delay_us) {
    static step steps[STEPS];
    cell cells[CELLS], expected[CELLS];
    tsr_stream *streams[STREAMS];
    tsr_device *device;
    tsr_cpu_options options = {.delay_seed = seed,
                               .max_delay_us = max_delay_us};
    CHECK_OK(tsr_device_create_cpu(&options, &device));
    for (int i = 0; i < STREAMS; i++)
        CHECK_OK(tsr_stream_create(
            device, i == STREAMS - 1 ? TSR_STREAM_INLINE : TSR_STREAM_QUEUED,
            "some", (size_t)i * 8 + 1, &streams[i]));
    for (int i = 0; i < CELLS; i++) {
        cells[i].value = expected[i].value = (uint64_t)i;
        CHECK_OK(tsr_event_create(device, &cells[i].touched));
    }

    make_steps(seed, expected, steps);
    run_alone(steps);
    make_steps(seed, cells, steps);
    run_on_streams(streams, steps);
    for (int i = 0; i < CELLS; i++)
        CHECK_MESSAGE(cells[i].value == expected[i].value, "seed %d, cell %d",
                      (int)seed, i);

    for (int i = 0; i < CELLS; i++)
        tsr_event_release(cells[i].touched);
    for (int i = 0; i < STREAMS; i++)
        tsr_stream_release(streams[i]);
    tsr_device_release(device);
}

int main(void) {
    alarm(240);
    for (uint64_t seed = 1; seed <= 4; seed++) {
        agrees_with_running_alone(seed, 0);
        agrees_with_running_alone(seed, 20);
    }
    return 0;
}
