#include "cli/options.h"
static int run(int argc, char **argv) {
    (void)argc;
    (void)argv;
    return 1;
}
const cli_command generate_command = {
    .name = "generate", .summary = "", .usage = "", .run = run};
