#include "policies/lfu.h"

/* Ages grow all the time, so objects have no order to keep. But lookups over age are at most 1/R
 * from the time on that is the last lookup + lookups * R, less one: a lookup puts it off, nothing
 * else moves it. Whoever has come so far is due, and the victim is among them where there are any.
 * They are set aside; all others wait in the heap, by times that may be too early. R, in 2^-16,
 * goes up where many are due, and down to a little less than the least used has where nobody is. */
enum { FEW_DUE = 6, SLOTS_A_DUE = 48, RATE_STEP = 32, RATE_BITS = 16 };

static uint64_t due_at(const Scope *scope, uint32_t object)
{
    uint64_t count = scope->count[object];
    uint64_t low = count * (scope->inflation & 0xFFFF) + 0xFFFF; /* rounded up */
    return scope->last[object] + count * (scope->inflation >> RATE_BITS) + (low >> RATE_BITS);
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
    heap_reset(&scope->heap, scope->heap.size);
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

/* R for which the least used of those that wait, and those near it, are due; lower than now. */
static uint64_t rate_of_waiting(const Scope *scope)
{
    uint32_t least = NOBODY;
    for (uint32_t i = 0; i < scope->heap.size; i++) {
        uint32_t object = scope->heap.entries[i].object;
        if (least == NOBODY || is_less_used(scope, object, least))
            least = object;
    }
    uint64_t rate = scope->inflation - 1;
    if (least != NOBODY) {
        uint64_t age = (uint64_t)scope->time - scope->last[least] + 1;
        uint64_t own = (age << RATE_BITS) / scope->count[least];
        rate = own < rate ? own : rate;
    }
    return rate - rate / RATE_STEP;
}

/* Set right so that R stays below 2^48 and products of it below 2^64. */
static uint64_t higher_rate(uint64_t rate)
{
    uint64_t most = UINT64_C(1) << (32 + RATE_BITS - 1);
    uint64_t higher = rate + rate / RATE_STEP + 1;
    return higher < most ? higher : most;
}

static uint32_t least_used(Scope *scope, bool outside)
{
    collect_due(scope);
    uint32_t least = find_least(scope, outside);
    while (least == NOBODY) {
        change_rate(scope, rate_of_waiting(scope));
        least = find_least(scope, outside);
    }
    uint32_t object = scope->aside[least];
    scope->aside[least] = scope->aside[--scope->n_aside];
    if (scope->n_aside > FEW_DUE + scope->n_slots / SLOTS_A_DUE)
        change_rate(scope, higher_rate(scope->inflation));
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
