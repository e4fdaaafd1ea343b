#include "policies/recency.h"
#include "policies/wide.h"

#if defined(__x86_64__)
#include "policies/wide_lanes.h"

/* The old end of the ring: a bit for each of 32 places that is not stale, as far as is known. */
typedef struct {
    uint32_t live;
    uint32_t seen; /* so many places */
    __m512i objects;
    __m512i more; /* of the upper half */
} OldEnd;

WIDE_INLINE uint32_t look_at(const Scope *scope, const Ring *ring, uint32_t from, __m512i *objects)
{
    uint32_t at = from & ring->mask;
    __m512i places = wide_count_16(at);
    if (RARELY(at + WIDE_WINDOW > ring->mask)) {
        places = _mm512_and_si512(places, _mm512_set1_epi32((int)ring->mask));
        *objects = wide_gather_16(ring->objects, places);
    } else {
        *objects = _mm512_loadu_si512(ring->objects + at);
    }
    return _mm512_cmpeq_epi32_mask(wide_gather_16(scope->position, *objects), places);
}

WIDE_INLINE OldEnd look_at_old_end(const Scope *scope, const Ring *ring, uint32_t wanted)
{
    OldEnd end = {.seen = WIDE_WINDOW, .more = _mm512_setzero_si512()};
    end.live = look_at(scope, ring, ring->tail, &end.objects);
    if (RARELY(wide_bits(end.live) < wanted)) {
        end.live |= look_at(scope, ring, ring->tail + WIDE_WINDOW, &end.more) << WIDE_WINDOW;
        end.seen = 2 * WIDE_WINDOW;
    }
    return end;
}

WIDE_INLINE __m256i pick(const Scope *scope, const OldEnd *end, uint32_t victims)
{
    uint32_t list[2 * WIDE_WINDOW];
    uint32_t low = victims & UINT16_MAX;
    __m256i out = wide_pick_16(scope, end->objects, low);
    if (!RARELY(victims != low))
        return out;
    wide_store(list, out);
    wide_store(list + wide_bits(low), wide_pick_16(scope, end->more, victims >> WIDE_WINDOW));
    return _mm256_loadu_si256((const __m256i *)(const void *)list);
}

/* Takes those of A that hit out of END. False when one of them would go before its turn: when more
 * misses come before it than others are older. */
WIDE_INLINE bool take_hits_out(const Ring *ring, const WideEvent *event, bool serial, OldEnd *end)
{
    __m256i ages =
        _mm256_and_si256(_mm256_sub_epi32(event->keys, wide_all(ring->tail)), wide_all(ring->mask));
    __m256i own = _mm256_maskz_sllv_epi32((__mmask8)event->hits, wide_all(1), ages);
    end->live &= ~wide_any(own);
    if (!serial)
        return true;
    __m256i older = _mm256_popcnt_epi32(
        _mm256_and_si256(wide_all(end->live), _mm256_sub_epi32(own, wide_all(1))));
    return (_mm256_cmpgt_epi32_mask(wide_before(event->misses), older) & event->hits) == 0;
}

/* OBJECTS become the newest in their order. */
WIDE_INLINE void move(Scope *scope, Ring *ring, uint32_t n, __m256i objects)
{
    uint32_t moved[WIDE_LANES];
    wide_store(moved, objects);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = (ring->head + i) & ring->mask;
        ring->objects[at] = moved[i];
        scope->position[moved[i]] = at;
    }
    ring->head += n;
}

/* Under order batch all is as if the hits were looked up first. */
WIDE_INLINE bool decide(Scope *scope, ScopeEvent *counts, const BufferRun *run, BufferSpan span,
                        bool serial)
{
    Ring *ring = &scope->rings[0];
    WideEvent event = wide_look_up(scope, run->experts + span.first, span.n, counts->first_object,
                                   scope->position);
    OldEnd end = look_at_old_end(scope, ring, event.n_misses);
    if (RARELY(!take_hits_out(ring, &event, serial, &end)) ||
        RARELY(wide_bits(end.live) < event.n_misses))
        return false;
    uint32_t victims = wide_lowest(end.live, event.n_misses);
    __m256i out = pick(scope, &end, victims);
    __m256i in = wide_pick(scope, event.objects, event.misses);
    uint32_t left = end.live & ~victims;
    ring->tail += left != 0 ? (uint32_t)__builtin_ctz(left) : end.seen;
    wide_forget(scope->position, event.n_misses, out);
    move(scope, ring, event.n, serial ? event.objects : wide_hits_first(scope, &event, in));
    wide_exchange(scope, counts, &event, in, out);
    wide_write_hits(&event, run->hit != NULL ? run->hit + span.first : NULL);
    return true;
}

WIDE_INLINE uint32_t decide_run(Scope *scope, ScopeEvent *events, const BufferRun *run,
                                uint32_t from, bool serial)
{
    Ring *ring = &scope->rings[0];
    for (; from < run->n_spans && wide_can(scope, run->spans[from]); from++) {
        BufferSpan span = run->spans[from];
        if (ring_size(ring) + span.n > ring->mask)
            recency_clean(scope, ring, 0);
        if (!decide(scope, &events[span.layer_index], run, span, serial))
            break;
    }
    return from;
}

WIDE uint32_t wide_lru_serial(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from)
{
    return decide_run(scope, events, run, from, true);
}

WIDE uint32_t wide_lru_batch(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from)
{
    return decide_run(scope, events, run, from, false);
}

#else
WIDE_NONE(wide_lru_serial)
WIDE_NONE(wide_lru_batch)
#endif
