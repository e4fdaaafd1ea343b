/* Counting lookups: what lfu and lfu-resident share. Inside policies/ only. */
#ifndef POLICIES_LFU_H
#define POLICIES_LFU_H

#include "policies/event_loop.h"

/* Objects by lookups, then by the time of the last one. */
static inline uint64_t lfu_key(const Scope *scope, uint32_t object)
{
    return (uint64_t)scope->count[object] << 32 | scope->last[object];
}

static inline uint32_t lfu_aged_time(uint32_t time)
{
    return time > UINT32_MAX / 2 ? time - UINT32_MAX / 2 : 0;
}

/* Times have 32 bits. When they run out, half of the range is subtracted from all: lookups further
 * back than two thousand million others then count as equally old. */
static inline void lfu_start_time_again(Scope *scope)
{
    for (uint32_t i = 0; i < scope->n_objects; i++)
        scope->last[i] = lfu_aged_time(scope->last[i]);
    for (uint32_t i = 0; i < scope->heap.size; i++) {
        HeapEntry *entry = &scope->heap.entries[i];
        entry->key = (entry->key & 0xFFFFFFFF00000000u) | lfu_aged_time((uint32_t)entry->key);
    }
    scope->time = lfu_aged_time(scope->time);
}

static inline void lfu_hit(Scope *scope, uint32_t object)
{
    if (scope->time == UINT32_MAX)
        lfu_start_time_again(scope);
    scope->last[object] = ++scope->time;
    scope->count[object] += scope->count[object] != UINT32_MAX;
}

static inline void lfu_look_up(Scope *scope, uint32_t object, bool hit)
{
    if (scope->time == UINT32_MAX && hit)
        lfu_start_time_again(scope);
    scope->time += hit;
    scope->last[object] = hit ? scope->time : scope->last[object];
    scope->count[object] += hit & (scope->count[object] != UINT32_MAX);
}

static inline void lfu_put(Scope *scope, uint32_t object)
{
    heap_fill(&scope->heap, object, lfu_key(scope, object));
}

/* While A is marked its members are no victims, and wait for the end of the event. */
static inline void lfu_admit(Scope *scope, uint32_t object)
{
    lfu_hit(scope, object);
    if (scope->marked)
        scope->aside[scope->n_aside++] = object;
    else
        lfu_put(scope, object);
}

/* Keys only grow while an object is resident, so a hit leaves the heap alone and the entries are
 * lower bounds; the top is set right until it is true. */
static inline uint32_t lfu_settle_top(Scope *scope)
{
    Heap *heap = &scope->heap;
    heap_close(heap);
    for (;;) {
        uint32_t object = heap->entries[0].object;
        uint64_t key = lfu_key(scope, object);
        if (heap->entries[0].key == key)
            return object;
        heap_enlarge_top(heap, key);
    }
}

static inline void lfu_end(Scope *scope)
{
    scope_put_back(scope, lfu_put);
}

static inline uint32_t lfu_take_top(Scope *scope)
{
    uint32_t object = lfu_settle_top(scope);
    heap_open(&scope->heap);
    return object;
}

static inline uint32_t lfu_victim(Scope *scope)
{
    lfu_end(scope);
    return lfu_take_top(scope);
}

static inline uint32_t lfu_victim_outside(Scope *scope)
{
    return scope_take_outside(scope, lfu_take_top);
}

#endif
