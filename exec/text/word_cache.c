#include "exec/text/word_cache.h"

#include <string.h>

#include "base/memory.h"
#include "exec/text/string_table.h"

enum { CACHED_WORDS = 1 << 14 };

Status word_cache_new(WordCache *cache)
{
    return mem_new(&cache->words, CACHED_WORDS, sizeof *cache->words, "word cache");
}

void word_cache_free(WordCache *cache)
{
    mem_free(cache->words);
    *cache = (WordCache){0};
}

CachedWord *word_cache_find(const WordCache *cache, Span word)
{
    if (word.bytes == 0 || word.bytes > CACHED_WORD_BYTES)
        return NULL;
    CachedWord *place = &cache->words[hash_bytes(word.data, word.bytes) % CACHED_WORDS];
    if (place->bytes != word.bytes || memcmp(place->word, word.data, word.bytes) != 0)
        place->bytes = 0;
    return place;
}

void word_cache_put(CachedWord *place, Span word, const uint32_t *ids, size_t n_ids)
{
    if (n_ids > CACHED_WORD_IDS)
        return;
    place->bytes = (uint8_t)word.bytes;
    place->n_ids = (uint8_t)n_ids;
    memcpy(place->word, word.data, word.bytes);
    memcpy(place->ids, ids, n_ids * sizeof *ids);
}
