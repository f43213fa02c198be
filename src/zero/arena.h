#ifndef TSR_ZERO_ARENA_H
#define TSR_ZERO_ARENA_H

#include "tessera/zero.h"

const tsr_plan *tsr_arena_plan(const tsr_arena *arena, size_t plan);

#endif
