/* tessera: trains transformers sharded over ranks. */
#include <stdio.h>
#include <string.h>

#include "cli/options.h"
#include "tessera/version.h"

static const cli_command *const commands[] = {&train_command, &generate_command,
                                              &inspect_command, &bench_command};

static int usage(FILE *to, int code) {
    fprintf(to, "Usage: tessera COMMAND [options]\nTrains transformer models "
                "with every parameter, gradient and optimizer state "
                "sharded over ranks.\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        fprintf(to, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(to, "\ntessera COMMAND --help says more. tessera --version prints "
                "the version.\n");
    return code;
}

int main(int argc, char **argv) {
    if (argc < 2)
        return usage(stderr, 2);
    if (strcmp(argv[1], "--help") == 0)
        return usage(stdout, 0);
    if (strcmp(argv[1], "--version") == 0) {
        printf("tessera %s\n", TSR_VERSION);
        return 0;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i]->name) == 0)
            return commands[i]->run(argc - 2, argv + 2);
    fprintf(stderr,
            "tessera: unknown command '%s'; known: train, generate, inspect, "
            "bench\n",
            argv[1]);
    return 2;
}
