/* Ranks that something else has brought together (a launcher's store): its own
 * exchange is all they need to find each other. */
#include "comm/bootstrap.h"

#include "base/memory.h"

typedef struct callback_bootstrap {
    tsr_bootstrap base;
    tsr_exchange exchange;
    void *context; /* borrowed */
} callback_bootstrap;

static tsr_status callback_exchange(tsr_bootstrap *bootstrap, const void *mine,
                                    size_t bytes, void *all, int timeout_ms) {
    callback_bootstrap *self = (callback_bootstrap *)bootstrap;
    return self->exchange(self->context, mine, bytes, all, timeout_ms);
}

static void callback_release(tsr_bootstrap *bootstrap) { tsr_free(bootstrap); }

static const tsr_bootstrap_vtable callback_vtable = {
    .one_address_space = false,
    .exchange = callback_exchange,
    .release = callback_release,
};

tsr_status tsr_bootstrap_create_callback(int rank, int world,
                                         tsr_exchange exchange, void *context,
                                         tsr_bootstrap **out_bootstrap) {
    callback_bootstrap *self = NULL;
    *out_bootstrap = NULL;
    if (world < 1 || rank < 0 || rank >= world || !exchange)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "bootstrap: rank %d of %d, or no exchange", rank,
                         world);
    TSR_TRY(tsr_alloc(1, sizeof *self, (void **)&self));
    self->base = (tsr_bootstrap){
        .vtable = &callback_vtable, .rank = rank, .world = world};
    self->exchange = exchange;
    self->context = context;
    *out_bootstrap = &self->base;
    return TSR_OK;
}
