/* What the readers of token files share: a set that grows by requests, and the check of each id. */
#ifndef EXEC_TOKEN_LOADER_H
#define EXEC_TOKEN_LOADER_H

#include "exec/tokens.h"

typedef struct {
    const char *path;
    const char *key; /* the one wanted, or NULL */
    uint32_t vocabulary;
    bool allow_empty; /* requests without tokens, which no model can run */
    TokenSet set;
    size_t room;     /* for requests */
    char known[256]; /* keys met, for the message that KEY is not among them */
    uint32_t n_known;
} TokenLoader;

/* Adds a request of COUNT zero tokens, for the caller to fill. PLACE ("FILE: key NAME") begins the
 * message when COUNT is 0 (and that is not allowed) or too large. */
Status token_loader_add(TokenLoader *loader, const char *place, const char *label, uint64_t count,
                        uint32_t **tokens);
/* Fails for a token outside the vocabulary; VALUE is its text. */
Status token_loader_bad_token(const TokenLoader *loader, const char *place, uint64_t position,
                              const char *value);
/* Remembers NAME as one of the file's keys. */
void token_loader_note_key(TokenLoader *loader, const char *name);

/* Reads a JSONL file into LOADER. */
Status token_loader_read_jsonl(TokenLoader *loader);

#endif
