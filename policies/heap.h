/* A binary heap of objects under 64-bit keys, smallest first. Inside policies/ only.
 *
 * With WHERE the place of every object is known and its key may be changed; without it the heap is
 * a little faster and only its top can be. */
#ifndef POLICIES_HEAP_H
#define POLICIES_HEAP_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t key;
    uint32_t object;
} HeapEntry;

typedef struct {
    HeapEntry *entries; /* [room] */
    uint32_t *where;    /* [objects] index of its entry, or NULL */
    uint32_t size;
} Heap;

static inline void heap_place(Heap *heap, uint32_t at, HeapEntry entry)
{
    heap->entries[at] = entry;
    if (heap->where != NULL)
        heap->where[entry.object] = at;
}

/* Moves ENTRY, which belongs at AT or nearer to the top, to its place. */
static inline void heap_rise(Heap *heap, uint32_t at, HeapEntry entry)
{
    while (at > 0 && heap->entries[(at - 1) / 2].key > entry.key) {
        heap_place(heap, at, heap->entries[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    heap_place(heap, at, entry);
}

/* Moves ENTRY, which belongs at AT or farther from the top, to its place. */
static inline void heap_sink(Heap *heap, uint32_t at, HeapEntry entry)
{
    for (uint32_t child; (child = 2 * at + 1) < heap->size; at = child) {
        child += child + 1 < heap->size && heap->entries[child + 1].key < heap->entries[child].key;
        if (heap->entries[child].key >= entry.key)
            break;
        heap_place(heap, at, heap->entries[child]);
    }
    heap_place(heap, at, entry);
}

static inline void heap_push(Heap *heap, uint32_t object, uint64_t key)
{
    heap_rise(heap, heap->size++, (HeapEntry){.key = key, .object = object});
}

static inline void heap_pop(Heap *heap)
{
    HeapEntry last = heap->entries[--heap->size];
    if (heap->size > 0)
        heap_sink(heap, 0, last);
}

/* Gives the top a larger key. */
static inline void heap_enlarge_top(Heap *heap, uint64_t key)
{
    heap_sink(heap, 0, (HeapEntry){.key = key, .object = heap->entries[0].object});
}

/* Gives OBJECT a smaller key; needs WHERE. */
static inline void heap_lessen(Heap *heap, uint32_t object, uint64_t key)
{
    heap_rise(heap, heap->where[object], (HeapEntry){.key = key, .object = object});
}

#endif
