/* The ends of rings whose objects move when they are looked up (policies/recency.h), for wide runs.
 * Where an object has no place in the ring its position is NOBODY. */
#ifndef POLICIES_WIDE_RECENCY_H
#define POLICIES_WIDE_RECENCY_H

#include "policies/recency.h"
#include "policies/wide_lanes.h"

/* One end: entry and bit I are the I-th place from there. */
typedef struct {
    bool is_new;
    uint32_t from; /* position of entry 0 */
    uint32_t live; /* a bit for each that is not stale, as far as is known */
    uint32_t seen; /* so many places */
    __m512i objects;
    __m512i more; /* from WIDE_WINDOW on */
} WideEnd;

WIDE_INLINE uint32_t wide_look_at(const Scope *scope, const Ring *ring, const WideEnd *end,
                                  uint32_t passed, __m512i *objects)
{
    const __m512i mask = _mm512_set1_epi32((int)ring->mask);
    __m512i places = end->is_new ? _mm512_sub_epi32(_mm512_set1_epi32((int)(end->from - passed)),
                                                    wide_count_16(0))
                                 : wide_count_16(end->from + passed);
    uint32_t lowest = end->is_new ? end->from - passed + 1 - WIDE_WINDOW : end->from + passed;
    places = _mm512_and_si512(places, mask);
    lowest &= ring->mask;
    if (RARELY(lowest + WIDE_WINDOW > ring->mask)) {
        *objects = wide_gather_16(ring->objects, places);
    } else {
        *objects = _mm512_loadu_si512(ring->objects + lowest);
        if (end->is_new)
            *objects = _mm512_permutexvar_epi32(
                _mm512_sub_epi32(_mm512_set1_epi32(WIDE_WINDOW - 1), wide_count_16(0)), *objects);
    }
    return _mm512_cmpeq_epi32_mask(wide_gather_16(scope->position, *objects), places);
}

/* Looks for WANTED objects at an end, which may be in vain. */
WIDE_INLINE WideEnd wide_end(const Scope *scope, const Ring *ring, bool is_new, uint32_t wanted)
{
    WideEnd end = {.is_new = is_new,
                   .from = is_new ? ring->head - 1 : ring->tail,
                   .seen = WIDE_WINDOW,
                   .more = _mm512_setzero_si512()};
    end.live = wide_look_at(scope, ring, &end, 0, &end.objects);
    if (RARELY(wide_bits(end.live) < wanted)) {
        end.live |= wide_look_at(scope, ring, &end, WIDE_WINDOW, &end.more) << WIDE_WINDOW;
        end.seen = 2 * WIDE_WINDOW;
    }
    return end;
}

/* The bits of those of A that hit, a lane each. */
WIDE_INLINE __m256i wide_own(const Ring *ring, const WideEnd *end, const WideEvent *event)
{
    __m256i from = wide_all(end->from);
    __m256i passed =
        end->is_new ? _mm256_sub_epi32(from, event->keys) : _mm256_sub_epi32(event->keys, from);
    passed = _mm256_and_si256(passed, wide_all(ring->mask));
    return _mm256_maskz_sllv_epi32((__mmask8)event->hits, wide_all(1), passed);
}

/* Those whose bits are BITS, at most eight, from the end on, then nobody. */
WIDE_INLINE __m256i wide_end_pick(const Scope *scope, const WideEnd *end, uint32_t bits)
{
    _Alignas(32) uint32_t list[2 * WIDE_WINDOW];
    uint32_t low = bits & UINT16_MAX;
    __m256i out = wide_pick_16(scope, end->objects, low);
    if (!RARELY(bits != low))
        return out;
    wide_store(list, out);
    wide_store(list + wide_bits(low), wide_pick_16(scope, end->more, bits >> WIDE_WINDOW));
    return _mm256_loadu_si256((const __m256i *)(const void *)list);
}

/* How many places of the end are free when those of BITS are not. */
WIDE_INLINE uint32_t wide_end_free(const WideEnd *end, uint32_t bits)
{
    return bits != 0 ? (uint32_t)__builtin_ctz(bits) : end->seen;
}

/* Writes OBJECTS behind the newest, for which there is room. */
WIDE_INLINE void wide_write_newest(const Ring *ring, __m256i objects)
{
    _Alignas(32) uint32_t list[WIDE_LANES];
    uint32_t at = ring->head & ring->mask;
    if (!RARELY(at + WIDE_LANES > ring->mask)) {
        wide_store(ring->objects + at, objects);
        return;
    }
    wide_store(list, objects);
    for (uint32_t i = 0; i < WIDE_LANES; i++)
        ring->objects[(at + i) & ring->mask] = list[i];
}

/* The N first of OBJECTS, which are no longer where they were, become the newest in their order. */
WIDE_INLINE void wide_append(Scope *scope, Ring *ring, uint32_t n, __m256i objects)
{
    _Alignas(32) uint32_t moved[WIDE_LANES];
    wide_store(moved, objects);
    wide_write_newest(ring, objects);
    for (uint32_t i = 0; i < n; i++)
        scope->position[moved[i]] = (ring->head + i) & ring->mask;
    ring->head += n;
}

/* Those of the 16 places from AT on, a multiple of 16, that are not stale, among LANES, go behind
 * the N of LIST; returns how many there are then. */
WIDE_INLINE uint32_t wide_list_live(const Scope *scope, const Ring *ring, uint32_t at,
                                    uint32_t lanes, uint32_t *list, uint32_t n)
{
    const __m512i objects = _mm512_loadu_si512(ring->objects + at);
    const __m512i positions = wide_gather_16(scope->position, objects);
    uint32_t live = _mm512_mask_cmpeq_epi32_mask((__mmask16)lanes, positions, wide_count_16(at));
    _mm512_storeu_si512(list + n, _mm512_maskz_compress_epi32((__mmask16)live, objects));
    return n + wide_bits(live);
}

/* Drops the stale, as recency_clean(), in one go over all places. They are listed where a policy
 * has room for them and as many more, and 16 fit behind them: scopes have WIDE_SLOTS at least. */
WIDE_INLINE void wide_clean(Scope *scope, Ring *ring)
{
    uint32_t *list = scope->aside;
    uint32_t first = ring->tail % WIDE_WINDOW;
    uint32_t at = (ring->tail & ring->mask) - first;
    uint32_t n = wide_list_live(scope, ring, at, UINT16_MAX << first & UINT16_MAX, list, 0);
    for (uint32_t i = WIDE_WINDOW; i <= ring->mask; i += WIDE_WINDOW)
        n = wide_list_live(scope, ring, (at + i) & ring->mask, UINT16_MAX, list, n);
    n = wide_list_live(scope, ring, at, (1u << first) - 1, list, n);
    for (uint32_t i = 0; i < n; i++) {
        ring->objects[i] = list[i];
        scope->position[list[i]] = i;
    }
    ring->tail = 0;
    ring->head = n;
}

/* Decides one event, or, returning false, leaves it alone. */
typedef bool (*WideRecencyEvent)(Scope *scope, ScopeEvent *counts, const BufferRun *run,
                                 BufferSpan span, bool serial);

/* A wide run by DECIDE, which has room in the ring for all of A. */
WIDE_INLINE uint32_t wide_recency_run(Scope *scope, ScopeEvent *events, const BufferRun *run,
                                      uint32_t from, bool serial, WideRecencyEvent decide)
{
    Ring *ring = &scope->rings[0];
    for (; from < run->n_spans && wide_can(scope, run->spans[from]); from++) {
        BufferSpan span = run->spans[from];
        if (ring_size(ring) + WIDE_LANES > ring->mask)
            wide_clean(scope, ring);
        if (!decide(scope, &events[span.layer_index], run, span, serial))
            break;
    }
    return from;
}

#endif
