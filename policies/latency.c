#include "policies/latency.h"

#include <stdlib.h>

#include "base/memory.h"
#include "base/statistics.h"

typedef struct {
    uint64_t arrival_ns;
    uint64_t first_ns; /* of its first token, */
    uint64_t last_ns;  /* ... and of its newest */
    uint32_t outputs;
    uint32_t expected; /* when nothing ends it early */
    bool ended;
} Served;

struct Latency {
    Served *requests; /* [n_requests] */
    uint32_t n_requests;
    uint64_t *ttft; /* [n_ttft] */
    size_t n_ttft;
    uint64_t *tbt; /* [n_tbt] */
    size_t n_tbt;
    uint64_t *whole; /* [n_requests] scratch */
    ServingReport report;
    uint64_t first_arrival_ns;
    uint64_t end_ns;
};

Status latency_new(const ScheduledRequest *requests, uint32_t n_requests, Latency **out)
{
    Latency *latency;
    size_t gaps = 0;
    TRY(mem_new(&latency, 1, sizeof *latency, "latencies"));
    latency->n_requests = n_requests;
    latency->first_arrival_ns = n_requests > 0 ? UINT64_MAX : 0;
    Status status = mem_new(&latency->requests, n_requests, sizeof(Served), "latencies");
    for (uint32_t i = 0; i < n_requests && status == OK; i++) {
        const ScheduledRequest *request = &requests[i];
        latency->requests[i] =
            (Served){.arrival_ns = request->arrival_ns, .expected = request->work[WORK_OUTPUT] + 1};
        gaps += request->work[WORK_OUTPUT];
        if (request->arrival_ns < latency->first_arrival_ns)
            latency->first_arrival_ns = request->arrival_ns;
    }
    if (status == OK)
        status = mem_new(&latency->ttft, n_requests, sizeof(uint64_t), "latencies");
    if (status == OK)
        status = mem_new(&latency->whole, n_requests, sizeof(uint64_t), "latencies");
    if (status == OK)
        status = mem_new(&latency->tbt, gaps, sizeof(uint64_t), "latencies");
    if (status == OK)
        *out = latency;
    else
        latency_free(latency);
    return status;
}

void latency_free(Latency *latency)
{
    if (latency == NULL)
        return;
    mem_free(latency->requests);
    mem_free(latency->ttft);
    mem_free(latency->tbt);
    mem_free(latency->whole);
    mem_free(latency);
}

static void add_token(Latency *latency, Served *served, uint64_t end_ns)
{
    if (served->outputs == 0) {
        latency->ttft[latency->n_ttft++] = end_ns - served->arrival_ns;
        served->first_ns = end_ns;
    } else {
        latency->tbt[latency->n_tbt++] = end_ns - served->last_ns;
    }
    served->last_ns = end_ns;
    served->ended = ++served->outputs == served->expected;
    latency->report.output_tokens++;
}

void latency_step(Latency *latency, const ScheduledStep *step, uint64_t start_ns, uint64_t end_ns)
{
    latency->report.steps++;
    latency->report.tokens += step->tokens;
    latency->report.busy_ns += end_ns - start_ns;
    latency->end_ns = end_ns;
    for (uint32_t i = 0; i < step->n_parts; i++) {
        const SchedulePart *part = &step->parts[i];
        if (part->gives_token)
            add_token(latency, &latency->requests[part->request], end_ns);
    }
}

void latency_end(Latency *latency, uint32_t request)
{
    latency->requests[request].ended = true;
}

/* The least sample that at least PERCENT of all are not above. */
static uint64_t percentile(const uint64_t *sorted, size_t n, unsigned percent)
{
    size_t rank = n / 100 * percent + (n % 100 * percent + 99) / 100;
    return sorted[rank > 0 ? rank - 1 : 0];
}

static LatencySummary summarise(uint64_t *samples, size_t n)
{
    LatencySummary summary = {.n = n};
    if (n == 0)
        return summary;
    qsort(samples, n, sizeof *samples, compare_u64);
    for (size_t i = 0; i < n; i++)
        summary.mean += ((double)samples[i] - summary.mean) / (double)(i + 1);
    summary.median = percentile(samples, n, 50);
    summary.p90 = percentile(samples, n, 90);
    summary.p99 = percentile(samples, n, 99);
    summary.most = samples[n - 1];
    return summary;
}

static uint64_t ns_a_token(const Served *served)
{
    uint32_t later = served->outputs - 1;
    return later > 0 ? (served->last_ns - served->first_ns + later / 2) / later : 0;
}

static bool is_within(uint64_t ns, double most_ms)
{
    return most_ms <= 0 || (double)ns <= most_ms * 1e6;
}

static bool keeps(const Served *served, const ServiceGoals *goals)
{
    return is_within(served->first_ns - served->arrival_ns, goals->ttft_ms) &&
           is_within(ns_a_token(served), goals->tpot_ms) &&
           is_within(served->last_ns - served->arrival_ns, goals->latency_ms);
}

bool service_goals_are_any(const ServiceGoals *goals)
{
    return goals->ttft_ms > 0 || goals->tpot_ms > 0 || goals->latency_ms > 0;
}

/* Of requests that have ended; their samples are scratch, one kind after the other. */
static void summarise_requests(Latency *latency, ServingReport *report)
{
    size_t n = 0;
    for (uint32_t i = 0; i < latency->n_requests; i++) {
        const Served *served = &latency->requests[i];
        if (served->ended && served->outputs > 1)
            latency->whole[n++] = ns_a_token(served);
    }
    report->tpot = summarise(latency->whole, n);
    for (uint32_t i = 0; i < latency->n_requests; i++) {
        const Served *served = &latency->requests[i];
        if (!served->ended || served->outputs == 0)
            continue;
        latency->whole[report->requests++] = served->last_ns - served->arrival_ns;
        report->kept += keeps(served, &report->goals);
    }
    report->latency = summarise(latency->whole, report->requests);
}

ServingReport latency_report(Latency *latency, const ServiceGoals *goals)
{
    ServingReport report = latency->report;
    if (goals != NULL)
        report.goals = *goals;
    summarise_requests(latency, &report);
    if (report.steps > 0)
        report.duration_ns = latency->end_ns - latency->first_arrival_ns;
    report.ttft = summarise(latency->ttft, latency->n_ttft);
    report.tbt = summarise(latency->tbt, latency->n_tbt);
    return report;
}

static double rate(uint64_t count, uint64_t duration_ns)
{
    return duration_ns > 0 ? (double)count * 1e9 / (double)duration_ns : 0.0;
}

double serving_output_tokens_per_s(const ServingReport *report)
{
    return rate(report->output_tokens, report->duration_ns);
}

double serving_requests_per_s(const ServingReport *report)
{
    return rate(report->requests, report->duration_ns);
}

double serving_goodput_per_s(const ServingReport *report)
{
    return rate(report->kept, report->duration_ns);
}

static Status add_goal(cJSON *json, const char *key, double most_ms)
{
    return most_ms > 0 ? json_add_f64(json, key, most_ms) : json_add_null(json, key);
}

static Status add_goodput(cJSON *json, const ServingReport *report)
{
    cJSON *object;
    if (!service_goals_are_any(&report->goals))
        return json_add_null(json, "goodput");
    TRY(json_add_object(json, "goodput", &object));
    TRY(add_goal(object, "ttft_ms", report->goals.ttft_ms));
    TRY(add_goal(object, "tpot_ms", report->goals.tpot_ms));
    TRY(add_goal(object, "latency_ms", report->goals.latency_ms));
    TRY(json_add_u64(object, "requests", report->kept));
    return json_add_f64(object, "requests_per_s", serving_goodput_per_s(report));
}

static Status add_summary(cJSON *json, const char *key, const LatencySummary *summary)
{
    cJSON *object;
    TRY(json_add_object(json, key, &object));
    TRY(json_add_u64(object, "n", summary->n));
    TRY(json_add_f64(object, "mean", summary->mean));
    TRY(json_add_u64(object, "median", summary->median));
    TRY(json_add_u64(object, "p90", summary->p90));
    TRY(json_add_u64(object, "p99", summary->p99));
    return json_add_u64(object, "max", summary->most);
}

Status serving_report_json(const ServingReport *report, cJSON *json)
{
    cJSON *object;
    TRY(json_add_object(json, "serving", &object));
    TRY(json_add_u64(object, "requests", report->requests));
    TRY(json_add_u64(object, "steps", report->steps));
    TRY(json_add_u64(object, "tokens", report->tokens));
    TRY(json_add_u64(object, "output_tokens", report->output_tokens));
    TRY(json_add_u64(object, "duration_ns", report->duration_ns));
    TRY(json_add_u64(object, "busy_ns", report->busy_ns));
    TRY(json_add_f64(object, "requests_per_s", serving_requests_per_s(report)));
    TRY(json_add_f64(object, "output_tokens_per_s", serving_output_tokens_per_s(report)));
    TRY(add_summary(object, "ttft_ns", &report->ttft));
    TRY(add_summary(object, "tbt_ns", &report->tbt));
    TRY(add_summary(object, "tpot_ns", &report->tpot));
    TRY(add_summary(object, "latency_ns", &report->latency));
    return add_goodput(object, report);
}
