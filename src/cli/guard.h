/* A mapped file that somebody cuts short raises SIGBUS in whoever reads what is
 * gone (train/corpus.h). */
#ifndef TSR_CLI_GUARD_H
#define TSR_CLI_GUARD_H

/* How a process ends then. */
#define EXIT_CUT_SHORT 4
#define CUT_SHORT_MESSAGE                                                      \
    "a file of --data or --eval-data was cut short while it was read"

/* From now on this process ends with EXIT_CUT_SHORT after one line on standard
 * error. One forked from it ends so without a word: several may be hit at once,
 * and launch() speaks for all. */
void guard_install(void);

#endif
