/* Token input: which requests to run.
 *
 * .npy (1-D: one stream, 2-D: one request per row; integer dtypes), .safetensors (one stream per
 * key, the key is the label; a 2-D tensor is one request per row), .jsonl ({"label": ..., "tokens":
 * [...], "arrival_ms": ..., "output_tokens": ...} per line, all but the tokens optional). */
#ifndef EXEC_TOKENS_H
#define EXEC_TOKENS_H

#include <stdbool.h>

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct {
    char *label; /* "" when the file has none */
    uint32_t *tokens;
    uint32_t n_tokens;
    uint64_t arrival_ns;    /* where the set has arrivals; the first need not be 0 */
    uint32_t output_tokens; /* to generate, at the most; 0: the file does not say */
} TokenRequest;

typedef struct {
    TokenRequest *requests; /* [n_requests] */
    uint32_t n_requests;
    bool has_arrivals;
    bool is_batch; /* the one tensor read was 2-D: rows of equal length */
} TokenSet;

/* Loads PATH; KEY (or NULL) takes one stream of a safetensors file or the requests of that label of
 * a JSONL file. Where a safetensors file has KEY.ids and KEY.offsets instead, the requests are the
 * lines: line i is ids[offsets[i]] to ids[offsets[i + 1] - 1]. Token ids are checked against
 * VOCABULARY. Fails with ERR_INPUT: unknown ending, empty, ids out of range, arrivals of some
 * requests only. */
Status tokens_load(const char *path, const char *key, uint32_t vocabulary, TokenSet *set);
/* Cuts every request longer than LENGTH into requests of LENGTH (a remainder shorter than LENGTH is
 * left out). Keeps labels, arrivals and output tokens. At most LIMIT requests per original stream,
 * 0: all. *LEFT_OUT counts the tokens that are in no request any more, for either reason. On
 * failure SET is as it was. */
Status tokens_cut(TokenSet *set, uint32_t length, uint32_t limit, uint64_t *left_out);
/* Leaves the first N requests. */
void tokens_keep(TokenSet *set, uint32_t n);
/* Puts BEFORE [n_before] in front of every request and AFTER [n_after] behind it. */
Status tokens_surround(TokenSet *set, const uint32_t *before, uint32_t n_before,
                       const uint32_t *after, uint32_t n_after);
/* Makes COUNT requests, each TOKENS [n], without labels. */
Status tokens_repeat(const uint32_t *tokens, uint32_t n, uint32_t count, TokenSet *set);
/* Makes COUNT requests of N random ids below VOCABULARY, the same for the same SEED; rows of a
 * batch. */
Status tokens_random(uint32_t count, uint32_t n, uint32_t vocabulary, uint64_t seed, TokenSet *set);
/* A token below VOCABULARY for POSITION of REQUEST in text number TEXT: the same whenever it is
 * asked for, and not PADDING where there is another. */
uint32_t tokens_draw(uint64_t text, uint32_t request, uint32_t position, uint32_t vocabulary,
                     uint32_t padding);
void tokens_free(TokenSet *set);

/* Whether PATH is a safetensors file that holds KEY. */
Status tokens_has_key(const char *path, const char *key, bool *has);

#endif
