#include "train/agree.h"

#include <stdbool.h>
#include <stdio.h>

#include "base/status.h"

/* Added to a rank's code when it has no room for messages. */
#define NO_ROOM 0x80u

tsr_status tsr_agree(tsr_bootstrap *bootstrap, tsr_status mine,
                     char *messages) {
    unsigned char codes[TSR_AGREE_MAX_WORLD];
    char message[TSR_AGREE_BYTES];
    int world = tsr_bootstrap_world(bootstrap);
    if (world == 1)
        return mine;
    if (world > TSR_AGREE_MAX_WORLD)
        return tsr_error(TSR_UNSUPPORTED, "%d ranks are more than %d", world,
                         TSR_AGREE_MAX_WORLD);

    /* Taken now: exchanges may overwrite it. */
    snprintf(message, sizeof message, "%s",
             mine == TSR_OK ? "" : tsr_last_error());
    unsigned room_bit = messages ? 0 : NO_ROOM;
    unsigned char code = (unsigned char)((unsigned)mine | room_bit);
    TSR_TRY(tsr_bootstrap_exchange(bootstrap, &code, 1, codes,
                                   TSR_AGREE_TIMEOUT_MS));
    int failed = -1;
    bool room = true;
    for (int rank = 0; rank < world; rank++) {
        if (failed < 0 && (codes[rank] & ~NO_ROOM) != 0)
            failed = rank;
        room = room && (codes[rank] & NO_ROOM) == 0;
    }
    if (failed < 0)
        return TSR_OK;

    tsr_status status = (tsr_status)(codes[failed] & ~NO_ROOM);
    if (!room)
        return tsr_error(status, "rank %d: %s", failed,
                         failed == tsr_bootstrap_rank(bootstrap)
                             ? message
                             : tsr_status_name(status));
    TSR_TRY(tsr_bootstrap_exchange(bootstrap, message, sizeof message, messages,
                                   TSR_AGREE_TIMEOUT_MS));
    /* A peer's bytes: the terminator is not taken on trust. */
    return tsr_error(status, "rank %d: %.*s", failed, TSR_AGREE_BYTES - 1,
                     messages + (size_t)failed * TSR_AGREE_BYTES);
}
