/* Changing a set of requests after it was read. */
#include <string.h>

#include "base/lcg.h"
#include "base/memory.h"
#include "base/splitmix64.h"
#include "exec/tokens.h"

void tokens_keep(TokenSet *set, uint32_t n)
{
    for (uint32_t i = n; i < set->n_requests; i++) {
        mem_free(set->requests[i].label);
        mem_free(set->requests[i].tokens);
    }
    set->n_requests = n < set->n_requests ? n : set->n_requests;
}

static Status surround(TokenRequest *request, const uint32_t *before, uint32_t n_before,
                       const uint32_t *after, uint32_t n_after)
{
    uint32_t *tokens;
    uint64_t n = (uint64_t)request->n_tokens + n_before + n_after;
    if (n > UINT32_MAX)
        return fail(ERR_INPUT, "tokens: a request of %llu tokens is too long",
                    (unsigned long long)n);
    TRY(mem_new(&tokens, n, sizeof *tokens, "request tokens"));
    if (n_before > 0)
        memcpy(tokens, before, n_before * sizeof *tokens);
    memcpy(tokens + n_before, request->tokens, request->n_tokens * sizeof *tokens);
    if (n_after > 0)
        memcpy(tokens + n_before + request->n_tokens, after, n_after * sizeof *tokens);
    mem_free(request->tokens);
    request->tokens = tokens;
    request->n_tokens = (uint32_t)n;
    return OK;
}

Status tokens_surround(TokenSet *set, const uint32_t *before, uint32_t n_before,
                       const uint32_t *after, uint32_t n_after)
{
    for (uint32_t i = 0; n_before + n_after > 0 && i < set->n_requests; i++)
        TRY(surround(&set->requests[i], before, n_before, after, n_after));
    return OK;
}

/* Adds a request of N zeros. */
static Status add_request(uint32_t n, TokenSet *set)
{
    TokenRequest *request = &set->requests[set->n_requests++];
    TRY(mem_new(&request->label, 1, 1, "request label"));
    TRY(mem_new(&request->tokens, n, sizeof *request->tokens, "request tokens"));
    request->n_tokens = n;
    return OK;
}

static Status add_requests(uint32_t count, uint32_t n, TokenSet *set)
{
    *set = (TokenSet){0};
    TRY(mem_new(&set->requests, count, sizeof *set->requests, "requests"));
    Status status = OK;
    while (status == OK && set->n_requests < count)
        status = add_request(n, set);
    if (status != OK)
        tokens_free(set);
    return status;
}

Status tokens_repeat(const uint32_t *tokens, uint32_t n, uint32_t count, TokenSet *set)
{
    TRY(add_requests(count, n, set));
    for (uint32_t i = 0; i < count; i++)
        memcpy(set->requests[i].tokens, tokens, n * sizeof *tokens);
    return OK;
}

Status tokens_random(uint32_t count, uint32_t n, uint32_t vocabulary, uint64_t seed, TokenSet *set)
{
    TRY(add_requests(count, n, set));
    set->is_batch = true;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < n; j++)
            set->requests[i].tokens[j] = (uint32_t)((lcg_next(&seed) >> 33) % vocabulary);
    return OK;
}

uint32_t tokens_draw(uint64_t text, uint32_t request, uint32_t position, uint32_t vocabulary,
                     uint32_t padding)
{
    uint64_t number = splitmix64_at((uint64_t)request << 32 | position, text + 1);
    uint32_t token = (uint32_t)((number >> 32) % vocabulary);
    return token != padding ? token : (token + 1) % vocabulary;
}
