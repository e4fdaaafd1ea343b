/* Tokens that are found in the text as they are, before any model sees it: "added_tokens" of a
 * tokenizer.json.
 *
 * Those not "normalized" are looked for in the input; the others, in their normalized form, in what
 * the normalizer made of the text between. Of the tokens that begin at a place the longest is
 * taken. */
#ifndef EXEC_TEXT_ADDED_TOKENS_H
#define EXEC_TEXT_ADDED_TOKENS_H

#include "exec/text/byte_trie.h"
#include "exec/text/normalizer.h"
#include "exec/text/vocabulary.h"

typedef struct {
    Span content; /* points into the pool */
    uint32_t id;
    bool single_word; /* only where no word character touches it */
    bool lstrip;      /* takes the white space before it */
    bool rstrip;      /* takes the white space behind it */
    bool normalized;
    bool special; /* may be left out when decoding */
} AddedToken;

typedef struct {
    AddedToken *tokens; /* [count], the special ones first, else in the order of the file */
    size_t count;
    uint32_t *index_of;  /* [n_ids], id -> index + 1, 0: none */
    ByteTrie plain;      /* -> index of the token */
    ByteTrie normalized; /* by normalized content */
    ByteBuffer pool;     /* contents and normalized contents */
    uint32_t n_ids;      /* one more than the highest id, 0 without tokens */
} AddedTokens;

/* AT is the array. A content that VOCABULARY has must have its id there; one that it has not must
 * have an id of its own. Fails with ERR_INPUT otherwise. */
Status added_tokens_load(const JsonAt *at, const Vocabulary *vocabulary, Normalizer *normalizer,
                         AddedTokens *added);
void added_tokens_free(AddedTokens *added);
/* The token of ID, or NULL. */
const AddedToken *added_tokens_of(const AddedTokens *added, uint32_t id);

/* A stretch of text that is one added token, or that lies between two. */
typedef struct {
    size_t start;
    size_t end;
    const AddedToken *token; /* NULL: between */
} AddedSpan;

typedef struct {
    const AddedTokens *added;
    const ByteTrie *trie;
    Span text;
    size_t from;  /* where the search goes on */
    size_t taken; /* end of the last span */
    bool held;    /* a token that waits for the text before it to be taken */
    AddedSpan token;
} AddedSearch;

/* Cuts TEXT (valid UTF-8) at the tokens of TRIE, one of ADDED's two. */
void added_search_start(AddedSearch *search, const AddedTokens *added, const ByteTrie *trie,
                        Span text);
/* False after the last span. */
bool added_search_next(AddedSearch *search, AddedSpan *span);

#endif
