#include "exec/backend.h"

#include <string.h>

static const Backend *const BACKENDS[] = {
    &BACKEND_CPU,
#ifdef HAVE_CUDA
    &BACKEND_CUDA,
#endif
};

Status backend_find(const char *name, const Backend **backend)
{
    char known[128] = "";
    for (size_t i = 0; i < sizeof BACKENDS / sizeof BACKENDS[0]; i++) {
        if (strcmp(BACKENDS[i]->name, name) == 0) {
            *backend = BACKENDS[i];
            return OK;
        }
        strncat(known, i > 0 ? ", " : "", sizeof known - strlen(known) - 1);
        strncat(known, BACKENDS[i]->name, sizeof known - strlen(known) - 1);
    }
    return fail(ERR_UNSUPPORTED, "device %s: this build has: %s", name, known);
}

Status backend_enter_moe(const Backend *backend, Device *device, const MoeEntry *entry)
{
    const Router *router = entry->router;
    uint32_t experts = router->matrix.rows;
    if (entry->norm != NULL)
        TRY(backend->norm(device, entry->norm, entry->in, NULL, entry->tokens,
                          router->matrix.columns, entry->normed));
    TRY(backend->route(device, router, entry->normed, entry->tokens, entry->forced,
                       entry->forced_weights, &entry->routing));
    if (entry->capacity > 0)
        TRY(backend->limit(device, entry->capacity, entry->tokens, router->top_k, experts,
                           entry->normalise_kept, &entry->routing));
    return backend->group(device, entry->routing.experts, entry->tokens, router->top_k, experts,
                          &entry->groups);
}
