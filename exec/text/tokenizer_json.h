/* The pipeline that a tokenizer.json describes: added tokens, normalizer, pre-tokenizer, model,
 * post-processor, decoder. */
#ifndef EXEC_TEXT_TOKENIZER_JSON_H
#define EXEC_TEXT_TOKENIZER_JSON_H

#include "exec/text/added_tokens.h"
#include "exec/text/bpe.h"
#include "exec/text/decoder.h"
#include "exec/text/normalizer.h"
#include "exec/text/post_processor.h"
#include "exec/text/pretokenizer.h"
#include "exec/text/unigram.h"

typedef struct {
    AddedTokens added;
    Normalizer *normalizer;
    PreTokenizer *pretokenizer;
    Bpe *bpe; /* or */
    Unigram *unigram;
    const Vocabulary *vocabulary; /* the model's */
    uint32_t n_ids;               /* with added tokens */
    PostProcessor around;
    Decoder *decoder;
    TextList pieces; /* being decoded */
    IdBuffer *ids;   /* being encoded to */
} JsonTokenizer;

enum { TOKENIZER_JSON_BYTES = 256 << 20 };

/* On failure TOKENIZER holds nothing. */
Status json_tokenizer_load(const char *path, JsonTokenizer *tokenizer);
void json_tokenizer_free(JsonTokenizer *tokenizer);
Span json_tokenizer_piece(const JsonTokenizer *tokenizer, uint32_t id);
/* TEXT is valid UTF-8. */
Status json_tokenizer_encode(JsonTokenizer *tokenizer, Span text, bool add_special, IdBuffer *ids);
/* All of IDS have pieces. */
Status json_tokenizer_decode(JsonTokenizer *tokenizer, const uint32_t *ids, size_t count,
                             bool leave_out_special, ByteBuffer *text);

#endif
