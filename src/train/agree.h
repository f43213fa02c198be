/* One outcome for all ranks. */
#ifndef TSR_TRAIN_AGREE_H
#define TSR_TRAIN_AGREE_H

#include "tessera/comm.h"

#define TSR_AGREE_BYTES 480      /* of a message between ranks */
#define TSR_AGREE_MAX_WORLD 4096 /* ranks; one byte each on the stack */
/* 30 minutes: a slow disk's fsync is waited for; a dead peer shows at once. */
#define TSR_AGREE_TIMEOUT_MS 1800000

/* Tells all ranks how each fared. Returns OK if all did, else the failure of
 * the lowest failing rank, on every rank, with its message after "rank R: "
 * (world 1: untouched).
 *
 * mine      this rank's status; its message is tsr_last_error()
 * messages  (world * TSR_AGREE_BYTES) scratch, or NULL on a rank that could not
 *           allocate it, which then has to fail: its peers learn the code only
 * Errors: mine or a peer's; UNAVAILABLE (a peer is gone); UNSUPPORTED (over
 * TSR_AGREE_MAX_WORLD ranks).
 * Collective. Blocking. Allocates nothing itself. */
tsr_status tsr_agree(tsr_bootstrap *bootstrap, tsr_status mine, char *messages);

#endif
