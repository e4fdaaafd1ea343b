/* Libraries that are loaded when they are needed rather than with the program. */
#ifndef BASE_LIBRARY_H
#define BASE_LIBRARY_H

#include <stddef.h>

#include "base/status.h"

typedef struct {
    const char *name;         /* who needs it, and which: "cuda: cuBLAS"; errors begin with it */
    const char *const *paths; /* [n_paths], tried in turn; the first is what errors ask for */
    size_t n_paths;
} Library;

typedef struct {
    const char *name;
    void *pointer; /* to the function pointer that is set */
} LibraryFunction;

/* Loads the first of the paths that can be into *LOADED, for dlclose(); its code stays with the
 * program. Fails with ERR_UNSUPPORTED and *LOADED NULL when there is none, and says of one that is
 * there what the loader has against it. */
Status library_load(const Library *library, void **loaded);
/* Finds FUNCTIONS[n]. Fails with ERR_UNSUPPORTED when the library lacks one. */
Status library_find(const Library *library, void *loaded, const LibraryFunction *functions,
                    size_t n);

#endif
