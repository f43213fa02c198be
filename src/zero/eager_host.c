/* Buffers of the host's: what is offloaded lives in them.
 *
 *   in use --[zero_host_give]--> in the pool --[zero_host_take]--> in use
 *   in the pool --[room is short, tsr_zero_release]--> given back
 *
 * Each is exactly as large as what it holds. Those in use and those in the pool
 * are within host_bytes together; one that goes back to the system while its
 * last copy is in flight goes behind that. */
#include "zero/eager.h"

/* ---- the pool ---- */

static void evict(tsr_zero *zero) {
    zero_host *host = zero->pool;
    zero->pool = host->next;
    zero->held.host_pool -= host->bytes;
    zero_event_give(&zero->in, host->read);
    zero_host_end_enqueue(host->was_read ? &zero->in : &zero->out, host->end,
                          host->memory, host->bytes);
    tsr_free(host);
}

/* Until `bytes` more fit beside what is in use and in the pool. */
static void trim(tsr_zero *zero, size_t bytes) {
    size_t room = zero->options.settings.host_bytes - bytes;
    while (zero->pool && zero->held.host + zero->held.host_pool > room)
        evict(zero);
}

void zero_host_give(tsr_zero *zero, zero_host *host) {
    if (!host)
        return;
    host->next = zero->pool;
    zero->pool = host;
    zero->held.host -= host->bytes;
    zero->held.host_pool += host->bytes;
}

void zero_pool_release(tsr_zero *zero) {
    while (zero->pool)
        evict(zero);
}

static zero_host *take_from_pool(tsr_zero *zero, size_t bytes) {
    zero_host **link = &zero->pool, *found;
    while (*link && (*link)->bytes != bytes)
        link = &(*link)->next;
    found = *link;
    if (!found)
        return NULL;
    *link = found->next;
    zero->held.host_pool -= bytes;
    zero->held.host += bytes;
    return found;
}

/* ---- making ---- */

static tsr_status make_buffer(tsr_zero *zero, size_t bytes,
                              zero_host **out_host) {
    tsr_status status = TSR_OK;
    zero_host *host = NULL;
    TSR_TRY_GOTO(tsr_alloc(1, sizeof *host, (void **)&host));
    host->bytes = bytes;
    TSR_TRY_GOTO(zero_event_take(&zero->in, &host->read));
    TSR_TRY_GOTO(zero_host_end(zero, &host->end));
    TSR_TRY_GOTO(
        tsr_device_alloc_host(zero->options.device, bytes, &host->memory));
    zero->held.host += bytes;
    *out_host = host;
    host = NULL;
done:
    if (host) {
        zero_host_end_release(host->end);
        zero_event_give(&zero->in, host->read);
        tsr_free(host);
    }
    return status;
}

/* Resident shards let go of what they keep on the host, until `bytes` fit. */
static void drop_kept(tsr_zero *zero, size_t bytes) {
    size_t budget = zero->options.settings.host_bytes;
    for (size_t p = 0; p < zero->params.count; p++) {
        zero_param *param = zero->params.data[p];
        if (zero->held.host <= budget && bytes <= budget - zero->held.host)
            return;
        if (!param->away)
            zero_host_drop(zero, param);
    }
}

tsr_status zero_host_take(tsr_zero *zero, size_t bytes, zero_host *replaced,
                          zero_host **out_host) {
    size_t budget = zero->options.settings.host_bytes;
    size_t given = replaced ? replaced->bytes : 0;
    if (given == bytes) {
        *out_host = replaced;
        return TSR_OK;
    }
    zero->held.host -= given;
    if (bytes <= budget)
        drop_kept(zero, bytes);
    size_t held = zero->held.host;
    zero->held.host += given;
    if (held > budget || bytes > budget - held)
        return tsr_error(TSR_OUT_OF_MEMORY,
                         "%zu bytes do not fit on the host: it holds %zu of "
                         "its budget of %zu (host_bytes)",
                         bytes, held, budget);
    zero_host *host = take_from_pool(zero, bytes);
    if (!host) {
        trim(zero, bytes);
        TSR_TRY(make_buffer(zero, bytes, &host));
    }
    zero_host_give(zero, replaced);
    trim(zero, 0);
    *out_host = host;
    return TSR_OK;
}

/* ---- copies ---- */

tsr_status zero_copy_out(tsr_zero *zero, zero_host *host, const void *from) {
    if (host->was_read)
        TSR_TRY(tsr_stream_wait(zero->out.stream, host->read));
    host->was_read = false;
    return tsr_stream_copy(zero->out.stream, host->memory, from, host->bytes);
}

tsr_status zero_copy_in(tsr_zero *zero, zero_host *host, void *to) {
    TSR_TRY(tsr_stream_copy(zero->in.stream, to, host->memory, host->bytes));
    host->was_read = true;
    return tsr_stream_record(zero->in.stream, host->read);
}
