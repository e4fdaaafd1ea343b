#include "policies/buffer_parts.h"

#include <assert.h>
#include <string.h>

#include "policies/predictor.h"
#include "policies/scope_layout.h"

bool buffer_needs_touches(const ExpertBuffer *buffer)
{
    return buffer->policy != NULL && buffer->order == ORDER_STAGED;
}

bool plan_needs_experts(const Plan *plan)
{
    return plan->buffer.on || plan->placement.ranks > 1 ||
           plan->placement.map.choice == PLACEMENT_MAP_TRAINED;
}

bool plan_needs_touches(const Plan *plan)
{
    return plan->buffer.on && plan->buffer.order == ORDER_STAGED;
}

static uint32_t object_in_scope(const ExpertBuffer *buffer, uint32_t layer_index, uint32_t expert)
{
    return buffer->first_object[layer_index] + expert;
}

static void mark_hot(ExpertBuffer *buffer)
{
    for (uint32_t i = 0; i < buffer->n_layers; i++)
        for (uint32_t at = 0; at < buffer->hot[i].n; at++)
            buffer_scope(buffer, i)->flag[object_in_scope(buffer, i, buffer->hot[i].values[at])] =
                1;
}

/* There is room for all of them. */
static void admit_initial(ExpertBuffer *buffer)
{
    for (uint32_t i = 0; i < buffer->n_scopes; i++)
        scope_begin_event(&buffer->scopes[i]);
    for (uint32_t layer = buffer->n_layers; layer-- > 0;) {
        Scope *scope = buffer_scope(buffer, layer);
        PlanRow row = buffer->initial[layer];
        ScopeEvent event = {.experts = scope->misses,
                            .n = row.n,
                            .first_object = buffer->first_object[layer],
                            .layer_index = layer,
                            .weight = buffer->weight[layer],
                            .layer_objects = buffer->first_object};
        for (uint32_t i = 0; i < row.n; i++)
            scope->misses[i] = (uint16_t)row.values[row.n - 1 - i];
        if (row.n > 0)
            buffer->policy->prefetch(scope, &event);
    }
}

void buffer_reset(ExpertBuffer *buffer)
{
    memset(buffer->counts, 0, buffer->n_layers * sizeof *buffer->counts);
    for (uint32_t i = 0; i < buffer->n_layers; i++)
        buffer->events[i] = (ScopeEvent){.first_object = buffer->first_object[i],
                                         .weight = buffer->weight[i],
                                         .n_experts = buffer->experts[i],
                                         .layer_objects = buffer->first_object,
                                         .layer_index = i};
    for (uint32_t i = 0; i < buffer->n_scopes && buffer->policy != NULL; i++) {
        scope_reset(buffer->policy, &buffer->scopes[i],
                    buffer->seed + i * UINT64_C(0xD1B54A32D192ED03));
    }
    mark_hot(buffer);
    if (buffer->policy != NULL)
        admit_initial(buffer);
    if (buffer->prefetch != NULL)
        prefetch_reset(buffer->prefetch, ~buffer->seed);
    if (buffer->host_share != NULL)
        host_share_reset(buffer->host_share);
}

bool buffer_needs_rows(const ExpertBuffer *buffer)
{
    return buffer->host_share != NULL;
}

bool buffer_needs_coming(const ExpertBuffer *buffer)
{
    return buffer->prefetch != NULL && prefetch_needs_coming(buffer->prefetch);
}

SignalNeeds plan_needs_signals(const Plan *plan)
{
    SignalNeeds needs = {0};
    PredictorChoice choice;
    if (!plan->buffer.on)
        return needs;
    if (predictor_choose(plan->prefetch.predictor, &choice) && choice.row != NULL)
        needs = predictor_needs_signals(choice.row, plan->prefetch.distance);
    needs.scores = eviction_needs_scores(plan->buffer.evict);
    return needs;
}

uint32_t buffer_max_prefetches(const ExpertBuffer *buffer)
{
    return buffer->prefetch != NULL ? prefetch_most(buffer->prefetch) : 0;
}

uint32_t buffer_slots(const ExpertBuffer *buffer, uint32_t layer_index)
{
    return buffer_scope(buffer, layer_index)->n_slots;
}

uint32_t buffer_slot_of(const ExpertBuffer *buffer, uint32_t layer_index, uint32_t expert)
{
    if (buffer->policy == NULL)
        return expert;
    const Scope *scope = buffer_scope(buffer, layer_index);
    uint32_t object = object_in_scope(buffer, layer_index, expert);
    return scope_holds(scope, object) ? scope->slot[object] : BUFFER_NO_SLOT;
}

bool buffer_uses_staging(const ExpertBuffer *buffer)
{
    return buffer->bypasses;
}

bool buffer_needs_future(const ExpertBuffer *buffer)
{
    return buffer->policy != NULL && buffer->policy->needs_future;
}

static uint64_t most_used(const Scope *scope)
{
    return scope->peak > scope->budget ? scope->peak : scope->budget;
}

static uint32_t widest_scope(const ExpertBuffer *buffer)
{
    uint32_t widest = 0;
    for (uint32_t i = 1; i < buffer->n_scopes; i++)
        if (buffer->scopes[i].n_slots > buffer->scopes[widest].n_slots)
            widest = i;
    return widest;
}

size_t buffer_max_actions(const ExpertBuffer *buffer, size_t n_active)
{
    n_active += buffer_max_prefetches(buffer);
    if (buffer->policy == NULL || (!buffer->weighs && buffer->order != ORDER_STAGED))
        return 2 * n_active;
    return 2 * n_active + buffer->scopes[widest_scope(buffer)].n_slots;
}

/* A slot shared by all layers is as large as the largest expert, unless bytes are counted. */
uint64_t buffer_memory_bytes(const ExpertBuffer *buffer)
{
    uint64_t total = 0;
    uint64_t largest = 0;
    uint64_t staging = buffer->bypasses ? 1 : 0;
    for (uint32_t i = 0; i < buffer->n_layers; i++) {
        const Scope *scope = buffer_scope(buffer, i);
        uint64_t bytes = buffer->experts[i] > 0 ? buffer->expert_bytes[i] : 0;
        largest = bytes > largest ? bytes : largest;
        total += (most_used(scope) + staging) * bytes;
    }
    if (!buffer_has_one_scope(buffer))
        return total;
    uint64_t most = most_used(&buffer->scopes[0]);
    return (buffer->weighs ? most : most * largest) + staging * largest;
}

/* A policy with a hot set loads nobody else ahead. */
static bool is_welcome(const ExpertBuffer *buffer, const Scope *scope, uint32_t object)
{
    return !scope_holds(scope, object) && (!buffer->policy->needs_hot || scope->flag[object]);
}

/* Marks those that no prefetch may evict: the event's own experts, those predicted, those in
 * flight. Writes those of the wish that are to be loaded to LOADS; returns their number. */
static uint32_t protect(const ExpertBuffer *buffer, Scope *scope, const BufferEvent *given,
                        const PrefetchWish *wish, uint16_t *loads)
{
    uint32_t n_loads = 0;
    uint32_t n_in_flight;
    const PrefetchInFlight *in_flight = prefetch_in_flight(buffer->prefetch, &n_in_flight);
    scope_begin_event(scope);
    for (uint32_t i = 0; i < given->n && buffer_scope(buffer, given->layer_index) == scope; i++)
        scope_keep(scope, object_in_scope(buffer, given->layer_index, given->experts[i]));
    for (uint32_t i = 0; i < n_in_flight; i++)
        if (buffer_scope(buffer, in_flight[i].layer_index) == scope)
            scope_keep(scope,
                       object_in_scope(buffer, in_flight[i].layer_index, in_flight[i].expert));
    for (uint32_t i = 0; i < wish->n; i++) {
        uint32_t object = object_in_scope(buffer, wish->layer_index, wish->experts[i]);
        scope_keep(scope, object);
        if (n_loads < wish->most && is_welcome(buffer, scope, object))
            loads[n_loads++] = wish->experts[i];
    }
    return n_loads;
}

/* What follows the lookups of an event: EVENT has their actions. */
static void prefetch_ahead(ExpertBuffer *buffer, const BufferEvent *given, ScopeEvent *event)
{
    PrefetchWish wish;
    uint32_t n_lookups = event->n_actions;
    if (!prefetch_ask(buffer->prefetch, given, event->actions, n_lookups, buffer->counts, &wish))
        return;
    Scope *scope = buffer_scope(buffer, wish.layer_index);
    ScopeEvent ahead = {
        .experts = scope->misses,
        .first_object = buffer->first_object[wish.layer_index],
        .layer_index = wish.layer_index,
        .weight = buffer->weight[wish.layer_index],
        .layer_objects = buffer->first_object,
        .actions = event->actions + n_lookups,
    };
    ahead.n = protect(buffer, scope, given, &wish, scope->misses);
    buffer->policy->prefetch(scope, &ahead);
    for (uint32_t i = 0; i < ahead.n_actions; i++)
        if (ahead.actions[i].kind == RESIDENCY_LOAD)
            ahead.actions[i].kind = RESIDENCY_PREFETCH;
    prefetch_done(buffer->prefetch, ahead.actions, ahead.n_actions, buffer->counts);
    BufferCounts *counts = &buffer->counts[wish.layer_index];
    counts->prefetches += ahead.loads;
    counts->bytes_prefetched += ahead.loads * buffer->expert_bytes[wish.layer_index];
    counts->evictions += ahead.evictions;
    counts->evicted_newest += ahead.evicted_newest;
    counts->evicted_young += ahead.evicted_young;
    event->n_actions += ahead.n_actions;
}

/* EVENT as a run of its own. */
static void decide_one(const ExpertBuffer *buffer, Scope *scope, const ScopeEvent *event)
{
    const BufferSpan span = {.n = (uint16_t)event->n, .layer_index = (uint16_t)event->layer_index};
    const BufferRun run = {.spans = &span,
                           .n_spans = 1,
                           .experts = event->experts,
                           .next_use = event->next_use,
                           .touches = event->touches,
                           .hit = event->hit};
    buffer->run(scope, buffer->events, &run);
}

uint32_t buffer_event(ExpertBuffer *buffer, const BufferEvent *given, uint8_t *hit,
                      BufferAction *actions, uint32_t *n_actions)
{
    Scope *scope = buffer_scope(buffer, given->layer_index);
    ScopeEvent *event = &buffer->events[given->layer_index];
    uint64_t hits_before = event->hits;
    event->experts = given->experts;
    event->n = given->n;
    event->next_use = given->next_use;
    event->touches = given->touches;
    event->scores = given->signals != NULL ? given->signals->scores : NULL;
    event->hit = hit;
    event->actions = actions != NULL ? actions : buffer->actions;
    event->n_actions = 0;
    if (buffer->host_share != NULL)
        host_share_take(buffer->host_share, scope, given, event);
    decide_one(buffer, scope, event);
    event->lookups += given->n - event->n;
    if (buffer->host_share != NULL)
        host_share_hits(buffer->host_share, given, hit);
    uint32_t hits = (uint32_t)(event->hits - hits_before);
    if (buffer->prefetch != NULL)
        prefetch_ahead(buffer, given, event);
    if (actions != NULL)
        *n_actions = event->n_actions;
    event->actions = NULL;
    return hits;
}

bool buffer_takes_runs(const ExpertBuffer *buffer)
{
    return buffer->prefetch == NULL && buffer->host_share == NULL &&
           (buffer->policy == NULL || !buffer->policy->needs_scores);
}

uint32_t buffer_plain_to(const ExpertBuffer *buffer)
{
    uint32_t least = UINT32_MAX;
    if (buffer->policy == NULL || !buffer_takes_runs(buffer) || buffer->order != ORDER_BATCH ||
        buffer->n_scopes < buffer->n_layers || buffer->weighs)
        return 0;
    for (uint32_t i = 0; i < buffer->n_layers; i++)
        least = buffer_slots(buffer, i) < least ? buffer_slots(buffer, i) : least;
    return least;
}

bool buffer_is_shared(const ExpertBuffer *buffer)
{
    return buffer_has_one_scope(buffer);
}

void buffer_run(ExpertBuffer *buffer, const BufferRun *run)
{
    if (run->n_spans > 0)
        buffer->run(buffer_scope(buffer, run->spans[0].layer_index), buffer->events, run);
}

void buffer_count_hits(ExpertBuffer *buffer, uint32_t layer_index, uint64_t n)
{
    assert(buffer->policy == NULL);
    buffer->events[layer_index].lookups += n;
    buffer->events[layer_index].hits += n;
}

void buffer_decide_plainly(ExpertBuffer *buffer)
{
    for (uint32_t i = 0; i < buffer->n_scopes; i++)
        buffer->scopes[i].is_wide = false;
}

void buffer_tally(const ExpertBuffer *buffer, uint32_t layer_index, uint64_t *lookups,
                  uint64_t *hits)
{
    *lookups = buffer->events[layer_index].lookups;
    *hits = buffer->events[layer_index].hits;
}

BufferCounts buffer_counts(const ExpertBuffer *buffer, uint32_t layer_index)
{
    const ScopeEvent *events = &buffer->events[layer_index];
    BufferCounts counts = buffer->counts[layer_index];
    counts.hits = events->hits;
    counts.misses = events->lookups - events->hits;
    counts.loads = events->loads;
    counts.bypasses = events->bypasses;
    counts.evictions += events->evictions;
    counts.evicted_newest += events->evicted_newest;
    counts.evicted_young += events->evicted_young;
    counts.bytes_loaded = events->loads * buffer->expert_bytes[layer_index];
    if (buffer->host_share != NULL)
        host_share_count(buffer->host_share, layer_index, &counts);
    return counts;
}

void buffer_counts_add(BufferCounts *sum, const BufferCounts *more)
{
    sum->hits += more->hits;
    sum->misses += more->misses;
    sum->loads += more->loads;
    sum->bypasses += more->bypasses;
    sum->evictions += more->evictions;
    sum->evicted_newest += more->evicted_newest;
    sum->evicted_young += more->evicted_young;
    sum->bytes_loaded += more->bytes_loaded;
    sum->host_computed += more->host_computed;
    sum->host_rows += more->host_rows;
    sum->prefetches += more->prefetches;
    sum->prefetch_hits += more->prefetch_hits;
    sum->prefetch_evicted += more->prefetch_evicted;
    sum->bytes_prefetched += more->bytes_prefetched;
    sum->predictions += more->predictions;
    sum->predictable += more->predictable;
    sum->predicted += more->predicted;
    sum->predicted_right += more->predicted_right;
    sum->prediction_reads += more->prediction_reads;
}
