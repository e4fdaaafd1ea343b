#include "policies/scope_layout.h"

#include <string.h>

#include "base/memory.h"
#include "policies/wide.h"

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

static uint32_t n_lists(const EvictionPolicy *policy, const Scope *scope)
{
    return policy->has_layer_lists ? scope->n_layers : policy->n_lists;
}

static void lay_out_rings(const EvictionPolicy *policy, Scope *scope, Arena *arena)
{
    uint32_t room = ring_room(scope->n_slots);
    for (uint32_t i = 0; i < policy->n_rings; i++) {
        Ring *ring = &scope->rings[i];
        ring->objects = piece(arena, true, room, sizeof *ring->objects);
        ring->mask = room - 1;
    }
}

static void lay_out_aged(Scope *scope, Arena *arena)
{
    AgedQueue *aged = &scope->aged;
    size_t room = aged_room(scope->n_slots);
    aged->uses = piece(arena, true, scope->n_objects, sizeof *aged->uses);
    aged->last = piece(arena, true, room + 1, sizeof *aged->last);
    aged->rate = piece(arena, true, room + 1, sizeof *aged->rate);
    aged->index = piece(arena, true, room + 1, sizeof *aged->index);
    aged->found = piece(arena, true, room + AGED_STRIDE, sizeof *aged->found);
    aged->near_last = piece(arena, true, AGED_NEAR + 1, sizeof *aged->near_last);
    aged->near_rate = piece(arena, true, AGED_NEAR + 1, sizeof *aged->near_rate);
    aged->near_slot = piece(arena, true, AGED_NEAR + 1, sizeof *aged->near_slot);
    aged->near_object = piece(arena, true, AGED_NEAR + 1, sizeof *aged->near_object);
}

static void lay_out_farthest(const EvictionPolicy *policy, Scope *scope, Arena *arena)
{
    Farthest *farthest = &scope->farthest;
    farthest->n_levels = farthest_levels(scope->n_objects);
    for (uint32_t i = 0; i < farthest->n_levels; i++)
        farthest->levels[i] = piece(arena, policy->needs_farthest,
                                    farthest_room(scope->n_objects, i), sizeof(uint32_t));
}

static void lay_out_places(const EvictionPolicy *policy, Scope *scope, Arena *arena)
{
    Places *places = &scope->places;
    bool wanted = policy->needs_places;
    places->room = places_room(scope->n_slots);
    places->object = piece(arena, wanted, places->room + 16, sizeof *places->object);
    places->taken = piece(arena, wanted, places->room / 64 + 8, sizeof *places->taken);
    places->visited = piece(arena, wanted, places->room / 64 + 8, sizeof *places->visited);
}

/* What is by object, and by slot, has an entry for nobody (policies/wide.h). */
static void lay_out_scope(const EvictionPolicy *policy, Scope *scope, uint32_t widest, Arena *arena)
{
    size_t objects = scope->n_objects;
    size_t slots = scope->n_slots;
    size_t nodes = n_lists(policy, scope) > 0 ? objects + n_lists(policy, scope) : 0;
    bool counts = policy->needs_counts;
    scope->resident = piece(arena, true, objects + 1, sizeof *scope->resident);
    scope->slot = piece(arena, true, objects + 1, sizeof *scope->slot);
    scope->mark = piece(arena, true, objects, sizeof *scope->mark);
    scope->loaded_at = piece(arena, true, objects + 1, sizeof *scope->loaded_at);
    scope->slot_object = piece(arena, true, slots + 1, sizeof *scope->slot_object);
    scope->free_slots = piece(arena, true, slots, sizeof *scope->free_slots);
    scope->misses = piece(arena, true, 2 * (size_t)widest, sizeof *scope->misses);
    scope->missed = piece(arena, true, widest, sizeof *scope->missed);
    scope->aside = piece(arena, true, 2 * slots, sizeof *scope->aside);
    HeapEntry *entries =
        piece(arena, policy->needs_heap, HEAP_ROOM(slots), sizeof *scope->heap.entries);
    scope->heap.entries = entries != NULL ? entries + HEAP_OFFSET : NULL;
    lay_out_farthest(policy, scope, arena);
    if (policy->needs_aged)
        lay_out_aged(scope, arena);
    scope->queue.n_words = value_queue_words(scope->n_objects);
    scope->queue.words = piece(arena, policy->needs_queue,
                               (size_t)VALUE_BUCKETS * scope->queue.n_words, sizeof(uint64_t));
    scope->count = piece(arena, counts, objects, sizeof *scope->count);
    scope->last = piece(arena, counts, objects, sizeof *scope->last);
    scope->flag = piece(arena, policy->needs_flags, objects, sizeof *scope->flag);
    scope->list = piece(arena, policy->needs_flags, objects, sizeof *scope->list);
    scope->value = piece(arena, policy->needs_values, objects, sizeof *scope->value);
    scope->position = piece(arena, policy->needs_positions, objects + 1, sizeof *scope->position);
    scope->turn = piece(arena, policy->needs_turns, objects, sizeof *scope->turn);
    scope->nodes = piece(arena, nodes > 0, nodes, sizeof *scope->nodes);
    lay_out_places(policy, scope, arena);
    lay_out_rings(policy, scope, arena);
}

Status scopes_make(const EvictionPolicy *policy, Scope *scopes, uint32_t n, uint32_t widest)
{
    Arena arena = {0};
    for (uint32_t i = 0; i < n; i++)
        lay_out_scope(policy, &scopes[i], widest, &arena);
    TRY(arena_commit(&arena, "expert buffer"));
    for (uint32_t i = 0; i < n; i++) {
        lay_out_scope(policy, &scopes[i], widest, &arena);
        scopes[i].is_wide = wide_is_supported();
    }
    return OK;
}

void scopes_free(Scope *scopes)
{
    mem_free(scopes[0].resident); /* the first piece of the arena is the block */
}

static void reset_residency(Scope *scope)
{
    size_t objects = scope->n_objects;
    memset(scope->resident, 0, (objects + 1) * sizeof *scope->resident);
    memset(scope->mark, 0, objects * sizeof *scope->mark);
    for (uint32_t i = 0; i < scope->n_slots; i++) {
        scope->slot_object[i] = NOBODY;
        scope->free_slots[i] = scope->n_slots - 1 - i;
    }
    scope->n_free = scope->n_slots;
    scope->slot[objects] = scope->n_slots;
    memset(scope->loaded_at, 0, (objects + 1) * sizeof *scope->loaded_at);
    scope->n_residents = 0;
    scope->n_loaded = 0;
    scope->newest = NOBODY;
    scope->event = 0;
    scope->used = 0;
    scope->peak = 0;
}

static void reset_order(const EvictionPolicy *policy, Scope *scope)
{
    for (uint32_t i = 0; i < n_lists(policy, scope); i++) {
        uint32_t sentinel = scope->n_objects + i;
        scope->nodes[sentinel] = (ScopeNode){.newer = sentinel, .older = sentinel};
    }
    for (uint32_t i = 0; i < policy->n_rings; i++)
        scope->rings[i].tail = scope->rings[i].head = 0;
    for (uint32_t i = 0; policy->needs_positions && i <= scope->n_objects; i++)
        scope->position[i] = NOBODY;
}

static void reset_policy(const EvictionPolicy *policy, Scope *scope, uint64_t seed)
{
    size_t objects = scope->n_objects;
    reset_order(policy, scope);
    scope->random = seed;
    if (policy->needs_heap)
        heap_reset(&scope->heap, scope->n_slots);
    if (policy->needs_farthest)
        farthest_reset(&scope->farthest, scope->n_objects);
    if (policy->needs_aged)
        aged_reset(&scope->aged, scope->n_objects, scope->n_slots);
    if (policy->needs_queue)
        value_queue_reset(&scope->queue);
    scope->n_aside = 0;
    scope->n_newer = 0;
    scope->time = 0;
    memset(scope->length, 0, sizeof scope->length);
    scope->target = 0;
    scope->has_evicted = false;
    scope->step = 0;
    scope->inflation = 0;
    if (policy->needs_counts) {
        memset(scope->count, 0, objects * sizeof *scope->count);
        memset(scope->last, 0, objects * sizeof *scope->last);
    }
    if (policy->needs_flags) {
        memset(scope->flag, 0, objects * sizeof *scope->flag);
        memset(scope->list, 0, objects * sizeof *scope->list);
    }
    scope->turns = 0;
    if (policy->needs_turns)
        memset(scope->turn, 0, objects * sizeof *scope->turn);
    if (policy->needs_values)
        memset(scope->value, 0, objects * sizeof *scope->value);
}

void scope_reset(const EvictionPolicy *policy, Scope *scope, uint64_t seed)
{
    reset_residency(scope);
    reset_policy(policy, scope, seed);
}
