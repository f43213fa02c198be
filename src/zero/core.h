/* What every front of the ZeRO runtime enqueues: gather into an address, reduce
 * from an address, and so on. It never looks anything up, allocates or counts;
 * calls are prepared by the front and borrowed until they have run. */
#ifndef TSR_ZERO_CORE_H
#define TSR_ZERO_CORE_H

#include "tessera/zero.h"

/* Streams and communicators of one front, borrowed. Gathers go to the gather
 * stream, all else to the reduce stream, each with a communicator of its own. A
 * world of one rank may come without communicators. */
typedef struct tsr_core {
    tsr_stream *gather_stream;
    tsr_stream *reduce_stream;
    tsr_comm *gather_comm;
    tsr_comm *reduce_comm;
} tsr_core;

tsr_status tsr_core_gather(const tsr_core *core, const tsr_gather *gathers,
                           size_t count);
tsr_status tsr_core_reduce(const tsr_core *core, const tsr_reduce *reduces,
                           size_t count);
tsr_status tsr_core_all_reduce(const tsr_core *core, void *buffer, size_t count,
                               tsr_dtype dtype);
tsr_status tsr_core_fence(const tsr_core *core);

#endif
