#include "policies/rebatch.h"

#include <string.h>

#include "base/memory.h"
#include "policies/rebatch_store.h"
#include "traces/step_buffer.h"

struct Rebatch {
    TraceLayer *layers;
    uint32_t n_layers;
    RebatchStore store;
    ScheduledRequest *requests; /* [store.n_requests] */
    Scheduler *scheduler;
    ScheduledStep scheduled;
    uint32_t steps;
    uint32_t *chosen; /* [chosen_room] tokens of the step being made */
    size_t chosen_room;
    StepBuffer arrays;
};

/* When requests came, for arrivals that take what the trace says. */
static Status fill_arrivals(TraceShards *shards, const Arrivals *arrivals, Rebatch *rebatch)
{
    const uint32_t n = rebatch->store.n_requests;
    uint64_t *arrival_ns;
    TRY(mem_new(&arrival_ns, n, sizeof *arrival_ns, "arrivals"));
    for (uint32_t i = 0; i < n; i++)
        arrival_ns[i] = trace_shards_arrival_ns(shards, i);
    Status status = arrivals_fill(arrivals, n, arrival_ns);
    for (uint32_t i = 0; i < n && status == OK; i++)
        rebatch->requests[i].arrival_ns = arrival_ns[i];
    mem_free(arrival_ns);
    return status;
}

static Status open_tables(Rebatch *rebatch, TraceShards *shards, const Batching *batching,
                          const Arrivals *arrivals)
{
    const TraceLayer *layers = trace_shards_layers(shards, &rebatch->n_layers);
    TRY(mem_new(&rebatch->layers, rebatch->n_layers, sizeof *layers, "rebatch"));
    memcpy(rebatch->layers, layers, rebatch->n_layers * sizeof *layers);
    TRY(rebatch_store_read(shards, &rebatch->store));
    const RebatchStore *store = &rebatch->store;
    TRY(mem_new(&rebatch->requests, store->n_requests, sizeof *rebatch->requests, "rebatch"));
    for (uint32_t i = 0; i < store->n_requests; i++)
        for (int kind = 0; kind < WORK_KINDS; kind++)
            rebatch->requests[i].work[kind] = store->work[i][kind].count;
    if (arrivals != NULL)
        TRY(fill_arrivals(shards, arrivals, rebatch));
    return scheduler_new(batching, rebatch->requests, store->n_requests, &rebatch->scheduler);
}

Status rebatch_open(TraceShards *shards, const Batching *batching, const Arrivals *arrivals,
                    Rebatch **out)
{
    Rebatch *rebatch;
    TRY(batching_check(batching));
    TRY(trace_shards_check_regroup(shards));
    TRY(mem_new(&rebatch, 1, sizeof *rebatch, "rebatch"));
    Status status = open_tables(rebatch, shards, batching, arrivals);
    if (status != OK) {
        rebatch_close(rebatch);
        return status;
    }
    *out = rebatch;
    return OK;
}

void rebatch_close(Rebatch *rebatch)
{
    if (rebatch == NULL)
        return;
    scheduler_free(rebatch->scheduler);
    rebatch_store_free(&rebatch->store);
    step_buffer_free(&rebatch->arrays);
    mem_free(rebatch->layers);
    mem_free(rebatch->requests);
    mem_free(rebatch->chosen);
    mem_free(rebatch);
}

static Status fit(Rebatch *rebatch, uint32_t tokens, StackSpan span)
{
    if (tokens > rebatch->chosen_room) {
        uint32_t *chosen = mem_resize(rebatch->chosen, 2 * (size_t)tokens, sizeof *chosen);
        if (chosen == NULL)
            return fail_memory("rebatch", 2 * (size_t)tokens * sizeof *chosen);
        rebatch->chosen = chosen;
        rebatch->chosen_room = 2 * (size_t)tokens;
    }
    return step_buffer_fit(&rebatch->arrays, tokens, tokens * span.top_k, 0);
}

/* Takes the tokens of the scheduled parts out of the store. */
static void choose(Rebatch *rebatch)
{
    const ScheduledStep *scheduled = &rebatch->scheduled;
    uint32_t at = 0;
    for (uint32_t p = 0; p < scheduled->n_parts; p++) {
        const SchedulePart *part = &scheduled->parts[p];
        Work *work = &rebatch->store.work[part->request][part->kind];
        for (uint32_t i = 0; i < part->count; i++, at++) {
            const StoredToken *token = &rebatch->store.tokens[work->first];
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
    const RebatchStore *store = &rebatch->store;
    uint16_t *to = rebatch->arrays.experts;
    size_t first = 0;
    for (uint32_t layer = span.first; layer < span.first + span.count; layer++) {
        uint32_t top_k = rebatch->layers[layer].top_k;
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
    const StackSpan span = rebatch->store.spans[stack];
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
    *n_layers = rebatch->n_layers;
    return rebatch->layers;
}

const ScheduledRequest *rebatch_requests(const Rebatch *rebatch, uint32_t *n)
{
    *n = rebatch->store.n_requests;
    return rebatch->requests;
}
