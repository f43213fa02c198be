#include <math.h>

#include "tessera/train.h"

double tsr_rate_at(const tsr_rates *rates, int64_t step) {
    static const double pi = 3.14159265358979323846;
    if (step <= rates->warmup)
        return rates->peak * (double)step / (double)rates->warmup;
    if (step >= rates->steps)
        return rates->floor;
    double progress =
        (double)(step - rates->warmup) / (double)(rates->steps - rates->warmup);
    return rates->floor +
           0.5 * (rates->peak - rates->floor) * (1 + cos(pi * progress));
}

double tsr_gpt_flops_per_token(const tsr_gpt_config *model, int64_t seq) {
    return 6.0 * (double)tsr_gpt_param_count(model) +
           6.0 * (double)model->layers * (double)model->dim * (double)seq;
}
