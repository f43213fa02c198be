#include "cli/options.h"
static int run(int argc, char **argv) {
    (void)argc;
    (void)argv;
    return 1;
}
const cli_command inspect_command = {
    .name = "inspect", .summary = "", .usage = "", .run = run};
