/* Products of few rows with a dense bf16 matrix: one pass over the weights, which are on their way
 * before the kernels ahead in the queue have ended. */
#ifndef EXEC_CUDA_FEW_ROWS_H
#define EXEC_CUDA_FEW_ROWS_H

#include "exec/cuda/ops.h"

enum { FEW_ROWS = 8 };

/* out[rows][n] = in[rows][k] * weight[n][k]^T + bias, added to OUT when ADD; with NORM (of kind
 * NORM_RMS) the rows of IN are normed first. IN is rounded to bf16, sums are f32 in a fixed order.
 * Several rows are read from ROUNDED, where they are normed and rounded already. */
typedef struct {
    const float *in;
    const Norm *norm; /* NULL: none */
    const Matrix *weight;
    uint32_t rows; /* up to FEW_ROWS */
    bool add;
    float *out;
    const void *rounded; /* bf16, of several rows; else NULL */
} FewRows;

#ifdef __cplusplus
extern "C" {
#endif

/* Into how many parts the depth is best cut: a cluster of SPLITS blocks shares it. False when this
 * kernel cannot run PRODUCT, or cuBLAS is faster. */
bool few_rows_fit(const OpsQueue *queue, const FewRows *product, uint32_t *splits);
Status few_rows_run(const OpsQueue *queue, const FewRows *product, uint32_t splits);

#ifdef __cplusplus
}
#endif

#endif
