/* Plans as files: written, and read back after an edit by hand. */
#ifndef TSR_CLI_PLAN_FILE_H
#define TSR_CLI_PLAN_FILE_H

#include "tessera/passes.h"

/* Reads a plan that runs in place of `compiled` (sharded at least), which is
 * borrowed, and completes it. Target, parameters, declared values and settings
 * must be those of `compiled`; the order of nodes, what lies on the host, and
 * further nodes are the file's. The budgets are compiled's where it has them,
 * the workspace query is compiled's. Errors name the file: NOT_FOUND, IO,
 * INVALID_DATA (not a plan, or one that does not verify), INVALID_ARGUMENT (a
 * plan of something else), OUT_OF_MEMORY. */
tsr_status plan_file_read(const char *path, const tsr_plan *compiled,
                          tsr_plan **out_plan);

/* Errors: IO, with `option` before the path. */
tsr_status plan_file_write(const tsr_plan *plan, const char *option,
                           const char *path);

/* "sharded", "scheduled" or "placed". Errors: INVALID_ARGUMENT. */
tsr_status plan_stage_parse(const char *name, tsr_stage *out_stage);
const char *plan_stage_name(tsr_stage stage);

#endif
