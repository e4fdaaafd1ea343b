/* Host memory that the GPU copies from and to at the link's full rate: pages that stay where they
 * are. */
#ifndef EXEC_CUDA_PINNED_H
#define EXEC_CUDA_PINNED_H

#include "base/threads.h"
#include "exec/cuda/check.h"

#include <stdbool.h>

typedef struct {
    void *memory;
    bool registered; /* memory of our own, which CUDA was told of; else CUDA's */
} Pinned;

/* BYTES, zeroed. The threads of POOL touch the pages, huge ones where the system has them, before
 * CUDA is told of them: 17 to 26 GB/s on 16 processors beside an H200, and 5.5 GB/s of memory that
 * its virtual machine had never used, where cudaHostAlloc(), which does it all on one, gave 1.4
 * GB/s. Copies are as fast from either (54 GB/s). Memory that cannot be registered is taken by
 * cudaHostAlloc(). Fails with ERR_MEMORY, which names WHAT. */
Status pinned_take(ThreadPool *pool, size_t bytes, const char *what, Pinned *pinned);
/* Accepts one that was never taken. */
void pinned_free(Pinned *pinned);

#endif
