/* What a kind of bootstrap implements. */
#ifndef TSR_COMM_BOOTSTRAP_H
#define TSR_COMM_BOOTSTRAP_H

#include <stdbool.h>

#include "tessera/comm.h"

typedef struct tsr_bootstrap_vtable {
    bool one_address_space; /* the ranks are threads of one process */
    /* timeout_ms > 0 */
    tsr_status (*exchange)(tsr_bootstrap *bootstrap, const void *mine,
                           size_t bytes, void *all, int timeout_ms);
    void (*release)(tsr_bootstrap *bootstrap);
    /* Both NULL where whoever started the ranks watches over them: the rank's
     * own failure is returned; nothing is done. */
    tsr_status (*conclude)(tsr_bootstrap *bootstrap, tsr_status mine);
    void (*end_job)(tsr_bootstrap *bootstrap, int exit_code);
} tsr_bootstrap_vtable;

/* Every kind begins with this. */
struct tsr_bootstrap {
    const tsr_bootstrap_vtable *vtable;
    int rank, world;
};

#endif
