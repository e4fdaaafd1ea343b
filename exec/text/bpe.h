/* Byte-pair encoding (Sennrich et al. 2016), as a tokenizer.json describes it.
 *
 * A byte-level model takes words as raw bytes, each of which stands for its character of the byte
 * alphabet; any other takes valid UTF-8. Not thread-safe: it keeps the words it has met. */
#ifndef EXEC_TEXT_BPE_H
#define EXEC_TEXT_BPE_H

#include "exec/text/vocabulary.h"

typedef struct Bpe Bpe;

/* MODEL is the object "model" of the file, its type BPE. */
Status bpe_load(const JsonAt *model, bool byte_level, Bpe **bpe);
void bpe_free(Bpe *bpe);
const Vocabulary *bpe_vocabulary(const Bpe *bpe);
/* Appends the ids of WORD. */
Status bpe_encode(Bpe *bpe, Span word, IdBuffer *ids);

#endif
