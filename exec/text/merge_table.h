/* The merges of a BPE model: which two neighbours become one, and how early. */
#ifndef EXEC_TEXT_MERGE_TABLE_H
#define EXEC_TEXT_MERGE_TABLE_H

#include "exec/text/vocabulary.h"

typedef struct {
    uint32_t left;
    uint32_t right;
    uint32_t merged;
    uint32_t order; /* rank + 1; 0: free entry */
} Merge;

typedef struct {
    Merge *entries; /* [room], a power of two, open addressing */
    size_t room;
} MergeTable;

/* Reads an array of "LEFT RIGHT" or ["LEFT", "RIGHT"]; the rank is the index. Both and their
 * concatenation must be in VOCABULARY. Of a merge that stands twice the later rank counts. */
Status merge_table_load(const JsonAt *at, const Vocabulary *vocabulary, MergeTable *table);
void merge_table_free(MergeTable *table);
/* NULL when LEFT and RIGHT do not merge. */
const Merge *merge_table_get(const MergeTable *table, uint32_t left, uint32_t right);

/* One symbol of a word that is being merged. */
typedef struct {
    uint32_t id;
    uint32_t order;  /* of the merge with the next symbol, 0: none */
    uint32_t merged; /* what that makes */
    uint32_t previous;
    uint32_t next;
} Symbol;

/* Room for merging long words; kept between calls. */
typedef struct {
    uint64_t *heap;
    size_t room;
} MergeScratch;

void merge_scratch_free(MergeScratch *scratch);
/* Merges SYMBOLS[*COUNT], of which only the ids need be set: always the pair of lowest rank, of
 * several the leftmost, until none merges. *COUNT symbols are left at the front. n log n in the
 * length of the word. */
Status merge_symbols(const MergeTable *table, Symbol *symbols, size_t *count,
                     MergeScratch *scratch);

#endif
