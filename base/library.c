#include "base/library.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Whether the loader's message WHY says that PATH itself is not there: of a library that PATH needs
 * it begins with that one's name. */
static bool says_absent(const char *why, const char *path)
{
    return strncmp(why, path, strlen(path)) == 0 && strstr(why, strerror(ENOENT)) != NULL;
}

Status library_load(const Library *library, void **loaded)
{
    char damage[512] = "";
    *loaded = NULL;
    for (size_t i = 0; *loaded == NULL && i < library->n_paths; i++) {
        /* Once there it stays: cuBLAS's kernels are registered anew each time that it is loaded. */
        *loaded = dlopen(library->paths[i], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        const char *why = *loaded == NULL ? dlerror() : NULL;
        if (why != NULL && damage[0] == '\0' && !says_absent(why, library->paths[i]))
            snprintf(damage, sizeof damage, "%s", why);
    }
    if (*loaded != NULL)
        return OK;
    return damage[0] != '\0' ? fail(ERR_UNSUPPORTED, "%s: %s", library->name, damage)
                             : fail(ERR_UNSUPPORTED, "%s (%s) is not installed", library->name,
                                    library->paths[0]);
}

Status library_find(const Library *library, void *loaded, const LibraryFunction *functions,
                    size_t n)
{
    for (size_t i = 0; i < n; i++) {
        void *function = dlsym(loaded, functions[i].name);
        if (function == NULL)
            return fail(ERR_UNSUPPORTED, "%s has no %s", library->name, functions[i].name);
        *(void **)functions[i].pointer = function;
    }
    return OK;
}
