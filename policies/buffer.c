#include "policies/buffer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "policies/eviction.h"
#include "policies/host_share.h"
#include "policies/placement.h"
#include "policies/predictor.h"
#include "policies/prefetch.h"
#include "policies/scope_layout.h"

struct ExpertBuffer {
    const EvictionPolicy *policy; /* NULL: everything is resident */
    EvictionRun run;
    uint64_t seed;
    uint32_t n_layers;
    uint32_t n_scopes; /* one, or one a layer */
    Scope *scopes;
    bool bypasses; /* experts may pass through a staging slot */
    bool weighs;   /* the budget is in bytes, and sizes differ */
    ReplayOrder order;
    uint32_t *first_object; /* [n_layers] of each layer within its scope */
    uint64_t *expert_bytes; /* [n_layers] */
    uint64_t *weight;       /* [n_layers] of an expert in the budget of its scope */
    uint32_t *experts;      /* [n_layers] */
    PlanRow *hot;           /* [n_layers] what static keeps, or empty */
    PlanRow *initial;       /* [n_layers] residents at the start, or empty */
    uint16_t *object_layer; /* [objects] scope device: the layer of each */
    ScopeEvent *events;     /* [n_layers] with the counts of lookups and their loads */
    BufferCounts *counts;   /* [n_layers] of prefetching */
    Prefetch *prefetch;     /* or NULL */
    HostShare *host_share;  /* or NULL: misses are loaded */
    BufferAction *actions;  /* of an event, where prefetching must see them and nobody else */
};

bool buffer_needs_touches(const ExpertBuffer *buffer)
{
    return buffer->policy != NULL && buffer->order == ORDER_STAGED;
}

static bool is_shared(const ExpertBuffer *buffer)
{
    return buffer->n_scopes < buffer->n_layers;
}

static Scope *scope_of(const ExpertBuffer *buffer, uint32_t layer_index)
{
    return &buffer->scopes[buffer->n_scopes == 1 ? 0 : layer_index];
}

static uint32_t widest_layer(const ExpertBuffer *buffer)
{
    uint32_t widest = 0;
    for (uint32_t i = 0; i < buffer->n_layers; i++)
        widest = buffer->experts[i] > widest ? buffer->experts[i] : widest;
    return widest;
}

static Status map_objects(ExpertBuffer *buffer)
{
    Scope *scope = &buffer->scopes[0];
    if (!is_shared(buffer))
        return OK;
    TRY(mem_new(&buffer->object_layer, scope->n_objects, sizeof *buffer->object_layer,
                "expert buffer"));
    for (uint32_t i = 0, object = 0; i < buffer->n_layers; i++)
        for (uint32_t e = 0; e < buffer->experts[i]; e++)
            buffer->object_layer[object++] = (uint16_t)i;
    scope->object_layer = buffer->object_layer;
    scope->layer_weight = buffer->weighs ? buffer->weight : NULL;
    return OK;
}

static bool has_equal_sizes(const TraceLayer *layers, uint32_t n_layers)
{
    for (uint32_t i = 1; i < n_layers; i++)
        if (layers[i].expert_bytes != layers[0].expert_bytes)
            return false;
    return true;
}

/* SLOTS of the budget, or as many of the smallest expert as fit. Those beyond the experts of the
 * scope would stay empty for ever and are not made. Order staged needs room for the members of an
 * event besides what may stay: the budget, or all members of the event before when they exceed it;
 * both where the budget KEEPS what is in it. */
static void size_scope(const Plan *plan, uint32_t slots, uint32_t widest, bool keeps, Scope *scope)
{
    uint64_t objects = scope->n_objects;
    uint64_t count = slots < objects ? slots : objects;
    scope->budget = count;
    scope->capacity = (uint32_t)count;
    scope->young = count < 16 ? 2 : (uint32_t)count / 8;
    if (plan->buffer.order == ORDER_STAGED)
        count = (count > widest || keeps ? count : widest) + (keeps ? 2 : 1) * (uint64_t)widest;
    scope->n_slots = (uint32_t)(count < objects ? count : objects);
}

static Status size_scopes(const Plan *plan, const TraceLayer *layers, ExpertBuffer *buffer)
{
    uint32_t *slots;
    TRY(mem_new(&slots, buffer->n_layers, sizeof *slots, "expert buffer"));
    Status status = plan_slots(plan, layers, buffer->n_layers, slots);
    buffer->weighs =
        is_shared(buffer) && plan->buffer.bytes > 0 && !has_equal_sizes(layers, buffer->n_layers);
    for (uint32_t i = 0; i < buffer->n_layers; i++) {
        Scope *scope = scope_of(buffer, i);
        buffer->first_object[i] = scope->n_objects; /* at most 1024 * 65535 */
        scope->n_objects += layers[i].experts;
        buffer->experts[i] = layers[i].experts;
        buffer->expert_bytes[i] = layers[i].expert_bytes;
        buffer->weight[i] = buffer->weighs ? layers[i].expert_bytes : 1;
    }
    for (uint32_t i = 0; i < buffer->n_scopes; i++) {
        Scope *scope = &buffer->scopes[i];
        uint32_t widest = is_shared(buffer) ? widest_layer(buffer) : scope->n_objects;
        scope->n_layers = is_shared(buffer) ? buffer->n_layers : 1;
        scope->alpha = (uint32_t)lround(65536 * plan_alpha(plan));
        size_scope(plan, slots[i], widest, buffer->policy != NULL && buffer->policy->needs_hot,
                   scope);
        if (buffer->weighs)
            scope->budget = plan->buffer.bytes;
    }
    mem_free(slots);
    return status;
}

static Status make_arrays(ExpertBuffer *buffer)
{
    Arena arena = {0};
    uint32_t n = buffer->n_layers;
    arena_reserve(&arena, buffer->n_scopes, sizeof *buffer->scopes);
    arena_reserve(&arena, n, sizeof *buffer->first_object);
    arena_reserve(&arena, n, sizeof *buffer->expert_bytes);
    arena_reserve(&arena, n, sizeof *buffer->weight);
    arena_reserve(&arena, n, sizeof *buffer->experts);
    arena_reserve(&arena, n, sizeof *buffer->hot);
    arena_reserve(&arena, n, sizeof *buffer->events);
    arena_reserve(&arena, n, sizeof *buffer->initial);
    arena_reserve(&arena, n, sizeof *buffer->counts);
    TRY(arena_commit(&arena, "expert buffer"));
    buffer->scopes = arena_take(&arena, buffer->n_scopes, sizeof *buffer->scopes);
    buffer->first_object = arena_take(&arena, n, sizeof *buffer->first_object);
    buffer->expert_bytes = arena_take(&arena, n, sizeof *buffer->expert_bytes);
    buffer->weight = arena_take(&arena, n, sizeof *buffer->weight);
    buffer->experts = arena_take(&arena, n, sizeof *buffer->experts);
    buffer->hot = arena_take(&arena, n, sizeof *buffer->hot);
    buffer->events = arena_take(&arena, n, sizeof *buffer->events);
    buffer->initial = arena_take(&arena, n, sizeof *buffer->initial);
    buffer->counts = arena_take(&arena, n, sizeof *buffer->counts);
    return OK;
}

/* With the buffer off, expert e lies in slot e of its layer. */
static void all_resident(Scope *scope, ScopeEvent *events, const BufferRun *run)
{
    for (uint32_t i = 0; i < run->n_spans; i++) {
        BufferSpan span = run->spans[i];
        ScopeEvent *event = &events[span.layer_index];
        event->hits += span.n;
        event->lookups += span.n;
        if (run->hit != NULL)
            memset(run->hit + span.first, 1, span.n);
        for (uint32_t j = 0; event->actions != NULL && j < span.n; j++) {
            uint32_t expert = run->experts[span.first + j];
            scope_report(scope, event, RESIDENCY_HIT, expert, expert);
        }
    }
}

static Status choose_policy(const Plan *plan, ExpertBuffer *buffer)
{
    buffer->run = all_resident;
    TRY(placement_check_one_rank(plan));
    if (!plan->buffer.on)
        return OK;
    TRY(plan_check_learned(plan));
    buffer->policy = eviction_find(plan->buffer.evict);
    if (buffer->policy == NULL)
        return fail(ERR_INPUT, "buffer.evict: \"%s\" is no eviction policy", plan->buffer.evict);
    buffer->order = plan->buffer.order;
    buffer->run = buffer->policy->run[plan->buffer.order];
    buffer->bypasses = buffer->policy->may_bypass && plan->buffer.order != ORDER_STAGED;
    return OK;
}

/* Looks up what TABLE, of KEY, lists for each layer, and checks that it fits the scopes. */
static Status take_lists(const ExpertBuffer *buffer, const char *key, const PlanTable *table,
                         const TraceLayer *layers, PlanRow *lists)
{
    TRY(plan_lists_check(key, table, layers, buffer->n_layers));
    for (uint32_t i = 0; i < buffer->n_layers; i++)
        lists[i] = plan_table_list(table, layers[i].layer);
    for (uint32_t i = 0; i < buffer->n_scopes; i++) {
        const Scope *scope = &buffer->scopes[i];
        uint64_t used = 0;
        for (uint32_t layer = 0; layer < buffer->n_layers; layer++)
            if (scope_of(buffer, layer) == scope)
                used += lists[layer].n * buffer->weight[layer];
        const char *unit = buffer->weighs ? "bytes" : "slots";
        if (used > scope->budget && is_shared(buffer))
            return fail(ERR_INPUT, "%s: takes %" PRIu64 " %s, the device has %" PRIu64, key, used,
                        unit, scope->budget);
        if (used > scope->budget)
            return fail(ERR_INPUT, "%s: layer %" PRIu32 ": takes %" PRIu64 " %s, it has %" PRIu64,
                        key, layers[i].layer, used, unit, scope->budget);
    }
    return OK;
}

static bool lists(PlanRow row, uint32_t expert)
{
    for (uint32_t i = 0; i < row.n; i++)
        if (row.values[i] == expert)
            return true;
    return false;
}

static Status check_initial(const ExpertBuffer *buffer, const Plan *plan, const TraceLayer *layers)
{
    if (plan->buffer.initial.table != NULL && buffer->policy->prefetch == NULL)
        return fail(ERR_INPUT, "buffer.initial: evict \"%s\" starts cold", plan->buffer.evict);
    for (uint32_t i = 0; i < buffer->n_layers && buffer->policy->needs_hot; i++)
        for (uint32_t at = 0; at < buffer->initial[i].n; at++)
            if (!lists(buffer->hot[i], buffer->initial[i].values[at]))
                return fail(ERR_INPUT,
                            "buffer.initial: layer %" PRIu32 ": expert %" PRIu32
                            " is not of the hot set",
                            layers[i].layer, buffer->initial[i].values[at]);
    return OK;
}

static Status make_prefetch(const Plan *plan, const TraceLayer *layers, ExpertBuffer *buffer)
{
    if (strcmp(plan->prefetch.predictor, "none") == 0)
        return OK;
    if (buffer->policy == NULL || buffer->policy->prefetch == NULL)
        return fail(ERR_INPUT,
                    "prefetch.predictor: \"%s\" needs a buffer whose eviction can admit "
                    "ahead of a lookup",
                    plan->prefetch.predictor);
    TRY(prefetch_new(plan, layers, buffer->n_layers, &buffer->prefetch));
    return mem_new(&buffer->actions, buffer_max_actions(buffer, widest_layer(buffer)) + 1,
                   sizeof *buffer->actions, "expert buffer");
}

static Status fill_buffer(const Plan *plan, const TraceLayer *layers, ExpertBuffer *buffer)
{
    TRY(choose_policy(plan, buffer));
    TRY(make_arrays(buffer));
    TRY(size_scopes(plan, layers, buffer));
    TRY(map_objects(buffer));
    if (buffer->policy != NULL) {
        TRY(take_lists(buffer, "buffer.hot", plan->buffer.hot.table, layers, buffer->hot));
        TRY(take_lists(buffer, "buffer.initial", plan->buffer.initial.table, layers,
                       buffer->initial));
        TRY(check_initial(buffer, plan, layers));
        TRY(scopes_make(buffer->policy, buffer->scopes, buffer->n_scopes, widest_layer(buffer)));
    }
    TRY(make_prefetch(plan, layers, buffer));
    if (buffer->policy != NULL)
        TRY(host_share_new(plan, layers, buffer->n_layers, &buffer->host_share));
    buffer_reset(buffer);
    return OK;
}

Status buffer_new(const Plan *plan, const TraceLayer *layers, uint32_t n_layers, ExpertBuffer **out)
{
    ExpertBuffer *buffer;
    TRY(mem_new(&buffer, 1, sizeof *buffer, "expert buffer"));
    bool shared = plan->buffer.on && plan->buffer.scope == SCOPE_DEVICE;
    buffer->n_layers = n_layers;
    buffer->n_scopes = shared ? 1 : n_layers;
    buffer->seed = plan->seed;
    Status status = fill_buffer(plan, layers, buffer);
    if (status != OK)
        buffer_free(buffer);
    else
        *out = buffer;
    return status;
}

void buffer_free(ExpertBuffer *buffer)
{
    if (buffer == NULL)
        return;
    if (buffer->scopes != NULL)
        scopes_free(buffer->scopes);
    prefetch_free(buffer->prefetch);
    host_share_free(buffer->host_share);
    mem_free(buffer->actions);
    mem_free(buffer->scopes);
    mem_free(buffer->object_layer);
    mem_free(buffer);
}

static uint32_t object_in_scope(const ExpertBuffer *buffer, uint32_t layer_index, uint32_t expert)
{
    return buffer->first_object[layer_index] + expert;
}

static void mark_hot(ExpertBuffer *buffer)
{
    for (uint32_t i = 0; i < buffer->n_layers; i++)
        for (uint32_t at = 0; at < buffer->hot[i].n; at++)
            scope_of(buffer, i)->flag[object_in_scope(buffer, i, buffer->hot[i].values[at])] = 1;
}

/* There is room for all of them. */
static void admit_initial(ExpertBuffer *buffer)
{
    for (uint32_t i = 0; i < buffer->n_scopes; i++)
        scope_begin_event(&buffer->scopes[i]);
    for (uint32_t layer = buffer->n_layers; layer-- > 0;) {
        Scope *scope = scope_of(buffer, layer);
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
    return scope_of(buffer, layer_index)->n_slots;
}

uint32_t buffer_slot_of(const ExpertBuffer *buffer, uint32_t layer_index, uint32_t expert)
{
    if (buffer->policy == NULL)
        return expert;
    const Scope *scope = scope_of(buffer, layer_index);
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
        const Scope *scope = scope_of(buffer, i);
        uint64_t bytes = buffer->expert_bytes[i];
        largest = bytes > largest ? bytes : largest;
        total += (most_used(scope) + staging) * bytes;
    }
    if (!is_shared(buffer))
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
    for (uint32_t i = 0; i < given->n && scope_of(buffer, given->layer_index) == scope; i++)
        scope_keep(scope, object_in_scope(buffer, given->layer_index, given->experts[i]));
    for (uint32_t i = 0; i < n_in_flight; i++)
        if (scope_of(buffer, in_flight[i].layer_index) == scope)
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
    Scope *scope = scope_of(buffer, wish.layer_index);
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
    Scope *scope = scope_of(buffer, given->layer_index);
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

bool buffer_is_shared(const ExpertBuffer *buffer)
{
    return is_shared(buffer);
}

void buffer_run(ExpertBuffer *buffer, const BufferRun *run)
{
    if (run->n_spans > 0)
        buffer->run(scope_of(buffer, run->spans[0].layer_index), buffer->events, run);
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

BufferCounts buffer_counts_total(const ExpertBuffer *buffer)
{
    BufferCounts total = {0};
    for (uint32_t i = 0; i < buffer->n_layers; i++)
        buffer_counts_add(&total, &buffer->counts[i]);
    return total;
}
