/* tessera: trains transformers sharded over ranks. */
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

static int run(int argc, char **argv) {
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
    char message[256];
    snprintf(message, sizeof message, "unknown command '%.200s'", argv[1]);
    print_problem("", message, "; known: train, generate, inspect, bench");
    return 2;
}

/* Without them, the first files opened would take their numbers, and what is
 * printed would end up in a checkpoint. */
static bool keep_standard_streams(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            return false;
    return true;
}

int main(int argc, char **argv) {
    if (!keep_standard_streams())
        return 1;
    /* A file over the process's limit is an error like a full disk. */
    signal(SIGXFSZ, SIG_IGN);
    int code = run(argc, argv);
    if ((fflush(stdout) == 0 && !ferror(stdout)) || code != 0)
        return code;
    print_problem("", "could not write to standard output", "");
    return 1;
}
