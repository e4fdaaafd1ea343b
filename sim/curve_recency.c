#include "sim/curve_recency.h"

#include "base/numbers.h"

enum { WORD_BITS = 64, GROUP_WORDS = 16 };

/* Four positions an object: each move of all of them is paid for by three uses of each. */
static uint32_t words_for(uint32_t n_objects)
{
    uint64_t groups = 4 * (uint64_t)n_objects / (WORD_BITS * GROUP_WORDS) + 1;
    return (uint32_t)groups * GROUP_WORDS;
}

void recency_depths_lay_out(RecencyDepths *depths, uint32_t n_objects, Arena *arena)
{
    size_t words = words_for(n_objects);
    depths->n_words = (uint32_t)words;
    depths->n_groups = (uint32_t)(words / GROUP_WORDS);
    depths->n_objects = n_objects;
    if (arena->base == NULL) {
        arena_reserve(arena, words, sizeof *depths->bits);
        arena_reserve(arena, words, sizeof *depths->below);
        arena_reserve(arena, depths->n_groups, sizeof *depths->groups);
        arena_reserve(arena, words * WORD_BITS, sizeof *depths->objects);
        arena_reserve(arena, n_objects, sizeof *depths->position);
        return;
    }
    depths->bits = arena_take(arena, words, sizeof *depths->bits);
    depths->below = arena_take(arena, words, sizeof *depths->below);
    depths->groups = arena_take(arena, depths->n_groups, sizeof *depths->groups);
    depths->objects = arena_take(arena, words * WORD_BITS, sizeof *depths->objects);
    depths->position = arena_take(arena, n_objects, sizeof *depths->position);
    depths->head = 0;
    depths->used = 0;
    for (uint32_t i = 0; i < n_objects; i++)
        depths->position[i] = RECENCY_NEW;
}

/* The counts of WORD, which the head has come to. */
static void start_word(RecencyDepths *depths, uint32_t word)
{
    uint32_t group = word / GROUP_WORDS;
    uint32_t before = depths->below[word - 1] + bits_count(depths->bits[word - 1]);
    if (word % GROUP_WORDS == 0)
        depths->groups[group] = depths->groups[group - 1] + before;
    depths->below[word] = (uint16_t)(word % GROUP_WORDS == 0 ? 0 : before);
}

/* Sets the bit of the next position. */
static void set_next(RecencyDepths *depths, uint32_t object)
{
    uint32_t word = depths->head / WORD_BITS;
    if (depths->head % WORD_BITS == 0 && word > 0)
        start_word(depths, word);
    depths->bits[word] |= UINT64_C(1) << depths->head % WORD_BITS;
    depths->objects[depths->head] = object;
    depths->position[object] = depths->head++;
}

static void move_down(RecencyDepths *depths)
{
    uint32_t end = depths->head;
    depths->head = 0;
    depths->below[0] = 0;
    depths->groups[0] = 0;
    for (uint32_t word = 0; word * WORD_BITS < end; word++) {
        uint64_t bits = depths->bits[word];
        depths->bits[word] = 0;
        for (; bits != 0; bits &= bits - 1)
            set_next(depths, depths->objects[word * WORD_BITS + (uint32_t)__builtin_ctzll(bits)]);
    }
}

/* Clears the bit of POSITION; returns how many are above it. Counts beyond the head are corrected
 * too, which nobody reads before they are set. */
static uint32_t clear(RecencyDepths *depths, uint32_t position)
{
    uint32_t word = position / WORD_BITS;
    uint32_t group = word / GROUP_WORDS;
    uint64_t bit = UINT64_C(1) << position % WORD_BITS;
    uint16_t *below = depths->below + (size_t)group * GROUP_WORDS;
    uint32_t *groups = depths->groups;
    uint32_t n_groups = depths->n_groups;
    uint16_t at = word % GROUP_WORDS;
    uint32_t before = groups[group] + below[at] + bits_count(depths->bits[word] & (bit - 1));
    depths->bits[word] &= ~bit;
    for (uint16_t i = 0; i < GROUP_WORDS; i++)
        below[i] = (uint16_t)(below[i] - (i > at));
    for (uint32_t i = 0; i < n_groups; i++)
        groups[i] -= i > group;
    return depths->used - 1 - before;
}

uint32_t recency_depths_use(RecencyDepths *depths, uint32_t object)
{
    uint32_t depth = RECENCY_NEW;
    if (depths->head == depths->n_words * WORD_BITS)
        move_down(depths);
    if (depths->position[object] == RECENCY_NEW)
        depths->used++;
    else
        depth = clear(depths, depths->position[object]);
    set_next(depths, object);
    return depth;
}
