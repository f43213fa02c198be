/* The eager front on a device whose streams refuse a task: what calls before it
 * still borrow stays theirs. */
#include "device/backend.h"
#include "zero/eager_rank.h"

/* Of the one rank here; the caller's thread enqueues everything. */
static tsr_status (*usual_enqueue)(tsr_stream *stream, tsr_task task,
                                   void *context);
static int enqueues_left; /* the one that makes this 0 is refused */

static tsr_status refusing(tsr_stream *stream, tsr_task task, void *context) {
    if (enqueues_left > 0 && --enqueues_left == 0)
        return tsr_fail(TSR_IO, "the test's stream is full");
    return usual_enqueue(stream, task, context);
}

/* Where the caller's stream stands still until it is opened. */
typedef struct gate {
    pthread_mutex_t mutex;
    pthread_cond_t opened;
    bool open;
} gate;

static tsr_status pass_gate(void *context) {
    gate *self = context;
    pthread_mutex_lock(&self->mutex);
    while (!self->open)
        pthread_cond_wait(&self->opened, &self->mutex);
    pthread_mutex_unlock(&self->mutex);
    return TSR_OK;
}

static void open_gate(gate *self) {
    pthread_mutex_lock(&self->mutex);
    self->open = true;
    pthread_cond_signal(&self->opened);
    pthread_mutex_unlock(&self->mutex);
}

typedef struct refusal {
    eager_rank rank;
    tsr_device_vtable vtable;
    test_param two[2];
    gate gate;
} refusal;

static void open_rank(refusal *self, const rank_context *context) {
    *self = (refusal){.two = {param_of(4, 5, 3), param_of(5, 7, 3)},
                      .gate = {.mutex = PTHREAD_MUTEX_INITIALIZER,
                               .opened = PTHREAD_COND_INITIALIZER}};
    eager_rank *rank = &self->rank;
    rank_open(rank, context, &(rank_options){.kind = TSR_STREAM_QUEUED});
    self->vtable = *rank->device->vtable;
    usual_enqueue = self->vtable.stream_enqueue;
    self->vtable.stream_enqueue = refusing;
    rank->device->vtable = &self->vtable;
    for (int p = 0; p < 2; p++)
        param_register(rank, &self->two[p]);
    CHECK_OK(tsr_zero_register_graph(rank->zero, 1, (int64_t[]){4, 5}, 2));
    CHECK_OK(tsr_zero_seal(rank->zero, rank->stream));
    rank_sync(rank);
    CHECK_OK(tsr_stream_enqueue(rank->stream, pass_gate, &self->gate));
}

static void close_rank(refusal *self) {
    rank_close(&self->rank);
    param_release(&self->two[0]);
    param_release(&self->two[1]);
}

/* Refused is what comes behind the communicator's own task. The next gather
 * must not take the list that this one, which has not begun, will read. */
static void gather_refused(rank_context *context) {
    refusal self;
    open_rank(&self, context);
    eager_rank *rank = &self.rank;
    enqueues_left = 2;
    tsr_view one = gather_param(rank, 1, &self.two[0], TSR_F32);
    CHECK(enqueues_left == 0);
    tsr_view two = gather_param(rank, 1, &self.two[1], TSR_F32);
    open_gate(&self.gate);
    for (int p = 0; p < 2; p++) {
        wait_param(rank, 1, &self.two[p]);
        check_view(rank, &self.two[p], p ? &two : &one, 0);
        release_param(rank, 1, &self.two[p], 1);
    }
    close_rank(&self);
}

/* Likewise; and a gradient buffer that is zeroed takes no list of a reduce. */
static void reduce_refused(rank_context *context) {
    refusal self;
    open_rank(&self, context);
    eager_rank *rank = &self.rank;
    test_param *param = &self.two[0];
    for (int64_t i = 0; i < param->numel; i++)
        ((float *)param->gradient)[i] = grad_value(0, 4, 0, i);
    CHECK_OK(tsr_zero_start_backward(rank->zero, true));
    CHECK_OK(
        tsr_zero_reduce_grad(rank->zero, 1, 4, param->gradient, rank->stream));
    enqueues_left = 2;
    CHECK_FAILS(tsr_zero_end_backward(rank->zero, rank->stream), TSR_IO,
                "the test's stream is full");
    CHECK(enqueues_left == 0);
    CHECK_OK(tsr_zero_update_param_grad_buffer(
        rank->zero, 5, self.two[1].desc.grad, rank->stream));
    open_gate(&self.gate);
    rank_sync(rank);
    check_grad(rank, param, 1, 1); /* it was on its way */
    check_grad(rank, &self.two[1], 0, 1);
    CHECK_OK(tsr_zero_abort_step(rank->zero, rank->stream));
    close_rank(&self);
}

int main(void) {
    alarm(RANKS_ALARM);
    run_threads(1, gather_refused, NULL);
    run_threads(1, reduce_refused, NULL);
    return 0;
}
