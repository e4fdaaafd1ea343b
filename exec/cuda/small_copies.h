/* Copies of few bytes over the link by kernels, which begin sooner than a copy engine does.
 *
 * Host memory is pinned, so that kernels read and write it where it lies. */
#ifndef EXEC_CUDA_SMALL_COPIES_H
#define EXEC_CUDA_SMALL_COPIES_H

#include <stddef.h>
#include <stdint.h>

#include "exec/cuda/check.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What one launch takes. */
enum { MOST_TELLS = 6, MOST_TOGETHER = 96 };

/* Device to host. FROM and TO are aligned to 2 bytes, BYTES is a multiple of 2. */
typedef struct {
    const void *from;
    void *to;
    size_t bytes;
} Tell;

/* Copies TELLS[n], and then writes NUMBER to *TOLD in host memory: whoever reads it there finds
 * them, and everything before them in the stream is done. */
Status tell_host(const Tell *tells, uint32_t n, uint32_t *told, uint32_t number,
                 cudaStream_t stream);

/* Host to device. */
typedef struct {
    const void *from;
    void *to;
} SmallLoad;

/* Copies LOADS[n], 1 to MOST_TOGETHER, each of BYTES, a multiple of 16, aligned to it. */
Status copy_together(const SmallLoad *loads, uint32_t n, size_t bytes, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
