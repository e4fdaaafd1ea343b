/* Two ways to the same result: a scan over the pairs for words, a heap for what has no spaces. */
#include <string.h>

#include "base/memory.h"
#include "exec/text/merge_table.h"

#define NO_SYMBOL UINT32_MAX

enum { SCANNED_WORD = 40 };

void merge_scratch_free(MergeScratch *scratch)
{
    mem_free(scratch->heap);
    *scratch = (MergeScratch){0};
}

/* Looks up the merge of SYMBOL with its neighbour RIGHT. */
static void pair_up(const MergeTable *table, Symbol *symbol, uint32_t right)
{
    const Merge *merge = merge_table_get(table, symbol->id, right);
    symbol->order = merge != NULL ? merge->order : 0;
    symbol->merged = merge != NULL ? merge->merged : 0;
}

static void merge_short(const MergeTable *table, Symbol *symbols, size_t *count)
{
    size_t n = *count;
    for (;;) {
        size_t best = 0;
        uint32_t least = UINT32_MAX;
        for (size_t i = 0; i + 1 < n; i++) {
            if (symbols[i].order != 0 && symbols[i].order < least) {
                least = symbols[i].order;
                best = i;
            }
        }
        if (least == UINT32_MAX)
            break;
        symbols[best].id = symbols[best].merged;
        memmove(symbols + best + 1, symbols + best + 2, (n - best - 2) * sizeof *symbols);
        n--;
        if (best + 1 < n)
            pair_up(table, &symbols[best], symbols[best + 1].id);
        if (best > 0)
            pair_up(table, &symbols[best - 1], symbols[best].id);
    }
    *count = n;
}

/* A heap of order << 32 | position, least first: so the leftmost of equal ranks comes first. */
typedef struct {
    uint64_t *items; /* [count] */
    size_t count;
} Heap;

static void heap_push(Heap *heap, const Symbol *symbol, size_t position)
{
    if (symbol->order == 0)
        return;
    uint64_t item = (uint64_t)symbol->order << 32 | position;
    size_t i = heap->count++;
    for (; i > 0 && heap->items[(i - 1) / 2] > item; i = (i - 1) / 2)
        heap->items[i] = heap->items[(i - 1) / 2];
    heap->items[i] = item;
}

static uint64_t heap_pop(Heap *heap)
{
    uint64_t top = heap->items[0];
    uint64_t last = heap->items[--heap->count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count && heap->items[child + 1] < heap->items[child])
            child++;
        if (heap->items[child] >= last)
            break;
        heap->items[i] = heap->items[child];
        i = child;
    }
    if (heap->count > 0)
        heap->items[i] = last;
    return top;
}

/* Joins the symbol at POSITION with its next one and queues the pairs that this makes. */
static void join(const MergeTable *table, Symbol *symbols, uint32_t position, Heap *heap)
{
    Symbol *symbol = &symbols[position];
    Symbol *right = &symbols[symbol->next];
    symbol->id = symbol->merged;
    symbol->next = right->next;
    symbol->order = 0;
    right->order = 0;
    if (symbol->next != NO_SYMBOL) {
        symbols[symbol->next].previous = position;
        pair_up(table, symbol, symbols[symbol->next].id);
        heap_push(heap, symbol, position);
    }
    if (symbol->previous != NO_SYMBOL) {
        Symbol *left = &symbols[symbol->previous];
        pair_up(table, left, symbol->id);
        heap_push(heap, left, symbol->previous);
    }
}

static Status merge_long(const MergeTable *table, Symbol *symbols, size_t *count,
                         MergeScratch *scratch)
{
    size_t n = *count;
    size_t room = 2 * n; /* fewer than n pairs, and a join takes one out and adds at most two */
    if (scratch->room < room) {
        merge_scratch_free(scratch);
        TRY(mem_new(&scratch->heap, room, sizeof *scratch->heap, "long word"));
        scratch->room = room;
    }
    Heap heap = {.items = scratch->heap};
    for (size_t i = 0; i < n; i++) {
        symbols[i].previous = i > 0 ? (uint32_t)i - 1 : NO_SYMBOL;
        symbols[i].next = i + 1 < n ? (uint32_t)i + 1 : NO_SYMBOL;
        heap_push(&heap, &symbols[i], i);
    }
    while (heap.count > 0) {
        uint64_t top = heap_pop(&heap);
        uint32_t position = (uint32_t)top;
        if (symbols[position].order == top >> 32) /* else the pair is no more */
            join(table, symbols, position, &heap);
    }
    size_t kept = 0;
    for (uint32_t i = 0; i != NO_SYMBOL; i = symbols[i].next)
        symbols[kept++].id = symbols[i].id;
    *count = kept;
    return OK;
}

Status merge_symbols(const MergeTable *table, Symbol *symbols, size_t *count, MergeScratch *scratch)
{
    size_t n = *count;
    if (n < 2)
        return OK;
    for (size_t i = 0; i + 1 < n; i++)
        pair_up(table, &symbols[i], symbols[i + 1].id);
    symbols[n - 1].order = 0;
    if (n > SCANNED_WORD)
        return merge_long(table, symbols, count, scratch);
    merge_short(table, symbols, count);
    return OK;
}
