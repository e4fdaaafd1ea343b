/* Random numbers made on the device: the same for the same seed and place, whatever the device. */
#ifndef EXEC_CUDA_RANDOM_H
#define EXEC_CUDA_RANDOM_H

#include "exec/cuda/check.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Fills OUT, bf16, with normal deviates of the given standard deviation. */
Status random_fill(void *out, size_t count, float deviation, uint64_t seed, cudaStream_t stream);
/* Adds to each bf16 row of COLUMNS the same row of normal deviates. */
Status random_shift_rows(void *rows, uint32_t n_rows, uint32_t columns, float deviation,
                         uint64_t seed, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
