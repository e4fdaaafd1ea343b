/* A heap of objects under 64-bit keys, smallest first, four children a node: a cache line. Only the
 * key of its top may be changed. Inside policies/ only. */
#ifndef POLICIES_HEAP_H
#define POLICIES_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The first of HEAP_ROOM(n) entries that are not used, so that children begin a cache line. */
enum { HEAP_CHILDREN = 4, HEAP_OFFSET = HEAP_CHILDREN - 1, HEAP_SPARE = HEAP_CHILDREN - 1 };
#define HEAP_ROOM(n) ((n) + HEAP_OFFSET + HEAP_SPARE)
#define HEAP_END UINT64_MAX

typedef struct {
    uint64_t key;
    uint32_t object;
} HeapEntry;

typedef struct {
    HeapEntry *entries; /* behind those in use three more, whose keys are HEAP_END */
    uint32_t size;
    bool has_hole; /* the top has left, and its place waits for the next entry */
} Heap;

/* Empties a heap over the ENTRIES[HEAP_ROOM(n)]. */
static inline void heap_reset(Heap *heap, size_t n)
{
    for (size_t i = 0; i < n + HEAP_SPARE; i++)
        heap->entries[i].key = HEAP_END;
    heap->size = 0;
    heap->has_hole = false;
}

/* Moves ENTRY, which belongs at AT or nearer to the top, to its place. */
static inline void heap_rise(Heap *heap, uint32_t at, HeapEntry entry)
{
    while (at > 0 && heap->entries[(at - 1) / HEAP_CHILDREN].key > entry.key) {
        heap->entries[at] = heap->entries[(at - 1) / HEAP_CHILDREN];
        at = (at - 1) / HEAP_CHILDREN;
    }
    heap->entries[at] = entry;
}

/* The least of the four children from FIRST on, without a branch. */
static inline uint32_t heap_least_child(const HeapEntry *entries, uint32_t first)
{
    uint32_t left = first + (entries[first + 1].key < entries[first].key);
    uint32_t right = first + 2 + (entries[first + 3].key < entries[first + 2].key);
    return left + (-(uint32_t)(entries[right].key < entries[left].key) & (right - left));
}

/* Moves ENTRY, which belongs at AT or farther from the top, to its place. */
static inline void heap_sink(Heap *heap, uint32_t at, HeapEntry entry)
{
    for (uint32_t child; (child = HEAP_CHILDREN * at + 1) < heap->size; at = child) {
        child = heap_least_child(heap->entries, child);
        if (heap->entries[child].key >= entry.key)
            break;
        heap->entries[at] = heap->entries[child];
    }
    heap->entries[at] = entry;
}

static inline void heap_push(Heap *heap, uint32_t object, uint64_t key)
{
    heap_rise(heap, heap->size++, (HeapEntry){.key = key, .object = object});
}

static inline void heap_pop(Heap *heap)
{
    HeapEntry last = heap->entries[--heap->size];
    heap->entries[heap->size].key = HEAP_END;
    if (heap->size > 0)
        heap_sink(heap, 0, last);
}

/* Takes the top out, whose place heap_fill() gives to the next entry: who replaces the smallest is
 * seldom large, and goes down a few levels where heap_pop() moves the last entry through all of
 * them, and heap_push() up again. All but heap_fill() need heap_close() first. */
static inline void heap_open(Heap *heap)
{
    heap->has_hole = true;
}

static inline void heap_close(Heap *heap)
{
    if (heap->has_hole)
        heap_pop(heap);
    heap->has_hole = false;
}

static inline void heap_fill(Heap *heap, uint32_t object, uint64_t key)
{
    if (heap->has_hole)
        heap_sink(heap, 0, (HeapEntry){.key = key, .object = object});
    else
        heap_push(heap, object, key);
    heap->has_hole = false;
}

/* Gives the top a larger key. */
static inline void heap_enlarge_top(Heap *heap, uint64_t key)
{
    heap_sink(heap, 0, (HeapEntry){.key = key, .object = heap->entries[0].object});
}

#endif
