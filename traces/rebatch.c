#include "traces/rebatch.h"

#include <string.h>

#include "base/memory.h"
#include "traces/rebatch_store.h"
#include "traces/step_buffer.h"

struct Rebatch {
    Batching batching;
    TraceLayer *layers;
    RebatchStore store;
    uint32_t *running; /* [sequences] request numbers, in the order of admission */
    uint32_t n_running;
    uint32_t next_request; /* to admit */
    uint32_t steps;
    uint32_t *chosen; /* [chosen_room] tokens of the step being made */
    size_t chosen_room;
    uint32_t n_chosen;
    uint32_t *owner; /* [chosen_room] and their requests */
    StepBuffer arrays;
};

static Status check_batching(const Batching *batching)
{
    if (batching->sequences < 1 || batching->sequences > TRACE_MAX_TOKENS)
        return fail(ERR_INPUT, "batching.sequences: %u, allowed is 1 to %d", batching->sequences,
                    TRACE_MAX_TOKENS);
    if (batching->max_tokens < batching->sequences || batching->max_tokens > TRACE_MAX_TOKENS)
        return fail(ERR_INPUT, "batching.max_tokens: %u, allowed is %u (batching.sequences) to %d",
                    batching->max_tokens, batching->sequences, TRACE_MAX_TOKENS);
    return OK;
}

static Status open_tables(Rebatch *rebatch, TraceShards *shards)
{
    uint32_t n_layers;
    const TraceLayer *layers = trace_shards_layers(shards, &n_layers);
    TRY(mem_new(&rebatch->layers, n_layers, sizeof *layers, "rebatch"));
    memcpy(rebatch->layers, layers, n_layers * sizeof *layers);
    TRY(rebatch_store_read(shards, &rebatch->store));
    uint32_t sequences = rebatch->batching.sequences < rebatch->store.n_requests
                             ? rebatch->batching.sequences
                             : rebatch->store.n_requests;
    return mem_new(&rebatch->running, sequences, sizeof *rebatch->running, "rebatch");
}

Status rebatch_open(TraceShards *shards, const Batching *batching, Rebatch **out)
{
    Rebatch *rebatch;
    TRY(check_batching(batching));
    TRY(trace_shards_check_regroup(shards));
    TRY(mem_new(&rebatch, 1, sizeof *rebatch, "rebatch"));
    rebatch->batching = *batching;
    Status status = open_tables(rebatch, shards);
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
    rebatch_store_free(&rebatch->store);
    step_buffer_free(&rebatch->arrays);
    mem_free(rebatch->layers);
    mem_free(rebatch->running);
    mem_free(rebatch->chosen);
    mem_free(rebatch->owner);
    mem_free(rebatch);
}

static uint32_t left_of(const Rebatch *rebatch, uint32_t request, WorkKind kind)
{
    return rebatch->store.work[request][kind].count;
}

/* Lets ended requests go and waiting ones in. */
static void admit(Rebatch *rebatch)
{
    uint32_t stay = 0;
    for (uint32_t i = 0; i < rebatch->n_running; i++) {
        uint32_t request = rebatch->running[i];
        if (left_of(rebatch, request, WORK_ENCODE) + left_of(rebatch, request, WORK_PROMPT) +
                left_of(rebatch, request, WORK_OUTPUT) >
            0)
            rebatch->running[stay++] = request;
    }
    rebatch->n_running = stay;
    while (rebatch->n_running < rebatch->batching.sequences &&
           rebatch->next_request < rebatch->store.n_requests)
        rebatch->running[rebatch->n_running++] = rebatch->next_request++;
}

/* Takes the next COUNT tokens of REQUEST's KIND into the step. */
static Status choose(Rebatch *rebatch, uint32_t request, WorkKind kind, uint32_t count)
{
    Work *work = &rebatch->store.work[request][kind];
    size_t wanted = (size_t)rebatch->n_chosen + count;
    if (wanted > rebatch->chosen_room) {
        uint32_t *chosen = mem_resize(rebatch->chosen, 2 * wanted, sizeof *chosen);
        if (chosen == NULL)
            return fail_memory("rebatch", 2 * wanted * sizeof *chosen);
        rebatch->chosen = chosen;
        uint32_t *owner = mem_resize(rebatch->owner, 2 * wanted, sizeof *owner);
        if (owner == NULL)
            return fail_memory("rebatch", 2 * wanted * sizeof *owner);
        rebatch->owner = owner;
        rebatch->chosen_room = 2 * wanted;
    }
    for (uint32_t i = 0; i < count; i++) {
        rebatch->chosen[rebatch->n_chosen] = work->first;
        rebatch->owner[rebatch->n_chosen++] = request;
        work->first = rebatch->store.tokens[work->first].next;
        work->count--;
    }
    return OK;
}

/* Whole requests, the first whatever its length. */
static Status choose_encode(Rebatch *rebatch)
{
    for (uint32_t i = 0; i < rebatch->n_running; i++) {
        uint32_t count = left_of(rebatch, rebatch->running[i], WORK_ENCODE);
        if (rebatch->n_chosen > 0 && count > rebatch->batching.max_tokens - rebatch->n_chosen)
            return OK;
        TRY(choose(rebatch, rebatch->running[i], WORK_ENCODE, count));
        if (rebatch->n_chosen >= rebatch->batching.max_tokens)
            return OK;
    }
    return OK;
}

static Status choose_prompts(Rebatch *rebatch)
{
    for (uint32_t i = 0; i < rebatch->n_running; i++) {
        uint32_t room = rebatch->batching.max_tokens - rebatch->n_chosen;
        uint32_t count = left_of(rebatch, rebatch->running[i], WORK_PROMPT);
        TRY(choose(rebatch, rebatch->running[i], WORK_PROMPT, count < room ? count : room));
    }
    return OK;
}

/* One of each request that has no prompt left. */
static Status choose_outputs(Rebatch *rebatch)
{
    for (uint32_t i = 0; i < rebatch->n_running; i++) {
        uint32_t request = rebatch->running[i];
        if (left_of(rebatch, request, WORK_PROMPT) == 0 &&
            left_of(rebatch, request, WORK_OUTPUT) > 0)
            TRY(choose(rebatch, request, WORK_OUTPUT, 1));
    }
    return OK;
}

static Status choose_tokens(Rebatch *rebatch, Phase *phase)
{
    *phase = PHASE_ENCODE;
    TRY(choose_encode(rebatch));
    if (rebatch->n_chosen > 0)
        return OK;
    if (rebatch->batching.mode == BATCHING_MIXED)
        TRY(choose_outputs(rebatch));
    uint32_t outputs = rebatch->n_chosen;
    TRY(choose_prompts(rebatch));
    if (rebatch->n_chosen > outputs) {
        *phase = outputs > 0 ? PHASE_MIXED : PHASE_PREFILL;
        return OK;
    }
    *phase = PHASE_DECODE;
    return outputs > 0 ? OK : choose_outputs(rebatch);
}

/* The chosen tokens' ids, [layer][token][top_k]. */
static void gather(const Rebatch *rebatch, StackSpan span)
{
    const RebatchStore *store = &rebatch->store;
    uint16_t *to = rebatch->arrays.experts;
    size_t first = 0;
    for (uint32_t layer = span.first; layer < span.first + span.count; layer++) {
        uint32_t top_k = rebatch->layers[layer].top_k;
        for (uint32_t i = 0; i < rebatch->n_chosen; i++, to += top_k)
            rebatch_store_ids(store, &store->tokens[rebatch->chosen[i]], first, top_k, to);
        first += top_k;
    }
    for (uint32_t i = 0; i < rebatch->n_chosen; i++) {
        rebatch->arrays.request[i] = rebatch->owner[i];
        rebatch->arrays.position[i] = store->tokens[rebatch->chosen[i]].position;
    }
}

Status rebatch_next_step(Rebatch *rebatch, TraceStep *step)
{
    Phase phase;
    admit(rebatch);
    if (rebatch->n_running == 0)
        return STATUS_END;
    rebatch->n_chosen = 0;
    TRY(choose_tokens(rebatch, &phase));
    StackSpan span = rebatch->store.spans[phase_stack(phase)];
    TRY(step_buffer_fit(&rebatch->arrays, rebatch->n_chosen, rebatch->n_chosen * span.top_k, 0));
    gather(rebatch, span);
    *step = (TraceStep){.step = rebatch->steps++,
                        .phase = phase,
                        .stack = phase_stack(phase),
                        .tokens = rebatch->n_chosen,
                        .request = rebatch->arrays.request,
                        .position = rebatch->arrays.position,
                        .experts = rebatch->arrays.experts};
    return OK;
}
