/* Events of the CPU backend; recording and waiting are works of cpu_stream.c.
 */
#include "base/memory.h"
#include "device/cpu.h"

tsr_status cpu_event_create(tsr_device *device, tsr_event **out_event) {
    cpu_event *event;
    TSR_TRY(tsr_alloc(1, sizeof *event, (void **)&event));
    event->base.device = device;
    *out_event = &event->base;
    return TSR_OK;
}

void cpu_event_release(tsr_event *event) { tsr_free(event); }

void cpu_event_synchronize(tsr_event *base) {
    cpu_event *event = (cpu_event *)base;
    cpu_counter_reach(
        &event->completed,
        atomic_load_explicit(&event->recorded, memory_order_acquire));
}
