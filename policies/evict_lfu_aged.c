#include "policies/lfu.h"

/* Ages grow all the time, so objects have no order to keep. But for a whole number R, lookups over
 * age are at most 1/R from the time on that is the last lookup + lookups * R, less one: a lookup
 * puts it off, nothing else moves it. Whoever has come so far is due, and the victim is among them
 * where there are any. They are set aside; all others wait in the heap, by times that may be too
 * early. R goes up where many are due, and down where nobody is. */
enum { FEW_SLOTS = 64, MOST_DUE = 200, RATE_STEP = 64 };

static uint64_t due_at(const Scope *scope, uint32_t object)
{
    return scope->last[object] + scope->count[object] * scope->inflation;
}

static bool is_due(const Scope *scope, uint32_t object)
{
    return due_at(scope, object) <= (uint64_t)scope->time + 1;
}

static void wait_in_heap(Scope *scope, uint32_t object)
{
    heap_push(&scope->heap, object, due_at(scope, object));
}

static void change_rate(Scope *scope, uint64_t rate)
{
    uint32_t n_due = 0;
    for (uint32_t i = 0; i < scope->heap.size; i++)
        scope->aside[scope->n_aside++] = scope->heap.entries[i].object;
    scope->heap.size = 0;
    scope->inflation = rate;
    for (uint32_t i = 0; i < scope->n_aside; i++) {
        uint32_t object = scope->aside[i];
        if (is_due(scope, object))
            scope->aside[n_due++] = object;
        else
            wait_in_heap(scope, object);
    }
    scope->n_aside = n_due;
}

static void aged_hit(Scope *scope, uint32_t object)
{
    bool starts_again = scope->time == UINT32_MAX;
    lfu_hit(scope, object);
    if (starts_again)
        change_rate(scope, scope->inflation);
}

static void aged_admit(Scope *scope, uint32_t object)
{
    aged_hit(scope, object);
    if (scope->inflation == 0)
        scope->aside[scope->n_aside++] = object;
    else
        wait_in_heap(scope, object);
}

/* True when LEFT's lookups over age are fewer than RIGHT's; products of 32-bit numbers are exact.
 */
static bool is_less_used(const Scope *scope, uint32_t left, uint32_t right)
{
    uint64_t left_age = (uint64_t)scope->time - scope->last[left] + 1;
    uint64_t right_age = (uint64_t)scope->time - scope->last[right] + 1;
    uint64_t a = scope->count[left] * right_age;
    uint64_t b = scope->count[right] * left_age;
    return a != b ? a < b : left < right;
}

/* Brings what is set aside up to date: who was looked up since waits again. */
static void collect_due(Scope *scope)
{
    Heap *heap = &scope->heap;
    uint32_t n_due = 0;
    if (scope->inflation == 0)
        return; /* all are due */
    for (uint32_t i = 0; i < scope->n_aside; i++) {
        uint32_t object = scope->aside[i];
        if (is_due(scope, object))
            scope->aside[n_due++] = object;
        else
            wait_in_heap(scope, object);
    }
    scope->n_aside = n_due;
    while (heap->size > 0 && heap->entries[0].key <= (uint64_t)scope->time + 1) {
        uint32_t object = heap->entries[0].object;
        if (!is_due(scope, object)) {
            heap_enlarge_top(heap, due_at(scope, object));
            continue;
        }
        heap_pop(heap);
        scope->aside[scope->n_aside++] = object;
    }
}

/* The place of the least used of those that are due, or NOBODY. */
static uint32_t find_least(const Scope *scope, bool outside)
{
    uint32_t least = NOBODY;
    for (uint32_t i = 0; i < scope->n_aside; i++) {
        if (outside && scope_is_active(scope, scope->aside[i]))
            continue;
        if (least == NOBODY || is_less_used(scope, scope->aside[i], scope->aside[least]))
            least = i;
    }
    return least;
}

static uint32_t least_used(Scope *scope, bool outside)
{
    collect_due(scope);
    uint32_t least = find_least(scope, outside);
    while (least == NOBODY) {
        change_rate(scope, scope->inflation - scope->inflation / RATE_STEP - 1);
        least = find_least(scope, outside);
    }
    uint32_t object = scope->aside[least];
    scope->aside[least] = scope->aside[--scope->n_aside];
    if (scope->n_aside > MOST_DUE && scope->n_slots > FEW_SLOTS)
        change_rate(scope, scope->inflation + scope->inflation / RATE_STEP + 1);
    return object;
}

static uint32_t aged_victim(Scope *scope)
{
    return least_used(scope, false);
}

static uint32_t aged_victim_outside(Scope *scope)
{
    return least_used(scope, true);
}

static const EvictionRules RULES = {.hit = aged_hit,
                                    .admit = aged_admit,
                                    .victim = aged_victim,
                                    .victim_outside = aged_victim_outside};

DEFINE_EVENTS(lfu_aged, RULES)

/* Frequency over age: fewest lookups since the start of the trace, divided by the lookups of the
 * scope since its own last one (and that one); ties to the lower object. Engines for expert
 * offloading call it LFRU; among causal policies it did best in replays with all of an event's
 * lookups against its start. */
const EvictionPolicy EVICT_LFU_AGED = {
    .name = "lfu-aged", EVENTS(lfu_aged), .needs_counts = true, .needs_heap = true};
