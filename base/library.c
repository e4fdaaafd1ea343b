#include "base/library.h"

#include <dlfcn.h>

Status library_load(const Library *library, void **loaded)
{
    *loaded = NULL;
    /* Once there it stays: cuBLAS's kernels are registered anew each time that it is loaded. */
    for (size_t i = 0; *loaded == NULL && i < library->n_paths; i++)
        *loaded = dlopen(library->paths[i], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    return *loaded != NULL ? OK : fail(ERR_UNSUPPORTED, "%s", library->absent);
}

Status library_find(const Library *library, void *loaded, const LibraryFunction *functions,
                    size_t n)
{
    for (size_t i = 0; i < n; i++) {
        void *function = dlsym(loaded, functions[i].name);
        if (function == NULL)
            return fail(ERR_UNSUPPORTED, "%s has no %s", library->lacks, functions[i].name);
        *(void **)functions[i].pointer = function;
    }
    return OK;
}
