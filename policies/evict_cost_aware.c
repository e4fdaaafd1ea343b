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

/* Whole lookups; where all weigh the same there are no others, and the smallest have buckets. */
static uint64_t whole(uint64_t value)
{
    return value >> (OBJECT_BITS + FRACTION_BITS);
}

static uint64_t base_of(const Scope *scope)
{
    return scope->inflation >> FRACTION_BITS;
}

/* Puts OBJECT where its value belongs. As in lfu: values only grow while an object is resident, so
 * what stands there is a lower bound. */
static void wait_for_turn(Scope *scope, uint32_t object)
{
    uint64_t value = scope->value[object];
    if (scope->layer_weight == NULL && value_queue_has(base_of(scope), whole(value)))
        value_queue_put(&scope->queue, whole(value), object);
    else
        heap_fill(&scope->heap, object, value);
}

static void cost_admit(Scope *scope, uint32_t object)
{
    scope->count[object] = 0;
    look_up(scope, object);
    if (scope->marked) /* no victim in this event */
        scope->aside[scope->n_aside++] = object;
    else
        wait_for_turn(scope, object);
}

/* Whether the least of the buckets comes before the top of the heap: then it is *OBJECT, under
 * *VALUE. */
static bool comes_first(Scope *scope, uint32_t *object, uint64_t *value)
{
    Heap *heap = &scope->heap;
    heap_close(heap);
    if (scope->queue.in_use == 0)
        return false;
    *value = value_queue_least(&scope->queue, base_of(scope));
    if (heap->size > 0 && whole(heap->entries[0].key) < *value)
        return false;
    *object = value_queue_first(&scope->queue, *value);
    uint64_t key = *value << (OBJECT_BITS + FRACTION_BITS) | *object;
    return heap->size == 0 || key < heap->entries[0].key;
}

static uint32_t take_least(Scope *scope)
{
    for (;;) {
        uint32_t object;
        uint64_t value;
        bool is_right;
        if (comes_first(scope, &object, &value)) {
            value_queue_take(&scope->queue, value, object);
            is_right = whole(scope->value[object]) == value;
        } else {
            object = scope->heap.entries[0].object;
            is_right = scope->heap.entries[0].key == scope->value[object];
            heap_open(&scope->heap);
        }
        if (is_right)
            return object;
        wait_for_turn(scope, object);
    }
}

static void cost_end(Scope *scope)
{
    scope_put_back(scope, wait_for_turn);
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
    return leave(scope, take_least(scope));
}

static uint32_t cost_victim_outside(Scope *scope)
{
    return leave(scope, scope_take_outside(scope, take_least));
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
                                         .needs_queue = true,
                                         .needs_counts = true,
                                         .needs_values = true};
