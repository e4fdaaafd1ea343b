#include "exec/cpu/blas.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>

#include "base/library.h"

static const char *const LIBRARIES[] = {"libopenblas.so.0", "libopenblas.so"};
static const Library OPENBLAS = {
    .name = "cpu: OpenBLAS", .paths = LIBRARIES, .n_paths = sizeof LIBRARIES / sizeof *LIBRARIES};

static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;
static Blas loaded; /* SGEMM is NULL: not yet */

/* Only a build with POSIX threads has it; what it calls itself before a fork. */
static void end_threads(void *library)
{
    int (*shutdown)(void);
    *(void **)&shutdown = dlsym(library, "blas_thread_shutdown_");
    if (shutdown != NULL)
        shutdown();
}

static Status load(void)
{
    void *library;
    Blas found;
    const LibraryFunction functions[] = {{"openblas_get_config", &found.get_config},
                                         {"openblas_get_parallel", &found.get_parallel},
                                         {"openblas_set_num_threads", &found.set_num_threads},
                                         {"cblas_sgemm", &found.sgemm}};
    TRY(library_load(&OPENBLAS, &library));
    Status status =
        library_find(&OPENBLAS, library, functions, sizeof functions / sizeof *functions);
    if (status == OK) {
        found.set_num_threads(1); /* first: it begins those again that were ended */
        end_threads(library);
        loaded = found;
    }
    return status;
}

Status blas_load(void)
{
    pthread_mutex_lock(&loading);
    Status status = loaded.sgemm == NULL ? load() : OK;
    pthread_mutex_unlock(&loading);
    return status;
}

const Blas *blas(void)
{
    return &loaded;
}
