/* FIFO, LRU, MRU, CLOCK, SIEVE, Belady, ARC and S3-FIFO over a plain stream of items, as a general
 * cache simulator runs them: libCacheSim is the one that users know. Written from what it decides,
 * in our own words; every choice is a scan over all items. */
#ifndef TESTS_REFERENCE_FLAT_H
#define TESTS_REFERENCE_FLAT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

typedef enum { FLAT_OUT, FLAT_FIRST, FLAT_SECOND, FLAT_GHOST_FIRST, FLAT_GHOST_SECOND } FlatList;

enum { FLAT_LISTS = 5, FLAT_NOBODY = -1 };

/* An item is in one list, in the order of the times when it was put there. */
typedef struct {
    uint32_t n_items;
    uint32_t capacity;
    uint8_t *list;     /* [n_items] FlatList */
    uint64_t *put_at;  /* [n_items] */
    uint32_t *lookups; /* [n_items] S3-FIFO: since it was admitted or moved */
    uint32_t size[FLAT_LISTS];
    uint64_t now;
    uint64_t hand;      /* SIEVE: who was put earlier has been passed */
    uint64_t *next_use; /* Belady: [n_items] place of the next lookup, UINT64_MAX if none is left */
    double target;      /* ARC */
    bool has_evicted;
} FlatCache;

static inline FlatCache flat_cache(uint32_t n_items, uint32_t capacity)
{
    return (FlatCache){.n_items = n_items,
                       .capacity = capacity,
                       .list = calloc(n_items, sizeof(uint8_t)),
                       .put_at = calloc(n_items, sizeof(uint64_t)),
                       .lookups = calloc(n_items, sizeof(uint32_t)),
                       .next_use = calloc(n_items, sizeof(uint64_t))};
}

static inline void flat_free(FlatCache *cache)
{
    free(cache->list);
    free(cache->put_at);
    free(cache->lookups);
    free(cache->next_use);
}

static inline void flat_put(FlatCache *cache, uint32_t item, FlatList list)
{
    cache->size[cache->list[item]]--;
    cache->size[list]++;
    cache->list[item] = (uint8_t)list;
    cache->put_at[item] = ++cache->now;
}

static inline int64_t flat_oldest(const FlatCache *cache, FlatList list)
{
    int64_t oldest = FLAT_NOBODY;
    for (uint32_t i = 0; i < cache->n_items; i++)
        if (cache->list[i] == list &&
            (oldest == FLAT_NOBODY || cache->put_at[i] < cache->put_at[oldest]))
            oldest = i;
    return oldest;
}

static inline void flat_move_oldest(FlatCache *cache, FlatList from, FlatList to)
{
    flat_put(cache, (uint32_t)flat_oldest(cache, from), to);
}

static inline bool flat_is_full(const FlatCache *cache)
{
    return cache->size[FLAT_FIRST] + cache->size[FLAT_SECOND] >= cache->capacity;
}

static inline bool flat_is_in(const FlatCache *cache, uint32_t item)
{
    return cache->list[item] == FLAT_FIRST;
}

/* Of the items put at FROM or later the one put first, FLAT_NOBODY if there is none. */
static inline int64_t flat_first_from(const FlatCache *cache, uint64_t from)
{
    int64_t first = FLAT_NOBODY;
    for (uint32_t i = 0; i < cache->n_items; i++)
        if (flat_is_in(cache, i) && cache->put_at[i] >= from &&
            (first == FLAT_NOBODY || cache->put_at[i] < cache->put_at[first]))
            first = i;
    return first;
}

static inline bool flat_fifo_look_up(FlatCache *cache, uint32_t item)
{
    if (flat_is_in(cache, item))
        return true;
    if (flat_is_full(cache))
        flat_move_oldest(cache, FLAT_FIRST, FLAT_OUT);
    flat_put(cache, item, FLAT_FIRST);
    return false;
}

static inline bool flat_lru_look_up(FlatCache *cache, uint32_t item)
{
    bool hit = flat_fifo_look_up(cache, item);
    flat_put(cache, item, FLAT_FIRST);
    return hit;
}

static inline bool flat_mru_look_up(FlatCache *cache, uint32_t item)
{
    bool hit = flat_is_in(cache, item);
    uint32_t newest = 0;
    for (uint32_t i = 0; i < cache->n_items; i++)
        if (flat_is_in(cache, i) &&
            (!flat_is_in(cache, newest) || cache->put_at[i] > cache->put_at[newest]))
            newest = i;
    if (!hit && flat_is_full(cache))
        flat_put(cache, newest, FLAT_OUT);
    flat_put(cache, item, FLAT_FIRST);
    return hit;
}

/* Second chance: a queue whose oldest goes back to its end once if it was looked up. */
static inline bool flat_clock_look_up(FlatCache *cache, uint32_t item)
{
    if (flat_is_in(cache, item)) {
        cache->lookups[item] = 1;
        return true;
    }
    while (flat_is_full(cache)) {
        uint32_t oldest = (uint32_t)flat_oldest(cache, FLAT_FIRST);
        flat_put(cache, oldest, cache->lookups[oldest] ? FLAT_FIRST : FLAT_OUT);
        cache->lookups[oldest] = 0;
    }
    flat_put(cache, item, FLAT_FIRST);
    return false;
}

/* The hand stays where the victim was; whoever comes in while it is beyond the newest is not next.
 */
static inline bool flat_sieve_look_up(FlatCache *cache, uint32_t item)
{
    if (flat_is_in(cache, item)) {
        cache->lookups[item] = 1;
        return true;
    }
    while (flat_is_full(cache)) {
        int64_t at_hand = flat_first_from(cache, cache->hand);
        if (at_hand == FLAT_NOBODY)
            at_hand = flat_first_from(cache, 0);
        cache->hand = cache->put_at[at_hand] + 1;
        if (!cache->lookups[at_hand])
            flat_put(cache, (uint32_t)at_hand, FLAT_OUT);
        cache->lookups[at_hand] = 0;
        if (flat_first_from(cache, cache->hand) == FLAT_NOBODY)
            cache->hand = 0;
    }
    flat_put(cache, item, FLAT_FIRST);
    return false;
}

/* NEXT_USE is kept by the caller. Whoever is looked up comes in, even if it is not needed again. */
static inline bool flat_belady_look_up(FlatCache *cache, uint32_t item)
{
    bool hit = flat_is_in(cache, item);
    int64_t latest = FLAT_NOBODY;
    for (uint32_t i = 0; i < cache->n_items; i++)
        if (flat_is_in(cache, i) &&
            (latest == FLAT_NOBODY || cache->next_use[i] > cache->next_use[latest]))
            latest = i;
    if (!hit && flat_is_full(cache))
        flat_put(cache, (uint32_t)latest, FLAT_OUT);
    if (!hit)
        flat_put(cache, item, FLAT_FIRST);
    return hit;
}

static inline void flat_arc_replace(FlatCache *cache, bool was_second_ghost)
{
    double first = cache->size[FLAT_FIRST];
    bool from_first =
        first > 0 && (first > cache->target || (first == cache->target && was_second_ghost));
    if (from_first || cache->size[FLAT_SECOND] == 0)
        flat_move_oldest(cache, FLAT_FIRST, FLAT_GHOST_FIRST);
    else
        flat_move_oldest(cache, FLAT_SECOND, FLAT_GHOST_SECOND);
}

/* Of an item that no list has. */
static inline void flat_arc_make_room(FlatCache *cache)
{
    uint32_t first = cache->size[FLAT_FIRST] + cache->size[FLAT_GHOST_FIRST];
    uint32_t second = cache->size[FLAT_SECOND] + cache->size[FLAT_GHOST_SECOND];
    if (first >= cache->capacity && cache->size[FLAT_GHOST_FIRST] == 0) {
        flat_move_oldest(cache, FLAT_FIRST, FLAT_OUT);
        return;
    }
    if (first >= cache->capacity)
        flat_move_oldest(cache, FLAT_GHOST_FIRST, FLAT_OUT);
    else if (first + second >= 2 * cache->capacity && cache->size[FLAT_GHOST_SECOND] > 0)
        flat_move_oldest(cache, FLAT_GHOST_SECOND, FLAT_OUT);
    flat_arc_replace(cache, false);
}

static inline double flat_step(uint32_t other, uint32_t own)
{
    double ratio = (double)other / own;
    return ratio > 1 ? ratio : 1;
}

/* Returns whether ITEM was found. */
static inline bool flat_arc_look_up(FlatCache *cache, uint32_t item)
{
    FlatList was = (FlatList)cache->list[item];
    uint32_t first = cache->size[FLAT_GHOST_FIRST];
    uint32_t second = cache->size[FLAT_GHOST_SECOND];
    bool hit = was == FLAT_FIRST || was == FLAT_SECOND;
    bool is_full = flat_is_full(cache);
    if (was == FLAT_GHOST_FIRST)
        cache->target += flat_step(second, first);
    if (was == FLAT_GHOST_SECOND)
        cache->target -= flat_step(first, second);
    if (cache->target > cache->capacity)
        cache->target = cache->capacity;
    if (cache->target < 0)
        cache->target = 0;
    if (!hit && was != FLAT_OUT)
        flat_put(cache, item, FLAT_OUT);
    if (!hit && is_full && was == FLAT_OUT)
        flat_arc_make_room(cache);
    else if (!hit && is_full)
        flat_arc_replace(cache, was == FLAT_GHOST_SECOND);
    flat_put(cache, item, was == FLAT_OUT ? FLAT_FIRST : FLAT_SECOND);
    return hit;
}

/* S3-FIFO: the small queue is FLAT_FIRST, the main one FLAT_SECOND. */

static inline void flat_s3_remember(FlatCache *cache, uint32_t item)
{
    uint32_t most = (uint32_t)(cache->capacity * 0.9);
    while (cache->size[FLAT_GHOST_FIRST] >= most)
        flat_move_oldest(cache, FLAT_GHOST_FIRST, FLAT_OUT);
    flat_put(cache, item, FLAT_GHOST_FIRST);
}

static inline void flat_s3_evict_main(FlatCache *cache)
{
    for (;;) {
        uint32_t item = (uint32_t)flat_oldest(cache, FLAT_SECOND);
        if (cache->lookups[item] == 0) {
            flat_put(cache, item, FLAT_OUT);
            return;
        }
        cache->lookups[item] = (cache->lookups[item] < 3 ? cache->lookups[item] : 3) - 1;
        flat_put(cache, item, FLAT_SECOND);
    }
}

static inline void flat_s3_evict_small(FlatCache *cache)
{
    while (cache->size[FLAT_FIRST] > 0) {
        uint32_t item = (uint32_t)flat_oldest(cache, FLAT_FIRST);
        if (cache->lookups[item] < 2) {
            flat_s3_remember(cache, item);
            return;
        }
        cache->lookups[item] = 0;
        flat_put(cache, item, FLAT_SECOND);
    }
}

static inline bool flat_s3_look_up(FlatCache *cache, uint32_t item)
{
    FlatList was = (FlatList)cache->list[item];
    uint32_t small = (uint32_t)(cache->capacity * 0.1);
    if (was == FLAT_FIRST || was == FLAT_SECOND) {
        cache->lookups[item]++;
        return true;
    }
    if (was == FLAT_GHOST_FIRST)
        flat_put(cache, item, FLAT_OUT);
    while (flat_is_full(cache)) {
        cache->has_evicted = true;
        if (cache->size[FLAT_SECOND] > cache->capacity - small || cache->size[FLAT_FIRST] == 0)
            flat_s3_evict_main(cache);
        else
            flat_s3_evict_small(cache);
    }
    bool passes =
        was == FLAT_GHOST_FIRST || (!cache->has_evicted && cache->size[FLAT_FIRST] >= small);
    cache->lookups[item] = 0;
    flat_put(cache, item, passes ? FLAT_SECOND : FLAT_FIRST);
    return false;
}

#endif
