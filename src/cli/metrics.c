#include "cli/metrics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/status.h"
#include "train/file.h"

#define LINE_BEGIN "{\"step\": "

tsr_status metrics_open(const char *path, bool resume, FILE **out_file) {
    tsr_status status = tsr_file_open_output(path, resume, out_file);
    return status == TSR_OK ? TSR_OK : tsr_error_at(status, "--metrics");
}

/* The step of a whole line as metrics_write leaves it; 0: it is none. */
static int64_t step_of(const char *line, size_t length) {
    size_t begin = strlen(LINE_BEGIN);
    char *end;
    if (strlen(line) != length || length < begin + 4 ||
        strncmp(line, LINE_BEGIN, begin) != 0 || line[begin] < '1' ||
        line[begin] > '9' || strcmp(line + length - 2, "}\n") != 0)
        return 0;
    for (size_t i = 0; i + 1 < length; i++)
        if ((unsigned char)line[i] < ' ' || (unsigned char)line[i] > '~')
            return 0;
    errno = 0;
    long long step = strtoll(line + begin, &end, 10);
    return errno == 0 && *end == ',' ? step : 0;
}

/* Bytes of the lines up to `step`. */
static tsr_status find_end(FILE *file, const char *path, int64_t step,
                           off_t *out_end) {
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    int64_t before = 0;
    tsr_status status = TSR_OK;
    *out_end = 0;
    for (long long number = 1; (length = getline(&line, &capacity, file)) > 0;
         number++) {
        int64_t at = step_of(line, (size_t)length);
        if (at > step || (before >= step && line[length - 1] != '\n'))
            break;
        if (at <= before) {
            status = tsr_error(
                TSR_INVALID_DATA, "--metrics %s, line %lld: %s", path, number,
                at > 0 ? "its step is not above the one before"
                       : "it is damaged, or not one that train has written");
            break;
        }
        before = at;
        *out_end += length;
    }
    free(line);
    if (status == TSR_OK && ferror(file))
        status = tsr_error(TSR_IO, "--metrics %s cannot be read: %s", path,
                           strerror(errno));
    return status;
}

tsr_status metrics_cut(FILE *file, const char *path, int64_t step) {
    struct stat info;
    off_t end;
    if (fstat(fileno(file), &info) != 0 || !S_ISREG(info.st_mode))
        return TSR_OK;
    rewind(file);
    TSR_TRY(find_end(file, path, step, &end));
    if (fseeko(file, end, SEEK_SET) != 0 ||
        (end < info.st_size && ftruncate(fileno(file), end) != 0))
        return tsr_error(TSR_IO, "--metrics %s cannot be cut: %s", path,
                         strerror(errno));
    return TSR_OK;
}

tsr_status metrics_write(FILE *file, const char *path,
                         const tsr_step_metrics *metrics,
                         const metrics_extra *extra) {
    double rate = (double)metrics->tokens / metrics->seconds,
           flops = rate * extra->flops_per_token;
    fprintf(file,
            LINE_BEGIN "%lld, \"loss\": %.9g, \"lr\": %.9g, \"grad_norm\": "
                       "%.9g, \"tokens\": %lld, \"tokens_per_s\": %.6g, "
                       "\"step_ms\": %.6g, \"model_flops_per_s\": %.6g",
            (long long)metrics->step, metrics->loss, metrics->lr,
            metrics->grad_norm, (long long)metrics->tokens, rate,
            1e3 * metrics->seconds, flops);
    if (extra->peak_flops > 0)
        fprintf(file, ", \"mfu\": %.6g", flops / extra->peak_flops);
    if (extra->eval_loss)
        fprintf(file, ", \"eval_loss\": %.9g", *extra->eval_loss);
    fprintf(file, "}\n");
    if (fflush(file) != 0 || ferror(file))
        return tsr_error(TSR_IO, "could not write --metrics %s: %s", path,
                         strerror(errno));
    return TSR_OK;
}
