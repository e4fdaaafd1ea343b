/* Remembers the ids of short words: text repeats itself.
 *
 * Direct-mapped: a word that falls on another's place takes it. One MiB. */
#ifndef EXEC_TEXT_WORD_CACHE_H
#define EXEC_TEXT_WORD_CACHE_H

#include "exec/text/buffers.h"

enum { CACHED_WORD_BYTES = 22, CACHED_WORD_IDS = 10 };

typedef struct {
    uint8_t bytes; /* 0: free */
    uint8_t n_ids;
    unsigned char word[CACHED_WORD_BYTES];
    uint32_t ids[CACHED_WORD_IDS];
} CachedWord;

typedef struct {
    CachedWord *words;
} WordCache;

Status word_cache_new(WordCache *cache);
void word_cache_free(WordCache *cache);
/* The place of WORD: holds it when bytes is not 0. NULL when WORD is too long or empty. */
CachedWord *word_cache_find(const WordCache *cache, Span word);
/* Puts WORD and its ids at PLACE, from word_cache_find(), unless they are too many. */
void word_cache_put(CachedWord *place, Span word, const uint32_t *ids, size_t n_ids);

#endif
