#include "policies/buffer.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "policies/eviction.h"

struct ExpertBuffer {
    const EvictionPolicy *policy; /* NULL: everything is resident */
    EvictionEvent event;
    uint64_t seed;
    uint32_t n_layers;
    uint32_t n_scopes; /* one, or one a layer */
    Scope *scopes;
    uint32_t *first_object; /* [n_layers] of each layer within its scope */
    uint64_t *expert_bytes; /* [n_layers] */
    uint32_t *experts;      /* [n_layers] */
    BufferCounts *counts;   /* [n_layers] */
};

static bool is_shared(const ExpertBuffer *buffer)
{
    return buffer->n_scopes < buffer->n_layers;
}

static Scope *scope_of(const ExpertBuffer *buffer, uint32_t layer_index)
{
    return &buffer->scopes[buffer->n_scopes == 1 ? 0 : layer_index];
}

/* One pass of the arrays of a scope over ARENA: reserves them, or takes them when it has a base. */
static void *piece(Arena *arena, bool wanted, size_t count, size_t size)
{
    if (!wanted)
        return NULL;
    if (arena->base != NULL)
        return arena_take(arena, count, size);
    arena_reserve(arena, count, size);
    return NULL;
}

static void lay_out_scope(const EvictionPolicy *policy, Scope *scope, uint32_t widest, Arena *arena)
{
    size_t objects = scope->n_objects;
    size_t slots = scope->n_slots;
    bool counts = policy->needs_counts;
    scope->nodes = piece(arena, true, objects + 1, sizeof *scope->nodes);
    scope->slot_object = piece(arena, true, slots, sizeof *scope->slot_object);
    scope->misses = piece(arena, true, (size_t)widest + 1, sizeof *scope->misses);
    scope->heap.entries = piece(arena, policy->needs_heap, slots, sizeof *scope->heap.entries);
    scope->heap.where = piece(arena, policy->needs_where, objects, sizeof *scope->heap.where);
    scope->count = piece(arena, counts, objects, sizeof *scope->count);
    scope->last = piece(arena, counts, objects, sizeof *scope->last);
    scope->aside = piece(arena, counts, slots, sizeof *scope->aside);
}

static uint32_t widest_layer(const ExpertBuffer *buffer)
{
    uint32_t widest = 0;
    for (uint32_t i = 0; i < buffer->n_layers; i++)
        widest = buffer->experts[i] > widest ? buffer->experts[i] : widest;
    return widest;
}

static Status make_scopes(ExpertBuffer *buffer)
{
    Arena arena = {0};
    uint32_t widest = widest_layer(buffer);
    for (uint32_t i = 0; i < buffer->n_scopes; i++)
        lay_out_scope(buffer->policy, &buffer->scopes[i], widest, &arena);
    TRY(arena_commit(&arena, "expert buffer"));
    for (uint32_t i = 0; i < buffer->n_scopes; i++)
        lay_out_scope(buffer->policy, &buffer->scopes[i], widest, &arena);
    return OK;
}

/* Objects and slots of each scope. Slots beyond the experts of a scope would stay empty for ever
 * and are not made. */
static Status size_scopes(const Plan *plan, const TraceLayer *layers, ExpertBuffer *buffer)
{
    uint32_t *slots;
    TRY(mem_new(&slots, buffer->n_layers, sizeof *slots, "expert buffer"));
    Status status = plan_slots(plan, layers, buffer->n_layers, slots);
    for (uint32_t i = 0; i < buffer->n_layers; i++) {
        Scope *scope = scope_of(buffer, i);
        buffer->first_object[i] = scope->n_objects; /* at most 1024 * 65535 */
        scope->n_objects += layers[i].experts;
        buffer->experts[i] = layers[i].experts;
        buffer->expert_bytes[i] = layers[i].expert_bytes;
    }
    for (uint32_t i = 0; i < buffer->n_scopes; i++) {
        Scope *scope = &buffer->scopes[i];
        scope->n_slots = slots[i] < scope->n_objects ? slots[i] : scope->n_objects;
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
    arena_reserve(&arena, n, sizeof *buffer->experts);
    arena_reserve(&arena, n, sizeof *buffer->counts);
    TRY(arena_commit(&arena, "expert buffer"));
    buffer->scopes = arena_take(&arena, buffer->n_scopes, sizeof *buffer->scopes);
    buffer->first_object = arena_take(&arena, n, sizeof *buffer->first_object);
    buffer->expert_bytes = arena_take(&arena, n, sizeof *buffer->expert_bytes);
    buffer->experts = arena_take(&arena, n, sizeof *buffer->experts);
    buffer->counts = arena_take(&arena, n, sizeof *buffer->counts);
    return OK;
}

static Status choose_policy(const Plan *plan, ExpertBuffer *buffer)
{
    if (!plan->buffer.on)
        return OK;
    buffer->policy = eviction_find(plan->buffer.evict);
    if (buffer->policy == NULL)
        return fail(ERR_INPUT, "buffer.evict: \"%s\" is no eviction policy", plan->buffer.evict);
    bool serial = plan->buffer.order == ORDER_SERIAL;
    buffer->event = serial ? buffer->policy->serial : buffer->policy->batch;
    return OK;
}

static Status fill_buffer(const Plan *plan, const TraceLayer *layers, ExpertBuffer *buffer)
{
    TRY(choose_policy(plan, buffer));
    TRY(make_arrays(buffer));
    TRY(size_scopes(plan, layers, buffer));
    if (buffer->policy != NULL)
        TRY(make_scopes(buffer));
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
        mem_free(buffer->scopes[0].nodes); /* the first piece of its arena is the block */
    mem_free(buffer->scopes);
    mem_free(buffer);
}

static void reset_scope(const EvictionPolicy *policy, Scope *scope, uint64_t seed)
{
    uint32_t sentinel = scope->n_objects;
    for (uint32_t i = 0; i < scope->n_objects; i++)
        scope->nodes[i] = (ScopeNode){.slot = NOBODY};
    scope->nodes[sentinel] = (ScopeNode){.slot = NOBODY, .newer = sentinel, .older = sentinel};
    scope->n_used = 0;
    scope->newest = NOBODY;
    scope->event = 0;
    scope->random = seed;
    scope->heap.size = 0;
    scope->n_aside = 0;
    scope->time = 0;
    if (!policy->needs_counts)
        return;
    memset(scope->count, 0, scope->n_objects * sizeof *scope->count);
    memset(scope->last, 0, scope->n_objects * sizeof *scope->last);
}

void buffer_reset(ExpertBuffer *buffer)
{
    memset(buffer->counts, 0, buffer->n_layers * sizeof *buffer->counts);
    for (uint32_t i = 0; i < buffer->n_scopes && buffer->policy != NULL; i++)
        reset_scope(buffer->policy, &buffer->scopes[i],
                    buffer->seed + i * UINT64_C(0xD1B54A32D192ED03));
}

uint32_t buffer_slots(const ExpertBuffer *buffer, uint32_t layer_index)
{
    return scope_of(buffer, layer_index)->n_slots;
}

bool buffer_uses_staging(const ExpertBuffer *buffer)
{
    return buffer->policy != NULL && buffer->policy->may_bypass;
}

bool buffer_needs_future(const ExpertBuffer *buffer)
{
    return buffer->policy != NULL && buffer->policy->needs_future;
}

/* A slot shared by all layers is as large as the largest expert. */
uint64_t buffer_memory_bytes(const ExpertBuffer *buffer)
{
    uint64_t total = 0;
    uint64_t largest = 0;
    uint64_t staging = buffer_uses_staging(buffer) ? 1 : 0;
    for (uint32_t i = 0; i < buffer->n_layers; i++) {
        uint64_t bytes = buffer->expert_bytes[i];
        largest = bytes > largest ? bytes : largest;
        total += (buffer_slots(buffer, i) + staging) * bytes;
    }
    return is_shared(buffer) ? (buffer->scopes[0].n_slots + staging) * largest : total;
}

/* With the buffer off, expert e lies in slot e of its layer. */
static uint32_t all_resident(ScopeEvent *event)
{
    for (uint32_t i = 0; i < event->n; i++) {
        if (event->hit != NULL)
            event->hit[i] = 1;
        if (event->actions != NULL)
            scope_report(event, RESIDENCY_HIT, event->experts[i], event->experts[i]);
    }
    return event->n;
}

uint32_t buffer_event(ExpertBuffer *buffer, uint32_t layer_index, const uint16_t *experts,
                      uint32_t n, const uint32_t *next_use, uint8_t *hit, BufferAction *actions,
                      uint32_t *n_actions)
{
    ScopeEvent event = {
        .experts = experts,
        .n = n,
        .first_object = buffer->policy != NULL ? buffer->first_object[layer_index] : 0,
        .next_use = next_use,
        .hit = hit,
        .layer_index = layer_index,
        .layer_objects = is_shared(buffer) ? buffer->first_object : NULL,
        .n_layers = buffer->n_layers,
        .actions = actions,
    };
    uint32_t hits = buffer->policy != NULL ? buffer->event(scope_of(buffer, layer_index), &event)
                                           : all_resident(&event);
    BufferCounts *counts = &buffer->counts[layer_index];
    counts->hits += hits;
    counts->misses += n - hits;
    counts->loads += event.loads;
    counts->bypasses += event.bypasses;
    counts->evictions += event.evictions;
    counts->evicted_newest += event.evicted_newest;
    counts->bytes_loaded += event.loads * buffer->expert_bytes[layer_index];
    if (actions != NULL)
        *n_actions = event.n_actions;
    return hits;
}

BufferCounts buffer_counts(const ExpertBuffer *buffer, uint32_t layer_index)
{
    return buffer->counts[layer_index];
}

void buffer_counts_add(BufferCounts *sum, const BufferCounts *more)
{
    sum->hits += more->hits;
    sum->misses += more->misses;
    sum->loads += more->loads;
    sum->bypasses += more->bypasses;
    sum->evictions += more->evictions;
    sum->evicted_newest += more->evicted_newest;
    sum->bytes_loaded += more->bytes_loaded;
}

BufferCounts buffer_counts_total(const ExpertBuffer *buffer)
{
    BufferCounts total = {0};
    for (uint32_t i = 0; i < buffer->n_layers; i++)
        buffer_counts_add(&total, &buffer->counts[i]);
    return total;
}
