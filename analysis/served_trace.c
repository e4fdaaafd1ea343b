#include "analysis/served_trace.h"

#include "base/memory.h"
#include "traces/shards.h"

typedef struct {
    ScheduledRequest *requests; /* [n_requests] */
    uint32_t n_requests;
    size_t room;
    uint32_t max_tokens; /* of a step */
    SchedulePart *parts; /* [max_tokens] */
    Latency *latency;
} Served;

static Status note_request(const TraceShards *shards, uint32_t request, Served *served)
{
    if (request >= served->n_requests)
        TRY(mem_reserve(&served->requests, &served->room, served->n_requests,
                        (size_t)request + 1 - served->n_requests, sizeof *served->requests,
                        "requests"));
    for (; served->n_requests <= request; served->n_requests++)
        served->requests[served->n_requests] = (ScheduledRequest){
            .arrival_ns = trace_shards_arrival_ns(shards, served->n_requests),
            .work[WORK_PROMPT] = trace_shards_prompt_tokens(shards, served->n_requests)};
    return OK;
}

static Status note_step(const TraceShards *shards, const TraceStep *step, Served *served)
{
    served->max_tokens = step->tokens > served->max_tokens ? step->tokens : served->max_tokens;
    for (uint32_t i = 0; i < step->tokens && step->stack == STACK_DECODER; i++) {
        TRY(note_request(shards, step->request[i], served));
        ScheduledRequest *request = &served->requests[step->request[i]];
        request->work[WORK_OUTPUT] += step->position[i] >= request->work[WORK_PROMPT];
    }
    return OK;
}

/* Each request's tokens of a step as one part. */
static void play_step(const TraceStep *step, uint64_t first_ns, Served *served)
{
    const uint64_t start_ns = step->start_ns > first_ns ? step->start_ns - first_ns : 0;
    ScheduledStep played = {.phase = step->phase, .tokens = step->tokens, .parts = served->parts};
    if (step->stack != STACK_DECODER)
        return;
    for (uint32_t i = 0, n; i < step->tokens; i += n) {
        uint32_t request = step->request[i];
        for (n = 1; i + n < step->tokens && step->request[i + n] == request;)
            n++;
        uint32_t end = step->position[i] + n;
        served->parts[played.n_parts++] =
            (SchedulePart){.request = request,
                           .count = n,
                           .gives_token = end >= served->requests[request].work[WORK_PROMPT]};
    }
    latency_step(served->latency, &played, start_ns, start_ns + step->duration_ns);
}

/* Most traces do not: their steps need not be read. */
static Status has_arrivals(const char *path, bool *has)
{
    TraceReader *reader;
    TraceRequest request;
    Status status = OK;
    *has = false;
    TRY(trace_reader_open(path, &reader));
    while (!*has && (status = trace_reader_next_request(reader, &request)) == OK)
        *has = request.arrival_ns > 0;
    trace_reader_close(reader);
    return *has || status == STATUS_END ? OK : status;
}

static Status read_all(const char *path, Served *served, uint64_t *first_ns)
{
    TraceShards *shards;
    TraceStep step;
    Status status;
    TRY(trace_shards_open(&path, 1, &shards));
    while ((status = trace_shards_next_step(shards, &step)) == OK)
        if ((status = note_step(shards, &step, served)) != OK)
            break;
    trace_shards_close(shards);
    *first_ns = UINT64_MAX;
    for (uint32_t i = 0; i < served->n_requests; i++)
        if (served->requests[i].arrival_ns < *first_ns)
            *first_ns = served->requests[i].arrival_ns;
    return status == STATUS_END ? OK : status;
}

static Status play_all(const char *path, uint64_t first_ns, const ServiceGoals *goals,
                       Served *served, ServingReport *report)
{
    TraceShards *shards;
    TraceStep step;
    Status status;
    for (uint32_t i = 0; i < served->n_requests; i++)
        served->requests[i].arrival_ns -= first_ns;
    TRY(mem_new(&served->parts, served->max_tokens, sizeof *served->parts, "requests of a step"));
    TRY(latency_new(served->requests, served->n_requests, &served->latency));
    TRY(trace_shards_open(&path, 1, &shards));
    while ((status = trace_shards_next_step(shards, &step)) == OK)
        play_step(&step, first_ns, served);
    trace_shards_close(shards);
    if (status != STATUS_END)
        return status;
    *report = latency_report(served->latency, goals);
    return OK;
}

Status served_trace_report(const char *path, const ServiceGoals *goals, bool *is_served,
                           ServingReport *report)
{
    Served served = {0};
    uint64_t first_ns;
    *report = (ServingReport){0};
    TRY(has_arrivals(path, is_served));
    if (!*is_served)
        return OK;
    Status status = read_all(path, &served, &first_ns);
    if (status == OK)
        status = play_all(path, first_ns, goals, &served, report);
    latency_free(served.latency);
    mem_free(served.parts);
    mem_free(served.requests);
    return status;
}
