/* A plain expert buffer to measure the real one against: arrays of everything, every decision a
 * scan over all experts, the future looked up by walking the trace. Shares no code with policies/.
 */
#ifndef TESTS_REFERENCE_BUFFER_H
#define TESTS_REFERENCE_BUFFER_H

#include "base/status.h" /* before cmocka, which has a macro called fail */

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "policies/buffer.h"
#include "tests/reference_queues.h"
#include "tests/support.h"
#include "traces/packed_future.h"

enum { REF_LAYERS = 4, REF_EXPERTS = 16, REF_EVENTS = 400, REF_TOKENS = 3, REF_TOP_K = 4 };

typedef struct {
    uint32_t layer;
    uint32_t n;
    uint16_t experts[REF_EXPERTS]; /* ascending */
    uint32_t tokens[REF_EXPERTS];  /* of each */
    uint32_t n_touches;
    uint16_t touches[REF_TOKENS * REF_TOP_K]; /* as routed: token by token, in router order */
} RefEvent;

struct RefBuffer;

typedef struct {
    uint32_t n_layers;
    TraceLayer layers[REF_LAYERS];
    uint32_t n_events;
    RefEvent events[REF_EVENTS];
    PackedTrace packed;
    /* Ranks victims for a policy that sees more than this trace: larger goes first. */
    uint64_t (*rank)(const struct RefBuffer *buffer, uint32_t layer, uint32_t expert);
    void *argument;
} RefTrace;

typedef struct {
    bool resident;
    uint32_t slot;
    uint64_t loaded_at; /* numbers of loads and lookups, from 1 */
    uint64_t looked_at;
    uint64_t scope_time; /* of the last lookup, in lookups of the scope */
    uint64_t step;       /* of the last lookup */
    uint64_t count;
    uint64_t count_resident; /* since it was loaded */
    uint64_t value;          /* cost-aware */
    uint64_t load_number;    /* in the scope */
} RefExpert;

typedef struct RefBuffer {
    const RefTrace *trace;
    const Plan *plan;
    RefExpert experts[REF_LAYERS][REF_EXPERTS];
    uint64_t random[REF_LAYERS]; /* by scope, as what follows */
    uint64_t used[REF_LAYERS];
    uint32_t free_slots[REF_LAYERS][REF_LAYERS * REF_EXPERTS]; /* the next one stands last */
    uint32_t n_free[REF_LAYERS];
    RefExpert *newest[REF_LAYERS]; /* loaded last */
    uint64_t time[REF_LAYERS];     /* lookups of the scope */
    uint64_t inflation[REF_LAYERS];
    RefQueues queues[REF_LAYERS];
    bool outside; /* victims are wanted outside A */
    /* While something is prefetched, who stays takes the place of A. */
    bool prefetching;
    bool stays[REF_LAYERS][REF_EXPERTS];
    uint64_t clock;
    uint32_t event;    /* at this one ... */
    uint32_t position; /* ... and this lookup of it */
    BufferAction *actions;
    size_t n_actions;
    uint64_t evicted_newest;
    uint64_t evicted_young;
    uint64_t n_loads[REF_LAYERS]; /* by scope */
} RefBuffer;

static inline void ref_add_event(RefTrace *trace, uint32_t layer, const uint16_t *ids, uint32_t n)
{
    RefEvent *event = &trace->events[trace->n_events++];
    *event = (RefEvent){.layer = layer, .n_touches = n};
    memcpy(event->touches, ids, n * sizeof *ids);
    for (uint16_t e = 0; e < trace->layers[layer].experts; e++) {
        uint32_t tokens = 0;
        for (uint32_t i = 0; i < n; i++)
            tokens += ids[i] == e;
        if (tokens > 0) {
            event->tokens[event->n] = tokens;
            event->experts[event->n++] = e;
        }
    }
}

/* Steps of one or several tokens, low experts more likely; layers of different widths and sizes. */
static inline void ref_trace_make(RefTrace *trace, uint64_t seed, uint32_t max_steps)
{
    uint32_t steps = 1 + random_below(&seed, max_steps);
    uint32_t widest_step = 1 + random_below(&seed, REF_TOKENS);
    *trace = (RefTrace){.n_layers = 1 + random_below(&seed, REF_LAYERS)};
    for (uint32_t i = 0; i < trace->n_layers; i++) {
        trace->layers[i].layer = 2 * i + 1;
        trace->layers[i].experts = 2 + random_below(&seed, REF_EXPERTS - 1);
        trace->layers[i].top_k = 1 + random_below(&seed, trace->layers[i].experts);
        if (trace->layers[i].top_k > REF_TOP_K)
            trace->layers[i].top_k = REF_TOP_K;
        trace->layers[i].expert_bytes = 100 * (1 + random_below(&seed, 3));
    }
    assert_ok(packed_trace_new(trace->layers, trace->n_layers, &trace->packed));
    for (uint32_t s = 0; s < steps && trace->n_events + trace->n_layers <= REF_EVENTS; s++) {
        uint16_t ids[REF_LAYERS * REF_TOKENS * REF_TOP_K];
        uint32_t position[REF_TOKENS] = {s, s, s};
        uint32_t request[REF_TOKENS] = {0, 1, 2};
        uint32_t tokens = 1 + random_below(&seed, widest_step);
        uint32_t at = 0;
        for (uint32_t i = 0; i < trace->n_layers; i++) {
            uint32_t n = tokens * trace->layers[i].top_k;
            for (uint32_t j = 0; j < n; j++)
                ids[at + j] = (uint16_t)random_below(
                    &seed, 1 + random_below(&seed, trace->layers[i].experts));
            ref_add_event(trace, i, ids + at, n);
            at += n;
        }
        TraceStep step = {.step = 3 * s,
                          .phase = PHASE_DECODE,
                          .tokens = tokens,
                          .request = request,
                          .position = position,
                          .experts = ids};
        assert_ok(packed_trace_add_step(&trace->packed, &step));
    }
}

/* Random slots for each layer; 0 only where the order allows it. */
static inline PlanTable *ref_random_budget(const RefTrace *trace, const Plan *plan, uint64_t *state)
{
    PlanTable *table;
    uint32_t n = trace->n_layers;
    uint32_t least = plan->buffer.order == ORDER_STAGED ? 0 : 1;
    assert_ok(plan_table_new(TABLE_NUMBERS, n, n, n, &table));
    PlanTableParts parts = plan_table_parts(table);
    for (uint32_t i = 0; i < n; i++) {
        parts.layer[i] = trace->layers[i].layer;
        parts.first_row[i + 1] = i + 1;
        parts.first_value[i + 1] = i + 1;
        parts.value[i] = least + random_below(state, 12);
    }
    return table;
}

/* Random experts of each layer, in random order, no more than fit the scopes of PLAN. */
static inline PlanTable *ref_random_lists(const RefTrace *trace, const Plan *plan, uint64_t *state)
{
    PlanTable *table;
    uint32_t experts = 0;
    bool shared = plan->buffer.scope == SCOPE_DEVICE;
    uint64_t budget = plan->buffer.bytes > 0 ? plan->buffer.bytes : plan->buffer.slots;
    uint64_t used = 0;
    for (uint32_t i = 0; i < trace->n_layers; i++)
        experts += trace->layers[i].experts;
    assert_ok(plan_table_new(TABLE_LISTS, trace->n_layers, trace->n_layers, experts, &table));
    PlanTableParts parts = plan_table_parts(table);
    uint32_t n = 0;
    for (uint32_t i = 0; i < trace->n_layers; i++) {
        uint64_t weight = plan->buffer.bytes > 0 ? trace->layers[i].expert_bytes : 1;
        uint32_t wanted = random_below(state, trace->layers[i].experts + 1);
        uint32_t stride = random_below(state, 2) ? 1 : trace->layers[i].experts - 1;
        uint32_t first = random_below(state, trace->layers[i].experts);
        if (plan->buffer.budget.table != NULL)
            budget = weight *
                     plan_table_list(plan->buffer.budget.table, trace->layers[i].layer).values[0];
        used = shared ? used : 0;
        parts.layer[i] = trace->layers[i].layer;
        parts.first_row[i + 1] = i + 1;
        for (uint32_t e = 0; e < wanted && used + weight <= budget; e++, used += weight)
            parts.value[n++] = (first + e * stride) % trace->layers[i].experts;
        parts.first_value[i + 1] = n;
    }
    return table;
}

/* What PLAN can learn, at random: budgets, what static keeps, residents at the start. Freed with
 * plan_free(). */
static inline void ref_random_learned(const RefTrace *trace, uint64_t *state, Plan *plan)
{
    if (plan->buffer.scope == SCOPE_LAYER && random_below(state, 2)) {
        plan->buffer.budget.table = ref_random_budget(trace, plan, state);
        plan->buffer.slots = 0;
        plan->buffer.bytes = 0;
    }
    if (eviction_needs_hot(plan->buffer.evict))
        plan->buffer.hot.table = ref_random_lists(trace, plan, state);
    if (eviction_needs_future(plan->buffer.evict) || random_below(state, 2))
        return;
    if (plan->buffer.hot.table != NULL)
        plan->buffer.initial.table = plan_table_share(plan->buffer.hot.table);
    else
        plan->buffer.initial.table = ref_random_lists(trace, plan, state);
}

static inline void ref_trace_free(RefTrace *trace)
{
    packed_trace_free(&trace->packed);
}

static inline bool ref_is_device(const RefBuffer *buffer)
{
    return buffer->plan->buffer.scope == SCOPE_DEVICE;
}

static inline uint32_t ref_scope(const RefBuffer *buffer, uint32_t layer)
{
    return ref_is_device(buffer) ? 0 : layer;
}

/* Experts of the scope. */
static inline uint32_t ref_objects(const RefBuffer *buffer, uint32_t layer)
{
    uint32_t experts = 0;
    for (uint32_t i = 0; i < buffer->trace->n_layers; i++)
        if (i == layer || ref_is_device(buffer))
            experts += buffer->trace->layers[i].experts;
    return experts;
}

/* What an expert of LAYER takes of the budget, and the budget. */
static inline uint64_t ref_weight(const RefBuffer *buffer, uint32_t layer)
{
    return buffer->plan->buffer.bytes > 0 ? buffer->trace->layers[layer].expert_bytes : 1;
}

static inline uint64_t ref_budget(const RefBuffer *buffer, uint32_t layer)
{
    if (buffer->plan->buffer.budget.table != NULL)
        return ref_weight(buffer, layer) * plan_table_list(buffer->plan->buffer.budget.table,
                                                           buffer->trace->layers[layer].layer)
                                               .values[0];
    return buffer->plan->buffer.bytes > 0 ? buffer->plan->buffer.bytes : buffer->plan->buffer.slots;
}

static inline uint32_t ref_least(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

static inline bool ref_is_static(const RefBuffer *buffer)
{
    return strcmp(buffer->plan->buffer.evict, "static") == 0;
}

/* Whether the table lists EXPERT of the layer at index LAYER. */
static inline bool ref_is_listed(const RefTrace *trace, const PlanTable *table, uint32_t layer,
                                 uint32_t expert)
{
    PlanRow list = plan_table_list(table, trace->layers[layer].layer);
    for (uint32_t i = 0; i < list.n; i++)
        if (list.values[i] == expert)
            return true;
    return false;
}

static inline bool ref_is_hot(const RefBuffer *buffer, uint32_t layer, uint32_t expert)
{
    return ref_is_listed(buffer->trace, buffer->plan->buffer.hot.table, layer, expert);
}

static inline uint32_t ref_slots(const RefBuffer *buffer, uint32_t layer)
{
    uint32_t objects = ref_objects(buffer, layer);
    uint64_t smallest = ref_weight(buffer, layer);
    uint32_t widest = buffer->trace->layers[layer].experts;
    for (uint32_t i = 0; i < buffer->trace->n_layers && ref_is_device(buffer); i++) {
        smallest = ref_least(smallest, ref_weight(buffer, i));
        if (buffer->trace->layers[i].experts > widest)
            widest = buffer->trace->layers[i].experts;
    }
    uint32_t slots = ref_least(ref_budget(buffer, layer) / smallest, objects);
    if (buffer->plan->buffer.order == ORDER_STAGED && ref_is_static(buffer))
        slots = ref_least((uint64_t)slots + 2 * widest, objects);
    else if (buffer->plan->buffer.order == ORDER_STAGED)
        slots = ref_least((uint64_t)(slots > widest ? slots : widest) + widest, objects);
    return slots;
}

static inline bool ref_is_active(const RefBuffer *buffer, uint32_t layer, uint32_t expert)
{
    const RefEvent *event = &buffer->trace->events[buffer->event];
    if (buffer->prefetching)
        return buffer->stays[layer][expert];
    for (uint32_t i = 0; i < event->n; i++)
        if (event->layer == layer && event->experts[i] == expert)
            return true;
    return false;
}

/* Order serial: lookups from the next one on. Order batch: events from the next one on. Further
 * away is larger; never is the largest. */
static inline uint64_t ref_next_use(const RefBuffer *buffer, uint32_t layer, uint32_t expert)
{
    bool serial = buffer->plan->buffer.order == ORDER_SERIAL;
    const RefTrace *trace = buffer->trace;
    for (uint32_t e = buffer->event + (serial ? 0 : 1); e < trace->n_events; e++)
        for (uint32_t i = 0; i < trace->events[e].n; i++) {
            bool is_past = e == buffer->event && i <= buffer->position;
            if (!is_past && trace->events[e].layer == layer &&
                trace->events[e].experts[i] == expert)
                return serial ? (uint64_t)e * REF_EXPERTS + i : e;
        }
    return UINT64_MAX;
}

/* Passes over the layers that the scope sees, from 1. */
static inline uint64_t ref_step(const RefBuffer *buffer)
{
    uint32_t layers = ref_is_device(buffer) ? buffer->trace->n_layers : 1;
    return 1 + buffer->event / layers;
}

static inline uint64_t ref_staleness(const RefBuffer *buffer, uint32_t layer, const RefExpert *it)
{
    uint32_t layers = buffer->trace->n_layers;
    uint32_t now = buffer->trace->events[buffer->event].layer;
    uint64_t back = (now + layers - layer) % layers;
    uint64_t is_stale = it->step != ref_step(buffer);
    return (is_stale << 60) + ((100 - back) << 50) + (UINT64_C(1) << 40) - it->looked_at;
}

/* Larger goes first. */
static inline uint64_t ref_rank(const RefBuffer *buffer, uint32_t layer, uint32_t expert)
{
    const RefExpert *it = &buffer->experts[layer][expert];
    const char *evict = buffer->plan->buffer.evict;
    if (buffer->trace->rank != NULL)
        return buffer->trace->rank(buffer, layer, expert);
    if (strcmp(evict, "fifo") == 0 || strcmp(evict, "static") == 0)
        return UINT64_MAX - it->loaded_at;
    if (strcmp(evict, "lifo") == 0 || strcmp(evict, "lifo-inactive-first") == 0)
        return it->loaded_at;
    if (strcmp(evict, "lru") == 0)
        return UINT64_MAX - it->looked_at;
    if (strcmp(evict, "mru") == 0)
        return it->looked_at;
    if (strcmp(evict, "lfu") == 0)
        return UINT64_MAX - (it->count * 1000000 + it->looked_at);
    if (strcmp(evict, "lfu-resident") == 0)
        return UINT64_MAX - (it->count_resident * 1000000 + it->looked_at);
    if (strcmp(evict, "lfu-aged") == 0) /* age / lookups; fractions this small stay apart */
        return ((buffer->time[ref_scope(buffer, layer)] - it->scope_time + 1) << 40) / it->count;
    if (strcmp(evict, "least-stale") == 0)
        return ref_staleness(buffer, layer, it);
    if (strcmp(evict, "cost-aware") == 0)
        return UINT64_MAX - it->value;
    if (strncmp(evict, "belady", 6) == 0)
        return ref_next_use(buffer, layer, expert);
    if (strcmp(evict, "random") != 0 && !ref_is_queue_policy(evict))
        fail_msg("the reference does not know %s", evict);
    return 0;
}

typedef struct {
    bool found;
    uint32_t layer;
    uint32_t expert;
} RefVictim;

static inline bool ref_is_candidate(const RefBuffer *buffer, uint32_t layer, uint32_t expert,
                                    bool outside)
{
    return buffer->experts[layer][expert].resident &&
           !(ref_is_static(buffer) && ref_is_hot(buffer, layer, expert)) &&
           !(outside && ref_is_active(buffer, layer, expert));
}

/* The first in order of layer and id among those of the highest rank. */
static inline RefVictim ref_best(const RefBuffer *buffer, uint32_t layer, bool outside)
{
    RefVictim best = {0};
    for (uint32_t l = 0; l < buffer->trace->n_layers; l++)
        for (uint32_t e = 0; e < REF_EXPERTS; e++) {
            if ((l != layer && !ref_is_device(buffer)) || !ref_is_candidate(buffer, l, e, outside))
                continue;
            if (!best.found || ref_rank(buffer, l, e) > ref_rank(buffer, best.layer, best.expert))
                best = (RefVictim){true, l, e};
        }
    return best;
}

static inline RefVictim ref_in_slot(const RefBuffer *buffer, uint32_t layer, uint32_t slot)
{
    for (uint32_t l = 0; l < buffer->trace->n_layers; l++)
        for (uint32_t e = 0; e < REF_EXPERTS; e++)
            if ((l == layer || ref_is_device(buffer)) && buffer->experts[l][e].resident &&
                buffer->experts[l][e].slot == slot)
                return (RefVictim){true, l, e};
    return (RefVictim){0};
}

/* A slot is drawn until it will do. */
static inline RefVictim ref_drawn(RefBuffer *buffer, uint32_t layer, bool outside)
{
    uint64_t *state = &buffer->random[ref_scope(buffer, layer)];
    for (;;) {
        uint64_t upper = random_next(state) >> 32;
        uint32_t slot = (uint32_t)(upper * ref_slots(buffer, layer) >> 32);
        RefVictim victim = ref_in_slot(buffer, layer, slot);
        if (victim.found && ref_is_candidate(buffer, victim.layer, victim.expert, outside))
            return victim;
    }
}

static inline bool ref_is_kept(const void *context, int item)
{
    const RefBuffer *buffer = context;
    return buffer->outside &&
           ref_is_active(buffer, (uint32_t)item / REF_EXPERTS, (uint32_t)item % REF_EXPERTS);
}

/* Residents that the budget allows, of the smallest expert. */
static inline int ref_capacity(const RefBuffer *buffer, uint32_t layer)
{
    uint64_t smallest = ref_weight(buffer, layer);
    for (uint32_t i = 0; i < buffer->trace->n_layers && ref_is_device(buffer); i++)
        smallest = ref_least(smallest, ref_weight(buffer, i));
    return (int)ref_least(ref_budget(buffer, layer) / smallest, ref_objects(buffer, layer));
}

/* Of a policy whose order changes when it is asked. */
static inline RefVictim ref_taken(RefBuffer *buffer, uint32_t layer, bool outside)
{
    buffer->outside = outside;
    int item =
        ref_queues_take(&buffer->queues[ref_scope(buffer, layer)], buffer->plan->buffer.evict,
                        ref_capacity(buffer, layer), ref_is_kept, buffer);
    return (RefVictim){true, (uint32_t)item / REF_EXPERTS, (uint32_t)item % REF_EXPERTS};
}

static inline RefVictim ref_victim(RefBuffer *buffer, uint32_t layer)
{
    const char *evict = buffer->plan->buffer.evict;
    bool outside = buffer->plan->buffer.order != ORDER_SERIAL ||
                   strcmp(evict, "lifo-inactive-first") == 0 || buffer->prefetching;
    outside = outside && ref_best(buffer, layer, true).found;
    if (strcmp(evict, "random") == 0)
        return ref_drawn(buffer, layer, outside);
    if (ref_is_queue_policy(evict))
        return ref_taken(buffer, layer, outside);
    return ref_best(buffer, layer, outside);
}

static inline void ref_act(RefBuffer *buffer, ResidencyKind kind, uint32_t layer, uint32_t expert,
                           uint32_t slot)
{
    buffer->actions[buffer->n_actions++] = (BufferAction){.kind = (uint8_t)kind,
                                                          .layer_index = (uint16_t)layer,
                                                          .expert = (uint16_t)expert,
                                                          .slot = slot};
}

static inline uint64_t ref_gain(const RefBuffer *buffer, uint32_t layer)
{
    uint64_t smallest = ref_weight(buffer, layer);
    for (uint32_t i = 0; i < buffer->trace->n_layers && ref_is_device(buffer); i++)
        smallest = ref_least(smallest, ref_weight(buffer, i));
    return 256 * smallest / ref_weight(buffer, layer);
}

static inline int ref_item(const RefBuffer *buffer, uint32_t layer, const RefExpert *it)
{
    return (int)(layer * REF_EXPERTS + (uint32_t)(it - buffer->experts[layer]));
}

static inline void ref_look_up(RefBuffer *buffer, uint32_t layer, RefExpert *it)
{
    uint32_t scope = ref_scope(buffer, layer);
    it->looked_at = ++buffer->clock;
    it->scope_time = ++buffer->time[scope];
    it->step = ref_step(buffer);
    it->count++;
    it->count_resident++;
    it->value = buffer->inflation[scope] + it->count_resident * ref_gain(buffer, layer);
}

static inline void ref_touch(RefBuffer *buffer, uint32_t layer, RefExpert *it)
{
    ref_look_up(buffer, layer, it);
    ref_queues_hit(&buffer->queues[ref_scope(buffer, layer)], buffer->plan->buffer.evict,
                   ref_item(buffer, layer, it));
}

static inline void ref_remember(RefBuffer *buffer, uint32_t layer, const RefExpert *it)
{
    ref_queues_miss(&buffer->queues[ref_scope(buffer, layer)], buffer->plan->buffer.evict,
                    ref_capacity(buffer, layer), ref_item(buffer, layer, it));
}

static inline void ref_admit(RefBuffer *buffer, uint32_t layer, RefExpert *it)
{
    it->count_resident = 0;
    ref_look_up(buffer, layer, it);
    it->loaded_at = buffer->clock;
    ref_queues_admit(&buffer->queues[ref_scope(buffer, layer)], buffer->plan->buffer.evict,
                     ref_capacity(buffer, layer), ref_item(buffer, layer, it));
}

static inline void ref_evict(RefBuffer *buffer, uint32_t layer)
{
    uint32_t scope = ref_scope(buffer, layer);
    RefVictim victim = ref_victim(buffer, layer);
    RefExpert *it = &buffer->experts[victim.layer][victim.expert];
    ref_act(buffer, RESIDENCY_EVICT, victim.layer, victim.expert, it->slot);
    buffer->evicted_newest += it == buffer->newest[scope];
    uint64_t young = ref_capacity(buffer, layer) / 8;
    buffer->evicted_young += buffer->n_loads[scope] - it->load_number < (young > 2 ? young : 2);
    it->resident = false;
    if (it->value > buffer->inflation[scope])
        buffer->inflation[scope] = it->value;
    buffer->used[scope] -= ref_weight(buffer, victim.layer);
    buffer->free_slots[scope][buffer->n_free[scope]++] = it->slot;
}

static inline void ref_load(RefBuffer *buffer, uint32_t layer, uint32_t expert)
{
    uint32_t scope = ref_scope(buffer, layer);
    RefExpert *it = &buffer->experts[layer][expert];
    it->resident = true;
    it->load_number = ++buffer->n_loads[scope];
    it->slot = buffer->free_slots[scope][--buffer->n_free[scope]];
    buffer->used[scope] += ref_weight(buffer, layer);
    ref_act(buffer, RESIDENCY_LOAD, layer, expert, it->slot);
}

/* Belady passes by whom no resident outside A (or at all) is needed later than. */
static inline bool ref_passes(RefBuffer *buffer, uint32_t layer, uint32_t expert)
{
    if (ref_is_static(buffer))
        return true;
    if (strcmp(buffer->plan->buffer.evict, "belady") != 0)
        return false;
    RefVictim victim = ref_victim(buffer, layer);
    return ref_rank(buffer, victim.layer, victim.expert) <= ref_next_use(buffer, layer, expert);
}

static inline void ref_miss(RefBuffer *buffer, uint32_t layer, uint32_t expert)
{
    RefExpert *it = &buffer->experts[layer][expert];
    uint32_t scope = ref_scope(buffer, layer);
    ref_remember(buffer, layer, it);
    bool is_cold = ref_is_static(buffer) && !ref_is_hot(buffer, layer, expert);
    while (is_cold || buffer->used[scope] + ref_weight(buffer, layer) > ref_budget(buffer, layer)) {
        if (ref_passes(buffer, layer, expert)) {
            ref_act(buffer, RESIDENCY_BYPASS, layer, expert, ref_slots(buffer, layer));
            return;
        }
        ref_evict(buffer, layer);
    }
    ref_load(buffer, layer, expert);
    ref_admit(buffer, layer, it);
    buffer->newest[scope] = it;
}

static inline void ref_hit(RefBuffer *buffer, uint32_t layer, uint32_t expert)
{
    ref_touch(buffer, layer, &buffer->experts[layer][expert]);
    ref_act(buffer, RESIDENCY_HIT, layer, expert, buffer->experts[layer][expert].slot);
}

/* Touches token by token; only the last touch of an expert in the event is seen. */
static inline RefExpert *ref_touch_staged(RefBuffer *buffer, const RefEvent *event,
                                          const bool *resident)
{
    RefExpert *newest = buffer->newest[ref_scope(buffer, event->layer)];
    for (uint32_t i = 0; i < event->n_touches; i++) {
        RefExpert *it = &buffer->experts[event->layer][event->touches[i]];
        bool again = false;
        for (uint32_t j = i + 1; j < event->n_touches; j++)
            again = again || event->touches[j] == event->touches[i];
        if (again)
            continue;
        if (resident[event->touches[i]]) {
            ref_touch(buffer, event->layer, it);
            continue;
        }
        ref_remember(buffer, event->layer, it);
        ref_admit(buffer, event->layer, it);
        newest = it;
    }
    return newest;
}

static inline void ref_staged(RefBuffer *buffer, const RefEvent *event)
{
    bool resident[REF_EXPERTS] = {false};
    uint32_t scope = ref_scope(buffer, event->layer);
    for (uint32_t e = 0; e < REF_EXPERTS; e++)
        resident[e] = buffer->experts[event->layer][e].resident;
    for (uint32_t i = 0; i < event->n; i++)
        if (resident[event->experts[i]])
            ref_act(buffer, RESIDENCY_HIT, event->layer, event->experts[i],
                    buffer->experts[event->layer][event->experts[i]].slot);
    for (uint32_t i = 0; i < event->n; i++)
        if (!resident[event->experts[i]])
            ref_load(buffer, event->layer, event->experts[i]);
    RefExpert *newest = ref_touch_staged(buffer, event, resident);
    buffer->position = event->n;
    while (buffer->used[scope] > ref_budget(buffer, event->layer) &&
           ref_best(buffer, event->layer, true).found)
        ref_evict(buffer, event->layer);
    buffer->newest[scope] = newest;
}

static inline void ref_event(RefBuffer *buffer, const RefEvent *event)
{
    if (buffer->plan->buffer.order == ORDER_STAGED) {
        ref_staged(buffer, event);
        return;
    }
    bool serial = buffer->plan->buffer.order == ORDER_SERIAL;
    bool resident[REF_EXPERTS];
    for (uint32_t i = 0; i < event->n; i++)
        resident[i] = buffer->experts[event->layer][event->experts[i]].resident;
    for (uint32_t i = 0; i < event->n; i++) {
        buffer->position = i;
        if (serial ? buffer->experts[event->layer][event->experts[i]].resident : resident[i])
            ref_hit(buffer, event->layer, event->experts[i]);
        else if (serial)
            ref_miss(buffer, event->layer, event->experts[i]);
    }
    for (uint32_t i = 0; i < event->n && !serial; i++) {
        buffer->position = i;
        if (!resident[i])
            ref_miss(buffer, event->layer, event->experts[i]);
    }
}

/* Admits the residents that the layer begins with, the last one first. */
static inline void ref_begin_with(RefBuffer *buffer, uint32_t layer, PlanRow list)
{
    for (uint32_t i = list.n; i-- > 0;) {
        RefExpert *it = &buffer->experts[layer][list.values[i]];
        ref_remember(buffer, layer, it);
        ref_load(buffer, layer, list.values[i]);
        ref_admit(buffer, layer, it);
        it->step = 0; /* before the first */
        buffer->newest[ref_scope(buffer, layer)] = it;
    }
    buffer->n_actions = 0;
}

/* A buffer before its first event, with room for MOST_ACTIONS. */
static inline void ref_start(RefBuffer *buffer, const RefTrace *trace, const Plan *plan,
                             size_t most_actions)
{
    *buffer = (RefBuffer){.trace = trace, .plan = plan};
    buffer->actions = calloc(most_actions, sizeof *buffer->actions);
    for (uint32_t i = 0; i < (ref_is_device(buffer) ? 1 : trace->n_layers); i++)
        for (uint32_t slots = ref_slots(buffer, i); buffer->n_free[i] < slots; buffer->n_free[i]++)
            buffer->free_slots[i][buffer->n_free[i]] = slots - 1 - buffer->n_free[i];
    for (uint64_t i = 0; i < REF_LAYERS; i++) {
        buffer->queues[i].hand = REF_NOBODY;
        buffer->random[i] = plan->seed + i * UINT64_C(0xD1B54A32D192ED03);
    }
    for (uint32_t layer = trace->n_layers; layer-- > 0;)
        ref_begin_with(buffer, layer,
                       plan_table_list(plan->buffer.initial.table, trace->layers[layer].layer));
}

/* Runs all of TRACE; the caller frees buffer->actions with free(). */
static inline void ref_run(RefBuffer *buffer, const RefTrace *trace, const Plan *plan)
{
    ref_start(buffer, trace, plan, 2 * trace->packed.n_lookups + REF_LAYERS * REF_EXPERTS);
    for (; buffer->event < trace->n_events; buffer->event++)
        ref_event(buffer, &trace->events[buffer->event]);
}

#endif
