/* OpenBLAS, which is loaded when something is to be computed with it: to bind it, and the threads
 * that it begins and nobody wants, take as long as many a simulation. */
#ifndef EXEC_CPU_BLAS_H
#define EXEC_CPU_BLAS_H

#include <cblas.h>

#include "base/status.h"

typedef struct {
    __typeof__(&cblas_sgemm) sgemm;
    __typeof__(&openblas_get_config) get_config;
    __typeof__(&openblas_get_parallel) get_parallel;
    __typeof__(&openblas_set_num_threads) set_num_threads;
} Blas;

/* Loads it, unless it is there; a product is then computed by the thread that asks for it, alone.
 * Fails with ERR_UNSUPPORTED. Thread-safe. */
Status blas_load(void);
/* Its functions, after blas_load(). */
const Blas *blas(void);

#endif
