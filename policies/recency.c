#include "policies/recency.h"

uint32_t recency_move_hits(const uint16_t *restrict experts, uint32_t n, uint32_t first,
                           const bool *restrict resident, uint32_t *restrict position,
                           uint32_t *restrict objects, uint32_t mask, uint32_t head,
                           uint16_t *restrict misses)
{
    uint32_t n_misses = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t expert = experts[i];
        uint32_t at = (head + i - n_misses) & mask;
        misses[n_misses] = (uint16_t)i;
        objects[at] = first + expert;
        position[expert] = at;
        n_misses += !resident[expert];
    }
    return n_misses;
}

void recency_append(const uint16_t *restrict experts, uint32_t n, uint32_t first,
                    uint32_t *restrict position, uint32_t *restrict objects, uint32_t mask,
                    uint32_t head)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = (head + i) & mask;
        objects[at] = first + experts[i];
        position[experts[i]] = at;
    }
}

uint32_t recency_append_all(const uint16_t *restrict experts, uint32_t n, uint32_t first,
                            const bool *restrict resident, uint32_t *restrict position,
                            const Ring *ring, uint16_t *restrict misses, uint32_t *restrict before,
                            uint32_t *nearest)
{
    uint32_t *restrict objects = ring->objects;
    uint32_t mask = ring->mask;
    uint32_t head = ring->head;
    uint32_t tail = ring->tail;
    uint32_t n_misses = 0;
    uint32_t least = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t expert = experts[i];
        uint32_t missed = !resident[expert];
        uint32_t place = position[expert];
        uint32_t at = (head + i) & mask;
        uint32_t age = ((place - tail) & mask) | -missed; /* of a miss the most there is */
        least = age < least ? age : least;
        before[i] = place;
        misses[n_misses] = (uint16_t)i;
        n_misses += missed;
        objects[at] = first + expert;
        position[expert] = at;
    }
    *nearest = least;
    return n_misses;
}

void recency_append_misses(const uint16_t *restrict experts, const uint16_t *restrict misses,
                           uint32_t n, uint32_t first, uint32_t *restrict position,
                           uint32_t *restrict objects, uint32_t mask, uint32_t head)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t expert = experts[misses[i]];
        uint32_t at = (head + i) & mask;
        objects[at] = first + expert;
        position[expert] = at;
    }
}

uint32_t recency_live(const uint32_t *restrict objects, const uint32_t *restrict position,
                      uint32_t mask, uint32_t at)
{
    uint32_t bits = 0;
    for (uint32_t i = 0; i < RECENCY_STRIDE; i++)
        bits |= (uint32_t)(position[objects[(at + i) & mask]] == ((at + i) & mask)) << i;
    return bits;
}
