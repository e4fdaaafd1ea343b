/* Made-up weights, made where they are wanted. */
#ifndef EXEC_CUDA_SYNTHETIC_H
#define EXEC_CUDA_SYNTHETIC_H

#include <stdbool.h>

#include "exec/cuda/check.h"
#include "exec/synthetic.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Elements first + r * row_step + c * column_step of TENSOR. */
typedef struct {
    Synthetic tensor;
    uint64_t first;
    uint64_t row_step;
    uint64_t column_step;
    uint32_t rows;
    uint32_t columns;
} SyntheticPart;

/* Queues making TO [rows][columns], bf16 or f32, of the values that the host would compute. */
Status synthetic_store(const SyntheticPart *part, bool bf16, void *to, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
