/* Requests from text files: what `--text` reads. */
#ifndef EXEC_TEXT_TEXT_REQUESTS_H
#define EXEC_TEXT_TEXT_REQUESTS_H

#include "exec/text/tokenizer.h"
#include "exec/tokens.h"

typedef struct {
    bool lines;          /* one request per line; a last CR is not part of it */
    bool add_special;    /* as tokenizer_encode() */
    bool allow_empty;    /* requests of text that gives no token */
    uint32_t vocabulary; /* ids must be below it: the model's */
} TextOptions;

/* Encodes PATH into SET. A file is one request and its label the file's name without its folders;
 * with lines, empty ones are left out and labels are NAME:LINE. A file NAME.jsonl holds
 * {"text": ..., "label": ...} per line, label optional. *BYTES counts the text. Fails with
 * ERR_INPUT: no text, text without a token, or an id outside the vocabulary. */
Status text_requests_load(const char *path, const TextOptions *options, Tokenizer *tokenizer,
                          TokenSet *set, uint64_t *bytes);

#endif
