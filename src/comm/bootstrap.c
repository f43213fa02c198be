/* Bootstraps: what is common to all kinds, and the kind of one rank. */
#include "comm/bootstrap.h"

#include <string.h>

#include "base/memory.h"
#include "comm/backend.h"

int tsr_bootstrap_rank(const tsr_bootstrap *bootstrap) {
    return bootstrap->rank;
}

int tsr_bootstrap_world(const tsr_bootstrap *bootstrap) {
    return bootstrap->world;
}

tsr_status tsr_bootstrap_exchange(tsr_bootstrap *bootstrap, const void *mine,
                                  size_t bytes, void *all, int timeout_ms) {
    if (!bootstrap || (bytes > 0 && (!mine || !all)) || timeout_ms < 0)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "bootstrap exchange of %zu bytes with time-out %d ms: "
                         "a NULL or negative argument",
                         bytes, timeout_ms);
    if (bytes > SIZE_MAX / (size_t)bootstrap->world)
        return tsr_error(TSR_INVALID_ARGUMENT,
                         "bootstrap exchange of %zu bytes a rank is too large",
                         bytes);
    return bootstrap->vtable->exchange(bootstrap, mine, bytes, all,
                                       timeout_ms > 0 ? timeout_ms
                                                      : TSR_COMM_TIMEOUT_MS);
}

void tsr_bootstrap_release(tsr_bootstrap *bootstrap) {
    if (bootstrap)
        bootstrap->vtable->release(bootstrap);
}

tsr_status tsr_bootstrap_conclude(tsr_bootstrap *bootstrap, tsr_status mine) {
    return bootstrap->vtable->conclude && mine != TSR_OK
               ? bootstrap->vtable->conclude(bootstrap, mine)
               : mine;
}

void tsr_bootstrap_end_job(tsr_bootstrap *bootstrap, int exit_code) {
    if (bootstrap->vtable->end_job)
        bootstrap->vtable->end_job(bootstrap, exit_code);
}

/* ---- one rank ---- */

static tsr_status solo_exchange(tsr_bootstrap *bootstrap, const void *mine,
                                size_t bytes, void *all, int timeout_ms) {
    (void)bootstrap;
    (void)timeout_ms;
    if (bytes > 0)
        memmove(all, mine, bytes);
    return TSR_OK;
}

static void solo_release(tsr_bootstrap *bootstrap) { tsr_free(bootstrap); }

static const tsr_bootstrap_vtable solo_vtable = {
    .one_address_space = true,
    .exchange = solo_exchange,
    .release = solo_release,
};

tsr_status tsr_bootstrap_create_solo(tsr_bootstrap **out_bootstrap) {
    TSR_TRY(tsr_alloc(1, sizeof(tsr_bootstrap), (void **)out_bootstrap));
    **out_bootstrap = (tsr_bootstrap){&solo_vtable, 0, 1};
    return TSR_OK;
}
