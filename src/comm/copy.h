/* Copies of any size, as fast as this machine's memory allows. */
#ifndef TSR_COMM_COPY_H
#define TSR_COMM_COPY_H

#include <stdbool.h>
#include <stddef.h>

/* As memcpy; also with to == from, a no-op, and of 0 bytes at NULL.
 *
 * past_caches  nobody reads `to` soon, or it would not stay in the caches:
 *              leaves them to others. Ordered before whatever the caller stores
 *              next. */
void tsr_copy(void *to, const void *from, size_t bytes, bool past_caches);

#endif
