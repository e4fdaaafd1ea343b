/* The tokens that a run generates, their text, and a file of them. */
#ifndef CLI_GENERATED_H
#define CLI_GENERATED_H

#include "base/files.h"
#include "base/json.h"
#include "exec/text/tokenizer.h"
#include "exec/tokens.h"

/* Zero-initialise. */
typedef struct {
    uint32_t **tokens;  /* [n_requests][room] */
    uint32_t *n_tokens; /* [n_requests] */
    uint32_t n_requests;
    uint32_t *pool;
    Tokenizer *tokenizer;
} Generated;

/* Makes room for ROOM tokens of each of N_REQUESTS requests, and opens the tokenizer of the folder
 * MODEL; NULL: no text is wanted. */
Status generated_open(Generated *generated, uint32_t n_requests, uint32_t room, const char *model);
void generated_close(Generated *generated);
/* Prints the text of each request, special tokens left out; SET gives the labels. */
Status generated_print(const Generated *generated, const TokenSet *set);
/* Writes FILE and commits it: JSON lines {"label": ..., "tokens": [...]} in the order of the
 * requests, which is a token file again. */
Status generated_write(const Generated *generated, const TokenSet *set, OutputFile *file);
/* Adds "generated_text": [{"label", "ids", "text"}] to JSON. */
Status generated_add_json(const Generated *generated, const TokenSet *set, cJSON *json);

#endif
