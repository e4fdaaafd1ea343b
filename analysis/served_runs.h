/* The same arrivals served several times. Whether a request comes in time for a step depends on
 * microseconds, and decides over a whole step's time of its first token, and of those after it: so
 * every statistic of a run has noise of its own, that of a high percentile of few requests most. */
#ifndef ANALYSIS_SERVED_RUNS_H
#define ANALYSIS_SERVED_RUNS_H

#include "policies/latency.h"

/* Coefficients of variation. */
typedef struct {
    double mean;
    double median;
    double p90;
    double p99;
} SummaryNoise;

typedef struct {
    SummaryNoise ttft;
    SummaryNoise tbt;
    SummaryNoise tpot;
    SummaryNoise latency;
    double duration;
    double output_tokens_per_s;
    double goodput_per_s;
} ServingNoise;

/* Of each number of RUNS[n] its median, of two in the middle the lower; and how much it differs
 * from run to run, 0 with one. N is at least 1. Fails with ERR_MEMORY. */
Status served_runs_middle(const ServingReport *runs, uint32_t n, ServingReport *middle,
                          ServingNoise *noise);
/* Adds NOISE at KEY, with the keys of "serving". */
Status serving_noise_json(const ServingNoise *noise, const char *key, cJSON *json);

#endif
