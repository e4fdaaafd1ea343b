/* What requests experience under a schedule: time to first token, time between tokens, throughput,
 * and goodput: how many requests a second keep what was asked (DistServe: Zhong et al. 2024).
 * Fed with the steps of policies/scheduler.h, measured by the executor or predicted by the
 * simulator, so that both tell the same numbers in the same words.
 *
 * A request's first token comes out of the step that takes the end of its prompt, the others out of
 * its output steps; a token is there when its step has ended. Percentiles are of the nearest rank.
 */
#ifndef POLICIES_LATENCY_H
#define POLICIES_LATENCY_H

#include "base/json.h"
#include "policies/scheduler.h"

typedef struct {
    uint64_t n; /* samples; 0: all below are 0 */
    double mean;
    uint64_t median;
    uint64_t p90;
    uint64_t p99;
    uint64_t most;
} LatencySummary;

/* What each request is to keep, in milliseconds at the most; 0: nothing is asked. */
typedef struct {
    double ttft_ms;
    double tpot_ms;
    double latency_ms;
} ServiceGoals;

typedef struct {
    uint32_t requests; /* that have ended */
    uint64_t steps;
    uint64_t tokens; /* that went through the model */
    uint64_t output_tokens;
    uint64_t duration_ns; /* from the first arrival to the end of the last step */
    uint64_t busy_ns;     /* in steps */
    LatencySummary ttft;  /* ns from the arrival to the first token, of each request that has one */
    LatencySummary tbt;   /* ns between two tokens of a request, of each token but the first */
    LatencySummary tpot;  /* ns a token from the first to the last, the first not counted, of each
                             request that has ended with more than one */
    LatencySummary latency; /* ns from the arrival to the last token, of each that has ended */
    ServiceGoals goals;
    uint64_t kept; /* requests that have ended and kept all GOALS */
} ServingReport;

typedef struct Latency Latency;

/* Of the requests of a scheduler. Nothing later allocates. */
Status latency_new(const ScheduledRequest *requests, uint32_t n_requests, Latency **latency);
void latency_free(Latency *latency);
/* STEP ran from START_NS to END_NS, on the clock of the arrivals. */
void latency_step(Latency *latency, const ScheduledStep *step, uint64_t start_ns, uint64_t end_ns);
/* REQUEST ended with the tokens that it has. */
void latency_end(Latency *latency, uint32_t request);
/* GOALS may be NULL. May reorder samples: the last call. */
ServingReport latency_report(Latency *latency, const ServiceGoals *goals);

/* Output tokens a second, and requests; 0 when there was no time. */
double serving_output_tokens_per_s(const ServingReport *report);
double serving_requests_per_s(const ServingReport *report);
/* ... requests that kept the goals. */
double serving_goodput_per_s(const ServingReport *report);
bool service_goals_are_any(const ServiceGoals *goals);
/* Adds "serving", with stable keys; "goodput" is null where nothing was asked. */
Status serving_report_json(const ServingReport *report, cJSON *json);

#endif
