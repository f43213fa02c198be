#include "zero/core.h"

#include "base/status.h"

tsr_status tsr_core_gather(const tsr_core *core, const tsr_gather *gathers,
                           size_t count) {
    return tsr_comm_gather(core->gather_comm, gathers, count,
                           core->gather_stream);
}

tsr_status tsr_core_reduce(const tsr_core *core, const tsr_reduce *reduces,
                           size_t count) {
    return tsr_comm_reduce_scatter(core->reduce_comm, reduces, count,
                                   core->reduce_stream);
}

tsr_status tsr_core_all_reduce(const tsr_core *core, void *buffer, size_t count,
                               tsr_dtype dtype) {
    return tsr_comm_all_reduce(core->reduce_comm, buffer, count, dtype,
                               core->reduce_stream);
}

tsr_status tsr_core_fence(const tsr_core *core) {
    return tsr_comm_barrier(core->reduce_comm, core->reduce_stream);
}
