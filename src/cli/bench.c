#include "cli/options.h"
static int run(int argc, char **argv) {
    (void)argc;
    (void)argv;
    return 1;
}
const cli_command bench_command = {
    .name = "bench", .summary = "", .usage = "", .run = run};
