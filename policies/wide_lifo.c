#include "policies/wide.h"

#if defined(__x86_64__)
#include "policies/wide_lanes.h"

/* A bit for each of OBJECTS that is of A. */
WIDE_INLINE uint32_t of_a(const WideEvent *event, __m512i objects)
{
    _Alignas(32) uint32_t list[WIDE_LANES];
    uint32_t found = 0;
    wide_store(list, event->objects);
    for (uint32_t i = 0; i < WIDE_LANES; i++)
        found |= _mm512_cmpeq_epi32_mask(objects, _mm512_set1_epi32((int)list[i]));
    return found;
}

/* The N first lanes of OBJECTS from the last on, then nobody. */
WIDE_INLINE __m256i turn_round(const Scope *scope, uint32_t n, __m256i objects)
{
    __m256i lanes = _mm256_sub_epi32(wide_all(n - 1), wide_count(0));
    return _mm256_mask_permutexvar_epi32(wide_all(scope->n_objects), (__mmask8)((1u << n) - 1),
                                         lanes, objects);
}

/* The stack's top: as many go as miss, the newest first but those of A, who come to lie where the
 * first gap is, and the newcomers on them. Of 16 at most half are of A, so there are enough. */
WIDE_INLINE void decide(Scope *scope, ScopeEvent *counts, const BufferRun *run, BufferSpan span)
{
    Ring *ring = &scope->rings[0];
    uint32_t *top = ring->objects + (ring->head & ring->mask) - WIDE_WINDOW;
    WideEvent event = wide_look_up(scope, run->experts + span.first, span.n, counts->first_object,
                                   scope->position);
    __m512i objects = _mm512_loadu_si512(top);
    uint32_t active = of_a(&event, objects);
    uint32_t others = ~active & UINT16_MAX;
    uint32_t stay = wide_lowest(others, wide_bits(others) - event.n_misses);
    uint32_t victims = others & ~stay;
    uint32_t gap = victims != 0 ? (uint32_t)__builtin_ctz(victims) : WIDE_WINDOW;
    uint32_t above = active & ~((1u << gap) - 1);
    __m256i out = turn_round(scope, event.n_misses, wide_pick_16(scope, objects, victims));
    __m256i in = wide_pick(scope, event.objects, event.misses);
    wide_store(top + gap, wide_pick_16(scope, objects, above));
    wide_store(top + gap + wide_bits(above), in);
    wide_set_keys(scope->position, event.n_misses, out, NOBODY);
    wide_set_keys(scope->position, event.n_misses, in, 0);
    wide_exchange(scope, counts, &event, in, out);
    wide_write_hits(&event, run->hit != NULL ? run->hit + span.first : NULL);
}

WIDE uint32_t wide_lifo_batch(Scope *scope, ScopeEvent *events, const BufferRun *run, uint32_t from)
{
    for (; from < run->n_spans && wide_can(scope, run->spans[from]); from++)
        decide(scope, &events[run->spans[from].layer_index], run, run->spans[from]);
    return from;
}

#else
WIDE_NONE(wide_lifo_batch)
#endif
