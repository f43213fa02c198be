/* Everything. */
#ifndef TESSERA_TESSERA_H
#define TESSERA_TESSERA_H

#include "tessera/comm.h"
#include "tessera/device.h"
#include "tessera/dtype.h"
#include "tessera/eager.h"
#include "tessera/graph.h"
#include "tessera/models.h"
#include "tessera/ops.h"
#include "tessera/passes.h"
#include "tessera/plan.h"
#include "tessera/status.h"
#include "tessera/train.h"
#include "tessera/version.h"
#include "tessera/zero.h"

#endif
