/* What requests experience under a schedule: time to first token, time between tokens, throughput.
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

typedef struct {
    uint32_t requests; /* that have ended */
    uint64_t steps;
    uint64_t tokens; /* that went through the model */
    uint64_t output_tokens;
    uint64_t duration_ns; /* from the first arrival to the end of the last step */
    uint64_t busy_ns;     /* in steps */
    LatencySummary ttft;  /* ns from the arrival to the first token, of each request that has one */
    LatencySummary tbt;   /* ns between two tokens of a request, of each token but the first */
    LatencySummary latency; /* ns from the arrival to the last token, of each that has ended */
} ServingReport;

typedef struct Latency Latency;

/* Of the requests of a scheduler. Nothing later allocates. */
Status latency_new(const ScheduledRequest *requests, uint32_t n_requests, Latency **latency);
void latency_free(Latency *latency);
/* STEP ran from START_NS to END_NS, on the clock of the arrivals. */
void latency_step(Latency *latency, const ScheduledStep *step, uint64_t start_ns, uint64_t end_ns);
/* REQUEST ended with the tokens that it has. */
void latency_end(Latency *latency, uint32_t request);
/* May reorder samples: the last call. */
ServingReport latency_report(Latency *latency);

/* Output tokens a second, and requests; 0 when there was no time. */
double serving_output_tokens_per_s(const ServingReport *report);
double serving_requests_per_s(const ServingReport *report);
/* Adds "serving", with stable keys. */
Status serving_report_json(const ServingReport *report, cJSON *json);

#endif
