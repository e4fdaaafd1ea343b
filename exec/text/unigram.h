/* Unigram segmentation (Kudo 2018) by the Viterbi algorithm, as a tokenizer.json describes it.
 *
 * Linear in the length of the text. Not thread-safe: it keeps its table between calls. */
#ifndef EXEC_TEXT_UNIGRAM_H
#define EXEC_TEXT_UNIGRAM_H

#include "exec/text/vocabulary.h"

typedef struct Unigram Unigram;

/* MODEL is the object "model" of the file, its type Unigram. */
Status unigram_load(const JsonAt *model, Unigram **unigram);
void unigram_free(Unigram *unigram);
const Vocabulary *unigram_vocabulary(const Unigram *unigram);
/* Appends the ids of WORD (valid UTF-8). Fails with ERR_INPUT for a character that is in no piece
 * when the model names no unknown piece. */
Status unigram_encode(Unigram *unigram, Span word, IdBuffer *ids);

#endif
