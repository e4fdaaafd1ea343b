/* Policies that count lookups, over a plain stream of items: every victim is found by a scan over
 * all items. */
#ifndef TESTS_REFERENCE_COUNTS_H
#define TESTS_REFERENCE_COUNTS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct {
    bool resident;
    uint64_t count;  /* lookups so far */
    uint64_t loaded; /* lookups since it was loaded, and that one */
    uint64_t last;   /* time of the last lookup, from 1 */
    uint64_t value;  /* cost-aware */
} CountedItem;

typedef struct {
    CountedItem *items; /* [n_items] */
    uint32_t n_items;
    uint32_t capacity;
    uint32_t n_residents;
    uint64_t now; /* lookups so far */
    uint64_t inflation;
} CountedCache;

/* Whether LEFT, the lower of the two, goes before RIGHT or neither does. */
typedef bool (*CountedGoesFirst)(const CountedCache *cache, const CountedItem *left,
                                 const CountedItem *right);

static inline bool counted_lfu(const CountedCache *cache, const CountedItem *left,
                               const CountedItem *right)
{
    (void)cache;
    return left->count != right->count ? left->count < right->count : left->last <= right->last;
}

static inline bool counted_lfu_resident(const CountedCache *cache, const CountedItem *left,
                                        const CountedItem *right)
{
    (void)cache;
    return left->loaded != right->loaded ? left->loaded < right->loaded : left->last <= right->last;
}

static inline bool counted_lfu_aged(const CountedCache *cache, const CountedItem *left,
                                    const CountedItem *right)
{
    uint64_t left_age = cache->now - left->last + 1;
    uint64_t right_age = cache->now - right->last + 1;
    return left->count * right_age <= right->count * left_age;
}

static inline bool counted_cost_aware(const CountedCache *cache, const CountedItem *left,
                                      const CountedItem *right)
{
    (void)cache;
    return left->value <= right->value;
}

static inline void counted_evict(CountedCache *cache, CountedGoesFirst goes_first)
{
    CountedItem *victim = NULL;
    for (uint32_t i = 0; i < cache->n_items; i++)
        if (cache->items[i].resident &&
            (victim == NULL || !goes_first(cache, victim, &cache->items[i])))
            victim = &cache->items[i];
    victim->resident = false;
    victim->loaded = 0;
    cache->inflation = victim->value;
    cache->n_residents--;
}

/* Returns whether ITEM was found. */
static inline bool counted_look_up(CountedCache *cache, uint32_t item, CountedGoesFirst goes_first)
{
    CountedItem *of = &cache->items[item];
    bool hit = of->resident;
    if (!hit && cache->n_residents == cache->capacity)
        counted_evict(cache, goes_first);
    cache->n_residents += !hit;
    of->resident = true;
    of->count++;
    of->loaded++;
    of->last = ++cache->now;
    of->value = cache->inflation + of->loaded;
    return hit;
}

#endif
