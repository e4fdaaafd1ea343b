#include "exec/cpu/blas_threads.h"

#include <stddef.h>

/* Only a build with POSIX threads has it; what it calls itself before a fork. */
extern int blas_thread_shutdown_(void) __attribute__((weak));

void blas_threads_end(void)
{
    if (blas_thread_shutdown_ != NULL)
        blas_thread_shutdown_();
}
