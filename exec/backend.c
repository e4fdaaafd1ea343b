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
