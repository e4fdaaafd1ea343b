#include "exec/trace_requests.h"

#include <stdlib.h>

#include "base/memory.h"
#include "traces/import_counts.h"
#include "traces/request_table.h"
#include "traces/reader.h"

/* One request that the steps tell of. */
typedef struct {
    uint32_t request; /* number in the trace */
    uint32_t prompt;  /* tokens of it, as the trace says */
    uint32_t fed;     /* tokens seen */
    uint64_t arrival_ns;
    uint32_t *tokens; /* [prompt] */
} Told;

typedef struct {
    RequestTable table; /* request -> index in TOLD, in .kv_slot */
    Told *told;
    uint32_t n_told;
    size_t room;
    bool lacks_tokens;
} Reading;

static Status add_request(Reading *reading, const TraceRequest *request)
{
    RequestEntry *entry;
    TRY(mem_grow(&reading->told, &reading->room, reading->n_told, sizeof *reading->told,
                 "requests"));
    Told *told = &reading->told[reading->n_told];
    *told = (Told){.request = request->request,
                   .prompt = request->prompt_tokens,
                   .arrival_ns = request->arrival_ns};
    reading->n_told++;
    TRY(mem_new(&told->tokens, told->prompt, sizeof *told->tokens, "prompt"));
    TRY(request_table_get(&reading->table, request->request, &entry));
    entry->kv_slot = reading->n_told - 1;
    entry->running = true;
    return OK;
}

static Status add_token(Reading *reading, const char *path, const TraceStep *step, uint32_t i)
{
    RequestEntry *entry;
    TRY(request_table_get(&reading->table, step->request[i], &entry));
    if (!entry->running)
        return fail(ERR_INPUT, "%s: step %u: request %u is not in the table of requests", path,
                    step->step, step->request[i]);
    Told *told = &reading->told[entry->kv_slot];
    if (step->position[i] != told->fed)
        return fail(ERR_INPUT, "%s: step %u: request %u: position %u, expected %u", path,
                    step->step, step->request[i], step->position[i], told->fed);
    uint32_t token = step->token != NULL ? step->token[i] : TOKEN_UNKNOWN;
    reading->lacks_tokens = reading->lacks_tokens || token == TOKEN_UNKNOWN;
    if (told->fed < told->prompt)
        told->tokens[told->fed] = token != TOKEN_UNKNOWN ? token : 0;
    told->fed++;
    return OK;
}

static Status read_all(TraceReader *reader, const char *path, Reading *reading)
{
    TraceRequest request;
    TraceStep step;
    Status status;
    const char *why = trace_cannot_regroup(trace_reader_run(reader));
    if (why != NULL)
        return fail(ERR_INPUT, "%s: %s, so its requests cannot be run again", path, why);
    while ((status = trace_reader_next_request(reader, &request)) == OK)
        TRY(add_request(reading, &request));
    while (status == STATUS_END && (status = trace_reader_next_step(reader, &step)) == OK) {
        if (step.stack != STACK_DECODER)
            return fail(ERR_UNSUPPORTED, "%s: step %u is an encoder's", path, step.step);
        for (uint32_t i = 0; i < step.tokens; i++)
            TRY(add_token(reading, path, &step, i));
        status = STATUS_END;
    }
    return status == STATUS_END ? OK : status;
}

static int compare_told(const void *left, const void *right)
{
    const Told *a = left;
    const Told *b = right;
    return (a->request > b->request) - (a->request < b->request);
}

/* Moves what was read to OUT. A run that was stopped has requests that never began, which are left
 * out, and some that ended within their prompt. */
static Status hand_over(Reading *reading, const char *path, TraceRequests *out)
{
    static char no_label[] = "";
    uint32_t n = 0;
    out->has_tokens = !reading->lacks_tokens;
    if (reading->n_told > 0)
        qsort(reading->told, reading->n_told, sizeof *reading->told, compare_told);
    TRY(mem_new(&out->set.requests, reading->n_told, sizeof *out->set.requests, "requests"));
    TRY(mem_new(&out->generate, reading->n_told, sizeof *out->generate, "requests"));
    TRY(mem_new(&out->arrival_ns, reading->n_told, sizeof *out->arrival_ns, "requests"));
    for (uint32_t i = 0; i < reading->n_told; i++) {
        Told *told = &reading->told[i];
        uint32_t prompt = told->prompt < told->fed ? told->prompt : told->fed;
        if (prompt == 0)
            continue;
        out->set.requests[n] =
            (TokenRequest){.label = no_label, .tokens = told->tokens, .n_tokens = prompt};
        told->tokens = NULL;
        out->generate[n] = told->fed - prompt + 1;
        if (out->generate[n] > out->most_generate)
            out->most_generate = out->generate[n];
        out->arrival_ns[n++] = told->arrival_ns;
        out->set.n_requests = n;
    }
    return n > 0 ? OK : fail(ERR_INPUT, "%s: it says of no request how long its prompt is", path);
}

static void free_reading(Reading *reading)
{
    for (uint32_t i = 0; i < reading->n_told; i++)
        mem_free(reading->told[i].tokens);
    mem_free(reading->told);
    request_table_free(&reading->table);
}

Status trace_requests_load(const char *path, TraceRequests *requests)
{
    Reading reading = {0};
    TraceReader *reader;
    *requests = (TraceRequests){0};
    TRY(trace_reader_open(path, &reader));
    Status status = read_all(reader, path, &reading);
    if (status == OK)
        status = hand_over(&reading, path, requests);
    trace_reader_close(reader);
    free_reading(&reading);
    if (status != OK)
        trace_requests_free(requests);
    return status;
}

void trace_requests_free(TraceRequests *requests)
{
    for (uint32_t i = 0; i < requests->set.n_requests; i++)
        mem_free(requests->set.requests[i].tokens);
    mem_free(requests->set.requests);
    mem_free(requests->generate);
    mem_free(requests->arrival_ns);
    *requests = (TraceRequests){0};
}
