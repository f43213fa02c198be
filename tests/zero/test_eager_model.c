/* Random programs over the eager front, run on ranks that are threads with
 * delays, against a model of the header. A program that fails is shrunk and
 * printed.
 *
 *   test_eager_model [--programs N] [--first SEED] [--progress N]   searches
 *   test_eager_model --print SEED                    prints that program
 *   test_eager_model --program FILE [--times N]      runs it; -: standard input
 *
 * N is 1000, or EAGER_MODEL_PROGRAMS in the environment. Whoever searches so
 * many must have met everything in eager_cover.h. */
#include "zero/eager_program_make.h"
#include "zero/eager_shrink.h"

/* A machine under load may be as slow as this. */
#define SILENCE_MS 60000
#define SHRINK_SILENCE_MS 10000
#define SHRINK_SECONDS 120

typedef struct options {
    int programs, times, progress;
    unsigned long long first, print;
    const char *file; /* NULL: none */
    bool prints, works;
} options;

static unsigned long long number_of(const char *text) {
    char *end;
    unsigned long long value = strtoull(text, &end, 10);
    CHECK_MESSAGE(end != text && *end == '\0', "'%s' is not a number", text);
    return value;
}

static options parse_options(int argc, char **argv) {
    const char *programs = getenv("EAGER_MODEL_PROGRAMS");
    options made = {.programs = programs ? (int)number_of(programs) : 1000,
                    .times = 1,
                    .first = 1};
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        made.works |= strcmp(argv[i], "--work") == 0;
        if (strcmp(argv[i], "--programs") == 0 ||
            strcmp(argv[i], "--work") == 0)
            made.programs = (int)number_of(value);
        else if (strcmp(argv[i], "--first") == 0)
            made.first = number_of(value);
        else if (strcmp(argv[i], "--progress") == 0)
            made.progress = (int)number_of(value);
        else if (strcmp(argv[i], "--times") == 0)
            made.times = (int)number_of(value);
        else if (strcmp(argv[i], "--program") == 0)
            made.file = value;
        else if (strcmp(argv[i], "--print") == 0)
            made.print = number_of(value), made.prints = true;
        else
            CHECK_MESSAGE(false, "no such option: %s", argv[i]);
    }
    return made;
}

/* ---- one process ---- */

static int work(const options *wanted) {
    unsigned covered[COVERS] = {0};
    for (int k = 0; k < wanted->programs; k++) {
        program made = make_program(wanted->first + (unsigned)k);
        tell_start(&made);
        run_program(&made, covered);
    }
    tell_covered(covered);
    return 0;
}

static int run_file(const options *wanted) {
    unsigned covered[COVERS] = {0};
    FILE *from =
        strcmp(wanted->file, "-") == 0 ? stdin : fopen(wanted->file, "r");
    CHECK_MESSAGE(from, "cannot read %s", wanted->file);
    program made = read_program(from);
    for (int k = 0; k < wanted->times; k++, made.seed++) {
        tell_start(&made);
        run_program(&made, covered);
    }
    return 0;
}

/* ---- searching ---- */

/* Prints the program, shorter if it fails again. */
static void report(const verdict *found) {
    shrinker self = {.best = make_program(found->seed),
                     .why = *found,
                     .silence_ms = SHRINK_SILENCE_MS,
                     .deadline = seconds() + SHRINK_SECONDS};
    int whole = self.best.count;
    printf("program %llu fails:\n%s", found->seed, found->text);
    fflush(stdout);
    if (!shrink(&self)) {
        printf("It does not fail again: a race. Run it more often with "
               "--program FILE --times N. It is:\n");
        print_program(stdout, &self.best);
        return;
    }
    printf("Shrunk from %d calls to %d (run it with --program FILE --times "
           "%d):\n\n",
           whole, self.best.count, self.times);
    print_program(stdout, &self.best);
    printf("\n%s", self.why.text);
}

static int check_covered(const unsigned *covered, int programs) {
    int missing = 0;
    printf("%d programs; met:", programs);
    for (int c = 0; c < COVERS; c++)
        printf(" %s %u", cover_names[c], covered[c]);
    printf("\n");
    for (int c = 0; c < COVERS && programs >= 1000; c++)
        if (covered[c] == 0) {
            printf("never met: %s\n", cover_names[c]);
            missing++;
        }
    return missing > 0;
}

static int search(const options *wanted) {
    char programs[20], first[24];
    snprintf(programs, sizeof programs, "%d", wanted->programs);
    snprintf(first, sizeof first, "%llu", wanted->first);
    char *arguments[] = {"test_eager_model", "--work", programs,
                         "--first",          first,    NULL};
    verdict found = {.progress = (unsigned)wanted->progress};
    run_worker(arguments, -1, SILENCE_MS, &found);
    if (found.outcome == OUTCOME_PASSED)
        return check_covered(found.covered, wanted->programs);
    report(&found);
    return 1;
}

/* ThreadSanitizer's first report ends a process: else nobody could tell which
 * program it is about. */
static void stop_at_first_race(void) {
    const char *set = getenv("TSAN_OPTIONS");
    char all[400];
    snprintf(all, sizeof all, "%s halt_on_error=1", set ? set : "");
    CHECK(setenv("TSAN_OPTIONS", all, 1) == 0);
}

int main(int argc, char **argv) {
    options wanted = parse_options(argc, argv);
    stop_at_first_race();
    if (wanted.prints) {
        program made = make_program(wanted.print);
        print_program(stdout, &made);
        return 0;
    }
    return wanted.works  ? work(&wanted)
           : wanted.file ? run_file(&wanted)
                         : search(&wanted);
}
