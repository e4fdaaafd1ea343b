#include "policies/wide.h"

#if defined(__x86_64__)
#include "policies/wide_recency.h"

/* True when one of A that hits, by its bit in OWN, would go before its turn: when more misses come
 * before it than others, by their bits OTHERS, are older. */
WIDE_INLINE bool goes_before_its_turn(const WideEvent *event, __m256i own, uint32_t others)
{
    __m256i older = _mm256_and_si256(wide_all(others), _mm256_sub_epi32(own, wide_all(1)));
    __m256i misses = wide_before(event->misses);
    return (_mm256_cmpgt_epi32_mask(misses, _mm256_popcnt_epi32(older)) & event->hits) != 0;
}

/* All of A hit: nobody goes, and the old end is not looked at. */
WIDE_INLINE void touch_all(Scope *scope, Ring *ring, ScopeEvent *counts, const WideEvent *event)
{
    wide_append(scope, ring, event->n, event->objects);
    counts->lookups += event->n;
    counts->hits += event->n;
}

/* Under order batch all is as if the hits were looked up first. */
WIDE_INLINE bool decide(Scope *scope, ScopeEvent *counts, const BufferRun *run, BufferSpan span,
                        bool serial)
{
    Ring *ring = &scope->rings[0];
    WideEvent event = wide_look_up(scope, run->experts + span.first, span.n, counts->first_object,
                                   scope->position);
    if (event.n_misses == 0) {
        touch_all(scope, ring, counts, &event);
        wide_write_hits(&event, run->hit != NULL ? run->hit + span.first : NULL);
        return true;
    }
    WideEnd end = wide_end(scope, ring, false, event.n_misses);
    __m256i own = wide_own(ring, &end, &event);
    uint32_t others = end.live & ~wide_any(own);
    if (RARELY(serial && goes_before_its_turn(&event, own, others)) ||
        RARELY(wide_bits(others) < event.n_misses))
        return false;
    uint32_t victims = wide_lowest(others, event.n_misses);
    __m256i out = wide_end_pick(scope, &end, victims);
    __m256i in = wide_pick(scope, event.objects, event.misses);
    ring->tail += wide_end_free(&end, others & ~victims);
    wide_set_keys(scope->position, event.n_misses, out, NOBODY);
    wide_append(scope, ring, event.n, serial ? event.objects : wide_hits_first(scope, &event, in));
    wide_exchange(scope, counts, &event, in, out);
    wide_write_hits(&event, run->hit != NULL ? run->hit + span.first : NULL);
    return true;
}

WIDE uint32_t wide_lru_serial(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from)
{
    return wide_recency_run(scope, events, run, from, true, decide);
}

WIDE uint32_t wide_lru_batch(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from)
{
    return wide_recency_run(scope, events, run, from, false, decide);
}

#else
WIDE_NONE(wide_lru_serial)
WIDE_NONE(wide_lru_batch)
#endif
