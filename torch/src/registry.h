/* The engines of this process, and which one is current: DeepSpeed's calls name
 * none. The only global of the library; `lock` guards all of it, and is held by
 * every op and call, whichever thread (autograd's, the caller's) it is in. */
#ifndef TSR_TORCH_REGISTRY_H
#define TSR_TORCH_REGISTRY_H

#include <pthread.h>

#include "engine.h"
#include "shim.h"

typedef struct dc_registry_state {
    pthread_mutex_t lock;
    dc_shim shim;
    int release;        /* DeepSpeed's, whose ops are registered; 0: none */
    dc_engine *engines; /* list; owned */
    dc_engine *current; /* NULL: none */
    int64_t last_handle;
    tsr_bootstrap *mpi; /* NULL: not joined; owned */
} dc_registry_state;

dc_registry_state *dc_registry(void);

void dc_lock(void);
void dc_unlock(void);

/* All with the lock held. */

/* FAILED_PRECONDITION: no engine. */
tsr_status dc_current(dc_engine **out_engine);
/* The current engine if it has that graph, else the one that has it. Graph ids
 * of several engines may be equal. Errors: NOT_FOUND naming it. */
tsr_status dc_engine_of_graph(int64_t graph, dc_engine **out_engine);
/* NOT_FOUND. */
tsr_status dc_engine_of_handle(int64_t handle, dc_engine **out_engine);

#endif
