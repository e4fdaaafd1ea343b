/* The rewriting rules of a SentencePiece model ("precompiled_charsmap"): a double-array trie of
 * what to replace (Darts-clone) and a pool of replacements. */
#ifndef EXEC_TEXT_CHARSMAP_H
#define EXEC_TEXT_CHARSMAP_H

#include "base/json.h"
#include "exec/text/buffers.h"

typedef struct {
    uint32_t *units; /* [n_units], the trie */
    size_t n_units;
    unsigned char *pool; /* zero-terminated replacements */
    size_t pool_bytes;
} Charsmap;

/* AT is the base64 text. Fails with ERR_INPUT. */
Status charsmap_load(const JsonAt *at, Charsmap *map);
void charsmap_free(Charsmap *map);
/* Appends TEXT (valid UTF-8) with the rules applied as Hugging Face's tokenizers do: a grapheme
 * cluster of at most 5 bytes that begins with a rule's text is replaced as a whole, by the shortest
 * such rule; of other clusters each character that has a rule. */
Status charsmap_append(const Charsmap *map, Span text, ByteBuffer *out);

#endif
