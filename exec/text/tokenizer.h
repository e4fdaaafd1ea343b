/* Text -> token ids and back, as the checkpoint's own tokenizer does it.
 *
 * Reads Hugging Face's tokenizer.json (models BPE and Unigram; what it does not know it refuses by
 * name) and SentencePiece's .model (through libsentencepiece, where the build has it). For the same
 * valid UTF-8 the ids equal those of the tokenizers library, but for characters newer than the
 * Unicode versions of PCRE2 and utf8proc. Text that is not valid UTF-8 is read as Python's
 * bytes.decode("utf-8", errors="replace") does: U+FFFD for each maximal subpart of an ill-formed
 * sequence.
 *
 * Not thread-safe: one tokenizer per thread. */
#ifndef EXEC_TEXT_TOKENIZER_H
#define EXEC_TEXT_TOKENIZER_H

#include <stdbool.h>

#include "exec/text/buffers.h"

typedef struct Tokenizer Tokenizer;

/* PATH is a file, tokenizer.json or NAME.model, or a folder that holds tokenizer.json,
 * tokenizer.model, spiece.model or sentencepiece.bpe.model, looked for in this order. Fails with
 * ERR_INPUT, naming the key of what is not supported, or ERR_UNSUPPORTED for a .model in a build
 * without libsentencepiece. */
Status tokenizer_open(const char *path, Tokenizer **tokenizer);
void tokenizer_close(Tokenizer *tokenizer);

/* The file it was read from. */
const char *tokenizer_path(const Tokenizer *tokenizer);
/* "byte-level BPE", "BPE", "Unigram" or "SentencePiece" */
const char *tokenizer_kind(const Tokenizer *tokenizer);
/* One more than the highest id. */
uint32_t tokenizer_n_ids(const Tokenizer *tokenizer);
/* The piece of ID as the vocabulary spells it; data == NULL when the id has none. Points into the
 * tokenizer. */
Span tokenizer_piece(const Tokenizer *tokenizer, uint32_t id);
/* True for ids that stand for no text, as <s>: tokenizer_decode() can leave them out. */
bool tokenizer_is_special(const Tokenizer *tokenizer, uint32_t id);

/* Appends the ids of TEXT. ADD_SPECIAL puts those around it that the file's post-processor names (a
 * .model names none). Fails with ERR_INPUT for text that the vocabulary cannot express. */
Status tokenizer_encode(Tokenizer *tokenizer, Span text, bool add_special, IdBuffer *ids);
/* Appends the text of IDS[COUNT]. Of a byte-level tokenizer these are the very bytes, which need
 * not be valid UTF-8. Fails with ERR_INPUT for an id without a piece. */
Status tokenizer_decode(Tokenizer *tokenizer, const uint32_t *ids, size_t count,
                        bool leave_out_special, ByteBuffer *text);

#endif
