#include "exec/token_loader.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

Status token_loader_add(TokenLoader *loader, const char *place, const char *label, uint64_t count,
                        uint32_t **tokens)
{
    TokenSet *set = &loader->set;
    if (count == 0 && !loader->allow_empty)
        return fail(ERR_INPUT, "%s: holds no tokens", place);
    if (count > UINT32_MAX || set->n_requests == UINT32_MAX)
        return fail(ERR_INPUT, "%s: too many tokens or requests", place);
    TRY(mem_grow(&set->requests, &loader->room, set->n_requests, sizeof *set->requests, place));
    TokenRequest *request = &set->requests[set->n_requests];
    *request = (TokenRequest){.n_tokens = (uint32_t)count};
    TRY(mem_new(&request->label, strlen(label) + 1, 1, place));
    strcpy(request->label, label);
    set->n_requests++;
    TRY(mem_new(&request->tokens, count, sizeof *request->tokens, place));
    *tokens = request->tokens;
    return OK;
}

Status token_loader_bad_token(const TokenLoader *loader, const char *place, uint64_t position,
                              const char *value)
{
    return fail(ERR_INPUT, "%s: position %" PRIu64 ": token %s, the vocabulary has %u", place,
                position, value, loader->vocabulary);
}

void token_loader_note_key(TokenLoader *loader, const char *name)
{
    enum { SHOWN = 8 };
    size_t used = strlen(loader->known);
    if (loader->n_known < SHOWN)
        snprintf(loader->known + used, sizeof loader->known - used, "%s%.64s",
                 loader->n_known > 0 ? ", " : "", name);
    else if (loader->n_known == SHOWN)
        snprintf(loader->known + used, sizeof loader->known - used, ", ...");
    loader->n_known++;
}
