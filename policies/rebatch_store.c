#include "policies/rebatch_store.h"

#include <string.h>

#include "base/memory.h"

static const char WHAT[] = "tokens to regroup";

static Status fit_requests(RebatchStore *store, uint32_t n_requests)
{
    TRY(mem_reserve(&store->work, &store->work_room, store->n_requests,
                    n_requests - store->n_requests, sizeof *store->work, WHAT));
    for (; store->n_requests < n_requests; store->n_requests++)
        for (int kind = 0; kind < WORK_KINDS; kind++)
            store->work[store->n_requests][kind] =
                (Work){.first = NO_TOKEN, .last = NO_TOKEN, .count = 0};
    return OK;
}

static bool is_alone(const TraceStep *step, uint32_t token)
{
    for (uint32_t i = 0; i < step->tokens; i++)
        if (i != token && step->request[i] == step->request[token])
            return false;
    return true;
}

static WorkKind kind_of(const TraceShards *shards, const TraceStep *step, uint32_t token)
{
    switch (step->phase) {
    case PHASE_ENCODE:
        return WORK_ENCODE;
    case PHASE_PREFILL:
        return WORK_PROMPT;
    case PHASE_DECODE:
        return WORK_OUTPUT;
    default: {
        uint32_t prompt = trace_shards_prompt_tokens(shards, step->request[token]);
        bool in_prompt = prompt > 0 ? step->position[token] < prompt : !is_alone(step, token);
        return in_prompt ? WORK_PROMPT : WORK_OUTPUT;
    }
    }
}

/* The ids of the step are [layer][token][top_k], those of a token [layer][top_k]. */
static void copy_ids(RebatchStore *store, const TraceLayer *layers, const TraceStep *step,
                     uint32_t token)
{
    StackSpan span = store->spans[step->stack];
    const uint16_t *from = step->experts;
    unsigned char *to = store->ids + store->ids_used * store->id_bytes;
    for (uint32_t i = span.first; i < span.first + span.count; i++) {
        uint32_t top_k = layers[i].top_k;
        const uint16_t *ids = from + (size_t)token * top_k;
        if (store->id_bytes == 2)
            memcpy(to, ids, 2 * (size_t)top_k);
        else
            for (uint32_t k = 0; k < top_k; k++)
                to[k] = (unsigned char)ids[k]; /* EXPERT_DROPPED becomes 0xFF */
        to += top_k * store->id_bytes;
        from += (size_t)step->tokens * top_k;
    }
    store->ids_used += span.top_k;
}

static Status add_step(const TraceShards *shards, RebatchStore *store, const TraceStep *step)
{
    uint32_t n_layers;
    const TraceLayer *layers = trace_shards_layers(shards, &n_layers);
    if (step->tokens > NO_TOKEN - store->n_tokens)
        return fail(ERR_INPUT, "more than %u tokens to regroup", NO_TOKEN);
    TRY(fit_requests(store, trace_shards_requests(shards)));
    TRY(mem_reserve(&store->tokens, &store->token_room, store->n_tokens, step->tokens,
                    sizeof *store->tokens, WHAT));
    TRY(mem_reserve(&store->ids, &store->ids_room, store->ids_used,
                    step->tokens * store->spans[step->stack].top_k, store->id_bytes, WHAT));
    for (uint32_t i = 0; i < step->tokens; i++) {
        uint32_t token = store->n_tokens++;
        Work *work = &store->work[step->request[i]][kind_of(shards, step, i)];
        store->tokens[token] =
            (StoredToken){.ids = store->ids_used, .position = step->position[i], .next = NO_TOKEN};
        copy_ids(store, layers, step, i);
        if (work->count++ == 0)
            work->first = token;
        else
            store->tokens[work->last].next = token;
        work->last = token;
    }
    return OK;
}

Status rebatch_store_read(TraceShards *shards, RebatchStore *store)
{
    uint32_t n_layers;
    const TraceLayer *layers = trace_shards_layers(shards, &n_layers);
    *store = (RebatchStore){.id_bytes = layers_id_bytes(layers, n_layers)};
    store->spans[STACK_DECODER] = layers_span(layers, n_layers, STACK_DECODER);
    store->spans[STACK_ENCODER] = layers_span(layers, n_layers, STACK_ENCODER);
    for (;;) {
        TraceStep step;
        Status status = trace_shards_next_step(shards, &step);
        if (status == STATUS_END)
            return OK;
        TRY(status);
        TRY(add_step(shards, store, &step));
    }
}

void rebatch_store_free(RebatchStore *store)
{
    mem_free(store->tokens);
    mem_free(store->ids);
    mem_free(store->work);
    *store = (RebatchStore){0};
}

void rebatch_store_ids(const RebatchStore *store, const StoredToken *token, size_t first,
                       size_t count, uint16_t *experts)
{
    const unsigned char *from = store->ids + (token->ids + first) * store->id_bytes;
    if (store->id_bytes == 2) {
        memcpy(experts, from, 2 * count);
        return;
    }
    for (size_t i = 0; i < count; i++)
        experts[i] = from[i] == UINT8_MAX ? EXPERT_DROPPED : from[i];
}
