/* OpenBLAS's own threads, which nobody here uses: exec/cpu calls it from threads of its own. */
#ifndef EXEC_CPU_BLAS_THREADS_H
#define EXEC_CPU_BLAS_THREADS_H

/* OpenBLAS starts a thread for every other processor when it is loaded, and each looks for work for
 * some hundredths of a second, as long as a command may take in all. Ends them; a product that
 * wants them starts them again. To be called before any other thread is there. */
void blas_threads_end(void);

#endif
