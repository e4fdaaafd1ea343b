#include "policies/wide.h"

#if defined(__x86_64__)
#include "policies/wide_recency.h"

/* Hits move to the new end, from which victims come that are not of A: those of A come back to
 * where the last of them was. */
WIDE_INLINE bool decide_batch(Scope *scope, ScopeEvent *counts, const BufferRun *run,
                              BufferSpan span)
{
    Ring *ring = &scope->rings[0];
    WideEvent event = wide_look_up(scope, run->experts + span.first, span.n, counts->first_object,
                                   scope->position);
    WideEnd end = wide_end(scope, ring, true, event.n);
    uint32_t others = end.live & ~wide_any(wide_own(ring, &end, &event));
    if (RARELY(wide_bits(others) < event.n_misses))
        return false;
    uint32_t victims = wide_lowest(others, event.n_misses);
    __m256i out = wide_end_pick(scope, &end, victims);
    __m256i in = wide_pick(scope, event.objects, event.misses);
    ring->head -= wide_end_free(&end, others & ~victims);
    wide_set_keys(scope->position, event.n_misses, out, NOBODY);
    wide_append(scope, ring, event.n, wide_hits_first(scope, &event, in));
    wide_exchange(scope, counts, &event, in, out);
    wide_write_hits(&event, run->hit != NULL ? run->hit + span.first : NULL);
    return true;
}

/* Of each run of misses the last takes the slot of the lookup before the run, who goes; those in
 * between come and go. There are at most four runs. BEFORE: the lookup before each lane. */
WIDE_INLINE void settle_runs(Scope *scope, ScopeEvent *counts, const WideEvent *event,
                             __m256i before)
{
    enum { RUNS = WIDE_LANES / 2 };
    _Alignas(32) uint32_t in[WIDE_LANES];
    _Alignas(32) uint32_t slot[WIDE_LANES];
    _Alignas(32) uint32_t loaded_at[WIDE_LANES];
    uint32_t starts = event->misses & ~(event->misses << 1);
    uint32_t ends = event->misses & ~(event->misses >> 1);
    uint32_t in_between = event->misses & event->misses << 1;
    uint32_t first = starts & (0 - starts);
    __m256i loaded = _mm256_add_epi32(wide_all(scope->n_loaded), wide_before(event->misses));
    __m256i loads = _mm256_sub_epi32(loaded, wide_gather(scope->loaded_at, before));
    __m256i leavers = wide_pick(scope, before, starts);
    wide_store(in, wide_pick(scope, event->objects, ends));
    wide_store(slot, wide_gather(scope->slot, leavers));
    wide_store(loaded_at, wide_pick(scope, _mm256_add_epi32(loaded, wide_all(1)), ends));
    counts->lookups += event->n;
    counts->hits += event->n - event->n_misses;
    counts->loads += event->n_misses;
    counts->evictions += event->n_misses;
    counts->evicted_young +=
        wide_bits(in_between | (_mm256_cmplt_epu32_mask(loads, wide_all(scope->young)) & starts));
    counts->evicted_newest +=
        wide_bits(in_between | (_mm256_cmpeq_epi32_mask(before, wide_all(scope->newest)) & first));
    for (uint32_t i = 0; i < RUNS; i++) {
        scope->slot[in[i]] = slot[i];
        scope->loaded_at[in[i]] = loaded_at[i];
    }
    scope->newest = ends != 0 ? in[wide_bits(ends) - 1] : scope->newest;
    scope->n_loaded += event->n_misses;
}

/* Whoever is not followed by a miss moves to the new end. */
WIDE_INLINE void move_stayers(Scope *scope, Ring *ring, const WideEvent *event)
{
    _Alignas(32) uint32_t of_a[WIDE_LANES];
    _Alignas(32) uint32_t position[WIDE_LANES];
    uint32_t stayers = ((1u << event->n) - 1) & ~(event->misses >> 1);
    __m256i places = _mm256_and_si256(wide_count(ring->head), wide_all(ring->mask));
    wide_store(of_a, event->objects);
    wide_store(position, _mm256_mask_expand_epi32(wide_all(NOBODY), (__mmask8)stayers, places));
    for (uint32_t i = 0; i < event->n; i++)
        scope->position[of_a[i]] = position[i];
    wide_write_newest(ring, wide_pick(scope, event->objects, stayers));
    ring->head += wide_bits(stayers);
}

/* A miss takes the slot of the lookup before it, the first that of the newest resident. */
WIDE_INLINE bool decide_serial(Scope *scope, ScopeEvent *counts, const BufferRun *run,
                               BufferSpan span)
{
    Ring *ring = &scope->rings[0];
    WideEvent event = wide_look_up(scope, run->experts + span.first, span.n, counts->first_object,
                                   scope->position);
    uint32_t newest = recency_newest(scope, ring);
    uint32_t goes = event.misses & 1;
    uint32_t is_newest = _mm256_cmpeq_epi32_mask(event.objects, wide_all(newest));
    uint32_t more = is_newest & event.hits & (0 - goes);
    event.misses |= more;
    event.hits &= ~more;
    event.n_misses = wide_bits(event.misses);
    settle_runs(scope, counts, &event,
                _mm256_mask_expand_epi32(wide_all(newest), 0xFE, event.objects));
    scope->position[goes ? newest : scope->n_objects] = NOBODY;
    ring->head -= goes;
    move_stayers(scope, ring, &event);
    wide_write_hits(&event, run->hit != NULL ? run->hit + span.first : NULL);
    return true;
}

WIDE_INLINE bool decide(Scope *scope, ScopeEvent *counts, const BufferRun *run, BufferSpan span,
                        bool serial)
{
    return serial ? decide_serial(scope, counts, run, span)
                  : decide_batch(scope, counts, run, span);
}

WIDE uint32_t wide_mru_serial(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from)
{
    return wide_recency_run(scope, events, run, from, true, decide);
}

WIDE uint32_t wide_mru_batch(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from)
{
    return wide_recency_run(scope, events, run, from, false, decide);
}

#else
WIDE_NONE(wide_mru_serial)
WIDE_NONE(wide_mru_batch)
#endif
