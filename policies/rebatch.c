#include "policies/rebatch.h"

#include <string.h>

#include "base/memory.h"
#include "policies/rebatch_store.h"
#include "traces/step_buffer.h"

struct RebatchTokens {
    TraceLayer *layers;
    uint32_t n_layers;
    RebatchStore store;
    uint64_t *arrival_ns; /* [store.n_requests] as recorded */
};

struct Rebatch {
    const RebatchTokens *tokens;
    RebatchTokens *owned;       /* the same, or NULL: the caller's */
    Work (*work)[WORK_KINDS];   /* [n_requests] what is left */
    ScheduledRequest *requests; /* [n_requests] */
    uint32_t n_requests;
    Scheduler *scheduler;
    ScheduledStep scheduled;
    uint32_t steps;
    uint32_t *chosen; /* [chosen_room] tokens of the step being made */
    size_t chosen_room;
    StepBuffer arrays;
};

static Status read_tokens(TraceShards *shards, RebatchTokens *tokens)
{
    const TraceLayer *layers = trace_shards_layers(shards, &tokens->n_layers);
    TRY(mem_new(&tokens->layers, tokens->n_layers, sizeof *layers, "rebatch"));
    memcpy(tokens->layers, layers, tokens->n_layers * sizeof *layers);
    TRY(rebatch_store_read(shards, &tokens->store));
    const uint32_t n = tokens->store.n_requests;
    TRY(mem_new(&tokens->arrival_ns, n, sizeof *tokens->arrival_ns, "arrivals"));
    for (uint32_t i = 0; i < n; i++)
        tokens->arrival_ns[i] = trace_shards_arrival_ns(shards, i);
    return OK;
}

Status rebatch_tokens_read(TraceShards *shards, RebatchTokens **out)
{
    RebatchTokens *tokens;
    TRY(trace_shards_check_regroup(shards));
    TRY(mem_new(&tokens, 1, sizeof *tokens, "rebatch"));
    Status status = read_tokens(shards, tokens);
    if (status == OK)
        *out = tokens;
    else
        rebatch_tokens_free(tokens);
    return status;
}

void rebatch_tokens_free(RebatchTokens *tokens)
{
    if (tokens == NULL)
        return;
    rebatch_store_free(&tokens->store);
    mem_free(tokens->layers);
    mem_free(tokens->arrival_ns);
    mem_free(tokens);
}

static Status fill_arrivals(const Arrivals *arrivals, Rebatch *rebatch)
{
    const uint32_t n = rebatch->n_requests;
    uint64_t *arrival_ns;
    TRY(mem_new(&arrival_ns, n, sizeof *arrival_ns, "arrivals"));
    if (n > 0)
        memcpy(arrival_ns, rebatch->tokens->arrival_ns, n * sizeof *arrival_ns);
    Status status = arrivals_fill(arrivals, n, arrival_ns);
    for (uint32_t i = 0; i < n && status == OK; i++)
        rebatch->requests[i].arrival_ns = arrival_ns[i];
    mem_free(arrival_ns);
    return status;
}

static Status open_tables(Rebatch *rebatch, const Batching *batching, const Arrivals *arrivals)
{
    const RebatchStore *store = &rebatch->tokens->store;
    const uint32_t n = store->n_requests;
    rebatch->n_requests = n;
    TRY(mem_new(&rebatch->requests, n, sizeof *rebatch->requests, "rebatch"));
    TRY(mem_new(&rebatch->work, n, sizeof *rebatch->work, "rebatch"));
    if (n > 0)
        memcpy(rebatch->work, store->work, n * sizeof *rebatch->work);
    for (uint32_t i = 0; i < n; i++)
        for (int kind = 0; kind < WORK_KINDS; kind++)
            rebatch->requests[i].work[kind] = store->work[i][kind].count;
    if (arrivals != NULL)
        TRY(fill_arrivals(arrivals, rebatch));
    return scheduler_new(batching, rebatch->requests, n, &rebatch->scheduler);
}

Status rebatch_open_tokens(const RebatchTokens *tokens, const Batching *batching,
                           const Arrivals *arrivals, Rebatch **out)
{
    Rebatch *rebatch;
    TRY(batching_check(batching));
    TRY(mem_new(&rebatch, 1, sizeof *rebatch, "rebatch"));
    rebatch->tokens = tokens;
    Status status = open_tables(rebatch, batching, arrivals);
    if (status != OK) {
        rebatch_close(rebatch);
        return status;
    }
    *out = rebatch;
    return OK;
}

Status rebatch_open(TraceShards *shards, const Batching *batching, const Arrivals *arrivals,
                    Rebatch **rebatch)
{
    RebatchTokens *tokens;
    TRY(batching_check(batching));
    TRY(rebatch_tokens_read(shards, &tokens));
    Status status = rebatch_open_tokens(tokens, batching, arrivals, rebatch);
    if (status == OK)
        (*rebatch)->owned = tokens;
    else
        rebatch_tokens_free(tokens);
    return status;
}

void rebatch_close(Rebatch *rebatch)
{
    if (rebatch == NULL)
        return;
    scheduler_free(rebatch->scheduler);
    step_buffer_free(&rebatch->arrays);
    rebatch_tokens_free(rebatch->owned);
    mem_free(rebatch->work);
    mem_free(rebatch->requests);
    mem_free(rebatch->chosen);
    mem_free(rebatch);
}

static Status fit(Rebatch *rebatch, uint32_t tokens, StackSpan span)
{
    TRY(mem_reserve(&rebatch->chosen, &rebatch->chosen_room, 0, tokens, sizeof *rebatch->chosen,
                    "rebatch"));
    return step_buffer_fit(&rebatch->arrays, tokens, tokens * span.top_k, 0);
}

/* Takes the tokens of the scheduled parts out of the store. */
static void choose(Rebatch *rebatch)
{
    const ScheduledStep *scheduled = &rebatch->scheduled;
    uint32_t at = 0;
    for (uint32_t p = 0; p < scheduled->n_parts; p++) {
        const SchedulePart *part = &scheduled->parts[p];
        Work *work = &rebatch->work[part->request][part->kind];
        for (uint32_t i = 0; i < part->count; i++, at++) {
            const StoredToken *token = &rebatch->tokens->store.tokens[work->first];
            rebatch->chosen[at] = work->first;
            rebatch->arrays.request[at] = part->request;
            rebatch->arrays.position[at] = token->position;
            work->first = token->next;
            work->count--;
        }
    }
}

/* The chosen tokens' ids, [layer][token][top_k]. */
static void gather(const Rebatch *rebatch, StackSpan span)
{
    const RebatchStore *store = &rebatch->tokens->store;
    uint16_t *to = rebatch->arrays.experts;
    size_t first = 0;
    for (uint32_t layer = span.first; layer < span.first + span.count; layer++) {
        uint32_t top_k = rebatch->tokens->layers[layer].top_k;
        for (uint32_t i = 0; i < rebatch->scheduled.tokens; i++, to += top_k)
            rebatch_store_ids(store, &store->tokens[rebatch->chosen[i]], first, top_k, to);
        first += top_k;
    }
}

Status rebatch_step_at(Rebatch *rebatch, uint64_t now_ns, TraceStep *step, uint64_t *until_ns)
{
    ScheduledStep *scheduled = &rebatch->scheduled;
    *step = (TraceStep){0};
    if (!scheduler_next(rebatch->scheduler, now_ns, scheduled)) {
        *until_ns = scheduled->until_ns;
        return scheduled->until_ns == SCHEDULE_OVER ? STATUS_END : OK;
    }
    const Stack stack = phase_stack(scheduled->phase);
    const StackSpan span = rebatch->tokens->store.spans[stack];
    TRY(fit(rebatch, scheduled->tokens, span));
    choose(rebatch);
    gather(rebatch, span);
    *step = (TraceStep){.step = rebatch->steps++,
                        .phase = scheduled->phase,
                        .stack = stack,
                        .tokens = scheduled->tokens,
                        .request = rebatch->arrays.request,
                        .position = rebatch->arrays.position,
                        .experts = rebatch->arrays.experts};
    return OK;
}

Status rebatch_next_step(Rebatch *rebatch, TraceStep *step)
{
    uint64_t until_ns;
    return rebatch_step_at(rebatch, UINT64_MAX, step, &until_ns);
}

const ScheduledStep *rebatch_scheduled(const Rebatch *rebatch)
{
    return &rebatch->scheduled;
}

const TraceLayer *rebatch_layers(const Rebatch *rebatch, uint32_t *n_layers)
{
    *n_layers = rebatch->tokens->n_layers;
    return rebatch->tokens->layers;
}

const ScheduledRequest *rebatch_requests(const Rebatch *rebatch, uint32_t *n)
{
    *n = rebatch->n_requests;
    return rebatch->requests;
}
