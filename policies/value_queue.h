/* Objects by small integers that a base, which only grows, is at most as large as: the smallest
 * first, the lower object of equal ones. Inside policies/ only.
 *
 * The values from the base on that are nearest to it have a bucket each, in which objects are bits.
 * Whoever is put into a bucket comes out in ascending order, so that each bucket remembers up to
 * where it is empty. */
#ifndef POLICIES_VALUE_QUEUE_H
#define POLICIES_VALUE_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { VALUE_BUCKETS = 32, VALUE_WORD = 64 };

typedef struct {
    uint64_t *words;               /* [VALUE_BUCKETS][n_words] */
    uint32_t n_words;              /* of VALUE_WORD objects each */
    uint32_t in_use;               /* a bit for each bucket that has one */
    uint32_t first[VALUE_BUCKETS]; /* words that have none, at the start of each */
    uint32_t size[VALUE_BUCKETS];
} ValueQueue;

static inline uint32_t value_queue_words(uint32_t n_objects)
{
    return (uint32_t)(((uint64_t)n_objects + VALUE_WORD - 1) / VALUE_WORD);
}

static inline void value_queue_reset(ValueQueue *queue)
{
    memset(queue->words, 0, (size_t)VALUE_BUCKETS * queue->n_words * sizeof *queue->words);
    memset(queue->first, 0, sizeof queue->first);
    memset(queue->size, 0, sizeof queue->size);
    queue->in_use = 0;
}

/* True when there is a bucket for VALUE. */
static inline bool value_queue_has(uint64_t base, uint64_t value)
{
    return value - base < VALUE_BUCKETS;
}

static inline void value_queue_put(ValueQueue *queue, uint64_t value, uint32_t object)
{
    uint32_t bucket = value % VALUE_BUCKETS;
    uint32_t word = object / VALUE_WORD;
    queue->words[(size_t)bucket * queue->n_words + word] |= UINT64_C(1) << (object % VALUE_WORD);
    queue->first[bucket] = word < queue->first[bucket] ? word : queue->first[bucket];
    queue->size[bucket]++;
    queue->in_use |= UINT32_C(1) << bucket;
}

/* The smallest value; there is an object. */
static inline uint64_t value_queue_least(const ValueQueue *queue, uint64_t base)
{
    uint32_t turn = base % VALUE_BUCKETS;
    uint32_t from_base = queue->in_use >> turn | queue->in_use << 1 << (VALUE_BUCKETS - 1 - turn);
    return base + (uint32_t)__builtin_ctz(from_base);
}

/* The lowest object of VALUE, which there is. */
static inline uint32_t value_queue_first(ValueQueue *queue, uint64_t value)
{
    uint32_t bucket = value % VALUE_BUCKETS;
    const uint64_t *words = queue->words + (size_t)bucket * queue->n_words;
    uint32_t word = queue->first[bucket];
    while (words[word] == 0)
        word++;
    queue->first[bucket] = word;
    return word * VALUE_WORD + (uint32_t)__builtin_ctzll(words[word]);
}

/* Takes OBJECT out of VALUE, where it is. */
static inline void value_queue_take(ValueQueue *queue, uint64_t value, uint32_t object)
{
    uint32_t bucket = value % VALUE_BUCKETS;
    uint64_t bit = UINT64_C(1) << (object % VALUE_WORD);
    queue->words[(size_t)bucket * queue->n_words + object / VALUE_WORD] &= ~bit;
    queue->in_use &= ~((uint32_t)(--queue->size[bucket] == 0) << bucket);
}

#endif
