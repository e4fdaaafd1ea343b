#include "policies/event_loop.h"

/* Values in 1/256 of a lookup per byte of the smallest expert, above 26 bits for the object: ties
 * go to the lower one. */
enum { OBJECT_BITS = 26, FRACTION_BITS = 8 };

static uint64_t smallest_weight(const Scope *scope)
{
    uint64_t smallest = 1;
    for (uint32_t i = 0; scope->layer_weight != NULL && i < scope->n_layers; i++)
        if (i == 0 || scope->layer_weight[i] < smallest)
            smallest = scope->layer_weight[i];
    return smallest;
}

/* What OBJECT is worth after COUNT lookups. */
ALWAYS_INLINE uint64_t value_of(const Scope *scope, uint32_t object, uint64_t count)
{
    uint64_t weight = scope_weight(scope, object);
    uint64_t gain = scope->layer_weight == NULL
                        ? UINT64_C(1) << FRACTION_BITS
                        : (smallest_weight(scope) << FRACTION_BITS) / weight;
    return (scope->inflation + count * gain) << OBJECT_BITS | object;
}

static void look_up(Scope *scope, uint32_t object)
{
    scope->count[object]++;
    scope->value[object] = value_of(scope, object, scope->count[object]);
}

/* The same, or nothing, without a branch. */
static void cost_look_up(Scope *scope, uint32_t object, bool hit)
{
    uint32_t count = scope->count[object] + hit;
    uint64_t before = scope->value[object];
    uint64_t after = value_of(scope, object, count);
    scope->count[object] = count;
    uint64_t counts = -(uint64_t)hit; /* all ones, or none: compilers branch on choices */
    scope->value[object] = (after & counts) | (before & ~counts);
}

static void cost_hit(Scope *scope, uint32_t object)
{
    look_up(scope, object);
}

static void cost_admit(Scope *scope, uint32_t object)
{
    scope->count[object] = 0;
    look_up(scope, object);
    if (scope->marked) /* no victim in this event */
        scope->aside[scope->n_aside++] = object;
    else
        heap_push(&scope->heap, object, scope->value[object]);
}

/* As in lfu: values only grow while an object is resident, so entries are lower bounds. */
static uint32_t settle_top(Scope *scope)
{
    Heap *heap = &scope->heap;
    while (heap->entries[0].key != scope->value[heap->entries[0].object])
        heap_enlarge_top(heap, scope->value[heap->entries[0].object]);
    return heap->entries[0].object;
}

static uint32_t take_top(Scope *scope)
{
    uint32_t object = settle_top(scope);
    heap_pop(&scope->heap);
    return object;
}

static void cost_end(Scope *scope)
{
    while (scope->n_aside > 0) {
        uint32_t object = scope->aside[--scope->n_aside];
        heap_push(&scope->heap, object, scope->value[object]);
    }
}

static uint32_t leave(Scope *scope, uint32_t object)
{
    uint64_t value = scope->value[object] >> OBJECT_BITS;
    scope->inflation = value > scope->inflation ? value : scope->inflation;
    return object;
}

static uint32_t cost_victim(Scope *scope)
{
    cost_end(scope);
    return leave(scope, take_top(scope));
}

static uint32_t cost_victim_outside(Scope *scope)
{
    for (;;) {
        uint32_t object = take_top(scope);
        if (!scope_is_active(scope, object))
            return leave(scope, object);
        scope->aside[scope->n_aside++] = object;
    }
}

static const EvictionRules RULES = {.hit = cost_hit,
                                    .look_up = cost_look_up,
                                    .admit = cost_admit,
                                    .victim = cost_victim,
                                    .victim_outside = cost_victim_outside,
                                    .end = cost_end};

DEFINE_EVENTS(cost, RULES)

/* GreedyDual-Size-Frequency with one cost for every miss. Cherkasova 1998 (HP Labs): the least of
 * inflation + lookups since it was loaded / size goes, and its value becomes the inflation. Where
 * experts weigh the same it is LFU with dynamic aging. */
const EvictionPolicy EVICT_COST_AWARE = {.name = "cost-aware",
                                         EVENTS(cost),
                                         .needs_heap = true,
                                         .needs_counts = true,
                                         .needs_values = true};
